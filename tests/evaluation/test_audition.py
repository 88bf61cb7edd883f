"""Scores against counts made by hand, conditions against what they claim, and the card."""

from __future__ import annotations

import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.hrir import spherical_head
from dualspec.evaluation.audition import CONDITIONS, _render, add_noise, audition, card, judge, score
from dualspec.hearing.cues import interaural_cues
from dualspec.hearing.localizer import Localizer, LocalizerConfig

RATE = 16_000
LATERAL = torch.tensor([1, 2, 3, 4, 5, 7, 8, 9, 10, 11])


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Localizer(
            LocalizerConfig(branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8), time_stride=2)
        ).eval()


def recording(num: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(num, 16_000, generator=torch.Generator().manual_seed(1))


def test_scores_are_those_counted_by_hand() -> None:
    wanted = torch.tensor([0.0, 30.0, 60.0, 90.0, 270.0])
    found = torch.tensor([0.0, 150.0, 90.0, 90.0, 0.0])  # right, mirrored, 30 off, right, 90 off
    row = score(found, torch.full((5,), 0.5), wanted, head="h", role="training", condition="clean")
    assert row.num_clips == 5 and row.azimuth_accuracy == pytest.approx(2 / 5)
    assert row.azimuth_mae_deg == pytest.approx((0 + 120 + 30 + 0 + 90) / 5)
    assert row.front_back_rate == pytest.approx(1 / 3)  # 0, 30 and 60 are off the ears' axis
    assert row.side_accuracy == pytest.approx(4 / 5)
    assert row.folded_within_30 == pytest.approx(4 / 5)
    assert row.mean_confidence == 0.5
    assert row.confusion[1][5] == row.confusion[9][0] == 1 and sum(map(sum, row.confusion)) == 5
    sides = score(wanted[3:], wanted[3:], wanted[3:], head="h", role="training", condition="clean")
    assert sides.front_back_rate is None and "| 0.00 | – | 100.00 |" in card([sides], {})
    with pytest.raises(ValueError, match="audible in both ears, got none"):
        score(found[:0], found[:0], wanted[:0], head="h", role="training", condition="clean")


def test_conditions_do_what_they_say() -> None:
    head, generator = spherical_head(), torch.Generator().manual_seed(0)
    clean, unrelated, undelayed, opus = (
        _render(recording(), head, name, RATE, generator)[LATERAL]
        for name in ("clean", "ears unrelated", "no delay", "opus 32 kbit/s")
    )
    true, lost, still, coded = (interaural_cues(clips, RATE) for clips in (clean, unrelated, undelayed, opus))
    assert (true.coherence > 0.9).all() and (lost.coherence < 0.4).all() and (still.itd_us.abs() < 10).all()
    for other in (lost, still):  # within what is cut off at the clips' ends
        assert torch.allclose(other.ild_db, true.ild_db, atol=0.2)
    assert torch.allclose(coded.itd_us, true.itd_us, atol=120)
    added = add_noise(clean, 10.0, generator) - clean
    assert torch.allclose(clean.square().mean((1, 2)) / added.square().mean((1, 2)), torch.tensor(10.0), rtol=0.05)


def test_an_audition_has_a_row_for_every_head_and_condition(localizer: Localizer) -> None:
    clips = torch.cat([recording(2), torch.zeros(1, 16_000)])[:, :4_000]  # silence is left out, not guessed
    heads = [("training", spherical_head()), ("held out", spherical_head(head_radius_m=0.1))]
    rows = list(audition(localizer, clips, RATE, heads, collections=["a", "b", "b"]))
    assert [row.condition for row in rows] == ["clean", "clean, a", "clean, b", *CONDITIONS[1:], "clean"]
    assert [row.num_clips for row in rows[:3]] == [24, 12, 12]
    again = list(audition(localizer, clips, RATE, heads, collections=["a", "b", "b"]))
    assert rows == again
    text = card(rows, {"localizer": "tiny"})
    assert text.startswith("- localizer: tiny\n\n| head | it is |") and text.count("| held out |") == 1
    assert len([line for line in text.splitlines() if line.startswith("| spherical_head")]) == len(rows)
    assert text.count("| 330 |") == 2 * 1 + 2 * 1  # heading and last line of both confusion matrices


def test_the_judge_tells_who_was_heard(localizer: Localizer) -> None:
    clips = _render(recording(), spherical_head(), "clean", RATE, torch.Generator())
    clips[3, 0] = 0
    angle, confidence, heard = judge(localizer, clips, RATE)
    assert heard.tolist() == [index != 3 for index in range(12)] and angle.shape == confidence.shape == (11,)
    assert set(angle.tolist()) <= set(sector_grid_deg())
    assert judge(localizer, torch.zeros(2, 2, 8000), RATE)[0].shape == (0,)

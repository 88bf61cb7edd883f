"""Proof of direction: targets against true renderings and closed forms, the judge against listeners of known answer."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dualspec.audio.binaural import render
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head
from dualspec.audio.waveform import read_waveform
from dualspec.config import load_json, save_json
from dualspec.files import sha256_of
from dualspec.hearing.cues import cue_errors, interaural_cues, target_cues
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.hearing.proof import (
    NO_ANSWER,
    DirectionJudge,
    HeadCues,
    front_back_confused,
    measure_head,
    placement_scores,
)

RATE = 16_000
SMALL = LocalizerConfig(branch_channels=(2, 2, 2), fused_channels=2, hidden_features=(4, 4))
STEP_HEAD = HeadCues(
    name="step",
    licence="",
    sha256=None,
    azimuths_deg=(0.0, 90.0, 270.0),
    itd_us=(0.0, -600.0, 600.0),
    coherence=(1.0, 0.9, 0.9),
    edges_hz=(100.0, 1000.0, 8000.0),
    ild_db=((0.0, 0.0), (2.0, 12.0), (-2.0, -12.0)),
)


def noise(seed: int, *shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coloured(seed: int, slope: float, num_samples: int = 16_000) -> Tensor:
    """Noise whose power falls (or rises) as frequency to the power `slope`."""
    spectrum = torch.fft.rfft(noise(seed, num_samples))
    frequency = torch.fft.rfftfreq(num_samples, 1 / RATE, dtype=torch.float64).clamp(min=50.0)
    sound = torch.fft.irfft(spectrum * frequency ** (slope / 2), n=num_samples)
    return 0.1 * sound / sound.square().mean().sqrt()


def tone(frequency_hz: float) -> Tensor:
    time = torch.arange(8000, dtype=torch.float64) / RATE
    return 0.1 * torch.hann_window(8000, dtype=torch.float64) * torch.sin(2 * math.pi * frequency_hz * time)


def listener(*sectors: int) -> Localizer:
    """A localizer that hears every clip in these sectors, with equal shares."""
    torch.manual_seed(0)
    localizer = Localizer(SMALL).eval().requires_grad_(False)
    localizer.classifier[-1].weight.zero_()
    localizer.classifier[-1].bias.fill_(-30.0)
    localizer.classifier[-1].bias[list(sectors)] = 0.0
    return localizer


def judge(*sectors: int, target: HeadCues = STEP_HEAD) -> DirectionJudge:
    return DirectionJudge(localizer=listener(*sectors), facts={"name": "stub", "sha256": "0"}, target=target)


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_level_target_follows_the_clips_own_spectrum() -> None:
    """A low tone has the low band's level difference, a high tone the high band's, both together the sum's."""
    low, high = tone(400.0), tone(4000.0)
    clips = torch.stack([low, high, low + high])[:, None].expand(-1, 2, -1)
    cues = STEP_HEAD.targets(clips, RATE, [90.0, 90.0, 270.0])
    left = 1 / (1 + 10**0.2) + 1 / (1 + 10**1.2)
    assert cues.ild_db.tolist() == pytest.approx([2.0, 12.0, 10 * math.log10(left / (2 - left))], abs=1e-3)
    assert cues.itd_us.tolist() == [-600.0, -600.0, 600.0] and cues.coherence.tolist() == [0.9, 0.9, 0.9]


def test_targets_between_stored_directions_are_interpolated_around_the_circle() -> None:
    clips = tone(400.0).expand(3, 2, -1)
    cues = STEP_HEAD.targets(clips, RATE, [45.0, 180.0, 315.0])
    assert cues.itd_us.tolist() == pytest.approx([-300.0, 0.0, 300.0])
    assert cues.ild_db.tolist() == pytest.approx([1.0, 0.0, -1.0], abs=1e-3)


@pytest.mark.parametrize("slope", [-2.0, -1.0, 0.0, 1.0])
def test_true_renderings_meet_their_target_whatever_their_colour(slope: float) -> None:
    head, azimuths = spherical_head(), [0.0, 30.0, 90.0, 210.0, 300.0]
    ears = render(coloured(1, slope).expand(5, -1), head.at(azimuths))
    errors = cue_errors(measure_head(head).targets(ears, RATE, azimuths), interaural_cues(ears, RATE))
    assert float(errors.ild_error_db.max()) < 0.4
    assert float(errors.itd_error_us.max()) < 25.0
    assert float(errors.coherence_error.max()) < 0.05


def test_real_recordings_meet_the_target_of_a_measured_head_and_not_that_of_white_noise(shared_data: Path) -> None:
    head, azimuths = load_sofa(shared_data / "hrir" / "fabian.sofa"), [30.0, 90.0, 240.0]
    cues, flat = measure_head(head), target_cues(head, azimuths)
    own_error, flat_error = [], []
    for path in sorted((shared_data / "esc50" / "audio").glob("4-*.opus"))[::80]:
        sound, _ = read_waveform(path, sample_rate=RATE)
        ears = render(sound[:1, :40_000].double().expand(3, -1), head.at(azimuths))
        heard = interaural_cues(ears, RATE, allow_silent=True)
        own_error.append(cue_errors(cues.targets(ears, RATE, azimuths), heard).ild_error_db)
        flat_error.append(cue_errors(flat, heard).ild_error_db)
    assert float(torch.stack(own_error).nanmedian()) < 0.3
    assert float(torch.stack(flat_error).nanmedian()) > 2.0


def test_the_stored_heads_are_those_that_they_name(shared_data: Path) -> None:
    bundles = Path(str(resources.files("dualspec") / "bundles"))
    fabian = shared_data / "hrir" / "fabian.sofa"
    _same(load_json(HeadCues, bundles / "default" / "head.json"), load_sofa(fabian), sha256_of(fabian))


def test_the_stored_sphere_is_the_computed_one(tmp_path: Path) -> None:
    stored = load_json(HeadCues, Path(str(resources.files("dualspec") / "bundles" / "sphere.json")))
    _same(stored, spherical_head(), None)
    save_json(stored, tmp_path / "again.json")
    assert load_json(HeadCues, tmp_path / "again.json") == stored


def _same(stored: HeadCues, hrir_set: HrirSet, sha256: str | None) -> None:
    measured = measure_head(hrir_set, sha256=sha256)
    assert (stored.name, stored.sha256, stored.azimuths_deg) == (measured.name, sha256, measured.azimuths_deg)
    assert stored.itd_us == pytest.approx(measured.itd_us, abs=0.05)
    assert stored.coherence == pytest.approx(measured.coherence, abs=1e-3)
    torch.testing.assert_close(torch.tensor(stored.ild_db), torch.tensor(measured.ild_db), atol=0.01, rtol=0)


def test_tables_that_do_not_fit_are_refused() -> None:
    facts = {name: getattr(STEP_HEAD, name) for name in STEP_HEAD.__dataclass_fields__}
    with pytest.raises(ValueError, match="one row per direction"):
        HeadCues(**facts | {"itd_us": (0.0,)})
    with pytest.raises(ValueError, match="ild_db must have 2 bands"):
        HeadCues(**facts | {"ild_db": ((0.0,),) * 3})
    with pytest.raises(ValueError, match="azimuths_deg must ascend"):
        HeadCues(**facts | {"azimuths_deg": (0.0, 270.0, 90.0)})


# --- the judge ----------------------------------------------------------------------------------------------------


def test_a_clip_is_held_against_what_was_asked() -> None:
    source = noise(2, 16_000)
    ears = torch.stack([source, 0.5 * source])
    block = judge(3).hear(ears, RATE, 60.0)
    assert block["asked_deg"] == 60.0 and block["heard_deg"] == 90.0 and block["error_deg"] == 30.0
    assert block["confidence"] == 1.0 and block["expectation_deg"] == 90.0 and block["no_answer"] is None
    assert block["front_back_confused"] is False
    assert block["ild_db"] == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert block["itd_us"] == pytest.approx(0.0, abs=1e-2) and block["coherence"] == pytest.approx(1.0, abs=1e-3)
    assert block["itd_error_us"] == pytest.approx(400.0, abs=0.1), "two thirds of the way to 90 degrees"
    assert block["coherence_error"] == pytest.approx(1 / 15, abs=1e-3)
    target = STEP_HEAD.targets(ears[None], RATE, [60.0]).ild_db
    assert block["ild_error_db"] == pytest.approx(abs(float(target) - 20 * math.log10(2)), abs=1e-3)
    assert block["localizer"] == {"name": "stub", "sha256": "0"}
    assert block["target"] == {"name": "step", "sha256": None}
    assert json.loads(json.dumps(block, allow_nan=False)) == block


def test_what_was_not_asked_or_cannot_be_heard_is_absent() -> None:
    plain = judge(3).hear(noise(3, 2, 8000), RATE)
    assert plain["heard_deg"] == 90.0 and plain["error_deg"] is plain["itd_error_us"] is plain["asked_deg"] is None
    beep = judge(3).hear(tone(4000.0).expand(2, -1), RATE, 90.0)
    assert beep["itd_us"] is beep["itd_error_us"] is None and beep["ild_db"] == pytest.approx(0.0, abs=1e-6)
    for silent in (torch.zeros(2, 8000), noise(4, 2, 8000) * torch.tensor([[1.0], [0.0]])):
        block = judge(3).hear(silent, RATE, 90.0)
        assert block.keys() == plain.keys() and block["no_answer"] == NO_ANSWER and block["asked_deg"] == 90.0
        known = {"asked_deg", "no_answer", "localizer", "target"}
        assert all(value is None for name, value in block.items() if name not in known)


def test_other_rates_are_resampled() -> None:
    source = torch.nn.functional.pad(noise(5, 1, 44_100), (100, 100))
    ears = torch.cat([source, source.roll(20)])
    assert judge(0).hear(ears, 44_100)["itd_us"] == pytest.approx(-20 / 44_100 * 1e6, abs=1.0)


@pytest.mark.parametrize(
    ("asked", "heard", "confused"),
    [(30, 150, True), (150, 30, True), (0, 180, True), (180, 300, True), (60, 240, True), (330, 210, True),
     (30, 60, False), (60, 90, False), (150, 270, False), (30, 330, False), (90, 180, None), (270, 0, None)],
)  # fmt: skip
def test_front_and_back_are_confused_across_the_axis_of_the_ears(
    asked: float, heard: float, confused: bool | None
) -> None:
    assert front_back_confused(asked, heard) is confused
    if confused is not None:
        front = [math.cos(math.radians(angle)) for angle in (asked, heard)]
        assert (front[0] * front[1] < -1e-9) is confused


def test_the_placement_score_is_the_mean_cosine() -> None:
    clips = torch.stack([noise(6, 2, 8000), torch.zeros(2, 8000), noise(7, 2, 8000)])
    assert placement_scores(listener(3), clips, RATE, [90.0, 90.0, 270.0]) == pytest.approx([1.0, None, -1.0])
    assert placement_scores(listener(0, 2), clips[:1], RATE, [0.0]) == pytest.approx([0.75])
    assert placement_scores(listener(*range(12)), clips[:1], RATE, [45.0]) == pytest.approx([0.0], abs=1e-6)
    assert placement_scores(listener(3), torch.zeros(1, 2, 8000), RATE, [90.0]) == [None]

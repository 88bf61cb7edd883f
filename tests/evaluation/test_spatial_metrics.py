import math

import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.evaluation.spatial_metrics import (
    confusion_matrix,
    cue_error_medians,
    evaluate,
    folded_error_deg,
    front_back_rate,
)
from dualspec.hearing.cues import interaural_cues
from dualspec.hearing.localizer import result_of


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_folded_error_by_hand_and_by_the_lateral_angle():
    assert folded_error_deg(degrees(30, 30, 0, 90, 350), degrees(150, 60, 180, 270, 10)).tolist() == [0, 30, 0, 180, 20]
    reference, estimate = degrees(*range(0, 360, 7)), degrees(*range(360, 0, -7))
    lateral = [torch.rad2deg(torch.asin(torch.sin(torch.deg2rad(angle)))) for angle in (reference, estimate)]
    assert torch.allclose(folded_error_deg(reference, estimate), (lateral[0] - lateral[1]).abs(), atol=1e-6)


def test_confusion_matrix_counts_by_reference_and_estimate():
    counts = confusion_matrix(degrees(0, 0, 330, 90), degrees(0, 180, 359, 90.0))
    assert counts.shape == (12, 12) and int(counts.sum()) == 4
    assert [int(counts[row, column]) for row, column in ((0, 0), (0, 6), (11, 0), (3, 3))] == [1, 1, 1, 1]
    grid = degrees(*sector_grid_deg())
    assert torch.equal(confusion_matrix(grid, grid), torch.eye(12, dtype=torch.int64))


def test_what_lies_between_the_sectors_belongs_to_the_nearest():
    """A localizer answers with centres of sectors: asked for 40 degrees, 30 is right, and 10 degrees off."""
    result = evaluate(degrees(40, 350), degrees(30, 330), degrees(40, 350))
    assert result["azimuth_accuracy"] == 0.5 and result["azimuth_mae_deg"] == 15 and result["expectation_mae_deg"] == 0


def test_what_is_heard_in_the_nearest_sector_is_never_called_wrong():
    """Each direction of 72, heard by a localizer of 12 sectors as well as it can: a border belongs to both."""
    asked = degrees(*sector_grid_deg(72))
    for heard in (30 * ((asked + 14.9) // 30) % 360, 30 * ((asked + 15) // 30) % 360, asked):
        assert evaluate(asked, heard, heard)["azimuth_accuracy"] == 1.0
        counts = confusion_matrix(asked, heard)
        assert int(counts.sum()) == int(counts.diagonal().sum()) == 72
    neighbour = (30 * ((asked + 15) // 30) + 30) % 360
    assert evaluate(asked, neighbour, neighbour)["azimuth_accuracy"] == 0.0
    assert evaluate(degrees(20), degrees(10), degrees(10))["azimuth_accuracy"] == 1.0, "a judge that hears to 10"


def test_evaluate_by_hand():
    """One right, one to the neighbour, one mirrored; the expectation of an even split of 0 and 30 is 15."""
    logits = torch.full((3, 12), -100.0)
    for row, (sector, share) in enumerate([(0, 0.5), (3, 1.0), (5, 1.0)]):
        logits[row, sector] = math.log(share)
    logits[0, 1] = math.log(0.5 - 1e-9)
    heard = result_of(logits)
    result = evaluate(degrees(0, 60, 30), heard.azimuth_deg, heard.expectation_deg)
    assert result == pytest.approx(
        {
            "azimuth_accuracy": 1 / 3,
            "azimuth_mae_deg": (0 + 30 + 120) / 3,
            "expectation_mae_deg": (15 + 30 + 120) / 3,
            "folded_mae_deg": (0 + 30 + 0) / 3,
            "front_back_rate": 1 / 3,
        },
        abs=1e-4,
    )


def test_a_rate_that_no_clip_can_have_is_absent():
    sides = degrees(90, 270)
    assert math.isnan(front_back_rate(sides, sides))
    ideal = evaluate(sides, sides, sides)
    assert "front_back_rate" not in ideal and ideal["azimuth_accuracy"] == 1.0 and ideal["azimuth_mae_deg"] == 0.0


def test_cue_errors_of_a_known_delay_and_gain():
    left = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = torch.stack([left, left], dim=1)
    moved = torch.stack([left, torch.roll(left, 4, -1) / 2], dim=1)
    errors = cue_error_medians(interaural_cues(both, 16_000), interaural_cues(moved, 16_000))
    assert errors["itd_error_us"] == pytest.approx(250, abs=5)
    assert errors["ild_error_db"] == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert errors["coherence_error"] < 0.01
    silent = interaural_cues(0 * both, 16_000, allow_silent=True)
    assert cue_error_medians(silent, silent) == {}


def test_directions_that_cannot_be_compared_are_refused():
    for reference, estimate in ((degrees(), degrees()), (degrees(1, 2), degrees(1))):
        with pytest.raises(ValueError, match="two lists of one length of 1 or more"):
            evaluate(reference, estimate, estimate)
    with pytest.raises(ValueError, match="directions must be finite"):
        folded_error_deg(degrees(0), degrees(math.nan))

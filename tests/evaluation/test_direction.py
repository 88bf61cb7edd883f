import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import spherical_head
from dualspec.evaluation.spatial_metrics import azimuth_accuracy, azimuth_mae_deg, front_back_rate, on_correct_side
from dualspec.hearing.cues import interaural_cues


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_accuracy_and_error_by_hand():
    reference, estimate = degrees(0, 330, 90, 180), degrees(0, 0, 270, 150)
    assert azimuth_accuracy(reference, estimate) == 0.25
    assert azimuth_mae_deg(reference, estimate) == (0 + 30 + 180 + 30) / 4
    assert azimuth_mae_deg(reference, estimate) == azimuth_mae_deg(estimate, reference)


def test_front_back_rate_counts_mirrors_off_the_interaural_axis():
    """90 and 270 are their own mirror image and do not count."""
    assert front_back_rate(degrees(30, 30, 0, 90), degrees(150, 30, 180, 90)) == pytest.approx(2 / 3)
    assert front_back_rate(degrees(30, 60), degrees(60, 30)) == 0.0


@pytest.fixture(scope="module")
def rendered():
    """The 12 azimuths of the analytic head, two noise clips each."""
    head = spherical_head()
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64).repeat(2)
    mono = torch.randn(24, 16_000, generator=torch.Generator().manual_seed(0))
    return head, azimuths, normalize_peak(render(mono, head.at(azimuths)), 0.5)


def test_true_renders_are_on_the_correct_side_and_swapped_ears_are_not(rendered):
    _, azimuths, waveform = rendered
    cues = interaural_cues(waveform, 16_000)
    side = on_correct_side(azimuths, cues)
    assert int(side.isnan().sum()) == 4  # 0 and 180, twice
    assert float(side.nanmean()) == 1.0
    assert float(on_correct_side(azimuths, interaural_cues(waveform.flip(1), 16_000)).nanmean()) == 0.0


def test_louder_but_later_is_not_correct(rendered):
    """Level of the right side, delay of the wrong one: a level-panned sound must not pass."""
    _, azimuths, waveform = rendered
    left = waveform[3:4].clone()  # 90 degrees
    late = torch.stack([torch.roll(left[:, 0], 40, -1), left[:, 1]], dim=1)
    assert float(on_correct_side(azimuths[3:4], interaural_cues(late, 16_000))) == 0.0

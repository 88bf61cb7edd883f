"""Moving sound: a still path is the still renderer, a moving one has the cues of wherever it is, without clicks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.binaural import spatialize
from dualspec.audio.hrir import HrirSet, spherical_head
from dualspec.audio.movement import AzimuthPath, Waypoint, render_moving

RATE = 16_000


@pytest.fixture(scope="module")
def head() -> HrirSet:
    return spherical_head(num_directions=36, sample_rate=RATE)


def path(*points: tuple[float, float]) -> AzimuthPath:
    return AzimuthPath(waypoints=tuple(Waypoint(time_s=time, azimuth_deg=azimuth) for time, azimuth in points))


def noise(num_samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 50_000])
@pytest.mark.parametrize("azimuth", [0.0, 84.0, 270.0])
def test_a_path_that_stands_still_is_the_still_renderer(head, num_samples, azimuth):
    sound = noise(num_samples)
    expected = spatialize(sound, azimuth, head, method="interpolate")
    for still in (path((0, azimuth)), path((0, azimuth - 360), (1, azimuth - 360))):
        assert still.is_still
        assert render_moving(sound, still, head).shape == (2, num_samples)
        torch.testing.assert_close(render_moving(sound, still, head), expected, atol=1e-5, rtol=0)


def test_the_mirrored_path_swaps_the_ears(head):
    sound = noise(RATE)
    there, mirrored = path((0, 20), (1, 200)), path((0, -20), (1, -200))
    ears = render_moving(sound, there, head)
    torch.testing.assert_close(render_moving(sound, mirrored, head), ears.flip(0), atol=1e-5, rtol=0)


def test_a_turn_passes_every_quarter(head):
    """Each quarter of a turn has the time and level differences of the still sound in its middle."""
    num_samples = 4 * RATE
    sound = noise(num_samples)
    ears = render_moving(sound, path((0, -45), (4, 315)), head)
    for quarter, azimuth in enumerate((0.0, 90.0, 180.0, 270.0)):
        middle = slice(quarter * RATE + RATE // 2 - 800, quarter * RATE + RATE // 2 + 800)
        still = spatialize(sound, azimuth, head, method="interpolate")[:, middle]
        for found, wanted in zip(cues(ears[:, middle]), cues(still), strict=True):
            assert found == pytest.approx(
                wanted, abs=1.01
            )  # one sample of 62 us; 1 dB: the path is 9 degrees wide here


def cues(ears: torch.Tensor) -> tuple[float, float]:
    """Lag of the left ear in samples, and level left minus right in dB, computed with numpy alone."""
    left, right = ears[LEFT].double().numpy(), ears[RIGHT].double().numpy()
    lag = np.correlate(left, right, "full").argmax() - (len(right) - 1)
    return float(lag), 10 * math.log10((left**2).sum() / (right**2).sum())


def test_a_moving_sine_does_not_click(head):
    """What is not near the sine's own frequency stays 60 dB below it; hard switches of direction leave far more."""
    time = torch.arange(2 * RATE) / RATE
    sine = torch.sin(2 * math.pi * 500 * time)
    smooth = render_moving(sine, path((0, 0), (2, 360)), head)
    directions = head.at([36.0 * step for step in range(10)], method="interpolate")
    switched = torch.cat(
        [
            spatialize(sine, 36.0 * step, head, method="interpolate").chunk(10, -1)[step]
            for step in range(len(directions))
        ],
        dim=-1,
    )
    assert clicks_db(smooth) < -60 < -40 < clicks_db(switched)


def clicks_db(ears: torch.Tensor) -> float:
    """Largest level above 1 kHz in windows of 32 ms, dB re the sine's."""
    window = torch.hann_window(512, periodic=False, dtype=torch.float64).square()
    levels = torch.fft.rfft(ears[:, 512:-512].double().unfold(-1, 512, 128) * window).abs()
    return float(20 * torch.log10(levels[..., 32:].max() / levels.max()))


def test_a_path_is_a_line_through_its_waypoints():
    turn = path((1, 330), (2, 390), (4, 390))
    np.testing.assert_allclose(turn.at(np.array([0, 1, 1.5, 2, 3, 9])), [330, 330, 360, 390, 390, 390])
    assert not turn.is_still


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "waypoints must hold one or more"),
        ([(0, 0), (0, 9)], r"waypoints\[1\].time_s must be later than 0, got 0"),
        ([(0, 0), (2, 9), (1, 0)], r"waypoints\[2\].time_s must be later than 2, got 1"),
        ([(0, 0), (1, 721)], r"waypoints\[1\].azimuth_deg must be reached at 720 degrees a second or less, got 721"),
        ([(-1, 0)], "time_s must be 0 or more, got -1"),
        ([(math.nan, 0)], "time_s must be 0 or more, got nan"),
        ([(0, 3601)], "azimuth_deg must be -3600 to 3600, got 3601"),
        ([(0, math.nan)], "azimuth_deg must be -3600 to 3600, got nan"),
    ],
)
def test_what_is_no_path_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        path(*points)


def test_what_cannot_be_rendered_is_refused(head):
    with pytest.raises(ValueError, match="waveform must be mono floats"):
        render_moving(torch.zeros(2, 9), path((0, 0)), head)
    with pytest.raises(ValueError, match="at most 30 degrees apart"):
        render_moving(noise(RATE), path((0, 0), (1, 90)), spherical_head(num_directions=8))

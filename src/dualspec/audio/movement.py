"""Sound that moves: a path of azimuths over time, and head responses that follow it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dualspec.audio.azimuth import wrap_deg
from dualspec.audio.binaural import render
from dualspec.audio.hrir import HrirSet

HOP_S = 0.01
"""Time between two directions of a moving sound, seconds; in between, they are cross-faded."""
MAX_TURN_DEG = 3600.0
MAX_SPEED_DEG_S = 720.0
"""Above two turns a second neighbouring directions are so far apart that their cross-fade combs."""
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """Where a sound is at one moment."""

    time_s: Annotated[float, {"description": "Seconds from the beginning of the sound.", "minimum": 0}]
    azimuth_deg: Annotated[
        float,
        {"description": "Degrees counter-clockwise; beyond 0 to 360 they count turns."}
        | {"minimum": -MAX_TURN_DEG, "maximum": MAX_TURN_DEG},
    ]

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a number is outside its range.
        """
        if not 0.0 <= self.time_s < math.inf:
            raise ValueError(f"time_s must be 0 or more, got {self.time_s:g}; count from the beginning of the sound")
        if not abs(self.azimuth_deg) <= MAX_TURN_DEG:
            raise ValueError(
                f"azimuth_deg must be -{MAX_TURN_DEG:g} to {MAX_TURN_DEG:g}, got {self.azimuth_deg:g}; "
                "0 front, 90 left, 360 the front after a whole turn"
            )


@dataclass(frozen=True, kw_only=True)
class AzimuthPath:
    """A way around the head: straight lines of azimuth over time, held before the first and after the last way-point.

    Azimuths are taken as they stand, so that they say which way round: from 330 to 390 it is 60 degrees to the left
    through the front, from 330 to 30 it is 300 degrees to the right through the back, from 0 to 720 two turns to the
    left.
    """

    waypoints: tuple[Waypoint, ...]
    """One or more, in the order of their times."""

    def __post_init__(self) -> None:
        """Check order and speed.

        Raises:
            ValueError: there is no way-point, one does not come after the one before it, or the sound turns too fast.
        """
        if not self.waypoints:
            raise ValueError("waypoints must hold one or more, got none; say where the sound begins")
        for index, (before, after) in enumerate(zip(self.waypoints, self.waypoints[1:], strict=False), start=1):
            if after.time_s <= before.time_s:
                raise ValueError(
                    f"waypoints[{index}].time_s must be later than {before.time_s:g}, got {after.time_s:g}; sort them"
                )
            speed = abs(after.azimuth_deg - before.azimuth_deg) / (after.time_s - before.time_s)
            if speed > MAX_SPEED_DEG_S * (1 + 1e-9):
                raise ValueError(
                    f"waypoints[{index}].azimuth_deg must be reached at {MAX_SPEED_DEG_S:g} degrees a second or less, "
                    f"got {speed:g}; take more time or a shorter way"
                )

    @property
    def is_still(self) -> bool:
        """Whether the sound stays where it begins."""
        return len({point.azimuth_deg for point in self.waypoints}) == 1

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """Give the azimuth at each time.

        Args:
            times_s: (N,) seconds from the beginning of the sound.

        Returns:
            (N,) float64, degrees, unwrapped as the way-points are.
        """
        times = [point.time_s for point in self.waypoints]
        return np.interp(times_s, times, [point.azimuth_deg for point in self.waypoints])


def render_moving(waveform: Tensor, path: AzimuthPath, hrir_set: HrirSet) -> Tensor:
    """Render a mono clip along a path, by head responses that change every 10 ms.

    The clip is cut into overlapping frames whose windows sum to one; each frame goes through the responses of the
    azimuth at its middle, interpolated between the measured directions. On a path that stands still this is
    `spatialize(..., method="interpolate")`. A sample keeps the direction that it has when it leaves its source.

    Args:
        waveform: mono clip, (S,), in [-1, 1], at the set's sample rate.
        path: where the sound is, its times counted from the clip's first sample.
        hrir_set: the head; its directions must be at most 30 degrees apart along the path.

    Returns:
        Two ears, (2, S), channel 0 left; the tail beyond S is cropped.

    Raises:
        ValueError: the clip is not mono, or the set has no directions near the path.
    """
    if waveform.ndim != 1 or waveform.shape[-1] < 1 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be mono floats (S,), got {tuple(waveform.shape)}; mix it down first")
    num_samples, hop = waveform.shape[-1], round(HOP_S * hrir_set.sample_rate)
    num_frames = num_samples // hop + 2  # frame j spans the hops before and after sample j * hop
    frames = F.pad(waveform, (hop, (num_frames - 1) * hop + hop - num_samples)).unfold(0, 2 * hop, hop)
    window = torch.sin(math.pi / (2 * hop) * (torch.arange(2 * hop, dtype=torch.float64) + 0.5)).square()
    window = window.to(waveform.device, waveform.dtype)
    azimuths = torch.from_numpy(wrap_deg(path.at(np.arange(num_frames) * (hop / hrir_set.sample_rate))))
    num_hops = 2 + -(-(hrir_set.num_taps - 1) // hop)  # a frame with its tail
    ears = waveform.new_zeros(2, num_frames + num_hops - 1, hop)
    for start in range(0, num_frames, _FRAMES_AT_ONCE):
        rows = slice(start, start + _FRAMES_AT_ONCE)
        hrirs = hrir_set.at(azimuths[rows], method="interpolate").to(waveform.device)
        rendered = render(F.pad(frames[rows] * window, (0, (num_hops - 2) * hop)), hrirs)
        parts = rendered.unflatten(-1, (num_hops, hop)).transpose(0, 1)
        for part in range(num_hops):
            ears[:, start + part : start + part + parts.shape[1]] += parts[:, :, part]
    return ears.flatten(1)[:, hop : hop + num_samples]

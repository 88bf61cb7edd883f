"""Head-related impulse responses (HRIRs): the set, its directions, a SOFA file, and an analytic head."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT, circular_error_deg, wrap_deg
from dualspec.audio.sofa import MAX_SAMPLE_RATE, MAX_TAPS, MIN_SAMPLE_RATE, read_sofa

HrirMethod = Literal["nearest", "interpolate"]

SPEED_OF_SOUND_M_S = 343.0
MAX_INTERPOLATION_GAP_DEG = 30.0
MAX_CHECK_OFFSET_DEG = 30.0
ALIGNMENT_CUTOFF_HZ = 1500.0
_UPSAMPLING = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class HrirSet:
    """Impulse responses of one head for directions on the horizontal plane."""

    name: str
    """Short name of the head."""
    azimuths_deg: Tensor
    """(A,) float64, degrees in [0, 360), strictly ascending; 0 front, 90 left."""
    impulse_responses: Tensor
    """(A, 2, K) float32, channel 0 left; onset delays kept."""
    sample_rate: int
    """Hz."""
    licence: str = ""
    """Licence of the data, as its maker words it."""
    source: str = ""
    """Database, listener and maker, for credits."""

    def __post_init__(self) -> None:
        """Check shapes, order and values.

        Raises:
            ValueError: when a field breaks its rule.
        """
        azimuths, responses = self.azimuths_deg, self.impulse_responses
        if azimuths.dtype != torch.float64 or azimuths.ndim != 1 or len(azimuths) < 1:
            raise ValueError(
                f"azimuths_deg must be float64 with shape (A,), got {azimuths.dtype} {tuple(azimuths.shape)}; "
                "convert it"
            )
        inside = bool(((azimuths >= 0) & (azimuths < 360)).all()) and bool((azimuths.diff() > 0).all())
        if not inside:
            raise ValueError("azimuths_deg must be ascending in [0, 360), got others; wrap, sort and drop repeats")
        if responses.dtype != torch.float32 or responses.ndim != 3 or responses.shape[:2] != (len(azimuths), 2):
            raise ValueError(
                f"impulse_responses must be float32 with shape ({len(azimuths)}, 2, K), got {responses.dtype} "
                f"{tuple(responses.shape)}; channel 0 is the left ear"
            )
        if responses.shape[-1] < 1 or not bool(torch.isfinite(responses).all()):
            raise ValueError("impulse_responses must be finite with K > 0, got others; check where they come from")
        _check_sample_rate(self.sample_rate)

    @property
    def num_taps(self) -> int:
        """Length K of each impulse response, samples."""
        return self.impulse_responses.shape[-1]

    def nearest_index(self, azimuth_deg: float, tolerance_deg: float = 1.0) -> int:
        """Find the stored direction nearest to an azimuth.

        Args:
            azimuth_deg: wanted direction, degrees.
            tolerance_deg: largest accepted distance, degrees.

        Returns:
            Row of `azimuths_deg` and `impulse_responses`.

        Raises:
            ValueError: when no stored direction is within the tolerance.
        """
        return int(self._nearest(self._angles([azimuth_deg]), tolerance_deg)[0])

    def at(
        self,
        azimuths_deg: Tensor | Sequence[float],
        method: HrirMethod = "nearest",
        tolerance_deg: float = 1.0,
    ) -> Tensor:
        """Give the pair of responses for each direction.

        Args:
            azimuths_deg: directions, (N,), degrees.
            method: "nearest" takes the nearest stored direction; "interpolate" aligns the onsets of the two
                neighbours, blends them by distance and puts the blended onset delay back (sub-sample).
            tolerance_deg: largest accepted distance for "nearest", degrees; no effect on "interpolate", whose
                neighbours must be at most 30 degrees apart.

        Returns:
            Impulse responses, (N, 2, K) float32, channel 0 left, on the set's device.

        Raises:
            ValueError: when a direction is not finite, too far from the stored ones, or the method is unknown.
        """
        angles = self._angles(azimuths_deg)
        if method == "nearest":
            return self.impulse_responses[self._nearest(angles, tolerance_deg)]
        if method == "interpolate":
            return self._interpolate(angles)
        raise ValueError(f'method must be "nearest" or "interpolate", got {method!r}; choose one')

    def resample(self, sample_rate: int) -> HrirSet:
        """Convert the set to another sample rate, keeping onset delays and the gain of convolution.

        A sampled impulse response stands for h(t) / sample_rate, so its numbers grow when the rate falls.

        Args:
            sample_rate: wanted rate, Hz.

        Returns:
            The set at that rate (itself when it has it already).

        Raises:
            ValueError: when the rate is outside 8,000 to 384,000 Hz.
        """
        _check_sample_rate(sample_rate)
        if sample_rate == self.sample_rate:
            return self
        responses = _resample(self.impulse_responses.double().cpu().numpy(), self.sample_rate, sample_rate)
        tensor = torch.from_numpy(responses).float().to(self.impulse_responses.device)
        return replace(self, impulse_responses=tensor, sample_rate=sample_rate)

    def to(self, device: torch.device | str) -> HrirSet:
        """Move the set to a device."""
        return replace(
            self, azimuths_deg=self.azimuths_deg.to(device), impulse_responses=self.impulse_responses.to(device)
        )

    def _angles(self, azimuths_deg: Tensor | Sequence[float]) -> Tensor:
        angles = torch.as_tensor(azimuths_deg, dtype=torch.float64, device=self.azimuths_deg.device)
        if angles.ndim != 1 or not bool(torch.isfinite(angles).all()):
            raise ValueError(f"azimuths_deg must be finite with shape (N,), got {tuple(angles.shape)}; give a list")
        return wrap_deg(angles)

    def _nearest(self, angles: Tensor, tolerance_deg: float) -> Tensor:
        distances = circular_error_deg(self.azimuths_deg[None], angles[:, None])
        distance, rows = distances.min(dim=1)
        if bool((distance > tolerance_deg + 1e-6).any()):
            worst = int(distance.argmax())
            raise ValueError(
                f"azimuth_deg must be within {tolerance_deg:g} degrees of a direction of {self.name!r}, got "
                f"{float(angles[worst]):g} with the nearest at {float(self.azimuths_deg[rows[worst]]):g}; "
                'use method="interpolate" or a larger tolerance_deg'
            )
        return rows

    def _interpolate(self, angles: Tensor) -> Tensor:
        above = torch.searchsorted(self.azimuths_deg, angles, right=True) % len(self.azimuths_deg)
        below = (above - 1) % len(self.azimuths_deg)
        offset = wrap_deg(angles - self.azimuths_deg[below])
        gap = wrap_deg(self.azimuths_deg[above] - self.azimuths_deg[below])
        gap = torch.where(gap == 0, 360.0, gap)
        too_wide = (offset > 0) & (gap > MAX_INTERPOLATION_GAP_DEG + 1e-6)
        if bool(too_wide.any()):
            worst = int(too_wide.int().argmax())
            raise ValueError(
                f"azimuth_deg must lie between directions at most {MAX_INTERPOLATION_GAP_DEG:g} degrees apart, got "
                f"{float(angles[worst]):g} in a gap of {float(gap[worst]):g} in {self.name!r}; use a denser set"
            )
        first, second = self.impulse_responses[below].double(), self.impulse_responses[above].double()
        weight = (offset / gap)[:, None]
        lag = _relative_delay(first, second, self.sample_rate)
        blended = (1 - weight)[..., None] * _shift(first, weight * lag)
        blended = blended + weight[..., None] * _shift(second, (weight - 1) * lag)
        return torch.where((offset > 0)[:, None, None], blended, first).float()


def load_sofa(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = 16000,
    elevation_tolerance_deg: float = 0.5,
    isolate: bool = True,
) -> HrirSet:
    """Read the horizontal plane of a SimpleFreeFieldHRIR SOFA file.

    Args:
        path: the SOFA file.
        sample_rate: rate of the returned set, Hz; None keeps the file's.
        elevation_tolerance_deg: largest |elevation| that counts as the horizontal plane, degrees.
        isolate: parse in a child process with limited memory and time (about 0.3 s); False parses in this one.

    Returns:
        The set, named after the file, delays of Data.Delay applied, checked with `check_convention`.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: the file is damaged, of another convention, beyond a limit, or has its ears swapped.
        OSError: the file cannot be opened.

    Paper section V-B.
    """
    content = read_sofa(path, elevation_tolerance_deg=elevation_tolerance_deg, isolate=isolate)
    responses = _apply_delays(content.impulse_responses, content.delays)
    if sample_rate is not None and sample_rate != content.sample_rate:
        _check_sample_rate(sample_rate)
        responses = _resample(responses, content.sample_rate, sample_rate)
    texts = content.attributes
    credits = [
        texts[key] for key in ("DatabaseName", "ListenerShortName", "Organization", "References") if key in texts
    ]
    hrir_set = HrirSet(
        name=Path(path).stem,
        azimuths_deg=torch.from_numpy(content.azimuths_deg),
        impulse_responses=torch.from_numpy(responses).float(),
        sample_rate=sample_rate or content.sample_rate,
        licence=texts.get("License", ""),
        source="; ".join(credits),
    )
    check_convention(hrir_set)
    return hrir_set


def check_convention(hrir_set: HrirSet) -> None:
    """Make sure that a sound from 90 degrees reaches the left ear earlier and louder, one from 270 the right ear.

    Args:
        hrir_set: the set; it needs directions within 30 degrees of 90 and of 270.

    Raises:
        ValueError: when ears or azimuth sense are swapped, or when no direction is lateral enough to tell.
    """
    sides = torch.tensor([90.0, 270.0], dtype=torch.float64)
    distance, rows = circular_error_deg(hrir_set.azimuths_deg.cpu()[None], sides[:, None]).min(dim=1)
    if bool((distance > MAX_CHECK_OFFSET_DEG).any()):
        raise ValueError(
            f"azimuths_deg must come within {MAX_CHECK_OFFSET_DEG:g} degrees of 90 and 270, got none in "
            f"{hrir_set.name!r}; without lateral directions the ears cannot be told apart"
        )
    for azimuth, row, near, far in ((90, rows[0], LEFT, RIGHT), (270, rows[1], RIGHT, LEFT)):
        pair = hrir_set.impulse_responses[row].double().cpu()
        lag_us = float(_relative_delay(pair[near], pair[far], hrir_set.sample_rate)) / hrir_set.sample_rate * 1e6
        level_db = float(10 * torch.log10(pair[near].square().sum() / pair[far].square().sum()))
        if not (lag_us > 0 and level_db > 0):
            ear = "left" if near == LEFT else "right"
            raise ValueError(
                f"impulse_responses of {hrir_set.name!r} must be earlier and louder in the {ear} ear at {azimuth} "
                f"degrees, got {lag_us:+.0f} us of lead and {level_db:+.1f} dB; ears or azimuth sense are swapped "
                "(channel 0 is left, 90 degrees is left)"
            )


def spherical_head(
    *,
    num_directions: int = 360,
    sample_rate: int = 16000,
    head_radius_m: float = 0.0875,
    num_taps: int = 128,
    ear_azimuth_deg: float = 100.0,
) -> HrirSet:
    """Compute the responses of a rigid sphere with two ears: no measured data needed.

    Delay after Woodworth (the ray straight to the ear, or along the surface behind the horizon), level after Brown
    and Duda (one pole, one zero per ear), delays sub-sample by FFT phase. A real head tells front from back by its
    pinnae and torso, which a sphere has not: with `ear_azimuth_deg` = 90 mirrored directions are identical. The
    default sets the ears 10 degrees back, as they sit on a head, which leaves a small difference in delay and level
    between front and back, and none of the spectral cues; this is no substitute for a measured head.

    Args:
        num_directions: directions of the even grid from 0 degrees.
        sample_rate: Hz.
        head_radius_m: radius of the sphere, m.
        num_taps: length K of the responses, samples; at least 4 ms.
        ear_azimuth_deg: azimuth of the left ear on the sphere, degrees; the right ear mirrors it.

    Returns:
        The set; left and right ear are exact mirrors of each other.

    Raises:
        ValueError: when a number is outside its range.

    C. P. Brown and R. O. Duda, "A structural model for binaural sound synthesis", IEEE Trans. Speech Audio Process.,
    vol. 6, no. 5, 1998.
    """
    _check_sample_rate(sample_rate)
    _check_range("num_directions", num_directions, 1, 3600)
    _check_range("head_radius_m", head_radius_m, 0.05, 0.15)
    _check_range("num_taps", num_taps, math.ceil(0.004 * sample_rate), MAX_TAPS)
    _check_range("ear_azimuth_deg", ear_azimuth_deg, 60.0, 120.0)
    azimuths_deg = torch.arange(num_directions, dtype=torch.float64) * (360.0 / num_directions)
    left = _sphere_ear(
        torch.deg2rad(circular_error_deg(torch.tensor(ear_azimuth_deg).double(), azimuths_deg)),
        sample_rate,
        head_radius_m,
        num_taps,
    )
    mirrored = -torch.arange(num_directions) % num_directions
    return HrirSet(
        name="spherical_head",
        azimuths_deg=azimuths_deg,
        impulse_responses=torch.stack([left, left[mirrored]], dim=1).float(),
        sample_rate=sample_rate,
        licence="CC0-1.0",
        source="computed: rigid sphere, Woodworth delay, Brown-Duda head shadow",
    )


def _sphere_ear(incidence: Tensor, sample_rate: int, head_radius_m: float, num_taps: int) -> Tensor:
    """Responses (A, K) of one ear for the angles between source and ear axis, rad in [0, pi]."""
    fft_size = 4 * num_taps
    frequency = torch.fft.rfftfreq(fft_size, 1.0 / sample_rate, dtype=torch.float64)
    travel_s = head_radius_m / SPEED_OF_SOUND_M_S
    bent = incidence - math.pi / 2
    delay_s = travel_s * torch.where(bent < 0, -torch.cos(incidence), bent) + travel_s + 0.0005
    shade_min, darkest = 0.1, math.radians(150.0)
    zero = (1 + shade_min / 2) + (1 - shade_min / 2) * torch.cos(incidence / darkest * math.pi)
    pole = 1j * math.pi * frequency * travel_s
    shadow = (1 + zero[:, None] * pole) / (1 + pole)
    edge = ((frequency / (sample_rate / 2) - 0.9) / 0.1).clamp(0, 1)  # a soft end keeps the ringing short
    response = (
        shadow * torch.exp(-2j * math.pi * frequency * delay_s[:, None]) * (0.5 + 0.5 * torch.cos(math.pi * edge))
    )
    return torch.fft.irfft(response, n=fft_size)[:, :num_taps]


def _relative_delay(first: Tensor, second: Tensor, sample_rate: int) -> Tensor:
    """Samples (sub-sample) by which each `second` (..., K) comes later than `first`, within 1 ms, by correlation.

    Low frequencies weigh most: there the peak that belongs to the onset is not mistaken for its neighbours.
    """
    fft_size = 2 * first.shape[-1]
    frequency = torch.fft.rfftfreq(fft_size, 1.0 / sample_rate, dtype=first.dtype, device=first.device)
    spectrum = torch.fft.rfft(first, n=fft_size).conj() * torch.fft.rfft(second, n=fft_size)
    spectrum = spectrum / (1 + (frequency / ALIGNMENT_CUTOFF_HZ) ** 4)
    fine = torch.fft.irfft(spectrum, n=fft_size * _UPSAMPLING)
    reach = min(math.ceil(0.001 * sample_rate * _UPSAMPLING), fine.shape[-1] // 2 - 1)
    window = torch.cat([fine[..., -reach:], fine[..., : reach + 1]], dim=-1)
    return (window.argmax(dim=-1) - reach).double() / _UPSAMPLING


def _shift(responses: Tensor, delay: Tensor) -> Tensor:
    """Delay responses (..., K) by `delay` (...) samples of any sign and fraction; what leaves the frame is lost."""
    num_taps = responses.shape[-1]
    phase = torch.arange(num_taps + 1, dtype=torch.float64, device=responses.device) * (-math.pi / num_taps)
    spectrum = torch.fft.rfft(responses, n=2 * num_taps) * torch.polar(torch.ones_like(phase), phase * delay[..., None])
    return torch.fft.irfft(spectrum, n=2 * num_taps)[..., :num_taps]


def _apply_delays(responses: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """Put (A, 2) delays, samples, before (A, 2, K) responses; the frame grows as needed."""
    if not delays.any():
        return responses
    num_taps = responses.shape[-1] + math.ceil(delays.max())
    if num_taps > MAX_TAPS:
        raise ValueError(f"Data.Delay must leave at most {MAX_TAPS} taps, got {num_taps}; remove the common delay")
    padded = torch.from_numpy(np.pad(responses, ((0, 0), (0, 0), (0, num_taps - responses.shape[-1]))))
    whole = np.floor(delays).astype(np.int64)
    moved = torch.stack(
        [torch.stack([padded[a, e].roll(int(whole[a, e])) for e in (LEFT, RIGHT)]) for a in range(len(whole))]
    )
    fraction = torch.from_numpy(delays - whole)
    return torch.where(fraction[..., None] > 0, _shift(moved, fraction), moved).numpy()


def _resample(responses: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample (A, 2, K) float64 responses and scale them so that convolution keeps its gain.

    A response starts soon after time 0, and what a low-pass rings before 0 is lost. The short filter of resample_poly
    loses 3 to 20 dB less there than soxr at any quality.
    """
    from scipy.signal import resample_poly  # takes long to import, and a set at the wanted rate needs none of it

    divisor = math.gcd(from_rate, to_rate)
    moved = resample_poly(responses, to_rate // divisor, from_rate // divisor, axis=-1)
    return moved * (from_rate / to_rate)


def _check_sample_rate(sample_rate: int) -> None:
    if not isinstance(sample_rate, int):
        raise ValueError(f"sample_rate must be a whole number, got {sample_rate!r}; give the rate in Hz")
    _check_range("sample_rate", sample_rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value}; choose a value in that range")

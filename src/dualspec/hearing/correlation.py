"""Cross-correlation of the two ears inside a frequency band, at any lag between samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from dualspec.audio.azimuth import LEFT, RIGHT

MAX_LAG_S = 1e-3
"""Largest lag that is searched, s; no head delays that much."""
EMPTY_BAND_RATIO = 1e-6
"""Share of an ear's power below which a band holds nothing of the sound: -60 dB."""

_WHITENING = 0.75
_ENVELOPE_HZ = 50.0
_GRID_STEP_S = 25e-6
_NEWTON_STEPS = 6
_COARSEST_BIN_HZ = 4.0
_CHUNK = 1 << 15  # frequencies held at once on the grid of lags


class BandSpectra(NamedTuple):
    """Spectra of N clips inside one band, with enough zeros behind the clip for every lag."""

    left: Tensor  # (N, F) complex128 spectrum inside the band
    right: Tensor
    frequency: Tensor  # (F,) float64, Hz
    power: Tensor  # (N, 2) energy inside the band
    present: Tensor  # (N,) bool, the band holds some of each ear's sound

    def cross(self) -> Tensor:
        """Cross-spectrum (N, F); its phase falls by 2 pi f times the delay of the left ear."""
        return self.left * self.right.conj()

    def whitened(self) -> Tensor:
        """Cross-spectrum with its spectral envelope partly taken out."""
        width = round(_ENVELOPE_HZ / float(self.frequency[1] - self.frequency[0])) if len(self.frequency) > 1 else 1
        width = min(width, len(self.frequency)) // 2 * 2 + 1
        envelope = (_smooth(self.left, width) * _smooth(self.right, width)).sqrt()
        floor = 1e-9 * envelope.mean(-1, keepdim=True) + torch.finfo(torch.float64).tiny
        return self.cross() / (envelope + floor).pow(_WHITENING)


def _smooth(spectrum: Tensor, width: int) -> Tensor:
    """Running mean (N, F) of the power over an odd number of bins, fewer at the ends."""
    sums = functional.pad((spectrum.real.square() + spectrum.imag.square()).cumsum(-1), (1, 0))
    centre = torch.arange(spectrum.shape[-1], device=spectrum.device)
    first, last = (centre - width // 2).clamp(min=0), (centre + width // 2 + 1).clamp(max=spectrum.shape[-1])
    return ((sums[:, last] - sums[:, first]) / (last - first)).clamp(min=0)


def band_spectra(flat: Tensor, sample_rate: int, band_hz: tuple[float, float]) -> BandSpectra:
    """Transform clips (N, 2, S), float64, channel 0 left, and cut out one band; neighbouring bands share no frequency.

    Raises:
        ValueError: the band lies between two frequencies of the transform.
    """
    num_samples = flat.shape[-1]
    shortest = max(num_samples + math.ceil(MAX_LAG_S * sample_rate), math.ceil(sample_rate / _COARSEST_BIN_HZ))
    fft_size = next_fast_len(shortest, real=True)
    spectrum = torch.fft.rfft(flat, n=fft_size)
    first, last = (round(edge * fft_size / sample_rate) for edge in band_hz)
    if last <= first:
        raise ValueError(f"band_hz must be wider than {sample_rate / fft_size:.3g} Hz, got {band_hz}; widen it")
    inside = spectrum[..., first:last]
    frequency = torch.arange(first, last, dtype=torch.float64, device=flat.device) * (sample_rate / fft_size)
    energy = inside.real.square() + inside.imag.square()
    power = energy.sum(-1)
    share = 2.0 * power / fft_size / flat.square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return BandSpectra(inside[:, LEFT], inside[:, RIGHT], frequency, power, (share >= EMPTY_BAND_RATIO).all(-1))


def highest_lag(cross: Tensor, frequency: Tensor, low_s: Tensor, high_s: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest cross-correlation at a lag in [low_s, high_s]: a grid, then Newton's method, no FFT grid.

    Args:
        cross: (N, F) complex cross-spectrum.
        frequency: (F,) Hz.
        low_s: (N,) smallest lag, s.
        high_s: (N,) largest lag, s.

    Returns:
        Lag (N,), s, and the correlation (N,) there.
    """
    step = min(_GRID_STEP_S, 0.1 / float(frequency[-1]))
    steps = math.ceil(MAX_LAG_S / step)
    lags = torch.linspace(-steps * step, steps * step, 2 * steps + 1, dtype=torch.float64, device=cross.device)
    omega = 2.0 * math.pi * frequency
    heights = torch.zeros(len(cross), len(lags), dtype=torch.float64, device=cross.device)
    for part, rates in zip(cross.split(_CHUNK, dim=-1), omega.split(_CHUNK), strict=True):
        angles = rates[:, None] * lags
        heights += part.real @ angles.cos() - part.imag @ angles.sin()
    allowed = (lags >= low_s[:, None] - step / 2) & (lags <= high_s[:, None] + step / 2)
    grid_lag = lags[heights.masked_fill(~allowed, -math.inf).argmax(-1)].clamp(low_s, high_s)
    lag = grid_lag
    for _ in range(_NEWTON_STEPS):
        turned = cross * torch.polar(torch.ones_like(omega), lag[:, None] * omega)
        slope = -(omega * turned.imag).sum(-1)
        bend = -(omega.square() * turned.real).sum(-1)
        move = torch.where(bend < 0, -slope / bend.clamp(max=-torch.finfo(torch.float64).tiny), step * slope.sign())
        lag = (lag + move.clamp(-step, step)).clamp(grid_lag - step, grid_lag + step).clamp(low_s, high_s)
    height = (cross * torch.polar(torch.ones_like(omega), lag[:, None] * omega)).real.sum(-1)
    return lag, height

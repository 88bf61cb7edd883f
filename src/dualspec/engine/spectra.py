"""The last step in NumPy: `features.stft`, `synthesis.griffin_lim` and the `phase_delta` of `synthesis.reconstruct`.

Only what the embedded model needs is here, for one clip at a time; the tests hold it against those rooms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_TINY = 1e-16
_UNIT_NORM_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Framing:
    """An STFT with a Hann window as long as the transform; the hop divides it."""

    n_fft: int  # samples
    hop_length: int  # samples
    framing: str = "centered"  # or "hifigan", as in `features.stft`

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Framing:
        """Take what is needed of an `StftConfig` (JSON values)."""
        return cls(**{key: settings[key] for key in ("n_fft", "hop_length", "framing") if key in settings})

    @property
    def padding(self) -> int:
        """Samples reflected at each end before framing."""
        return self.n_fft // 2 if self.framing == "centered" else (self.n_fft - self.hop_length) // 2

    @property
    def window(self) -> np.ndarray:
        """The periodic Hann window (n_fft,), float32."""
        turns = np.arange(self.n_fft, dtype=np.float64) / self.n_fft
        return (0.5 - 0.5 * np.cos(2.0 * np.pi * turns)).astype(np.float32)

    def stft(self, waveform: np.ndarray) -> np.ndarray:
        """Transform (..., S) to (..., T, F) complex64, without DC and without a frame past the end."""
        ends = (self.padding, self.padding)
        padded = np.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [ends], mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft, axis=-1)[..., :: self.hop_length, :]
        num_frames = waveform.shape[-1] // self.hop_length
        return np.fft.rfft(frames[..., :num_frames, :] * self.window)[..., 1:]

    def istft(self, spectrum: np.ndarray, num_samples: int) -> np.ndarray:
        """Invert `stft`: (..., T, F) to (..., num_samples), T whole hops."""
        lead, num_frames = spectrum.shape[:-2], spectrum.shape[-2]
        past_end = int(self.framing == "centered")  # a frame that repeats the last one
        bins = np.zeros((*lead, num_frames + past_end, self.n_fft // 2 + 1), dtype=np.complex64)
        bins[..., -1, 1:] = spectrum[..., -1, :]
        bins[..., :num_frames, 1:] = spectrum
        added = self._overlap_add(np.fft.irfft(bins) * self.window)
        envelope = self._overlap_add(np.broadcast_to(self.window**2, (num_frames + past_end, self.n_fft)))
        whole = num_frames * self.hop_length
        kept = slice(self.padding, self.padding + whole)
        waveform = np.zeros((*lead, num_samples), dtype=np.float32)
        waveform[..., :whole] = added[..., kept] / envelope[kept]
        return waveform

    def _overlap_add(self, frames: np.ndarray) -> np.ndarray:
        """Add frames (..., T, n_fft) up where they overlap: (..., (T - 1) * hop + n_fft)."""
        *lead, num_frames, _ = frames.shape
        shares = self.n_fft // self.hop_length
        split = frames.reshape(*lead, num_frames, shares, self.hop_length)
        total = np.zeros((*lead, num_frames + shares - 1, self.hop_length), dtype=np.float32)
        for share in range(shares):
            total[..., share : share + num_frames, :] += split[..., share, :]
        return total.reshape(*lead, -1)


def unit_phase(spectrum: np.ndarray, power_floor: float = _TINY) -> np.ndarray:
    """Keep only the phase of a complex spectrum; next to nothing gives 1."""
    power = spectrum.real**2 + spectrum.imag**2
    length = np.sqrt(np.maximum(power, np.float32(power_floor)))
    return np.where(power > power_floor, spectrum / length, np.complex64(1))


def griffin_lim(
    magnitude: np.ndarray, unit: np.ndarray, framing: Framing, num_samples: int, *, num_iterations: int = 32
) -> np.ndarray:
    """Find a waveform (S,) whose STFT has nearly the magnitude (T, F), from a starting phase (T, F) of unit length."""
    previous, momentum = np.zeros_like(unit), np.float32(0.99 / 1.99)
    for _ in range(num_iterations):
        rebuilt = framing.stft(framing.istft(magnitude * unit, num_samples))
        unit = unit_phase(rebuilt - momentum * previous)
        previous = rebuilt
    return framing.istft(magnitude * unit, num_samples)


def both_ears(near: int, magnitude: np.ndarray, channels: np.ndarray, framing: Framing, num_samples: int) -> np.ndarray:
    """Return the waveform (2, S) of one clip in mode `phase_delta` with the phase of Griffin-Lim.

    Args:
        near: the louder ear, 0 left.
        magnitude: (2, T, F) of each ear, from its mel bands.
        channels: (6, T, F) interaural channels; only the directions, 2 to 5, are read.
        framing: of both.
        num_samples: samples.
    """
    pairs = channels[2::2] + np.complex64(1j) * channels[3::2]
    between, left = unit_phase(pairs, _UNIT_NORM_FLOOR**2)
    own = left if near == 0 else left * between
    turn = between if near == 0 else between.conj()  # from the near ear to the far one
    start = griffin_lim(magnitude.mean(axis=0), own, framing, num_samples)
    clean = unit_phase(framing.stft(start))
    ears = np.stack([clean, clean * turn] if near == 0 else [clean * turn, clean])
    return framing.istft(magnitude * ears, num_samples)

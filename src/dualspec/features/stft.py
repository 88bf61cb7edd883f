"""The short-time Fourier transform, its inverse, and its real-channel forms; (time, frequency) order is set here."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

StftRepresentation = Literal["complex", "logmag_phase", "logmag_cossin", "interaural"]
Framing = Literal["hifigan", "centered"]
"""Samples reflected at each end: ``hifigan`` (n_fft - hop) / 2, ``centered`` n_fft / 2."""

MAGNITUDE_FLOOR = 1e-5
"""Magnitudes below this are floored before a logarithm and treated linearly before a power."""

_NUM_CHANNELS = {"complex": 4, "logmag_phase": 4, "logmag_cossin": 6, "interaural": 6}
_UNIT_NORM_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class StftConfig:
    """Settings of the STFT whose phase carries the direction; paper section V-B."""

    n_fft: int = 512
    """Transform length, samples."""
    win_length: int = 512
    """Hann window length, samples."""
    hop_length: int = 256
    """Distance between frames, samples."""
    framing: Framing = "centered"
    """``hifigan`` covers a clip of whole hops to its end; ``centered`` drops the frame past the end."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be inverted."""
        check_framing(self.n_fft, self.win_length, self.hop_length, self.framing)

    @property
    def padding(self) -> int:
        """Samples reflected at each end before framing."""
        return end_padding(self.n_fft, self.hop_length, self.framing)

    @property
    def num_bins(self) -> int:
        """Number of stored frequency bins: DC is dropped, the Nyquist bin is kept."""
        return self.n_fft // 2

    def num_frames(self, num_samples: int) -> int:
        """Number of stored frames of a waveform of ``num_samples`` samples."""
        return num_samples // self.hop_length


def end_padding(n_fft: int, hop_length: int, framing: Framing) -> int:
    """Return how many samples a framing reflects at each end."""
    return n_fft // 2 if framing == "centered" else (n_fft - hop_length) // 2


def check_framing(n_fft: int, win_length: int, hop_length: int, framing: str) -> None:
    """Check that transform, window, hop and framing fit together.

    Raises:
        ValueError: unless n_fft is even and positive, 0 < win_length <= n_fft, 0 < hop_length <= win_length / 2, the
            framing is known and n_fft - hop_length is even.
    """
    if framing not in get_args(Framing):
        raise ValueError(f"framing must be 'hifigan' or 'centered', got {framing!r}; pick one of these")
    if n_fft < 2 or n_fft % 2:
        raise ValueError(f"n_fft must be an even positive number of samples, got {n_fft}; use a power of two")
    if not 0 < win_length <= n_fft:
        raise ValueError(f"win_length must be in 1..n_fft ({n_fft}), got {win_length}; use win_length = n_fft")
    if not 0 < hop_length <= win_length // 2:
        raise ValueError(
            f"hop_length must be in 1..win_length/2 ({win_length // 2}), got {hop_length}; "
            "a larger hop leaves samples that no window covers"
        )
    if (n_fft - hop_length) % 2:
        raise ValueError(f"n_fft - hop_length must be even, got {n_fft} - {hop_length}; change the hop")


@lru_cache(maxsize=32)
def hann_window(win_length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the periodic Hann window (win_length,), made once per length, device and precision."""
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        return torch.hann_window(win_length, device=device, dtype=dtype)


def framed_spectrum(
    waveform: Tensor, *, n_fft: int, win_length: int, hop_length: int, padding: int, num_frames: int
) -> Tensor:
    """Transform Hann-windowed frames of a reflect-padded waveform.

    Args:
        waveform: (..., S) real, float32 or float64.
        n_fft: transform length, samples.
        win_length: window length, samples.
        hop_length: distance between frames, samples.
        padding: samples reflected at each end.
        num_frames: frames kept, counted from the first.

    Returns:
        (..., T, n_fft // 2 + 1) complex spectrum, DC first.

    Raises:
        ValueError: waveform must be float32 or float64 and longer than the padding.
    """
    if waveform.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"waveform must be float32 or float64, got {waveform.dtype}; convert it with .float()")
    num_samples = waveform.shape[-1]
    if num_samples <= padding or num_frames < 1:
        raise ValueError(
            f"waveform must be longer than {max(padding, hop_length - 1)} samples, got {num_samples}; "
            "pad it with zeros first"
        )
    flat = waveform.reshape(-1, num_samples)
    if padding:
        flat = functional.pad(flat, (padding, padding), mode="reflect")
    flat = flat[:, : (num_frames - 1) * hop_length + n_fft]
    window = hann_window(win_length, waveform.device, waveform.dtype)
    spectrum = torch.stft(
        flat, n_fft, hop_length, win_length, window=window, center=False, return_complex=True
    ).transpose(-1, -2)
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[-2:])


def stft(waveform: Tensor, config: StftConfig) -> Tensor:
    """Take the short-time Fourier transform.

    Args:
        waveform: (..., S) samples in [-1, 1].
        config: framing.

    Returns:
        (..., T, F) complex, T = S // hop_length, F = n_fft // 2; the DC bin is dropped, and ``centered`` drops the
        frame past the end.

    Raises:
        ValueError: waveform must be float32 or float64 and longer than the padding.

    Paper section V-B.
    """
    spectrum = framed_spectrum(
        waveform,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        padding=config.padding,
        num_frames=config.num_frames(waveform.shape[-1]),
    )
    return spectrum[..., 1:]


def istft(stft: Tensor, config: StftConfig, num_samples: int) -> Tensor:
    """Invert :func:`stft` with a DC bin of zero.

    Exact for waveforms without energy near DC. Only ``centered`` loses the last hop, where it repeats the last frame in
    place of the one that was dropped. Samples past the last whole hop are zero.

    Args:
        stft: (..., T, F) complex, without DC.
        config: framing.
        num_samples: length of the result, samples.

    Returns:
        (..., S) waveform.

    Raises:
        ValueError: stft must have the frames and bins that the framing gives for num_samples.
    """
    expected = (config.num_frames(num_samples), config.num_bins)
    if tuple(stft.shape[-2:]) != expected:
        raise ValueError(
            f"stft must have {expected[0]} frames and {expected[1]} bins for {num_samples} samples, "
            f"got {tuple(stft.shape[-2:])}; check num_samples and the STFT settings"
        )
    flat = stft.reshape(-1, *expected)
    if config.framing == "centered":
        flat = torch.cat([flat, flat[:, -1:]], dim=1)
    whole = expected[0] * config.hop_length
    spectrum = functional.pad(flat, (1, 0))
    waveform = overlap_add(spectrum, config.n_fft, config.win_length, config.hop_length, config.padding, whole)
    waveform = functional.pad(waveform, (0, num_samples - whole))
    return waveform.reshape(*stft.shape[:-2], num_samples)


def overlap_add(
    spectrum: Tensor, n_fft: int, win_length: int, hop_length: int, padding: int, num_samples: int
) -> Tensor:
    """Add up Hann-windowed frames: `torch.istft`, but that it takes any padding and does not wait for the device.

    Args:
        spectrum: (B, T, n_fft // 2 + 1) complex, DC first.
        n_fft: transform length, samples.
        win_length: window length, samples.
        hop_length: distance between frames, samples.
        padding: samples before the first one that is kept.
        num_samples: length of the result.

    Returns:
        (B, S) waveform.
    """
    num_frames = spectrum.shape[1]
    window, envelope = _synthesis_window(
        n_fft, win_length, hop_length, num_frames, spectrum.device, spectrum.real.dtype
    )
    frames = torch.fft.irfft(spectrum, n=n_fft) * window
    size = (len(frames), envelope.shape[-1])
    added = torch.ops.aten.unfold_backward(frames, size, 1, n_fft, hop_length)
    kept = slice(padding, padding + num_samples)
    return added[:, kept] / envelope[:, kept]


@lru_cache(maxsize=32)
def _synthesis_window(
    n_fft: int, win_length: int, hop_length: int, num_frames: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the window (n_fft,) and what the squares of all frames' windows add up to, (1, S)."""
    with torch.inference_mode(False), torch.no_grad():
        left = (n_fft - win_length) // 2
        window = functional.pad(hann_window(win_length, device, dtype), (left, n_fft - win_length - left))
        size = (1, n_fft + hop_length * (num_frames - 1))
        squares = window.square().expand(1, num_frames, n_fft)
        return window, torch.ops.aten.unfold_backward(squares, size, 1, n_fft, hop_length)


def num_stft_channels(representation: StftRepresentation) -> int:
    """Return how many real channels a two-ear STFT takes in ``representation``."""
    _check_representation(representation)
    return _NUM_CHANNELS[representation]


def stft_to_channels(stft: Tensor, representation: StftRepresentation, *, exponent: float = 0.5) -> Tensor:
    """Write a two-ear STFT as real channels; gradients stay finite at silence.

    Args:
        stft: (B, 2, T, F) complex, channel 0 left.
        representation: ``complex`` [L re, L im, R re, R im], magnitudes to the power ``exponent``, phase kept;
            ``logmag_phase`` [ln|L|, ln|R|, angle L, angle R];
            ``logmag_cossin`` [ln|L|, ln|R|, cos L, sin L, cos R, sin R];
            ``interaural`` [ln|L|, ln|R|, cos d, sin d, cos p, sin p], d = angle(R conj L), p = angle L.
        exponent: magnitude compression of ``complex``; the other representations do not use it.

    Returns:
        (B, C, T, F) real, C = ``num_stft_channels(representation)``; logarithms natural, angles in radians.

    Raises:
        ValueError: stft must have two ears, representation must be known, exponent must be positive.
    """
    _check_representation(representation)
    if stft.dim() < 3 or stft.shape[-3] != 2 or not stft.is_complex():
        raise ValueError(
            f"stft must be complex of shape (B, 2, T, F), got {stft.dtype} {tuple(stft.shape)}; pass both ears"
        )
    if representation == "complex":
        return _compress(stft, exponent)
    power = stft.real.square() + stft.imag.square()
    magnitude = power.clamp(min=MAGNITUDE_FLOOR**2).sqrt()
    left, right = (stft / magnitude).unbind(-3)
    log_magnitude = magnitude.log()
    if representation == "logmag_phase":
        heard = power > MAGNITUDE_FLOOR**2
        return torch.cat(
            [
                log_magnitude,
                torch.atan2(torch.where(heard, stft.imag, 0.0), torch.where(heard, stft.real, 1.0)),
            ],
            dim=-3,
        )
    if representation == "logmag_cossin":
        parts = [left.real, left.imag, right.real, right.imag]
    else:
        difference = right * left.conj()
        parts = [difference.real, difference.imag, left.real, left.imag]
    return torch.cat([log_magnitude, torch.stack(parts, dim=-3)], dim=-3)


def channels_to_stft(channels: Tensor, representation: StftRepresentation, *, exponent: float = 0.5) -> Tensor:
    """Invert :func:`stft_to_channels`; cosine-sine pairs are brought back to unit length, a zero pair means angle 0.

    Args:
        channels: (B, C, T, F) real.
        representation: how the channels were made.
        exponent: magnitude compression of ``complex``.

    Returns:
        (B, 2, T, F) complex, channel 0 left.

    Raises:
        ValueError: channels must have the number of channels of the representation, exponent must be positive.
    """
    expected = num_stft_channels(representation)
    if channels.dim() < 3 or channels.shape[-3] != expected:
        raise ValueError(
            f"channels must be of shape (B, {expected}, T, F) for {representation!r}, got {tuple(channels.shape)}; "
            "use the representation they were made with"
        )
    if representation == "complex":
        return _expand(channels, exponent)
    magnitude = channels[..., :2, :, :].exp()
    if representation == "logmag_phase":
        return torch.polar(magnitude, channels[..., 2:, :, :])
    first = _unit(channels[..., 2, :, :], channels[..., 3, :, :])
    second = _unit(channels[..., 4, :, :], channels[..., 5, :, :])
    units = [first, second] if representation == "logmag_cossin" else [second, first * second]
    return magnitude * torch.stack(units, dim=-3)


def _check_representation(representation: str) -> None:
    known = get_args(StftRepresentation)
    if representation not in known:
        raise ValueError(f"representation must be one of {', '.join(known)}, got {representation!r}; pick one of these")


def _check_exponent(exponent: float) -> None:
    if not 0.0 < exponent <= 1.0:
        raise ValueError(f"exponent must be in (0, 1], got {exponent}; 0.5 is the usual compression, 1 is none")


def _compress(stft: Tensor, exponent: float) -> Tensor:
    """Raise magnitudes above the floor to ``exponent``; linear below it, so the slope stays finite."""
    _check_exponent(exponent)
    power = stft.real.square() + stft.imag.square()
    gain = power.clamp(min=MAGNITUDE_FLOOR**2) ** ((exponent - 1.0) / 2.0)
    interleaved = torch.view_as_real(stft * gain).movedim(-1, -3)  # (B, 2, re|im, T, F)
    return interleaved.flatten(-4, -3)


def _expand(channels: Tensor, exponent: float) -> Tensor:
    _check_exponent(exponent)
    pairs = channels.unflatten(-3, (2, 2))
    real, imag = pairs[..., 0, :, :], pairs[..., 1, :, :]
    power = real.square() + imag.square()
    gain = power.clamp(min=MAGNITUDE_FLOOR ** (2.0 * exponent)) ** ((1.0 / exponent - 1.0) / 2.0)
    return torch.complex(real * gain, imag * gain)


def _unit(cosine: Tensor, sine: Tensor) -> Tensor:
    """Return the unit complex number along (cosine, sine); a zero vector gives 1."""
    power = cosine.square() + sine.square()
    known = power > _UNIT_NORM_FLOOR**2
    scale = power.clamp(min=_UNIT_NORM_FLOOR**2).rsqrt()
    return torch.complex(torch.where(known, cosine * scale, 1.0), torch.where(known, sine * scale, 0.0))

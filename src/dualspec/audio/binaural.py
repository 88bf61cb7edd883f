"""Mono waveform and direction to two ears: batched FFT convolution with head responses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dualspec.audio.azimuth import check_azimuth_deg
from dualspec.audio.hrir import HrirMethod, HrirSet

BLOCK_RATIO = 12
"""FFT block length over HRIR length, before rounding up to a power of two."""


def render(waveform: Tensor, hrirs: Tensor) -> Tensor:
    """Convolve each mono clip with its own pair of head responses.

    Args:
        waveform: mono clips, (B, S), in [-1, 1].
        hrirs: one pair per clip, (B, 2, K), channel 0 left, at the clips' sample rate.

    Returns:
        Two ears, (B, 2, S), channel 0 left; the convolution's tail beyond S is cropped.

    Raises:
        ValueError: when a shape is wrong or the batches differ.

    Paper section V-C.
    """
    _check_waveform(waveform)
    _check_hrirs(hrirs)
    if len(hrirs) != len(waveform):
        raise ValueError(
            f"hrirs must hold one pair per clip, got {len(hrirs)} pairs for {len(waveform)} clips; "
            "use render_directions() for every direction of every clip"
        )
    blocks, responses, block_size = _spectra(waveform, hrirs)
    return _overlap_save(blocks[:, None] * responses[:, :, None], block_size, hrirs.shape[-1], waveform.shape[-1])


def render_directions(waveform: Tensor, hrirs: Tensor) -> Tensor:
    """Convolve every clip with every pair of head responses, sharing the clips' transforms.

    Args:
        waveform: mono clips, (B, S), in [-1, 1].
        hrirs: pairs for A directions, (A, 2, K), channel 0 left, at the clips' sample rate.

    Returns:
        Two ears per direction, (B, A, 2, S), channel 0 left; tails beyond S are cropped.

    Raises:
        ValueError: when a shape is wrong.
    """
    _check_waveform(waveform)
    _check_hrirs(hrirs)
    blocks, responses, block_size = _spectra(waveform, hrirs)
    product = blocks[:, None, None] * responses[:, :, None]
    return _overlap_save(product, block_size, hrirs.shape[-1], waveform.shape[-1])


def normalize_peak(waveform: Tensor, peak: float = 0.5) -> Tensor:
    """Scale to a common peak with ONE gain for all channels, so that level differences stay.

    Args:
        waveform: (..., C, S); the gain is shared over C and S.
        peak: wanted largest absolute sample, greater than 0.

    Returns:
        Scaled waveform, same shape; an all-zero waveform stays all-zero.

    Raises:
        ValueError: when peak is not positive or the waveform has fewer than two axes.
    """
    if not 0.0 < peak < float("inf"):
        raise ValueError(f"peak must be greater than 0, got {peak}; 0.5 is the usual one")
    if waveform.ndim < 2:
        raise ValueError(f"waveform must have shape (..., C, S), got {tuple(waveform.shape)}; add a channel axis")
    if waveform.numel() == 0:
        return waveform
    largest = waveform.abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(largest > 0, waveform / torch.where(largest > 0, largest, 1.0) * peak, waveform)


def spatialize(
    waveform: Tensor,
    azimuth_deg: float,
    hrir_set: HrirSet,
    *,
    sample_rate: int | None = None,
    method: HrirMethod = "nearest",
    tolerance_deg: float = 1.0,
    peak: float | None = None,
) -> Tensor:
    """Place one mono clip in one direction.

    Args:
        waveform: mono clip, (S,) or (1, S), in [-1, 1].
        azimuth_deg: direction, degrees, 0 front, 90 left, 270 right.
        hrir_set: the head.
        sample_rate: rate of the clip, Hz; None when it is known to be the set's.
        method: "nearest" measured direction, or "interpolate" between the two neighbours.
        tolerance_deg: largest distance to the nearest measured direction, degrees ("nearest" only).
        peak: when given, the result is scaled to this peak with one gain for both ears.

    Returns:
        Two ears, (2, S), channel 0 left.

    Raises:
        ValueError: when the clip is not mono, the rates differ, or the direction is outside the set.
    """
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or len(waveform) != 1:
        raise ValueError(f"waveform must be mono, (S,) or (1, S), got {tuple(waveform.shape)}; mix it down first")
    if sample_rate is not None and sample_rate != hrir_set.sample_rate:
        raise ValueError(
            f"sample_rate must be the HRIR set's {hrir_set.sample_rate} Hz, got {sample_rate} Hz; resample one"
        )
    azimuth_deg = check_azimuth_deg(azimuth_deg)
    hrirs = hrir_set.at([azimuth_deg], method=method, tolerance_deg=tolerance_deg).to(waveform.device)
    ears = render(waveform, hrirs)[0]
    return ears if peak is None else normalize_peak(ears, peak)


def _spectra(waveform: Tensor, hrirs: Tensor) -> tuple[Tensor, Tensor, int]:
    """Transform clips in overlapping blocks, (B, blocks, F), and head responses, (A, 2, F); also give the block size.

    Blocks of about twelve response lengths stay in the processor's cache: one transform of a whole 5 s clip takes
    three times as long on a CPU.
    """
    num_samples, num_taps = waveform.shape[-1], hrirs.shape[-1]
    block_size = _power_of_two(max(2, min(BLOCK_RATIO * num_taps, num_samples + num_taps - 1)))
    hop = block_size - num_taps + 1
    num_blocks = -(-num_samples // hop)
    common = torch.promote_types(torch.promote_types(waveform.dtype, hrirs.dtype), torch.float32)
    padded = F.pad(waveform.to(common), (num_taps - 1, num_blocks * hop - num_samples))
    blocks = torch.fft.rfft(padded.unfold(-1, block_size, hop))
    return blocks, torch.fft.rfft(hrirs.to(common), n=block_size), block_size


def _overlap_save(product: Tensor, block_size: int, num_taps: int, num_samples: int) -> Tensor:
    """Transform block products (..., blocks, F) back and join what no wrap-around touched, (..., S)."""
    valid = torch.fft.irfft(product, n=block_size)[..., num_taps - 1 :]
    return valid.flatten(-2)[..., :num_samples]


def _power_of_two(size: int) -> int:
    """Round up to a power of two."""
    return 1 << (size - 1).bit_length()


def _check_waveform(waveform: Tensor) -> None:
    if waveform.ndim != 2 or waveform.shape[-1] < 1 or not waveform.is_floating_point():
        raise ValueError(
            f"waveform must be floating point with shape (B, S) and S > 0, got {waveform.dtype} "
            f"{tuple(waveform.shape)}; mix to mono, and divide int16 samples by 32768"
        )


def _check_hrirs(hrirs: Tensor) -> None:
    if hrirs.ndim != 3 or hrirs.shape[1] != 2 or hrirs.shape[-1] < 1 or not hrirs.is_floating_point():
        raise ValueError(
            f"hrirs must be floating point with shape (A, 2, K), got {hrirs.dtype} {tuple(hrirs.shape)}; "
            "take them from HrirSet.at()"
        )

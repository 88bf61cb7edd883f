"""Mono waveform and direction to two ears: batched FFT convolution with head responses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dualspec.audio.azimuth import check_azimuth_deg
from dualspec.audio.hrir import HrirMethod, HrirSet

BLOCK_RATIO = 12
"""FFT block length over HRIR length, before rounding up to a power of two."""
SAMPLES_AT_ONCE = 2**20
"""Longer clips are transformed in parts of so many samples each."""


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
    return _overlap_save(waveform, hrirs, lambda blocks, responses: blocks[:, None] * responses[:, :, None])


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
    return _overlap_save(waveform, hrirs, lambda blocks, responses: blocks[:, None, None] * responses[:, :, None])


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
    dims = (-2, -1)
    largest = torch.maximum(waveform.amax(dim=dims, keepdim=True), -waveform.amin(dim=dims, keepdim=True))
    return waveform / torch.where(largest > 0, largest, 1.0) * peak


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


def _overlap_save(waveform: Tensor, hrirs: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Convolve clips (B, S) in overlapping blocks, and join what no wrap-around touched.

    Blocks of about twelve response lengths stay in the processor's cache: one transform of a whole 5 s clip takes
    three times as long on a CPU. Long recordings go through in parts, so that only the result is as long as they are.

    Args:
        waveform: (B, S).
        hrirs: (A, 2, K).
        multiply: block spectra (B, blocks, F) and responses (A, 2, F) → (..., blocks, F).

    Returns:
        (..., S).
    """
    num_samples, num_taps = waveform.shape[-1], hrirs.shape[-1]
    block_size = _power_of_two(max(2, min(BLOCK_RATIO * num_taps, num_samples + num_taps - 1)))
    hop = block_size - num_taps + 1
    num_blocks = -(-num_samples // hop)
    common = torch.promote_types(torch.promote_types(waveform.dtype, hrirs.dtype), torch.float32)
    padded = F.pad(waveform.to(common), (num_taps - 1, num_blocks * hop - num_samples))
    responses = torch.fft.rfft(hrirs.to(common), n=block_size)
    at_once = max(1, SAMPLES_AT_ONCE // block_size)
    parts = []
    for blocks in padded.unfold(-1, block_size, hop).split(at_once, dim=-2):
        valid = torch.fft.irfft(multiply(torch.fft.rfft(blocks), responses), n=block_size)[..., num_taps - 1 :]
        parts.append(valid.flatten(-2))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))[..., :num_samples]


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

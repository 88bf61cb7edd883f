"""One signal out of two ears: what a generated clip sounds like apart from its direction."""

import math

import torch
from torch import Tensor

from dualspec.features.stft import StftConfig, istft, stft
from dualspec.synthesis.griffin_lim import unit_phase


def common_phase_mid(waveform: Tensor, config: StftConfig | None = None) -> Tensor:
    """Join both ears without the comb filter that adding them would give.

    Every bin has the mean magnitude of both ears and the phase of the louder ear, one ear for the whole clip, so that
    the time difference between the ears leaves no trace.

    Args:
        waveform: (..., 2, S) float, channel 0 left.
        config: framing; the default STFT when None.

    Returns:
        (..., S) mono; two equal ears give themselves back (apart from their mean).

    Raises:
        ValueError: the waveform must have two ears.
    """
    if waveform.ndim < 2 or waveform.shape[-2] != 2 or waveform.shape[-1] < 1:
        raise ValueError(f"waveform must be (..., 2, S), got {tuple(waveform.shape)}; pass both ears")
    config = config or StftConfig()
    num_samples = waveform.shape[-1]
    # Whole hops, and room for the reflection at the ends and for the last hop, which an STFT's inverse does not keep.
    padding = -num_samples % config.hop_length + max(2 * config.hop_length, config.n_fft)
    spectra = stft(torch.nn.functional.pad(waveform, (0, padding)), config)
    energy = waveform.square().sum(dim=-1)
    louder = torch.where(
        (energy[..., 1] > energy[..., 0])[..., None, None], spectra[..., 1, :, :], spectra[..., 0, :, :]
    )
    mid = spectra.abs().mean(dim=-3) * unit_phase(louder)
    return istft(mid, config, num_samples + padding)[..., :num_samples]


def mid_mel(log_mel: Tensor) -> Tensor:
    """Return the mel (..., 1, T, M) of the mean magnitude of both ears, natural log, from theirs (..., 2, T, M)."""
    return torch.logsumexp(log_mel, dim=-3, keepdim=True) - math.log(2.0)

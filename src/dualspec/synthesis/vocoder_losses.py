"""Losses of the vocoder: adversarial, feature matching, mel distance, and STFT distance at several resolutions."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dualspec.features.mel import MelConfig, log_mel
from dualspec.features.stft import framed_spectrum
from dualspec.synthesis.discriminators import Judgement

AdversarialLoss = Literal["least_squares", "hinge"]

_POWER_FLOOR = 1e-10
_NORM_FLOOR = 1e-5


def discriminator_loss(
    reference: Sequence[Judgement], estimate: Sequence[Judgement], kind: AdversarialLoss = "least_squares"
) -> Tensor:
    """Tell how badly the discriminators separate real from made sound.

    Args:
        reference: judgements of real sound.
        estimate: judgements of made sound, cut off from the generator's graph.
        kind: form of the game.

    Returns:
        () mean over discriminators.

    Raises:
        ValueError: both sides must have the same number of judgements; kind must be known.
    """
    _check(reference, estimate, kind)
    terms = []
    for real, made in zip(reference, estimate, strict=True):
        if kind == "hinge":
            terms.append(functional.relu(1.0 - real.score).mean() + functional.relu(1.0 + made.score).mean())
        else:
            terms.append((1.0 - real.score).square().mean() + made.score.square().mean())
    return torch.stack(terms).mean()


def adversarial_loss(estimate: Sequence[Judgement], kind: AdversarialLoss = "least_squares") -> Tensor:
    """Tell how well the discriminators know the made sound; the generator lowers it.

    Args:
        estimate: judgements of made sound.
        kind: form of the game.

    Returns:
        () mean over discriminators.

    Raises:
        ValueError: kind must be known.
    """
    _check(estimate, estimate, kind)
    if kind == "hinge":
        terms = [-made.score.mean() for made in estimate]
    else:
        terms = [(1.0 - made.score).square().mean() for made in estimate]
    return torch.stack(terms).mean()


def feature_matching_loss(reference: Sequence[Judgement], estimate: Sequence[Judgement]) -> Tensor:
    """Compare the hidden activations for real and made sound.

    Args:
        reference: judgements of real sound; no gradient flows into them.
        estimate: judgements of made sound.

    Returns:
        () mean over layers and discriminators of the L1 distance over the mean absolute reference.

    Raises:
        ValueError: both sides must have the same number of judgements.
    """
    _check(reference, estimate, "hinge")
    terms = []
    for real, made in zip(reference, estimate, strict=True):
        for wanted, got in zip(real.features, made.features, strict=True):
            wanted = wanted.detach()
            terms.append((wanted - got).abs().mean() / wanted.abs().mean().clamp(min=_NORM_FLOOR))
    return torch.stack(terms).mean()


def mel_l1_loss(reference: Tensor, estimate: Tensor, config: MelConfig) -> Tensor:
    """Compare log-mel spectrograms.

    Args:
        reference: (..., S) waveform.
        estimate: (..., S) waveform.
        config: mel settings.

    Returns:
        () mean absolute difference, nepers.

    Raises:
        ValueError: both waveforms must have the same shape.
    """
    _check_waveforms(reference, estimate)
    return (log_mel(reference, config) - log_mel(estimate, config)).abs().mean()


def multi_resolution_stft_loss(reference: Tensor, estimate: Tensor, n_ffts: Sequence[int] = (256, 512, 1024)) -> Tensor:
    """Compare magnitude spectrograms at several resolutions: spectral convergence plus log-magnitude L1.

    Convergence is the ratio of the batch's error to the batch's level: a silent clip has no ratio of its own.

    Args:
        reference: (B, S) waveform.
        estimate: (B, S) waveform.
        n_ffts: transform lengths, samples; the hop is a quarter of each.

    Returns:
        () mean over resolutions; gradients stay finite at silence.

    Raises:
        ValueError: both waveforms must have the same shape.
    """
    _check_waveforms(reference, estimate)
    terms = []
    for n_fft in n_ffts:
        wanted, got = _magnitude(reference, n_fft), _magnitude(estimate, n_fft)
        error = (wanted - got).square().sum().clamp(min=_NORM_FLOOR**2).sqrt()
        level = wanted.square().sum().clamp(min=_NORM_FLOOR**2).sqrt()
        terms.append(error / level + (wanted.log() - got.log()).abs().mean())
    return torch.stack(terms).mean()


def _magnitude(waveform: Tensor, n_fft: int) -> Tensor:
    hop_length = n_fft // 4
    spectrum = framed_spectrum(
        waveform,
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=hop_length,
        padding=n_fft // 2,
        num_frames=1 + waveform.shape[-1] // hop_length,
    )
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_POWER_FLOOR).sqrt()


def _check(reference: Sequence[Judgement], estimate: Sequence[Judgement], kind: str) -> None:
    if kind not in get_args(AdversarialLoss):
        raise ValueError(f"kind must be one of {', '.join(get_args(AdversarialLoss))}, got {kind!r}; pick one of these")
    if not reference or len(reference) != len(estimate):
        raise ValueError(
            f"reference and estimate must be judged by the same discriminators, got {len(reference)} and "
            f"{len(estimate)} judgements; pass both outputs of one forward function"
        )


def _check_waveforms(reference: Tensor, estimate: Tensor) -> None:
    if reference.shape != estimate.shape:
        raise ValueError(
            f"estimate must have the shape of the reference {tuple(reference.shape)}, got {tuple(estimate.shape)}; "
            "trim the vocoder's output"
        )

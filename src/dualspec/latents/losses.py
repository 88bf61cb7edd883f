"""What a VAE is trained on: reconstruction, interaural terms, KL, and the adversarial loss with its warm-up."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualspec.latents.vae import VaeConfig


@dataclass(frozen=True, kw_only=True)
class VaeLossConfig:
    """Weights of the VAE's loss terms."""

    kl_weight: float = 1e-4  # on the mean KL per latent element, in nats
    interaural_level_weight: float = 1.0  # on the left-right difference of logarithmic channels
    interaural_phase_weight: float = 1.0  # on the phase-difference channels ("interaural" representation)
    common_phase_weight: float = 1.0  # on the common-phase channels ("interaural" representation)
    adversarial_weight: float = 0.5  # times the adaptive weight; 0 turns the adversary off
    adversarial_start_step: int = 60_000  # steps without the adversary (paper section VI-A)
    adversarial_start_fraction: float = 0.0  # or this fraction of the run, whichever is later


def group_channels(config: VaeConfig) -> dict[str, slice]:
    """Return which channels belong to which loss group.

    Returns:
        name → slice of the channel axis, among "log_level" (logarithmic magnitudes, left and right), "mono_level",
        "interaural_phase", "common_phase", "phase" (unit vectors or angles), "complex".
    """
    if config.feature == "mel_mono":
        return {"mono_level": slice(0, 1)}
    groups: dict[str, slice] = {}
    start = 0
    if config.mel is not None:
        groups["mel_level"] = slice(0, 2)
        start = 2
    if config.stft is not None:
        if config.representation == "complex":
            groups["complex"] = slice(start, start + 4)
        elif config.representation == "interaural":
            groups["stft_level"] = slice(start, start + 2)
            groups["interaural_phase"] = slice(start + 2, start + 4)
            groups["common_phase"] = slice(start + 4, start + 6)
        else:
            groups["stft_level"] = slice(start, start + 2)
            groups["phase"] = slice(start + 2, config.num_channels)
    return groups


def reconstruction_loss(
    reference: Tensor, estimate: Tensor, config: VaeConfig, weights: VaeLossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare channels group by group, each group with its own mean, and add the interaural level term.

    Args:
        reference: (B, C, T, F) channels.
        estimate: (B, C, T, F) reconstruction.
        config: the VAE whose channels these are.
        weights: the weights of the terms.

    Returns:
        The summed loss per clip (B,) and the mean of every term, for the log. The decision that groups have equal
        weight keeps 64 mel rows from drowning in 256 STFT rows (decision 21b).
    """
    total = reference.new_zeros(reference.shape[0])
    terms: dict[str, Tensor] = {}
    phase_weights = {
        "interaural_phase": weights.interaural_phase_weight,
        "common_phase": weights.common_phase_weight,
    }
    for name, channels in group_channels(config).items():
        difference = (reference[:, channels] - estimate[:, channels]).abs()
        loss = difference.flatten(1).mean(dim=1)
        terms[name] = loss.mean().detach()
        total = total + phase_weights.get(name, 1.0) * loss
        if name.endswith("_level") and difference.shape[1] == 2 and weights.interaural_level_weight:
            level_loss = _interaural_level_loss(reference[:, channels], estimate[:, channels])
            terms[f"{name}_interaural"] = level_loss.mean().detach()
            total = total + weights.interaural_level_weight * level_loss
    return total, terms


def _interaural_level_loss(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean error (B,) of the left-right difference of log magnitudes (B, 2, T, F), weighted by loudness rank."""
    louder = reference.amax(dim=1)
    weight = torch.sigmoid(2.0 * (louder - louder.mean(dim=(1, 2), keepdim=True)))
    error = ((reference[:, 0] - reference[:, 1]) - (estimate[:, 0] - estimate[:, 1])).abs()
    return (weight * error).flatten(1).mean(dim=1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL to the standard normal per clip (B,), averaged over latent elements, in nats."""
    return (0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)).flatten(1).mean(dim=1)


def hinge_discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return the discriminator's hinge loss of patch scores (B, 1, T, F)."""
    return 0.5 * (torch.relu(1.0 - real_scores).mean() + torch.relu(1.0 + fake_scores).mean())


def adaptive_adversarial_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """Return the factor that gives the adversarial gradient the reconstruction gradient's norm at the last layer.

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss.
        last_layer: the decoder's last weight.

    Returns:
        A detached scalar in [0, 1e4].
    """
    reconstruction_grad = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    adversarial_grad = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    weight = reconstruction_grad.norm() / (adversarial_grad.norm() + 1e-4)
    return weight.clamp(0.0, 1e4).detach()


def adversary_active(weights: VaeLossConfig, step: int, progress: float) -> bool:
    """Say whether the adversary takes part at this step and fraction of the run. Paper section VI-A."""
    if weights.adversarial_weight == 0:
        return False
    return step >= weights.adversarial_start_step and progress >= weights.adversarial_start_fraction

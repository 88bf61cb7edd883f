"""What the denoiser is trained on: the noise schedule, the target, the weights, the prompt dropout.

Equations (8)-(11) of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True)
class NoiseScheduleConfig:
    """The noise schedule and the target; the defaults are those of Stable Diffusion (decision 13)."""

    num_train_timesteps: int = 1000  # N
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"  # diffusers' name
    beta_start: float = 0.00085  # β at the first step
    beta_end: float = 0.012  # β at the last step
    prediction_type: PredictionType = "epsilon"  # what the denoiser predicts
    zero_terminal_snr: bool = False  # rescale β so that the last step is pure noise; needs v_prediction

    def __post_init__(self) -> None:
        """Refuse the combination that cannot be inverted."""
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "prediction_type must be 'v_prediction' with zero_terminal_snr, got 'epsilon'; "
                "noise says nothing of the clip where the signal is zero"
            )

    def scheduler_kwargs(self) -> dict[str, object]:
        """Return the arguments that every diffusers scheduler of this schedule shares."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction_type,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
        }


def alphas_cumprod(config: NoiseScheduleConfig) -> Tensor:
    """Return ᾱ_n (N,) in float64 precision as diffusers computes it. Equation (9)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**config.scheduler_kwargs()).alphas_cumprod.double()


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return z_n (B, C, T, F) of clean latents and noise; alpha_bar (B,) is ᾱ_n per clip. Equation (10)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return (alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise).to(latents.dtype)


def prediction_target(latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """Return what the denoiser should say: the noise (equation 11), or the velocity √ᾱ·ε − √(1−ᾱ)·z₀."""
    if prediction_type == "epsilon":
        return noise
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents).to(latents.dtype)


def predicted_latents(noisy: Tensor, prediction: Tensor, alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """Return the estimate of z₀ (B, C, T, F) that a prediction at z_n stands for."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1).to(noisy.dtype)
    if prediction_type == "epsilon":
        return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction


def snr_weight(alpha_bar: Tensor, prediction_type: PredictionType, gamma: float | None = 5.0) -> Tensor:
    """Return γ_n (B,) of equation (11): min-SNR-γ, in the form of the target; None means 1. Decision 14."""
    if gamma is None:
        return alpha_bar.new_ones(alpha_bar.shape)
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-12)
    divisor = snr if prediction_type == "epsilon" else snr + 1
    return snr.clamp(max=gamma) / divisor.clamp(min=1e-12)


def part_loss(prediction: list[Tensor], target: list[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Return the squared error per clip (B,): mean within each part, then their sum. Decision 10.

    Args:
        prediction: of each part, (B, C_k, T_k, F_k).
        target: the same shapes.
        weights: of the parts' means; 1 each if None.
    """
    import torch

    losses = [(p.float() - t.float()).square().flatten(1).mean(dim=1) for p, t in zip(prediction, target, strict=True)]
    shares = torch.ones(len(losses)) if weights is None else torch.tensor(weights)
    return (torch.stack(losses) * shares.to(losses[0])[:, None]).sum(dim=0)


def drop_prompts(prompts: list[str], rate: float, draws: Tensor) -> list[str]:
    """Replace each prompt by the empty text where its draw (B,), uniform in [0, 1), is below `rate`.

    Paper section III-D, decision 15.
    """
    return ["" if draw < rate else prompt for prompt, draw in zip(prompts, draws.tolist(), strict=True)]

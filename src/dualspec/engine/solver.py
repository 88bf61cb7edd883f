"""DPM-Solver++(2M) as diffusers steps it, in a few numbers per step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplingConfig

Predict = Callable[[np.ndarray, int, bool], np.ndarray]
"""(latents, timestep, whether to guide) to the prediction."""


def is_served(schedule: NoiseScheduleConfig, sampler: str) -> bool:
    """Tell whether `denoise` is this sampler on this schedule."""
    return sampler == "dpmpp" and schedule.zero_terminal_snr and schedule.beta_schedule == "scaled_linear"


def denoise(
    predict: Predict,
    noise: np.ndarray,
    schedule: NoiseScheduleConfig,
    sampling: SamplingConfig,
    on_step: Callable[[int, int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Follow the deterministic path from noise (B, C, T, F) to latents.

    Steps are evenly spaced in time and end at no noise; the first and the last are of first order, others of second.

    Args:
        predict: the guided denoiser.
        noise: standard normal.
        schedule: must be served.
        sampling: number of steps, the share of them in which guidance acts.
        on_step: called with (step, number of steps, latents); may raise to stop.

    C. Lu et al., "DPM-Solver++", arXiv 2211.01095, algorithm 2. Paper equations (12)-(16).
    """
    timesteps, alphas, sigmas = _path(schedule, sampling.num_inference_steps)
    steps = len(timesteps)
    low, high = (bound * steps for bound in sampling.guidance_interval)
    guides = sampling.guidance_scale != 1.0
    latents, former, former_gap = noise, None, 0.0
    for step, timestep in enumerate(timesteps):
        guided = guides and low <= step < max(high, low + 1e-9)
        prediction = predict(latents, int(timestep), guided)
        alpha, sigma, next_alpha, next_sigma = alphas[step], sigmas[step], alphas[step + 1], sigmas[step + 1]
        if schedule.prediction_type == "epsilon":
            clean = (latents - sigma * prediction) / alpha
        else:
            clean = alpha * latents - sigma * prediction
        ratio = (next_sigma * alpha) / (next_alpha * sigma)  # exp(-h), h the step in half log-SNR
        gap = -np.log(ratio) if ratio > 0.0 else np.inf
        target = clean
        if former is not None and step < steps - 1:
            target = clean + np.float32(0.5 * gap / former_gap) * (clean - former)
        latents = np.float32(next_sigma / sigma) * latents + np.float32(next_alpha * (1.0 - ratio)) * target
        former, former_gap = clean, gap
        if on_step is not None:
            on_step(step + 1, steps, latents)
    return latents


def _path(schedule: NoiseScheduleConfig, num_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return timesteps (N,), and the shares of signal and noise at each and after the last, (N + 1,) each."""
    num_train = schedule.num_train_timesteps
    betas = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, num_train) ** 2
    root = np.sqrt(np.cumprod(1.0 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])  # the last step holds no signal (arXiv 2305.08891) ...
    alpha_bar = root**2
    alpha_bar[-1] = 2.0**-24  # ... but for a trace, so that its noise is finite
    timesteps = np.arange(num_train, 0, -num_train / num_steps).round().astype(np.int64) - 1
    chosen = np.append(alpha_bar[timesteps], 1.0)
    return timesteps, np.sqrt(chosen).astype(np.float32), np.sqrt(1.0 - chosen).astype(np.float32)

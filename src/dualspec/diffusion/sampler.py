"""Guidance and the denoising loop over the schedulers of diffusers. Equations (12)-(16)."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from dualspec.diffusion.objective import NoiseScheduleConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SamplerName = Literal["ddpm", "ddim", "dpmpp", "unipc"]
SAMPLERS: tuple[SamplerName, ...] = ("ddpm", "ddim", "dpmpp", "unipc")
P = ParamSpec("P")
StepCallback = Callable[[int, Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How to draw a sample; the paper's own are 200 steps of ddpm at guidance 3 (section VI-B)."""

    sampler: SamplerName = "dpmpp"  # ddpm is ancestral (equations 13-15); the others are deterministic
    num_inference_steps: int = 25  # evaluations of the denoiser
    guidance_scale: float = 3.0  # w of equation (16); 1 means none
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # fractions of the loop in which guidance acts

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if not 1 <= self.num_inference_steps <= 1000:
            raise ValueError(f"num_inference_steps must be 1 to 1000, got {self.num_inference_steps}")
        if not 0.0 <= self.guidance_scale <= 20.0:
            raise ValueError(f"guidance_scale must be 0 to 20, got {self.guidance_scale}")
        low, high = self.guidance_interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"guidance_interval must rise within 0 to 1, got {self.guidance_interval}")

    def changed(
        self, num_inference_steps: int | None, guidance_scale: float | None, sampler: SamplerName | None
    ) -> SamplingConfig:
        """Return these settings with those replaced that are not None.

        Raises:
            ValueError: a setting is out of its range.
        """
        for name, value, kind in (
            ("num_inference_steps", num_inference_steps, numbers.Integral),
            ("guidance_scale", guidance_scale, numbers.Real),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                words = "whole number" if kind is numbers.Integral else "number"
                raise ValueError(f"{name} must be a {words}, got {value!r:.40}; leave it out for the model's own")
        changes = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
        chosen: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **chosen)


def make_scheduler(name: SamplerName, schedule: NoiseScheduleConfig) -> Any:
    """Return the diffusers scheduler `name` for the noise schedule, with latents left unclipped.

    ddpm is equations (13)-(15); dpmpp is DPM-Solver++(2M) spaced evenly in log-SNR.
    """
    import diffusers

    shared = schedule.scheduler_kwargs()
    spacing = {"timestep_spacing": "trailing"} if schedule.zero_terminal_snr else {}
    if name == "ddpm":
        return diffusers.DDPMScheduler(**shared, variance_type="fixed_small", clip_sample=False, **spacing)
    if name == "ddim":
        return diffusers.DDIMScheduler(**shared, clip_sample=False, set_alpha_to_one=True, **spacing)
    if name == "dpmpp":
        return diffusers.DPMSolverMultistepScheduler(
            **shared,
            algorithm_type="dpmsolver++",
            solver_order=2,
            use_lu_lambdas=not schedule.zero_terminal_snr,
            final_sigmas_type="zero",
            euler_at_final=True,
            **spacing,
        )
    return diffusers.UniPCMultistepScheduler(**shared, solver_order=2, **spacing)


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
    """Return w·conditional + (1 − w)·unconditional. Equation (16)."""
    return guidance_scale * conditional + (1.0 - guidance_scale) * unconditional


def _without_gradients(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorate as `torch.no_grad` does, which must be loaded only where something is sampled."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        import torch

        with torch.no_grad():
            return function(*args, **kwargs)

    return wrapped


def initial_noise(shape: tuple[int, ...], seeds: list[int], device: torch.device | str = "cpu") -> Tensor:
    """Return standard normal noise (len(seeds), *shape), each clip from its own seed, drawn on the CPU."""
    import torch

    clips = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(clips).to(device)


@_without_gradients
def sample(
    denoiser: nn.Module,
    schedule: NoiseScheduleConfig,
    config: SamplingConfig,
    *,
    noise: Tensor,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    negative_embeds: Tensor,
    negative_mask: Tensor,
    step_generators: list[torch.Generator] | None = None,
    callback: StepCallback | None = None,
    apart: bool = False,
) -> Tensor:
    """Denoise from pure noise to latents.

    Args:
        denoiser: maps latents, timesteps and text states to its prediction.
        schedule: the noise schedule it was trained with.
        config: sampler, steps, guidance.
        noise: (B, C, T, F) standard normal.
        prompt_embeds: (B, L, D) text states.
        prompt_mask: (B, L), True at words.
        negative_embeds: (B, L', D) states of the empty text.
        negative_mask: (B, L').
        step_generators: one per clip, for the noise that ddpm adds at every step.
        callback: called with (index, timestep, latents) after every step; returns the latents to go on with,
            and may raise to stop.
        apart: each clip passes the network as in a batch of its own, so that its mates move no bit of it.

    Returns:
        Latents (B, C, T, F).

    Paper section III-C and III-D, equations (12)-(16).
    """
    import torch

    scheduler = make_scheduler(config.sampler, schedule)
    scheduler.set_timesteps(config.num_inference_steps)  # on the host, where they choose coefficients
    timesteps = scheduler.timesteps.to(noise.device)
    latents = noise * scheduler.init_noise_sigma
    embeds, mask = _stack_text(prompt_embeds, prompt_mask, negative_embeds, negative_mask)
    batch, num_steps = noise.shape[0], len(scheduler.timesteps)
    predict = _each_apart(denoiser, batch) if apart and batch > 1 else denoiser
    low, high = (bound * num_steps for bound in config.guidance_interval)
    for step, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        guided = config.guidance_scale != 1.0 and low <= step < max(high, low + 1e-9)
        if guided:
            both = predict(torch.cat((model_input, model_input)), timesteps[step].expand(2 * batch), embeds, mask)
            prediction = guide(both[:batch], both[batch:], config.guidance_scale)
        else:
            prediction = predict(model_input, timesteps[step].expand(batch), embeds[:batch], mask[:batch])
        latents = _step(scheduler, prediction, timestep, latents, step_generators)
        if callback is not None:
            latents = callback(step, timestep, latents)
    return latents


def _each_apart(denoiser: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """Return a network that reads each clip of a batch, beside its unguided twin, with no more tokens than its own."""
    import torch

    def predict(latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        made = []
        for clip in range(batch):
            rows = slice(clip, None, batch)  # the clip and, where it is guided, its twin
            length = int(mask[rows].any(dim=0).nonzero().max()) + 1
            made.append(denoiser(latents[rows], timesteps[rows], embeds[rows, :length], mask[rows, :length]))
        return torch.stack(made, dim=1).flatten(0, 1)

    return predict


def _step(
    scheduler: Any, prediction: Tensor, timestep: Tensor, latents: Tensor, generators: list[torch.Generator] | None
) -> Tensor:
    """Take one scheduler step; ancestral noise comes from each clip's own generator."""
    if generators is None or "DDPM" not in type(scheduler).__name__:
        return scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return scheduler.step(prediction, timestep, latents, generator=generators, return_dict=False)[0]


def _stack_text(embeds: Tensor, mask: Tensor, negative: Tensor, negative_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pad prompt and empty text to one length and stack them: (2·B, L, D) and (2·B, L)."""
    import torch

    length = max(embeds.shape[1], negative.shape[1])

    def pad(states: Tensor, states_mask: Tensor) -> tuple[Tensor, Tensor]:
        missing = length - states.shape[1]
        return torch.nn.functional.pad(states, (0, 0, 0, missing)), torch.nn.functional.pad(states_mask, (0, missing))

    (embeds, mask), (negative, negative_mask) = pad(embeds, mask), pad(negative, negative_mask)
    return torch.cat((embeds, negative)), torch.cat((mask, negative_mask))

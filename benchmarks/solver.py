"""Fewer steps at equal quality, with a denoiser that makes no error; and what the loop costs beside the network.

python benchmarks/solver.py

The data are a mixture of Gaussians, whose best denoiser is a formula: what a sampler then misses is its own error. It
is the sliced Wasserstein distance of the samples to fresh data; two draws of data are its floor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compare import Row, at_most, interleaved, table
from dualspec.diffusion.objective import NoiseScheduleConfig, alphas_cumprod
from dualspec.diffusion.sampler import SamplerName, SamplingConfig, initial_noise, sample
from dualspec.engine.pipeline import OnnxPipeline
from dualspec.pipeline import DualSpecPipeline

SHAPE, COMPONENTS, SAMPLES, SPREAD = (1, 8, 8), 240, 6000, 0.25


class ExactDenoiser(nn.Module):
    """The expected noise of a mixture of Gaussians."""

    def __init__(self, means: Tensor, schedule: NoiseScheduleConfig) -> None:
        """Take the means (K, D)."""
        super().__init__()
        self.means, self.alpha_bar = means, alphas_cumprod(schedule).float()

    def forward(self, latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the prediction (B, C, T, F)."""
        alpha_bar = self.alpha_bar[timesteps[0].round().long()]
        noisy, centres = latents.flatten(1), alpha_bar.sqrt() * self.means
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        shares = (-torch.cdist(noisy, centres).square() / (2 * variance)).softmax(dim=1)
        return ((noisy - shares @ centres) * (1 - alpha_bar).sqrt() / variance).view_as(latents)


def draw(means: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = means[torch.randint(len(means), (SAMPLES,), generator=generator)]
    return chosen + SPREAD * torch.randn(chosen.shape, generator=generator)


def sliced_distance(first: Tensor, second: Tensor) -> float:
    """Return the sliced 2-Wasserstein distance of samples (N, D)."""
    directions = torch.randn(first.shape[1], 256, generator=torch.Generator().manual_seed(1))
    directions /= directions.norm(dim=0)
    gaps = (first @ directions).sort(dim=0).values - (second @ directions).sort(dim=0).values
    return float(gaps.square().mean().sqrt())


def solver_rows() -> list[Row]:
    schedule = NoiseScheduleConfig()
    means = torch.randn(COMPONENTS, 64, generator=torch.Generator().manual_seed(0))
    denoiser, fresh = ExactDenoiser(means, schedule), draw(means, 2)
    noise = initial_noise((SAMPLES, *SHAPE), [3])[0]
    nothing: dict[str, Any] = dict.fromkeys(("prompt_embeds", "negative_embeds"), torch.zeros(SAMPLES, 1, 1))
    nothing |= dict.fromkeys(("prompt_mask", "negative_mask"), torch.ones(SAMPLES, 1, dtype=torch.bool))

    def error(sampler: SamplerName, steps: int) -> float:
        how = SamplingConfig(sampler=sampler, num_inference_steps=steps, guidance_scale=1.0)
        generators = [torch.Generator().manual_seed(5)] if sampler == "ddpm" else None
        found = sample(denoiser, schedule, how, noise=noise, step_generators=generators, **nothing)
        return sliced_distance(found.flatten(1), fresh)

    floor = sliced_distance(draw(means, 4), fresh)
    few, many = error("dpmpp", 15), error("ddpm", 200)
    counts = f"{COMPONENTS} Gaussians in 64 dimensions, {SAMPLES} samples: {few:.4f}"
    return [
        at_most("error of DPM-Solver++ in 15 steps / floor", 1.05, few / floor, f"{counts} / {floor:.4f}"),
        at_most("error of DPM-Solver++ in 15 steps / DDPM in 200", 1.0, few / many, f"{counts} / {many:.4f}"),
    ]


def loop_rows(steps: int = 10) -> list[Row]:
    torch.set_num_threads(1)
    reference, engine = DualSpecPipeline.from_pretrained(), OnnxPipeline(num_threads=1)
    prompt = ["EVENT: Dog bark & LOCATION: 3 o'clock direction"]
    config = replace(reference.sampling_config(steps), guidance_interval=(0.0, 1.0))  # a pair in every step, as "bare"
    embeds, mask = reference.text_encoder.encode([*prompt, ""])
    noise = initial_noise(reference.pairing.packed_shape, [0])
    pair = torch.cat((noise, noise))
    states, states_mask = engine.text_encoder.encode([*prompt, ""])
    feed = {"latents": pair.numpy(), "timesteps": torch.full((2,), 500).numpy()}
    feed |= {"prompt_embeds": states, "prompt_mask": states_mask}
    text = {"prompt_embeds": embeds[:1], "prompt_mask": mask[:1], "negative_embeds": embeds[1:]}
    text["negative_mask"] = mask[1:]

    def bare() -> None:
        with torch.no_grad():
            for _ in range(steps):
                reference.denoiser(pair, torch.full((2,), 500), embeds, mask)

    best = interleaved(
        {
            "torch loop": lambda: sample(reference.denoiser, reference.config.schedule, config, noise=noise, **text),
            "torch bare": bare,
            "onnx loop": lambda: engine._denoise(prompt, [0], config, None),
            "onnx bare": lambda: [engine._denoiser.run(None, feed) for _ in range(steps)],
        }
    )
    counts = f"{steps} steps of the embedded model, guided, one thread, best of 5"
    return [
        at_most("loop of torch / its bare network", 1.01, best["torch loop"] / best["torch bare"], counts),
        at_most(
            "loop, noise and text of the ONNX engine / its bare network",
            1.10,
            best["onnx loop"] / best["onnx bare"],
            counts,
        ),
    ]


def measure() -> list[Row]:
    return solver_rows() + loop_rows()


if __name__ == "__main__":
    print(table(measure()))

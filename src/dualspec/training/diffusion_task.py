"""Training a denoiser on the latents of two-eared clips and the words that describe them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.objective import (
    add_noise,
    alphas_cumprod,
    drop_prompts,
    part_loss,
    prediction_target,
    snr_weight,
)
from dualspec.diffusion.variant import VariantConfig
from dualspec.latents.pairing import LatentPairing
from dualspec.latents.vae import SpectrogramVae
from dualspec.text.encoder import TextEncoder
from dualspec.text.lexicon import Lexicon, location_weights
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import draw_location_style, prompt_for
from dualspec.training.latent_bank import LatentBank
from dualspec.training.prompt_bank import PromptBank
from dualspec.training.task import (
    Batch,
    BinauralSource,
    Logs,
    OptimizerConfig,
    Phase,
    RenderConfig,
    StepRandom,
    held_out_batches,
)
from dualspec.training.weights import save_weights


@dataclass(frozen=True, kw_only=True)
class DiffusionTaskConfig:
    """How a denoiser is trained."""

    kind: Literal["diffusion"] = "diffusion"
    variant: VariantConfig  # the system
    render: RenderConfig = field(default_factory=RenderConfig)  # its clips: the first 5.12 s
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=3e-5, weight_decay=1e-2, betas=(0.9, 0.999))
    )
    part_weights: tuple[float, ...] | None = (
        None  # of the latents' errors, in packing order; None: 1 each (decision 10)
    )
    snr_gamma: float | None = 5.0  # γ of the min-SNR weights; None: no weights (decision 14)
    prompt_dropout: float = 0.1  # share of prompts replaced by the empty text (decision 15)
    lexicon: Lexicon = "distinct"  # synonyms of the general descriptor
    sample_posterior: bool = True  # train on draws from the VAE's posterior, else on its mean
    max_cached_prompts: int = 60_000  # encoded prompts kept in memory
    keep_latents: bool = False  # encode each clip once at each direction, not at each visit


class DenoiserPhase(Phase):
    """The weighted squared error of the denoiser. Equation (11)."""

    alpha_bars: Tensor

    def __init__(self, config: DiffusionTaskConfig, pairing: LatentPairing) -> None:
        """Build the denoiser and its noise schedule."""
        super().__init__()
        if config.part_weights is not None and len(config.part_weights) != len(pairing.shapes):
            raise ValueError(
                f"part_weights must be one for each of {len(pairing.shapes)} latents, got {config.part_weights}; "
                "they are in the order in which the latents are packed"
            )
        self.config, self.pairing = config, pairing
        self.optimizer_config = config.optimizer
        self.denoiser = build_denoiser(config.variant.denoiser)
        self.register_buffer("alpha_bars", alphas_cumprod(config.variant.schedule), persistent=False)

    def compile_networks(self) -> None:
        """Compile the denoiser for each size of batch and text, which is faster than one for all."""
        self.denoiser.compile(dynamic=False)

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss per clip (B,) at one drawn timestep each."""
        schedule, latents = self.config.variant.schedule, batch["latents"]
        timesteps = random.integers(schedule.num_train_timesteps).to(latents.device, non_blocking=True)
        alpha_bar = self.alpha_bars[timesteps]
        noise = random.normal(tuple(latents.shape[1:]))
        noisy = add_noise(latents, noise, alpha_bar)
        target = prediction_target(latents, noise, alpha_bar, schedule.prediction_type)
        prediction = self.denoiser(noisy, timesteps, batch["prompt_embeds"], batch["prompt_mask"])
        parts = self.pairing.unpack(prediction), self.pairing.unpack(target)
        error = part_loss(*parts)
        loss = error if self.config.part_weights is None else part_loss(*parts, self.config.part_weights)
        weighted = loss * snr_weight(alpha_bar, schedule.prediction_type, self.config.snr_gamma).to(error)
        return weighted, {"error": error.mean().detach()}


class DiffusionTask:
    """Train one variant's denoiser. Paper sections III-C, V-C and VI-B.

    Args:
        config: variant, loss, optimizer.
        source: training clips.
        held_out: validation clips.
        vaes: the trained VAEs, by part name.
        text_encoder: the frozen text encoder.
        latents_folder: where kept latents outlive the process; in memory alone if None.
    """

    def __init__(
        self,
        config: DiffusionTaskConfig,
        source: BinauralSource,
        held_out: BinauralSource,
        vaes: dict[str, SpectrogramVae],
        text_encoder: TextEncoder,
        latents_folder: Path | None = None,
    ) -> None:
        """Freeze the VAEs and build the denoiser on the device of the clips."""
        self.config, self.source, self.held_out = config, source, held_out
        self.location_words = LocationWords(num_azimuths=config.render.num_azimuths, lexicon=config.lexicon)
        self.location_weights = location_weights(config.render.num_azimuths)
        for clips in (source, held_out):
            clips.weigh_directions([sum(weights) for weights in self.location_weights])
        device = source.hrirs.device
        self.vaes = [vaes[part].to(device).eval().requires_grad_(False) for part in config.variant.parts]
        self.latents: LatentBank | None = None
        if config.keep_latents:
            self.latents = LatentBank(source, self.vaes, posterior=config.sample_posterior, folder=latents_folder)
        self.prompts = PromptBank(text_encoder.to(device), config.max_cached_prompts)
        self.pairing = config.variant.latent_pairing({part: vaes[part].config for part in config.variant.parts})
        self.phase = DenoiserPhase(config, self.pairing).to(device)
        self.phases: dict[str, Phase] = {"denoiser": self.phase}

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""
        return len(self.source)

    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Render clips, write a prompt for each, encode both."""
        return self._encode(self.source, indices, random, self.config.prompt_dropout)

    @torch.no_grad()
    def _encode(self, source: BinauralSource, indices: Tensor, random: StepRandom, dropout: float) -> Batch:
        if self.latents is not None and source is self.source:
            latents, directions = self.latents.draw(indices, random)
        else:
            waveform, directions = source.draw(indices, random)
            posterior = random.normal if self.config.sample_posterior else None
            latents = [latent for vae in self.vaes for latent in vae.encode(waveform, posterior)]
        prompts = self._write_prompts(source, indices, directions, random)
        if dropout:
            prompts = drop_prompts(prompts, dropout, random.uniform())
        embeds, mask = self.prompts.encode(prompts, latents[0].device)
        return {
            "latents": self.pairing.pack(latents),
            "prompt_embeds": embeds,
            "prompt_mask": mask,
            **source.weights_of(indices),
        }

    def _write_prompts(
        self, source: BinauralSource, indices: Tensor, directions: Tensor, random: StepRandom
    ) -> list[str]:
        """Draw descriptor, wording and one of several labels for each clip from the clip's own generator.

        With the directions that are drawn for it, each style has a third of the visits, and its directions are equally
        likely. Where a list fixes the directions, the styles that can name one are.
        """
        prompts, azimuths_deg, num_azimuths = [], source.azimuths_deg.tolist(), len(source.azimuths_deg)
        rows = zip(source.clips_of(indices).tolist(), directions.tolist(), random.row_generators(), strict=True)
        for index, direction, generator in rows:
            labels = source.bank.labels[index]
            labels = (labels,) if isinstance(labels, str) else labels
            label = labels[int(torch.randint(len(labels), (1,), generator=generator))]
            weights = self.location_weights[direction]
            if source.pairs is not None:
                weights = [min(weight, 1) for weight in weights]
            style = draw_location_style(generator, weights=weights)
            words: dict[str, Any] = {"lexicon": self.config.lexicon, "num_azimuths": num_azimuths}
            prompts.append(prompt_for(label, azimuths_deg[direction], style, generator=generator, **words))
        return prompts

    @torch.no_grad()
    def validate(self, batch_size: int) -> dict[str, float]:
        """Return the weighted and plain error on held-out clips, without dropout."""
        total, plain, count = 0.0, 0.0, 0
        for indices, random in held_out_batches(self.held_out, 128, batch_size):
            loss, logs = self.phase(self._encode(self.held_out, indices, random, 0.0), random, 0, 0.0)
            total += float(loss.sum())
            plain += float(logs["error"]) * len(indices)
            count += len(indices)
        return {"loss": total / count, "error": plain / count}

    def export(self, folder: Any, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> None:
        """Write the denoiser."""
        variant = replace(self.config.variant, location_words=self.location_words)
        save_weights(folder, self.phase.denoiser, variant, dtype=dtype, notes=notes)

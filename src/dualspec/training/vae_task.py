"""Training a VAE: reconstruction, interaural terms, KL, and the patch adversary after its warm-up."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dualspec.latents.adversary import PatchDiscriminator, PatchDiscriminatorConfig
from dualspec.latents.frame_autoencoder import FrameAutoencoder
from dualspec.latents.losses import (
    VaeLossConfig,
    adaptive_adversarial_weight,
    adversary_active,
    hinge_discriminator_loss,
    kl_divergence,
    reconstruction_loss,
)
from dualspec.latents.vae import SpectrogramVae, VaeConfig, waveform_to_channels
from dualspec.training.task import (
    Batch,
    BinauralSource,
    Logs,
    OptimizerConfig,
    Phase,
    RenderConfig,
    StepRandom,
    counted,
    fixed_indices,
    held_out_batches,
)
from dualspec.training.weights import save_weights


@dataclass(frozen=True, kw_only=True)
class VaeTaskConfig:
    """How a VAE is trained."""

    kind: Literal["vae"] = "vae"
    vae: VaeConfig  # the model
    render: RenderConfig = field(default_factory=RenderConfig)  # its clips
    loss: VaeLossConfig = field(default_factory=VaeLossConfig)  # its loss
    discriminator_channels: int = 64  # channels of the adversary's first layer
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # of the VAE
    discriminator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # of the adversary
    scale_clips: int = 1000  # clips whose latents measure the latent scale (decision 18)
    decoder_only: bool = False  # keep the encoder of given weights: what was trained on its latents stays valid


class VaePhase(Phase):
    """The VAE's own loss: reconstruction + KL + adversarial."""

    def __init__(self, vae: SpectrogramVae, discriminator: PatchDiscriminator, config: VaeTaskConfig) -> None:
        """Keep the adversary out of this phase's parameters."""
        super().__init__()
        self.vae, self.config = vae, config
        self.optimizer_config = config.optimizer
        self._adversary = [discriminator]

    def compile_networks(self) -> None:
        """Compile encoder and decoder, which are called each on its own."""
        for name in ("encode_moments", "decode_channels"):
            setattr(self.vae, name, torch.compile(getattr(self.vae, name)))

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss per clip (B,) and its terms; leaves the reconstruction in the batch for the adversary."""
        weights, channels = self.config.loss, batch["channels"]
        mean, log_variance = self.vae.encode_moments(channels)
        ears = mean.shape[0] // len(batch["weight"])
        noise = random.normal((ears, *mean.shape[1:])).reshape(mean.shape)
        estimate = self.vae.decode_channels(mean + noise * (0.5 * log_variance).exp())
        loss, logs = reconstruction_loss(channels, estimate, self.config.vae, weights)
        kl = kl_divergence(mean, log_variance)
        logs["kl"] = kl.mean().detach()
        total = loss + weights.kl_weight * kl
        batch["reconstruction"] = estimate.detach()
        if adversary_active(weights, step, progress):
            discriminator = self._adversary[0].requires_grad_(False)
            adversarial = -discriminator(estimate).flatten(1).mean(dim=1)
            discriminator.requires_grad_(True)
            balance = torch.ones(())
            if self.training and torch.is_grad_enabled():
                balance = adaptive_adversarial_weight(
                    counted(batch, loss).mean(), counted(batch, adversarial).mean(), self.vae.last_layer()
                )
            total = total + weights.adversarial_weight * balance * adversarial
            logs["adversarial"] = adversarial.mean().detach()
        return total.reshape(-1, ears).mean(dim=1), logs


class DiscriminatorPhase(Phase):
    """The adversary's hinge loss on the reconstruction that the VAE's phase left behind."""

    averaged = False

    def __init__(self, discriminator: PatchDiscriminator, config: VaeTaskConfig) -> None:
        """Hold the adversary."""
        super().__init__()
        self.discriminator, self.config = discriminator, config
        self.optimizer_config = config.discriminator_optimizer

    def active(self, step: int, progress: float) -> bool:
        """Start after the warm-up. Paper section VI-A."""
        return adversary_active(self.config.loss, step, progress)

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the hinge loss per clip (B,)."""
        real, fake = (self.discriminator(counted(batch, batch[name])) for name in ("channels", "reconstruction"))
        loss = hinge_discriminator_loss(real, fake)
        return loss.expand(len(batch["weight"])), {"discriminator": loss.detach()}


class VaeTask:
    """Train one of the VAEs on two-eared clips. Paper sections III-E and VI-A.

    Args:
        config: model, loss, optimizers.
        source: training clips.
        held_out: validation clips.
    """

    def __init__(self, config: VaeTaskConfig, source: BinauralSource, held_out: BinauralSource) -> None:
        """Build VAE and adversary on the device of the clips."""
        self.config, self.source, self.held_out = config, source, held_out
        device = source.hrirs.device
        self.vae = SpectrogramVae(config.vae).to(device)
        if config.decoder_only:
            for module in self.vae.encoder_modules():
                module.requires_grad_(False)
        adversary = PatchDiscriminatorConfig(
            in_channels=config.vae.num_channels, base_channels=config.discriminator_channels
        )
        discriminator = PatchDiscriminator(adversary).to(device)
        self.phases: dict[str, Phase] = {"vae": VaePhase(self.vae, discriminator, config)}
        if config.loss.adversarial_weight:
            self.phases["discriminator"] = DiscriminatorPhase(discriminator, config)

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""
        return len(self.source)

    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Render clips and compute their channels."""
        waveform, _ = self.source.draw(indices, random)
        return {
            "channels": waveform_to_channels(waveform, self.config.vae),
            **self.source.weights_of(indices),
        }

    @torch.no_grad()
    def validate(self, batch_size: int) -> dict[str, float]:
        """Return the loss terms on held-out clips (posterior drawn with a fixed seed)."""
        phase, count = self.phases["vae"], 0
        totals: dict[str, float] = {}
        for indices, random in held_out_batches(self.held_out, 64, batch_size):
            waveform, _ = self.held_out.draw(indices, random)
            batch = {"channels": waveform_to_channels(waveform, self.config.vae), "weight": torch.ones(len(indices))}
            loss, logs = phase(batch, random, 0, 0.0)
            for name, value in {"loss": loss.mean(), **logs}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(indices)
            count += len(indices)
        return {name: value / count for name, value in totals.items()}

    @torch.no_grad()
    def start_from_clips(self) -> None:
        """Set a linear encoder and decoder to the principal components of training clips."""
        network = self.vae.autoencoder
        if isinstance(network, FrameAutoencoder) and network.config.linear:
            network.start_from(channels for channels, _ in self._some_clips())
            self.measure_latent_scale()

    @torch.no_grad()
    def measure_latent_scale(self) -> None:
        """Measure 1/std of posterior samples over training clips and store it in the VAE. Decision 18."""
        samples = []
        for channels, random in self._some_clips():
            mean, log_variance = self.vae.encode_moments(channels)
            noise = torch.randn(mean.shape, generator=random.generator, device=mean.device)
            samples.append(mean + noise * (0.5 * log_variance).exp())
        self.vae.set_latent_scale(torch.cat(samples))

    def _some_clips(self) -> Iterator[tuple[Tensor, StepRandom]]:
        """Yield channels (B, C, T, F) of training clips that could be read, the same ones every time."""
        chosen = fixed_indices(len(self.source), self.config.scale_clips)
        chosen = chosen[self.source.weights_of(chosen)["weight"].cpu() > 0]
        for step, indices in enumerate(chosen.split(16)):
            random = StepRandom(2, step, slice(None), len(indices), self.source.hrirs.device)
            waveform, _ = self.source.draw(indices, random)
            yield waveform_to_channels(waveform, self.config.vae), random

    def export(self, folder: Any, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> None:
        """Measure the latent scale, unless the encoder was kept, and write the VAE."""
        if not self.config.decoder_only:
            self.measure_latent_scale()
        save_weights(folder, self.vae, self.config.vae, dtype=dtype, notes=notes)

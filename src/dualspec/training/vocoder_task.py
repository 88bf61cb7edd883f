"""Training a vocoder on one signal of two-eared clips: mel and STFT losses, then adversaries."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualspec.features.mel import log_mel
from dualspec.latents.vae import SpectrogramVae
from dualspec.synthesis.discriminators import (
    Judgement,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    PeriodDiscriminatorConfig,
    ResolutionDiscriminatorConfig,
)
from dualspec.synthesis.mid_signal import common_phase_mid, mid_mel
from dualspec.synthesis.vocoder import HifiGanConfig, IstftHeadConfig, build_vocoder
from dualspec.synthesis.vocoder_losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    mel_l1_loss,
    multi_resolution_stft_loss,
)
from dualspec.training.task import (
    Batch,
    BinauralSource,
    Logs,
    OptimizerConfig,
    Phase,
    RenderConfig,
    StepRandom,
    counted,
    held_out_batches,
)
from dualspec.training.weights import save_weights


@dataclass(frozen=True, kw_only=True)
class VocoderTaskConfig:
    """How a vocoder is trained."""

    kind: Literal["vocoder"] = "vocoder"
    vocoder: HifiGanConfig | IstftHeadConfig  # the model
    signal: Literal["ear", "decoded_mid"] = "ear"
    """One `ear` is made from its own mel, `decoded_mid`, the mid of both ears, from mels that the Mel-VAE decoded."""
    render: RenderConfig = field(
        default_factory=lambda: RenderConfig(num_samples=16_384, random_crop=True)
    )  # its clips
    mel_weight: float = 15.0  # on the log-mel L1
    stft_weight: float = 1.0  # on the multi-resolution STFT loss
    feature_weight: float = 2.0  # on feature matching
    adversarial_weight: float = 1.0  # on the adversarial loss; 0 turns the adversaries off
    adversarial_start_fraction: float = 0.3  # fraction of the run without adversaries
    adversarial_samples: int = 0  # samples that the adversaries hear, cut anywhere from each clip; 0: all of it
    periods: PeriodDiscriminatorConfig = field(default_factory=PeriodDiscriminatorConfig)  # multi-period adversary
    resolutions: ResolutionDiscriminatorConfig = field(default_factory=ResolutionDiscriminatorConfig)  # STFT adversary
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-4, betas=(0.8, 0.99)))
    discriminator_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=2e-4, betas=(0.8, 0.99))
    )


class Adversaries(nn.Module):
    """The multi-period and the multi-resolution discriminator as one."""

    def __init__(self, config: VocoderTaskConfig) -> None:
        """Build both."""
        super().__init__()
        self.periods = MultiPeriodDiscriminator(config.periods)
        self.resolutions = MultiResolutionDiscriminator(config.resolutions)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Return the judgements of all members on waveforms (B, S)."""
        return [*self.periods(waveform), *self.resolutions(waveform)]


class VocoderPhase(Phase):
    """The vocoder's loss against the sound its mel came from."""

    def __init__(self, config: VocoderTaskConfig, adversaries: Adversaries) -> None:
        """Build the vocoder; keep the adversaries out of this phase's parameters."""
        super().__init__()
        self.config = config
        self.vocoder = build_vocoder(config.vocoder)
        self.optimizer_config = config.optimizer
        self._adversaries = [adversaries]

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss, the same for every clip (B,), and its terms; leaves for the adversaries what they judge."""
        reference, config = counted(batch, batch["waveform"]), self.config
        estimate = self.vocoder(counted(batch, batch["log_mel"]))[..., : reference.shape[-1]].float()
        mel = mel_l1_loss(reference, estimate, config.vocoder.mel)
        spectral = multi_resolution_stft_loss(reference, estimate)
        loss = config.mel_weight * mel + config.stft_weight * spectral
        logs = {"mel_l1": mel.detach(), "stft": spectral.detach()}
        if config.adversarial_weight and progress >= config.adversarial_start_fraction and self.training:
            heard, made = _same_part(reference, estimate, config.adversarial_samples, random)
            batch["heard"], batch["made"] = heard, made.detach()
            adversaries = self._adversaries[0].requires_grad_(False)
            judged = adversaries(made)
            with torch.no_grad():
                real = adversaries(heard)
            adversaries.requires_grad_(True)
            adversarial, features = adversarial_loss(judged), feature_matching_loss(real, judged)
            loss = loss + config.adversarial_weight * adversarial + config.feature_weight * features
            logs |= {"adversarial": adversarial.detach(), "features": features.detach()}
        return loss.expand(len(batch["weight"])), logs


class AdversariesPhase(Phase):
    """The adversaries' loss on real sound and on the vocoder's estimate."""

    averaged = False

    def __init__(self, adversaries: Adversaries, config: VocoderTaskConfig) -> None:
        """Hold the adversaries."""
        super().__init__()
        self.adversaries, self.config = adversaries, config
        self.optimizer_config = config.discriminator_optimizer

    def active(self, step: int, progress: float) -> bool:
        """Start after the warm-up."""
        return progress >= self.config.adversarial_start_fraction

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss, the same for every clip (B,)."""
        loss = discriminator_loss(self.adversaries(batch["heard"]), self.adversaries(batch["made"]))
        return loss.expand(len(batch["weight"])), {}


def _same_part(reference: Tensor, estimate: Tensor, length: int, random: StepRandom) -> tuple[Tensor, Tensor]:
    """Cut the same part of `length` samples from both (B, S), elsewhere in each clip; all of them where it is 0."""
    size = reference.shape[-1]
    if not 0 < length < size:
        return reference, estimate
    starts = random.integers(size - length + 1)[: len(reference)].to(reference.device, non_blocking=True)
    places = starts[:, None] + torch.arange(length, device=reference.device)
    return reference.gather(1, places), estimate.gather(1, places)


class VocoderTask:
    """Train a vocoder on single ears, or on the mid signal, of two-eared clips. Decision 20.

    Args:
        config: model, losses, optimizers.
        source: training clips.
        held_out: validation clips.
        mel_vae: the trained Mel-VAE, for `decoded_mid` alone.

    Raises:
        ValueError: `decoded_mid` has no Mel-VAE, or one with another mel than the vocoder's.
    """

    def __init__(
        self,
        config: VocoderTaskConfig,
        source: BinauralSource,
        held_out: BinauralSource,
        mel_vae: SpectrogramVae | None = None,
    ) -> None:
        """Build vocoder and adversaries on the device of the clips."""
        self.config, self.source, self.held_out = config, source, held_out
        device = source.hrirs.device
        self.mel_vae = None
        if config.signal == "decoded_mid":
            if mel_vae is None or mel_vae.config.mel != config.vocoder.mel:
                raise ValueError(
                    "mel_vae must be given with the vocoder's mel settings for signal 'decoded_mid', got "
                    f"{'none' if mel_vae is None else 'one with others'}; train it first, or set task.signal=ear"
                )
            self.mel_vae = mel_vae.to(device).eval().requires_grad_(False)
        adversaries = Adversaries(config).to(device)
        self.phase = VocoderPhase(config, adversaries).to(device)
        self.phases: dict[str, Phase] = {"vocoder": self.phase}
        if config.adversarial_weight:
            self.phases["adversaries"] = AdversariesPhase(adversaries, config)

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""
        return len(self.source)

    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Render clips; keep one ear of each, drawn at random, or the mid."""
        return self._batch(self.source, indices, random)

    @torch.no_grad()
    def _batch(self, source: BinauralSource, indices: Tensor, random: StepRandom) -> Batch:
        waveform, _ = source.draw(indices, random)
        if self.mel_vae is None:
            ears = random.integers(2).to(waveform.device, non_blocking=True)
            signal = waveform[torch.arange(len(ears), device=waveform.device), ears]
            mel = log_mel(signal, self.config.vocoder.mel)
        else:
            signal = common_phase_mid(waveform)
            decoded = self.mel_vae.decode(self.mel_vae.encode(waveform)).log_mel
            assert decoded is not None
            mel = mid_mel(decoded)[:, 0]
        return {"waveform": signal, "log_mel": mel, **source.weights_of(indices)}

    @torch.no_grad()
    def validate(self, batch_size: int) -> dict[str, float]:
        """Return log-mel L1 and STFT loss on held-out clips."""
        totals: dict[str, float] = {}
        count = 0
        for indices, random in held_out_batches(self.held_out, 64, batch_size):
            _, logs = self.phase(self._batch(self.held_out, indices, random), random, 0, 0.0)
            for name, value in logs.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(indices)
            count += len(indices)
        return {name: value / count for name, value in totals.items()}

    def export(self, folder: Any, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> None:
        """Write the vocoder."""
        save_weights(folder, self.phase.vocoder, self.config.vocoder, dtype=dtype, notes=notes)

"""Training the azimuth classifier of section IV on true two-eared clips."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualspec.audio.azimuth import circular_error_deg
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.training.augment import AugmentConfig, Augmenter
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
class LocalizerTaskConfig:
    """How the localizer is trained."""

    kind: Literal["localizer"] = "localizer"
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)  # the model
    render: RenderConfig = field(
        default_factory=lambda: RenderConfig(num_samples=16_384, random_crop=True, gain_range_db=20.0)
    )
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, weight_decay=1e-2))
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # none: the paper's clean clips


class LocalizerPhase(Phase):
    """Cross-entropy over the azimuth sectors; a clip without direction has a target without one."""

    def __init__(self, config: LocalizerTaskConfig) -> None:
        """Build the classifier."""
        super().__init__()
        self.optimizer_config = config.optimizer
        self.localizer = Localizer(config.localizer)
        self.localizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the cross-entropy per clip (B,)."""
        logits = self.localizer(batch["waveform"])
        loss = nn.functional.cross_entropy(logits, batch["target"], reduction="none")
        directed = batch["target"].amax(dim=1) > 0.5
        correct = (logits.argmax(dim=1) == batch["target"].argmax(dim=1)) & directed
        return loss, {"accuracy": correct.sum() / directed.sum().clamp(min=1)}


class LocalizerTask:
    """Train the localizer. Paper section IV, decision 24.

    Args:
        config: model, changes of the clips, optimizer.
        source: training clips.
        held_out: validation clips.
    """

    def __init__(self, config: LocalizerTaskConfig, source: BinauralSource, held_out: BinauralSource) -> None:
        """Build the classifier on the device of the clips."""
        self.config, self.source, self.held_out = config, source, held_out
        self.augmenter = Augmenter(config.augment, source.bank.sample_rate)
        self.phase = LocalizerPhase(config).to(source.hrirs.device)
        self.phases: dict[str, Phase] = {"localizer": self.phase}

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""
        return len(self.source)

    @torch.no_grad()
    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Render clips, changed as the config says. A silent crop weighs nothing."""
        source, augmenter = self.source, self.augmenter
        directions, heads = (
            drawn.to(source.hrirs.device, non_blocking=True) for drawn in source.draw_directions(indices, random)
        )
        mono = source.crop(indices, random)
        mixes = self.config.augment.mixture > 0
        others = source.crop(random.integers(len(source)), random) if mixes else None
        uniform = random.uniform()
        hrirs = augmenter.change_heads(source.hrirs[heads], random)
        binaural = augmenter.render(augmenter.change_source(mono, others, random), hrirs, directions, random)
        binaural = source.level(augmenter.change_ears(binaural, random), uniform)
        binaural, targets = augmenter.remove_direction(binaural, directions, random)
        audible = mono.square().mean(dim=1).sqrt() > 1e-4
        return {"waveform": binaural, "target": targets, "weight": audible.float()}

    @torch.no_grad()
    def validate(self, batch_size: int) -> dict[str, float]:
        """Return accuracy and mean absolute error in degrees on held-out clips, whole and without noise."""
        predicted, wanted = [], []
        for indices, random in held_out_batches(self.held_out, 256, batch_size):
            waveform, directions = self.held_out.draw(indices, random)
            audible = waveform.square().mean(dim=(1, 2)).sqrt() > 1e-4
            predicted.append(self.phase.localizer(waveform).argmax(dim=1).cpu()[audible.cpu()])
            wanted.append(directions[audible.cpu()])
        predicted_class, wanted_class = torch.cat(predicted), torch.cat(wanted)
        angles = self.held_out.azimuths_deg
        errors = circular_error_deg(angles[wanted_class], angles[predicted_class])
        return {
            "accuracy": float((predicted_class == wanted_class).float().mean()),
            "azimuth_mae_deg": float(errors.mean()),
            "num_clips": float(len(wanted_class)),
        }

    def export(self, folder: Any, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> None:
        """Write the localizer."""
        save_weights(folder, self.phase.localizer, self.config.localizer, dtype=dtype, notes=notes)

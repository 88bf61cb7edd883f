"""Training the azimuth classifier of section IV on true two-eared clips."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualspec.audio.azimuth import circular_error_deg
from dualspec.hearing.localizer import Localizer, LocalizerConfig
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
    noise_range_db: tuple[float, float] = (20.0, 60.0)  # signal-to-noise ratio of noise added to each ear


class LocalizerPhase(Phase):
    """Cross-entropy over the azimuth sectors."""

    def __init__(self, config: LocalizerTaskConfig) -> None:
        """Build the classifier."""
        super().__init__()
        self.optimizer_config = config.optimizer
        self.localizer = Localizer(config.localizer)

    def forward(self, batch: Batch, random: StepRandom, step: int, progress: float) -> tuple[Tensor, Logs]:
        """Return the cross-entropy per clip (B,)."""
        logits = self.localizer(batch["waveform"])
        loss = nn.functional.cross_entropy(logits, batch["direction"], reduction="none")
        return loss, {"accuracy": (logits.argmax(dim=1) == batch["direction"]).float().mean()}


class LocalizerTask:
    """Train the localizer. Paper section IV, decision 24.

    Args:
        config: model, noise, optimizer.
        source: training clips.
        held_out: validation clips.
    """

    def __init__(self, config: LocalizerTaskConfig, source: BinauralSource, held_out: BinauralSource) -> None:
        """Build the classifier on the device of the clips."""
        self.config, self.source, self.held_out = config, source, held_out
        self.phase = LocalizerPhase(config).to(source.hrirs.device)
        self.phases: dict[str, Phase] = {"localizer": self.phase}

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""
        return len(self.source)

    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Render clips and add independent noise to the ears. A silent crop weighs nothing."""
        return self._batch(self.source, indices, random)

    @torch.no_grad()
    def _batch(self, source: BinauralSource, indices: Tensor, random: StepRandom) -> Batch:
        waveform, directions = source.draw(indices, random)
        low, high = self.config.noise_range_db
        ratio_db = low + (high - low) * random.uniform().to(waveform)
        level = waveform.square().mean(dim=(1, 2)).sqrt()
        noise = random.normal(tuple(waveform.shape[1:])) * (level * 10 ** (-ratio_db / 20))[:, None, None]
        return {
            "waveform": waveform + noise,
            "direction": directions.to(waveform.device),
            "weight": (level > 1e-4).float(),
        }

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

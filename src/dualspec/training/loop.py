"""The single training loop: accumulate, clip, step, average, log, validate, save.

One process needs no launcher; `torchrun` gives several, each with its rows of the same global batch.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dualspec.training.checkpoint import (
    load_optimizer_tensors,
    newest_checkpoint,
    optimizer_tensors,
    save_checkpoint,
)
from dualspec.training.processes import Processes
from dualspec.training.signals import signals_noted
from dualspec.training.task import Batch, Phase, StepRandom, Task, global_batch
from dualspec.training.weights import load_strictly


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how large and how often."""

    seed: int = 0  # of order, noise, crops, directions
    max_steps: int = 100_000  # steps of the whole run
    max_minutes: float = 0.0  # stop, and end the learning-rate schedule, after this time; 0: by steps alone
    batch_size: int = 32  # clips per step, over all processes and accumulation
    accumulate: int = 1  # parts into which a process cuts its share of the batch
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"  # from the peak to zero
    warmup_steps: int = 100  # linear rise from zero
    ema_decay: float = 0.999  # of the averaged weights; 0: no average
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bf16 is autocast with fp32 weights; auto: on a GPU only
    compile: bool = False  # torch.compile the networks that have a forward of their own (denoiser, vocoder)
    log_every: int = 20  # steps between log lines
    validate_every: int = 500  # steps between validations; 0: never
    save_every: int = 500  # steps between checkpoints
    max_bad_steps: int = 10  # steps with a non-finite loss in a row before the run stops


@dataclass
class RunState:
    """What moves while the loop runs."""

    step: int = 0
    elapsed_s: float = 0.0
    bad_steps: int = 0
    stop_signal: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Run a task from its newest checkpoint, or from the start, to its end.

    Args:
        task: what is trained.
        config: how.
        folder: the run's folder: `log.jsonl`, `checkpoints/`, `weights/`.
        processes: this process among all of them.
        report: called with a line of text per log entry (process 0 only).
        on_progress: called with the fraction of the run that is done, after every step.
    """

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        processes: Processes,
        report: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Build optimizers and averages; wrap the phases for several processes."""
        self.on_progress = on_progress
        self.task, self.config, self.folder, self.processes, self.report = task, config, folder, processes, report
        self.state = RunState()
        share = config.batch_size / processes.world_size / config.accumulate
        if share != int(share) or share < 1:
            raise ValueError(
                "batch_size must be a multiple of processes × accumulate = "
                f"{processes.world_size * config.accumulate}, got {config.batch_size}"
            )
        self.micro_batch = int(share)
        self.optimizers = {name: _optimizer(phase) for name, phase in task.phases.items()}
        self.averages = {
            name: {key: value.detach().clone() for key, value in phase.named_parameters() if value.requires_grad}
            for name, phase in task.phases.items()
            if phase.averaged and config.ema_decay
        }
        self.wrapped: dict[str, nn.Module] = {name: self._wrap(phase) for name, phase in task.phases.items()}
        self.writer: Any = None
        # Stays on the device: [bad steps, bad steps in a row, most in a row], and whether this step is bad.
        self._bad_counts = torch.zeros(3, device=processes.device)
        self._bad = torch.zeros((), device=processes.device)

    def _wrap(self, phase: Phase) -> nn.Module:
        module: Any = phase
        if self.config.compile:
            for network in phase.children():
                network.compile()
        if self.processes.world_size > 1:
            module = DistributedDataParallel(module, broadcast_buffers=False)
        return module

    def resume(self) -> int:
        """Load the newest whole checkpoint, if there is any; return the steps done.

        Raises:
            ValueError: all checkpoints are damaged, or they belong to a run with another seed or batch.
        """
        found, complaints = newest_checkpoint(self.folder / "checkpoints")
        if found is None and complaints:
            raise ValueError(complaints[0])
        for line in complaints:
            self.report(f"warning: {line}")
        if found is None:
            return 0
        step, tensors, facts = found
        if facts["seed"] != self.config.seed or facts["batch_size"] != self.config.batch_size:
            raise ValueError(
                f"seed and batch_size must be those of the run ({facts['seed']}, {facts['batch_size']}), got "
                f"{self.config.seed}, {self.config.batch_size}; start a new run folder to change them"
            )
        for name, phase in self.task.phases.items():
            load_strictly(phase, tensors[f"{name}.model"], self.folder)
            load_optimizer_tensors(self.optimizers[name], tensors[f"{name}.optimizer"])
            if name in self.averages:
                for key, value in tensors[f"{name}.average"].items():
                    self.averages[name][key].copy_(value)
        self.state.step, self.state.elapsed_s = step, facts["elapsed_s"]
        self.state.bad_steps = facts["bad_steps"]
        self._bad_counts[0] = facts["bad_steps"]
        return step

    def save(self) -> None:
        """Write a checkpoint (process 0; the others wait)."""
        self._count_bad_steps()
        if self.processes.is_main:
            tensors = {}
            for name, phase in self.task.phases.items():
                tensors[f"{name}.model"] = phase.state_dict()
                tensors[f"{name}.optimizer"] = optimizer_tensors(self.optimizers[name])
                if name in self.averages:
                    tensors[f"{name}.average"] = self.averages[name]
            facts = {
                "seed": self.config.seed,
                "batch_size": self.config.batch_size,
                "elapsed_s": self.state.elapsed_s,
                "bad_steps": self.state.bad_steps,
            }
            save_checkpoint(self.folder / "checkpoints", self.state.step, tensors, facts)
        self.processes.barrier()

    def run(self) -> RunState:
        """Train until the steps, the minutes or a signal end it; the last state is saved."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started, already = time.monotonic(), self.state.elapsed_s
        saved_step = self.state.step
        with signals_noted(self._note_signal), self._logs():
            while self.progress < 1.0 and not self._should_stop():
                logs = self._step()
                self.state.step += 1
                self.state.elapsed_s = self.processes.largest(already + time.monotonic() - started)
                self.on_progress(min(1.0, self.progress))
                if self.state.step % self.config.log_every == 0 or self.state.step == 1:
                    self._count_bad_steps()
                    self._log("train", logs)
                if self._validation_due():
                    self.validate()
                if self.state.step % self.config.save_every == 0:
                    self.save()
                    saved_step = self.state.step
            if self.state.step != saved_step:
                self.save()
            if self.state.stop_signal is None and not self._validation_due():
                self.validate()
        return self.state

    def _note_signal(self, number: int) -> None:
        self.state.stop_signal = number

    def _validation_due(self) -> bool:
        return self.config.validate_every > 0 and self.state.step % self.config.validate_every == 0

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by steps or by minutes, whichever is further."""
        by_steps = self.state.step / self.config.max_steps
        by_time = self.state.elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return max(by_steps, by_time)

    def _should_stop(self) -> bool:
        return self.processes.any(self.state.stop_signal is not None)

    def _step(self) -> dict[str, Tensor]:
        """Take one optimizer step of every active phase on this step's global batch.

        Nothing here waits for the device: what goes in are clip indices and prompts, what comes out stays there.
        """
        config, state, progress = self.config, self.state, self.progress
        indices = global_batch(self.task.num_clips, config.batch_size, state.step, config.seed)
        parts = []
        for part in range(config.accumulate):
            start = (self.processes.rank * config.accumulate + part) * self.micro_batch
            rows = slice(start, start + self.micro_batch)
            random = StepRandom(config.seed, state.step, rows, config.batch_size, self.processes.device)
            with torch.no_grad():
                parts.append((self.task.make_batch(indices[rows], random), random))
        logs: dict[str, Tensor] = {}
        self._bad.zero_()
        for name, phase in self.task.phases.items():
            if phase.active(state.step, progress):
                logs |= self._phase_step(name, phase, parts, progress)
        total, in_a_row, most = self._bad_counts.unbind()
        in_a_row = (in_a_row + 1) * self._bad
        self._bad_counts = torch.stack([total + self._bad, in_a_row, most.maximum(in_a_row)])
        return logs

    def _phase_step(
        self, name: str, phase: Phase, parts: list[tuple[Batch, StepRandom]], progress: float
    ) -> dict[str, Tensor]:
        optimizer, wrapped = self.optimizers[name], self.wrapped[name]
        wrapped.train()
        optimizer.zero_grad(set_to_none=True)
        total_weight = self.processes.sum(sum(batch["weight"].sum() for batch, _ in parts))
        share = self.processes.world_size / total_weight.clamp(min=1.0)  # DDP averages gradients over processes
        logs: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.processes.device)
        for index, (batch, random) in enumerate(parts):
            last = index == len(parts) - 1
            hold = (
                wrapped.no_sync()
                if isinstance(wrapped, DistributedDataParallel) and not last
                else contextlib.nullcontext()
            )
            with hold:
                with self._precision():
                    losses, part_logs = wrapped(batch, random, self.state.step, progress)
                loss = (losses * batch["weight"]).sum() * share
                loss.backward()
            total += loss.detach()
            for key, value in part_logs.items():
                logs[key] = logs.get(key, 0.0) + value / len(parts)
        norm = nn.utils.clip_grad_norm_(
            [p for p in phase.parameters() if p.grad is not None], phase.optimizer_config.clip_norm or float("inf")
        )
        total = self.processes.sum(total) / self.processes.world_size
        logs |= {f"{name}_loss": total, f"{name}_grad_norm": norm}
        bad = (~torch.isfinite(total + norm)).float()  # the same in every process, as both are
        self._bad = self._bad.maximum(bad)
        for group in optimizer.param_groups:
            group["lr"] = phase.optimizer_config.lr * self._lr_factor(progress)
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # a fused optimizer skips the step where it is 1
        optimizer.step()
        self._average(name, phase)
        return logs

    def _count_bad_steps(self) -> None:
        """Fetch the count of steps with a non-finite loss or gradient, which were skipped; refuse a run of them."""
        total, _, most = (int(value) for value in self._bad_counts.tolist())
        if total > self.state.bad_steps:
            new = total - self.state.bad_steps
            self.report(f"warning: {new} step(s) up to {self.state.step} had a non-finite loss or gradient; skipped")
        self.state.bad_steps = total
        if most > self.config.max_bad_steps:
            raise ValueError(
                f"losses must be finite, got {most} bad steps in a row before step {self.state.step}; "
                "lower the learning rate and resume from the last checkpoint"
            )

    def _lr_factor(self, progress: float) -> float:
        warmup = min(1.0, (self.state.step + 1) / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        left = max(0.0, 1.0 - progress)
        if self.config.lr_schedule == "constant":
            return warmup
        if self.config.lr_schedule == "cosine":
            return warmup * 0.5 * (1.0 - float(torch.cos(torch.tensor(torch.pi * left))))
        return warmup * left

    @torch.no_grad()
    def _average(self, name: str, phase: Phase) -> None:
        if name not in self.averages:
            return
        decay = min(self.config.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        averages = self.averages[name]
        current = [(averages[key], value) for key, value in phase.named_parameters() if key in averages]
        torch._foreach_lerp_([a for a, _ in current], [v.detach() for _, v in current], 1.0 - decay)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights in place for as long as the context lasts."""
        kept = {}
        for name, averages in self.averages.items():
            parameters = dict(self.task.phases[name].named_parameters())
            kept[name] = {key: parameters[key].detach().clone() for key in averages}
            for key, value in averages.items():
                parameters[key].data.copy_(value)
        try:
            yield
        finally:
            for name, values in kept.items():
                parameters = dict(self.task.phases[name].named_parameters())
                for key, value in values.items():
                    parameters[key].data.copy_(value)

    def validate(self) -> dict[str, float]:
        """Validate the averaged weights (process 0) and log the figures."""
        figures: dict[str, float] = {}
        if self.processes.is_main:
            for phase in self.task.phases.values():
                phase.eval()
            with self.averaged_weights(), self._precision():
                figures = self.task.validate(self.micro_batch)
            self._log("validation", figures)
        self.processes.barrier()
        return figures

    def export(self, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> Path:
        """Write the averaged weights to `weights/` (process 0), with `notes` beside the facts of the run."""
        target = self.folder / "weights"
        if self.processes.is_main:
            notes = {
                **(notes or {}),
                "steps": self.state.step,
                "minutes": round(self.state.elapsed_s / 60, 2),
                "bad_steps": self.state.bad_steps,
            }
            for phase in self.task.phases.values():
                phase.eval()
            with self.averaged_weights():
                self.task.export(target, dtype=dtype, notes=notes)
        self.processes.barrier()
        return target

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        kind = torch.device(self.processes.device).type
        if self.config.precision == "fp32" or (self.config.precision == "auto" and kind == "cpu"):
            return contextlib.nullcontext()
        return torch.autocast(kind, dtype=torch.bfloat16)

    def _log(self, split: str, values: dict[str, Any]) -> None:
        if not self.processes.is_main:
            return
        numbers = {key: float(value) for key, value in values.items()}
        entry: dict[str, Any] = {
            "step": self.state.step,
            "minutes": round(self.state.elapsed_s / 60, 3),
            "split": split,
            **numbers,
        }
        self.state.history.append(entry)
        self._log_file.write(json.dumps(entry) + "\n")
        self._log_file.flush()
        if self.writer is not None:
            for key, value in numbers.items():
                self.writer.add_scalar(f"{split}/{key}", value, self.state.step)
        text = " ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        self.report(f"{split} step {self.state.step} ({100 * min(1.0, self.progress):.0f} %): {text}")

    @contextlib.contextmanager
    def _logs(self) -> Iterator[None]:
        """Open `log.jsonl` and, when TensorBoard is installed, its event file."""
        if not self.processes.is_main:
            yield
            return
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as self._log_file:
            try:
                yield
            finally:
                if self.writer is not None:
                    self.writer.close()


def _optimizer(phase: Phase) -> torch.optim.Optimizer:
    settings = phase.optimizer_config
    parameters = [parameter for parameter in phase.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )

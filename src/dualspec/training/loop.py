"""The single training loop: accumulate, clip, step, average, log, validate, save.

One process needs no launcher; `torchrun` gives several, each with its rows of the same global batch.
"""

import contextlib
import json
import time
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualspec.memory import memory_watched
from dualspec.training.checkpoint import newest_checkpoint, save_checkpoint
from dualspec.training.processes import Processes
from dualspec.training.run_lock import LOG_NAME, end_of_log
from dualspec.training.signals import signals_noted
from dualspec.training.task import Batch, Phase, StepRandom, Task, global_batch
from dualspec.training.trained_phase import TrainedPhase


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how large and how often."""

    seed: int = 0  # of order, noise, crops, directions
    max_steps: int = 100_000  # steps of the whole run
    max_minutes: float = 0.0  # stop, and end the learning-rate schedule, after this time; 0: by steps alone
    batch_size: int = 32  # clips per step, over all processes and parts
    micro_batch: int = 0  # most clips that a process computes at once, in as many parts as it takes; 0: its whole share
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"  # from the peak to zero
    warmup_steps: int = 100  # linear rise from zero
    ema_decay: float = 0.999  # of the averaged weights; 0: no average
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bf16 is autocast with fp32 weights; auto: on a GPU only
    parallel: Literal["ddp", "fsdp2"] = "ddp"  # several processes: each holds the whole state, or its part of it
    checkpoint_activations: bool = False  # U-Net and two-dimensional VAEs compute twice, and keep few activations
    compile: bool = False  # torch.compile the networks
    held_out: float = 0.05  # share of the training recordings kept for validation; 0: validate on the test split
    log_every: int = 20  # steps between log lines
    validate_every: int = 500  # steps between validations; 0: never
    save_every: int = 500  # steps between checkpoints
    max_bad_steps: int = 10  # steps with a non-finite loss in a row before the run stops

    def parts(self, world_size: int) -> tuple[int, int]:
        """Return into how many parts each of the processes cuts its share of the batch, and the clips of a part.

        Raises:
            ValueError: the batch cannot be shared out evenly.
        """
        share, rest = divmod(self.batch_size, world_size)
        if rest or share < 1:
            raise ValueError(
                f"loop.batch_size must be a multiple of the number of processes, {world_size}, got {self.batch_size}; "
                "change one of them"
            )
        largest = self.micro_batch or share
        num_parts = next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= largest)
        return num_parts, share // num_parts


@dataclass
class RunState:
    """What moves while the loop runs."""

    step: int = 0
    elapsed_s: float = 0.0
    bad_steps: int = 0
    stop_signal: int | None = None


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
        """Build optimizers and averages; spread the phases over the processes."""
        self.on_progress = on_progress
        self.task, self.config, self.folder, self.processes, self.report = task, config, folder, processes, report
        self.state = RunState()
        self.num_parts, self.micro_batch = config.parts(processes.world_size)
        self.trained = {
            name: TrainedPhase(phase, config, processes, self._others(phase)) for name, phase in task.phases.items()
        }
        if config.checkpoint_activations and not any(trained.recomputes for trained in self.trained.values()):
            raise ValueError("loop.checkpoint_activations must be false for these networks, got true; leave it out")
        self.writer: Any = None
        # Stays on the device: [bad steps, bad steps in a row, most in a row].
        self._bad_counts = torch.zeros(3, device=processes.device)

    def _others(self, phase: Phase) -> list[nn.Module]:
        return [network for other in self.task.phases.values() if other is not phase for network in other.children()]

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
        if "num_clips" not in facts and self.config.held_out:
            raise ValueError(
                f"loop.held_out must be 0 for a run that began before clips were held out, got {self.config.held_out}; "
                "resume with --set loop.held_out=0"
            )
        if facts.get("num_clips", self.task.num_clips) != self.task.num_clips:
            raise ValueError(
                f"training clips must be the {facts['num_clips']} of the run, got {self.task.num_clips}; resume with "
                "the same corpus, --max-clips and loop.held_out"
            )
        for name, trained in self.trained.items():
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            trained.load_state(own, self.folder)
        self.state.step, self.state.elapsed_s = step, facts["elapsed_s"]
        self.state.bad_steps = facts["bad_steps"]
        self._bad_counts[0] = facts["bad_steps"]
        return step

    def save(self) -> None:
        """Write a checkpoint (process 0); it is the same for any number of processes, sharded or not."""
        self._count_bad_steps()
        tensors = {
            f"{name}.{group}": values
            for name, trained in self.trained.items()
            for group, values in trained.state().items()
        }
        if self.processes.is_main:
            facts = {
                "seed": self.config.seed,
                "batch_size": self.config.batch_size,
                "num_clips": self.task.num_clips,
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
        with signals_noted(self._note_signal), self._logs(), self.processes.naming_the_late():
            while self.progress < 1.0 and not self._should_stop():
                with memory_watched(self.micro_batch, "--set loop.micro_batch={}"):
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
        number = int(self.processes.largest(float(self.state.stop_signal or 0)))  # one process may have been told alone
        self.state.stop_signal = number or None
        return number > 0

    def _step(self) -> dict[str, Tensor]:
        """Take one optimizer step of every active phase on this step's global batch.

        Nothing here waits for the device: what goes in are clip indices and prompts, what comes out stays there.
        """
        config, state, progress = self.config, self.state, self.progress
        indices = global_batch(self.task.num_clips, config.batch_size, state.step, config.seed)
        parts: list[tuple[Batch, StepRandom]] = []
        for part in range(self.num_parts):
            start = (self.processes.rank * self.num_parts + part) * self.micro_batch
            rows = slice(start, start + self.micro_batch)
            random = StepRandom(config.seed, state.step, rows, config.batch_size, self.processes.device)
            with torch.no_grad():
                # phases leave results for each other in a batch: FSDP2 would copy a plain dict
                parts.append((UserDict(self.task.make_batch(indices[rows], random)), random))
        logs: dict[str, Tensor] = {}
        bad = torch.zeros((), device=self.processes.device)
        for name, trained in self.trained.items():
            if trained.phase.active(state.step, progress):
                loss, norm, own = trained.step(parts, state.step, progress, self._lr_factor(progress), self._precision)
                logs |= own | {f"{name}_loss": loss, f"{name}_grad_norm": norm}
                bad = bad.maximum((~torch.isfinite(loss + norm)).float())
        total, in_a_row, most = self._bad_counts.unbind()
        in_a_row = (in_a_row + 1) * bad
        self._bad_counts = torch.stack([total + bad, in_a_row, most.maximum(in_a_row)])
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

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights in place for as long as the context lasts; all processes take part."""
        with contextlib.ExitStack() as stack:
            for trained in self.trained.values():
                stack.enter_context(trained.averaged())
            yield

    def validate(self) -> None:
        """Validate the averaged weights (process 0) and log the figures; the draws know no number of processes."""
        with self.averaged_weights():
            if self.processes.is_main:
                for phase in self.task.phases.values():
                    phase.eval()
                with self._precision():
                    figures = self.task.validate(self.config.micro_batch or min(16, self.config.batch_size))
                self._log("validation", figures)
        self.processes.barrier()

    def export(
        self, name: str = "weights", *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None
    ) -> Path:
        """Write the averaged weights to a folder of the run's (process 0), with `notes` beside the facts of the run."""
        target = self.folder / name
        notes = {
            **(notes or {}),
            "steps": self.state.step,
            "minutes": round(self.state.elapsed_s / 60, 2),
            "bad_steps": self.state.bad_steps,
        }
        with self.averaged_weights():
            if self.processes.is_main:
                for phase in self.task.phases.values():
                    phase.eval()
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
        end = end_of_log(self.folder)
        with (self.folder / LOG_NAME).open("a", encoding="utf-8") as self._log_file:
            self._log_file.truncate(end)
            try:
                yield
            finally:
                if self.writer is not None:
                    self.writer.close()

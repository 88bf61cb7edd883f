"""One phase as it is trained: spread over the processes, with its optimizer and the average of its weights."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dualspec.training.checkpoint import load_optimizer_tensors, optimizer_tensors, shard_like
from dualspec.training.processes import Processes, share_batch_norm
from dualspec.training.task import Batch, Logs, Phase, StepRandom
from dualspec.training.weights import load_strictly

if TYPE_CHECKING:
    from dualspec.training.loop import LoopConfig


class TrainedPhase:
    """What an optimizer moves, how it is called, and what is kept of it.

    `phase` is the task's own, which validation and export read. `module` is what the optimizer moves: the same, or by
    FSDP2 a copy of which every process holds a part; the task's own then waits in the host's memory of process 0.

    Args:
        phase: the task's phase.
        config: precision, averages, parallelism.
        processes: this process among all of them.
        shared: modules that the phase uses and another one trains.
    """

    def __init__(
        self, phase: Phase, config: "LoopConfig", processes: Processes, shared: Sequence[nn.Module] = ()
    ) -> None:
        """Spread the phase over the processes, then build its optimizer and its average."""
        self.phase, self.config, self.processes = phase, config, processes
        self.sharded = config.parallel == "fsdp2" and processes.world_size > 1 and phase.averaged
        self.module = copy.deepcopy(phase, {id(module): module for module in shared}) if self.sharded else phase
        networks: list[Any] = [m for m in self.module.modules() if hasattr(m, "enable_gradient_checkpointing")]
        self.recomputes = config.checkpoint_activations and bool(networks)
        if self.recomputes:
            for network in networks:
                network.enable_gradient_checkpointing()
        if config.compile:
            self.module.compile_networks()
        self.wrapped: nn.Module = self.module
        if processes.world_size > 1:
            share_batch_norm(self.module)
            if not self.sharded:
                self.wrapped = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
        if self.sharded:
            processes.shard(self.module)
            phase.to("cpu" if processes.is_main else "meta")
        settings = phase.optimizer_config
        moved = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(
            moved.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        kept = phase.averaged and config.ema_decay
        self.average = {name: value.detach().clone() for name, value in moved.items()} if kept else {}
        norms = [module for module in self.module.modules() if isinstance(module, _BatchNorm)]
        self._statistics = [value for norm in norms for value in norm.buffers()]

    def step(
        self,
        parts: list[tuple[Batch, StepRandom]],
        step: int,
        progress: float,
        lr_factor: float,
        precision: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> tuple[Tensor, Tensor, Logs]:
        """Take one optimizer step on the parts of this process's share of the batch.

        Returns:
            The loss over all processes, the norm of its gradient, and the phase's own logs; a step where either is not
            finite moves nothing. All stay on the device.
        """
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        before = [value.clone() for value in self._statistics]
        total_weight = self.processes.sum(sum(batch["weight"].sum() for batch, _ in parts))
        share = self.processes.world_size / total_weight.clamp(min=1.0)  # gradients are averaged over processes
        logs: Logs = {}
        total = torch.zeros((), device=self.processes.device)
        for index, (batch, random) in enumerate(parts):
            # DDP exchanges gradients once; FSDP2 after every part, as whole gradients are what it is to save
            later = isinstance(self.wrapped, DistributedDataParallel) and index < len(parts) - 1
            with self.wrapped.no_sync() if later else contextlib.nullcontext():  # type: ignore[operator]
                with precision():
                    losses, part_logs = self.wrapped(batch, random, step, progress)
                loss = (losses * batch["weight"]).sum() * share
                self.processes.mark()
                loss.backward()
            total += loss.detach()
            for key, value in part_logs.items():
                logs[key] = logs.get(key, 0.0) + value / len(parts)
        total = self.processes.sum(total) / self.processes.world_size
        settings = self.phase.optimizer_config
        given = [p for p in self.module.parameters() if p.grad is not None]
        norm: Any = nn.utils.clip_grad_norm_(given, settings.clip_norm or float("inf"))
        norm = norm.full_tensor() if self.sharded else norm
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * lr_factor
        # the same in every process, as both are; a fused optimizer skips the step where it is 1
        self.optimizer.found_inf = (~torch.isfinite(total + norm)).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        for value, old in zip(self._statistics, before, strict=True):  # the pass through the network has moved them
            value.copy_(torch.where(self.optimizer.found_inf > 0, old, value))  # type: ignore[attr-defined]
        self._follow(step)
        return total, norm, logs

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average towards the weights."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        current = [(self.average[key], value) for key, value in self.module.named_parameters() if key in self.average]
        if current:
            torch._foreach_lerp_([a for a, _ in current], [v.detach() for _, v in current], 1.0 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into `phase` for as long as the context lasts; all processes take part."""
        if self.sharded:
            whole = self.processes.gather(self.module.state_dict() | self.average)
            if self.processes.is_main:
                load_strictly(self.phase, whole, "the average")
                self.phase.to(self.processes.device)
            yield
            if self.processes.is_main:
                self.phase.to("cpu")
            return
        parameters = dict(self.phase.named_parameters())
        own = {key: parameters[key].detach().clone() for key in self.average}
        try:
            for key, value in self.average.items():
                parameters[key].data.copy_(value)
            yield
        finally:
            for key, value in own.items():
                parameters[key].data.copy_(value)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return weights, moments and average by name, whole, in process 0; all processes take part."""
        groups = {"model": self.module.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        if self.average:
            groups["average"] = self.average
        return {group: self.processes.gather(tensors) for group, tensors in groups.items()}

    def load_state(self, state: dict[str, dict[str, Tensor]], where: Path) -> None:
        """Take back what `state` returned, whatever the number of processes was then."""
        own = self.module.state_dict()
        load_strictly(
            self.module, {key: shard_like(value, own.get(key)) for key, value in state["model"].items()}, where
        )
        load_optimizer_tensors(self.optimizer, state["optimizer"])
        for key, value in self.average.items():
            value.copy_(shard_like(state["average"][key], value))

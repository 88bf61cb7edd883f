"""This process among all processes of a run: rank, device, and the few sums they need."""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STEP_TIMEOUT_S = 60  # a process that the others wait for so long in a step has died or hangs
BARRIER_TIMEOUT_S = 3600  # while one process validates, saves or exports


def check_device(name: str | None) -> str:
    """Return the device that was asked for; None takes the GPU where there is one.

    Raises:
        ValueError: the name is no device, or this machine has no such one.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}; leave it out to choose by itself")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be 'cpu' on a machine without a usable GPU, got {name!r}; leave it out")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise ValueError(f"device must be one of this machine's {torch.cuda.device_count()} GPUs, got {name!r}")
    return name


@dataclass(frozen=True)
class Processes:
    """Rank and size of the process group; one process needs no group."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    patient: Any = None  # group of all processes, for what one of them does while the others wait

    @classmethod
    def join(cls, device: str | None = None) -> "Processes":
        """Join the group that `torchrun` described in the environment, or stand alone.

        Args:
            device: "cpu", "cuda" or "cuda:N"; None takes the GPU where there is one.
        """
        kind = check_device(device)
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls(device=kind)
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if kind == "cuda":
            kind = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
            torch.cuda.set_device(kind)
        backend = "cpu:gloo,cuda:nccl" if kind.startswith("cuda") else "gloo"  # numbers of the host go by gloo
        _die_with_parent()
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=STEP_TIMEOUT_S))
        patient = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=BARRIER_TIMEOUT_S))
        return cls(rank, world_size, kind, patient)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            self.mark()
            torch.distributed.barrier(group=self.patient)

    def mark(self) -> None:
        """Note that this process has come to the next point where it waits for the others."""
        if self.world_size > 1:
            _store().add(f"dualspec/{self.rank}", 1)

    @contextmanager
    def naming_the_late(self) -> Iterator[None]:
        """Say which process did not come, where the others waited for it in vain.

        Raises:
            TimeoutError: a process died or hangs.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not re.search(r"gloo|nccl|Timed out|Connection (reset|closed)", str(error)):
                raise
            marks = [_store().add(f"dualspec/{rank}", 0) for rank in range(self.world_size)]
            late = [rank for rank, count in enumerate(marks) if count < max(marks)] or "none that is behind the others"
            raise TimeoutError(
                f"processes must all answer within {STEP_TIMEOUT_S} s, got nothing from rank {late}; it died or hangs, "
                f"or the network does: look at its log, then go on with --resume ({str(error).strip():.120})"
            ) from error

    def sum(self, value: Tensor | float) -> Tensor:
        """Return a scalar summed over all processes."""
        total = torch.as_tensor(value, dtype=torch.float32, device=self.device).clone()
        if self.world_size > 1:
            self.mark()
            torch.distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; the device is not waited for."""
        return self.largest(float(flag)) > 0

    def largest(self, value: float) -> float:
        """Return the largest of all processes' values in every process; the device is not waited for."""
        if self.world_size == 1:
            return value
        self.mark()
        shared = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return float(shared)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the host in process 0, and none elsewhere; all processes take part."""
        whole = {}
        for name, value in tensors.items():
            full = value.full_tensor() if hasattr(value, "full_tensor") else value  # a part of a sharded one
            if self.is_main:
                whole[name] = full.detach().cpu()
        return whole

    def shard(self, module: nn.Module) -> None:
        """Let every process hold a part of each weight, by FSDP2: the outermost lists block by block, then the rest."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 takes no other
        mesh = init_device_mesh(torch.device(self.device).type, (self.world_size,))
        lists = {name: blocks for name, blocks in module.named_modules() if isinstance(blocks, nn.ModuleList)}
        for name, blocks in lists.items():
            if not any(name.startswith(f"{outer}.") for outer in lists):
                for block in blocks.children():
                    if any(True for _ in block.parameters()):
                        fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)

    def leave(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group()


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def _die_with_parent() -> None:
    """End this process at once when its launcher dies: left alone it would hold its GPU and write into the run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _SumOverProcesses(torch.autograd.Function):
    """A sum over all processes through which gradients flow back to all of them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        torch.distributed.all_reduce(total)
        return total


def share_batch_norm(module: nn.Module) -> None:
    """Let batch normalisation in training see the batches of all processes."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = partial(_normalize_together, norm)  # type: ignore[method-assign]


def _normalize_together(norm: _BatchNorm, values: Tensor) -> Tensor:
    """Normalise values (B, C, ...) by mean and variance over the batches of all processes.

    As torch's `SyncBatchNorm`, which runs on GPUs alone.
    """
    if not norm.training:
        return type(norm).forward(norm, values)
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    others = [axis for axis in range(values.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    full = values.float()
    count = full.numel() / full.shape[1] * torch.distributed.get_world_size()
    mean = _SumOverProcesses.apply(full.sum(others)) / count
    centred = full - mean.view(shape)
    variance = _SumOverProcesses.apply(centred.square().sum(others)) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scaled = centred * (variance + norm.eps).rsqrt().view(shape)
    return (scaled * norm.weight.view(shape) + norm.bias.view(shape)).to(values.dtype)

"""This process among all processes of a run: rank, device, and the few sums they need."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor


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
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=300))
        return cls(rank, world_size, kind)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def sum(self, value: Tensor | float) -> Tensor:
        """Return a scalar summed over all processes."""
        total = torch.as_tensor(value, dtype=torch.float32, device=self.device).clone()
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; the device is not waited for."""
        return self.largest(float(flag)) > 0

    def largest(self, value: float) -> float:
        """Return the largest of all processes' values in every process; the device is not waited for."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return float(shared)

    def leave(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group()

"""What the measuring scripts share: fair timing of two ways in one run, and the table of their ratios."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One promise, and what this run found."""

    promise: str  # what is compared with what
    bar: str  # what is promised of the ratio or number
    found: float
    kept: bool
    counts: str  # sizes, repeats, both sides


def at_least(promise: str, bar: float, found: float, counts: str) -> Row:
    """Return the row of a number that must not be smaller."""
    return Row(promise=promise, bar=f"≥ {bar:g}", found=found, kept=found >= bar, counts=counts)


def at_most(promise: str, bar: float, found: float, counts: str) -> Row:
    """Return the row of a number that must not be larger."""
    return Row(promise=promise, bar=f"≤ {bar:g}", found=found, kept=found <= bar, counts=counts)


def interleaved(ways: Mapping[str, Callable[[], Any]], *, repeats: int = 5) -> dict[str, float]:
    """Run each way in turn, so that a busy machine burdens all alike; return the best of each, processor seconds."""
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()  # what is made once is not counted
    for _ in range(repeats):
        for name, way in ways.items():
            before = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - before)
    return best


def host_waits(work: Callable[[], Any]) -> int:
    """Count the warnings of torch that something waited for the device."""
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def machine() -> str:
    """Say what this is measured on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{usable} cores of a shared machine ({platform.machine()}), load {load}, Python {platform.python_version()}"


def table(rows: list[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| promise | bar | found | kept | counts |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        kept = "yes" if row.kept else "**no**"
        lines.append(f"| {row.promise} | {row.bar} | {row.found:.3g} | {kept} | {row.counts} |")
    return "\n".join(lines)

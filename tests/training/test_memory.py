"""Memory does not grow while a run goes on. (T11)"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dualspec.audio.hrir import spherical_head
from dualspec.config import override
from dualspec.recipes import get_recipe
from dualspec.training.loop import Trainer
from dualspec.training.processes import Processes
from dualspec.training.run import build_task

SETTINGS = ["loop.batch_size=1", "loop.log_every=10", "task.loss.adversarial_start_step=5"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")


def slope(corpus: Path, folder: Path, steps: int, warmup: int, leak: int) -> float:
    """Train with all that a run does now and then; return MB per 1,000 steps, the slope of resident memory."""
    often = [f"loop.max_steps={steps}", f"loop.save_every={warmup // 2}", f"loop.validate_every={warmup // 2}"]
    recipe = override(get_recipe("tiny/stft_vae"), [*SETTINGS, *often])
    torch.manual_seed(0)
    task = build_task(
        recipe.task, corpus, spherical_head(), device="cpu", num_bank_samples=recipe.num_bank_samples, vae_folders={}
    )
    seen, kept = [], []

    def watch(_: float) -> None:
        kept.append(np.ones(leak, dtype=np.uint8))
        if len(kept) % 10 == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((len(kept) / 1000, pages * resource.getpagesize() / 1e6))

    Trainer(task, recipe.loop, folder, Processes(), on_progress=watch).run()
    after = np.array([entry for entry in seen if entry[0] > warmup / 1000])
    return float(np.polyfit(*after.T, 1)[0])


def growth(corpus: Path, folder: Path, steps: int, warmup: int, leak: int = 0) -> float:
    """The slope in a process of its own: what other tests left behind is freed now and then in this one."""
    words = [sys.executable, __file__, corpus, folder, steps, warmup, leak]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("steps", "warmup", "bar"), [(400, 100, 20.0), pytest.param(3_000, 500, 1.0, marks=pytest.mark.slow)]
)
def test_memory_does_not_grow(
    corpus: Path, tmp_path: Path, steps: int, warmup: int, bar: float, figure: Callable[[str], None]
) -> None:
    found = growth(corpus, tmp_path / "run", steps, warmup)
    figure(f"training: resident memory over {steps} steps, {found:+.2f} MB per 1,000 steps after {warmup}")
    assert found < bar


def test_a_leak_would_be_seen(corpus: Path, tmp_path: Path) -> None:
    assert growth(corpus, tmp_path, 60, 20, leak=200_000) > 100


if __name__ == "__main__":
    print(slope(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])))

"""Measuring on several processes and in several goes: the same bits, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.audio.waveform import write_waveform
from dualspec.cli.evaluation import _localizer
from dualspec.evaluation.clips import Clip, list_clips
from dualspec.evaluation.efficientat import EfficientAt
from dualspec.evaluation.embedders import load_embedder
from dualspec.evaluation.measure import Cache, EmbedderSource, Measurer, measure
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.training.weights import save_weights

SCRIPT = """
import multiprocessing, os, signal, sys
from pathlib import Path
from dualspec.evaluation import measure
sys.path.insert(0, {tests!r})
from test_measure import clips_in, measurer

def kill(done):
    if done >= 6:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    measure.FLUSH_EVERY = 1
    clips = clips_in(Path({folder!r}))
    how = measurer(Path({folder!r}))
    measure.measure(clips, list(zip(clips, clips)), how, measure.Cache(Path({cache!r})), processes=2, on_clips=kill)
"""


def clips_in(folder: Path) -> list[Clip]:
    return list_clips(folder / "clips")


def measurer(folder: Path) -> Measurer:
    spec = f"mn04_as={folder / 'network.pt'},unchecked"
    return Measurer(
        localizer=partial(_localizer, str(folder / "ear"), "cpu"),
        localizer_sha256="e",
        embedders={"mn04_as": EmbedderSource(load=partial(load_embedder, spec), sha256="b")},
        batch_size=3,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of two lengths, and small networks with random weights."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "clips").mkdir()
    for index in range(10):
        noise = 0.1 * torch.randn(2, 8_000 if index % 3 else 9_000, generator=torch.Generator().manual_seed(index))
        write_waveform(folder / "clips" / f"{index}.wav", noise, 16_000)
    torch.manual_seed(0)
    config = LocalizerConfig(branch_channels=(2, 2, 2), fused_channels=4, hidden_features=(4, 4))
    save_weights(folder / "ear", Localizer(config), config)
    torch.save(EfficientAt().state_dict(), folder / "network.pt")
    return folder


def measured(folder: Path, cache: Path | None = None, *, processes: int = 1, seen: Any = None) -> Cache:
    clips, kept = clips_in(folder), Cache(cache)
    measure(clips, list(zip(clips, clips, strict=True)), measurer(folder), kept, processes=processes, on_clips=seen)
    return kept


@pytest.fixture(scope="module")
def alone(folder: Path) -> Cache:
    return measured(folder)


def same(first: Cache, second: Cache) -> bool:
    tensors = first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(value, second.tensors[name]) for name, value in first.tensors.items()
    )
    return tensors and first.values == second.values


def test_a_killed_judgement_goes_on_to_the_very_same(folder: Path, alone: Cache, tmp_path: Path) -> None:
    """SIGKILL in the midst of two processes: none is left behind; two more measure the rest as one alone would."""
    words = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), cache=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = len(Cache(tmp_path).values)
    assert 0 < kept < len(alone.values)
    limit = time.monotonic() + 10
    for pid in map(int, killed.stdout.split()):
        while _runs(pid):
            assert time.monotonic() < limit, "a process outlived the one that started it"
            time.sleep(0.05)
    progress: list[int] = []
    assert same(measured(folder, tmp_path, processes=2, seen=progress.append), alone)
    assert progress == sorted(progress) and progress[-1] < 20, "what was kept is not measured again"
    assert same(Cache(tmp_path), alone)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_ends_without_a_word_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "submit", end)
    with pytest.raises(OSError, match=r"a process ended without a word, .* fewer --processes"):
        measured(folder, processes=2)

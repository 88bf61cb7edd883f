"""Preparing, locating and judging many files against a plain loop over them, and how cost and memory grow.

python benchmarks/judging.py

Each command runs as a process of its own on N and on 4 N made-up files of 5.12 s, one process, one thread; the
difference of the two is what the further files cost, without the start. The plain loops do the same work file by file
with the libraries alone: read, mix, resample and write FLAC; read, cues and localizer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import soundfile
import soxr
import torch

from compare import Row, at_least, at_most, table
from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import spatialize
from dualspec.audio.hrir import spherical_head
from dualspec.hearing.cues import interaural_cues
from dualspec.model_folder import load_localizer

SECONDS, RATE, SOURCE_RATE = 5.12, 16_000, 44_100
COUNTS = {"prepare": 250, "localize": 48, "evaluate": 48}  # files of the smaller run


def noise(count: int, length: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield a number and as many samples of noise, so many times."""
    generator = torch.Generator().manual_seed(0)
    yield from ((index, 0.1 * torch.randn(length, generator=generator)) for index in range(count))


def recordings(folder: Path, count: int) -> Path:
    """Write mono files at 44.1 kHz for `prepare`."""
    (folder / "noise").mkdir(parents=True)
    for index, samples in noise(count, round(SECONDS * SOURCE_RATE)):
        soundfile.write(folder / "noise" / f"{index:04}.wav", samples.numpy(), SOURCE_RATE)
    return folder


def clips(folder: Path, count: int) -> Path:
    """Write two-eared files at 16 kHz with records for the judge."""
    folder.mkdir(parents=True)
    head = spherical_head(sample_rate=RATE)
    for index, samples in noise(count, round(SECONDS * RATE)):
        azimuth = sector_grid_deg()[index % 12]
        soundfile.write(folder / f"{index:04}.wav", spatialize(samples, azimuth, head, peak=0.5).T.numpy(), RATE)
        (folder / f"{index:04}.json").write_text(json.dumps({"azimuth_deg": azimuth}))
    return folder


def command(*words: object) -> tuple[float, float]:
    """Run dualspec; return its processor seconds and its peak memory in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    line = [sys.executable, "-c", code, sys.executable, "-m", "dualspec", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(line, check=True, capture_output=True, text=True, env=environment).stdout
    seconds, memory = map(float, said.split())
    return seconds, memory


def loop(files: Iterable[Path], work: Callable[[Path], object]) -> float:
    """Return the processor seconds of a plain loop for a file, its first file not counted."""
    first, *others = sorted(files)
    work(first)
    before = time.process_time()
    for file in others:
        work(file)
    return (time.process_time() - before) / len(others)


def prepared(target: Path, file: Path) -> None:
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    soundfile.write(target / f"{file.stem}.flac", soxr.resample(samples.mean(axis=1), rate, RATE), RATE)


def measure(counts: Mapping[str, int] = COUNTS) -> list[Row]:
    torch.set_num_threads(1)
    judge, rows = load_localizer().localizer, []

    def judged(file: Path) -> None:
        samples, rate = soundfile.read(file, dtype="float32")
        ears = torch.from_numpy(samples.T.copy())[None]
        interaural_cues(ears, rate)
        judge.predict(ears, rate)

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for verb, count in counts.items():
            made, found = recordings if verb == "prepare" else clips, {}
            for size in (count, 4 * count):
                given = made(root / f"{verb}{size}", size)
                words = {
                    "prepare": ("prepare", root / f"corpus{size}", "--corpus", f"folder={given}", "--workers", 1),
                    "localize": ("localize", *sorted(given.glob("*.wav"))),
                    "evaluate": ("evaluate", given, "-o", root / f"result{size}", "--device", "cpu"),
                }
                found[size] = command(*words[verb])
            plain = loop(given.rglob("*.wav"), partial(prepared, root) if verb == "prepare" else judged)
            one = (found[4 * count][0] - found[count][0]) / (3 * count)
            sizes = f"{count} and {4 * count} files of 5.12 s"
            rates = f"{sizes}, once: {1 / one:.0f} against {1 / plain:.0f} files/s"
            rows.append(at_least(f"{verb}, files/s / a plain loop's", 1.0, plain / one, rates))
            growth = found[4 * count][1] / found[count][1]
            memory = f"{found[count][1]:.0f} and {found[4 * count][1]:.0f} MB for {sizes}"
            rows.append(at_most(f"{verb}, memory of four times as many files / memory", 1.25, growth, memory))
    return rows


if __name__ == "__main__":
    print(table(measure()))

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
from collections.abc import Callable
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


def made_up(folder: Path, count: int) -> tuple[Path, Path]:
    """Write mono files at 44.1 kHz for `prepare`, and two-eared ones at 16 kHz with records for the judge."""
    generator, head = torch.Generator().manual_seed(0), spherical_head(sample_rate=RATE)
    mono, ears = folder / "mono" / "noise", folder / "ears"
    mono.mkdir(parents=True)
    ears.mkdir()
    for index in range(count):
        noise = 0.1 * torch.randn(round(SECONDS * SOURCE_RATE), generator=generator)
        soundfile.write(mono / f"{index:04}.wav", noise.numpy(), SOURCE_RATE)
        azimuth = sector_grid_deg()[index % 12]
        both = spatialize(noise[: round(SECONDS * RATE)], azimuth, head, peak=0.5)
        soundfile.write(ears / f"{index:04}.wav", both.T.numpy(), RATE)
        (ears / f"{index:04}.json").write_text(json.dumps({"azimuth_deg": azimuth}))
    return mono.parent, ears


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


def loop(files: list[Path], work: Callable[[Path], object]) -> float:
    """Return the processor seconds of a plain loop, its first file not counted."""
    work(files[0])
    before = time.process_time()
    for file in files:
        work(file)
    return time.process_time() - before


def prepared(file: Path, target: Path) -> None:
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    soundfile.write(target / f"{file.stem}.flac", soxr.resample(samples.mean(axis=1), rate, RATE), RATE)


def measure(count: int = 48) -> list[Row]:
    torch.set_num_threads(1)
    judge, rows = load_localizer().localizer, []

    def judged(file: Path) -> None:
        samples, rate = soundfile.read(file, dtype="float32")
        ears = torch.from_numpy(samples.T.copy())[None]
        interaural_cues(ears, rate)
        judge.predict(ears, rate)

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sets = {size: made_up(root / str(size), size) for size in (count, 4 * count)}
        mono, ears = sets[4 * count]
        plain = {
            "prepare": loop(sorted(mono.rglob("*.wav")), lambda file: prepared(file, root)),
            "localize": loop(sorted(ears.glob("*.wav")), judged),
        }
        plain["evaluate"] = plain["localize"]
        for verb in ("prepare", "localize", "evaluate"):
            found = {}
            for size, (mono, ears) in sets.items():
                words = {
                    "prepare": ("prepare", root / f"corpus{size}", "--corpus", f"folder={mono}", "--workers", 1),
                    "localize": ("localize", *sorted(ears.glob("*.wav"))),
                    "evaluate": ("evaluate", ears, "-o", root / f"result{size}", "--device", "cpu"),
                }
                found[size] = command(*words[verb])
            further = found[4 * count][0] - found[count][0]
            one, plain_one = further / (3 * count), plain[verb] / (4 * count)
            counts = f"{count} and {4 * count} files of 5.12 s, once: {1 / one:.0f} against {1 / plain_one:.0f} files/s"
            rows.append(at_least(f"{verb}, files/s / a plain loop's", 1.0, plain_one / one, counts))
            growth = found[4 * count][1] / found[count][1]
            memory = f"{found[count][1]:.0f} and {found[4 * count][1]:.0f} MB for {count} and {4 * count} files"
            rows.append(at_most(f"{verb}, memory of four times as many files / memory", 1.25, growth, memory))
    return rows


if __name__ == "__main__":
    print(table(measure()))

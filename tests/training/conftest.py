"""A small corpus of synthetic clips, prepared by the real command's code."""

import csv
from pathlib import Path

import pytest
import torch

from dualspec.audio.hrir import HrirSet, spherical_head
from dualspec.audio.waveform import write_waveform
from dualspec.data.corpora import CorpusSpec
from dualspec.data.prepare import prepare


def write_clips(folder: Path, num_clips: int = 16) -> None:
    """Noise bursts and tones of 1.3 s, half of the recordings for the test split."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(20_800) / 16_000
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "licence", "split"])
        for index in range(num_clips):
            tone = torch.sin(2 * torch.pi * (200 + 90 * index) * time)
            noise = torch.randn(len(time), generator=generator)
            waveform = 0.3 * tone + 0.05 * noise
            write_waveform(folder / f"clip{index}.wav", waveform[None], 16_000)
            rows.writerow(
                [f"clip{index}.wav", "tone" if index % 2 else "hum", "CC0", "test" if index >= 12 else "train"]
            )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a prepared corpus: 12 training clips, 4 test clips."""
    source, prepared = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("corpus")
    write_clips(source)
    prepare([CorpusSpec(name="folder", root=source)], prepared, workers=1)
    return prepared


@pytest.fixture(scope="session")
def head() -> HrirSet:
    """The analytic head."""
    return spherical_head()

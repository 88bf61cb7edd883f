"""Sounds and heads from strangers: WAV, FLAC, Ogg, MP3, AIFF and SOFA files. (F1, F2)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualspec.audio.hrir import load_sofa
from dualspec.audio.waveform import audio_info, read_waveform

SOUNDS = {
    ".wav": {"subtype": "PCM_16"},
    ".flac": {},
    ".ogg": {"subtype": "OPUS"},
    ".oga": {"format": "OGG", "subtype": "VORBIS"},
    ".mp3": {},
    ".aiff": {},
}
COMMON = (".wav", ".flac", ".ogg")


@pytest.mark.parametrize("suffix", SOUNDS)
def test_sounds(fuzz, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 2)), 16_000, **SOUNDS[suffix])

    def read(data: bytes) -> None:
        path.write_bytes(data)
        audio_info(path)
        waveform, rate = read_waveform(path, sample_rate=8_000, max_seconds=20)
        assert rate == 8_000 and waveform.isfinite().all() and 1 <= waveform.shape[0] <= 8
        assert waveform.shape[1] <= 20 * rate + 1

    fuzz(fuzz.damage(path.read_bytes(), hot=120), read, f"{suffix} files", 1 if suffix in COMMON else 0.2)


def test_sofa_files(fuzz, tmp_path: Path, write_sofa: Callable[..., Path]) -> None:
    """In this process, so that a crash of HDF5 would end the test run; users' files are read in a child process."""
    path = tmp_path / "head.sofa"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        head = load_sofa(path, isolate=False)
        assert head.impulse_responses.isfinite().all() and 8_000 <= head.sample_rate <= 384_000

    fuzz(fuzz.damage(write_sofa().read_bytes(), hot=12_000), read)

"""Point by point what a corpus can be damaged by: every bad file is in the rejects, every good one is as if alone."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualspec.data import prepare as prepare_module
from dualspec.data.corpora import CorpusSpec
from dualspec.data.manifest import read_manifest
from dualspec.data.prepare import prepare

RATE = 16_000
GOOD_NAMES = (
    "plain.wav", "new\nline.wav", "quote\"s and 'more'.wav", "犬の声.wav", "e\u0301.wav", "\u202eright to left.wav",
    "-rf.wav", "=1+1.wav", "100 % $(reboot) `x`.wav", "back\\slash.wav", "semi;colon, comma.wav", "🐕.wav",
    "tab\there.wav", "w" * 240 + ".wav", "CON.wav", "a..wav.wav", " leading and trailing .wav",
)  # fmt: skip


def noise(seed: int = 0, seconds: float = 1.05) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


def sound(path: Path, samples: np.ndarray | None = None, rate: int = RATE, **kind: str) -> bytes:
    soundfile.write(path, noise() if samples is None else samples, rate, **kind)
    return path.read_bytes()


def patched(path: Path, at: int, new: bytes, **kind: str) -> None:
    data = bytearray(sound(path, **kind))
    data[at : at + len(new)] = new
    path.write_bytes(data)


def cut(path: Path, **kind: str) -> None:
    whole = sound(path, **kind)
    path.write_bytes(whole[: len(whole) // 2])


def terabyte(path: Path) -> None:
    """A FLAC whose header claims 2^36 - 16 samples of eight channels: more than 1 TiB decoded."""
    patched(path, 21, b"\xff\xff\xff\xff\xf0", format="FLAC")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def door(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def unreadable(path: Path) -> None:
    sound(path)
    path.chmod(0)


KINDS: dict[str, tuple[str, str, Callable[[Path], object]]] = {  # container, reason, how
    "zero bytes": (".wav", "empty", lambda path: path.write_bytes(b"")),
    "header only": (".wav", "empty", lambda path: sound(path, noise()[:0])),
    "truncated WAV": (".wav", "truncated", cut),
    "truncated FLAC": (".flac", "unreadable", cut),
    "truncated Ogg": (".ogg", "unreadable", lambda path: cut(path, format="OGG", subtype="OPUS")),
    "lying WAV": (".wav", "truncated", lambda path: patched(path, 40, b"\xff\xff\xff\x7f")),
    "1 TiB header": (".flac", "too_long", terabyte),
    "0 channels": (".wav", "unreadable", lambda path: patched(path, 22, b"\0\0")),
    "1024 channels": (".wav", "too_many_channels", lambda path: sound(path, np.zeros((20, 1024)))),
    "0 Hz": (".wav", "bad_sample_rate", lambda path: patched(path, 24, struct.pack("<I", 1))),
    "one sample": (".wav", "too_short", lambda path: sound(path, noise()[:1])),
    "NaN": (".wav", "not_finite", lambda path: sound(path, noise() * np.nan, subtype="FLOAT")),
    "infinity": (".wav", "not_finite", lambda path: sound(path, noise() * np.inf, subtype="FLOAT")),
    "silence": (".wav", "silent", lambda path: sound(path, noise() * 0)),
    "wrong extension": (".wav", "wrong_extension", lambda path: sound(path, format="FLAC")),
    "text": (".mp3", "unreadable", lambda path: path.write_text("<html>404</html>" * 500)),
    "random bytes": (".aiff", "unreadable", lambda path: path.write_bytes(np.random.default_rng(1).bytes(9_000))),
    "a folder": (".wav", "missing", lambda path: path.mkdir()),
    "a link to itself": (".wav", "missing", lambda path: path.symlink_to(path.name)),
    "a link to nothing": (".wav", "missing", lambda path: path.symlink_to("gone.wav")),
    "a link to a device": (".wav", "missing", lambda path: path.symlink_to("/dev/zero")),
    "a named pipe": (".wav", "missing", pipe),
    "a socket": (".wav", "missing", door),
    "no permission": (".wav", "unreadable", unreadable),
}  # fmt: skip


@pytest.fixture
def rights() -> Iterator[None]:
    """Take from this thread what lets root read files of mode 0."""
    libc, header = ctypes.CDLL(None, use_errno=True), struct.pack("Ii", 0x20080522, 0)
    before = ctypes.create_string_buffer(24)
    assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
    effective, *others = struct.unpack("6I", before.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~0b110, *others)) == 0
    yield
    assert libc.capset(header, before.raw) == 0


def corpus(root: Path, num_good: int, kinds: list[str]) -> tuple[CorpusSpec, dict[str, str]]:
    """Folders named by label with good clips and one damaged file per entry; ids and reasons of the damaged ones."""
    for label in ("dog", "rain"):
        (root / label).mkdir(parents=True)
    names = (*GOOD_NAMES, *(f"{number:05d}.wav" for number in range(num_good - len(GOOD_NAMES))))
    for number, name in enumerate(names):
        sound(root / ("dog", "rain")[number % 2] / name, noise(number))
    expected = {}
    for number, kind in enumerate(kinds):
        suffix, reason, make = KINDS[kind]
        path = root / "rain" / f"bad {number:04d} {kind}{suffix}"
        make(path)
        expected[f"folder/rain/{path.stem}"] = reason
    return CorpusSpec(name="folder", root=root), expected


def rejects_of(out: Path) -> dict[str, str]:
    lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def shards_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("shards/*.flac")}


@pytest.mark.parametrize("num_good", [100, pytest.param(9_500, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("rights")
def test_exactly_the_damaged_files_are_rejected_and_the_others_are_as_if_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_good: int, figure: Callable[[str], None]
) -> None:
    """Five files in a hundred and more, of every kind; the good ones give the same bytes with and without them."""
    monkeypatch.setattr(prepare_module, "CLIPS_PER_SHARD", 20_000)  # damaged files change nobody's place in a shard
    kinds = (list(KINDS) * (1 + num_good // 19 // len(KINDS)))[: max(len(KINDS), num_good // 19)]
    mixed, expected = corpus(tmp_path / "mixed", num_good, kinds)
    clean, _ = corpus(tmp_path / "clean", num_good, [])
    prepare([mixed], tmp_path / "out", workers=1, max_bad_fraction=1.0)
    prepare([clean], tmp_path / "alone", workers=1)
    assert rejects_of(tmp_path / "out") == expected
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == (tmp_path / "alone/manifest.jsonl").read_bytes()
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "alone")
    assert len(read_manifest(tmp_path / "out")) == num_good
    figure(
        f"prepare: {num_good} good clips and {len(kinds)} bad files of {len(KINDS)} kinds; rejects exact, rest equal"
    )


def test_a_name_that_is_no_text_is_rejected_alone(tmp_path: Path) -> None:
    (tmp_path / "in" / "dog").mkdir(parents=True)
    sound(tmp_path / "in" / "dog" / "a.wav")
    os.link(tmp_path / "in" / "dog" / "a.wav", os.fsencode(tmp_path / "in" / "dog") + b"/caf\xe9.wav")
    prepare([CorpusSpec(name="folder", root=tmp_path / "in")], tmp_path / "out", workers=1, max_bad_fraction=1.0)
    assert rejects_of(tmp_path / "out") == {"folder/dog/caf\\udce9": "bad_name"}
    assert [row.id for row in read_manifest(tmp_path / "out")] == ["folder/dog/a"]


def test_a_listed_name_longer_than_any_file_system_allows_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "labels.csv").write_text(f"file,label\na.wav,dog\n{'w' * 300}.wav,dog\n")
    with pytest.raises(ValueError, match=r"labels\.csv:3: file must be a relative path"):
        prepare([CorpusSpec(name="folder", root=tmp_path / "in")], tmp_path / "out", workers=1)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, figure: Callable[[str], None]
) -> None:
    monkeypatch.setattr(prepare_module, "CLIPS_PER_SHARD", 4)
    spec, _ = corpus(tmp_path / "in", 90, ["NaN", "truncated WAV"])

    def run(out: Path) -> None:
        prepare([spec], out, workers=1, max_bad_fraction=1.0)

    started = time.monotonic()
    run(tmp_path / "whole")
    seconds, draw, survived, kept = time.monotonic() - started, random.Random(0), 0, 0
    out = tmp_path / "out"
    while survived < kills:
        child = os.fork()
        if child == 0:
            run(out)
            os._exit(0)
        time.sleep(draw.uniform(0.05, 0.6) * seconds)
        os.kill(child, signal.SIGKILL)
        survived += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        kept += len(list(out.glob("shards/*.json")))
        if (out / "manifest.jsonl").exists():  # it was done in time: start afresh
            out = out.with_name(f"out{survived}")
    run(out)
    files = [
        {p.relative_to(o): hashlib.sha256(p.read_bytes()).hexdigest() for p in o.rglob("*") if p.is_file()}
        for o in (out, tmp_path / "whole")
    ]
    assert files[0] == files[1] and kept
    figure(f"prepare: {survived} SIGKILLs at random moments, same manifest hash, no file left over")

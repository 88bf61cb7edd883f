"""A disk that is really full: what was there stays whole, nothing is half-written, the message says why (T7)."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualspec.audio.waveform import Pcm16Writer, write_waveform
from dualspec.cli import main
from dualspec.cli.door import IO_ERROR
from dualspec.data.corpora import CorpusSpec
from dualspec.data.prepare import prepare
from dualspec.files import sha256_of
from dualspec.pipeline import DualSpecPipeline
from dualspec.training.checkpoint import newest_checkpoint

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
NEWNS, NEWUSER = 0x20000, 0x10000000
UNSUPPORTED = 77


class Disk:
    """A disk of a few megabytes, which only this process and its children see."""

    def __init__(self, root: Path, megabytes: int) -> None:
        libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
        if libc.unshare(NEWNS | (NEWUSER if user else 0)):
            os._exit(UNSUPPORTED)
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        private = libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
        if private or libc.mount(b"none", bytes(root), b"tmpfs", 0, f"size={megabytes}m".encode()):
            os._exit(UNSUPPORTED)
        self.root, self.filler = root, root / "filler"

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        self.filler.unlink(missing_ok=True)
        state = os.statvfs(self.root)
        self.filler.write_bytes(bytes(max(0, state.f_bavail * state.f_bsize - left)))

    def free(self) -> None:
        self.filler.unlink()

    def files(self, *without: str) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file() and path != self.filler]
        return {
            str(path.relative_to(self.root)): sha256_of(path)
            for path in files
            if not any(word in str(path) for word in without)
        }


@pytest.fixture
def on_full_disk(tmp_path: Path) -> Callable[[Callable[[Disk], None]], None]:
    """A function that runs a test's body in a child process with such a disk; skips where none may be mounted."""

    def run(body: Callable[[Disk], None], megabytes: int = 8) -> None:
        (tmp_path / "disk").mkdir()
        child = os.fork()
        if child == 0:
            try:
                body(Disk(tmp_path / "disk", megabytes))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == UNSUPPORTED:
            pytest.skip("this process may not mount a disk of its own (user namespaces are closed)")
        assert code == 0

    return run


def refused(capfd: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that the disk refuses; return the one line that it says."""
    capfd.readouterr()
    assert main([str(word) for word in words]) == IO_ERROR
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert re.search(r"\d+ (bytes )?are free", said) and "No space left" in said, said
    return said


def test_sound_files_are_whole_or_absent(on_full_disk: Callable) -> None:
    """Page by page up to the size of the file: a FLAC that lost its end only as it was closed is refused, too."""
    waveform = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def shard(path: Path) -> None:
        with Pcm16Writer(path, 16_000) as writer:
            for _ in range(3):
                writer.append((waveform[0] * 32_000).short())

    def body(disk: Disk) -> None:
        for name, write in (
            ("a.wav", lambda path: write_waveform(path, waveform, 16_000)),
            ("a.flac", lambda path: write_waveform(path, waveform, 16_000)),
            ("shard.flac", shard),
        ):
            path = disk.root / name
            write(path)
            whole, pages = path.read_bytes(), -(-path.stat().st_size // 4096)
            path.unlink()
            for left in range(pages):
                disk.fill(4096 * left)
                with pytest.raises(OSError, match=r"could not be written, \d+ bytes are free: .*No space left"):
                    write(path)
                assert disk.files() == {}
            disk.fill(4096 * (pages + 2))
            write(path)
            assert path.read_bytes() == whole
            path.unlink()
            disk.free()

    on_full_disk(body, 2)


def test_generate(on_full_disk: Callable, tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def body(disk: Disk) -> None:
        words = ("generate", PROMPT, "--model", tiny_model, "--steps", 1, "-o", disk.root / "dog.wav")
        assert main([str(word) for word in words]) == 0
        before = disk.files()
        for left in (0, 30_000):
            disk.fill(left)
            refused(capfd, *words, "--seed", 1)
            assert disk.files() == before
        disk.free()
        assert main([str(word) for word in (*words, "--seed", 1)]) == 0
        assert len(disk.files()) == 3 and not set(disk.files().values()) & set(before.values())

    on_full_disk(body)


def test_generate_by_onnx(on_full_disk: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")

    def body(disk: Disk) -> None:
        disk.fill(100_000)
        refused(capfd, "generate", PROMPT, "--engine", "onnx", "--steps", 1, "-o", disk.root / "dog.flac")
        assert disk.files() == {}

    on_full_disk(body)


def six_recordings(folder: Path) -> CorpusSpec:
    """Noise of 1.3 s each, as a corpus."""
    (folder / "in" / "rain").mkdir(parents=True)
    for number in range(6):
        noise = torch.rand(1, 20_800, generator=torch.Generator().manual_seed(number)) - 0.5
        write_waveform(folder / "in" / "rain" / f"{number}.wav", noise, 16_000)
    return CorpusSpec(name="folder", root=folder / "in")


def test_prepare(on_full_disk: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever it ends, the manifest is absent; with room again the same command makes what it makes alone."""
    recordings = six_recordings(tmp_path)
    prepare([recordings], tmp_path / "alone", workers=1)
    alone = {str(path.relative_to(tmp_path / "alone")): sha256_of(path) for path in (tmp_path / "alone").rglob("*.*")}

    def body(disk: Disk) -> None:
        words = ("prepare", disk.root / "out", "--corpus", f"folder={recordings.root}", "--workers", 1)
        for left in (4096, 40_000, 100_000):
            disk.fill(left)
            refused(capfd, *words)
            assert not list(disk.root.rglob("manifest.jsonl"))
            assert {name.removeprefix("out/"): digest for name, digest in disk.files().items()}.items() <= alone.items()
        disk.free()
        assert main([str(word) for word in words]) == 0
        assert disk.files() == {f"out/{name}": digest for name, digest in alone.items()}

    on_full_disk(body)


def test_pack(on_full_disk: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare([six_recordings(tmp_path)], tmp_path / "data", workers=1)

    def body(disk: Disk) -> None:
        words = ("pack", disk.root / "kit", "--data", tmp_path / "data")
        for left in (12_288, 16_384, 24_576):
            disk.fill(left)
            refused(capfd, *words)
            assert [path.name for path in disk.root.iterdir()] == ["filler"]
        disk.free()
        assert main([str(word) for word in words]) == 0

    on_full_disk(body)


def test_training(on_full_disk: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the settings, in the log, in the midst of a checkpoint: the one before stays, and with room it goes on."""
    prepare([six_recordings(tmp_path)], tmp_path / "data", workers=1)

    def body(disk: Disk) -> None:
        words = ("train", "tiny/localizer", "--data", tmp_path / "data", "--runs", disk.root, "--resume")
        words = (*words, "--set", "loop.batch_size=2", "--set", "loop.validate_every=0", "--set", "loop.held_out=0")
        run = disk.root / "tiny" / "localizer"
        assert main([str(word) for word in (*words, "--set", "loop.max_steps=2")]) == 0
        before = disk.files("log", "tensorboard", "json", "run.lock")
        size = sum(path.stat().st_size for path in (run / "checkpoints").rglob("*.*"))
        for left in (0, 8192, 16_384, size // 2, size - 4096):
            disk.fill(left)
            said = refused(capfd, *words, "--set", "loop.max_steps=4")
            assert left < size // 2 or "needs" in said
            assert disk.files("log", "tensorboard", "json", "run.lock") == before
            found, complaints = newest_checkpoint(run / "checkpoints")
            assert (found[0], complaints) == (2, [])
        disk.free()
        assert main([str(word) for word in (*words, "--set", "loop.max_steps=4")]) == 0

    on_full_disk(body)


def test_export(on_full_disk: Callable, tiny_model: Path) -> None:
    """A model that is saved anew over itself stays the one or the other, part by part."""
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)

    def body(disk: Disk) -> None:
        pipeline.save_pretrained(disk.root / "model")
        before = disk.files()
        disk.fill(20_000)
        with pytest.raises(OSError, match=r"needs \d+ bytes, \d+ are free") as caught:
            pipeline.save_pretrained(disk.root / "model", dtype=torch.float16)
        assert "No space left" in str(caught.value) and disk.files() == before
        DualSpecPipeline.from_pretrained(disk.root / "model")

    on_full_disk(body)

"""Files of others and of processes that live elsewhere stay; what is read is bounded before it is read."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dualspec import files
from dualspec.files import atomic_path, read_bytes, read_lines, read_text, remove_leftovers, temporary_in
from dualspec.training.run_lock import LOCK_NAME, LOG_NAME, end_of_log, run_lock
from dualspec.training.weights import remove_leftovers as remove_leftovers_of_training

WRITER = """
import sys, time
from pathlib import Path
from dualspec.files import temporary_in
with temporary_in(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("living")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_process_that_cannot_be_seen_writes_stays_until_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers may share a folder and a machine's name, and not see each other's processes."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        temporary = Path(writer.stdout.readline().strip())
        monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(ProcessLookupError()))
        remove_leftovers(tmp_path)
        remove_leftovers_of_training(tmp_path)
        assert (temporary / "half").read_text() == "living"
    finally:
        monkeypatch.undo()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_removed_but_what_was_left_here(tmp_path: Path) -> None:
    others = [".tmp-0123", f".tmp-dualspec-{'0' * 15}", f".tmp-dualspec-{'0' * 16}.txt", ".old-thesis-2", "a.wav"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f".tmp-dualspec-{'1' * 16}").write_text("a file")
    (tmp_path / f".tmp-dualspec-{'2' * 16}").symlink_to(tmp_path / "a.wav")
    (tmp_path / "deep" / f".tmp-dualspec-{'3' * 16}" / "deeper").mkdir(parents=True)
    before = {path.name for path in tmp_path.iterdir()}
    with temporary_in(tmp_path) as own:
        remove_leftovers(tmp_path)
        remove_leftovers_of_training(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == before | {own.name}
    remove_leftovers(tmp_path, below=True)
    assert {path.name for path in tmp_path.iterdir()} == before and not list((tmp_path / "deep").iterdir())


def test_a_name_that_is_swept_away_before_it_is_locked_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Path] = []
    opened = os.open

    def sweep_first(path: Path, *arguments: int, **options: int) -> int:
        if not swept and ".tmp-dualspec-" in str(path):
            swept.append(path)
            remove_leftovers(tmp_path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(files.os, "open", sweep_first)
    with temporary_in(tmp_path) as folder:
        assert folder.is_dir() and swept and folder not in swept


def test_without_locks_files_are_written_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / f".tmp-dualspec-{'0' * 16}").mkdir()
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".tmp-dualspec-{'0' * 16}", "a.txt"]
    monkeypatch.setattr(files, "fcntl", None)
    with atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("whole")
    remove_leftovers(tmp_path)
    assert (tmp_path / f".tmp-dualspec-{'0' * 16}").is_dir() and (tmp_path / "b.txt").read_text() == "whole"


def test_what_was_moved_aside_comes_back_where_nothing_took_its_place(tmp_path: Path) -> None:
    for name in ("weights", "model"):
        (tmp_path / f".old-dualspec-{name}-{'0' * 16}").mkdir()
        (tmp_path / f".old-dualspec-{name}-{'0' * 16}" / "file").write_text("old")
    (tmp_path / "model").mkdir()
    remove_leftovers_of_training(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "weights"]
    assert (tmp_path / "weights" / "file").read_text() == "old" and not list((tmp_path / "model").iterdir())


def test_locks_and_logs_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_bytes(b"my own notes\xff")
    with pytest.raises(FileExistsError, match="must be the lock of a run"), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).read_bytes() == b"my own notes\xff"
    (tmp_path / LOCK_NAME).write_text("123")
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())
    for content in (b"2026-01-01 begun", b"2026-01-01 begun\n", b'{"event": 1}\n'):
        (tmp_path / LOG_NAME).write_bytes(content)
        if content.endswith(b"\n"):
            with pytest.raises(ValueError, match="must be a line of a run's log"):
                end_of_log(tmp_path)
    (tmp_path / LOG_NAME).write_bytes(b'{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    assert end_of_log(tmp_path) == 25


READERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: read_bytes(path, max_bytes=1000),
    "text": lambda path: read_text(path, max_bytes=1000),
    "lines": lambda path: list(read_lines(path, max_bytes=1000)),
    "one line": lambda path: next(read_lines(path)),
}


@pytest.mark.parametrize("what", READERS)
def test_no_more_than_the_limit_is_read(what: str, tmp_path: Path) -> None:
    """A device without end, and a sparse file of 3 GB, in 100 MB of room."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(3 * 2**30)
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 100 * 2**20, before[1]))
    try:
        for path in (Path("/dev/zero"), sparse):
            with pytest.raises(ValueError, match=r"must (be|have) at most \d+ bytes, got more"):
                READERS[what](path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

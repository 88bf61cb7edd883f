"""One trainer per run folder: a lock that the system itself lifts when its holder dies, and what counts as a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualspec.files import lock, read_lines

LOG_NAME = "log.jsonl"
LOCK_NAME = "run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for as long as the block lasts; the folder is made if it is not there.

    Raises:
        BlockingIOError: another process holds it; the message names it.
        FileExistsError: a file of somebody else bears the lock's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+", encoding="ascii", errors="replace") as file:
        is_free = lock(file.fileno())
        file.seek(0)
        holder = file.read(32).strip()
        if not is_free:
            raise BlockingIOError(
                f"run folder must be free, got {folder}, which process {holder or 'unknown'} holds; wait for it or "
                "take another"
            )
        if holder and not holder.isdecimal():
            raise FileExistsError(f"{folder / LOCK_NAME} must be the lock of a run, got another file; rename it")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holds_run(folder: Path) -> bool:
    """Say whether a folder holds a run: a checkpoint or weights. What failed before its first checkpoint is none."""
    return (folder / "weights").exists() or any((folder / "checkpoints").glob("step-*"))


def end_of_log(folder: Path) -> int:
    """Return the byte behind the last whole line of a run's log; a killed run may have left half a line.

    Raises:
        ValueError: a file of somebody else bears the log's name.
    """
    path, end = folder / LOG_NAME, 0
    if not path.exists():
        return 0
    for number, line in read_lines(path):
        if not line.endswith("\n"):
            break
        if not line.startswith('{"step": '):
            raise ValueError(f"{path}:{number} must be a line of a run's log, got another; rename the file")
        end += len(line.encode())
    return end

"""One trainer per run folder: a lock that the system itself lifts when its holder dies, and what counts as a run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for as long as the block lasts; the folder is made if it is not there.

    Raises:
        BlockingIOError: another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BlockingIOError(
                f"run folder must be free, got {folder}, which process {holder} holds; wait for it or take another"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holds_run(folder: Path) -> bool:
    """Say whether a folder holds a run: a checkpoint or weights. What failed before its first checkpoint is none."""
    return (folder / "weights").exists() or any((folder / "checkpoints").glob("step-*"))

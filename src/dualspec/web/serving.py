"""Running the service: its socket, its folder, its signals, and an end that lets the running job finish."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from dualspec.training.run_lock import run_lock
from dualspec.web.jobs import JobBook
from dualspec.web.settings import Settings

_PREFIX = "dualspec-serve-"
_CANCEL_S = 10.0
_LIMITS = {"http": "h11", "ws": "none", "limit_concurrency": 256, "timeout_graceful_shutdown": 5}
_QUIET = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}


class Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to us: they drain before they end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.contextmanager
def work_folder(parent: Path | None = None) -> Iterator[Path]:
    """Lend a private folder for results, and remove those that killed services have left behind.

    Args:
        parent: where; the system's folder for temporary files if None.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for left in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # one that is held stays, and so does another user's
            if left.lstat().st_uid == os.getuid() and not left.is_symlink():
                with run_lock(left):
                    shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with run_lock(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_server(app: FastAPI) -> Server:
    """Put an app behind uvicorn with our limits."""
    return Server(uvicorn.Config(app, lifespan="on", **_LIMITS, **_QUIET))  # type: ignore[arg-type]


async def run(app: FastAPI, listener: socket.socket, settings: Settings, say: Callable[[], None]) -> signal.Signals:
    """Serve until SIGTERM or SIGINT.

    SIGTERM lets the running job finish within `drain_s` while everything new is refused; SIGINT, or a second signal,
    cancels it.

    Args:
        app: the service.
        listener: where it listens.
        settings: times.
        say: called when it listens.

    Returns:
        The first signal.
    """
    jobs: JobBook = app.state.service.jobs
    loop, server = asyncio.get_running_loop(), build_server(app)
    came: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, came.put_nowait, number)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    say()
    first = await came.get()
    was_busy = jobs.running is not None
    jobs.drain()
    if not await _idle(jobs, settings.drain_s if first is signal.SIGTERM else 0.0, came):
        jobs.drain(all_jobs=True)
        await _idle(jobs, _CANCEL_S, came)
    elif was_busy:
        await asyncio.sleep(settings.linger_s)
    server.should_exit = True
    await serving
    return first


async def _idle(jobs: JobBook, seconds: float, came: asyncio.Queue[signal.Signals]) -> bool:
    """Wait until no job runs, at most so many seconds or until the next signal; tell whether none does."""
    end = asyncio.get_running_loop().time() + seconds
    while jobs.running is not None and came.empty() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)
    return jobs.running is None

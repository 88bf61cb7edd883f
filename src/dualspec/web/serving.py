"""Running the service: its socket, its folder, its signals, and an end that lets the running job finish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from dualspec.training.run_lock import run_lock
from dualspec.web.guard import HEADERS
from dualspec.web.settings import MAX_WAITING, MAX_WAITING_PER_ADDRESS, Settings

if TYPE_CHECKING:
    from dualspec.web.jobs import JobBook

_PREFIX = "dualspec-serve-"
_CANCEL_S = 10.0
_LIMITS = {"ws": "none", "timeout_graceful_shutdown": 5}
_QUIET = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP, patient with slow clients up to a limit, so that they cannot hold all connections for ever.

    Connections whose next head has not come are bounded, of one address and in all: the one that has waited longest
    makes room for the next, so that half-sent heads shut nobody out.
    """

    head_s = 20.0  # time for the head of a request to arrive, after the connection or the answer before it
    answer_s = 300.0  # more time for an answer to be taken
    waits_since = 0.0  # when the connection was made or the last answer taken
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait(self.head_s, self._close, None)
        self.waits_since = self.loop.time()
        waiting = sorted(
            (one for one in self.connections if isinstance(one, PatientProtocol) and one.is_waiting),
            key=lambda one: one.waits_since,
        )
        own = [one for one in waiting if one.address == self.address]
        for some, most in ((own, MAX_WAITING_PER_ADDRESS), (waiting, MAX_WAITING)):
            if len(some) > most:
                some[0].transport.abort()

    @property
    def address(self) -> str | None:
        """Of the client."""
        return self.client[0] if self.client else None

    @property
    def is_waiting(self) -> bool:
        """Whether a head is to come and has not."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as everything else is refused."""
        body = json.dumps({"error": "request must be HTTP, got something else", "field": None}).encode()
        headers = HEADERS | {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            start = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        last = self.cycle
        super().on_response_complete()
        self.waits_since = self.loop.time()
        self._wait(self.head_s, self._close, last)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float, then: Callable[..., None], *arguments: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then, *arguments)

    def _close(self, last: object) -> None:
        """Close the connection unless a request came after `last`, as soon as its answer is taken or given up."""
        if self.cycle is last:
            self.transport.close()
            self._wait(self.answer_s, self.transport.abort)


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


@contextlib.contextmanager
def listen_on(settings: Settings, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Listen on the settings' address; lend the socket, and the page's address.

    On a terminal the address holds the token; elsewhere it would stay, in a journal or a file, for others to read.
    """
    host = settings.host
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        if settings.token is None:
            yield listener, url
        elif sys.stdout.isatty():
            yield listener, f"{url}#token={settings.token}"
        else:
            yield listener, f"{url}#token=…  (the token is kept out of this output)"


def build_server(app: FastAPI) -> Server:
    """Put an app behind uvicorn with our limits."""
    return Server(uvicorn.Config(app, lifespan="on", http=PatientProtocol, **_LIMITS, **_QUIET))  # type: ignore[arg-type]


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
    async with _served(app, listener, say) as came:
        first = await came.get()
        was_busy = jobs.running is not None
        jobs.drain()
        if not await _idle(jobs, settings.drain_s if first is signal.SIGTERM else 0.0, came):
            jobs.drain(all_jobs=True)
            await _idle(jobs, _CANCEL_S, came)
        elif was_busy:
            await asyncio.sleep(settings.linger_s)
    return first


async def run_without_jobs(app: FastAPI, listener: socket.socket, say: Callable[[], None]) -> signal.Signals:
    """Serve an app that has no jobs until SIGTERM or SIGINT, and return it; arguments as `run`."""
    async with _served(app, listener, say) as came:
        return await came.get()


@contextlib.asynccontextmanager
async def _served(
    app: FastAPI, listener: socket.socket, say: Callable[[], None]
) -> AsyncIterator[asyncio.Queue[signal.Signals]]:
    """Serve while the block lasts; lend the queue of the signals that come."""
    loop, server = asyncio.get_running_loop(), build_server(app)
    came: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, came.put_nowait, number)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    say()
    try:
        yield came
    finally:
        server.should_exit = True
        await serving


async def _idle(jobs: JobBook, seconds: float, came: asyncio.Queue[signal.Signals]) -> bool:
    """Wait until no job runs, at most so many seconds or until the next signal; tell whether none does."""
    end = asyncio.get_running_loop().time() + seconds
    while jobs.running is not None and came.empty() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)
    return jobs.running is None

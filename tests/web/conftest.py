"""A service with a fake studio behind a real uvicorn on a free port, and a client of bare sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.audio.waveform import write_waveform
from dualspec.diffusion.sampler import SamplingConfig
from dualspec.generation import WrittenClip
from dualspec.web.app import create_app
from dualspec.web.serving import build_server
from dualspec.web.settings import Settings

RATE = 16_000


class FakeStudio:
    """Makes a tiny sound at once, or step by step as a test lets it."""

    events = ("dog bark", "rain")
    variants = ({"name": "dualspec", "loaded": True},)
    heads = ({"name": "sphere", "licence": "computed"},)

    def __init__(self) -> None:
        self.go = threading.Event()  # no step is done before it is set
        self.go.set()
        self.step_s = 0.0
        self.steps_done = 0
        self.fail: Exception | None = None

    def about(self) -> dict[str, Any]:
        return {"variant": "dualspec"}

    def sampling(self, order: Any) -> SamplingConfig:
        return SamplingConfig(num_inference_steps=order.num_inference_steps or 4)

    def clips(self, order: Any, folder: Path, on_step: Callable[[int, int], None]) -> Iterator[WrittenClip]:
        prompt, parsed = order.prompt()
        steps = self.sampling(order).num_inference_steps
        for index in range(order.num_clips):
            for step in range(steps):
                self.go.wait(30)
                time.sleep(self.step_s)
                self.steps_done += 1
                on_step(index * steps + step + 1, order.num_clips * steps)
            if self.fail is not None:
                raise self.fail
            path = folder / f"clip-seed{order.seed + index}.wav"
            write_waveform(path, torch.full((2, 160), 0.25), RATE)
            azimuth = {"azimuth_deg": parsed.azimuth.azimuth_deg}
            proof = {"asked_deg": azimuth["azimuth_deg"], "heard_deg": 90.0, "localizer": {}, "target": {}}
            record = {"prompt": prompt, "seed": order.seed + index, "azimuth": azimuth, "gain_db": 0.0}
            record |= {"num_samples": 160, "sample_rate": RATE, "direction": proof}
            yield WrittenClip(path=path, record=record, replaced=False)

    def picture(self, clip: WrittenClip) -> bytes:
        return b"\x89PNG of " + clip.path.name.encode()

    def localize(self, recording: Path) -> dict[str, Any]:
        raise ValueError(f"{recording} must have two channels, got 1; it had {recording.stat().st_size} bytes")

    def spatialize(self, recording: Path, azimuth_deg: float, head: str) -> bytes:
        self.go.wait(30)
        return f"{azimuth_deg:g} {head} {recording.stat().st_size}".encode()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running(NamedTuple):
    """A service that runs in a thread of the test."""

    port: int
    studio: FakeStudio
    root: Path
    app: Any

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request; a dict goes as JSON, bytes go as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def open(self, text: str) -> socket.socket:
        """Send bytes by hand and keep the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(text.encode())
        return connection

    def job(self, **order: Any) -> str:
        """Create a job and return its path."""
        answer = self.ask("POST", "/api/jobs", {"event": "dog", "azimuth_deg": 90} | order)
        assert answer.status == 202, answer
        return answer.headers["location"]

    def over(self, path: str) -> dict[str, Any]:
        """Wait until a job is over."""
        return wait_for(lambda: (job := self.ask("GET", path).json)["expires_in_s"] is not None and job)


def wait_for(question: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return answer


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """A function that starts a service with given settings."""
    opened = []

    @contextmanager
    def service(settings: Settings) -> Iterator[Running]:
        studio = FakeStudio()
        app = create_app(studio, settings, tmp_path)  # type: ignore[arg-type]
        server = build_server(app)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
            thread.start()
            try:
                wait_for(lambda: server.started)
                yield Running(listener.getsockname()[1], studio, tmp_path, app)
            finally:
                studio.go.set()
                server.should_exit = True
                thread.join(20)
        assert not thread.is_alive()

    def begin(**settings: Any) -> Running:
        context = service(Settings(**settings))
        opened.append(context)
        return context.__enter__()

    yield begin
    for context in opened:
        context.__exit__(None, None, None)

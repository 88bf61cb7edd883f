"""A service with a fake studio behind a real uvicorn on a free port, and a client of bare sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.waveform import write_waveform
from dualspec.diffusion.sampler import SamplingConfig
from dualspec.generation import WrittenClip
from dualspec.scenes.score import plan_scene
from dualspec.text.location_words import LocationWords
from dualspec.web.app import create_app
from dualspec.web.serving import build_server
from dualspec.web.settings import Settings
from dualspec.web.studio import Studio

RATE = 16_000
SAMPLES = 8_000


class FakeStudio:
    """Makes a tiny sound at once, or step by step as a test lets it."""

    events = ("dog bark", "rain", "helicopter")
    variants = ({"name": "dualspec", "loaded": True},)
    heads = ({"name": "sphere", "licence": "computed"}, {"name": "other", "licence": "CC0"})

    def __init__(self) -> None:
        self.go = threading.Event()  # no step is done before it is set
        self.go.set()
        self.step_s = 0.0
        self.steps_done = 0
        self.fail: Exception | None = None
        self.passed_db = 0.0  # by which a sound passes full scale

    def about(self) -> dict[str, Any]:
        directions = [
            {"azimuth_deg": azimuth, "clock": f"{12 - azimuth / 30:g} o'clock", "general": f"at {azimuth:g}"}
            for azimuth in sector_grid_deg()
        ]
        defaults = {"num_inference_steps": 4, "guidance_scale": 3.0, "duration_s": 0.5, "sample_rate": RATE}
        defaults["loudness_lufs"] = -23.0
        named = {"variant": "dualspec", "judge": {"name": "fake"}, "moving_head": "sphere", "num_azimuths": 12}
        return named | {"directions": directions} | defaults

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
            write_waveform(path, 0.25 * torch.ones(2, SAMPLES), RATE)
            azimuth = {"azimuth_deg": parsed.azimuth.azimuth_deg}
            proof = {"heard_deg": 90.0, "confidence": 0.9, "itd_us": -700.0, "ild_db": 8.0, "no_answer": None}
            proof |= {"front_back_confused": None, "localizer": {}, "target": {}}
            read_as = LocationWords().read(prompt)
            record = {
                "prompt": prompt,
                "read_as": read_as,
                "seed": order.seed + index,
                "azimuth": azimuth,
                "gain_db": -self.passed_db,
                "passed_full_scale_db": self.passed_db,
                "loudness": {"lufs": -23.0, "held_by_peak": False},
            }
            record |= {"num_samples": SAMPLES, "sample_rate": RATE, "direction": proof}
            yield WrittenClip(path=path, record=record, replaced=False)

    def plan(self, scene: Any) -> Any:
        return plan_scene(scene, sound_s=SAMPLES / RATE)

    def scene(self, scene: Any, folder: Path, on_step: Callable[[int, int], None]) -> Iterator[WrittenClip]:
        plan = self.plan(scene)
        for step in range(4):
            self.go.wait(30)
            time.sleep(self.step_s)
            on_step(step + 1, 4)
        path = folder / f"scene-seed{scene.seed}.wav"
        write_waveform(path, 0.25 * torch.ones(2, round(plan.length_s * RATE)), RATE)
        events = plan.facts()["events"]
        for event in events:
            proof = {} if event["rendered"] else {"direction": {"asked_deg": event["asked_deg"], "heard_deg": 90.0}}
            event["sounds"] = [{"seed": 0} | proof]
        record = {"kind": "scene", "gain_db": -1.5, "sample_rate": RATE, "events": events}
        yield WrittenClip(path=path, record=record | {"num_samples": round(plan.length_s * RATE)}, replaced=False)

    def export(self, clip: WrittenClip, form: Any) -> tuple[bytes, str]:
        return Studio.export(self, clip, form)  # type: ignore[arg-type]

    def archive(self, clips: Any, form: Any) -> bytes:
        return Studio.archive(self, clips, form)  # type: ignore[arg-type]

    def picture(self, clip: WrittenClip) -> bytes:
        return b"\x89PNG of " + clip.path.name.encode()

    def localize(self, recording: Path) -> dict[str, Any]:
        if recording.stat().st_size < 100:
            raise ValueError(f"{recording} must have two channels, got 1")
        shares = [1.0 if sector == 3 else 0.0 for sector in range(12)]
        return {"azimuth_deg": 90.0, "expectation_deg": 90.0, "confidence": 1.0, "probabilities": shares}

    def spatialize(self, recording: Path, where: Any, head: str, loudness_lufs: float | None) -> tuple[bytes, str]:
        self.go.wait(30)
        return recording.read_bytes(), "" if loudness_lufs is None else f"{loudness_lufs:g} LUFS"


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
    protocols: Any  # a function that lists the connections

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

    def die(self) -> None:
        """Break every connection, as a killed process does; the port is closed when the block ends."""
        for connection in self.protocols():
            connection.loop.call_soon_threadsafe(connection.transport.abort)

    def job(self, **order: Any) -> str:
        """Create a job and return its path."""
        answer = self.ask("POST", "/api/jobs", {"event": "dog", "azimuth_deg": 90} | order)
        assert answer.status == 202, answer
        return answer.headers["location"]

    def over(self, path: str) -> dict[str, Any]:
        """Wait until a job is over."""
        return _wait_for(lambda: (job := self.ask("GET", path).json)["expires_in_s"] is not None and job)


def _wait_for(question: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return answer


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """A function that asks again and again until the answer is true, and returns it."""
    return _wait_for


@contextmanager
def running_service(settings: Settings, root: Path, port: int = 0) -> Iterator[Running]:
    root.mkdir(exist_ok=True)
    studio = FakeStudio()
    app = create_app(studio, settings, root)  # type: ignore[arg-type]
    server = build_server(app)
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            _wait_for(lambda: server.started)
            yield Running(listener.getsockname()[1], studio, root, app, lambda: list(server.server_state.connections))
        finally:
            studio.go.set()
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def running() -> Callable[..., Any]:
    """A context in which a service runs, in a folder of its own and on a given port."""
    return running_service


@pytest.fixture
def fake_studio() -> FakeStudio:
    return FakeStudio()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """A function that starts a service with given settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_service(Settings(**settings), tmp_path))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the usual settings, for all tests of a file."""
    with running_service(Settings(), tmp_path_factory.mktemp("plain")) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright (extra dev)")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("the browser test needs Chromium, such as `apt-get install chromium`")
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, plain: Running) -> Iterator[Any]:
    """The page, which must stay free of errors and of other hosts."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: wrong.append(asked.url) if f"127.0.0.1:{plain.port}" not in asked.url else None)
    page.goto(f"http://127.0.0.1:{plain.port}/")
    page.wait_for_selector("#chips button")
    yield page
    context.close()
    assert not [line for line in wrong if not line.startswith(("blob:", "Failed to load resource"))]

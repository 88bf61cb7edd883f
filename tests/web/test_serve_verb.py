"""`dualspec serve` as a process of its own, with the embedded model: from an order to sound, and its end (S7)."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dualspec.audio.waveform import read_waveform
from dualspec.cli import main
from dualspec.cli.door import IO_ERROR, USAGE

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

ORDER = {"event": "dog bark", "azimuth_deg": 90, "num_inference_steps": 2}
LONG = ORDER | {"num_inference_steps": 200}  # seconds on any machine: it still runs when the server is told to stop
JSON = {"content-type": "application/json"}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """A function that starts the verb and returns the process and its port; results lie under TMPDIR."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> tuple[subprocess.Popen[str], int]:
        environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-m", "dualspec", "serve", "--port", "0"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.stderr and process.stderr.read()
        return process, int(line.split("/")[2].split(":")[1])

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    sent = json.dumps(body) if isinstance(body, dict) else body
    connection.request(method, path, sent, JSON if isinstance(body, dict) else {})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_s7_from_an_order_to_sound_and_an_end_that_lets_the_running_job_finish(serve, tmp_path):
    process, port = serve()
    status, headers, sound = ask(port, "POST", "/api/generate", LONG)
    assert status == 200
    (tmp_path / "dog.wav").write_bytes(sound)
    waveform, rate = read_waveform(tmp_path / "dog.wav")
    assert waveform.shape == (2, 81_920) and rate == 16_000
    job = headers["content-location"].removesuffix("/clips/0/audio")
    record = json.loads(ask(port, "GET", f"{job}/clips/0/record")[2])
    assert record["prompt"] == "EVENT: Dog bark & LOCATION: 9 o'clock direction"
    assert record["sampling"]["num_inference_steps"] == 200 and record["direction"]["asked_deg"] == 90.0
    heard = json.loads(ask(port, "POST", "/api/localize", sound)[2])
    assert heard["azimuth_deg"] == record["direction"]["heard_deg"]
    assert "dog" in json.loads(ask(port, "GET", "/api/events")[2])

    answers: list[tuple[int, dict[str, str], bytes]] = []
    running = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/api/generate", LONG)))
    running.start()
    while not json.loads(ask(port, "GET", "/healthz")[2])["running"]:
        pass
    waiting = json.loads(ask(port, "POST", "/api/jobs", ORDER)[2])["id"]  # behind the running one
    process.send_signal(signal.SIGTERM)
    while ask(port, "GET", "/healthz")[0] == 200:
        pass
    status, headers, _ = ask(port, "POST", "/api/jobs", ORDER)
    assert status == 503 and int(headers["retry-after"]) > 0
    assert json.loads(ask(port, "GET", f"/api/jobs/{waiting}")[2])["error"] == "the server is stopping"
    running.join()
    assert answers[0][0] == 200 and answers[0][2] == sound  # the same order and seed, to the last bit
    assert process.wait(40) == 0
    assert list(tmp_path.glob("dualspec-*")) == []


def test_s7_what_a_killed_service_left_is_gone_when_the_next_one_has_started(tmp_path):
    from dualspec.web.serving import work_folder

    code = (
        "import os, sys, pathlib; from dualspec.web.serving import work_folder\n"
        "with work_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half.wav').write_bytes(b'RIFF'); print(folder, flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with work_folder(tmp_path) as own:
            assert left.is_dir() and own != left  # it still runs: nobody takes it away
        process.kill()
    assert left.is_dir() and not own.exists()
    with work_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own] and own.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("signals", "drain_s", "state"),
    [
        ([signal.SIGTERM], 30.0, "done"),
        ([signal.SIGTERM], 0.1, "cancelled"),
        ([signal.SIGTERM, signal.SIGTERM], 30.0, "cancelled"),
        ([signal.SIGINT], 30.0, "cancelled"),
    ],
)
def test_s7_signals_decide_about_the_running_job(fake_studio, wait_for, tmp_path, signals, drain_s, state):
    from dualspec.web.app import create_app
    from dualspec.web.messages import Order
    from dualspec.web.serving import run
    from dualspec.web.settings import Settings

    fake_studio.step_s = 0.05
    settings = Settings(drain_s=drain_s, linger_s=0.0)
    app = create_app(fake_studio, settings, tmp_path)
    jobs = app.state.service.jobs
    tasks = [jobs.submit(Order(event="dog", azimuth_deg=0.0, num_inference_steps=20)) for _ in range(2)]

    def send() -> None:
        wait_for(lambda: tasks[0].step > 2)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended_by = asyncio.run(run(app, listener, settings, threading.Thread(target=send).start))
    assert ended_by is signals[0]
    assert (tasks[0].state, tasks[1].state) == (state, "cancelled")
    assert tasks[1].step == 0 and tasks[1].error == "the server is stopping"


def test_a_token_is_shown_on_a_terminal_alone(capfd, monkeypatch):
    """Standard output of a service lands in a journal, where others may read."""
    from dualspec.web.serving import listen_on
    from dualspec.web.settings import Settings

    settings = Settings(token="0123456789abcdef")
    with listen_on(settings, 0) as (_, words):
        assert "0123456789abcdef" not in words and words.startswith("http://127.0.0.1:")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with listen_on(settings, 0) as (_, words):
        assert words.endswith("/#token=0123456789abcdef")


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--host", "0.0.0.0"], USAGE, "token must be given when host is '0.0.0.0'"),
        (["--token", "short"], USAGE, "token must be 16 or more"),
        (["--device", "tpu"], USAGE, "device must be"),
        (["--port", "70000"], USAGE, "--port"),
        (["--host", "192.0.2.1", "--token", "0123456789abcdef", "--port", "0"], IO_ERROR, "annot assign"),
    ],
)
def test_wrong_commands_get_one_line(words, code, complaint, capsys, monkeypatch):
    monkeypatch.delenv("DUALSPEC_TOKEN", raising=False)
    assert main(["serve", *words]) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and complaint in said, said

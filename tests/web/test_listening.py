"""The listening test: its API, what it keeps to itself, and its page in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.audio.waveform import read_waveform, write_waveform
from dualspec.evaluation.clips import Clip, list_clips
from dualspec.evaluation.listening import ListeningTest, draw_order, open_results, read_answers
from dualspec.web.listening import create_listening_app
from dualspec.web.serving import build_server
from dualspec.web.settings import Settings

AZIMUTHS = (0.0, 60.0, 210.0)
GOOD = {"azimuth_deg": 12.5, "num_plays": 2, "response_s": 3.456, "headphones": "passed"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Serving(NamedTuple):
    port: int
    clips: list[Clip]
    results: Path

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        """Send one request; return the status, the head of the answer as text, and the body."""
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"content-type": "application/json"} | (headers or {})
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        return answer.status, str(answer.headers), answer.read()


@pytest.fixture
def serving(tmp_path: Path, wait_for: Any) -> Iterator[Serving]:
    """A test of three clips."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = [{"file": f"dog-az{azimuth:03.0f}.wav", "azimuth_deg": azimuth} for azimuth in AZIMUTHS]
    for row in rows:
        write_waveform(folder / str(row["file"]), 0.1 * torch.randn(2, 8_000, generator=generator), 16_000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = list_clips(folder)
    with open_results(tmp_path / "answers.csv") as results, socket.create_server(("127.0.0.1", 0)) as listener:
        server = build_server(create_listening_app(ListeningTest(clips, results, seed=4), Settings()))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Serving(listener.getsockname()[1], clips, tmp_path / "answers.csv")
        finally:
            server.should_exit = True
            thread.join(20)


def test_the_whole_test_by_hand_and_nothing_is_told_before_its_end(serving: Serving) -> None:
    told = []
    order = draw_order(serving.clips, "Ann 1", seed=4)
    for trial, clip in enumerate(order, start=1):
        status, head, body = serving.ask("GET", "/api/listeners/Ann%201")
        assert json.loads(body) == {"listener": "Ann 1", "trial": trial, "num_trials": 3, "result": None, "points": []}
        told += [head, body.decode()]
        status, head, body = serving.ask("GET", f"/api/listeners/Ann%201/trials/{trial}/audio")
        assert status == 200 and "audio/wav" in head and "disposition" not in head
        told.append(head)
        (serving.results.parent / "got.wav").write_bytes(body)
        assert torch.equal(read_waveform(serving.results.parent / "got.wav")[0], read_waveform(clip.path)[0])
        for early in (trial - 1, trial + 1):
            for method, tail, sent in (("GET", "/audio", None), ("POST", "", GOOD)):
                status, _, body = serving.ask(method, f"/api/listeners/Ann%201/trials/{early}{tail}", sent)
                assert status == (409 if early else 422), body
        status, head, body = serving.ask("POST", f"/api/listeners/Ann%201/trials/{trial}", GOOD)
        assert status == 200
        told += [head, body.decode()] if trial < 3 else []
    for words in told:
        assert "dog" not in words and "az" not in words and "sha" not in words and "60" not in words
    end = json.loads(body)
    assert end["trial"] == 4 and end["points"] == [[clip.azimuth_deg, 12.5] for clip in order]
    assert end["result"]["num_answers"] == 3 and end["result"]["azimuth_accuracy"] == pytest.approx(1 / 3)
    stored = read_answers(serving.results)
    assert [answer.clip for answer in stored] == [clip.path.name for clip in order]
    assert {(answer.response_s, answer.num_plays, answer.headphones) for answer in stored} == {(3.46, 2, "passed")}


@pytest.mark.parametrize(
    ("name", "change", "status", "message"),
    [
        ("=cmd()", {}, 422, "listener"),
        ("-1", {}, 422, "listener"),
        ("a" * 41, {}, 422, "listener"),
        ("ann", {"azimuth_deg": 360}, 422, "azimuth_deg"),
        ("ann", {"azimuth_deg": "30"}, 422, "azimuth_deg"),
        ("ann", {"num_plays": 0}, 422, "num_plays"),
        ("ann", {"headphones": "=1"}, 422, "headphones"),
        ("ann", {"response_s": -1}, 422, "response_s"),
        ("ann", {"asked_deg": 3}, 422, "asked_deg"),
    ],
)
def test_wrong_answers_are_refused_and_not_stored(
    serving: Serving, name: str, change: Any, status: int, message: str
) -> None:
    got, _, body = serving.ask("POST", f"/api/listeners/{name}/trials/1", GOOD | change)
    assert got == status and json.loads(body)["field"] == message
    assert read_answers(serving.results) == []


def test_hostile_requests_are_refused_and_nothing_is_stored(serving: Serving) -> None:
    """The guard is that of the service: hosts, origins, sizes, bodies, paths (S3, S6)."""
    own = "/api/listeners/ann/trials/1"
    assert serving.ask("GET", "/api/listeners/ann", headers={"host": "evil.example"})[0] == 400
    assert serving.ask("POST", own, GOOD, {"origin": "https://evil.example", "host": "localhost"})[0] == 403
    assert serving.ask("POST", own, GOOD | {"padding": "x" * 70_000})[0] == 413
    for body in (None, [], "x", 3, {}, [GOOD], GOOD | {"response_s": float("nan")}, GOOD | {"azimuth_deg": 1e999}):
        status, head, said = serving.ask("POST", own, body)
        assert status == 422 and "default-src 'none'" in head and len(json.loads(said)["error"]) < 400
    for text in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "..", "%5c..%5cx", "dog-az000.wav", "clips"):
        paths = (f"/{text}", f"/api/listeners/{text}", f"/api/listeners/ann/trials/{text}/audio")
        for status, _, said in (serving.ask("GET", path) for path in paths):
            assert status in (200, 404, 422) and b"root:" not in said and b"RIFF" not in said
            assert status != 200 or json.loads(said)["trial"] == 1  # some are names that a listener may have
    assert read_answers(serving.results) == []


def test_every_answer_is_one_that_is_announced(serving: Serving) -> None:
    from hypothesis import HealthCheck, given, settings

    schemathesis = pytest.importorskip("schemathesis", reason="the fuzz needs schemathesis (extra dev)")
    from schemathesis.specs.openapi import checks

    promises = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{serving.port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 3
    asked: list[int] = []
    for operation in operations:

        @settings(max_examples=12, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call()
            asked.append(answer.status_code)
            assert answer.status_code < 500, case.as_curl_command()
            case.validate_response(answer, checks=promises)

        ask()
    assert {200, 409} <= set(asked)
    assert len(read_answers(serving.results)) == sum(len(line) > 0 for line in serving.results.open()) - 1


def test_strangers_are_kept_out(serving: Serving) -> None:
    assert serving.ask("GET", "/api/listeners/ann", headers={"host": "evil.example"})[0] == 400
    assert serving.ask("POST", "/api/listeners/ann/trials/1", GOOD, {"origin": "http://evil.example"})[0] == 403
    assert serving.ask("GET", "/app.js")[0] == 404 and serving.ask("GET", "/dial.js")[0] == 200


@pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs Chromium, such as `apt-get install chromium`")
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_a_person_checks_the_headphones_hears_points_and_sees_the_end(serving: Serving, size: tuple[int, int]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright (extra dev)")
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=options)
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", has_touch=size[0] < 500
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on(
            "request", lambda asked: wrong.append(asked.url) if f"127.0.0.1:{serving.port}" not in asked.url else None
        )
        _listen(page, serving, by_touch=size[0] < 500)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        chromium.close()
    assert wrong == []


def _listen(page: Any, serving: Serving, *, by_touch: bool) -> None:
    # What is heard left or right is not known to a test: let the page draw left each time.
    page.add_init_script("Math.random = () => 0.25")
    page.goto(f"http://127.0.0.1:{serving.port}/")
    page.get_by_label("Your name or number").fill("Zoë")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Play the rush").click()
    for _ in range(4):
        page.get_by_role("button", name="Right").click()
    page.get_by_text("4 of 4 were at the other ear").wait_for()
    page.get_by_role("button", name="Play the rush").click()
    for _ in range(4):
        page.get_by_role("button", name="Left").click()
    page.get_by_text("Sound 1 of 3").wait_for()
    dial, answer = page.get_by_role("slider"), page.get_by_role("button", name="I hear it there")
    page.locator("#play[aria-label=Stop]").wait_for()  # begins by itself, after a click
    assert answer.is_disabled() and dial.get_attribute("aria-valuetext") == "nowhere yet"
    box = dial.bounding_box()
    press = page.touchscreen.tap if by_touch else page.mouse.click
    press(box["x"] + 0.1 * box["width"], box["y"] + box["height"] / 2)
    assert dial.get_attribute("aria-valuetext") == "9 o’clock, 90 degrees"
    answer.tap() if by_touch else answer.click()
    page.get_by_text("Sound 2 of 3").wait_for()
    assert dial.get_attribute("aria-valuetext") == "nowhere yet" and page.locator("#dial.blank").count() == 1
    page.locator("#play[aria-label=Stop]").wait_for()
    page.locator("#play[aria-label=Play]").wait_for()  # heard to its end
    for key in ("Space", "ArrowLeft", "ArrowLeft", "Shift+ArrowRight"):
        dial.press(key)
    assert dial.get_attribute("aria-valuenow") == "9"
    dial.press("Enter")
    page.get_by_text("Sound 3 of 3").wait_for()
    page.reload()  # goes on where it was, and waits for a play
    page.get_by_text("Sound 3 of 3").wait_for()
    page.locator("#dial:focus").wait_for()
    dial.press("End")
    assert answer.is_disabled(), "nothing has been heard"
    page.get_by_role("button", name="Play").click()
    answer.click()
    page.get_by_role("heading", name="Thank you").wait_for()
    assert "You heard 3 sounds" in page.locator("#verdict").inner_text()
    stored = read_answers(serving.results)
    assert [answer.answered_deg for answer in stored] == [90, 9, 180] and {a.listener for a in stored} == {"Zoë"}
    assert {answer.headphones for answer in stored} == {"passed"}
    assert stored[1].num_plays == 2 and stored[0].response_s < 60
    assert page.locator("#answers svg").get_attribute("aria-label").startswith("You heard 3 sounds")


def test_the_verb_serves_until_it_is_told_to_stop(serving: Serving, tmp_path: Path) -> None:
    folder, answers = serving.clips[0].path.parent, tmp_path / "own.csv"
    words = ["listen", str(folder), "--port", "0", "--num", "2", "--token", "0123456789abcdef", "-o", str(answers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            [sys.executable, "-m", "dualspec", *words], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "2 clips for each listener (Ctrl-C stops)" in line and "0123456789abcdef" not in line
            running = serving._replace(port=int(line.split("/")[2].split(":")[1]))
            assert running.ask("GET", "/api/listeners/ann")[0] == 401 and running.ask("GET", "/")[0] == 200
            status, _, body = running.ask(
                "GET", "/api/listeners/ann", headers={"authorization": "Bearer 0123456789abcdef"}
            )
            assert status == 200 and json.loads(body)["num_trials"] == 2
            process.send_signal(number)
            assert process.wait(20) == code
        finally:
            process.kill()
    assert read_answers(answers) == []

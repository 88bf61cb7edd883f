"""What the service promises (S1, S3, S5, S6, S8), over real sockets; its studio is a fake."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.audio.delivery import integrated_loudness
from dualspec.web.settings import MAX_JSON_BYTES, MAX_UPLOAD_BYTES, Settings

ORDER: dict[str, Any] = {"event": "dog bark", "azimuth_deg": 90}
JSON = {"content-type": "application/json"}
TRAVERSALS = [
    *(
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "/etc/passwd",
    ),
    *("//etc/passwd", "..\\..\\windows\\win.ini", "..%5c..%5cwin.ini", "%00", "a%00.html", "~root/.ssh/id_rsa", "."),
    *(
        "..",
        "../",
        "index.html/..",
        "../app.py",
        "..%252f..%252fetc%252fpasswd",
        "file:///etc/passwd",
        "C:/x",
        "\u202e",
    ),
]


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_a_job_from_order_to_sound(start, wait_for):
    service = start()
    created = service.ask("POST", "/api/jobs", ORDER | {"num_clips": 2, "seed": 7})
    assert created.status == 202 and created.json["order"]["num_clips"] == 2
    path = created.headers["location"]
    job = service.over(path)
    assert (job["state"], job["step"], job["num_steps"], job["error"]) == ("done", 8, 8, None)
    assert [clip["seed"] for clip in job["clips"]] == [7, 8]
    assert job["clips"][0]["prompt"] == "EVENT: Dog bark & LOCATION: 9 o'clock direction"
    sound = service.ask("GET", f"{path}/clips/1/audio")
    assert sound.headers["content-type"] == "audio/wav" and sound.body[:4] == b"RIFF"
    name = "attachment; filename=\"clip-seed8.wav\"; filename*=UTF-8''clip-seed8.wav"
    assert sound.headers["content-disposition"] == name
    assert service.ask("GET", f"{path}/clips/1/record").json["seed"] == 8
    assert service.ask("GET", f"{path}/clips/1/picture").body == b"\x89PNG of clip-seed8.wav"
    assert service.ask("GET", f"{path}/clips/2/audio").status == 404


def test_a_job_is_followed_by_events(start):
    service = start()
    service.studio.step_s = 0.15
    answer = service.ask("GET", f"{service.job()}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    states = [json.loads(line[6:]) for line in answer.body.decode().split("\n\n") if line]
    steps = [state["step"] for state in states]
    assert steps == sorted(steps) and len(set(steps)) >= 3
    assert states[-1]["state"] == "done" and len(states[-1]["clips"]) == 1


def test_a_cancelled_job_ends_within_one_step_and_keeps_its_finished_clips(start, wait_for):
    service = start()
    service.studio.step_s = 0.02
    path = service.job(num_clips=16, num_inference_steps=5)
    wait_for(lambda: service.ask("GET", path).json["clips"])
    waiting = service.job()
    assert service.ask("DELETE", waiting).json["state"] == "cancelled"
    service.studio.go.clear()
    time.sleep(0.1)
    before = service.studio.steps_done
    service.ask("DELETE", path)
    service.studio.go.set()
    job = service.over(path)
    assert job["state"] == "cancelled" and job["error"] == "cancelled by the client"
    assert service.studio.steps_done <= before + 1
    assert service.ask("GET", f"{path}/clips/0/audio").status == 200
    assert service.ask("POST", "/api/generate", ORDER).status == 200  # the slot is free


def test_an_error_in_the_model_is_one_line_for_the_client(start, caplog):
    service = start()
    service.studio.fail = RuntimeError("secret detail")
    job = service.over(service.job())
    assert job["state"] == "failed"
    assert job["error"] == "an error in dualspec (RuntimeError); the server's log has the trace"
    assert "secret detail" in caplog.text
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        service.studio.fail = error
        answer = service.ask("POST", "/api/generate", ORDER)
        assert answer.status == 503 and "out of memory" in answer.json["error"]


def test_results_expire_and_are_bounded(start, wait_for):
    service = start(keep_s=1.5, kept_clips=3)
    first, second = (service.job(num_clips=2) for _ in range(2))
    service.over(second)
    wait_for(lambda: service.ask("GET", first).status == 404)  # two clips and two clips are more than three
    assert service.ask("GET", f"{second}/clips/0/audio").status == 200
    wait_for(lambda: service.ask("GET", second).status == 404)
    assert list(service.root.iterdir()) == []


# --- S1 -----------------------------------------------------------------------------------------------------------


def test_s1_a_full_queue_refuses_at_once_and_honestly(start, wait_for):
    service = start(queue_size=8)
    service.studio.go.clear()
    first = service.job()
    wait_for(lambda: service.ask("GET", first).json["state"] == "running")
    answers: list[Any] = []
    times: list[float] = []

    def one() -> None:
        began = time.monotonic()
        answers.append(service.ask("POST", "/api/jobs", ORDER))
        times.append(time.monotonic() - began)

    threads = [threading.Thread(target=one) for _ in range(49)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    health = service.ask("GET", "/healthz")
    healthy_s = time.monotonic() - began
    for thread in threads:
        thread.join()
    taken = [answer for answer in answers if answer.status == 202]
    refused = [answer for answer in answers if answer.status == 503]
    assert (len(taken) + 1, len(refused)) == (9, 41)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert health.status == 200
    assert max(times) < 5 and healthy_s < 2  # 0.5 and 0.1 s on an idle machine
    assert {answer.json["queue_position"] for answer in taken} == set(range(1, 9))
    service.studio.go.set()
    assert all(service.over(answer.headers["location"])["state"] == "done" for answer in taken)


# --- S3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/jobs", "/api/localize"])
def test_s3_bodies_that_are_too_large_are_refused_unread(start, path):
    service = start()
    limit = MAX_UPLOAD_BYTES if path == "/api/localize" else MAX_JSON_BYTES
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with service.open(f"{head}content-length: {limit + 1}\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 413"
    with service.open(f"{head}transfer-encoding: chunked\r\n\r\n") as connection:  # never says how much will come
        block = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        with pytest.raises(OSError):
            for _ in range(20_000_000 // 0x8000 + 400):
                connection.sendall(block)
                connection.setblocking(False)
                try:
                    if connection.recv(12, socket.MSG_PEEK):
                        raise OSError("answered")
                except BlockingIOError:
                    pass
                finally:
                    connection.settimeout(30)
        assert connection.recv(12) == b"HTTP/1.1 413"
    assert not list(service.root.glob("upload-*"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"event": "dog", "azimuth_deg": NaN}', "azimuth_deg"),
        (b'{"event": "dog", "azimuth_deg": 1e999}', "azimuth_deg"),
        (b'{"event": "\\ud800", "azimuth_deg": 9}', "event"),
        (b"[" * 60_000, "body"),
        (b'{"event": "dog", "azimuth_deg": 9', "body"),
        (b"\xff\xfe\x00", "body"),
        (b"", "body"),
        (b"[]", "body"),
        (b'{"event": "dog", "azimuth_deg": 9, "sed": 3}', "sed"),
        (b'{"event": "dog", "azimuth_deg": 9, "seed": ' + b"9" * 5_000 + b"}", "body"),
        (b'{"azimuth_deg": 9}', "event"),
        (b'{"event": "dog", "azimuth_deg": 360}', "azimuth_deg"),
        (b'{"event": "dog", "azimuth_deg": "9"}', "azimuth_deg"),
        (b'{"event": "dog", "azimuth_deg": 9, "num_clips": 17}', "num_clips"),
        (b'{"event": "dog", "azimuth_deg": 9, "seed": 1.5}', "seed"),
        (b'{"event": "dog", "azimuth_deg": 9, "seed": -1}', "seed"),
        (b'{"event": "dog"}', "azimuth_deg"),
        (b'{"event": "dog", "azimuth_deg": 9, "location": "left"}', "azimuth_deg"),
        (b'{"event": "dog", "location": "left", "location_style": "doa"}', "location_style"),
        (b'{"event": "dog", "location": "in the kitchen"}', "location"),
        (b'{"event": "  ", "azimuth_deg": 9}', "event"),
        (b'{"event": "EVENT: dog", "azimuth_deg": 9}', "event"),
        (b'{"event": "rain behind me", "azimuth_deg": 0}', "event"),
        (b'{"event": "rain on my left", "location": "on my right"}', "event"),
        (b'{"event": "rain moving left", "azimuth_deg": 0, "location_style": "doa"}', "event"),
        (b'{"event": "rain", "location": "left, far away"}', "location"),
        (b'{"event": "rain", "location": "not on the left"}', "location"),
        (b'{"event": "rain", "location": "from left to right"}', "location"),
        (b'{"event": "dog", "azimuth_deg": 9, "azimuth_deg": 10}', "azimuth_deg"),
        (b'{"event": "dog", "event": "dog", "azimuth_deg": 9}', "event"),
        (b'{"event": "d\\u0000og", "azimuth_deg": 9}', "event"),
        (b'{"event": "d\\u001bog", "azimuth_deg": 9}', "event"),
        (b'{"event": "dog", "location": "left\\u0000"}', "location"),
        (b'{"event": "d\x00og", "azimuth_deg": 9}', "body"),
        (b'{"event": "dog", "azimuth_deg": 9, "loudness_lufs": 0}', "loudness_lufs"),
    ],
)
def test_s3_malformed_orders_get_one_line_that_names_the_field(plain, body, field):
    answer = plain.ask("POST", "/api/jobs", body, JSON)
    assert answer.status in (400, 422)
    line = answer.json["error"]
    assert line.isprintable() and "Traceback" not in line and len(line) < 400
    assert answer.json["field"] == field and line.startswith(field)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"event": ""}, "event must have at least 1 character, got ''"),
        ({"event": "x" * 501}, "event must have at most 500 characters, got 'xxx"),
        ({"event": 7}, "event must be text, got 7"),
        ({"azimuth_deg": 360}, "azimuth_deg must be less than 360, got 360"),
        ({"azimuth_deg": -1.5}, "azimuth_deg must be at least 0, got -1.5"),
        ({"azimuth_deg": "9"}, "azimuth_deg must be a number, got '9'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_clips": 17}, "num_clips must be at most 16, got 17"),
        ({"location_style": "map"}, "location_style must be 'doa', 'clock' or 'general', got 'map'"),
        ({"azimuth_deg": None, "location": "bei 🐶"}, "location must name a direction, got 'bei 🐶'"),
        ({"azimuth_deg": None, "location": "no\u202ewhere"}, "got 'no\\u202ewhere'"),
    ],
)
def test_refusals_are_sentences(plain, order, words):
    """No template of the library that checks, no codes for letters that can be printed."""
    answer = plain.ask("POST", "/api/jobs", ORDER | order)
    assert answer.status == 422 and words in answer.json["error"], answer.json


@pytest.mark.parametrize("query", ["sample_rate=1", "format=mp3", "subtype=FLOAT", "loudness_lufs=nan", "rate=48000"])
def test_forms_of_files_are_checked(plain, query):
    plain.over(path := plain.job())
    answer = plain.ask("GET", f"{path}/clips/0/audio?{query}")
    assert answer.status == 422 and answer.json["field"] == query.partition("=")[0]


def test_sounds_are_fetched_in_other_forms_and_all_together(plain):
    """What the command line has: rate, sample format, container, loudness; a ZIP holds every clip and its record."""
    plain.over(path := plain.job(num_clips=2, seed=3))
    made = plain.ask("GET", f"{path}/clips/0/audio")
    assert (made.headers["content-type"], soundfile.info(io.BytesIO(made.body)).samplerate) == ("audio/wav", 16_000)
    form = "format=flac&sample_rate=48000&subtype=PCM_24&loudness_lufs=-30"
    answer = plain.ask("GET", f"{path}/clips/0/audio?{form}")
    assert answer.headers["content-type"] == "audio/flac" and answer.headers["x-loudness"] == "-30 LUFS"
    assert 'filename="clip-seed3.flac"' in answer.headers["content-disposition"]
    info = soundfile.info(io.BytesIO(answer.body))
    assert (info.format, info.subtype, info.samplerate, info.frames) == ("FLAC", "PCM_24", 48_000, 24_000)
    ears = torch.from_numpy(soundfile.read(io.BytesIO(answer.body), dtype="float32")[0].T)
    assert integrated_loudness(ears, 48_000) == pytest.approx(-30, abs=0.1)
    packed = plain.ask("GET", f"{path}/zip?{form}")
    assert packed.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.body)) as file:
        assert sorted(file.namelist()) == [f"clip-seed{seed}.{kind}" for seed in (3, 4) for kind in ("flac", "json")]
        assert file.read("clip-seed3.flac") == answer.body and json.loads(file.read("clip-seed4.json"))["seed"] == 4
    assert not [entry for entry in plain.root.rglob("*") if entry.suffix == ".flac"]


def test_a_range_of_a_sound_is_answered_alone(plain):
    """RFC 9110, section 14: one range of bytes; what is none is answered as if it had not been asked for."""
    plain.over(path := plain.job())
    url = f"{path}/clips/0/audio"
    whole = plain.ask("GET", url)
    size = len(whole.body)
    assert whole.status == 200 and whole.headers["accept-ranges"] == "bytes"
    for asked, begin, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, size),
        ("bytes=100-199", 100, 200),
        (f"bytes={size - 5}-{size + 99}", size - 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{size + 5}", 0, size),
    ):
        part = plain.ask("GET", url, headers={"range": asked})
        assert part.status == 206 and part.body == whole.body[begin:end], asked
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    for asked in (f"bytes={size}-", "bytes=-0"):
        refused = plain.ask("GET", url, headers={"range": asked})
        assert refused.status == 416 and refused.headers["content-range"] == f"bytes */{size}" and refused.json["error"]
    for asked in ("bytes=9-3", "bytes=-", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 40 + "-"):
        assert plain.ask("GET", url, headers={"range": asked}).status == 200, asked
    assert plain.ask("GET", url, headers={"range": "bytes=0-1", "if-range": '"other"'}).status == 200


def test_head_is_answered_as_get_without_the_body(plain):
    plain.over(path := plain.job())
    clip = f"{path}/clips/0"
    for url in ("/", "/app.js", "/healthz", "/api/info", "/openapi.json", path, f"{clip}/audio", f"{clip}/picture"):
        whole, head = plain.ask("GET", url), plain.ask("HEAD", url)
        assert (head.status, head.body) == (200, b""), url
        same = ["content-type", "content-security-policy", "accept-ranges", "content-disposition"]
        same += ["content-length"] if url != path else []  # a job says how long ago it was, in more digits or fewer
        assert [head.headers.get(name) for name in same] == [whole.headers.get(name) for name in same], url
    assert plain.ask("HEAD", f"{path}/events").status == 200
    assert plain.ask("HEAD", "/nothing").status == 404 and plain.ask("HEAD", "/api/generate").status == 405
    part = plain.ask("HEAD", f"{clip}/audio", headers={"range": "bytes=0-9"})
    assert part.status == 206 and part.headers["content-length"] == "10"
    plain.studio.go.clear()
    running = plain.job()
    assert plain.ask("HEAD", f"{running}/events").body == b"", "it does not wait for the end of the job"
    plain.studio.go.set()
    plain.over(running)


def test_s3_a_body_that_does_not_come_is_given_up(start):
    service = start(body_s=0.3)
    words = "POST /api/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    with service.open(words) as connection:
        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize(
    "words",
    ["", "GET / HT", "GET / HTTP/1.1\r\nhost: localhost\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nG"],
)
def test_s3_a_head_that_does_not_come_is_given_up(start, monkeypatch, words):
    """Otherwise 256 silent clients would shut everybody out."""
    monkeypatch.setattr("dualspec.web.serving.PatientProtocol.head_s", 0.5)
    service = start()
    with service.open(words) as connection:
        connection.settimeout(4)
        while connection.recv(1000):
            pass
    assert service.ask("GET", "/healthz").status == 200


def test_s3_an_answer_that_is_not_taken_is_given_up(start, monkeypatch):
    for name in ("head_s", "answer_s"):
        monkeypatch.setattr(f"dualspec.web.serving.PatientProtocol.{name}", 0.5)
    service, sound = start(), b"x" * 15_000_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        head = f"POST /api/spatialize?azimuth_deg=0 HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(sound)}\r\n\r\n"
        connection.sendall(head.encode() + sound)
        assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(2.5)
        connection.settimeout(4)
        taken = 0
        with contextlib.suppress(ConnectionError):  # reset, or ended when what the system holds has been taken
            while part := connection.recv(100_000):
                taken += len(part)
        assert taken < len(sound)
    assert service.ask("POST", "/api/spatialize?azimuth_deg=0", sound).body == sound


def test_s3_three_hundred_half_sent_heads_shut_nobody_out(start):
    """From the same address as the one who asks, too: who has waited longest makes room."""
    service = start()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(service.open("GET / HT"))
            if _ % 50 == 0:
                assert service.ask("GET", "/healthz").status == 200
        for path in ("/", "/healthz", "/api/info"):
            assert service.ask("GET", path).status == 200
        assert service.ask("POST", "/api/generate", ORDER).status == 200
        waiting = [one for one in service.protocols() if one.is_waiting]
        assert len(waiting) <= 64
    assert service.ask("GET", "/").status == 200


def test_s3_too_many_requests_at_work_are_refused_as_everything_is_but_health_is_told(start, monkeypatch, wait_for):
    monkeypatch.setattr("dualspec.web.guard.MAX_ACTIVE_PER_ADDRESS", 5)
    service = start()
    head = "POST /api/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(service.open(head))
        wait_for(lambda: service.ask("GET", "/api/info").status == 503)
        refused = service.ask("GET", "/")
        assert refused.status == 503 and refused.json["error"].startswith("requests must be at most")
        assert refused.headers["retry-after"] == "5" and refused.headers["x-content-type-options"] == "nosniff"
        assert service.ask("GET", "/healthz").status == 200
    wait_for(lambda: service.ask("GET", "/api/info").status == 200)


@pytest.mark.parametrize(
    "words", ["\x01\x02\r\n\r\n", "GET / HTTP/x\r\n\r\n", "GET /\r\nhost: x\r\n\r\n", "dog\r\n\r\n"]
)
def test_s3_what_is_no_http_is_refused_as_everything_is(plain, words):
    with plain.open(words) as connection:
        answer = b""
        while part := connection.recv(4096):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"content-security-policy" in head.lower()
    assert json.loads(body) == {"error": "request must be HTTP, got something else", "field": None}


# --- S5 -----------------------------------------------------------------------------------------------------------


def test_s5_who_hangs_up_cancels_within_one_step(start, wait_for):
    service = start()
    service.studio.step_s = 0.05
    body = json.dumps(ORDER | {"num_inference_steps": 1000})
    head = f"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    connection = service.open(f"{head}content-type: application/json\r\n\r\n{body}")
    wait_for(lambda: service.studio.steps_done > 2)
    connection.close()
    wait_for(lambda: service.app.state.service.jobs.running is None, seconds=3)
    assert service.studio.steps_done < 100
    assert service.ask("POST", "/api/generate", ORDER).status == 200


def test_s5_a_job_that_nobody_asks_for_is_cancelled(start, wait_for):
    service = start(abandoned_s=0.5)
    service.studio.step_s = 0.05
    path = service.job(num_inference_steps=1000)
    with service.open(f"GET {path}/events HTTP/1.1\r\nhost: localhost\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(1.8)  # somebody listens, though nobody asks
        assert service.app.state.service.jobs.running is not None
    wait_for(lambda: service.app.state.service.jobs.running is None, seconds=6)
    assert "nobody asked" in service.ask("GET", path).json["error"]


def test_s5_the_deadline_is_a_504(start):
    service = start(deadline_s=0.3)
    service.studio.step_s = 0.05
    answer = service.ask("POST", "/api/generate", ORDER | {"num_inference_steps": 1000})
    assert answer.status == 504
    assert answer.json["error"].startswith("job must end within 0.3 s, got to step ")
    assert service.studio.steps_done < 100


# --- S6 and S8 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:80", "[::1"])
def test_s6_foreign_hosts_are_refused(plain, host):
    answer = plain.ask("GET", "/api/info", headers={"host": host})
    assert answer.status == 400 and "--allow-host" in answer.json["error"]


def test_s6_own_hosts_and_named_ones_are_not(start):
    service = start(allowed_hosts=("studio.example",))
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:9", "[::1]:8000", "192.168.0.7", "studio.example"):
        assert service.ask("GET", "/healthz", headers={"host": host}).status == 200, host
    proxied = {"host": "127.0.0.1:8000", "origin": "https://studio.example"}
    assert service.ask("GET", "/healthz", headers=proxied).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://["])
def test_s6_other_sites_cannot_send_their_visitors(plain, origin):
    answer = plain.ask("POST", "/api/spatialize?azimuth_deg=0", b"sound", {"origin": origin, "host": "localhost"})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


def test_s6_no_path_leads_out(plain):
    service = plain
    for text in TRAVERSALS:
        quoted = "".join(letter if " " < letter < "\x7f" else "%E2%80%AE" for letter in text)
        for path in (f"/{quoted}", f"/api/jobs/{quoted}", f"/api/jobs/{quoted}/clips/0/audio"):
            answer = service.ask("GET", path)
            assert answer.status == 404, (path, answer)
            assert b"root:" not in answer.body
    assert service.ask("GET", f"{service.job()}/clips/..%2f0/audio").status == 404


def test_s6_every_answer_carries_the_policy(plain):
    service = plain
    for path in ("/", "/app.js", "/api/nothing", "/api/info", "/openapi.json"):
        headers = service.ask("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    service.studio.events = None  # what cannot be told is an error of ours
    broken = service.ask("GET", "/api/events")
    service.studio.events = type(service.studio).events
    assert broken.status == 500 and "default-src 'none'" in broken.headers["content-security-policy"]
    assert service.ask("GET", "/docs").status == 404  # would load scripts from elsewhere


def test_the_page_names_no_other_host():
    from importlib import resources

    web = resources.files("dualspec.web")
    for file in (*(web / "page").iterdir(), *(web / "listening_page").iterdir()):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, file.name


def test_s8_a_token_is_asked_for(start):
    token = "0123456789abcdef"
    service = start(token=token)
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": token}, {"authorization": "Bearer \xe9"}):
        assert service.ask("GET", "/api/info", headers=header).status == 401, header
    assert service.ask("POST", "/api/jobs", ORDER).headers["www-authenticate"] == "Bearer"
    assert service.ask("GET", "/openapi.json").status == 401
    assert service.ask("GET", "/").status == 200
    assert service.ask("GET", "/healthz").status == 200
    assert service.ask("GET", "/api/info", headers={"authorization": f"Bearer {token}"}).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "studio.example"])
def test_s8_an_address_that_others_reach_needs_a_token(host):
    with pytest.raises(ValueError, match="token must be given when host"):
        Settings(host=host)
    with pytest.raises(ValueError, match="token must be 16 or more"):
        Settings(host=host, token="short")
    assert Settings(host=host, token="0123456789abcdef").allows_host("10.0.0.1:8000")


# --- uploads ------------------------------------------------------------------------------------------------------


def test_an_upload_goes_to_a_place_or_along_a_path(plain):
    placed = "/api/spatialize?"
    for query in ("azimuth_deg=30", "path=0:270,2:90", "azimuth_deg=0&head=other"):
        answer = plain.ask("POST", placed + query, b"sound")
        assert answer.status == 200 and answer.body == b"sound" and "x-loudness" not in answer.headers
    assert plain.ask("POST", f"{placed}azimuth_deg=3&loudness_lufs=-23", b"x").headers["x-loudness"] == "-23 LUFS"
    for query, field in (
        ("", "azimuth_deg"),
        ("azimuth_deg=0&path=0:0", "azimuth_deg"),
        ("azimuth_deg=0&loudness_lufs=0", "loudness_lufs"),
    ):
        answer = plain.ask("POST", placed + query, b"sound")
        assert answer.status == 422 and answer.json["field"] == field


def test_uploads_are_bounded_and_leave_nothing_behind(start, wait_for):
    service = start(uploads=2)
    service.studio.go.clear()
    answers: list[Any] = []
    place = "/api/spatialize?azimuth_deg=30"
    threads = [
        threading.Thread(target=lambda: answers.append(service.ask("POST", place, b"x" * 200))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(list(service.root.glob("upload-*"))) == 2)
    refused = service.ask("POST", "/api/localize", b"x" * 200)
    assert refused.status == 503 and refused.headers["retry-after"] == "5"
    service.studio.go.set()
    for thread in threads:
        thread.join()
    assert [answer.body for answer in answers] == [b"x" * 200] * 2
    assert service.ask("POST", "/api/localize", b"x" * 200).json["azimuth_deg"] == 90.0
    wrong = service.ask("POST", "/api/localize", b"mono")
    assert wrong.status == 422 and wrong.json["error"] == "recording must have two channels, got 1"
    assert not list(service.root.glob("upload-*"))


def test_an_upload_that_breaks_off_leaves_nothing_behind(start, wait_for):
    service = start()
    head = "POST /api/localize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n"
    with service.open(head + "x" * 100):
        wait_for(lambda: list(service.root.glob("upload-*")))
    wait_for(lambda: not list(service.root.glob("upload-*")))


# --- S2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_s2_two_thousand_requests_leave_no_trace(start, figure):
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    service = start(kept_clips=20)
    for number in range(2_200):
        answer = service.ask("POST", "/api/generate", ORDER | {"num_inference_steps": 1, "seed": number})
        assert answer.status == 200
        if number == 200:
            before = resident_mb()
    growth_mb = resident_mb() - before
    figure(f"soak: 2,000 requests, all 200, {growth_mb / 20:.2f} MB per 100 requests")
    assert growth_mb < 20

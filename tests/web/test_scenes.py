"""Scenes over HTTP: planned, made, cancelled, refused by the name of the field; the studio is a fake."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

SCENE: dict[str, Any] = {
    "events": [{"text": "rain", "azimuth_deg": 180}, {"text": "bee", "azimuth_deg": 90, "end_azimuth_deg": 0}],
    "seed": 6,
}


def test_a_scene_is_planned_and_made(start):
    service = start()
    plan = service.ask("POST", "/api/scenes/plan", SCENE)
    assert plan.status == 200 and plan.json["num_sounds"] == 2
    assert [event["rendered"] for event in plan.json["events"]] == [False, True]
    created = service.ask("POST", "/api/scenes", SCENE)
    assert created.status == 202 and created.json["order"]["events"][1]["end_azimuth_deg"] == 0.0
    path = created.headers["location"]
    job = service.over(path)
    assert (job["state"], job["step"], job["num_steps"]) == ("done", 4, 4)
    assert job["clips"] == [{"name": "scene-seed6", "gain_db": -1.5, "num_samples": 8_000, "sample_rate": 16_000}]
    assert service.ask("GET", f"{path}/clips/0/audio").body[:4] == b"RIFF"
    assert service.ask("GET", f"{path}/clips/0/record").json["kind"] == "scene"
    assert service.ask("GET", f"{path}/clips/0/picture").status == 200
    assert service.ask("GET", f"{service.job()}").json["order"]["event"] == "dog"  # clips are as they were


@pytest.mark.parametrize("path", ["/api/scenes", "/api/scenes/plan"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", "body"),
        (b"{}", "events"),
        (b'{"events": []}', "events"),
        (b'{"events": [{"text": "rain"}]}', "events[0].azimuth_deg"),
        (b'{"events": [{"text": "rain", "azimuth_deg": NaN}]}', "events[0].azimuth_deg"),
        (b'{"events": [{"text": "rain", "azimuth_deg": 9, "length_s": 9}]}', "events[0].length_s"),
        (b'{"events": [{"text": "\\ud800", "azimuth_deg": 9}]}', "events[0].text"),
        (b'{"events": [{"text": "\xc3\xa4", "azimuth_deg": 9, "\\ud800\xc3\xa4": 9}]}', "events[0]"),
        (b'{"events": [{"text": "bee", "path": [' + b'{"time_s": 0, "azimuth_deg": 1e9}' + b"]}]}",
         "events[0].path[0].azimuth_deg"),
        (b'{"events": [{"text": "rain", "azimuth_deg": 9}], "seed": ' + b"9" * 5_000 + b"}", "body"),
        (b'{"events": [{"text": "rain", "azimuth_deg": 9}], "seed": 9007199254740992}', "seed"),
    ],
)  # fmt: skip
def test_a_wrong_scene_gets_one_line_that_names_the_field(plain, path, body, field):
    answer = plain.ask("POST", path, body, {"content-type": "application/json"})
    assert answer.status in (400, 422), answer
    line = answer.json["error"]
    assert line.isprintable() and "\n" not in line and len(line) < 400
    assert answer.json["field"] == field and line.startswith(field)


def test_a_scene_can_be_cancelled(start, wait_for):
    service = start()
    service.studio.go.clear()
    path = service.ask("POST", "/api/scenes", SCENE).headers["location"]
    wait_for(lambda: service.ask("GET", path).json["state"] == "running")
    service.ask("DELETE", path)
    service.studio.go.set()
    job = service.over(path)
    assert job["state"] == "cancelled" and job["clips"] == []


def test_scenes_wait_in_the_queue_of_all_jobs(start, wait_for):
    service = start(queue_size=1)
    service.studio.go.clear()
    first = service.job()
    wait_for(lambda: service.ask("GET", first).json["state"] == "running")
    second = service.ask("POST", "/api/scenes", SCENE)
    assert second.status == 202 and second.json["queue_position"] == 1
    refused = service.ask("POST", "/api/scenes", SCENE)
    assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
    assert service.ask("POST", "/api/scenes/plan", SCENE).status == 200  # makes nothing, and so waits for nothing
    service.app.state.service.jobs.drain()
    for path in ("/api/scenes", "/api/scenes/plan"):
        assert service.ask("POST", path, SCENE).status == 503


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"deadline_s": 0.3}, "job must end within 0.3 s"), ({"abandoned_s": 0.3}, "nobody asked for it in 0.3 s")],
)
def test_scenes_have_the_times_of_all_jobs(start, wait_for, limits, words):
    service = start(**limits)
    service.studio.step_s = 0.6
    path = service.ask("POST", "/api/scenes", SCENE).headers["location"]
    jobs = service.app.state.service.jobs
    task = jobs.find(path.rpartition("/")[2])
    wait_for(lambda: task.over is not None)
    assert words in task.error and task.clips == [] and task.step < 4 and jobs.running is None


def test_long_scenes_count_as_many_clips(start, wait_for):
    """What is kept is bounded by its length, too: two minutes are 24 clips."""
    service = start(kept_clips=25)
    long = SCENE | {"duration_s": 119.0}
    first, second = (service.ask("POST", "/api/scenes", long).headers["location"] for _ in range(2))
    service.over(second)
    wait_for(lambda: service.ask("GET", first).status == 404)
    assert service.ask("GET", f"{second}/clips/0/audio").status == 200


@pytest.mark.parametrize("path", ["/api/scenes", "/api/scenes/plan"])
def test_bodies_of_scenes_are_limited_in_size_and_work(plain, path):
    event = b'{"text":"rain","azimuth_deg":1}'
    many = b'{"events":[' + b",".join([event] * 2_000) + b"]}"
    answer = plain.ask("POST", path, many, {"content-type": "application/json"})
    assert answer.status == 422 and answer.json["error"] == "events must be 1 to 64 items, got 2000; choose within"
    assert plain.ask("POST", path, many * 2, {"content-type": "application/json"}).status == 413
    for body in (b"", b"{", b"[" * 60_000, b"\xff\xfe", b"null", b'{"events": 3}', b'{"events": [{"path": {}}]}'):
        answer = plain.ask("POST", path, body, {"content-type": "application/json"})
        assert answer.status in (400, 422) and len(answer.json["error"]) < 400, body

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
    assert line.isascii() and "\n" not in line and len(line) < 400
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

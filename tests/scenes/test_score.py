"""Scenes as files: read back as written, refused by the name of the field, planned without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dualspec.config import to_dict
from dualspec.scenes.score import CROSS_FADE_S, Event, Scene, plan_scene, read_scene, scene_from, scene_schema

DOCS = Path(__file__).resolve().parents[2] / "docs"
RAIN: dict[str, Any] = {"text": "rain", "azimuth_deg": 180}


def plan(*events: dict[str, Any], **scene: Any) -> Any:
    return plan_scene(scene_from({"events": list(events)} | scene), sound_s=5.0)


def test_a_scene_is_read_back_as_it_was_written(tmp_path):
    scene = read_scene(DOCS / "examples" / "scene.json")
    (tmp_path / "again.json").write_text(json.dumps(to_dict(scene)))
    assert read_scene(tmp_path / "again.json") == scene


def test_the_published_schema_is_that_of_the_types():
    """Made by `dualspec scene --schema > docs/scene.schema.json`."""
    assert json.loads((DOCS / "scene.schema.json").read_text()) == scene_schema()


def test_the_schema_takes_and_refuses_what_the_reader_does():
    jsonschema = pytest.importorskip("jsonschema_rs", reason="comes with schemathesis (extra dev)")
    check = jsonschema.Draft202012Validator(scene_schema())
    path = [{"time_s": 0, "azimuth_deg": 0}, {"time_s": 3, "azimuth_deg": 400}]
    good = [
        read_json(DOCS / "examples" / "scene.json"),
        {"events": [RAIN]},
        {"events": [RAIN | {"path": None, "repeat": "anew", "seed": 4}]},
        {"events": [{"text": "rain", "path": path}]},
        to_dict(scene_from({"events": [RAIN | {"end_azimuth_deg": -90}], "title": "x"})),
    ]
    bad = [
        {"events": []},
        {"events": [{"text": "rain"}]},
        {"events": [RAIN | {"path": path}]},
        {"events": [RAIN | {"level_db": 21}]},
        {"events": [RAIN | {"level": 0}]},
        {"events": [RAIN | {"repeat": "often"}]},
        {"events": [{"text": "rain", "path": path[:1]}]},
        {"events": [RAIN], "format_version": 2},
    ]
    for data in good:
        check.validate(data)
        scene_from(data)
    for data in bad:
        assert not check.is_valid(data), data
        with pytest.raises(ValueError):
            scene_from(data)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"azimuth_deg": "left"}, r"events\[0\]\.azimuth_deg must be a finite number, got 'left'"),
        ({"azimuth_deg": float("nan")}, r"events\[0\]\.azimuth_deg must be a finite number"),
        ({"azimuth_deg": 3601}, r"events\[0\]\.azimuth_deg must be -3600.0 to 3600.0, got 3601.0"),
        ({"azimuth_deg": None}, r"events\[0\]\.azimuth_deg must be given, or path in its place, got none"),
        ({"end_azimuth_deg": -3600}, r"events\[0\]\.end_azimuth_deg must be reached at 720 degrees a second"),
        ({"azimut": 3}, r"events\[0\] must be made of the keys of Event .*did you mean 'azimuth_deg'"),
        ({"text": " "}, r"events\[0\]\.text must be words"),
        ({"text": "rain behind me"}, r"events\[0\]\.text must be free of directions .* got 'behind me'"),
        ({"text": "rain from left to right"}, r"events\[0\]\.text must be free of directions .*`dualspec scene`"),
        ({"text": "rain on my left", "end_azimuth_deg": 9}, r"events\[0\]\.text must be free of directions"),
        ({"text": "EVENT: dog"}, r"events\[0\]\.text must be free of 'EVENT:'"),
        ({"text": "\ud800"}, r"events\[0\]\.text must be valid Unicode"),
        ({"text": "x" * 401}, r"events\[0\]\.text must be 1 to 400 characters, got 401"),
        ({"length_s": 5.1}, r'events\[0\]\.length_s must be at most 5, .*"repeat": "same"'),
        ({"length_s": 0}, r"events\[0\]\.length_s must be 0.1 to 600"),
        ({"onset_s": 3, "length_s": 5}, r"events\[0\]\.length_s must end within the scene's 7 s, got an end at 8 s"),
        ({"fade_in_s": 3, "fade_out_s": 3}, r"events\[0\]\.fade_out_s must end with fade_in_s within the sound's 5 s"),
        ({"repeat": "often"}, r"events\[0\]\.repeat must be one of 'same', 'anew'"),
        ({"end_azimuth_deg": 9, "location_style": "doa"}, r"events\[0\]\.location_style must be left out"),
        (
            {"path": [{"time_s": 0, "azimuth_deg": 0}] * 2},
            r"events\[0\]\.azimuth_deg must be given, or path .*got both",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(event, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plan(RAIN | event, duration_s=7)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(0, 0)], r"path must be 2 to 1000 items, got 1"),
        ([(0, 0), (1, 4000)], r"path\[1\]\.azimuth_deg must be -3600 to 3600, got 4000"),
        ([(0, 0), (0, 90)], r"path\[1\]\.time_s must be later than 0"),
        ([(0, 0), (0.1, 90)], r"path\[1\]\.azimuth_deg must be reached at 720 degrees a second or less, got 900"),
        ([(0, 0), (6, 90)], r"path\[1\]\.time_s must be within the sound's 5 s, got 6"),
    ],
)
def test_what_is_wrong_on_a_path_is_refused_by_name(points, message):
    path = [{"time_s": time, "azimuth_deg": azimuth} for time, azimuth in points]
    with pytest.raises(ValueError, match=rf"^events\[1\]\.{message}"):
        plan(RAIN, {"text": "bee", "path": path})


def test_scenes_have_limits():
    with pytest.raises(ValueError, match=r"^events must draw at most 256 sounds, got 375"):
        plan(*[RAIN | {"length_s": 600, "repeat": "anew"}] * 3)
    with pytest.raises(ValueError, match=r"^events must be 1 to 64 items, got 65"):
        plan(*[RAIN] * 65)
    with pytest.raises(ValueError, match=r"^events\[0\]\.length_s must end within the scene's 600 s"):
        plan(RAIN | {"onset_s": 599})
    with pytest.raises(ValueError, match=r"^duration_s must be 0.1 to 600"):
        plan(RAIN, duration_s=601)


def test_a_damaged_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "scene.json").write_text('{"events": [{"text": "rain"}]}')
    with pytest.raises(ValueError, match=r"scene\.json: events\[0\]\.azimuth_deg must be given"):
        read_scene(tmp_path / "scene.json")
    (tmp_path / "scene.json").write_text('{"events": [], "events": []}')
    with pytest.raises(ValueError, match=r"scene\.json must be JSON"):
        read_scene(tmp_path / "scene.json")


def test_a_plan_says_what_is_drawn():
    found = plan(
        RAIN | {"azimuth_deg": -175, "length_s": 12, "repeat": "anew"},
        RAIN | {"azimuth_deg": 45, "location_style": "doa", "length_s": 12, "repeat": "same", "onset_s": 3, "seed": 7},
        RAIN | {"end_azimuth_deg": 400, "length_s": 2},
        seed=5,
    )
    first, second, moving = found.tracks
    assert (found.length_s, found.num_sounds, found.is_moving) == (15.0, 5, True)
    assert first.prompt == "EVENT: Rain & LOCATION: 6 o'clock direction" and first.asked_deg == 180.0
    assert second.prompt == "EVENT: Rain & LOCATION: DOA 45" and second.asked_deg == 45.0
    assert (first.seeds, second.seeds, moving.seeds) == ((5, 6, 7), (7,), (2005,))
    assert first.num_rounds == second.num_rounds == 3  # 12 s out of 5 s with overlaps of 0.2 s
    assert first.path is None and moving.prompt.endswith("12 o'clock direction")
    assert [(point.time_s, point.azimuth_deg) for point in moving.path.waypoints] == [(0.0, 180.0), (2.0, 400.0)]


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_rounds_are_as_many_as_are_needed(rounds):
    whole = rounds * 5.0 - (rounds - 1) * CROSS_FADE_S
    assert plan(RAIN | {"length_s": whole, "repeat": "same"}).tracks[0].num_rounds == rounds
    assert plan(RAIN | {"length_s": whole + 0.1, "repeat": "same"}).tracks[0].num_rounds == rounds + 1


def test_scenes_are_written_in_python_too():
    scene = Scene(events=(Event(text="rain", azimuth_deg=90.0),))
    assert plan_scene(scene, sound_s=5.12).length_s == 5.12
    with pytest.raises(ValueError, match=r"^level_db must be -60 to 20, got 40.0"):
        Event(text="rain", azimuth_deg=90.0, level_db=40.0)

"""The scene on the page in a real browser: written by mouse and keyboard, checked, made, played, saved and opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dualspec.audio.waveform import read_waveform


@pytest.fixture
def scene(page: Any) -> Any:
    """The page, turned to a scene of sounds that the fake studio can make."""
    events = [
        {"text": "rain", "azimuth_deg": 180, "onset_s": 0, "length_s": 2, "repeat": "same"},
        {"text": "bee", "azimuth_deg": 90, "end_azimuth_deg": -90, "onset_s": 1, "length_s": 0.5},
    ]
    page.evaluate("text => localStorage.setItem('dualspec.scene', text)", json.dumps({"seed": 4, "events": events}))
    page.reload()
    page.get_by_role("button", name="A scene").click()
    return page


def written(page: Any) -> dict[str, Any]:
    return json.loads(page.evaluate("localStorage.getItem('dualspec.scene')"))


def drag(page: Any, place: Any, right: float, down: float) -> None:
    """Take something by its middle and move it by so many pixels."""
    box = place.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for share in (0.5, 1.0):
        page.mouse.move(x + right * share, y + down * share)
    page.mouse.up()


def test_sounds_move_on_the_timeline_by_mouse_and_keyboard(scene):
    rain = scene.get_by_role("slider", name="Beginning of 1 rain")
    assert rain.get_attribute("aria-valuetext") == "0 to 2 seconds"
    rain.press("ArrowRight")
    rain.press("Shift+ArrowRight")
    assert written(scene)["events"][0]["onset_s"] == 1.1
    assert rain.get_attribute("aria-valuetext") == "1.1 to 3.1 seconds"
    assert scene.evaluate("document.activeElement.dataset.key") == "bar-0"
    rain.press("Home")
    second = scene.locator("#lanes").bounding_box()["width"] / 6
    drag(scene, scene.get_by_role("slider", name="Beginning of 2 bee"), 2 * second, 0)
    assert written(scene)["events"][1]["onset_s"] == pytest.approx(3.0, abs=0.11)
    drag(scene, scene.locator(".lane").first.locator(".edge"), second, 0)
    assert written(scene)["events"][0]["length_s"] == pytest.approx(3.0, abs=0.11)
    scene.get_by_label("Begins at").fill("0.7")
    assert written(scene)["events"][0]["onset_s"] == 0.7


def test_sounds_are_placed_around_the_listener_by_mouse_and_keyboard(scene):
    rain = scene.get_by_role("slider", name="Place of 1 rain")
    assert rain.get_attribute("aria-valuetext") == "6 o’clock (180°)"
    rain.press("ArrowLeft")
    assert written(scene)["events"][0]["azimuth_deg"] == 210
    box = scene.locator("#above").bounding_box()
    scene.mouse.click(box["x"] + box["width"] * 0.97, box["y"] + box["height"] / 2)
    assert written(scene)["events"][0]["azimuth_deg"] == 270
    assert "3 o’clock (270°), the model’s own two ears" in scene.locator("#above-words").inner_text()

    end = scene.get_by_role("slider", name="End of 2 bee")
    end.press("ArrowRight")
    end.press("Shift+ArrowRight")
    assert written(scene)["events"][1]["end_azimuth_deg"] == -106
    start = scene.get_by_role("slider", name="Start of 2 bee")
    for degrees in (-60, -120, -180, -240, -300, -360):  # a whole turn to the right, by hand
        circle(scene, start, 90 + degrees)
    assert written(scene)["events"][1]["azimuth_deg"] == -270
    assert "164° turning left; the model’s sound, rendered through" in scene.locator("#above-words").inner_text()


def circle(page: Any, handle: Any, degrees: float) -> None:
    """Drag a handle to a direction on its own circle."""
    import math

    room, box = page.locator("#above").bounding_box(), handle.locator(".knob").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    middle = room["x"] + room["width"] / 2, room["y"] + room["height"] / 2
    radius, angle = math.hypot(x - middle[0], y - middle[1]), math.radians(degrees)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(middle[0] - radius * math.sin(angle), middle[1] - radius * math.cos(angle))
    page.mouse.up()


def test_sounds_are_added_changed_copied_and_removed(scene):
    scene.get_by_role("button", name="Add a sound").click()
    scene.get_by_label("Sound 3").fill("owl")
    scene.get_by_label("Level").fill("-6")
    scene.get_by_label("moves").check()
    scene.get_by_label("From").fill("30")
    scene.get_by_role("spinbutton", name="To").fill("400")
    scene.get_by_role("button", name="Copy").click()
    owl = written(scene)["events"][2]
    assert (owl["text"], owl["level_db"], owl["azimuth_deg"], owl["end_azimuth_deg"]) == ("owl", -6, 30, 400)
    assert written(scene)["events"][3] == owl | {"onset_s": owl["onset_s"] + 1}
    scene.get_by_role("button", name="Remove").click()
    scene.get_by_role("slider", name="Beginning of 1 rain").press("Delete")
    assert [event["text"] for event in written(scene)["events"]] == ["bee", "owl"]
    scene.get_by_label("Lasts").fill("2")
    scene.get_by_label("It goes on with").select_option("anew")
    assert written(scene)["events"][0]["repeat"] == "anew"


def test_the_server_says_at_once_what_is_wrong(scene):
    scene.get_by_label("Level").fill("21")
    scene.get_by_text("events[0].level_db must be -60 to 20, got 21.0").wait_for()
    assert scene.get_by_label("Level").get_attribute("aria-invalid") == "true"
    scene.get_by_label("Level").fill("20")
    scene.locator("#scene-error").wait_for(state="hidden")


def test_an_empty_text_is_an_error_at_its_row(scene):
    scene.get_by_label("Sound 1").fill("")
    scene.get_by_text("events[0].text must be 1 to 400 characters, got 0").wait_for()
    assert scene.locator("#event-text").get_attribute("aria-invalid") == "true"
    assert written(scene)["events"][0]["text"] == "", "what was written before is not made in its place"
    scene.locator("[data-key=bar-1]").press("ArrowRight")
    assert scene.locator(".lane.wrong").count() == 1
    scene.get_by_role("button", name="Make the scene").click()
    scene.locator(".lane.wrong.chosen").wait_for()
    assert scene.locator("#scene-actions").is_hidden()
    scene.get_by_label("Sound 1").fill("owl")
    scene.locator("#scene-error").wait_for(state="hidden")
    assert scene.locator(".lane.wrong").count() == 0


def test_what_was_deleted_or_replaced_comes_back(scene, tmp_path):
    before = written(scene)
    scene.get_by_role("button", name="Remove").click()
    assert len(written(scene)["events"]) == 1
    scene.get_by_role("button", name="Undo: remove “rain”").click()
    assert written(scene) == before and scene.locator("#undo").is_hidden()
    scene.get_by_role("slider", name="Beginning of 2 bee").press("Delete")
    scene.locator("#lanes .bar").first.press("Control+z")
    assert written(scene) == before
    (tmp_path / "other.json").write_text('{"events": [{"text": "owl", "azimuth_deg": 0, "length_s": 0.4}]}')
    scene.set_input_files("#scene-file", tmp_path / "other.json")
    scene.get_by_role("button", name="Undo: open other.json").click()
    assert written(scene) == before


def test_a_scene_is_made_played_saved_and_opened(scene, tmp_path):
    scene.get_by_label("Title of the scene").fill("A wet evening")
    scene.get_by_role("button", name="Make the scene").click()
    scene.get_by_text("2.0 s, seed 4, turned down by 1.5 dB").wait_for()
    assert scene.locator("#scene-verdict li").all_inner_texts() == [
        "1 rain: asked 6 o’clock (180°), heard 9 o’clock (90°)",
        "2 bee: its way is the head’s work, not the model’s",
    ]
    scene.locator("#scene-play").click()
    scene.locator("#lanes .head:visible").wait_for()
    scene.keyboard.press("Escape")
    scene.locator("#scene-play[aria-label=Play]").wait_for()
    names = {"WAV": "A-wet-evening.wav", "JSON": "A-wet-evening-record.json", "PNG": "A-wet-evening.png"}
    for name in names:
        path = fetch(scene, scene.locator("#scene-actions").get_by_role("button", name=name), tmp_path)
        assert path.name == names[name]
    assert read_waveform(tmp_path / "A-wet-evening.wav")[0].shape == (2, 32_000)
    scene.get_by_label("Level").fill("-3")
    scene.get_by_text("made before your last change").wait_for()
    scene.get_by_role("button", name="Make the scene").click()
    scene.locator("#scene-made").get_by_text("before your last change").wait_for(state="hidden")

    path = fetch(scene, scene.get_by_role("button", name="Save"), tmp_path)
    assert path.name == "A-wet-evening.json" and json.loads(path.read_text()) == written(scene)
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "scene.json"
    text = example.read_text().replace('"length_s": 4,', '"length_s": 4, "repeat": "same",')
    (tmp_path / "example.json").write_text(text.replace('"level_db": -3', '"length_s": 0.5'))
    scene.set_input_files("#scene-file", tmp_path / "example.json")
    scene.get_by_role("slider", name="End of 4 dog bark").wait_for()
    (tmp_path / "wrong.json").write_text('{"events": [{"text": "rain"}]}')
    scene.set_input_files("#scene-file", tmp_path / "wrong.json")
    scene.get_by_text("events[0].azimuth_deg must be given").wait_for()
    assert len(written(scene)["events"]) == 4


def fetch(page: Any, button: Any, folder: Path) -> Path:
    with page.expect_download() as download:
        button.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_scene_can_be_cancelled_and_followed_after_a_reload(scene, plain, wait_for):
    plain.studio.go.clear()
    scene.get_by_role("button", name="Make the scene").click()
    wait_for(lambda: plain.app.state.service.jobs.running)
    scene.reload()
    scene.get_by_role("button", name="Cancel").click()
    scene.get_by_role("button", name="Make the scene").wait_for()  # at once, whatever the server does
    wait_for(lambda: plain.app.state.service.jobs.running.stop)
    plain.studio.go.set()
    assert scene.locator("#scene-actions").is_hidden()


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_scene_is_wider_than_the_window(scene, width):
    scene.set_viewport_size({"width": width, "height": 844})
    scene.get_by_role("button", name="Make the scene").click()
    scene.locator("#scene-actions").wait_for()
    assert scene.evaluate("document.documentElement.scrollWidth") <= width

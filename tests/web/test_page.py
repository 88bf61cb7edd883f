"""The page in a real browser: turned by mouse and keyboard, heard, compared, downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualspec.audio.waveform import read_waveform

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")


def turn(page: Any, right: float, down: float) -> None:
    """Click the dial at a place between -1 and 1 from its middle."""
    box = page.locator("#dial").bounding_box()
    page.mouse.click(box["x"] + box["width"] * (0.5 + right / 2), box["y"] + box["height"] * (0.5 + down / 2))


def test_the_dial_turns_by_mouse_and_keyboard_and_says_where_it_points(page):
    dial = page.get_by_role("slider", name="Direction of the sound")
    for right, down, degrees in ((-0.8, 0, 90), (0.8, 0, 270), (0, -0.8, 0), (0, 0.8, 180), (-0.5, -0.5, 30)):
        turn(page, right, down)
        assert int(dial.get_attribute("aria-valuenow")) in (degrees, degrees + 30 * (degrees == 30))
    turn(page, -0.8, 0)
    assert dial.get_attribute("aria-valuetext") == "9 o’clock, 90 degrees, at 90"
    assert page.locator("#order .sentence").inner_text().split() == ["I", "hear", "at", "9", "o’clock."]
    for key, degrees in (("ArrowLeft", 120), ("ArrowRight", 90), ("Home", 0), ("ArrowRight", 330), ("End", 180)):
        dial.press(key)
        assert dial.get_attribute("aria-valuenow") == str(degrees), key
    page.get_by_text("in degrees").click()
    dial.press("ArrowLeft")
    dial.press("Shift+ArrowLeft")
    assert dial.get_attribute("aria-valuenow") == "186"
    assert "about 6 o’clock" in dial.get_attribute("aria-valuetext")


def test_a_sound_is_made_heard_compared_and_downloaded(page, tmp_path):
    page.get_by_label("I hear").fill("dog bark")
    turn(page, -0.8, 0)
    page.get_by_role("button", name="Generate").click()
    card = page.locator(".card").first
    card.wait_for()
    assert card.locator("h3").inner_text() == "Dog bark, 9 o’clock"
    assert "Asked 9 o’clock (90°), heard there" in card.locator(".verdict").inner_text()
    assert card.locator(".proof svg").get_attribute("aria-label").startswith("Asked 9 o’clock")
    with page.expect_download() as download:
        card.get_by_role("button", name="WAV").click()
    path = Path(tmp_path / download.value.suggested_filename)
    download.value.save_as(path)
    waveform, rate = read_waveform(path)
    assert waveform.shape == (2, 8_000) and rate == 16_000 and path.suffix == ".wav"
    with page.expect_download() as download:
        card.get_by_role("button", name="JSON").click()
    assert download.value.suggested_filename == f"{path.stem}.json"

    card.get_by_role("button", name="Same seed, other direction").click()
    assert page.get_by_role("slider", name="Direction of the sound").get_attribute("aria-valuenow") == "270"
    seed = page.locator("#seed").input_value()
    page.get_by_role("button", name=f"Generate with seed {seed}").click()
    page.locator(".card").nth(1).wait_for()
    assert "heard 9 o’clock (90°)" in page.locator(".card").first.locator(".verdict").inner_text()
    page.get_by_role("button", name="Play both").click()
    page.locator("#hear-a[aria-pressed=true]").wait_for()
    page.get_by_role("button", name="B 3 o’clock").click()
    page.locator("#hear-b[aria-pressed=true]").wait_for()
    page.locator("li.playing .head:visible").wait_for()
    page.keyboard.press("Escape")

    page.reload()
    page.locator("li.ready").nth(1).wait_for()  # the list is kept, the sounds are fetched again
    forget = "localStorage[name] = localStorage[name].replace(/[0-9a-f]{32}/, '0'.repeat(32))"
    page.evaluate(f"name => {{ {forget} }}", "dualspec.history")
    page.reload()
    page.locator("li.expired").wait_for()
    page.get_by_role("button", name="Make it again").click()
    page.locator(".card").nth(2).wait_for()
    assert page.locator("#seed").input_value() == seed


def test_progress_is_shown_and_can_be_cancelled(page, plain, wait_for):
    plain.studio.go.clear()
    page.get_by_label("I hear").fill("rain")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Starting").wait_for()
    page.get_by_role("button", name="Cancel").click()
    wait_for(lambda: plain.app.state.service.jobs.running.stop)
    plain.studio.go.set()
    page.get_by_role("button", name="Generate").wait_for()
    assert page.locator(".card").count() == 0 and page.locator("#error").is_hidden()
    page.get_by_text("in my words").click()
    page.get_by_label("Where is it?").fill("in the kitchen")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("location must name a direction").wait_for()
    assert page.get_by_label("Where is it?").get_attribute("aria-invalid") == "true"


def test_words_that_the_model_does_not_know_are_said_to_be_read_otherwise(page):
    page.get_by_label("I hear").fill("rain")
    page.get_by_text("in my words").click()
    for number, (words, said) in enumerate((("over my left shoulder", ", read as DOA 150"), ("directly behind", ""))):
        page.get_by_label("Where is it?").fill(words)
        page.get_by_role("button", name="Generate").click()
        page.locator(".card").nth(number).wait_for()
        assert page.locator(".card .meta").first.inner_text().endswith(f"4 steps{said}")
    page.reload()
    page.locator("li.ready").nth(1).wait_for()
    assert page.locator(".card .meta").nth(1).inner_text().endswith("read as DOA 150")


def test_a_reload_goes_on_with_the_running_job(page, plain, wait_for):
    plain.studio.go.clear()
    page.locator("#variants").evaluate("slider => { slider.value = 2; }")
    page.get_by_label("I hear").fill("rain")
    page.get_by_role("button", name="Generate").click()
    wait_for(lambda: plain.app.state.service.jobs.running)
    page.reload()
    page.get_by_text("Starting").wait_for()
    plain.studio.go.set()
    page.get_by_role("button", name="Generate").wait_for()
    assert page.locator(".card").count() == 2


def test_a_recording_is_located_and_placed(page, plain, tmp_path):
    plain.over(path := plain.job())
    (tmp_path / "own.wav").write_bytes(plain.ask("GET", f"{path}/clips/0/audio").body)
    page.get_by_text("Bring your own recording").click()
    page.set_input_files("#file", tmp_path / "own.wav")
    page.get_by_role("button", name="Where is it heard?").click()
    page.get_by_text("Heard at 9 o’clock (90°)").wait_for()
    page.get_by_role("button", name="Place it").click()
    page.get_by_text("rendered, not generated").wait_for()


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.get_by_role("button", name="church bells").click()
    page.locator("li.ready").wait_for()
    page.get_by_text("Bring your own recording").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_token_is_asked_for_once(browser, start):
    service = start(token="0123456789abcdef")
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{service.port}/")
    page.get_by_label("This server asks for a token.").fill("0123456789abcdef")
    page.get_by_role("button", name="Go on").click()
    page.wait_for_selector("#chips button")
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{service.port}/#token=0123456789abcdef")
    page.wait_for_selector("#chips button")
    assert "token" not in page.url
    page.close()

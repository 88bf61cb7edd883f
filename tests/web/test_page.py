"""The page in a real browser: turned by mouse and keyboard, heard, compared, downloaded."""

from __future__ import annotations

import itertools
import json
import socket
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dualspec.audio.delivery import integrated_loudness
from dualspec.audio.waveform import audio_info, read_waveform

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.web.settings import Settings


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
    assert "about 6 o’clock" in dial.get_attribute("aria-valuetext")
    assert dial.get_attribute("aria-valuenow") == "186"
    assert page.locator("#degrees").inner_text() == "186° · the model takes 180°"
    for degrees, used in ((42, 30), (45, 60), (344, 330), (345, 0)):  # as text/location_words.py rounds
        kept = json.dumps({"event": "", "location": "", "azimuth": degrees, "style": "doa"})
        page.evaluate("kept => sessionStorage.setItem('dualspec.sentence', kept)", kept)
        page.reload()
        page.wait_for_selector("#chips button")
        assert page.locator("#degrees").inner_text() == f"{degrees}° · the model takes {used}°"
    dial.press("Home")
    assert page.locator("#degrees").inner_text() == "0° · at 0"


def test_a_sound_is_made_heard_compared_and_downloaded(page, tmp_path):
    page.get_by_label("I hear").fill("dog bark")
    turn(page, -0.8, 0)
    page.get_by_role("button", name="Generate").click()
    card = page.locator(".card").first
    card.wait_for()
    assert card.locator("h3").inner_text() == "Dog bark, 9 o’clock"
    assert card.locator(".verdict").inner_text() == "Heard at 9 o’clock ✓", "the proof is one line"
    card.locator(".verdict summary").click()
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
    assert page.locator(".card").first.locator(".verdict").inner_text() == "Heard at 9 o’clock, 180° off"
    assert page.get_by_role("button", name="Generate", exact=True).is_visible(), "later sounds get seeds of their own"
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
    page.get_by_role("button", name="Generate").wait_for()  # at once, whatever the server does
    wait_for(lambda: plain.app.state.service.jobs.running.stop)
    plain.studio.go.set()
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
    assert "kept until you leave this page" in page.locator(".card").first.inner_text()
    assert "a rendered recording until you leave the page" in page.locator("#footer").inner_text()


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.get_by_role("button", name="church bells").click()
    page.locator("li.ready").wait_for()
    page.get_by_text("Bring your own recording").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_dial_goes_the_short_way_round(page):
    page.get_by_text("in degrees").click()
    dial = page.get_by_role("slider", name="Direction of the sound")
    shown = []
    for key in ("Home", "ArrowRight", "ArrowLeft", "ArrowLeft", "PageDown", "PageDown", "PageDown", "PageDown"):
        dial.press(key)
        shown.append(float(page.locator(".source").get_attribute("transform")[7:-1]))
    steps = [later - before for before, later in itertools.pairwise(shown)]
    assert steps == [5, -5, -5, 90, 90, 90, 90], "355 is 5 from 0, and whole turns go on turning"


def test_variants_are_one_group_with_one_archive(page, tmp_path):
    page.locator("#variants").evaluate("slider => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
    page.get_by_label("I hear").fill("rain")
    page.get_by_role("button", name="Generate").click()
    page.locator(".group .card").nth(2).wait_for()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    assert page.locator("#cards > li").count() == 1 and page.locator(".group > .title").inner_text().startswith("Rain")
    page.reload()
    page.locator(".group li.ready").nth(2).wait_for()
    assert page.locator("#cards > li").count() == 1, "after a reload they are one group, too"
    seeds = [
        int(line.rpartition("seed ")[2].split(",")[0])
        for line in page.locator(".group .card .meta").all_text_contents()
    ]
    assert seeds == sorted(seeds)
    height = page.locator(".group").bounding_box()["height"]
    assert height < 3 * 170
    with page.expect_download() as download:
        page.get_by_role("button", name="All as ZIP").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as file:
        assert len(file.namelist()) == 6


def test_sounds_are_saved_in_the_form_that_is_chosen(page, tmp_path):
    page.get_by_role("button", name="church bells").click()
    page.locator("li.ready").wait_for()
    page.locator("#file-summary").click()
    page.get_by_label("Container").select_option("flac")
    page.get_by_label("Sample rate").select_option("48000")
    page.get_by_label("Sample format").select_option("PCM_16")
    page.get_by_label("Loudness").select_option("-30")
    assert page.locator("#file-summary").inner_text() == "Files: FLAC, 16 bit, 48 kHz, −30 LUFS"
    page.reload()
    page.locator("li.ready").wait_for()
    with page.expect_download() as download:
        page.locator(".card").get_by_role("button", name="FLAC").click()
    path = Path(tmp_path / download.value.suggested_filename)
    download.value.save_as(path)
    info = audio_info(path)
    assert path.suffix == ".flac" and (info.format, info.sample_rate, info.num_channels) == ("FLAC", 48_000, 2)
    assert integrated_loudness(read_waveform(path)[0], 48_000) == pytest.approx(-30, abs=0.1)


def test_a_sound_is_dragged_out_and_a_recording_in(page, plain):
    page.get_by_role("button", name="church bells").click()
    page.locator("li.ready").wait_for()
    dragged = page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            const event = new DragEvent("dragstart", { dataTransfer, bubbles: true });
            document.querySelector(".card .picture").dispatchEvent(event);
            const file = dataTransfer.files[0];
            return { url: dataTransfer.getData("DownloadURL"), file: file?.name, size: file?.size };
        }"""
    )
    assert dragged["url"].startswith("audio/wav:clip-seed") and "blob:http" in dragged["url"]
    assert dragged["file"].endswith(".wav") and dragged["size"] > 8_000
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(200)], "own.wav", { type: "audio/wav" }));
            for (const kind of ["dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
            }
        }"""
    )
    page.get_by_text("own.wav: ask where it is heard").wait_for()
    page.get_by_role("button", name="Where is it heard?").click()
    page.get_by_text("Heard at 9 o’clock (90°)").wait_for()


def test_all_trained_sounds_are_found_as_one_types(page):
    page.get_by_role("button", name="All 3 sounds that it knows").click()
    assert page.locator("#label-list button").all_inner_texts() == ["dog bark", "rain", "helicopter"]
    page.get_by_label("Search").fill("CO heli")
    assert page.locator("#label-list button").all_inner_texts() == ["helicopter"]
    page.get_by_label("Search").press("Enter")
    assert page.get_by_label("I hear").input_value() == "helicopter"
    page.get_by_role("button", name="All 3 sounds").click()
    page.get_by_label("Search").fill("xylophone")
    assert page.locator("#label-count").inner_text() == "0 of 3"
    page.get_by_role("button", name="Close").click()
    assert page.get_by_label("I hear").input_value() == "helicopter"


def test_a_level_that_was_lowered_stands_on_the_card(page, plain):
    plain.studio.passed_db = 5.3
    page.get_by_role("button", name="church bells").click()
    page.locator(".card").wait_for()
    plain.studio.passed_db = 0.0
    assert page.locator(".card .meta").inner_text().endswith("passed full scale by 5.3 dB")
    page.locator(".card .verdict summary").click()
    assert (
        "passed full scale by 5.3 dB and was lowered by as much, both ears alike. −23 LUFS."
        in page.locator(".card .verdict").inner_text()
    )
    page.reload()
    assert page.locator(".card .meta").inner_text().endswith("passed full scale by 5.3 dB")


def test_settings_are_reached_beside_many_cards(page):
    page.set_viewport_size({"width": 1280, "height": 620})
    for number in range(6):
        page.get_by_label("I hear").fill(f"sound {number}")
        page.get_by_role("button", name="Generate").click()
        page.locator(".card").nth(number).wait_for()
        page.get_by_role("button", name="Generate", exact=True).wait_for()
    page.evaluate("scrollTo(0, 0)")
    page.locator("#summary").click()
    page.locator("#variants").scroll_into_view_if_needed()
    box = page.locator("#variants").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 620
    below = page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY")
    assert below > 600, "the column scrolls, and the page need not be at its end"


def test_high_contrast_keeps_the_main_buttons_visible(browser, plain):
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, forced_colors="active", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{plain.port}/")
    page.get_by_role("button", name="church bells").click()
    page.locator("li.ready").wait_for()
    colours = """(node) => {
        const own = getComputedStyle(node), inner = getComputedStyle(node, "::before");
        const sign = node.id === "go" ? own.color : inner.backgroundColor;
        return [own.backgroundColor, sign, getComputedStyle(document.body).backgroundColor];
    }"""
    for selector in ("#go", ".card .play"):
        back, sign, paper = page.locator(selector).first.evaluate(colours)
        assert back != sign and back != paper, (selector, back, sign, paper)
    context.close()


def test_the_browsers_back_goes_back(page):
    page.get_by_role("button", name="A scene").click()
    assert page.locator("#scene").is_visible() and page.url.endswith("#scene")
    page.go_back()
    page.locator("#one").wait_for()
    assert page.locator("#scene").is_hidden()
    page.go_forward()
    page.locator("#scene").wait_for()
    page.reload()
    page.locator("#scene").wait_for()


def test_a_service_that_dies_is_waited_for_and_the_words_are_kept(browser, tmp_path, running):
    """It dies in mid job, is cancelled; dies again and comes back without the job; and is asked while it is away."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    page = browser.new_page()
    page.set_default_timeout(20_000)
    with ExitStack() as stack:
        service = stack.enter_context(running(Settings(), tmp_path / "1", port=port))
        service.studio.go.clear()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#chips button")
        page.get_by_label("I hear").fill("rain")
        page.get_by_role("button", name="Generate").click()
        page.get_by_text("Starting").wait_for()
        service.die()
    page.get_by_text("The service does not answer; waiting for it").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("The service does not answer. Your words are kept here").wait_for()
    assert page.get_by_label("I hear").input_value() == "rain"
    with running(Settings(), tmp_path / "2", port=port) as service:
        page.locator("#error").wait_for(state="hidden")
        service.studio.go.clear()
        page.get_by_role("button", name="Generate").click()
        page.get_by_text("Starting").wait_for()
        service.die()
    page.get_by_text("The service does not answer; waiting for it").wait_for()
    with running(Settings(), tmp_path / "3", port=port):
        page.get_by_text("has lost this job. Your words are kept here").wait_for()
        assert page.get_by_label("I hear").input_value() == "rain"
        page.get_by_role("button", name="Generate").click()
        page.locator(".card").wait_for()
        page.reload()
        page.wait_for_selector("#chips button")
        assert page.get_by_label("I hear").input_value() == "rain"
    page.close()


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

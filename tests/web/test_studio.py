"""The studio with a tiny model of random weights: what the routes get from it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")

from dualspec.audio.waveform import read_waveform, write_waveform
from dualspec.web.messages import Order
from dualspec.web.studio import Studio

RATE = 48_000


@pytest.fixture(scope="module")
def studio(tiny_model: Path) -> Studio:
    return Studio(tiny_model)


def order(**changes: Any) -> Order:
    return Order(**{"event": "dog bark", "azimuth_deg": 90.0, "num_inference_steps": 3, **changes})


def sounds(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.wav"))]


def test_a_seed_gives_the_same_sound_whatever_the_number_of_clips(studio, tmp_path):
    steps: list[tuple[int, int]] = []
    for name, wanted in (("two", order(seed=3, num_clips=2)), ("one", order(seed=4))):
        (tmp_path / name).mkdir()
        clips = list(studio.clips(wanted, tmp_path / name, lambda *step: steps.append(step)))
        assert [clip.record["seed"] for clip in clips] == [*range(wanted.seed, wanted.seed + wanted.num_clips)]
    assert steps == [(step, 6) for step in range(7)] + [(step, 3) for step in range(4)]
    assert sounds(tmp_path / "two")[1] == sounds(tmp_path / "one")[0] != sounds(tmp_path / "two")[0]
    assert clips[0].record["direction"]["asked_deg"] == 90.0
    assert studio.picture(clips[0])[:4] == b"\x89PNG"
    assert clips[0].path.with_suffix(".png").exists()


def test_a_callback_that_raises_ends_the_work_within_a_step(studio, tmp_path):
    def on_step(step: int, num_steps: int) -> None:
        if step == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(studio.clips(order(num_clips=2), tmp_path, on_step))
    assert len(sounds(tmp_path)) == 1  # the finished one is whole, of the other there is nothing
    assert not list(tmp_path.glob(".tmp-*"))


def test_recordings_are_placed_by_the_head(studio, tmp_path):
    path = tmp_path / "click"
    click = torch.zeros(1, 9_600)
    click[0, 100] = 0.8
    write_waveform(path.with_suffix(".wav"), click, RATE)
    path.with_suffix(".wav").rename(path)

    def place(where: float | str, loudness_lufs: float | None = None) -> torch.Tensor:
        content, words = studio.spatialize(path, where, "sphere", loudness_lufs)
        assert words.startswith("" if loudness_lufs is None else f"{loudness_lufs:g} LUFS")
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert rate == RATE and samples.shape == (9_600, 2)
        return torch.from_numpy(samples.T)

    left, right = place(90.0), place(270.0)
    assert torch.allclose(left, right.flip(0), atol=1e-4)  # mirrored directions swap the ears
    assert left.abs().max() == pytest.approx(0.5, abs=1e-4)
    assert left[0].abs().argmax() < left[1].abs().argmax()  # the near ear is first
    assert torch.allclose(place("0:90,1:90"), left, atol=1e-3)  # a path that stands still
    quiet = place(90.0, -60.0)
    assert torch.allclose(quiet * 0.5 / quiet.abs().max(), left, atol=0.01) and quiet.abs().max() < 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["click"]


def test_recordings_that_cannot_be_used_are_refused_with_the_reason(studio, tmp_path):
    def refuses(words: str, work: Any, *arguments: Any) -> None:
        with pytest.raises(ValueError, match=words):
            work(path, *arguments)

    path = tmp_path / "upload"
    path.write_bytes(b"")
    refuses("got 0 bytes", studio.localize)
    path.write_bytes(b"no sound at all" * 9)
    refuses("must be WAV, FLAC, Ogg, AIFF or MP3", studio.spatialize, 0.0, "sphere")
    write_waveform(tmp_path / "mono.wav", torch.full((1, 1_600), 0.1), 16_000)
    path.write_bytes((tmp_path / "mono.wav").read_bytes())
    refuses("must have two channels, got 1", studio.localize)
    refuses("path must be seconds:degrees", studio.spatialize, "0:0,now", "sphere")
    refuses("head must be one of GET /api/heads, got 'nobody'", studio.spatialize, 0.0, "nobody")
    path.write_bytes((tmp_path / "mono.wav").read_bytes()[:1_000])
    refuses("must be complete", studio.spatialize, 0.0, "sphere")
    write_waveform(tmp_path / "long.wav", torch.zeros(1, 121 * 1_000), 1_000)
    path.write_bytes((tmp_path / "long.wav").read_bytes())
    refuses("must last at most 120 s", studio.spatialize, 0.0, "sphere")


def test_what_it_says_of_itself_fits_what_it_does(studio, tiny_model, tmp_path):
    about = studio.about()
    assert [place["azimuth_deg"] for place in about["directions"]] == [30.0 * sector for sector in range(12)]
    assert about["directions"][9] == {"azimuth_deg": 270.0, "clock": "3 o'clock", "general": "directly to the right"}
    assert [variant["name"] for variant in studio.variants if variant["loaded"]] == ["dualspec"]
    assert studio.heads == [{"name": "sphere", "licence": studio.heads[0]["licence"]}] and studio.events == []
    (tiny_model / "events.txt").write_text("rain\ndog\n")
    try:
        from dualspec.model_folder import read_events

        assert read_events(tiny_model) == ["rain", "dog"]
    finally:
        (tiny_model / "events.txt").unlink()
    waveform, rate = read_waveform(next(iter(_one_clip(studio, tmp_path))))
    assert waveform.shape[-1] / rate == about["duration_s"]


def _one_clip(studio: Studio, folder: Path) -> list[Path]:
    return [clip.path for clip in studio.clips(order(num_inference_steps=1), folder, lambda *_: None)]


def test_a_scene_is_made_through_the_first_head(tiny_model, write_sofa, tmp_path):
    from dualspec.scenes.score import scene_from

    studio = Studio(tiny_model, sofas=[write_sofa()])
    events = [{"text": "rain", "azimuth_deg": 180}, {"text": "bee", "azimuth_deg": 90, "end_azimuth_deg": 0}]
    scene = scene_from({"events": events, "num_inference_steps": 2, "seed": 3})
    steps: list[tuple[int, int]] = []
    (clip,) = studio.scene(scene, tmp_path, lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert clip.path.name == "scene-seed3.wav" and clip.record["head"]["name"] == "sphere"
    assert len(clip.record["head"]["sha256"]) == 64 and studio.about()["moving_head"] == "sphere"
    assert studio.picture(clip)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length_s": 121, "repeat": "same"}, "events must end within 120 s"),
        ({"length_s": 60, "repeat": "anew"}, "events must draw at most 16 sounds"),
    ],
)
def test_scenes_have_limits_here(studio, changes, message):
    from dualspec.scenes.score import scene_from

    with pytest.raises(ValueError, match=message):
        studio.plan(scene_from({"events": [{"text": "rain", "azimuth_deg": 180} | changes]}))

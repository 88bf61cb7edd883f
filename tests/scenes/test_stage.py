"""Scenes as sound, with a tiny model of random weights: a mix is the sum of its parts, each as the model made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.audio.binaural import spatialize
from dualspec.audio.hrir import spherical_head
from dualspec.audio.waveform import read_waveform
from dualspec.cli import main
from dualspec.generation import Head, model_facts
from dualspec.model_folder import load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.scenes.score import plan_scene, scene_from
from dualspec.scenes.stage import CROSS_FADE_S, OWN_EARS, PEAK, THROUGH_HEAD, _join, mix_scene, write_scene
from dualspec.synthesis.mid_signal import common_phase_mid

BARE: dict[str, Any] = {"fade_in_s": 0, "fade_out_s": 0}
BEE: dict[str, Any] = {"text": "bee", "azimuth_deg": 90, "seed": 4} | BARE
SEA: dict[str, Any] = {"text": "sea", "azimuth_deg": 270, "seed": 9} | BARE


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def head(pipeline) -> Head:
    return Head(hrir_set=spherical_head(num_directions=36, sample_rate=pipeline.sample_rate), sha256=None)


@pytest.fixture
def mix(pipeline, head, tiny_model):
    def make(*events: dict[str, Any], scene: dict[str, Any] | None = None, **options: Any) -> Any:
        asked = scene_from({"events": list(events), "num_inference_steps": 2} | (scene or {}))
        options = {"model": model_facts(pipeline, tiny_model), "head": head, "batch_size": 1} | options
        return mix_scene(pipeline, asked, **options)

    return make


def sound(pipeline: DualSpecPipeline, event: dict[str, Any], place: str) -> torch.Tensor:
    """The model's own clip, straight from the pipeline."""
    prompt = f"EVENT: {event['text'].capitalize()} & LOCATION: {place}"
    return pipeline(prompt, seed=event["seed"], num_inference_steps=2, batch_size=1).audios[0]


def levelled(ears: torch.Tensor, level_db: float = 0.0) -> torch.Tensor:
    return ears * (PEAK / ears.abs().max() * 10 ** (level_db / 20))


def test_a_still_sound_keeps_the_models_own_ears(mix, pipeline):
    ears, record = mix(BEE)
    torch.testing.assert_close(ears, levelled(sound(pipeline, BEE, "9 o'clock direction")), atol=1e-6, rtol=0)
    assert record["rendered"] is False and record["events"][0]["source"] == OWN_EARS


def test_a_moving_sound_is_the_mid_signal_through_the_head(mix, pipeline, head):
    """On a path that stands still it is the still renderer's."""
    ears, record = mix(BEE | {"end_azimuth_deg": 90})
    mid = common_phase_mid(sound(pipeline, BEE, "12 o'clock direction"))
    expected = levelled(spatialize(mid, 90.0, head.hrir_set, method="interpolate"))
    torch.testing.assert_close(ears, expected, atol=1e-5, rtol=0)
    assert record["rendered"] is True and record["events"][0]["source"] == THROUGH_HEAD
    assert record["head"]["name"] == "spherical_head"


def test_a_mix_is_the_sum_of_its_parts_each_later_and_softer_as_asked(mix, pipeline):
    ears, record = mix(BEE | {"length_s": 0.4, "level_db": -6}, SEA | {"length_s": 0.4, "onset_s": 0.2})
    part = round(0.2 * pipeline.sample_rate)
    expected = torch.zeros(2, 3 * part)
    expected[:, : 2 * part] += levelled(sound(pipeline, BEE, "9 o'clock direction")[:, : 2 * part], -6)
    expected[:, part:] += levelled(sound(pipeline, SEA, "3 o'clock direction")[:, : 2 * part])
    torch.testing.assert_close(ears, expected, atol=1e-6, rtol=0)
    assert record["gain_db"] == 0.0


def test_a_mix_that_would_clip_is_turned_down_as_a_whole_and_says_so(mix):
    soft, _ = mix(BEE, SEA | {"level_db": -12})
    loud, record = mix(BEE | {"level_db": 12}, SEA)
    assert float(loud.abs().max()) == pytest.approx(1.0, abs=1e-6) and record["gain_db"] < 0
    torch.testing.assert_close(loud, soft * 10 ** ((12 + record["gain_db"]) / 20), atol=1e-5, rtol=0)


def test_rounds_overlap_with_equal_power():
    """Unlike noises joined have the power of one all along; a sound that is not cut keeps its beginning."""
    rate = 8_000
    noise = torch.randn(40, 1, rate, generator=torch.Generator().manual_seed(0))
    joined = _join(list(noise), 31 * rate, rate)
    assert joined.shape == (1, 31 * rate)
    overlap = round(CROSS_FADE_S * rate)
    inside = torch.cat([joined[0, k * (rate - overlap) :][:overlap] for k in range(1, 38)])
    assert float(inside.square().mean()) == pytest.approx(1.0, abs=0.03)
    torch.testing.assert_close(joined[:, : rate - overlap], noise[0][:, : rate - overlap])
    once = _join([noise[0]], 10 * rate, rate)  # zeros follow
    torch.testing.assert_close(once[:, :rate], noise[0])


def test_repeated_sounds_are_drawn_once_or_anew(mix, pipeline):
    long = pipeline.max_duration_s * 1.7
    same, same_record = mix(BEE | {"length_s": long, "repeat": "same"})
    anew, anew_record = mix(BEE | {"length_s": long, "repeat": "anew"})
    assert [part["seed"] for part in same_record["events"][0]["sounds"]] == [4]
    assert [part["seed"] for part in anew_record["events"][0]["sounds"]] == [4, 5]
    assert same.shape == anew.shape == (2, round(long * pipeline.sample_rate))
    overlap = pipeline.config.num_samples // 4  # of clips this short
    step = pipeline.config.num_samples - overlap
    one, again = same[:, overlap : 2 * overlap], same[:, step + overlap : step + 2 * overlap]
    torch.testing.assert_close(one, again, atol=1e-6, rtol=0)


def test_fades_begin_and_end_in_silence(mix):
    plain, _ = mix(BEE)
    faded, _ = mix(BEE | {"fade_in_s": 0.2, "fade_out_s": 0.1})
    assert float(faded[:, 0].abs().max()) < 1e-5 and float(faded[:, -1].abs().max()) < 1e-5
    middle = faded[:, 4_000:-4_000] / plain[:, 4_000:-4_000]
    torch.testing.assert_close(middle, middle[0, 0].expand_as(middle), atol=1e-3, rtol=1e-3)


def test_still_sounds_are_proved_and_moving_ones_are_not(mix, tiny_model):
    _, record = mix(BEE, SEA | {"end_azimuth_deg": 90}, judge=load_judge(tiny_model))
    still, moving = (event["sounds"][0] for event in record["events"])
    assert still["direction"]["asked_deg"] == 90.0 and still["direction"]["localizer"]["name"] == "robust"
    assert "direction" not in moving


def test_steps_are_counted_over_all_sounds_and_may_stop(mix):
    told: list[tuple[int, int]] = []
    mix(BEE, SEA, on_step=lambda *step: told.append(step))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mix(BEE, on_step=stop)


def test_a_moving_sound_needs_a_head(mix):
    with pytest.raises(ValueError, match=r"^head must be given where a sound moves"):
        mix(BEE | {"end_azimuth_deg": 0}, head=None)


def test_a_scene_is_written_whole_and_its_record_makes_it_again(mix, pipeline, tmp_path):
    ears, record = mix(BEE, SEA | {"end_azimuth_deg": 180})
    plan = plan_scene(scene_from(record["scene"]), sound_s=pipeline.max_duration_s)
    written = write_scene(tmp_path / "both.wav", ears, pipeline.sample_rate, record, plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.json", "both.png", "both.wav"]
    stored = json.loads((tmp_path / "both.json").read_text())
    assert stored == written.record and stored["num_samples"] == ears.shape[-1]
    again, _ = mix(*stored["scene"]["events"])
    torch.testing.assert_close(again, ears, atol=0, rtol=0)
    waveform, rate = read_waveform(written.path)
    assert rate == pipeline.sample_rate
    torch.testing.assert_close(waveform, ears, atol=2**-15, rtol=0)


# --- the verb -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    events = [{"text": "bee", "azimuth_deg": 90}, {"text": "sea", "azimuth_deg": 0, "end_azimuth_deg": -90}]
    (tmp_path / "both.json").write_text(json.dumps({"events": events, "num_inference_steps": 1}))
    return tmp_path / "both.json"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["scene", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_verb_makes_a_scene(scene_file, tiny_model, tmp_path, capsys):
    target = tmp_path / "out" / "mix.flac"
    code, said, _ = run(capsys, scene_file, "-o", target, "--model", tiny_model)
    assert code == 0 and "1 bee: 0 to " in said and "2 sea" in said and "moving, rendered" in said
    assert "through spherical_head" in said.splitlines()[-1]
    assert sorted(path.name for path in target.parent.iterdir()) == ["mix.flac", "mix.json", "mix.png"]
    assert json.loads(target.with_suffix(".json").read_text())["head"]["sha256"] is None


def test_the_plan_needs_no_model_and_makes_no_sound(scene_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(DualSpecPipeline, "from_pretrained", None)
    code, said, _ = run(capsys, scene_file, "--plan", "-o", tmp_path / "plan.png")
    assert code == 0 and "rendered through a head" in said and "2 sounds to draw" in said
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.json", "plan.png"]
    assert run(capsys, scene_file, "--plan")[0] == 0


def test_the_verb_refuses_what_it_cannot_do(scene_file, tmp_path, capsys):
    for words, code, complaint in (
        ([scene_file], 2, "--output must end in .wav or .flac, got 'none'"),
        ([scene_file, "-o", tmp_path / "x.mp3"], 2, "--output must end in .wav or .flac"),
        ([scene_file, "--plan", "-o", tmp_path / "x.wav"], 2, "--output must end in .png"),
        ([scene_file, "-o", tmp_path / "both.wav"], 2, "its record would replace the scene"),
        (["-o", tmp_path / "x.wav"], 2, "SCENE.json must be given"),
        ([tmp_path / "none.json", "--plan"], 66, "none.json"),
    ):
        found, _, said = run(capsys, *words)
        assert found == code and complaint in said and said.count("\n") == 1, words
    scene_file.write_text('{"events": [{"text": "bee", "azimuth_deg": "left"}]}')
    found, _, said = run(capsys, scene_file, "--plan")
    assert found == 65 and "both.json: events[0].azimuth_deg must be a finite number" in said


def test_the_documented_example_can_be_planned(capsys):
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "scene.json"
    code, said, _ = run(capsys, example, "--plan")
    assert code == 0 and said.splitlines()[-1] == "12 s, 6 sounds to draw"
    text = (example.parents[1] / "scenes.md").read_text()
    assert text.partition("```json\n")[2].partition("```")[0] == example.read_text()
    code, said, _ = run(capsys, "--schema")
    assert code == 0 and json.loads(said)["title"] == "dualspec scene"


def test_the_documented_python_runs(pipeline, tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "scenes.md").read_text()
    monkeypatch.setattr(DualSpecPipeline, "from_pretrained", lambda: pipeline)
    monkeypatch.chdir(tmp_path)
    exec(text.partition("```python\n")[2].partition("```")[0], {})
    assert read_waveform(tmp_path / "bee.wav")[0].shape == (2, pipeline.config.num_samples)

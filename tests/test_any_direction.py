"""A model of 72 azimuths from end to end, by commands alone: trained, assembled, asked for what lies between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.hrir import load_sofa
from dualspec.audio.waveform import write_waveform
from dualspec.bundle import read_head, trained_words
from dualspec.cli import app
from dualspec.data.corpora import CorpusSpec
from dualspec.data.prepare import prepare
from dualspec.hearing.cues import target_cues
from dualspec.scenes.score import plan_scene, scene_from
from dualspec.text.location_words import LocationWords

WORDS = LocationWords(num_azimuths=72, lexicon="rich")


def done(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def sofa(write_sofa: Callable[..., Path]) -> Path:
    """A head measured every 2 degrees: every second direction of the 72 lies between two of its own."""
    return write_sofa(num_directions=180)


@pytest.fixture(scope="module")
def model(sofa: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dualspec recipe trained for two steps at 72 azimuths, with VAEs and vocoder of random weights."""
    root = tmp_path_factory.mktemp("fine")
    generator = torch.Generator().manual_seed(0)
    (root / "clips" / "rain").mkdir(parents=True)
    for index in range(6):
        write_waveform(
            root / "clips" / "rain" / f"{index}.wav", 0.1 * torch.randn(1, 20_800, generator=generator), 16_000
        )
    prepare([CorpusSpec(name="folder", root=root / "clips")], root / "corpus", workers=1)
    words: list[object] = ["tiny/dualspec", "--data", root / "corpus", "--runs", root / "runs", "--device", "cpu"]
    words += ["--hrir", sofa, "--set", "loop.max_steps=2", "--set", "loop.batch_size=4"]
    words += ["--set", "task.render.num_azimuths=72", "--set", "task.lexicon=rich"]
    for part in ("mel_vae", "stft_vae"):
        words += ["--vae", f"{part}={tiny_model / part}"]
    done("train", *words)
    denoiser = root / "runs" / "tiny/dualspec" / "weights"
    assert trained_words(denoiser) == WORDS
    done("assemble", root / "model", "--base", tiny_model, "--part", f"denoiser={denoiser}", "--hrir", sofa)
    return root / "model"


def test_its_head_has_a_target_at_each_azimuth(model: Path, sofa: Path) -> None:
    head = read_head(model)
    assert head is not None and head.azimuths_deg == sector_grid_deg(72)
    expected = target_cues(load_sofa(sofa), sector_grid_deg(72), method="interpolate")
    assert torch.allclose(torch.tensor(head.itd_us, dtype=torch.float64), expected.itd_us, atol=0.01)


@pytest.mark.parametrize(
    ("words", "azimuth_deg", "read_as"),
    [
        (["EVENT: Dog & LOCATION: DOA 25"], 25.0, "DOA 25"),
        (["EVENT: Dog & LOCATION: half past two direction"], 285.0, "half past two direction"),
        (["a dog at 2:30"], 285.0, "DOA 285"),
        (["EVENT: Dog & LOCATION: DOA 23"], 23.0, "DOA 25"),
        (["--event", "dog", "--azimuth", "285"], 285.0, "half past two direction"),
        (["--event", "dog", "--azimuth", "30", "--style", "general"], 30.0, "ahead, slightly to the left"),
    ],
)
def test_what_is_asked_for_is_read_made_and_recorded(
    model: Path, tmp_path: Path, words: list[str], azimuth_deg: float, read_as: str
) -> None:
    said = done("generate", *words, "-o", tmp_path / "dog.wav", "--model", model, "--steps", 2, "--no-picture")
    record = json.loads((tmp_path / "dog.json").read_text())
    assert record["azimuth"]["azimuth_deg"] == record["direction"]["asked_deg"] == azimuth_deg
    assert record["read_as"].partition(" & LOCATION: ")[2] == read_as
    assert "note" not in said and f"asked {azimuth_deg:g}" in said


def test_words_that_have_no_such_direction_name_the_nearest_and_say_so(model: Path, tmp_path: Path) -> None:
    words = ("--event", "dog", "--azimuth", 280, "-o", tmp_path / "dog.wav", "--model", model, "--no-picture")
    said = done("generate", *words, "--steps", 2, "--no-proof")
    assert "nearest of 24 directions, 285 for 280" in said
    assert json.loads((tmp_path / "dog.json").read_text())["azimuth"]["azimuth_deg"] == 285.0


def test_a_scene_is_told_in_its_words() -> None:
    scene = scene_from({"events": [{"text": "rain", "azimuth_deg": 45}]})

    def told(words: LocationWords | None) -> tuple[str, float]:
        (track,) = plan_scene(scene, sound_s=5.12, words=words).tracks
        return track.prompt.partition(" & LOCATION: ")[2], track.asked_deg

    assert told(WORDS) == ("half past ten direction", 45.0)
    assert told(None) == ("10 o'clock direction", 60.0)


def test_the_page_offers_its_directions(model: Path) -> None:
    pytest.importorskip("fastapi", reason="the page needs the extra 'web'")
    from dualspec.web.messages import Order
    from dualspec.web.studio import Studio

    about: dict[str, Any] = Studio(model).about()
    assert about["num_azimuths"] == 72
    assert [place["azimuth_deg"] for place in about["directions"]] == [15.0 * index for index in range(24)]
    assert about["directions"][19]["clock"] == "half past two"
    text, parsed = Order(event="dog", azimuth_deg=285.0).prompt(WORDS)
    assert text == "EVENT: Dog & LOCATION: half past two direction"
    assert parsed.azimuth is not None and parsed.azimuth.azimuth_deg == 285.0

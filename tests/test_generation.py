"""Records of direction and the choice among candidates, with listeners of random weights: chance places well enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dualspec.audio.waveform import read_waveform
from dualspec.cli import app
from dualspec.generation import OutputOptions, generate_clips
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.hearing.proof import NO_ANSWER, placement_scores
from dualspec.model_folder import LoadedLocalizer, load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.prompt_lists import check_prompt, plan_clips

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
SMALL = LocalizerConfig(branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8))


def listener(name: str, accuracy: float | None = 0.995) -> LoadedLocalizer:
    torch.manual_seed(len(name))
    localizer = Localizer(SMALL).eval().requires_grad_(False)
    localizer.classifier[-1].weight.mul_(30.0)  # so that answers differ from clip to clip
    return LoadedLocalizer(localizer=localizer, name=name, sha256=name * 8, held_out_accuracy=accuracy)


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualspec.model_folder.load_localizer", lambda name="robust": listener(str(name)))


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained(tiny_model)


@pytest.fixture
def write(pipeline: DualSpecPipeline, tiny_model: Path) -> Callable[..., list[dict[str, Any]]]:
    """Write clips of one prompt and return their records."""

    def run(folder: Path, *, prompt: str = PROMPT, proof: bool = True, **options: Any) -> list[dict[str, Any]]:
        folder.mkdir()
        plan = {name: options.pop(name) for name in ("seed", "per_prompt", "best_of") if name in options}
        chosen = [(prompt, check_prompt(prompt, allow_no_direction=True))]
        judge = load_judge(tiny_model) if proof else None
        clips = generate_clips(
            pipeline,
            plan_clips(chosen, folder, **{"seed": 0} | plan),
            model={},
            sampling=replace(pipeline.config.sampling, num_inference_steps=2),
            options=OutputOptions(picture=False, judge=judge),
            **options,
        )
        return [clip.record for clip in clips]

    return run


def dualspec(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# --- proof --------------------------------------------------------------------------------------------------------


def test_the_proof_is_of_the_file(write: Any, tiny_model: Path, tmp_path: Path) -> None:
    (record,) = write(tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.wav")
    assert json.loads(path.with_suffix(".json").read_text()) == record
    stored, sample_rate = read_waveform(path)
    assert record["direction"] == load_judge(tiny_model).hear(stored, sample_rate, 270.0)
    assert record["direction"]["asked_deg"] == 270.0 and record["direction"]["target"]["name"] == "spherical_head"
    assert record["best_of"] == 1 and "candidates" not in record and "chooser" not in record
    assert "direction" not in write(tmp_path / "other", proof=False)[0]


def test_a_judge_below_99_percent_carries_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "warning" not in load_judge().facts
    for accuracy, words in ((0.971, "right on only 97.1 % of true clips"), (None, "never measured")):
        monkeypatch.setattr(
            "dualspec.model_folder.load_localizer", lambda name, accuracy=accuracy: listener(name, accuracy)
        )
        assert words in load_judge().facts["warning"]


def test_the_embedded_model_is_held_against_its_own_head() -> None:
    assert load_judge().target.name == "fabian" and load_judge().target.sha256 is not None


def test_silence_has_no_answer_and_guesses_nothing(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DualSpecPipeline, "decode_latents", lambda self, latents: torch.zeros(len(latents), 2, 10_240))
    (record,) = write(tmp_path / "out")
    assert record["direction"]["no_answer"] == NO_ANSWER and record["direction"]["heard_deg"] is None
    assert record["peak_db"] is None


def test_a_prompt_without_direction_is_heard_but_not_compared(write: Any, tmp_path: Path) -> None:
    (record,) = write(tmp_path / "out", prompt="EVENT: Rain")
    assert record["direction"]["heard_deg"] is not None
    assert record["direction"]["asked_deg"] is record["direction"]["error_deg"] is None


def test_the_terminal_says_asked_and_heard(
    tiny_model: Path, tmp_path: Path, write_sofa: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("generate", PROMPT, "--model", tiny_model, "--steps", 1, "-o")
    said = dualspec(*common, tmp_path / "a.wav", "--target-head", write_sofa())
    record = json.loads((tmp_path / "a.json").read_text())["direction"]
    assert f"asked 270, heard {record['heard_deg']:g} ({100 * record['confidence']:.0f} %)" in said.output
    assert record["target"]["name"] == "sphere" and len(record["target"]["sha256"]) == 64
    assert said.output.count("\n") == 1
    assert "heard" not in dualspec(*common, tmp_path / "b.wav", "--no-proof").output
    refused = dualspec(*common, tmp_path / "c.wav", "--no-proof", "--target-head", tmp_path / "x.sofa")
    assert refused.exit_code == 2 and "--target-head must come with the proof" in refused.output
    monkeypatch.setattr("dualspec.model_folder.load_localizer", lambda name: listener(name, 0.5))
    assert "'robust': the judge itself is right on only 50.0 %" in dualspec(*common, tmp_path / "d.wav").output


# --- best of ------------------------------------------------------------------------------------------------------


def test_the_best_placed_of_all_candidates_is_kept(write: Any, tmp_path: Path) -> None:
    chooser = listener("paper")
    records = write(tmp_path / "best", best_of=3, per_prompt=2, seed=4, batch_size=2, chooser=chooser)
    names = sorted(path.name for path in (tmp_path / "best").glob("*.wav"))
    assert [name.rpartition("az270-")[2] for name in names] == ["seeds4-6.wav", "seeds7-9.wav"]
    single = write(tmp_path / "all", per_prompt=6, seed=4, proof=False)
    sounds = {
        record["seed"]: read_waveform(path)[0] for record, path in zip(single, _waves(tmp_path / "all"), strict=True)
    }
    for record, path, first in zip(records, _waves(tmp_path / "best"), (4, 7), strict=True):
        assert record["best_of"] == 3 and record["chooser"]["name"] == "paper"
        assert record["direction"]["localizer"]["name"] == "robust", "who chooses does not judge"
        seeds, scores = zip(*((tried["seed"], tried["score"]) for tried in record["candidates"]), strict=True)
        assert seeds == (first, first + 1, first + 2) and len(set(scores)) == 3
        assert record["seed"] == seeds[scores.index(max(scores))]
        alone = torch.stack([sounds[seed] for seed in seeds])
        expected = placement_scores(chooser.localizer, alone, 16_000, [270.0] * 3)
        assert scores == pytest.approx(expected, abs=0.02)
        assert (read_waveform(path)[0] - sounds[record["seed"]]).abs().max() <= 2 / 32768
    assert records[0]["seed"] != 4 or records[1]["seed"] != 7, "the choice must not always be the first"


def _waves(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wav"))


def test_the_same_seed_keeps_the_same_candidate(tiny_model: Path, tmp_path: Path) -> None:
    for run in ("one", "two"):
        words = ("generate", PROMPT, "--best-of", 3, "--steps", 1, "--model", tiny_model)
        said = dualspec(*words, "-o", tmp_path / run / "dog.wav")
        assert said.exit_code == 0 and "best of 3 by paper, asked 270, heard" in said.output
    for name in ("dog.wav", "dog.json", "dog.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_silent_candidate_never_wins(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = DualSpecPipeline.decode_latents

    def hush(self: DualSpecPipeline, latents: torch.Tensor) -> torch.Tensor:
        sounds = decode(self, latents)
        sounds[: sum(quiet)] = 0
        return sounds

    monkeypatch.setattr(DualSpecPipeline, "decode_latents", hush)
    quiet = [True, True, False]
    (record,) = write(tmp_path / "some", best_of=3, chooser=listener("paper"))
    scores = [tried["score"] for tried in record["candidates"]]
    assert scores[:2] == [None, None] and scores[2] is not None and record["seed"] == 2
    quiet = [True, True, True]
    (record,) = write(tmp_path / "none", best_of=3, chooser=listener("paper"))
    assert record["seed"] == 0 and record["direction"]["no_answer"] == NO_ANSWER


def test_choices_that_would_deceive_are_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chooser must be given with best_of 2"):
        write(tmp_path / "a", best_of=2)
    with pytest.raises(ValueError, match="another localizer than the judge, got 'robust' twice"):
        write(tmp_path / "b", best_of=2, chooser=listener("robust"))
    with pytest.raises(ValueError, match="prompts must name a direction where the best placed is kept"):
        write(tmp_path / "c", best_of=2, chooser=listener("paper"), prompt="EVENT: Rain")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- prompt lists -------------------------------------------------------------------------------------------------


def test_a_manifest_names_its_own_files(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"file": "a^90.wav", "prompt": "EVENT: Cat & LOCATION: DOA 90", "seed": 3},
        {"file": "b.wav", "prompt": PROMPT},
    ]
    listing = tmp_path / "test.jsonl"
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("generate", "--manifest", listing, "--model", tiny_model, "--steps", 1, "--no-picture", "-o")
    assert dualspec(*words, tmp_path / "out", "--seed", 5, "--best-of", 2).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a^90.json", "a^90.wav", "b.json", "b.wav"]
    seeds = {
        name: [tried["seed"] for tried in json.loads((tmp_path / "out" / name).read_text())["candidates"]]
        for name in ("a^90.json", "b.json")
    }
    assert seeds == {"a^90.json": [11, 12], "b.json": [5, 6]}
    for more in (("--num", 2), ("-o", tmp_path / "x.wav"), ("--event", "dog", "--azimuth", 0)):
        assert dualspec(*words, tmp_path / "no", *more).exit_code == 2
    assert not (tmp_path / "no").exists()

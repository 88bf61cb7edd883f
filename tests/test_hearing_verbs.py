"""`localize` and `audition` from words to results, and `train` on several heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.waveform import write_waveform
from dualspec.cli import app
from dualspec.data.corpora import CorpusSpec
from dualspec.data.prepare import prepare
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.model_folder import load_localizer
from dualspec.training.weights import read_notes, save_weights

TINY = LocalizerConfig(branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8))
RATE = 16_000


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> Result:
    result = dualspec(*words)
    assert result.exit_code == 0, result.output
    return result


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of a random localizer that was never measured."""
    folder = tmp_path_factory.mktemp("judges") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(folder, Localizer(TINY), TINY)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of 1.1 s, two of them for the test split."""
    source, prepared = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("corpus")
    with (source / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "licence", "split"])
        for index in range(4):
            write_waveform(source / f"{index}.wav", noise(index + 1, 17_600)[-1:], RATE)
            rows.writerow([f"{index}.wav", "noise", "CC0", "test" if index > 1 else "train"])
    prepare([CorpusSpec(name="folder", root=source)], prepared, workers=1)
    return prepared


def test_a_judge_says_who_it_is_and_whether_it_was_measured(judge: Path, tmp_path: Path) -> None:
    loaded = load_localizer(judge)
    assert loaded.held_out_accuracy is None and loaded.warning is not None and "never measured" in loaded.warning
    assert len(loaded.sha256) == 64 and loaded.name == judge.name and not loaded.localizer.training
    for accuracy, words in ((0.971, "right on only 97.1 % of true clips"), (0.995, None)):
        save_weights(tmp_path / "w", Localizer(TINY), TINY, notes={"localizer": "x", "held_out_accuracy": accuracy})
        measured = load_localizer(tmp_path / "w")
        assert measured.name == "x" and (measured.warning is None if words is None else words in str(measured.warning))
    (tmp_path / "w" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="SHA-256"):
        load_localizer(tmp_path / "w")
    with pytest.raises(FileNotFoundError, match=r"no localizer in .*name one of paper, robust"):
        load_localizer(tmp_path / "nothing")


def test_localize_prints_a_direction_for_any_stereo_file(judge: Path, tmp_path: Path) -> None:
    for name, rate, seconds in (("a.wav", 44_100, 1), ("b.flac", 16_000, 21), ("c.ogg", 48_000, 1)):
        write_waveform(tmp_path / name, noise(2, seconds * rate), rate)
        lines = done("localize", tmp_path / name, "--localizer", judge).output.splitlines()
        assert lines[0].startswith(f"{tmp_path / name}: ") and "confidence 0." in lines[0] and "°" in lines[0]
        assert len(lines[1].split()) == 12 and lines[2].split().index("L") == 3
        assert lines[3] == "warning: the accuracy of the judge itself was never measured"


def test_localize_gives_json_and_goes_on_after_bad_files(judge: Path, tmp_path: Path) -> None:
    write_waveform(tmp_path / "good.wav", noise(2, 8_000), RATE)
    write_waveform(tmp_path / "mono.wav", noise(1, 8_000), RATE)
    write_waveform(tmp_path / "silent.wav", torch.zeros(2, 8_000), RATE)
    write_waveform(tmp_path / "short.wav", noise(2, 300), RATE)
    (tmp_path / "text.wav").write_text("no sound")
    bad = {
        "mono.wav": "must have two channels, got 1",
        "silent.wav": "audible in both ears",
        "short.wav": "at least 800",
        "text.wav": "text.wav",
        "absent.wav": "absent.wav",
    }
    names = [*bad, "good.wav"]
    result = dualspec("localize", *(tmp_path / name for name in names), "--localizer", judge, "--json")
    assert result.exit_code == 65
    records = json.loads(result.stdout)
    assert [Path(record["file"]).name for record in records] == names
    for record, words in zip(records, bad.values(), strict=False):
        assert words in record["error"] and record["file"] in record["error"] and "\n" not in record["error"]
        assert f"error: {record['error']}" in result.stderr
    good = records[-1]
    assert set(good) == {"file", "azimuth_deg", "expectation_deg", "confidence", "probabilities", "localizer"}
    assert sum(good["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert good["azimuth_deg"] == 30 * good["probabilities"].index(max(good["probabilities"]))
    assert good["localizer"]["held_out_accuracy"] is None and "never measured" in good["localizer"]["warning"]
    assert dualspec("localize", tmp_path / "absent.wav", "--localizer", judge).exit_code == 66
    assert dualspec("localize", tmp_path / "good.wav", "--localizer", tmp_path / "nobody").exit_code == 66


def test_long_recordings_are_judged_by_windows(judge: Path) -> None:
    localizer = load_localizer(judge).localizer
    parts = noise(2, 3 * RATE).split(RATE, dim=-1)
    whole = torch.cat([parts[0], torch.zeros(2, RATE), parts[2]], dim=-1)
    heard = [localizer.predict(part, RATE).probabilities for part in (parts[0], parts[2])]
    found = localizer.predict_long(whole, RATE, window_s=1.0)
    assert torch.allclose(found.probabilities, (heard[0] + heard[1]) / 2, atol=1e-6)  # silence has no voice
    short = torch.cat([parts[0], parts[1][:, : RATE // 10]], dim=-1)
    last = localizer.predict(parts[1][:, : RATE // 10], RATE).probabilities
    found = localizer.predict_long(short, RATE, window_s=1.0)
    assert torch.allclose(found.probabilities, (10 * heard[0] + last) / 11, atol=1e-6)  # a tail counts as long as it is


def test_audition_writes_a_card_and_weights_that_know_it(judge: Path, corpus: Path, tmp_path: Path) -> None:
    weights = tmp_path / "measured"
    words = ["audition", judge, "--data", corpus, "-o", tmp_path / "card", "-n", 1, "--seconds", 0.4]
    result = done(*words, "--hrir", "analytic", "--held-out", "analytic", "--weights", weights, "--name", "mine")
    document = json.loads((tmp_path / "card.json").read_text())
    assert document["num_recordings"] == 1 and document["localizer"] == "mine"
    assert [row["role"] for row in document["rows"]] == ["training"] * 8 + ["held out"]
    assert document["rows"][0] | {"role": "held out"} == document["rows"][-1]
    assert (tmp_path / "card.md").read_text() in result.output
    notes = read_notes(weights)
    assert notes["held_out_accuracy"] == document["rows"][0]["azimuth_accuracy"] and notes["held_out_clips"] == 12
    measured = load_localizer(weights)
    assert measured.name == "mine" and measured.warning is not None and "right on only" in measured.warning


def test_audition_refuses_a_name_for_nothing(judge: Path, corpus: Path, tmp_path: Path) -> None:
    result = dualspec("audition", judge, "--data", corpus, "-o", tmp_path / "card", "--name", "x")
    assert result.exit_code == 2 and "--name must come with --weights" in result.output


def test_a_robust_localizer_trains_on_several_heads(corpus: Path, tmp_path: Path, write_sofa) -> None:
    words = ["train", "tiny/robust_localizer", "--data", corpus, "--runs", tmp_path, "--device", "cpu"]
    settings = ["--set", "loop.max_steps=2", "--set", "loop.validate_every=0"]
    done(*words, *settings, "--hrir", "analytic", "--hrir", write_sofa())
    assert read_notes(tmp_path / "tiny/robust_localizer/weights")["steps"] == 2

"""The head that the embedded model was trained with: what is shipped, who takes it by default, who never reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.hrir import load_sofa
from dualspec.audio.waveform import write_waveform
from dualspec.bundle import HEADS, embedded_bundle, head_file, part_folder, read_head
from dualspec.cli import app
from dualspec.config import save_json
from dualspec.files import sha256_of
from dualspec.hearing.proof import measure_head
from dualspec.training.weights_folder import read_notes

SOURCE = Path(__file__).resolve().parents[1] / "src" / "dualspec"
STEP = ("--set", "loop.max_steps=1", "--set", "loop.batch_size=2", "--device", "cpu")
READERS = {"bundle.py", "cli/training.py", "cli/models.py", "cli/evaluation.py", "cli/build.py"}


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_shipped_head_is_that_of_the_embedded_model() -> None:
    """Same head by name and file, its cues those that the model's proofs aim at, 72 azimuths, credited."""
    own, head = read_head(embedded_bundle()), load_sofa(head_file("fabian"))
    assert own is not None and own.name == head.name == "fabian" and own.sha256 == HEADS["fabian"]
    assert head.azimuths_deg.tolist() == [5.0 * index for index in range(72)] and head.sample_rate == 16_000
    cues = measure_head(head, sha256=own.sha256, azimuths_deg=list(own.azimuths_deg))
    assert cues.itd_us == pytest.approx(own.itd_us, abs=0.02) and cues.coherence == pytest.approx(
        own.coherence, abs=1e-3
    )
    for mine, theirs in zip(cues.ild_db, own.ild_db, strict=True):
        assert mine == pytest.approx(theirs, abs=0.01)
    assert "creativecommons.org/licenses/by/4.0" in head.licence and "Brinkmann" in head.source
    card = head_file("fabian").with_name("README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("CC BY 4.0", "Brinkmann", "10.14279/depositonce-5718", "Changes"))
    assert head_file("fabian").stat().st_size < 200_000 and head_file("other.sofa") == Path("other.sofa")


def test_the_shipped_head_is_the_measured_one_on_a_grid(shared_data: Path) -> None:
    source = shared_data / "hrir" / "fabian.sofa"
    assert sha256_of(source) == HEADS["fabian"]
    expected = load_sofa(source).at([5.0 * index for index in range(72)], "interpolate")
    torch.testing.assert_close(load_sofa(head_file("fabian")).impulse_responses, expected, rtol=0, atol=0)


def test_nothing_on_the_way_from_words_to_sound_can_name_it() -> None:
    """Beside tests/test_cli.py, where the renderer and every SOFA file are barred while sound is made."""
    found = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if any(word in file.read_text(encoding="utf-8") for word in ("head_file", "heads/", "fabian.sofa"))
    }
    assert found <= READERS


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model that was trained with FABIAN, as it says, and clips to go on with, in the working folder."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for index in range(3):
        (tmp_path / "sounds" / "bell").mkdir(parents=True, exist_ok=True)
        waveform = 0.1 * torch.randn(1, 40_000, generator=generator)
        write_waveform(tmp_path / "sounds" / "bell" / f"{index}.wav", waveform, 16_000)
    shutil.copytree(tiny_model, tmp_path / "model")
    own = read_head(embedded_bundle())
    assert own is not None
    save_json(own, tmp_path / "model" / "head.json")
    return tmp_path / "model"


def heads_of(runs: str) -> list[str]:
    return [head["given"] for head in json.loads(Path(runs, "tiny/dualspec/heads.json").read_text())]


def test_going_on_takes_the_head_that_the_model_was_trained_with(model: Path) -> None:
    words = ("train", "tiny/dualspec", "--data", "sounds", *STEP)
    result = dualspec(*words, "--init", model, "--runs", "a")
    assert result.exit_code == 0 and "rendered with the head 'fabian'" in result.output, result.output
    assert heads_of("a") == ["fabian"]
    weights = Path("a/tiny/dualspec/weights")
    facts = {"name": "fabian", "sha256": sha256_of(head_file("fabian"))}
    assert read_notes(weights)["heads"] == [facts]

    on = dualspec(*words, "--runs", "a", "--resume", "--vae", f"mel_vae={model}", "--vae", f"stft_vae={model}")
    assert on.exit_code == 0 and heads_of("a") == ["fabian"], "a run goes on with its own head"
    other = dualspec(*words, "--runs", "a", "--init", model, "--resume", "--hrir", "analytic")
    assert other.exit_code == 2 and "--hrir must be that of the run" in other.output

    vaes = [word for part in ("mel_vae", "stft_vae") for word in ("--vae", f"{part}={model}")]
    again = dualspec(*words, "--init", weights, "--runs", "b", *vaes)
    assert again.exit_code == 0 and heads_of("b") == ["fabian"], "weights say it as models do"

    sphere = dualspec(*words, "--init", model, "--runs", "c", "--hrir", "analytic")
    assert (
        sphere.exit_code == 0 and "was trained with the head 'fabian', this run renders with analytic" in sphere.output
    )
    fresh = dualspec(*words, "--runs", "d", *vaes)
    assert fresh.exit_code == 0 and heads_of("d") == ["analytic"], "without a start there is no head to keep"

    for runs, name in (("a", "fabian"), ("c", None)):
        part = f"denoiser={runs}/tiny/dualspec/weights"
        made = dualspec("assemble", f"{runs}-model", "--base", model, "--part", part)
        assert made.exit_code == 0, made.output
        head = read_head(Path(f"{runs}-model"))
        assert (head.name if head is not None else None) == name, "the proof aims at the head of the training clips"


def test_a_head_that_is_not_here_is_asked_for(model: Path) -> None:
    own = json.loads((model / "head.json").read_text())
    own["config"] |= {"name": "mine", "sha256": "0" * 64}
    (model / "head.json").write_text(json.dumps(own))
    result = dualspec("train", "tiny/dualspec", "--data", "sounds", "--init", model, *STEP)
    assert result.exit_code == 0 and "was trained with the head 'mine', this run renders with a computed sphere" in (
        result.output
    )


def test_a_vae_of_the_embedded_model_is_named_default() -> None:
    from dualspec.cli.training import _vae_folders, resolve_recipe

    folders = _vae_folders(
        resolve_recipe("mini/dualspec", []), Path("runs"), ["mel_vae=default", "stft_vae=own/weights"]
    )
    assert folders == {"mel_vae": embedded_bundle() / "mel_vae", "stft_vae": Path("own/weights")}
    assert part_folder("denoiser", "default") == embedded_bundle() / "denoiser"
    assert part_folder("mel_vae", str(embedded_bundle())) == embedded_bundle() / "mel_vae"

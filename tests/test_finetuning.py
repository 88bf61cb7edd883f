"""The commands of docs/finetuning.md, as they stand there, on made-up clips and with fewer steps."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.waveform import read_waveform, write_waveform
from dualspec.cli import app
from dualspec.data.manifest import read_manifest
from dualspec.model_folder import embedded_bundle
from dualspec.training.weights import read_state

PAGE = Path(__file__).resolve().parents[1] / "docs" / "finetuning.md"
SHORTER = {"loop.max_steps=500": "loop.max_steps=2", "loop.batch_size=16": "loop.batch_size=2", "-n 12 ": "-n 1 "}


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def shortened(words: list[str]) -> list[str]:
    """A command of the page, which is one that dualspec takes, with fewer steps."""
    line = shlex.join(words)
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    program, *words = shlex.split(line)
    assert program == "dualspec"
    return [*words, *(("--steps", "1") if words[0] == "generate" else ())]


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips of each of two labels, in the working folder."""
    generator = torch.Generator().manual_seed(0)
    for label in ("church_bell", "coffee_machine/kitchen"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for index in range(3):
            waveform = 0.1 * torch.randn(1, 40_000, generator=generator)
            write_waveform(tmp_path / "sounds" / label / f"{index}.wav", waveform, 22_050)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sounds"


def test_the_page_works_from_top_to_bottom(sounds: Path, page_blocks: Any) -> None:
    assert all(long in PAGE.read_text(encoding="utf-8") for long in SHORTER)
    said = {}
    for _, command in page_blocks("docs/finetuning.md", "sh"):
        words = shortened(command)
        result = dualspec(*words)
        assert result.exit_code == 0, f"{words}: {result.output}"
        said.setdefault(words[0], []).append(result.output)
    assert [len(said[verb]) for verb in ("train", "assemble", "generate", "localize", "evaluate")] == [1, 1, 3, 1, 2]
    assert "rendered with the head 'fabian'" in said["train"][0], "right by default, and the user is told"
    (prepared,) = (sounds.parent / "runs" / "data").iterdir()
    rows = read_manifest(prepared)
    assert {row.labels for row in rows} == {("church bell",), ("coffee machine",)}
    assert {row.split for row in rows} == {"train", "test"}
    before, after = (read_state(folder) for folder in (embedded_bundle() / "denoiser", "runs/mini/dualspec/weights"))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert 0 < max(moved.values()) < 1e-2, "it began where the embedded model ended, and went on"
    for part in ("mel_vae", "stft_vae"):
        own, base = (read_state(folder / part) for folder in (Path("mymodel"), embedded_bundle()))
        assert all(torch.equal(own[name], base[name]) for name in base)
    ears, sample_rate = read_waveform("bell.wav")
    assert ears.shape == (2, 81_920) and sample_rate == 16_000
    heard = json.loads(Path("bell.json").read_text())["direction"]
    assert heard["asked_deg"] == 90.0 and heard["target"]["name"] == "fabian"
    names = [{path.name for path in Path(f"check/{name}").glob("*.wav")} for name in ("before", "after")]
    assert names[0] == names[1] and len(names[0]) == 1


STEP = ("--set", "loop.max_steps=1", "--set", "loop.batch_size=2", "--device", "cpu")


def test_whole_models_and_single_parts_start_a_training(sounds: Path, tiny_model: Path) -> None:
    """The part that the recipe trains is found in the model, its VAEs beside it; the same words go on."""
    for recipe in ("tiny/dualspec", "tiny/stft_vae"):
        words = ("train", recipe, "--init", tiny_model, "--data", sounds, *STEP)
        result = dualspec(*words)
        assert result.exit_code == 0, result.output
    prepared = sorted(Path("runs/data").iterdir())
    assert len(prepared) == 1, "the clips are prepared once"
    again = dualspec("train", "tiny/dualspec", "--init", tiny_model, "--data", sounds, *STEP, "--resume")
    assert again.exit_code == 0 and "resumed at step 1" in again.output
    part = ("train", "tiny/dualspec", "--init", tiny_model / "denoiser", "--runs", "other", "--data", sounds, *STEP)
    alone = dualspec(*part)
    assert alone.exit_code == 66 and "no weights in other/tiny/mel_vae" in alone.output
    vaes = [word for name in ("mel_vae", "stft_vae") for word in ("--vae", f"{name}={tiny_model / name}")]
    assert dualspec(*part, *vaes).exit_code == 0
    wrong = dualspec("train", "tiny/localizer", "--init", tiny_model, "--data", sounds, *STEP)
    assert wrong.exit_code == 2 and "--init must have the part that tiny/localizer trains" in wrong.output


def test_plain_folders_are_for_one_process(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = dualspec("train", "tiny/mel_vae", "--data", sounds, *STEP)
    assert result.exit_code == 2 and "--corpus folder=" in result.output
    assert not Path("runs").exists()


def test_folders_without_clips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for data in ("empty", "none"):
        assert dualspec("train", "tiny/mel_vae", "--data", data, *STEP).exit_code == 66

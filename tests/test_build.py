"""From a prepared corpus to a model in given minutes: packing, stages, stopping, starting from fp16 weights alone."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.waveform import write_waveform
from dualspec.cli import app
from dualspec.data.corpora import CorpusSpec
from dualspec.data.datasets import load_clips
from dualspec.data.manifest import read_manifest
from dualspec.data.prepare import prepare
from dualspec.stages import SHARES, Ledger, Stage, stages_of
from dualspec.training.checkpoint import save_checkpoint
from dualspec.training.loop import Trainer
from dualspec.training.run_lock import run_lock
from dualspec.training.weights import read_notes, read_state

SMALL = ["--set", "loop.max_steps=2", "--set", "loop.batch_size=2", "--device", "cpu"]
STAGES = ("mel_vae", "stft_vae", "sharpen", "vocoder", "denoiser")
SHARES_OF_A_LINEAR_VAE = {"mel_vae": 0.5, "sharpen": 0.0, "vocoder": 3.0, "denoiser": 9.0}


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tones in noise with two labels, prepared as FLAC."""
    source, prepared = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("corpus")
    generator, time_s = torch.Generator().manual_seed(0), torch.arange(24_000) / 16_000
    for index in range(10):
        label = source / ("church bell" if index % 2 else "hum")
        label.mkdir(exist_ok=True)
        tone = 0.3 * torch.sin(2 * torch.pi * (200 + 90 * index) * time_s)
        write_waveform(label / f"{index}.wav", (tone + 0.05 * torch.randn(24_000, generator=generator))[None], 16_000)
    prepare([CorpusSpec(name="folder", root=source)], prepared, workers=1)
    return prepared


@pytest.fixture(scope="module")
def packed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit") / "kit"
    result = dualspec("pack", folder, "--data", corpus, "--seconds", 1, "--shard-mb", 0.01)
    assert result.exit_code == 0, result.output
    return folder


def test_a_packed_corpus_is_the_same_but_for_the_coding(corpus: Path, packed: Path) -> None:
    before, after = read_manifest(corpus), read_manifest(packed)
    facts = ("id", "recording", "labels", "licence", "attribution", "split")
    assert [[getattr(row, name) for name in facts] for row in after] == [
        [getattr(row, name) for name in facts] for row in before
    ]
    assert {row.num_samples for row in after} == {16_000} and {row.duration_s for row in after} == {1.0}
    shards = sorted((packed / "shards").iterdir())
    assert len(shards) > 1 and all(shard.stat().st_size <= 10_000 for shard in shards), "cut where a shard is full"
    clean = load_clips(corpus, "train", num_samples=16_000).float_waveforms(torch.arange(3))
    coded = load_clips(packed, "train", num_samples=16_000).float_waveforms(torch.arange(3))
    spectra = [torch.fft.rfft(clips).abs() for clips in (clean, coded)]
    assert torch.equal(spectra[0].argmax(dim=1), spectra[1].argmax(dim=1)), "the tones are where they were"
    assert 1e-4 < float((clean - coded).pow(2).mean() / clean.pow(2).mean()) < 0.2


def test_packing_twice_gives_the_same_bytes_and_never_half_a_corpus(corpus: Path, packed: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    words = ("pack", again, "--data", corpus, "--seconds", 1, "--shard-mb", 0.01, "--workers", 1)
    assert dualspec(*words).exit_code == 0
    for file in sorted(path for path in packed.rglob("*") if path.is_file()):
        assert file.read_bytes() == (again / file.relative_to(packed)).read_bytes(), file.name
    assert dualspec(*words).exit_code == 2, "a folder that is there stays"
    assert dualspec("pack", again, "--data", tmp_path / "none").exit_code == 2, "which is said before anything is read"
    copy = shutil.copytree(corpus, tmp_path / "damaged")
    shard = next((copy / "shards").glob("*.flac"))
    shard.write_bytes(shard.read_bytes()[:-500])
    assert dualspec("pack", tmp_path / "bad", "--data", copy).exit_code == 65
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("setting", ["--seconds=inf", "--seconds=nan", "--kbps=nan", "--shard-mb=inf"])
def test_numbers_that_are_none_are_refused(setting: str, corpus: Path, tmp_path: Path) -> None:
    assert dualspec("pack", tmp_path / "kit", "--data", corpus, setting).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_changed_byte_of_a_packed_clip_is_found(packed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(packed, tmp_path / "copy")
    row = next(row for row in read_manifest(copy) if row.split == "train")
    data = bytearray((copy / row.shard).read_bytes())
    data[row.offset + 1000] ^= 1
    (copy / row.shard).write_bytes(data)
    with pytest.raises(ValueError, match=row.id):
        load_clips(copy, "train")
    assert load_clips(copy, "train", max_damaged=0.01).damaged == (row.id,)


def test_stages_come_in_order_and_share_the_minutes() -> None:
    stages = stages_of("mini/dualspec", {"mel_vae": 0.0, "sharpen": 1.0})
    assert [(stage.name, stage.part) for stage in stages] == [
        ("mel_vae", "mel_vae"),
        ("stft_vae", "stft_vae"),
        ("sharpen", "mel_vae"),
        ("denoiser", "denoiser"),
    ]
    ahead = [stage for stage in stages if stage.share]
    ledger, given = Ledger(), []
    while ahead:  # each takes a tenth of a minute beside its training: nobody ends late
        given.append(ledger.allot(ahead, 10.0, 0.1))
        ledger = Ledger(used=ledger.used + given[-1] + 0.1, stage=ahead.pop(0).name, given=given[-1], trained=given[-1])
    assert ledger.used == pytest.approx(9.6) and given[0] / given[2] == pytest.approx(3 / 9, rel=0.1)
    stopped = Ledger(used=4.0, stage="denoiser", given=6.0, trained=2.5, max_minutes=10.0)
    assert stopped.allot(stages[-1:], 10.0, 0.0) == 6.0, "what was given is not given again"
    assert stopped.allot(stages[-1:], 5.0, 0.0) == pytest.approx(2.5 + 0.8), "nor what is not there"
    assert stopped.allot(stages[-1:], 20.0, 0.0) == pytest.approx(2.5 + 15.2), "more minutes are more"
    first = Ledger(used=1.0, stage="stft_vae", given=9.6 * 3 / 13, trained=1.0, max_minutes=10.0)
    assert first.allot(stages[1:], 20.0, 0.0) == pytest.approx(19.2 * 3 / 13), "as if they had been given at once"
    linear = {stage.name: stage.share for stage in stages_of("mini/mel_base", {})}
    assert linear == SHARES_OF_A_LINEAR_VAE
    deep = {stage.name: stage.share for stage in stages_of("paper/mel_base", {})}
    assert deep == linear | {"mel_vae": SHARES["mel_vae"], "sharpen": SHARES["sharpen"]}
    assert all(isinstance(stage, Stage) and stage.name in SHARES for stage in stages)


def test_on_a_gpu_the_mini_recipes_take_large_batches_and_compile() -> None:
    from dualspec.cli.training import resolve_recipe

    for stage in stages_of("mini/dualspec", {"vocoder": 1.0}, on_gpu=True):
        loop = resolve_recipe(stage.recipe, stage.settings).loop
        assert loop.compile and loop.batch_size >= 128, "every setting is one of its recipe"
    assert "task.keep_latents=true" not in stages_of("mini/dualspec", {}, on_gpu=True, one_head=False)[-1].settings
    assert stages_of("tiny/dualspec", {}, on_gpu=True)[-1].settings == ()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mini/mel_vae"], "a variant's"),
        (["tiny/dualspec", "--share", "dog=1"], "one of"),
        (["tiny/dualspec", "--share", "mel_vae=many"], "a number"),
        (["tiny/dualspec", "--share", "mel_vae=0"], "--init"),
        (["tiny/stft_base", "--share", "sharpen=5"], "one of"),
        (["tiny/stft_base", "--share", "sharpen=0", "--set", "loop.batch=2"], "batch_size"),
        (["tiny/dualspec", "--max-minutes", "inf"], "finite"),
        (["tiny/dualspec", "--set", "denoiser.loop.batch=2"], "batch_size"),
        (["tiny/dualspec", "--set", "mel_vae.task.vae.log_mean=-5"], "sharpen.task.vae must be that of mel_vae"),
        (["mini/dualspec", "--set", "denoiser.task.variant.denoiser.latent_shape=[3,80,16]"], "for these VAEs"),
    ],
)
def test_what_could_not_be_finished_is_refused_at_once(
    words: list[str], complaint: str, packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = dualspec("build", "--max-minutes", 1, *words, "--data", packed, "--runs", tmp_path, "--device", "cpu")
    assert result.exit_code == 2 and complaint in result.output + capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def built(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    runs = tmp_path_factory.mktemp("runs")
    result = dualspec("build", "tiny/dualspec", "--data", packed, "--max-minutes", 5, "--runs", runs, *SMALL)
    assert result.exit_code == 0, result.output
    return runs, result.output


def test_a_whole_model_comes_out_and_speaks(built: tuple[Path, str], packed: Path, tmp_path: Path) -> None:
    runs, output = built
    model = runs / "tiny" / "dualspec" / "model"
    assert all(f"{name}: 2 steps" in output for name in STAGES)
    mel = read_state(model / "mel_vae")
    sharp, plain = (read_state(runs / place / "tiny/mel_vae/weights") for place in ("sharp", "."))
    assert all(torch.equal(mel[name], sharp[name]) for name in mel), "the sharpened decoder is the model's"
    encoder = [name for name in mel if name.startswith("autoencoder.encoder")]
    assert encoder and all(torch.equal(sharp[name], plain[name]) for name in encoder), "and its latents are the same"
    assert all(file.stat().st_size <= 16e6 for file in model.rglob("*.safetensors"))
    assert len((model / "CREDITS.tsv").read_text().splitlines()) > 1 and "hum" in (model / "events.txt").read_text()
    clip = tmp_path / "hum.wav"
    words = ("generate", "EVENT: Hum & LOCATION: DOA 90", "--model", model, "--steps", 1, "--no-picture", "-o", clip)
    assert dualspec(*words, "--no-proof").exit_code == 0 and clip.stat().st_size > 1000
    again = dualspec("build", "tiny/dualspec", "--data", packed, "--max-minutes", 5, "--runs", runs, *SMALL)
    assert again.exit_code == 0 and "steps" not in again.output, "what is done is not done again"


def test_another_place_goes_on_from_the_half_precision_weights_alone(
    built: tuple[Path, str], packed: Path, tmp_path: Path
) -> None:
    """With a learning rate of zero a warm start gives its weights back to the bit: nothing else went along."""
    model = shutil.copytree(built[0] / "tiny" / "dualspec" / "model", tmp_path / "fetched")
    still = ["task.optimizer.lr=0", "mel_vae.task.discriminator_optimizer.lr=0"]
    words = [
        "build",
        "tiny/dualspec",
        "--data",
        packed,
        "--max-minutes",
        5,
        "--runs",
        tmp_path,
        "--init",
        model,
        *SMALL,
    ]
    words += [word for text in still for word in ("--set", text)] + ["--share", "sharpen=0", "--share", "vocoder=0"]
    assert dualspec(*words).exit_code == 0
    for part in ("mel_vae", "stft_vae", "vocoder", "denoiser"):
        before, after = read_state(model / part), read_state(tmp_path / "tiny/dualspec/model" / part)
        measured = {"latent_scale"}  # by draws, at each export
        assert all(torch.equal(before[name], after[name]) for name in before if name not in measured), part
    assert read_notes(tmp_path / "tiny/dualspec/model/denoiser")["steps"] == 2
    assert not (tmp_path / "tiny" / "vocoder").exists()


def test_a_stop_in_the_denoiser_leaves_a_model_and_the_same_command_goes_on(
    built: tuple[Path, str], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["build", "tiny/dualspec", "--data", packed, "--max-minutes", 5, "--runs", tmp_path, *SMALL]
    words += ["--init", built[0] / "tiny/dualspec/model", "--set", "denoiser.loop.max_steps=3"]
    words[words.index("loop.max_steps=2")] = "mel_vae.loop.max_steps=2"
    words += [word for name in STAGES[:-1] for word in ("--share", f"{name}=0")]
    step = Trainer._step

    def told_to_stop(trainer: Trainer) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", told_to_stop)
        assert dualspec(*words).exit_code == 143
    folder = tmp_path / "tiny" / "dualspec"
    assert read_notes(folder / "model" / "denoiser")["steps"] == 1 and not (folder / "weights").exists()
    ledger = json.loads((folder / "build.json").read_text())["config"]
    assert ledger["stage"] == "denoiser" and 0 < ledger["trained"] <= ledger["used"] < 5
    done = dualspec(*words)
    assert done.exit_code == 0 and "resumed at step 1" in done.output
    assert read_notes(folder / "model" / "denoiser")["steps"] == 3


def build_words(recipe: str, packed: Path, runs: Path, *more: object) -> list[object]:
    return ["build", recipe, "--data", packed, "--max-minutes", 5, "--runs", runs, *SMALL, *more]


@pytest.mark.parametrize("recipe", ["tiny/dualspec", "tiny/mel_base"])
@pytest.mark.parametrize("first_step", [True, False])
def test_a_stop_before_the_denoiser_leaves_no_model_of_new_vaes_and_an_old_denoiser(
    built: tuple[Path, str],
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    first_step: bool,
) -> None:
    """Stopped in the second stage, so that a VAE of its own is there."""
    words = build_words(recipe, packed, tmp_path, "--init", built[0] / "tiny/dualspec/model")
    shutil.copytree(built[0] / "tiny" / "mel_vae", tmp_path / "tiny" / "mel_vae")
    step, should_stop = Trainer._step, Trainer._should_stop

    def told_to_stop(trainer: Trainer) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return (step if first_step else should_stop)(trainer)

    monkeypatch.setattr(Trainer, "_step" if first_step else "_should_stop", told_to_stop)
    result = dualspec(*words)
    assert result.exit_code == 143 and "the same command goes on" in result.output
    assert ("the state is saved" if first_step else "no step was made") in result.output
    assert (tmp_path / recipe / "build.json").is_file() and not (tmp_path / recipe / "model").exists()


def test_a_denoiser_stopped_before_its_first_step_is_no_model(
    built: tuple[Path, str], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = build_words("tiny/dualspec", packed, tmp_path, "--init", built[0] / "tiny/dualspec/model")
    words += [word for name in STAGES[:-1] for word in ("--share", f"{name}=0")]

    def stop(trainer: Trainer) -> bool:
        trainer.state.stop_signal = signal.SIGTERM
        return True

    monkeypatch.setattr(Trainer, "_should_stop", stop)
    result = dualspec(*words)
    assert result.exit_code == 143 and "no step was made" in result.output
    assert not {"snapshot", "model", "checkpoints"} & {path.name for path in (tmp_path / "tiny/dualspec").iterdir()}


@pytest.mark.parametrize("recipe", ["tiny/dualspec", "tiny/mel_base"])
def test_an_old_denoiser_is_kept_on_its_own_vaes_alone(
    recipe: str, built: tuple[Path, str], packed: Path, tmp_path: Path
) -> None:
    model = built[0] / "tiny/dualspec/model"
    words = build_words(recipe, packed, tmp_path, "--init", model, "--share", "denoiser=0")
    result = dualspec(*words)
    assert result.exit_code == 2 and "denoiser" in result.output and not list(tmp_path.iterdir())
    if recipe == "tiny/dualspec":  # a sharpened decoder changes no latents
        kept = [word for name in ("mel_vae", "stft_vae", "vocoder") for word in ("--share", f"{name}=0")]
        assert dualspec(*words, *kept).exit_code == 0
        new, old = (read_state(place / "denoiser") for place in (tmp_path / recipe / "model", model))
        assert all(torch.equal(new[name], old[name]) for name in old)


def test_no_vae_is_trained_anew_below_a_denoiser(built: tuple[Path, str], packed: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(built[0], tmp_path / "runs")
    shutil.rmtree(runs / "tiny" / "stft_vae")
    result = dualspec(*build_words("tiny/dualspec", packed, runs))
    assert result.exit_code == 2 and "stft_vae=0" in result.output and not (runs / "tiny" / "stft_vae").exists()


def test_a_model_stays_as_it_is_until_something_is_new(built: tuple[Path, str], packed: Path, tmp_path: Path) -> None:
    """What a killed call left goes, what it had moved aside comes back, and what it had not put together is."""
    runs = shutil.copytree(built[0], tmp_path / "runs")
    folder, words = runs / "tiny" / "dualspec", build_words("tiny/dualspec", packed, runs)
    (folder / "model" / "README.md").write_text("mine")
    (folder / "model").rename(folder / f".old-dualspec-model-{'0' * 16}")
    (folder / f".tmp-dualspec-{'0' * 16}").mkdir()
    (folder / f".tmp-dualspec-{'0' * 16}" / "half").write_text("")
    with run_lock(folder):
        assert dualspec(*words).exit_code == 73
    done = dualspec(*words)
    assert done.exit_code == 0 and f"{folder / 'model'}: " in done.output
    assert (folder / "model" / "README.md").read_text() == "mine" and not list(folder.glob(".*"))
    ledger = Ledger.read(folder / "build.json")
    assert ledger.assembled
    replace(ledger, assembled=False).write(folder / "build.json")
    assert dualspec(*words).exit_code == 0
    assert (folder / "model" / "README.md").read_text() != "mine" and Ledger.read(folder / "build.json").assembled


class Ended(ValueError):
    """Instead of a training."""


def test_minutes_are_counted_from_the_start_and_written_down_before_a_stage_trains(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus took an hour, then the process was killed with ten minutes in its newest checkpoint."""
    path, clock = tmp_path / "tiny" / "dualspec" / "build.json", time.monotonic
    seen: list[Ledger] = []

    def prepared(data: Path, runs: Path) -> Path:
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)
        return data

    def killed(*_: object, **__: object) -> None:
        seen.append(Ledger.read(path))
        raise Ended

    monkeypatch.setattr(sys.modules["dualspec.cli.prepare"], "ready_corpus", prepared)
    monkeypatch.setattr(sys.modules["dualspec.cli.build"], "run_recipe", killed)
    words = build_words("tiny/dualspec", packed, tmp_path, "--max-minutes", 100)
    dualspec(*words)
    assert seen[0].stage == "mel_vae" and 60 < seen[0].used < 61 and not seen[0].assembled
    assert seen[0].given == pytest.approx((96 - 60) * 2 / 18, rel=0.01)
    monkeypatch.setattr(sys.modules["dualspec.cli.prepare"], "ready_corpus", lambda data, _: data)
    facts = {"elapsed_s": 600.0}
    save_checkpoint(tmp_path / "tiny" / "mel_vae" / "checkpoints", 7, {"a": {"b": torch.zeros(1)}}, facts)
    result = dualspec(*words)
    assert seen[1].trained == 10 and 70 < seen[1].used < 72, "they are used, and the stage's own"
    assert "warning: the minutes are used up, mel_vae" in result.output
    assert "warning" not in dualspec(*words, "--max-minutes", 200).output and seen[2].given > 10
    old = json.loads(path.read_text())
    del old["config"]["max_minutes"], old["config"]["assembled"]
    path.write_text(json.dumps(old))
    assert Ledger.read(path) == replace(seen[2], max_minutes=0.0, assembled=True, used=old["config"]["used"])


def test_a_schedule_set_by_hand_stays(
    built: tuple[Path, str], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, model = shutil.copytree(built[0], tmp_path / "runs"), built[0] / "tiny/dualspec/model"
    shutil.rmtree(runs / "tiny" / "dualspec" / "weights")
    seen: list[Any] = []

    def ended(recipe: Any, *_: object, **__: object) -> None:
        seen.append(recipe.task.variant.schedule.beta_end)
        raise Ended

    monkeypatch.setattr(sys.modules["dualspec.cli.build"], "run_recipe", ended)
    by_hand = ("--set", "denoiser.task.variant.schedule.beta_end=0.02")
    dualspec(*build_words("tiny/dualspec", packed, runs, *by_hand))
    assert seen == [0.02]
    refused = dualspec(*build_words("tiny/dualspec", packed, tmp_path / "new", "--init", model, *by_hand))
    assert refused.exit_code == 2 and "schedule" in refused.output and not (tmp_path / "new").exists()

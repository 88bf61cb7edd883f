"""A clip that fails after indexing is weighed out, counted and named; no other takes its place. (T10)"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualspec.config import override
from dualspec.data.datasets import load_clips
from dualspec.data.manifest import read_manifest
from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import get_recipe
from dualspec.training.loop import Trainer
from dualspec.training.processes import Processes
from dualspec.training.run import build_task
from dualspec.training.weights import read_state, save_weights

SETTINGS = {
    "tiny/mel_vae": ["task.loss.adversarial_start_step=0"],
    "tiny/vocoder": ["task.adversarial_start_fraction=0"],
    "tiny/stft_base": [],
    "tiny/localizer": [],
}


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> tuple[Path, str]:
    """The corpus with other samples in the place of one training clip."""
    shutil.copytree(corpus, tmp_path / "corpus")
    rows = read_manifest(tmp_path / "corpus")
    row = next(row for row in rows if row.split == "train" and row.id.endswith("clip3"))
    samples, rate = soundfile.read(tmp_path / "corpus" / row.shard, dtype="int16")
    samples[row.offset : row.offset + row.num_samples] = np.arange(row.num_samples) % 1000
    soundfile.write(tmp_path / "corpus" / row.shard, samples, rate, subtype="PCM_16")
    return tmp_path / "corpus", row.id


@pytest.mark.parametrize("recipe", SETTINGS)
def test_what_stands_in_a_damaged_clip_changes_nothing(
    damaged: tuple[Path, str], head, tmp_path: Path, recipe: str
) -> None:
    """Its place holds silence, and where loud noise is put there by force, the trained weights are the same bits."""
    folder, name = damaged
    run = override(get_recipe(recipe), [*SETTINGS[recipe], "loop.max_steps=4", "loop.validate_every=0"])
    torch.manual_seed(0)
    vae = get_recipe("tiny/stft_vae").task.vae
    save_weights(tmp_path / "stft_vae", SpectrogramVae(vae), vae)
    states = []
    for content in (0, 20_000):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match=f"1 of 11 training clips are not as prepared .*: {name}; prepare"):
            task = build_task(
                run.task, folder, head, device="cpu", num_bank_samples=run.num_bank_samples,
                vae_folders={"stft_vae": tmp_path / "stft_vae"},
            )  # fmt: skip
        bank = task.source.bank
        place = bank.ids.index(name)
        assert bank.damaged == (name,) and not bank.waveforms[place].any() and len(bank) == 11
        weight = task.source.weights_of(torch.arange(11))["weight"]
        assert weight.tolist() == [float(index != place) for index in range(11)]
        if recipe == "tiny/localizer":  # it weighs silence out by itself
            return
        bank.waveforms[place] = content * torch.randn(bank.waveforms.shape[1]).sign().to(torch.int16)
        loop = replace(run.loop, batch_size=4)
        trainer = Trainer(task, loop, tmp_path / str(content), Processes())
        trainer.run()
        assert trainer.state.step == 4 and trainer.state.bad_steps == 0
        states.append(read_state(trainer.export()))
    assert states[0].keys() == states[1].keys()
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []


def test_more_than_one_in_a_hundred_stops_the_run(damaged: tuple[Path, str]) -> None:
    folder, name = damaged
    with pytest.raises(ValueError, match=f"must hold clip {name} as prepared, got other samples"):
        load_clips(folder, "train")
    assert load_clips(folder, "train", max_damaged=0.01).damaged == (name,)
    row = next(row for row in read_manifest(folder) if row.split == "train" and row.id != name)
    samples, rate = soundfile.read(folder / row.shard, dtype="int16")
    samples[row.offset] ^= 1
    soundfile.write(folder / row.shard, samples, rate, subtype="PCM_16")
    with pytest.raises(ValueError, match="as prepared, got other samples"):
        load_clips(folder, "train", max_damaged=0.01)


def test_a_batch_of_damaged_clips_alone_moves_nothing(damaged: tuple[Path, str], head) -> None:
    folder, name = damaged
    run = get_recipe("tiny/mel_vae")
    with pytest.warns(UserWarning, match="count for nothing"):
        task = build_task(run.task, folder, head, device="cpu", num_bank_samples=20_480, vae_folders={})
    place = task.source.bank.ids.index(name)
    batch = task.source.weights_of(torch.tensor([place, place]))
    assert batch["weight"].tolist() == [0.0, 0.0] and batch["counted"].tolist() == [0, 1]

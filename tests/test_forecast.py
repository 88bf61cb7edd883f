"""What a run will ask for, against what the same phases keep when they run for real."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from typer.testing import CliRunner

from dualspec.accounting import account, recipe_compute
from dualspec.cli import app
from dualspec.config import override
from dualspec.data.datasets import hold_out
from dualspec.data.manifest import ManifestRow, write_manifest
from dualspec.data.selection import Pair, write_pairs
from dualspec.forecast import forecast, phases_of, zero_batch
from dualspec.recipes import ROOMS, get_recipe
from dualspec.training.task import StepRandom


def really_kept(name: str, num_clips: int) -> int:
    """Bytes that autograd saves in a real forward pass, weights left out, each place in memory once."""
    recipe = get_recipe(name)
    (phase, *_) = phases_of(recipe, "cpu").values()
    own = {value.data_ptr() for value in [*phase.parameters(), *phase.buffers()]}
    places: dict[int, tuple[int, torch.Tensor]] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            places[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    with saved_tensors_hooks(note, lambda value: value):
        phase(zero_batch(recipe, num_clips), StepRandom(0, 0, slice(None), num_clips), 0, 0.0)
    return sum(size for size, _ in places.values())


@pytest.mark.parametrize("room", ["stft_base", "localizer"])
def test_activations_are_those_of_a_real_pass(room: str) -> None:
    recipe = override(get_recipe(f"tiny/{room}"), ["loop.precision=fp32"])
    assert forecast(recipe, 1).memory["activations"] == pytest.approx(really_kept(recipe.name, 4), rel=1e-3)


def test_a_denoiser_of_other_latents_than_its_vaes_is_refused() -> None:
    recipe = override(get_recipe("mini/dualspec"), ["task.variant.denoiser.latent_shape=[3,80,16]"])
    with pytest.raises(
        ValueError, match=r"denoiser\.latent_shape must be \(\d+, 80, 16\) for these VAEs, got \(3, 80, 16\)"
    ):
        forecast(recipe, 1)


def test_operations_are_those_of_the_denoiser() -> None:
    """Three forward passes for each of 80 clips; a guided step has two."""
    recipe = override(get_recipe("tiny/stft_base"), ["task.variant.text_encoder.max_tokens=20"])
    assert forecast(recipe, 1).operations * 1e18 == pytest.approx(
        3 * 80 * recipe_compute(recipe).step * 1e9 / 2, rel=1e-6
    )


@pytest.mark.parametrize("room", ROOMS)
def test_every_recipe_can_be_forecast(room: str) -> None:
    recipe = get_recipe(f"tiny/{room}")
    result = forecast(recipe, 2, visits=[str(index) for index in range(40)])
    assert (result.num_parts, result.micro_batch, result.num_samples, result.num_epochs) == (1, 2, 80, 2.0)
    trained = account(recipe).parameters
    total = trained.get("denoiser", sum(trained.values())) + sum(account(recipe).training_only.values())
    assert result.memory["weights"] == result.memory["gradients"] == result.memory["moments"] / 2 == 4 * total
    assert result.memory["clips"] == 2 * 40 * recipe.num_bank_samples
    varied = override(recipe, ["task.render.speeds=[0.9,1.0,1.2]"])
    stored = max(recipe.num_bank_samples, math.ceil(1.2 * recipe.task.render.num_samples))
    visits = [str(index) for index in range(40)]
    assert forecast(varied, 2, visits=visits).memory["clips"] == 2 * 40 * stored * 4, "and copies at three speeds"


def test_parts_and_sharding_save_what_they_should() -> None:
    plain = override(get_recipe("tiny/stft_base"), ["loop.precision=fp32", "loop.ema_decay=0.9"])
    whole, parts = forecast(plain, 2).memory, forecast(override(plain, ["loop.micro_batch=1"]), 2).memory
    assert parts["activations"] == pytest.approx(whole["activations"] / 2, rel=0.05)
    sharded = forecast(override(plain, ["loop.parallel=fsdp2"]), 4).memory
    for name in ("weights", "gradients", "moments", "average"):
        assert sharded[name] == pytest.approx(whole[name] / 4, abs=8)
    assert sharded["gathered blocks"] < 2 * whole["weights"]
    again = forecast(override(plain, ["loop.checkpoint_activations=true"]), 2).memory
    assert again["activations"] < 0.6 * whole["activations"]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, 3, got 4"):
        forecast(get_recipe("tiny/stft_base"), 3)
    with pytest.raises(ValueError, match=r"memory must be at least \d+\.\d GB on each GPU, got 0.001"):
        forecast(get_recipe("tiny/mel_vae"), 1, memory_gb=0.001)


def show(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["show", *map(str, words)])
    return result.exit_code, result.output


def test_show_tells_what_training_asks_for(tmp_path: Path) -> None:
    rows = [
        ManifestRow(
            id=f"folder/{index}",
            corpus="folder",
            recording=f"folder:{index}",
            labels=("dog",),
            licence="CC0",
            attribution="",
            split="train",
            duration_s=1.0,
            num_samples=16_000,
            sha256="0" * 64,
            shard="shard-00000.flac",
            offset=16_000 * index,
        )
        for index in range(40)
    ]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    code, text = show("tiny/mel_vae", "--world-size", 2, "--data", tmp_path, "--memory-gb", 80, "--json")
    training = json.loads(text)["training"]
    assert code == 0 and training["num_epochs"] == pytest.approx(80 / 38)  # two of the forty are held out
    held = {row.id for row in hold_out(rows, 0.05) if row.split == "valid"}
    pairs = [Pair(clip=row.id, azimuth_deg=azimuth) for row in rows[:10] for azimuth in (0.0, 90.0)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    words = ("--data", tmp_path, "--pairs", tmp_path / "pairs.jsonl", "--json")
    training = json.loads(show("tiny/mel_vae", "--world-size", 2, *words)[1])["training"]
    kept = len({row.id for row in rows[:10]} - held)
    assert training["num_epochs"] == 80 / (2 * kept) and training["memory"]["clips"] == 2 * kept * 10_240
    code, text = show("tiny/mel_vae", "--world-size", 2)
    assert code == 0 and "4 clips a step, 1 × 2 on each; 20 steps, 80 clips seen" in text and "gradients" in text
    assert show("tiny/mel_vae", "--world-size", 3)[0] == 2
    assert show("tiny/mel_vae", "--world-size", 1, "--memory-gb", 0.001)[0] == 2
    code, text = show("tiny/mel_vae", "--memory-gb", 80)
    assert code == 2 and "must come with --world-size" in text

"""From files of the published layouts to a training, by the commands of docs/training.md, at tiny size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner, Result

from dualspec.cli import app
from dualspec.importers.kinds import KINDS, layouts
from dualspec.importers.tango import unet_layout
from dualspec.recipes import get_recipe
from dualspec.training.weights import read_config, read_notes, read_state

STEPS = ("--set", "loop.max_steps=2", "--set", "loop.validate_every=2", "--set", "loop.save_every=1", "--device", "cpu")


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> str:
    result = dualspec(*words)
    assert result.exit_code == 0, result.output
    return result.output


def random_file(tensors: dict[str, Any], path: Path) -> Path:
    """Write small random weights under the names of a layout."""
    generator = torch.Generator().manual_seed(0)
    torch.save({name: 0.05 * torch.randn(like.shape, generator=generator) for name, like in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A TANGO folder for the U-Net, AudioLDM's checkpoint for the VAEs and the vocoder."""
    folder = tmp_path_factory.mktemp("published")
    sizes = {"vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    t5 = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    (main,) = unet_layout(get_recipe("tiny/dualspec").task.variant.denoiser, t5).values()
    (folder / "tango2").mkdir()
    random_file(main, folder / "tango2" / "pytorch_model_main.bin")
    scheduler = {"scheduler_name": "stabilityai/stable-diffusion-2-1"}
    (folder / "tango2" / "main_config.json").write_text(json.dumps(scheduler))
    vae = layouts("audioldm-vae", get_recipe("tiny/mono_mel_vae").task.vae)["original checkpoint"]
    vocoder = layouts("audioldm-vocoder", get_recipe("tiny/vocoder").task.vocoder)["original checkpoint"]
    random_file({**vae, **vocoder}, folder / "audioldm.ckpt")
    return folder


def test_a_training_starts_from_published_weights_and_goes_on(published, corpus, tmp_path):
    words = done("import", "tango2", published / "tango2", "-o", tmp_path / "unet", "--recipe", "tiny/dualspec")
    assert "predicts: v_prediction" in words and "CC BY-NC-SA 4.0" in words and "of text_encoder" in words
    for part in ("mel_vae", "stft_vae"):
        done("import", "audioldm-vae", published / "audioldm.ckpt", "-o", tmp_path / part, "--recipe", f"tiny/{part}")
    vaes = [word for part in ("mel_vae", "stft_vae") for word in ("--vae", f"{part}={tmp_path / part}")]
    start = ("train", "tiny/dualspec", "--data", corpus, "--runs", tmp_path / "runs", *vaes, *STEPS)
    words = done(*start, "--init", tmp_path / "unet")
    assert "task.variant.schedule is that of" in words
    weights = tmp_path / "runs" / "tiny" / "dualspec" / "weights"
    assert read_config(weights, {"VariantConfig": type(get_recipe("tiny/dualspec").task.variant)}) == read_config(
        tmp_path / "unet", {"VariantConfig": type(get_recipe("tiny/dualspec").task.variant)}
    )
    notes = read_notes(weights)
    assert notes["steps"] == 2 and notes["imported"]["licence"] == KINDS["tango2"].licence
    assert notes["imported"]["kind"] == "tango2" and set(notes["imported"]["files"]) == {"pytorch_model_main.bin"}
    before, after = read_state(tmp_path / "unet"), read_state(weights)
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert 0 < moved < 1e-2  # two small steps away from the published weights
    done(*(word if word != "loop.max_steps=2" else "loop.max_steps=3" for word in start), "--resume")
    assert read_notes(weights)["steps"] == 3 and "imported" in read_notes(weights)


def test_another_target_by_hand_is_refused(published, corpus, tmp_path):
    done("import", "tango2", published / "tango2", "-o", tmp_path / "unet", "--recipe", "tiny/mel_base")
    done("import", "audioldm-vae", published / "audioldm.ckpt", "-o", tmp_path / "vae", "--recipe", "tiny/mel_vae")
    start = ("train", "tiny/mel_base", "--data", corpus, "--runs", tmp_path / "runs", *STEPS)
    target = ("--set", "task.variant.schedule.prediction_type=epsilon")
    result = dualspec(*start, "--vae", f"mel_vae={tmp_path / 'vae'}", "--init", tmp_path / "unet", *target)
    assert result.exit_code == 65 and "noise schedule and target of the recipe" in result.output


def test_vae_and_vocoder_start_from_audioldm(published, corpus, tmp_path):
    for kind, room in (("audioldm-vae", "mono_mel_vae"), ("audioldm-vocoder", "vocoder")):
        words = done("import", kind, published / "audioldm.ckpt", "-o", tmp_path / room, "--recipe", f"tiny/{room}")
        assert f"dualspec train tiny/{room} --init {tmp_path / room}" in words
        start = ("train", f"tiny/{room}", "--data", corpus, "--runs", tmp_path / "runs", *STEPS)
        done(*start, "--init", tmp_path / room)
    other = ("--set", "task.vocoder.resblock_dilations=[[1,5]]")  # which no tensor tells
    result = dualspec(*start[:4], "--runs", tmp_path / "other", *STEPS, "--init", tmp_path / "vocoder", *other)
    assert result.exit_code == 65 and "same vocoder settings" in result.output


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_listed_for_every_kind():
    lines = done("import", "audioldm-vocoder", "--list-keys").splitlines()
    assert "# original checkpoint: 194 tensors" in lines and "conv_pre.weight\t1024×64×7" in lines
    assert "first_stage_model.vocoder.ups.0.weight\t1024×512×16" in lines
    lines = done("import", "audioldm-vae", "--list-keys", "--recipe", "tiny/stft_vae").splitlines()
    assert "encoder.conv_in.weight\t8×1×3×3" in lines


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("tango2",), 2, "such as declare-lab/tango2 -o"),
        (("tango2", "x", "-o", ".", "--recipe", "tiny/dualspec"), 2, "output must be new"),
        (("tango2", "x", "-o", "new", "--recipe", "tiny/mel_vae"), 2, "must train what tango2 is, a variant"),
        (("tango2", "./x", "-o", "new", "--recipe", "tiny/dualspec"), 66, "no file or folder ./x"),
        (("audioldm-vae", "x", "-o", "new", "--prediction", "epsilon"), 2, "--prediction must come with tango"),
        (("flan-t5", "x", "-o", "new", "--recipe", "tiny/dualspec"), 2, "must not come with flan-t5"),
        (("bark", "x", "-o", "new"), 2, "'bark' is not one of"),
    ],
)
def test_wrong_commands_say_what_is_right(words, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = dualspec("import", *words)
    assert result.exit_code == code and says in " ".join(result.output.split()), result.output
    assert not list(tmp_path.iterdir())

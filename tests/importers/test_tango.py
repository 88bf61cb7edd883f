"""TANGO's U-Net into the paper's, against the modules of diffusers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from dualspec.config import override
from dualspec.diffusion.denoiser import UnetConfig, UnetDenoiser
from dualspec.diffusion.variant import VARIANT_PARTS, VariantConfig
from dualspec.importers import tango
from dualspec.importers.tango import import_unet, noise_correlation, unet_layout
from dualspec.recipes import get_recipe
from dualspec.text.encoder import t5_large_encoder_config
from dualspec.training.weights import load_strictly

SD2 = "stabilityai/stable-diffusion-2-1"
CONFIG = get_recipe("tiny/dualspec").task.variant
# Some tensors of the main file at full size: Stable Diffusion's U-Net with 8 channels, FLAN-T5-large below it.
PUBLISHED = {
    "unet.conv_in.weight": (320, 8, 3, 3),
    "unet.time_embedding.linear_1.weight": (1280, 320),
    "unet.down_blocks.0.attentions.0.proj_in.weight": (320, 320),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "unet.down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "unet.down_blocks.3.resnets.1.conv2.weight": (1280, 1280, 3, 3),
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias": (1280,),
    "unet.up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
    "unet.up_blocks.3.resnets.2.conv_shortcut.weight": (320, 640, 1, 1),
    "unet.conv_norm_out.weight": (320,),
    "unet.conv_out.weight": (8, 320, 3, 3),
    "unet.conv_out.bias": (8,),
    "text_encoder.shared.weight": (32128, 1024),
    "text_encoder.encoder.embed_tokens.weight": (32128, 1024),
    "text_encoder.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 16),
    "text_encoder.encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (2816, 1024),
    "text_encoder.encoder.final_layer_norm.weight": (1024,),
}


def published_parts() -> tuple[Any, Any]:
    """The libraries' own modules at the sizes of the tiny recipe."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(1, 2),
        cross_attention_dim=16,
        use_linear_projection=True,
        norm_num_groups=4,
    )
    sizes = {"vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    return unet.eval(), transformers.T5EncoderModel(config).eval()


def write_tango(folder: Path, scheduler: str = SD2, change: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    parts = dict(zip(("unet", "text_encoder"), published_parts(), strict=True))
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    if change is not None:
        change(state)
    torch.save(state, folder / "pytorch_model_main.bin")
    names = {"text_encoder_name": "google/flan-t5-large", "scheduler_name": scheduler, "unet_model_name": None}
    names |= {"unet_model_config_path": "configs/diffusion_model_config.json", "snr_gamma": 5.0}
    (folder / "main_config.json").write_text(json.dumps(names))
    return folder


@torch.no_grad()
def answers(denoiser: Any, channels: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 8, 16, 8, generator=generator)
    latents = torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, channels - 8), value=0.7)
    states, mask = torch.randn(2, 5, 16, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    if isinstance(denoiser, UnetDenoiser):
        return denoiser(latents, torch.tensor([3, 900]), states, mask)
    return denoiser(latents, torch.tensor([3, 900]), states, encoder_attention_mask=mask).sample


def take(folder: Path, config: VariantConfig = CONFIG, **options: Any) -> tuple[UnetDenoiser, Any]:
    read = import_unet(folder, config, **options)
    assert isinstance(read.config.denoiser, UnetConfig)
    module = UnetDenoiser(read.config.denoiser).eval()
    load_strictly(module, read.tensors, folder)
    return module, read


def test_the_unet_answers_as_the_librarys_own(tmp_path):
    denoiser, read = take(write_tango(tmp_path))
    torch.testing.assert_close(answers(denoiser), answers(published_parts()[0]))
    assert read.config == override(CONFIG, ["schedule.prediction_type=v_prediction"])
    assert not read.changed and set(read.left_out) == {"text_encoder"}
    alone, _ = take(tmp_path / "pytorch_model_main.bin", prediction_type="v_prediction")
    assert torch.equal(answers(alone), answers(denoiser))


def test_more_channels_leave_the_published_eight_as_they_are(tmp_path):
    wide = override(CONFIG, ["pairing.layout=channel", "denoiser.latent_shape=16,8,8"])
    denoiser, read = take(write_tango(tmp_path), wide)
    wider = answers(denoiser, channels=16)
    torch.testing.assert_close(wider[:, :8], answers(published_parts()[0]))
    assert not wider[:, 8:].any()
    assert read.changed["unet.conv_in.weight"] == "8 channels published, 8 start at zero" and len(read.changed) == 3
    with pytest.raises(ValueError, match="8 channels or more, got 4"):
        take(tmp_path, override(CONFIG, ["denoiser.latent_shape=4,8,8"]))


def test_names_and_shapes_at_full_size_are_the_published_ones():
    """4,829,066,707 bytes has the file of TANGO and TANGO 2: 4 for each number and about 450 for each tensor."""
    denoiser = get_recipe("paper/dualspec").task.variant.denoiser
    (tensors,) = unet_layout(denoiser, t5_large_encoder_config()).values()
    assert {name: tuple(tensors[name].shape) for name in PUBLISHED} == PUBLISHED
    assert len(tensors) == 686 + 220
    numbers = sum(like.numel() for like in tensors.values())
    numbers -= tensors["text_encoder.shared.weight"].numel()  # one table under two names, stored once
    assert 0 < 4_829_066_707 - 4 * numbers < 500_000


@pytest.mark.parametrize("variant", VARIANT_PARTS)
@pytest.mark.parametrize("size", ["paper", "paper-text"])
def test_every_variant_of_the_paper_takes_the_published_channels(size, variant):
    denoiser = get_recipe(f"{size}/{variant}").task.variant.denoiser
    reference = get_recipe("paper/dualspec").task.variant.denoiser
    assert denoiser.latent_shape[0] == tango.CHANNELS
    assert replace(denoiser, latent_shape=reference.latent_shape) == reference


# --- what it predicts -------------------------------------------------------------------------------------------------


def test_what_it_predicts_is_told_by_the_scheduler_it_names(tmp_path):
    for name, expected in ((SD2, "v_prediction"), ("stabilityai/stable-diffusion-2-1-base", "epsilon")):
        _, read = take(write_tango(tmp_path, name))
        assert read.config.schedule.prediction_type == read.facts["prediction_type"] == expected
    write_tango(tmp_path, "elsewhere/scheduler")
    with pytest.raises(ValueError, match=r"scheduler_name of .* got 'elsewhere/scheduler'; correct it there"):
        take(tmp_path)
    assert take(tmp_path, prediction_type="epsilon")[1].config.schedule.prediction_type == "epsilon"


def test_a_model_of_noise_gives_the_noise_back(tmp_path, monkeypatch):
    def identity(latents: Any, *_: Any) -> Any:
        return latents

    def constant(latents: Any, *_: Any) -> Any:
        return torch.ones_like(latents)

    assert noise_correlation(identity, 16) == pytest.approx(1.0)
    assert noise_correlation(lambda *words: -identity(*words), 16) == pytest.approx(-1.0)
    assert noise_correlation(constant, 16) == 0.0
    _, read = take(write_tango(tmp_path))
    assert abs(read.facts["noise_correlation"]) < 0.9
    monkeypatch.setattr(tango, "noise_correlation", lambda *_: 0.97)
    with pytest.raises(ValueError, match=r"predict velocity .* follows the noise \(correlation 0\.97\)"):
        take(tmp_path)
    take(tmp_path, prediction_type="v_prediction")  # whoever says so by hand is believed


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("unet.conv_out.bias"), r"1 differences: missing unet\.conv_out\.bias"),
        (lambda s: s.update(extra=torch.ones(1)), r"1 differences: unknown extra"),
        (lambda s: s.update({"group_in.0.weight": torch.ones(4, 8)}), r"unknown group_in\.0\.weight"),
        (lambda s: s.update({"unet.conv_in.weight": torch.ones(8, 4, 3, 3)}), r"is \(8, 4, 3, 3\), not \(8, 8, 3, 3\)"),
        (lambda s: s["unet.conv_in.bias"].fill_(torch.nan), r"NaN or infinity in unet\.conv_in\.bias"),
        (lambda s: s.pop("text_encoder.encoder.final_layer_norm.weight"), r"missing text_encoder\.encoder\.final_"),
        (lambda s: s.pop("text_encoder.shared.weight"), r"must hold text_encoder\.shared\.weight, got none"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("unet.")], r"missing unet\.conv_in\.weight; missing"),
    ],
)
def test_a_wrong_or_partial_file_is_refused_by_name(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        take(write_tango(tmp_path, change=change))


def test_a_missing_file_or_another_denoiser_is_named(tmp_path):
    write_tango(tmp_path)
    with pytest.raises(ValueError, match="denoiser of kind 'unet', got 'dit'"):
        take(tmp_path, get_recipe("mini/dualspec").task.variant)
    (tmp_path / "pytorch_model_main.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*pytorch_model_main\.bin"):
        take(tmp_path)
    (tmp_path / "main_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no main_config\.json in"):
        take(tmp_path)

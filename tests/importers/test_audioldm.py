"""AudioLDM's VAE and vocoder in all their published forms, against the modules of diffusers and transformers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dualspec.config import override
from dualspec.features.mel import MelConfig, mel_filterbank
from dualspec.importers.audioldm import import_vae, import_vocoder, vae_layouts, vocoder_layouts
from dualspec.latents.vae import AutoencoderKlConfig, SpectrogramVae, VaeConfig
from dualspec.recipes import get_recipe, vae_configs
from dualspec.synthesis.vocoder import HifiGan, HifiGanConfig
from dualspec.training.weights import load_strictly

SMALL = AutoencoderKlConfig(
    in_channels=1,
    base_channels=8,
    channel_multipliers=(1, 2, 2),
    layers_per_block=1,
    latent_channels=4,
    norm_groups=4,
)
MONO = VaeConfig(feature="mel_mono", mel=MelConfig(), autoencoder=SMALL)
HIFIGAN = HifiGanConfig(
    initial_channels=32,
    resblock_kernels=(3, 7),
    resblock_dilations=((1, 3, 5), (1, 3, 5)),
)
# The original names of some tensors of each kind, as the conversion script of diffusers reads them, at full size.
ORIGINAL_VAE = {
    "encoder.conv_in.weight": (128, 1, 3, 3),
    "encoder.down.0.block.0.norm1.weight": (128,),
    "encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "encoder.down.2.block.1.conv2.weight": (512, 512, 3, 3),
    "encoder.mid.block_1.conv1.weight": (512, 512, 3, 3),
    "encoder.mid.attn_1.norm.weight": (512,),
    "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "encoder.norm_out.weight": (512,),
    "encoder.conv_out.weight": (16, 512, 3, 3),
    "quant_conv.weight": (16, 16, 1, 1),
    "post_quant_conv.weight": (8, 8, 1, 1),
    "decoder.conv_in.weight": (512, 8, 3, 3),
    "decoder.mid.attn_1.proj_out.bias": (512,),
    "decoder.mid.block_2.norm2.weight": (512,),
    "decoder.up.2.block.2.conv1.weight": (512, 512, 3, 3),
    "decoder.up.2.upsample.conv.weight": (512, 512, 3, 3),
    "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "decoder.conv_out.weight": (1, 128, 3, 3),
}
ORIGINAL_VOCODER = {
    "conv_pre.weight": (1024, 64, 7),
    "ups.0.weight": (1024, 512, 16),
    "ups.4.bias": (32,),
    "resblocks.0.convs1.0.weight": (512, 512, 3),
    "resblocks.14.convs2.2.weight": (32, 32, 11),
    "conv_post.weight": (1, 32, 7),
}


def published_vae(sizes: AutoencoderKlConfig = SMALL) -> Any:
    """The library's own autoencoder of one channel."""
    torch.manual_seed(0)
    levels = len(sizes.channel_multipliers)
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[sizes.base_channels * factor for factor in sizes.channel_multipliers],
        layers_per_block=sizes.layers_per_block,
        latent_channels=sizes.latent_channels,
        norm_num_groups=sizes.norm_groups,
        scaling_factor=0.9,
    ).eval()


def published_vocoder(**changes: Any) -> Any:
    torch.manual_seed(1)
    sizes = {
        "model_in_dim": 64,
        "upsample_initial_channel": 32,
        "upsample_rates": [5, 4, 2, 2, 2],
        "upsample_kernel_sizes": [16, 16, 8, 4, 4],
        "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
        "normalize_before": False,
    }
    module = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**{**sizes, **changes})).eval()
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.ConvTranspose1d)):
            layer.reset_parameters()  # the library starts so small that the output is its bias
    return module


def first_stage() -> dict[str, torch.Tensor]:
    """VAE and vocoder under their original names, as TANGO's file holds them."""
    state = {}
    modern = published_vae().state_dict()
    for original, own in zip(vae_layouts(MONO)["original checkpoint"].items(), modern.values(), strict=True):
        state[original[0].removeprefix("first_stage_model.")] = own.reshape(original[1].shape).clone()
    for name, value in published_vocoder().state_dict().items():
        if name not in ("mean", "scale"):
            state["vocoder." + name.replace("upsampler.", "ups.")] = value
    return state


def write_pipeline(folder: Path) -> Path:
    published_vae().save_pretrained(folder / "vae")
    published_vocoder().save_pretrained(folder / "vocoder")
    return folder


def write_old_pickles(folder: Path) -> Path:
    """As diffusers wrote before 0.18: other names for the attention, and .bin files."""
    write_pipeline(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, name in (("vae", "diffusion_pytorch_model"), ("vocoder", "pytorch_model")):
        (path,) = (folder / part).glob("*.safetensors")
        state = load_file(path)
        for new, before in old.items():
            state = {k.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): v for k, v in state.items()}
        assert part == "vocoder" or any("proj_attn" in key for key in state)
        torch.save(state, folder / part / f"{name}.bin")
        path.unlink()
    return folder


def write_checkpoint(folder: Path) -> Path:
    """The whole AudioLDM: first stage, U-Net, text branch, what its training left."""
    state = {f"first_stage_model.{name}": value for name, value in first_stage().items()}
    state |= {"model.diffusion_model.out.2.bias": torch.ones(2), "cond_stage_model.logit": torch.ones(1)}
    state["scale_factor"] = torch.tensor(0.9)
    torch.save({"state_dict": state, "global_step": 3, "callbacks": {}}, folder / "audioldm-s-full.ckpt")
    return folder / "audioldm-s-full.ckpt"


def write_tango(folder: Path) -> Path:
    torch.save(first_stage(), folder / "pytorch_model_vae.bin")
    (folder / "vae_config.json").write_text(json.dumps({"embed_dim": 4, "ddconfig": {}, "scale_factor": 0.9}))
    stft = {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "n_mel_channels": 64}
    stft |= {"sampling_rate": 16000, "mel_fmin": 0, "mel_fmax": 8000}
    (folder / "stft_config.json").write_text(json.dumps(stft))
    bases = {f"stft_fn.{way}_basis": torch.zeros(1026, 1, 1024) for way in ("forward", "inverse")}
    torch.save({"mel_basis": mel_filterbank(MelConfig()).float(), **bases}, folder / "pytorch_model_stft.bin")
    return folder


def write_parts(folder: Path) -> Path:
    """The VAE as its own training left it: beside the vocoder the parts of its loss."""
    state = first_stage() | {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(2)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "1.4"}, folder / "vae_mel_16k_64bins.ckpt")
    return folder / "vae_mel_16k_64bins.ckpt"


FORMS = [write_pipeline, write_old_pickles, write_checkpoint, write_tango, write_parts]


def take_vae(source: Path, config: VaeConfig = MONO) -> SpectrogramVae:
    read = import_vae(source, config, torch.Generator().manual_seed(0))
    module = SpectrogramVae(read.config).eval()
    load_strictly(module, read.tensors, source)
    return module


@pytest.mark.parametrize("write", FORMS)
@torch.no_grad()
def test_every_form_gives_the_librarys_own_functions(write, tmp_path):
    source, mel = write(tmp_path), torch.randn(2, 1, 16, 64, generator=torch.Generator().manual_seed(2))
    published, own = published_vae(), take_vae(source)
    mean, log_variance = own.encode_moments(mel)
    torch.testing.assert_close(torch.cat((mean, log_variance), 1), published.encode(mel).latent_dist.parameters)
    torch.testing.assert_close(own.decode_channels(mean), published.decode(mean).sample)
    expected = 1.0 if write is write_parts else 0.9
    assert float(own.latent_scale) == pytest.approx(expected) and float(own.latent_shift) == 0

    read = import_vocoder(source, HIFIGAN)
    vocoder = HifiGan(HIFIGAN).eval()
    load_strictly(vocoder, read.tensors, source)
    torch.testing.assert_close(vocoder(mel[:, 0]), published_vocoder()(mel[:, 0]))
    assert float(vocoder(mel[:, 0]).std()) > 1e-3


def test_what_is_not_wanted_is_counted(tmp_path):
    source = write_checkpoint(tmp_path)
    left_out = import_vae(source, MONO, torch.Generator()).left_out
    vocoder = sum("vocoder" in name for name in vocoder_layouts(HIFIGAN)["original checkpoint"])
    assert left_out == {"model": 1, "cond_stage_model": 1, "vocoder": vocoder}
    assert set(import_vae(write_parts(tmp_path), MONO, torch.Generator()).left_out) == {"vocoder", "loss"}


def test_the_vocoders_own_checkpoint_is_read(tmp_path):
    """`hifigan_16k_64bins.ckpt`: a generator with its weights as direction and size, compiled in training."""
    state: dict[str, torch.Tensor] = {}
    for name, value in published_vocoder().state_dict().items():
        name = "_orig_mod." + name.replace("upsampler.", "ups.")
        if name.endswith(".weight"):
            state[name + "_g"] = value.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            state[name + "_v"] = 3.0 * value
        elif name.endswith(".bias"):
            state[name] = value
    torch.save({"generator": state}, tmp_path / "hifigan_16k_64bins.ckpt")
    read = import_vocoder(tmp_path / "hifigan_16k_64bins.ckpt", HIFIGAN)
    for name, value in published_vocoder().state_dict().items():
        torch.testing.assert_close(read.tensors[f"generator.{name}"], value)
    assert list(read.changed) == ["generator.mean, generator.scale"]


# --- two, four and six channels ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_two_equal_ears_are_one_ear(tmp_path):
    """The first layer shares, the last repeats; a normalised mel is undone inside, up to the padded edge."""
    source = write_pipeline(tmp_path)
    both = VaeConfig(feature="mel", mel=MelConfig(), autoencoder=replace(SMALL, in_channels=2))
    mel = torch.randn(2, 1, 16, 64, generator=torch.Generator().manual_seed(3))
    mono, stereo = take_vae(source), take_vae(source, both)
    mean = mono.encode_moments(mel)[0]
    torch.testing.assert_close(stereo.encode_moments(mel.repeat(1, 2, 1, 1))[0], mean, atol=1e-5, rtol=1e-4)
    decoded = mono.decode_channels(mean)
    torch.testing.assert_close(stereo.decode_channels(mean), decoded.repeat(1, 2, 1, 1), atol=1e-5, rtol=1e-4)
    normalised = take_vae(source, replace(both, log_mean=-5.0, log_std=2.0))
    first = mono.autoencoder.encoder.conv_in(mel)
    again = normalised.autoencoder.encoder.conv_in(((mel + 5.0) / 2.0).repeat(1, 2, 1, 1))
    torch.testing.assert_close(again[..., 1:-1, 1:-1], first[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(2.0 * normalised.decode_channels(mean)[:, :1] - 5.0, decoded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("part", "mel_channels", "channels"), [("stft_vae", 0, 4), ("dual_vae", 2, 6)])
def test_stft_channels_start_afresh_and_all_else_is_copied(part, mel_channels, channels, tmp_path):
    source = write_pipeline(tmp_path)
    variant = "stft_base" if part == "stft_vae" else "dualspec_d"
    config = replace(vae_configs(f"paper/{variant}", variant)[part], autoencoder=replace(SMALL, in_channels=channels))
    read = import_vae(source, config, torch.Generator().manual_seed(5))
    again = import_vae(source, config, torch.Generator().manual_seed(5))
    state = published_vae().state_dict()
    first, last = (
        read.tensors["autoencoder.encoder.conv_in.weight"],
        read.tensors["autoencoder.decoder.conv_out.weight"],
    )
    assert first.shape == (8, channels, 3, 3) and last.shape == (channels, 8, 3, 3)
    assert bool((first[:, mel_channels:].std((1, 2, 3)) > 0).all()) and bool((last.flatten(1).std(1) > 0).all())
    if mel_channels:
        torch.testing.assert_close(first[:, :2].sum(1), config.log_std * state["encoder.conv_in.weight"][:, 0])
    assert torch.equal(first, again.tensors["autoencoder.encoder.conv_in.weight"])
    for name, value in state.items():
        if not name.startswith(("encoder.conv_in.", "decoder.conv_out.")):
            assert torch.equal(read.tensors[f"autoencoder.{name}"], value), name
    assert set(read.changed) == {"autoencoder.encoder.conv_in", "autoencoder.decoder.conv_out", "latent_scale"}
    assert f"{channels - mel_channels} STFT channels start afresh" in read.changed["autoencoder.encoder.conv_in"]
    load_strictly(SpectrogramVae(config), read.tensors, source)


# --- the exact layout, at full size -----------------------------------------------------------------------------------


def test_names_and_shapes_at_full_size_are_the_published_ones():
    """204 and 194 tensors, as others counted in `audioldm-m-full.ckpt`; TANGO's file of both has 442,713,669 bytes."""
    vae = vae_layouts(get_recipe("paper/mono_mel_vae").task.vae)
    vocoder = vocoder_layouts(get_recipe("paper/vocoder").task.vocoder)
    numbers = 0
    for layouts, some in ((vae, ORIGINAL_VAE), (vocoder, {f"vocoder.{n}": s for n, s in ORIGINAL_VOCODER.items()})):
        original = layouts["original checkpoint"]
        assert all(name.startswith("first_stage_model.") for name in original)
        shapes = {name.removeprefix("first_stage_model."): tuple(like.shape) for name, like in original.items()}
        assert {name: shapes[name] for name in some} == some
        numbers += sum(like.numel() for like in original.values())
    assert len(vae["original checkpoint"]) == 204 and len(vocoder["original checkpoint"]) == 194
    assert 0 < 442_713_669 - 4 * numbers < 200_000  # 368 bytes of pickle and zip for each tensor
    with torch.device("meta"):
        library = published_vae(get_recipe("paper/mono_mel_vae").task.vae.autoencoder)
    modern = {name: value.shape for name, value in library.state_dict().items()}
    assert {n: like.shape for n, like in vae["vae/diffusion_pytorch_model.safetensors"].items()} == modern


@pytest.mark.parametrize("recipe", ["paper/mono_mel_vae", "paper/stft_vae", "paper/dual_vae", "paper-text/mel_vae"])
def test_the_recipes_that_audioldm_fits(recipe):
    config = get_recipe(recipe).task.vae
    sizes = get_recipe("paper/mono_mel_vae").task.vae.autoencoder
    assert replace(config.autoencoder, in_channels=1) == sizes


# --- refusals ---------------------------------------------------------------------------------------------------------


def damaged(folder: Path, change: Any) -> Path:
    write_tango(folder)
    state = torch.load(folder / "pytorch_model_vae.bin", weights_only=True)
    change(state)
    torch.save(state, folder / "pytorch_model_vae.bin")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("encoder.mid.attn_1.q.bias"), r"1 differences: missing encoder\.mid\.attn_1\.q\.bias"),
        (lambda s: s.update(surplus=torch.ones(1)), r"1 differences: unknown surplus"),
        (lambda s: s.update({"quant_conv.bias": torch.ones(3)}), r"quant_conv\.bias is \(3,\), not \(8,\)"),
        (lambda s: s["decoder.conv_out.bias"].fill_(torch.nan), r"NaN or infinity in decoder\.conv_out\.bias"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("decoder.")], r"missing decoder\.conv_in\.weight; "),
    ],
)
def test_a_wrong_or_partial_file_is_refused_by_name(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        take_vae(damaged(tmp_path, change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("vocoder.conv_post.bias"), r"missing conv_post\.bias"),
        (lambda s: s.update({"vocoder.ups.5.weight": torch.ones(1)}), r"unknown ups\.5\.weight"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("vocoder.")], r"missing mean; missing scale"),
    ],
)
def test_a_wrong_vocoder_is_refused_by_name(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        import_vocoder(damaged(tmp_path, change), HIFIGAN)


def test_another_meaning_is_refused(tmp_path):
    """Settings that tensors do not tell: the mel, the rates, a normalisation, the groups."""
    (tmp_path / "tango").mkdir()
    tango, folder = write_tango(tmp_path / "tango"), write_pipeline(tmp_path / "pipeline")
    with pytest.raises(ValueError, match="mel of the recipe must be AudioLDM's"):
        take_vae(folder, replace(MONO, mel=MelConfig(framing="centered")))
    with pytest.raises(ValueError, match=r"norm_num_groups of .* must be 2, got 4"):
        take_vae(folder, replace(MONO, autoencoder=replace(SMALL, norm_groups=2)))
    mini = get_recipe("mini/mono_mel_vae").task.vae
    with pytest.raises(ValueError, match="autoencoder of kind 'kl2d', got 'frames'"):
        take_vae(folder, mini)
    with pytest.raises(ValueError, match="vocoder of kind 'hifigan', got 'istft_head'"):
        import_vocoder(folder, get_recipe("mini/vocoder").task.vocoder)
    with pytest.raises(ValueError, match=r"upsample_rates of .* must be \[4, 5, 2, 2, 2\], got \[5, 4, 2, 2, 2\]"):
        import_vocoder(folder, override(HIFIGAN, ["upsample_rates=4,5,2,2,2"]))
    shutil.rmtree(folder / "vocoder")
    published_vocoder(normalize_before=True).save_pretrained(folder / "vocoder")
    with pytest.raises(ValueError, match=r"normalize_before of .* must be False, got True"):
        import_vocoder(folder, HIFIGAN)
    text = (tango / "stft_config.json").read_text()
    (tango / "stft_config.json").write_text(text.replace("160", "256"))
    with pytest.raises(ValueError, match=r"hop_length of .*stft_config\.json must be 160, got 256"):
        take_vae(tango)
    (tango / "stft_config.json").write_text(text)
    bases = torch.load(tango / "pytorch_model_stft.bin", weights_only=True)
    bases["mel_basis"] *= 2
    torch.save(bases, tango / "pytorch_model_stft.bin")
    with pytest.raises(ValueError, match=r"mel_basis of .* must be Slaney's bands"):
        take_vae(tango)
    (tango / "pytorch_model_stft.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*pytorch_model_stft\.bin"):
        take_vae(tango)


def test_safetensors_with_nan_are_refused(tmp_path):
    folder = write_pipeline(tmp_path)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["quant_conv.weight"].view(-1)[0] = torch.inf
    save_file(state, path)
    with pytest.raises(ValueError, match=r"NaN or infinity in quant_conv\.weight"):
        take_vae(folder)

"""Published mono systems: folders of their layout with small random weights, against the pipelines of diffusers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.evaluation.baseline_weights import HIFIGAN_RATES, diffusers_part
from dualspec.evaluation.baselines import load_baseline

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NUM_SAMPLES = 10_240  # 64 frames of 160


def tokenizer(kind: str) -> Any:
    """A tokenizer of letters in the class that the published folders name."""
    if kind == "t5":
        pieces = [
            ("<pad>", 0.0),
            ("</s>", 0.0),
            ("<unk>", 0.0),
            ("\u2581", -2.0),
            *((letter, -3.0) for letter in LETTERS),
        ]
        return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=64)
    names = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "\u0120", "<mask>"]
    vocabulary = {name: index for index, name in enumerate(names)}
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def vae(block_channels: tuple[int, ...] = (32, 32, 64), layers: int = 1) -> Any:
    levels = len(block_channels)
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=block_channels,
        layers_per_block=layers,
        scaling_factor=0.9,
    )


def vocoder() -> Any:
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=64,
        upsample_initial_channel=32,
        upsample_rates=list(HIFIGAN_RATES),
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        normalize_before=False,
    )
    return transformers.SpeechT5HifiGan(config)


def scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


CLAP_TEXT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 18,
    "projection_dim": 8,
    "pad_token_id": 1,
}


def write(parts: dict[str, Any], folder: Path) -> Path:
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(0)
    parts = {
        "vae": vae(),
        "vocoder": vocoder(),
        "scheduler": scheduler(),
        "tokenizer": tokenizer("roberta"),
        "text_encoder": transformers.ClapTextModelWithProjection(transformers.ClapTextConfig(**CLAP_TEXT)),
        "unet": diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=(32, 64),
            attention_head_dim=8,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=8,
            class_embeddings_concat=True,
        ),
    }
    return write(parts, tmp_path_factory.mktemp("published") / "audioldm"), parts


def noise_of(seeds: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_audioldm_gives_what_the_pipeline_of_diffusers_gives(audioldm: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = audioldm
    baseline = load_baseline("audioldm", folder)
    texts = ["dog bark", "rain"]
    waveform = baseline(texts, seeds=[3, 4], num_samples=NUM_SAMPLES, num_inference_steps=3)
    assert waveform.shape == (2, NUM_SAMPLES) and waveform.std() > 0
    pipeline = diffusers.AudioLDMPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        texts,
        latents=noise_of([3, 4], (4, 16, 16)),
        num_inference_steps=3,
        guidance_scale=2.5,
        audio_length_in_s=NUM_SAMPLES / 16_000,
        output_type="pt",
    ).audios
    torch.testing.assert_close(waveform, expected[:, :NUM_SAMPLES], atol=1e-4, rtol=0)
    alone = baseline(["rain"], seeds=[4], num_samples=NUM_SAMPLES, num_inference_steps=3)
    torch.testing.assert_close(alone[0], waveform[1], atol=1e-4, rtol=0)
    assert set(baseline.sha256) == {
        f"{part}/{name}"
        for part, name in (
            ("unet", "diffusion_pytorch_model.safetensors"),
            ("vae", "diffusion_pytorch_model.safetensors"),
            ("vocoder", "model.safetensors"),
            ("text_encoder", "model.safetensors"),
        )
    }


T5 = {"vocab_size": 30, "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 4}


def t5() -> Any:
    config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    return transformers.T5EncoderModel(config)


def test_audioldm2_gives_what_the_pipeline_of_diffusers_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    audio = {"spec_size": 64, "patch_size": 4, "depths": [1, 1], "num_attention_heads": [1, 1], "hidden_size": 8}
    audio |= {"num_hidden_layers": 2, "num_mel_bins": 16, "window_size": 4, "patch_embeds_hidden_size": 4}
    clap = transformers.ClapConfig(text_config=dict(CLAP_TEXT), audio_config=audio, projection_dim=8)
    parts = {
        "vae": vae(),
        "vocoder": vocoder(),
        "scheduler": scheduler(),
        "tokenizer": tokenizer("roberta"),
        "tokenizer_2": tokenizer("t5"),
        "text_encoder": transformers.ClapModel(clap).eval(),
        "text_encoder_2": t5().eval(),
        "projection_model": diffusers.AudioLDM2ProjectionModel(8, 32, 16),
        "language_model": transformers.GPT2Model(
            transformers.GPT2Config(
                n_embd=16,
                n_layer=1,
                n_head=2,
                vocab_size=8,
                bos_token_id=0,
                eos_token_id=0,
                n_positions=64,
                max_new_tokens=8,
            )
        ).eval(),
        "unet": diffusers.AudioLDM2UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 16, 32], [None, 16, 32]),
            attention_head_dim=8,
        ),
    }
    folder = write(parts, tmp_path / "audioldm2")
    config = json.loads((folder / "language_model" / "config.json").read_text()) | {"max_new_tokens": 8}
    (folder / "language_model" / "config.json").write_text(json.dumps(config))  # where the published folder has it
    baseline = load_baseline("audioldm2", folder)
    waveform = baseline(["dog bark", "rain"], seeds=[3, 4], num_samples=NUM_SAMPLES, num_inference_steps=2)
    # With this transformers the pipeline fails on the GPT2Model of the published folder, but not on one inside an LM.
    language_model = transformers.GPT2LMHeadModel(parts["language_model"].config).eval()
    language_model.transformer = parts["language_model"]
    features = transformers.ClapFeatureExtractor()
    whole = parts | {"language_model": language_model, "feature_extractor": features}
    pipeline = diffusers.AudioLDM2Pipeline(**whole)
    pipeline.set_progress_bar_config(disable=True)
    for place, (text, seed) in enumerate((("dog bark", 3), ("rain", 4))):
        expected = pipeline(
            text,
            latents=noise_of([seed], (4, 16, 16)),
            num_inference_steps=2,
            guidance_scale=3.5,
            audio_length_in_s=NUM_SAMPLES / 16_000,
            max_new_tokens=8,
            output_type="pt",
        ).audios
        torch.testing.assert_close(waveform[place], expected[0, :NUM_SAMPLES], atol=1e-4, rtol=0)


# --- TANGO ------------------------------------------------------------------------------------------------------------


def latent_diffusion_name(name: str, levels: int) -> str:
    """The name that latent-diffusion gives to a tensor of diffusers' autoencoder."""
    name = re.sub(r"decoder\.up_blocks\.(\d)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
    name = (
        name.replace("down_blocks", "down").replace("samplers.0.", "sample.").replace("conv_shortcut", "nin_shortcut")
    )
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    return re.sub(r"mid_block\.attentions\.0\.to_", "mid.attn_1.", name).replace("resnets", "block")


@pytest.fixture(scope="module")
def tango(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """TANGO's own file names, around modules that the test keeps to compute what must come out."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[1, 1],
        cross_attention_dim=32,
        use_linear_projection=True,
    )
    parts = {
        "unet": unet.eval(),
        "text_encoder": t5().eval(),
        "vae": vae((32, 64, 64), 2).eval(),
        "vocoder": vocoder().eval(),
    }
    folder = tmp_path_factory.mktemp("published") / "tango"
    folder.mkdir()
    main = {f"{part}.{n}": v for part in ("unet", "text_encoder") for n, v in parts[part].state_dict().items()}
    torch.save(main, folder / "pytorch_model_main.bin")
    coder = {}
    for name, value in parts["vae"].state_dict().items():
        is_projection = "attentions" in name and value.ndim == 2
        coder[latent_diffusion_name(name, 3)] = value[..., None, None] if is_projection else value
    for name, value in parts["vocoder"].state_dict().items():
        if name not in ("mean", "scale"):
            coder["vocoder." + name.replace("upsampler.", "ups.")] = value
    torch.save(coder, folder / "pytorch_model_vae.bin")
    torch.save({"mel_basis": torch.zeros(2, 2)}, folder / "pytorch_model_stft.bin")
    sizes = {"double_z": True, "z_channels": 4, "in_channels": 1, "out_ch": 1, "ch": 32, "ch_mult": [1, 2, 2]}
    sizes |= {"num_res_blocks": 2, "attn_resolutions": [], "resolution": 256, "dropout": 0.0}
    (folder / "vae_config.json").write_text(json.dumps({"embed_dim": 4, "ddconfig": sizes, "scale_factor": 0.9}))
    hub = {"text_encoder_name": "google/flan-t5-large", "scheduler_name": "stabilityai/stable-diffusion-2-1"}
    (folder / "main_config.json").write_text(json.dumps(hub | {"unet_model_config_path": "gone.json"}))
    (folder / "stft_config.json").write_text("{}")
    tokenizer("t5").save_pretrained(folder / "tokenizer")
    return folder, parts


def test_tango_denoises_as_by_hand(tango: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = tango
    baseline = load_baseline("tango2", folder)
    waveform = baseline(["dog"], seeds=[5], num_samples=NUM_SAMPLES, num_inference_steps=2)
    steps = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
    )
    steps.set_timesteps(2)
    words = tokenizer("t5")(["dog", ""], padding=True, return_tensors="pt")
    latents = noise_of([5], (4, 256, 16))  # TANGO's own length, whatever is asked for
    later = torch.Generator().manual_seed(5 + 2**62)
    with torch.no_grad():
        states = parts["text_encoder"](**words).last_hidden_state
        for timestep in steps.timesteps:
            guided, free = parts["unet"](
                latents.repeat(2, 1, 1, 1),
                timestep,
                encoder_hidden_states=states,
                encoder_attention_mask=words.attention_mask.bool(),
            ).sample
            latents = steps.step((3.0 * guided - 2.0 * free)[None], timestep, latents, generator=later).prev_sample
        expected = parts["vocoder"](parts["vae"].decode(latents / 0.9).sample[:, 0])
    torch.testing.assert_close(waveform, expected.reshape(1, -1)[:, :NUM_SAMPLES], atol=1e-4, rtol=0)


def test_weights_that_do_not_fit_are_refused_by_name(
    audioldm: tuple[Path, dict[str, Any]], tango: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(audioldm[0], tmp_path / "audioldm"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if name != "decoder.conv_out.bias"}, file)
    with pytest.raises(ValueError, match=r"got 1 differences: missing decoder\.conv_out\.bias"):
        load_baseline("audioldm", folder)
    save_file(state | {"spare": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="unknown spare"):
        load_baseline("audioldm", folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*vae"):
        load_baseline("audioldm", folder)
    other = Path(shutil.copytree(tango[0], tmp_path / "tango"))
    shutil.rmtree(other / "tokenizer")
    with pytest.raises(FileNotFoundError, match=r"copy tokenizer\.json and tokenizer_config\.json of google/flan-t5"):
        load_baseline("tango", other)
    for alone in ("tokenizer.json", "tokenizer_config.json"):  # transformers takes either, and pads or reads nothing
        shutil.rmtree(other / "tokenizer", ignore_errors=True)
        (other / "tokenizer").mkdir()
        shutil.copy(tango[0] / "tokenizer" / alone, other / "tokenizer")
        with pytest.raises(ValueError, match=r"whole tokenizer, got one that cannot .* copy tokenizer\.json and"):
            load_baseline("tango", other)
    main = json.loads((other / "main_config.json").read_text())
    (other / "main_config.json").write_text(json.dumps(main | {"scheduler_name": "someone/else"}))
    with pytest.raises(ValueError, match=r"scheduler_name of .* must be one of .*, got 'someone/else'"):
        load_baseline("tango", other)
    (other / "main_config.json").write_text(json.dumps(main))
    (other / "vae_config.json").write_text("{}")
    with pytest.raises(ValueError, match="must have ddconfig"):
        load_baseline("tango", other)
    with pytest.raises(ValueError, match="baseline must be one of"):
        load_baseline("bark", other)
    with pytest.raises(FileNotFoundError, match="no weights folder"):
        load_baseline("tango", tmp_path / "nowhere")


def test_old_names_of_attention_and_pickled_parts_are_read(tmp_path: Path) -> None:
    """Parts saved by diffusers before 0.18: query, key, value, proj_attn; and .bin files."""
    torch.manual_seed(0)
    own = vae()
    own.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = own.state_dict()
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in state.items()}
    assert any("proj_attn" in key for key in state)
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    loaded = diffusers_part(tmp_path, diffusers.AutoencoderKL, [])
    for name, value in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name

"""The pipeline with random weights of the tiny recipes: what it promises does not depend on training."""

import json

import pytest
import torch

from dualspec.audio.hrir import spherical_head
from dualspec.config import save_json
from dualspec.diffusion.denoiser import build_denoiser
from dualspec.hearing.proof import measure_head
from dualspec.latents.vae import SpectrogramVae
from dualspec.model_folder import load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.recipes import get_recipe, vae_configs
from dualspec.synthesis.vocoder import build_vocoder
from dualspec.text.encoder import build_text_encoder

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"


def build(variant: str = "dualspec") -> DualSpecPipeline:
    torch.manual_seed(0)
    config = get_recipe(f"tiny/{variant}").task.variant
    vaes = {part: SpectrogramVae(vae).eval() for part, vae in vae_configs(f"tiny/{variant}", variant).items()}
    vocoder = build_vocoder(get_recipe("tiny/vocoder").task.vocoder).eval()
    return DualSpecPipeline(
        config, build_denoiser(config.denoiser), vaes, vocoder, build_text_encoder(config.text_encoder)
    )


@pytest.fixture(scope="module")
def pipeline() -> DualSpecPipeline:
    return build()


def test_same_seed_same_sound_other_seed_other_sound(pipeline):
    first, again, other = (pipeline(PROMPT, seed=seed).audios for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_result_does_not_depend_on_batch_mates(pipeline):
    """G2: prompts of different length share a batch."""
    prompts = [PROMPT, "EVENT: Rain & LOCATION: DOA 0"]
    together = pipeline(prompts, seed=[3, 4]).audios
    for index, prompt in enumerate(prompts):
        alone = pipeline(prompt, seed=3 + index).audios[0]
        assert (together[index] - alone).abs().max() < 1e-3 * alone.abs().max() + 1e-5
    assert torch.allclose(pipeline(prompts, seed=[3, 4], batch_size=1).audios, together, atol=1e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp", "unipc"])
def test_every_sampler_gives_sound(pipeline, sampler):
    output = pipeline(PROMPT, sampler=sampler, num_inference_steps=3)
    assert torch.isfinite(output.audios).all()
    assert output.audios.shape == (1, 2, pipeline.config.num_samples)


def test_words_change_the_latents_and_guidance_one_ignores_the_negative_prompt(pipeline):
    def latents(**options):
        seen = []
        pipeline(PROMPT, callback_on_step_end=lambda pipe, index, t, now: seen.append(now["latents"]), **options)
        return seen[-1]

    plain = latents(guidance_scale=1.0)
    assert torch.equal(plain, latents(guidance_scale=1.0, negative_prompt="noise"))
    assert not torch.equal(latents(guidance_scale=3.0), latents(guidance_scale=3.0, negative_prompt="noise"))


def test_shorter_clips_are_the_beginning_with_a_fade(pipeline):
    whole, short = pipeline(PROMPT).audios, pipeline(PROMPT, audio_length_in_s=0.3).audios
    assert short.shape[-1] == 4_800
    assert torch.equal(short[..., :4_600], whole[..., :4_600])
    assert short[..., -1].abs().max() == 0


def test_loud_clips_are_turned_down_by_one_gain_for_both_ears(pipeline, monkeypatch):
    loud = torch.stack([torch.full((10_240,), 4.0), torch.full((10_240,), -1.0)])[None]
    monkeypatch.setattr(pipeline, "decode_latents", lambda latents: loud)
    output = pipeline(PROMPT)
    assert output.audios.abs().max() == 1.0
    assert torch.allclose(output.audios[0, 0] / output.audios[0, 1], torch.tensor(-4.0))
    assert output.gains_db == pytest.approx([-12.0412], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_length_in_s": 6.0}, "lay several clips end to end"),
        ({"audio_length_in_s": 0.0}, "audio_length_in_s must be"),
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000"),
        ({"guidance_scale": 30.0}, "guidance_scale must be 0 to 20"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"seed": -1}, "seed must be a whole number, 0 to"),
        ({"seed": [1, 2]}, "one per clip"),
        ({"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt must be"),
    ],
)
def test_arguments_out_of_range_are_refused(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(PROMPT, **options)


def test_empty_prompts_are_refused(pipeline):
    for prompt in ("", "  ", [], ["EVENT: Rain", ""]):
        with pytest.raises(ValueError, match="prompt must be words"):
            pipeline(prompt)


def test_saved_layout_is_frozen(pipeline, tmp_path):
    """What other machines rely on: folder names, index keys, config types."""
    pipeline.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "denoiser", "mel_vae", "model_index.json", "stft_vae", "vocoder",
    ]  # fmt: skip
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index == {
        "_class_name": "DualSpecPipeline", "format_version": 1, "variant": "dualspec",
        "parts": ["denoiser", "mel_vae", "stft_vae", "vocoder"],
    }  # fmt: skip
    types = {path.parent.name: json.loads(path.read_text())["type"] for path in tmp_path.glob("*/config.json")}
    assert types == {
        "denoiser": "VariantConfig",
        "mel_vae": "VaeConfig",
        "stft_vae": "VaeConfig",
        "vocoder": "HifiGanConfig",
    }
    assert torch.equal(DualSpecPipeline.from_pretrained(tmp_path)(PROMPT).audios, pipeline(PROMPT).audios)


def test_the_target_head_survives_saving_and_loading(pipeline, tmp_path):
    """The copy of a model proves directions as the model does: against the same head, with the same numbers."""
    head = measure_head(spherical_head(head_radius_m=0.1), sha256="f" * 64)
    pipeline.save_pretrained(tmp_path / "first")
    save_json(head, tmp_path / "first" / "head.json")
    DualSpecPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "copy")
    proofs = [load_judge(tmp_path / name, localizer="paper") for name in ("first", "copy")]
    assert [proof.target for proof in proofs] == [head, head]
    clip = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    assert proofs[0].hear(clip, 16_000, 30.0) == proofs[1].hear(clip, 16_000, 30.0)
    pipeline.save_pretrained(tmp_path / "copy")  # a model without a head leaves none of another's behind
    assert not (tmp_path / "copy" / "head.json").exists()


def test_damaged_folders_are_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    text = index.read_text()
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
        DualSpecPipeline.from_pretrained(tmp_path / "nowhere")
    index.write_text(text.replace('"mel_vae",', ""))
    with pytest.raises(ValueError, match="got none called mel_vae"):
        DualSpecPipeline.from_pretrained(tmp_path)
    index.write_text(text.replace("DualSpecPipeline", "OtherPipeline"))
    with pytest.raises(ValueError, match="another format"):
        DualSpecPipeline.from_pretrained(tmp_path)
    index.write_text(text)
    (tmp_path / "stft_vae" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="it is damaged"):
        DualSpecPipeline.from_pretrained(tmp_path)


def test_wrong_text_encoder_is_refused(pipeline):
    from dualspec.text.encoder import TextEncoderConfig

    narrow = build_text_encoder(TextEncoderConfig(kind="hash", width=8))
    with pytest.raises(ValueError, match="must be 16 wide, got 8"):
        DualSpecPipeline(pipeline.config, pipeline.denoiser, pipeline.vaes, pipeline.vocoder, narrow)


def test_the_labels_survive_saving_and_loading(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "first")
    assert not (tmp_path / "first" / "events.txt").exists()
    (tmp_path / "first" / "events.txt").write_text("dog\nchurch bells\n")
    DualSpecPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "copy")
    assert DualSpecPipeline.from_pretrained(tmp_path / "copy").events == ["dog", "church bells"]

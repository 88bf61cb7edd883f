"""What a user of diffusers expects: the argument names of its audio pipelines, the output class, folders and hubs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AudioPipelineOutput

from dualspec.cli.models import credits_of
from dualspec.model_folder import HUB_FILES, assemble
from dualspec.pipeline import DualSpecPipeline

REPOSITORY = Path(__file__).resolve().parents[1]
PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
OTHER = "EVENT: Rain & LOCATION: DOA 90"
DPM = {"num_inference_steps": 2, "sampler": "dpmpp"}


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained(tiny_model)


def test_every_argument_of_the_living_audio_pipelines_is_ours_or_in_the_table() -> None:
    from diffusers import AudioLDM2Pipeline, StableAudioPipeline

    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    ours = set(inspect.signature(DualSpecPipeline.__call__).parameters)
    for theirs in (AudioLDM2Pipeline, StableAudioPipeline):
        other = set(inspect.signature(theirs.__call__).parameters) - ours
        assert not [name for name in other if f"`{name}`" not in page], f"{theirs.__name__}: not in docs/python.md"
    table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert ours - {"self"} <= named


def test_output_is_that_of_diffusers(pipeline: DualSpecPipeline) -> None:
    output = pipeline(PROMPT, seed=1, **DPM)
    assert isinstance(output, AudioPipelineOutput)
    assert output[0] is output.audios is output.to_tuple()[0] and output.seeds == [1] and output.prompts == [PROMPT]
    (alone,) = pipeline(PROMPT, seed=1, return_dict=False, **DPM)
    array = pipeline(PROMPT, seed=1, output_type="np", **DPM).audios
    assert isinstance(array, np.ndarray) and np.array_equal(array, alone.numpy()) and torch.equal(alone, output.audios)
    latents = pipeline(PROMPT, seed=1, output_type="latent", **DPM).audios
    assert torch.equal(pipeline.decode_latents(latents), output.audios)


def test_noise_may_come_from_a_seed_a_generator_or_the_caller(pipeline: DualSpecPipeline) -> None:
    by_seed = pipeline([PROMPT, OTHER], seed=[5, 6], **DPM).audios
    each = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    drawn = pipeline([PROMPT, OTHER], generator=each, **DPM)
    assert torch.equal(drawn.audios, by_seed) and drawn.seeds == []
    noise = [torch.randn(pipeline.pairing.packed_shape, generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    assert torch.equal(pipeline([PROMPT, OTHER], latents=torch.stack(noise), **DPM).audios, by_seed)
    one = torch.Generator().manual_seed(5)
    first, second = pipeline(PROMPT, num_waveforms_per_prompt=2, generator=one, **DPM).audios
    assert torch.allclose(first, by_seed[0], atol=1e-4) and not torch.allclose(first, second, atol=1e-2)


def test_ancestral_steps_draw_from_the_generator_too(pipeline: DualSpecPipeline) -> None:
    def made(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        latents = torch.zeros(1, *pipeline.pairing.packed_shape)
        return pipeline(PROMPT, generator=generator, latents=latents, sampler="ddpm", num_inference_steps=3).audios

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))


def test_states_stand_for_words(pipeline: DualSpecPipeline) -> None:
    words = pipeline([PROMPT, OTHER], negative_prompt="noise", seed=1, **DPM)
    states, mask = pipeline.encode_prompt([PROMPT, OTHER])
    away, away_mask = pipeline.encode_prompt("noise")
    given = pipeline(
        prompt_embeds=states,
        attention_mask=mask,
        negative_prompt_embeds=away,
        negative_attention_mask=away_mask,
        seed=1,
        **DPM,
    )
    assert torch.allclose(given.audios, words.audios, atol=1e-5) and given.prompts == []
    short, _ = pipeline.encode_prompt(PROMPT)  # one text is not padded: no mask is needed
    alone = pipeline(prompt_embeds=short, negative_prompt="noise", num_waveforms_per_prompt=2, seed=1, **DPM).audios
    assert len(alone) == 2 and torch.allclose(alone[0], words.audios[0], atol=1e-3)


def test_each_prompt_may_have_its_negative(pipeline: DualSpecPipeline) -> None:
    both = pipeline([PROMPT, OTHER], negative_prompt=["noise", "music"], seed=1, num_waveforms_per_prompt=2, **DPM)
    for index, (prompt, negative) in enumerate([(PROMPT, "noise"), (OTHER, "music")]):
        alone = pipeline(prompt, negative_prompt=negative, seed=2, **DPM).audios[0]
        assert torch.allclose(both.audios[2 * index + 1], alone, atol=1e-3)
    assert not torch.allclose(both.audios[0], pipeline(PROMPT, negative_prompt="music", seed=1, **DPM).audios[0])


def test_callbacks_see_every_step_change_it_and_may_stop(pipeline: DualSpecPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def note(pipe, index, timestep, now):
        assert pipe is pipeline and set(now) == {"latents"}
        seen.append((index, int(timestep)))
        return {"latents": torch.zeros_like(now["latents"])} if index == 2 else now

    options = {"num_inference_steps": 3, "sampler": "ddim", "callback_on_step_end": note}
    latents = pipeline(PROMPT, output_type="latent", **options).audios
    assert [index for index, _ in seen] == [0, 1, 2] and seen[0][1] > seen[1][1] > seen[2][1]
    assert not latents.any()
    told: list[dict[str, torch.Tensor]] = []
    options |= {"callback_on_step_end": lambda pipe, index, timestep, now: told.append(now)}
    pipeline(PROMPT, callback_on_step_end_tensor_inputs=[], **options)
    assert told == [{}, {}, {}]

    def stop(pipe, index, timestep, now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(PROMPT, callback_on_step_end=stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prompt must be given as words or as prompt_embeds, got neither"),
        ({"prompt": PROMPT, "prompt_embeds": torch.zeros(1, 3, 16)}, "got both"),
        ({"prompt_embeds": torch.zeros(1, 3, 8)}, r"must be \(prompts, tokens, 16\)"),
        ({"prompt_embeds": torch.zeros(1, 3, 16), "attention_mask": torch.ones(1, 4)}, "with a mask"),
        ({"prompt": PROMPT, "attention_mask": torch.ones(1, 4)}, "must come with prompt_embeds"),
        ({"prompt": PROMPT, "negative_prompt": ["a", "b"]}, "one or one per prompt"),
        ({"prompt": PROMPT, "output_type": "pil"}, "output_type must be one of pt, np, latent"),
        ({"prompt": PROMPT, "output_type": "latent", "audio_length_in_s": 0.3}, "left out of latents"),
        ({"prompt": PROMPT, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, r"must be \['latents'\]"),
        ({"prompt": PROMPT, "latents": torch.zeros(1, 2, 3)}, "latents must have the shape"),
        ({"prompt": PROMPT, "generator": [torch.Generator()] * 2}, "one or one per clip"),
        ({"prompt": PROMPT, "generator": torch.Generator(), "seed": 0}, "left out beside a generator"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: DualSpecPipeline, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(**options)


def test_a_saved_model_needs_nothing_of_where_it_was_made(
    pipeline: DualSpecPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_pretrained(tmp_path / "here" / "bells")
    (tmp_path / "here").rename(tmp_path / "there")
    assert str(tmp_path) not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    monkeypatch.chdir(tmp_path / "there")
    moved = DualSpecPipeline.from_pretrained("bells")
    assert torch.equal(moved(PROMPT, seed=3, **DPM).audios, pipeline(PROMPT, seed=3, **DPM).audios)


def test_every_saved_model_has_a_card_and_copies_keep_theirs(tiny_model: Path, tmp_path: Path) -> None:
    card = (tiny_model / "README.md").read_text(encoding="utf-8")
    head = card.split("---")[1]
    assert all(f"{key}:" in head for key in ("library_name", "pipeline_tag", "tags")) and "license" not in head
    assert "The text encoder, `hash`, is not in this folder." in card
    assert "| `mel_vae` |" in card and "variant `dualspec`" in card and 'from_pretrained("tiny")' in card
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)
    pipeline.documents = {"README.md": "# Bells\n", "CREDITS.tsv": "id\tlicence\tattribution\n1\tCC0\tsomebody\n"}
    pipeline.save_pretrained(tmp_path / "own")
    DualSpecPipeline.from_pretrained(tmp_path / "own").save_pretrained(tmp_path / "copy")
    for name, text in pipeline.documents.items():
        assert (tmp_path / "copy" / name).read_text(encoding="utf-8") == text
    parts = {name: tmp_path / "own" / name for name in ("denoiser", "mel_vae", "stft_vae", "vocoder")}
    assemble(tmp_path / "new", parts, credits=credits_of(tmp_path / "own", None))
    assert "# new\n" in (tmp_path / "new" / "README.md").read_text(), "parts put together anew are another model"
    assert (tmp_path / "new" / "CREDITS.tsv").read_text() == pipeline.documents["CREDITS.tsv"]
    assert credits_of(tiny_model, None) is None


def test_names_on_a_hub_are_fetched(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(name: str, **options: object) -> str:
        asked.append((name, options))
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    DualSpecPipeline.from_pretrained("somebody/bells", revision="v1")
    assert asked == [("somebody/bells", {"allow_patterns": HUB_FILES, "revision": "v1", "local_files_only": False})]
    assert {Path(name).suffix for name in HUB_FILES} == {".json", ".safetensors", ".txt", ".md", ".tsv"}
    for folder in ("./somebody/bells", "a/b/c", "bells", tmp_path / "bells"):
        with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
            DualSpecPipeline.from_pretrained(folder)
    assert len(asked) == 1, "only OWNER/NAME is looked for elsewhere"


def test_without_a_network_a_name_ends_in_one_line() -> None:
    for name in ("somebody/no-such-model", "somebody/-bad--name"):
        with pytest.raises(FileNotFoundError, match=f"no model {name}: there is no such folder, and the hub gave") as e:
            DualSpecPipeline.from_pretrained(name)
        assert "\n" not in str(e.value)

"""What a program around a pipeline call may have set or passed: the same sound, or one line that says what is wrong."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from dualspec.model_folder import load_judge
from dualspec.pipeline import DualSpecPipeline

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
STEPS: dict[str, Any] = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained(tiny_model)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "the meta device by default": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_the_program_around_has_set_changes_no_bit(
    pipeline: DualSpecPipeline, tiny_model: Path, name: str
) -> None:
    """Loaded, called and judged inside: the same waveform, and the program's settings stand again behind it."""
    expected = pipeline(PROMPT, seed=4, **STEPS).audios
    heard = load_judge(tiny_model).hear(expected[0], 16_000, 270.0)
    with ExitStack() as stack:
        stack.enter_context(SURROUNDINGS[name]())
        before = torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_default_device()
        loaded = DualSpecPipeline.from_pretrained(tiny_model)
        states, mask = loaded.encode_prompt(PROMPT)
        made = [
            pipeline(PROMPT, seed=4, **STEPS).audios,
            loaded(PROMPT, seed=4, **STEPS).audios,
            loaded(prompt_embeds=states, attention_mask=mask, seed=4, **STEPS).audios,
        ]
        assert load_judge(tiny_model).hear(made[0][0], 16_000, 270.0) == heard
        assert before == (torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_default_device())
    assert all(audios.dtype == torch.float32 and torch.equal(audios, expected) for audios in made)


def test_numbers_of_numpy_are_numbers(pipeline: DualSpecPipeline) -> None:
    expected = pipeline(PROMPT, seed=4, **STEPS).audios
    for seed in (np.int64(4), np.uint8(4), np.array([4]), (4,), torch.tensor([4])):
        output = pipeline(PROMPT, seed=seed, num_inference_steps=np.int32(2), guidance_scale=np.float32(3.0))
        assert output.seeds == [4] and type(output.seeds[0]) is int and torch.equal(output.audios, expected)
    two = pipeline((PROMPT, PROMPT), num_waveforms_per_prompt=np.int64(2), seed=np.int64(4), **STEPS)
    assert two.seeds == [4, 5, 4, 5]
    assert pipeline(PROMPT, audio_length_in_s=np.float64(0.25), **STEPS).audios.shape[-1] == 4_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": [PROMPT, None]}, "prompt must be texts, got None at place 1"),
        ({"prompt": np.array([PROMPT, PROMPT])}, "prompt must be a text or a list of texts, got ndarray"),
        ({"prompt": b"dog"}, "prompt must be a text or a list of texts, got bytes"),
        ({"prompt": 7}, "prompt must be a text or a list of texts, got int"),
        ({"prompt": {"event": "dog"}}, "prompt must be a text or a list of texts, got dict"),
        ({"negative_prompt": [None]}, "negative_prompt must be texts, got None at place 0"),
        ({"audio_length_in_s": "3"}, "audio_length_in_s must be a number of seconds, got '3'"),
        ({"audio_length_in_s": True}, "audio_length_in_s must be a number of seconds, got True"),
        ({"audio_length_in_s": float("nan")}, "audio_length_in_s must be 0.1 to"),
        ({"seed": "4"}, "seed must be a whole number, 0 to 2.62 - 1, got '4'"),
        ({"seed": 1.5}, "seed must be a whole number, 0 to 2.62 - 1, got 1.5"),
        ({"seed": True}, "seed must be a whole number, 0 to 2.62 - 1, got True"),
        ({"seed": np.array([1.0])}, "seed must be a whole number, 0 to 2.62 - 1, got 1.0"),
        ({"seed": [None]}, "seed must be a whole number, 0 to 2.62 - 1, got None"),
        ({"seed": np.array([1, 2])}, r"seed must be one number or one per clip \(1\), got 2"),
        ({"seed": 2**62 - 1, "num_waveforms_per_prompt": 2}, "begin lower"),
        ({"num_inference_steps": "4"}, "num_inference_steps must be a whole number, got '4'"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number, got 2.5"),
        ({"guidance_scale": "3"}, "guidance_scale must be a number, got '3'"),
        ({"num_waveforms_per_prompt": 1.5}, "num_waveforms_per_prompt must be a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1, got '8'"),
        ({"generator": 5}, "generator must be a torch.Generator or a list of them"),
        ({"latents": np.zeros((1, 1))}, "latents must be a tensor, got ndarray"),
        ({"prompt": None, "prompt_embeds": np.zeros((1, 2, 3))}, "prompt_embeds and their mask must be tensors"),
        ({"output_type": ["pt"]}, "output_type must be one of pt, np, latent"),
        ({"location_words": "mine"}, "location_words must be known or typed"),
    ],
)
def test_what_is_no_such_thing_is_refused_in_our_own_words(
    pipeline: DualSpecPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(**{"prompt": PROMPT, **STEPS, **options})


@pytest.mark.parametrize("output_type", ["pt", "np", "latent"])
def test_what_is_not_finite_is_refused_in_every_form(pipeline: DualSpecPipeline, output_type: Any) -> None:
    def spoil(_: Any, index: int, timestep: Any, now: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": now["latents"] * float("nan")}

    with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
        pipeline(PROMPT, output_type=output_type, callback_on_step_end=spoil, **STEPS)


def test_return_dict_says_the_type_of_the_answer(pipeline: DualSpecPipeline) -> None:
    """A type checker learns it from the overloads, and they allow every option that the call has."""
    from dualspec.pipeline_call import CallOptions

    found = {}
    for overload in typing.get_overloads(DualSpecPipeline.__call__):
        hints = overload.__annotations__
        found[hints["return_dict"]] = hints["return"]
    assert found == {Literal[True]: "BinauralOutput", Literal[False]: tuple[torch.Tensor]}
    import inspect

    parameters = inspect.signature(DualSpecPipeline.__call__).parameters
    assert set(CallOptions.__annotations__) == set(parameters) - {"self", "prompt", "return_dict"}
    assert type(pipeline(PROMPT, **STEPS)).__name__ == "BinauralOutput"
    (audios,) = pipeline(PROMPT, return_dict=False, **STEPS)
    assert audios.shape[:2] == (1, 2)

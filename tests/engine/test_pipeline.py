"""The engine without torch against the torch pipeline: piece by piece, then whole clips, then the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")

from dualspec.audio.waveform import read_waveform
from dualspec.bundle import embedded_bundle, localizer_folder
from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplingConfig, make_scheduler
from dualspec.engine.ears import interaural_cues as cues_of_one
from dualspec.engine.ears import load_onnx_judge
from dualspec.engine.noise import normal_noise
from dualspec.engine.pipeline import OnnxPipeline, obstacle
from dualspec.engine.session import GRAPHS_NAME, Graphs, graphs_folder
from dualspec.engine.solver import denoise
from dualspec.engine.spectra import Framing, griffin_lim, unit_phase
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.hearing.cues import interaural_cues
from dualspec.model_folder import load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.synthesis import griffin_lim as torch_griffin_lim
from dualspec.training.weights import read_state
from dualspec.training.weights_folder import read_document

PROMPTS = ["EVENT: Dog bark & LOCATION: 3 o'clock direction", "a cat meows behind me to the left"]
FRAMING, CONFIG = Framing(n_fft=512, hop_length=256), StftConfig()


@pytest.fixture(scope="module")
def pipeline() -> OnnxPipeline:
    return OnnxPipeline(num_threads=1)


@pytest.fixture(scope="module")
def reference() -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained()


def ears(seed: int, num_samples: int = 20_480) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mono = torch.randn(num_samples, generator=generator)
    noise = 0.2 * torch.randn(2, num_samples, generator=generator)
    return 0.1 * (torch.stack([mono, 0.6 * mono.roll(7)]) + noise)


# --- the pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**61])
def test_noise_is_that_of_torch(seed: int) -> None:
    drawn = torch.randn(16, 80, 16, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(normal_noise((16, 80, 16), seed), drawn, atol=1e-6)


def test_noise_of_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16 numbers, got 15"):
        normal_noise((3, 5), 0)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 12, 25, 50])
@pytest.mark.parametrize("target", ["v_prediction", "epsilon"])
def test_solver_is_that_of_diffusers(num_steps: int, target: Any) -> None:
    schedule = NoiseScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    object.__setattr__(schedule, "prediction_type", target)
    scheduler = make_scheduler("dpmpp", schedule)
    scheduler.set_timesteps(num_steps)
    noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))

    def predict(latents: Any, timestep: int) -> Any:
        return 0.3 * latents + 0.1 * (latents - 1.0) ** 2 / (1.0 + latents**2) + timestep / 3000

    latents, seen = noise, []
    for timestep in scheduler.timesteps:
        latents = scheduler.step(predict(latents, int(timestep)), timestep, latents, return_dict=False)[0]
    own = denoise(
        lambda x, t, _: seen.append(t) or predict(x, t),
        noise.numpy(),
        schedule,
        SamplingConfig(num_inference_steps=num_steps),
    )
    assert seen == scheduler.timesteps.tolist()
    np.testing.assert_allclose(own, latents.numpy(), atol=1e-4, rtol=1e-4)


def test_guidance_acts_where_it_does_in_torch(pipeline: OnnxPipeline) -> None:
    seen: list[bool] = []
    sampling = SamplingConfig(num_inference_steps=10, guidance_interval=(0.2, 0.5))
    denoise(lambda x, t, guided: seen.append(guided) or x, np.ones((1, 1, 1, 1)), pipeline._schedule, sampling)
    assert seen == [False] * 2 + [True] * 3 + [False] * 5


def test_spectra_are_those_of_torch() -> None:
    clip = ears(3)
    spectrum = stft(clip, CONFIG)
    np.testing.assert_allclose(FRAMING.stft(clip.numpy()), spectrum.numpy(), atol=1e-4)
    back = FRAMING.istft(spectrum.numpy(), clip.shape[-1])
    np.testing.assert_allclose(back, istft(spectrum, CONFIG, clip.shape[-1]).numpy(), atol=1e-6)
    assert back.dtype == np.float32


def test_griffin_lim_is_that_of_torch() -> None:
    spectrum = stft(ears(4)[0], CONFIG)
    start = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0)) * 6.0
    expected = torch_griffin_lim.griffin_lim(spectrum.abs(), CONFIG, 20_480, num_iterations=4, initial_phase=start)
    unit = np.exp(1j * start.numpy()).astype(np.complex64)
    own = griffin_lim(spectrum.abs().numpy(), unit, FRAMING, 20_480, num_iterations=4)
    np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)
    assert unit_phase(np.zeros((2, 2), dtype=np.complex64)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_cues_are_those_of_torch(seed: int) -> None:
    clip = ears(seed, 16_000 + 777 * seed)
    expected = interaural_cues(clip, 16_000)
    for name, value in cues_of_one(clip.double().numpy(), 16_000).items():
        assert value == pytest.approx(float(getattr(expected, name)), rel=1e-9, abs=1e-9)


def test_proof_is_that_of_torch() -> None:
    own, judge = load_onnx_judge(embedded_bundle(), num_threads=1), load_judge()
    silent = ears(1)
    silent[1] = 0.0
    for clip, asked in ((ears(1), 60.0), (ears(2), None), (ears(2, 81_920), 90.0), (silent, 30.0)):
        expected, found = judge.hear(clip, 16_000, asked), own.hear(clip.numpy(), 16_000, asked)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), name


# --- whole clips ------------------------------------------------------------------------------------------------------


def test_text_and_denoiser_are_those_of_torch(pipeline: OnnxPipeline, reference: DualSpecPipeline) -> None:
    states, mask = pipeline._text([*PROMPTS, "", "a dog! " * 70])
    expected, expected_mask = reference.text_encoder.encode([*PROMPTS, "", "a dog! " * 70])
    assert np.array_equal(mask, expected_mask.numpy()) and mask.sum(axis=1).max() == 128
    np.testing.assert_allclose(states, expected.numpy(), atol=2e-5)
    assert (states[~mask] == 0).all()


def test_same_seed_gives_the_same_clip(pipeline: OnnxPipeline, reference: DualSpecPipeline) -> None:
    settings: dict[str, Any] = {"seed": [3, 4], "num_inference_steps": 6}
    steps: list[Any] = []
    own = pipeline(PROMPTS, **settings, callback_on_step_end=lambda *said: steps.append(said))
    latents: list[torch.Tensor] = []
    torch_out = reference(PROMPTS, **settings, callback_on_step_end=lambda _, __, x: latents.append(x))
    assert [said[:2] for said in steps] == [(step + 1, 6) for step in range(6)]
    np.testing.assert_allclose(steps[-1][2], latents[-1].numpy(), atol=1e-4)
    assert own.audios.shape == tuple(torch_out.audios.shape) and own.seeds == torch_out.seeds
    difference = own.audios - torch_out.audios.numpy()
    print("max", np.abs(difference).max(), "snr", 10 * np.log10((own.audios**2).mean() / (difference**2).mean()))
    assert np.abs(difference).max() < 1

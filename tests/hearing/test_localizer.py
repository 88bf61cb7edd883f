"""The localizer's form, its refusals, what it must not depend on, and that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dualspec.audio.azimuth import circular_error_deg, sector_grid_deg
from dualspec.audio.binaural import render
from dualspec.audio.hrir import spherical_head
from dualspec.config import from_dict, to_dict
from dualspec.features.stft import StftConfig
from dualspec.hearing.localizer import Localizer, LocalizerConfig, LocalizerResult, result_of

RATE = 16000
TINY = LocalizerConfig(branch_channels=(4, 8, 8), fused_channels=8, hidden_features=(16, 16))


def noise(seed: int, *shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(config: LocalizerConfig, seed: int = 0) -> Localizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Localizer(config).eval()


@pytest.fixture(scope="module")
def tiny() -> Localizer:
    return fresh(TINY)


def test_the_default_has_the_sizes_of_decision_24() -> None:
    with torch.device("meta"):
        localizer = Localizer()
    shapes = {name: tuple(parameter.shape) for name, parameter in localizer.named_parameters() if parameter.ndim > 1}
    assert shapes == {
        "magnitude_branch.0.0.weight": (32, 2, 3, 3),
        "magnitude_branch.1.0.weight": (64, 32, 3, 3),
        "magnitude_branch.2.0.weight": (64, 64, 3, 3),
        "phase_branch.0.0.weight": (32, 4, 3, 3),
        "phase_branch.1.0.weight": (64, 32, 3, 3),
        "phase_branch.2.0.weight": (64, 64, 3, 3),
        "fusion.0.weight": (128, 128, 3, 3),
        "classifier.0.weight": (512, 128 * 16),
        "classifier.3.weight": (512, 512),
        "classifier.6.weight": (12, 512),
    }


@pytest.mark.parametrize("phase_input", ["ears", "interaural"])
@pytest.mark.parametrize("num_samples", [300, 4000, 16000])
def test_scores_for_clips_of_any_length(phase_input: Any, num_samples: int) -> None:
    config = LocalizerConfig(
        branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8), num_sectors=24, phase_input=phase_input
    )
    assert fresh(config)(noise(1, 3, 2, num_samples)).shape == (3, 24)


def test_a_time_stride_leaves_out_silent_frames_too() -> None:
    config = LocalizerConfig(branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8), time_stride=2)
    localizer, sound = fresh(config), noise(11, 1, 2, 16384)
    sound[..., 8192:] = 0
    assert localizer(noise(11, 3, 2, 8200)).shape == (3, 12)  # 32 frames; an odd number of them fits, too
    assert localizer(noise(11, 3, 2, 7940)).shape == (3, 12)
    longer = functional.pad(sound, (0, 50000))
    assert torch.allclose(localizer(longer).softmax(-1), localizer(sound).softmax(-1), atol=1e-3)


def test_other_framing_fits() -> None:
    config = LocalizerConfig(
        stft=StftConfig(n_fft=400, win_length=400, hop_length=160),
        branch_channels=(4, 4, 4),
        fused_channels=4,
        hidden_features=(8, 8),
    )
    assert config.num_fused_bins == 13
    assert fresh(config)(noise(2, 1, 2, 3200)).shape == (1, 12)


def test_the_level_of_a_clip_does_not_matter(tiny: Localizer) -> None:
    waveform = noise(3, 2, 2, 8000)
    for gain in (1e-3, 0.1, 3.0):
        assert torch.allclose(tiny(gain * waveform), tiny(waveform), atol=1e-4)


def test_the_level_difference_of_the_ears_is_seen(tiny: Localizer) -> None:
    magnitude, _, _ = tiny.features(noise(4, 1, 1, 8000) * torch.tensor([[2.0], [1.0]]))
    difference = magnitude[:, 0] - magnitude[:, 1]
    assert torch.allclose(difference, torch.full_like(difference, math.log(2.0)), atol=1e-3)


def test_the_phase_difference_of_the_ears_is_seen() -> None:
    config = LocalizerConfig(
        branch_channels=(4, 4, 4), fused_channels=4, hidden_features=(8, 8), phase_input="interaural"
    )
    source = noise(5, 16000)
    pair = torch.stack([source, source.roll(3)])[None]
    _, phase, _ = fresh(config).features(pair)
    omega = 2 * math.pi * torch.arange(1, 257) / 512
    agreement = phase[0, 0] * torch.cos(-3 * omega) + phase[0, 1] * torch.sin(-3 * omega)
    assert float(agreement.median()) > 0.99


def test_silent_frames_are_left_out(tiny: Localizer) -> None:
    sound = noise(6, 1, 2, 16384)
    sound[..., 8192:] = 0
    _, _, heard = tiny.features(sound)
    assert heard.shape == (1, 64) and heard[0, :32].all() and not heard[0, 34:].any()
    hiss = sound + 1e-6 * noise(7, 1, 2, 16384)
    longer = functional.pad(sound, (0, 50000))
    for other in (hiss, longer):
        assert torch.allclose(tiny(other).softmax(-1), tiny(sound).softmax(-1), atol=1e-3)


def test_a_silent_clip_gives_finite_scores_and_gradients(tiny: Localizer) -> None:
    waveform = torch.zeros(2, 2, 4000, requires_grad=True)
    logits = tiny(waveform)
    logits.sum().backward()
    assert torch.isfinite(logits).all() and waveform.grad is not None and torch.isfinite(waveform.grad).all()


def test_predict_gives_probabilities(tiny: Localizer) -> None:
    result = tiny.predict(noise(8, 3, 2, 8000), RATE)
    assert isinstance(result, LocalizerResult)
    assert torch.allclose(result.probabilities.sum(-1), torch.ones(3).double())
    assert torch.equal(result.confidence, result.probabilities.amax(-1))
    assert torch.equal(result.azimuth_deg, result.probabilities.argmax(-1) * 30.0)
    one = tiny.predict(noise(8, 3, 2, 8000)[1], RATE)
    assert one.azimuth_deg.shape == (1,)
    assert torch.allclose(one.probabilities[0], result.probabilities[1], atol=1e-5)


def test_silent_clips_are_refused_not_guessed(tiny: Localizer) -> None:
    batch = noise(9, 3, 2, 8000)
    batch[2] = 0
    with pytest.raises(ValueError, match=r"audible in both ears, got silence in clip 2 of 3"):
        tiny.predict(batch, RATE)
    batch[2, 0] = 0.1
    with pytest.raises(ValueError, match=r"silence in clip 2"):
        tiny.predict(batch, RATE)


def test_wrong_use_is_refused(tiny: Localizer) -> None:
    with pytest.raises(ValueError, match="sample_rate must be 16000 Hz, got 44100 Hz"):
        tiny.predict(noise(10, 1, 2, 8000), 44100)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 2, S\)"):
        tiny.predict(noise(10, 1, 1, 8000), RATE)
    with pytest.raises(ValueError, match=r"shape \(B, 2, S\)"):
        tiny(noise(10, 2, 8000))
    with pytest.raises(ValueError, match="evaluation mode"):
        Localizer(TINY).predict(noise(10, 1, 2, 8000), RATE)
    with pytest.raises(ValueError, match="longer than"):
        tiny(noise(10, 1, 2, 200))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fused_channels": 0}, "sizes must be at least 1"),
        ({"num_sectors": 1}, "num_sectors at least 2"),
        ({"time_stride": 0}, "sizes must be at least 1"),
        ({"frame_range_db": 0.0}, "frame_range_db must be greater than 0"),
        ({"phase_input": "both"}, "phase_input must be"),
    ],
)
def test_wrong_sizes_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LocalizerConfig(**fields)


def test_the_config_survives_json() -> None:
    assert from_dict(LocalizerConfig, to_dict(TINY)) == TINY


def test_expectation_and_arg_max() -> None:
    logits = torch.full((3, 12), -30.0)
    logits[0, 11], logits[0, 0] = 1.0, 1.0  # half at 330, half at 0
    logits[1, 4] = 5.0
    logits[2, 3], logits[2, 9] = 2.0, 2.0  # left and right balance out
    result = result_of(logits)
    assert float(circular_error_deg(result.expectation_deg[0], torch.tensor(345.0).double())) < 1e-4
    assert result.azimuth_deg[1] == 120 and float(result.expectation_deg[1]) == pytest.approx(120, abs=1e-4)
    assert result.expectation_deg[2] == result.azimuth_deg[2]
    assert result.confidence.tolist() == pytest.approx([0.5, 1.0, 0.5])


def test_it_learns_where_noise_is_from_a_computed_head() -> None:
    grid = torch.tensor(sector_grid_deg(), dtype=torch.float64)
    hrirs = spherical_head().at(grid)
    config = LocalizerConfig(branch_channels=(8, 8, 8), fused_channels=16, hidden_features=(32, 32))
    localizer = fresh(config).train()
    optimizer = torch.optim.AdamW(localizer.parameters(), lr=1e-2)
    for step in range(40):
        classes = torch.arange(24) % 12
        loss = functional.cross_entropy(localizer(render(noise(100 + step, 24, 4096), hrirs[classes])), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = localizer.eval().predict(render(noise(99, 48, 4096), hrirs.repeat(4, 1, 1)), RATE).azimuth_deg
    # Chance is one in twelve. The computed head's ears sit behind its centre, so even front and back differ.
    assert float((circular_error_deg(grid.repeat(4), found) < 1).double().mean()) > 0.8

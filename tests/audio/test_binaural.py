"""Rendering: FFT convolution with head responses, checked against identities and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.binaural import normalize_peak, render, render_directions, spatialize
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sphere() -> HrirSet:
    return spherical_head(num_directions=72)


def test_unit_impulse_returns_the_head_response(sphere: HrirSet) -> None:
    hrirs = sphere.at([0.0, 90.0, 270.0])
    impulse = torch.zeros(3, 4000)
    impulse[:, 0] = 1.0
    ears = render(impulse, hrirs)
    torch.testing.assert_close(ears[..., :128], hrirs, atol=1e-6, rtol=0)
    assert ears[..., 128:].abs().max() < 1e-6


def test_late_impulse_is_cropped_not_wrapped() -> None:
    impulse = torch.zeros(1, 3000)
    impulse[0, 2990] = 1.0
    hrirs = noise(1, 2, 64)
    ears = render(impulse, hrirs)
    torch.testing.assert_close(ears[..., 2990:], hrirs[..., :10], atol=1e-5, rtol=0)
    assert ears[..., :2990].abs().max() < 1e-5


@pytest.mark.parametrize(
    ("num_samples", "num_taps"), [(81920, 93), (81920, 256), (16001, 128), (2048, 7), (999, 93), (50, 256), (1, 1)]
)
def test_equals_scipy_convolution(num_samples: int, num_taps: int) -> None:
    waveform, hrirs = noise(2, num_samples), noise(2, 2, num_taps, seed=1) / num_taps**0.5
    expected = np.stack(
        [
            [fftconvolve(clip, ear)[:num_samples] for ear in pair]
            for clip, pair in zip(waveform.double().numpy(), hrirs.double().numpy(), strict=True)
        ]
    )
    ears = render(waveform, hrirs)
    assert ears.shape == (2, 2, num_samples) and ears.dtype == torch.float32
    np.testing.assert_allclose(ears.numpy(), expected, atol=1e-5)
    exact = render(waveform.double(), hrirs.double())
    np.testing.assert_allclose(exact.numpy(), expected, atol=1e-12)


def test_is_linear_and_each_clip_is_alone() -> None:
    first, second, hrirs = noise(3, 5000), noise(3, 5000, seed=1), noise(3, 2, 93, seed=2) / 10
    mixed = render(0.5 * first - 2.0 * second, hrirs)
    torch.testing.assert_close(mixed, 0.5 * render(first, hrirs) - 2.0 * render(second, hrirs), atol=2e-5, rtol=0)
    together, alone = render(first, hrirs), [render(first[i : i + 1], hrirs[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_every_direction_of_every_clip_equals_one_at_a_time(sphere: HrirSet) -> None:
    waveform, hrirs = noise(2, 6000), sphere.at([0.0, 30.0, 200.0])
    ears = render_directions(waveform, hrirs)
    assert ears.shape == (2, 3, 2, 6000)
    for clip in range(2):
        torch.testing.assert_close(ears[clip], render(waveform[clip].expand(3, -1), hrirs), atol=1e-5, rtol=0)


def test_mirrored_azimuth_swaps_the_ears(sphere: HrirSet) -> None:
    waveform = noise(1, 4000)
    for azimuth in (0.0, 30.0, 75.0, 90.0, 135.0, 180.0):
        ears = render(waveform, sphere.at([azimuth]))[0]
        mirrored = render(waveform, sphere.at([360.0 - azimuth]))[0]
        torch.testing.assert_close(ears.flip(0), mirrored, atol=1e-6, rtol=0)


def lead_us(ears: Tensor, first: int, second: int, sample_rate: int) -> float:
    """Time by which one ear precedes the other, microseconds, from the peak of their cross-correlation."""
    size = 2 * ears.shape[-1]
    spectra = torch.fft.rfft(ears.double(), n=size)
    fine = torch.fft.irfft(
        spectra[first].conj() * spectra[second] * (torch.arange(size // 2 + 1) < size // 10), n=size * 8
    )
    reach = sample_rate * 8 // 1000
    lags = torch.cat([fine[-reach:], fine[: reach + 1]])
    return (int(lags.argmax()) - reach) / (sample_rate * 8) * 1e6


def assert_three_o_clock_is_right(hrir_set: HrirSet) -> None:
    waveform = noise(16000)
    for azimuth, near, far in ((270.0, RIGHT, LEFT), (90.0, LEFT, RIGHT)):
        ears = spatialize(waveform, azimuth, hrir_set)
        level_db = float(20 * torch.log10(ears[near].norm() / ears[far].norm()))
        assert 600 < lead_us(ears, near, far, hrir_set.sample_rate) < 850
        assert level_db > 5.0
    front = spatialize(waveform, 0.0, hrir_set)
    assert abs(lead_us(front, LEFT, RIGHT, hrir_set.sample_rate)) < 50


def test_three_o_clock_is_earlier_and_louder_right_on_the_sphere(sphere: HrirSet) -> None:
    assert_three_o_clock_is_right(sphere)


@pytest.mark.parametrize("head", ["fabian", "hutubs_pp91"])
def test_three_o_clock_is_earlier_and_louder_right_on_real_heads(shared_data: Path, head: str) -> None:
    assert_three_o_clock_is_right(load_sofa(shared_data / "hrir" / f"{head}.sofa"))


def test_peak_uses_one_gain_for_both_ears() -> None:
    waveform = noise(2, 2, 100) * torch.tensor([[[0.1], [3.0]], [[0.2], [0.01]]])
    scaled = normalize_peak(waveform)
    torch.testing.assert_close(scaled.abs().amax(dim=(1, 2)), torch.tensor([0.5, 0.5]))
    ratio = waveform[:, 0].norm(dim=-1) / waveform[:, 1].norm(dim=-1)
    torch.testing.assert_close(scaled[:, 0].norm(dim=-1) / scaled[:, 1].norm(dim=-1), ratio)
    assert float(normalize_peak(waveform[0], peak=1.0).abs().max()) == pytest.approx(1.0)


def test_silence_and_the_faintest_sound_stay_finite() -> None:
    waveform = torch.zeros(3, 2, 10)
    waveform[1, 0, 3] = 1e-44  # a denormal number
    waveform[2, 1, 0] = -2.0
    scaled = normalize_peak(waveform)
    assert torch.equal(scaled[0], waveform[0])
    assert scaled[1].abs().max() == pytest.approx(0.5) and scaled[2].abs().max() == pytest.approx(0.5)


def test_gradient_reaches_the_waveform(sphere: HrirSet) -> None:
    waveform = noise(1, 3000).requires_grad_()
    render(waveform, sphere.at([30.0])).square().sum().backward()
    assert waveform.grad is not None and bool(torch.isfinite(waveform.grad).all()) and float(waveform.grad.norm()) > 0


def test_spatialize_takes_one_mono_clip(sphere: HrirSet) -> None:
    waveform = noise(2000)
    ears = spatialize(waveform, 45.0, sphere, sample_rate=16000)
    torch.testing.assert_close(ears, spatialize(waveform[None], 45.0, sphere))
    assert float(spatialize(waveform, 47.0, sphere, method="interpolate", peak=0.25).abs().max()) == pytest.approx(0.25)


def test_wrong_input_is_refused(sphere: HrirSet) -> None:
    hrirs = sphere.at([0.0])
    with pytest.raises(ValueError, match="waveform must be floating point with shape"):
        render(torch.zeros(1, 100, dtype=torch.int16), hrirs)
    with pytest.raises(ValueError, match="waveform must be floating point with shape"):
        render(torch.zeros(1, 2, 100), hrirs)
    with pytest.raises(ValueError, match="waveform must be floating point with shape"):
        render(torch.zeros(1, 0), hrirs)
    with pytest.raises(ValueError, match="hrirs must be floating point with shape"):
        render_directions(torch.zeros(1, 100), torch.zeros(1, 3, 10))
    with pytest.raises(ValueError, match="one pair per clip, got 1 pairs for 2 clips"):
        render(torch.zeros(2, 100), hrirs)
    with pytest.raises(ValueError, match="waveform must be mono"):
        spatialize(torch.zeros(2, 100), 0.0, sphere)
    with pytest.raises(ValueError, match="sample_rate must be the HRIR set's 16000 Hz, got 44100"):
        spatialize(torch.zeros(100), 0.0, sphere, sample_rate=44100)
    with pytest.raises(ValueError, match=r"azimuth_deg must be .* say 0"):
        spatialize(torch.zeros(100), 360.0, sphere)
    with pytest.raises(ValueError, match="within 1 degrees of a direction of 'spherical_head', got 47"):
        spatialize(torch.zeros(100), 47.0, sphere)
    for peak in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="peak must be greater than 0"):
            normalize_peak(torch.ones(2, 10), peak)
    with pytest.raises(ValueError, match="add a channel axis"):
        normalize_peak(torch.ones(10))

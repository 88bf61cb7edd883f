"""Loudness, true peak and bandwidth of what is handed out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dualspec.audio.delivery import (
    bandwidth_note,
    bring_to_loudness,
    check_loudness,
    integrated_loudness,
    loudness_words,
    true_peak_db,
)
from dualspec.audio.waveform import resample


def tone(
    level_db: float, seconds: float, *, sample_rate: int = 48_000, hz: float = 1000.0, phase: float = 0.0
) -> Tensor:
    """A sine of a peak level in two equal channels."""
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return (10 ** (level_db / 20) * torch.sin(2 * math.pi * hz * time + phase)).float().expand(2, -1)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100, 48_000, 96_000])
def test_the_calibration_tone_of_the_recommendation(sample_rate: int) -> None:
    """BS.1770: 997 Hz at full scale in one channel is -3.01 LUFS; so -23 dBFS in both is -23 LUFS."""
    assert integrated_loudness(tone(-23, 3, sample_rate=sample_rate, hz=997), sample_rate) == pytest.approx(
        -23, abs=0.01
    )
    one = tone(0, 3, sample_rate=sample_rate, hz=997)[:1]
    assert integrated_loudness(one, sample_rate) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize(
    "parts",
    [
        [(-33, 5), (-33, 0.05)],
        [(-36, 5), (-23, 20), (-36, 5)],
        [(-72, 5), (-36, 5), (-23, 20), (-36, 5), (-72, 5)],
        [(-26, 10), (-20, 10.05), (-26, 10)],
    ],
)
def test_the_minimum_requirements_of_ebu_tech_3341(parts: list[tuple[float, float]]) -> None:
    """Its cases 2 to 5 in shorter times: -33 and -23 LUFS within 0.1 LU, with both gates at work."""
    sound = torch.cat([tone(level_db, seconds) for level_db, seconds in parts], dim=1)
    assert integrated_loudness(sound, 48_000) == pytest.approx(-33 if parts[0][0] == -33 else -23, abs=0.1)


def test_an_incomplete_block_at_the_end_does_not_count() -> None:
    sound = torch.cat([tone(-23, 2), torch.zeros(2, 4_799)], dim=1)
    assert integrated_loudness(sound, 48_000) == integrated_loudness(sound[:, :96_000], 48_000)


def test_the_true_peak_lies_between_the_samples() -> None:
    """A sine of a quarter of the rate, sampled 45 degrees off its crests, peaks 3.01 dB above its samples."""
    sound = tone(-6, 0.5, hz=12_000, phase=math.pi / 4) * torch.hann_window(24_000)
    assert 20 * math.log10(float(sound.abs().max())) == pytest.approx(-9.01, abs=0.01)
    assert true_peak_db(sound, 48_000) == pytest.approx(-6, abs=0.1)


@pytest.mark.parametrize(("sample_rate", "level_db"), [(16_000, -40), (44_100, -90), (48_000, 3)])
def test_one_gain_for_both_ears_leads_to_the_loudness(sample_rate: int, level_db: float) -> None:
    noise = torch.randn(2, 2 * sample_rate, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.2], [0.05]])
    sound = noise * 10 ** (level_db / 20)
    louder, facts = bring_to_loudness(sound, sample_rate, -23)
    assert integrated_loudness(louder, sample_rate) == pytest.approx(-23, abs=0.02) and facts["lufs"] == -23
    gains = louder / sound
    torch.testing.assert_close(gains, gains[:1, :1].expand_as(gains), rtol=1e-4, atol=0)
    assert 20 * math.log10(float(gains[0, 0])) == pytest.approx(facts["gain_db"], abs=0.01)
    assert facts["true_peak_dbtp"] == pytest.approx(true_peak_db(louder, sample_rate), abs=0.02)
    assert not facts["held_by_peak"] and loudness_words(facts) == "-23 LUFS"


def test_a_peaky_sound_stays_quieter_and_says_so() -> None:
    sound = torch.zeros(2, 48_000)
    sound[:, 24_000] = torch.tensor([0.5, 0.1])
    louder, facts = bring_to_loudness(sound, 48_000, -10)
    assert facts["held_by_peak"] and facts["lufs"] < -20 and louder.abs().max() < 1
    assert true_peak_db(louder, 48_000) == pytest.approx(-1, abs=0.02) == facts["true_peak_dbtp"]
    assert f"{facts['lufs']:g} LUFS and not -10, for its true peak is at -1 dBTP" in loudness_words(facts)


def test_a_short_sound_is_one_block_that_ends_in_silence() -> None:
    short = tone(-20, 0.1)
    padded = torch.nn.functional.pad(short, (0, 14_400))
    assert integrated_loudness(short, 48_000) == integrated_loudness(padded, 48_000)
    assert integrated_loudness(short, 48_000) == pytest.approx(-20 + 10 * math.log10(0.25), abs=0.1)
    _, facts = bring_to_loudness(short, 48_000, -23)
    assert facts["shorter_than_block"] and "measured with silence behind it" in loudness_words(facts)


def test_silence_stays_silence() -> None:
    silence, facts = bring_to_loudness(torch.zeros(2, 48_000), 48_000, -23)
    assert not silence.any() and facts["lufs"] is facts["true_peak_dbtp"] is None and facts["gain_db"] == 0
    assert integrated_loudness(silence, 48_000) is None and loudness_words(facts) == "no loudness, for it is silent"


@pytest.mark.parametrize("target", [-70.1, -4.9, math.nan, math.inf])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(ValueError, match="loudness must be -70 to -5 LUFS"):
        check_loudness(target)


def test_a_higher_rate_adds_nothing_and_the_note_says_where_the_sound_ends() -> None:
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    power = torch.fft.rfft(resample(noise, 16_000, 48_000)[0] * torch.hann_window(48_000)).abs().square()
    assert power[8_500:].sum() < 1e-6 * power.sum()
    assert bandwidth_note(16_000, 48_000) == "16 kHz content resampled to 48 kHz: nothing above 8 kHz"
    assert bandwidth_note(48_000, 48_000) is bandwidth_note(96_000, 48_000) is None


@pytest.mark.parametrize(("sample_rate", "seconds"), [(16_000, 5.12), (48_000, 0.4), (44_100, 7.03), (48_000, 0.1)])
def test_the_meter_agrees_with_the_library_that_the_field_keeps(sample_rate: int, seconds: float) -> None:
    """pyloudnorm's own code: recursive filters, blocks one by one."""
    meter = pytest.importorskip("pyloudnorm").Meter(48_000, filter_class="DeMan")
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, round(seconds * sample_rate), generator=generator)
    swelling = noise * torch.linspace(0.001, 0.3, noise.shape[-1]) ** 2
    samples = resample(swelling, sample_rate, 48_000).double().numpy().T
    samples = np.pad(samples, ((0, max(0, 19_200 - len(samples))), (0, 0)))
    whole = len(samples) - (len(samples) - 19_200) % 4_800
    expected = meter.integrated_loudness(samples[:whole])
    assert integrated_loudness(swelling, sample_rate) == pytest.approx(expected, abs=0.005)
    assert integrated_loudness(swelling.numpy(), sample_rate) == integrated_loudness(swelling, sample_rate)


def test_arrays_are_brought_to_a_loudness_as_tensors_are() -> None:
    sound = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(4))
    louder, facts = bring_to_loudness(sound, 16_000, -23)
    array, same = bring_to_loudness(sound.numpy(), 16_000, -23)
    assert isinstance(array, np.ndarray) and same == facts
    np.testing.assert_allclose(array, louder.numpy(), rtol=1e-6)

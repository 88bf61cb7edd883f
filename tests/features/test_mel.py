import math

import pytest
import torch

from dualspec.features.mel import (
    MelConfig,
    log_mel,
    magnitude_to_log_mel,
    mel_filterbank,
    mel_to_magnitude,
    spread_bands,
)
from dualspec.features.stft import StftConfig, stft

VOCODER = MelConfig()
CENTERED = MelConfig(n_fft=512, win_length=512, hop_length=256, framing="centered")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def golden_tone() -> torch.Tensor:
    n = torch.arange(4096, dtype=torch.float64)
    return 0.5 * torch.sin(2 * math.pi * 1000 * n / 16000) + 0.25 * torch.sin(2 * math.pi * 220 * n / 16000 + 0.3)


def harmonic(num_samples: int = 81920) -> torch.Tensor:
    time_s = torch.arange(num_samples, dtype=torch.float64) / 16000
    voice = sum(torch.sin(2 * math.pi * 220 * k * time_s) / k for k in range(1, 30)) / 8
    return (voice * (1 + 0.5 * torch.sin(2 * math.pi * 3 * time_s))).float()


# Goldens: librosa 0.11.0, filters.mel(sr=16000, n_fft=n, n_mels=64, fmin=0, fmax=8000, dtype=float64).
@pytest.mark.parametrize(
    ("n_fft", "total", "squares", "rows"),
    [
        (
            1024,
            4.095880160968865,
            0.03542326373906856,
            {
                0: (3, 0.021331152321304517, 1, 5),
                20: (62, 0.01868993984210124, 60, 65),
                40: (162, 0.00785470689680177, 155, 170),
                63: (488, 0.0027300215116008676, 466, 511),
            },
        ),
        (
            512,
            2.0461816242909356,
            0.017666435502407644,
            {
                0: (1, 0.01451128169028786, 1, 2),
                1: (3, 0.02111326721424088, 2, 4),
                40: (81, 0.00785470689680177, 78, 85),
                63: (244, 0.0027300215116008676, 233, 255),
            },
        ),
    ],
)
def test_filterbank_equals_librosas(n_fft, total, squares, rows) -> None:
    bank = mel_filterbank(MelConfig(n_fft=n_fft, win_length=n_fft))
    assert bank.shape == (64, n_fft // 2 + 1)
    assert bank.sum().item() == pytest.approx(total, rel=1e-12)
    assert bank.square().sum().item() == pytest.approx(squares, rel=1e-12)
    for band, (peak, value, first, last) in rows.items():
        assert bank[band].argmax() == peak
        assert bank[band, peak].item() == pytest.approx(value, rel=1e-12)
        assert bank[band].nonzero()[[0, -1], 0].tolist() == [first, last]


# Goldens: the same bank times |librosa.stft(float64)|, ln(max(x, 1e-5)); "hifigan" on np.pad(x, 432, "reflect"),
# center=False; "centered" with center=True, pad_mode="reflect", first 16 frames.
@pytest.mark.parametrize(
    ("config", "frames", "first", "tenth", "last", "total"),
    [
        (
            VOCODER,
            25,
            (-0.68486767, 0.57075103, -2.03514717),
            (0.67194759, -2.9301427, 1.04108383, -11.51292546, -11.51292546),
            (0.66585165, -0.74446828, 1.18693609, -0.15030628, -3.88323434),
            -13929.044491985505,
        ),
        (
            CENTERED,
            16,
            (-1.42545652, -0.21758038, -2.64367899),
            (-0.31633049, -1.92070783, 0.21630935, -2.14184356, -11.51292546),
            (-0.31632899, -1.92068683, 0.21630958, -2.1418386, -11.51292546),
            -9683.265751852425,
        ),
    ],
)
def test_log_mel_equals_librosas(config, frames, first, tenth, last, total) -> None:
    mel = log_mel(golden_tone(), config)
    assert mel.shape == (frames, 64)
    bands = [4, 5, 21, 22, 40]
    torch.testing.assert_close(mel[0, :8:3], torch.tensor(first, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(mel[10, bands], torch.tensor(tenth, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(mel[-1, bands], torch.tensor(last, dtype=torch.float64), atol=1e-6, rtol=0)
    assert mel.sum().item() == pytest.approx(total, abs=1e-3)


def test_paper_sizes() -> None:
    waveform = noise(2, 2, 81920)
    assert log_mel(waveform, VOCODER).shape == (2, 2, 512, 64)
    assert log_mel(waveform, CENTERED).shape == (2, 2, 320, 64)
    assert (VOCODER.num_frames(81920), CENTERED.num_frames(81920)) == (512, 320)


def test_centered_frames_are_those_of_the_stft() -> None:
    waveform = noise(2, 8192)
    spectrum = stft(waveform, StftConfig())
    magnitude = torch.nn.functional.pad(spectrum.abs(), (1, 0))  # no band reaches DC
    torch.testing.assert_close(magnitude_to_log_mel(magnitude, CENTERED), log_mel(waveform, CENTERED))


def test_gain_shifts_and_silence_is_the_floor() -> None:
    waveform = noise(4096)
    torch.testing.assert_close(log_mel(2 * waveform, VOCODER), log_mel(waveform, VOCODER) + math.log(2.0))
    floor = log_mel(torch.zeros(4096), VOCODER)
    torch.testing.assert_close(floor, torch.full_like(floor, math.log(1e-5)))
    silent = torch.zeros(4096, requires_grad=True)
    log_mel(silent, VOCODER).sum().backward()
    assert silent.grad.isfinite().all()


def test_numbers_do_not_depend_on_mixed_precision_or_on_who_came_first() -> None:
    waveform = noise(4096)
    expected = log_mel(waveform, CENTERED)
    inverse = mel_to_magnitude(expected, CENTERED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(log_mel(waveform, CENTERED), expected, rtol=0, atol=0)
        torch.testing.assert_close(mel_to_magnitude(expected, CENTERED), inverse, rtol=0, atol=0)
    other = MelConfig(n_mels=20)
    with torch.inference_mode():
        mel_to_magnitude(log_mel(waveform, other), other)
    waveform.requires_grad_()
    mel_to_magnitude(log_mel(waveform, other), other).sum().backward()
    assert waveform.grad.isfinite().all()


@pytest.mark.parametrize("config", [VOCODER, CENTERED], ids=["hifigan", "centered"])
@pytest.mark.parametrize("sound", ["noise", "harmonic", "tone", "silence"])
def test_magnitude_from_mel_has_that_mel(config, sound) -> None:
    waveform = {
        "noise": noise(81920),
        "harmonic": harmonic(),
        "tone": golden_tone().float().repeat(20),
        "silence": torch.zeros(81920),
    }[sound]
    mel = log_mel(waveform, config)
    magnitude = mel_to_magnitude(mel, config)
    error = (magnitude_to_log_mel(magnitude, config) - mel).abs()
    assert magnitude.shape == (config.num_frames(81920), config.n_fft // 2 + 1)
    assert magnitude.min() >= 0
    assert error.mean() < 0.015
    assert error.max() < 0.5


@pytest.mark.parametrize("config", [VOCODER, CENTERED], ids=["hifigan", "centered"])
def test_clamped_least_squares_is_there_too(config) -> None:
    mel = log_mel(noise(16000), config)
    magnitude = mel_to_magnitude(mel, config, num_iterations=0)
    expected = torch.linalg.lstsq(mel_filterbank(config), mel.double().exp().T, driver="gelsd").solution.T
    torch.testing.assert_close(magnitude.double(), expected.clamp(min=0.0), atol=1e-4, rtol=1e-3)
    assert (magnitude_to_log_mel(magnitude, config) - mel).abs().mean() < 1e-3


def test_magnitude_from_mel_scales_with_the_level() -> None:
    mel = log_mel(harmonic(8192), CENTERED)
    quiet = mel_to_magnitude(mel - 2.0, CENTERED)
    torch.testing.assert_close(quiet, mel_to_magnitude(mel, CENTERED) * math.exp(-2.0), rtol=1e-3, atol=1e-9)


def test_magnitude_from_mel_follows_the_true_envelope() -> None:
    waveform = noise(81920)
    spectrum = torch.fft.rfft(waveform)
    tilt = torch.linspace(1.0, 0.05, len(spectrum))
    coloured = torch.fft.irfft(spectrum * tilt, n=81920)
    truth = stft(coloured, StftConfig()).abs().mean(dim=0)
    estimate = mel_to_magnitude(log_mel(coloured, CENTERED), CENTERED)[..., 1:].mean(dim=0)
    inside = slice(4, 250)  # the outermost bins lie on the flank of one band
    error_db = 20 * (estimate[inside] / truth[inside]).log10()
    assert error_db.abs().mean() < 1.0


@pytest.mark.parametrize("config", [VOCODER, CENTERED], ids=["hifigan", "centered"])
def test_spreading_keeps_constants_ramps_and_the_place_of_a_band(config) -> None:
    frames = config.num_frames(16000)
    spread = spread_bands(torch.full((2, frames, 64), 0.7), config, StftConfig(), 16000)
    torch.testing.assert_close(spread, torch.full((2, 62, 256), 0.7))
    offset = config.n_fft // 2 - config.padding
    ramp = (torch.arange(frames) * config.hop_length + offset).float()[:, None].expand(-1, 64)
    over_time = spread_bands(ramp, config, StftConfig(), 16000)
    torch.testing.assert_close(over_time[5:55, 0], torch.arange(5, 55) * 256.0, rtol=1e-5, atol=1e-2)
    values = torch.zeros(frames, 64)
    values[:, 40] = 1.0
    peak_hz = (spread_bands(values, config, StftConfig(), 16000)[10].argmax() + 1) * 31.25
    bank_hz = mel_filterbank(config)[40].argmax() * 16000 / config.n_fft
    assert abs(peak_hz - bank_hz) <= 31.25


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"n_mels": 0}, "n_mels must be in"),
        ({"f_max": 9000.0}, "f_min and f_max must satisfy"),
        ({"f_min": 8000.0}, "f_min and f_max must satisfy"),
        ({"log_floor": 0.0}, "log_floor must be positive"),
        ({"framing": "same"}, "framing must be"),
        ({"hop_length": 161}, "n_fft - hop_length must be even"),
        ({"sample_rate": 0}, "sample_rate must be"),
    ],
)
def test_settings_without_meaning_are_refused(fields, match) -> None:
    with pytest.raises(ValueError, match=match):
        MelConfig(**fields)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="magnitude must have 513 bins with DC, got 512"):
        magnitude_to_log_mel(torch.zeros(3, 512), VOCODER)
    with pytest.raises(ValueError, match="log_mel must have 64 bands, got 80"):
        mel_to_magnitude(torch.zeros(3, 80), VOCODER)
    with pytest.raises(ValueError, match="num_iterations must be 0 or more, got -1"):
        mel_to_magnitude(torch.zeros(3, 64), VOCODER, num_iterations=-1)
    with pytest.raises(ValueError, match="values must have 100 frames and 64 bands"):
        spread_bands(torch.zeros(99, 64), VOCODER, StftConfig(), 16000)
    with pytest.raises(ValueError, match="waveform must be longer than 432 samples"):
        log_mel(torch.zeros(400), VOCODER)

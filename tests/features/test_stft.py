import math

import pytest
import torch

from dualspec.features.stft import (
    MAGNITUDE_FLOOR,
    StftConfig,
    channels_to_stft,
    hann_window,
    istft,
    num_stft_channels,
    overlap_add,
    stft,
    stft_to_channels,
)

CONFIG = StftConfig()
NUM_SAMPLES = 81920
REPRESENTATIONS = ("complex", "logmag_phase", "logmag_cossin", "interaural")


def tones(num_samples: int = NUM_SAMPLES, frequencies_hz: tuple[float, ...] = (940.0, 2010.0, 5200.0)) -> torch.Tensor:
    """Tones far from DC, faded in and out, so that the dropped bin holds nothing."""
    time_s = torch.arange(num_samples, dtype=torch.float64) / 16000
    mix = sum(torch.sin(2 * math.pi * f * time_s + k) for k, f in enumerate(frequencies_hz)) / 8
    fade = (torch.arange(num_samples, dtype=torch.float64) / 256).clamp(max=1.0) * math.pi / 2
    return (mix * (fade.sin() * fade.flip(0).sin()) ** 4).float()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_five_seconds_give_320_frames_of_256_bins() -> None:
    assert stft(noise(3, 2, NUM_SAMPLES), CONFIG).shape == (3, 2, 320, 256)
    assert (CONFIG.num_frames(NUM_SAMPLES), CONFIG.num_bins) == (320, 256)


def test_round_trip_returns_the_waveform() -> None:
    waveform = torch.stack([tones(), tones(frequencies_hz=(1333.0, 7000.0))])[None]
    back = istft(stft(waveform, CONFIG), CONFIG, NUM_SAMPLES)
    inside = NUM_SAMPLES - CONFIG.hop_length
    torch.testing.assert_close(back[..., :inside], waveform[..., :inside], atol=1e-4, rtol=0)
    assert back.shape == waveform.shape
    assert back[..., inside:].abs().max() < 1.0


def test_hifigan_framing_returns_a_clip_of_whole_hops_to_its_end() -> None:
    config = StftConfig(framing="hifigan")
    waveform = noise(2, NUM_SAMPLES)
    spectrum = stft(waveform, config)
    assert spectrum.shape == (2, 320, 256)
    lost = istft(spectrum, config, NUM_SAMPLES) - waveform  # the DC bin alone: small, and smooth over each frame
    centered = istft(stft(waveform, CONFIG), CONFIG, NUM_SAMPLES) - waveform
    assert lost.abs().max() < 0.03
    assert centered[:, -256:].abs().max() > 0.2
    tone = tones(frequencies_hz=(1333.0, 7000.0))
    tone[-2000:] = tones(80000)[4000:6000]  # loud up to the end
    torch.testing.assert_close(istft(stft(tone, config), config, NUM_SAMPLES), tone, atol=2e-3, rtol=0)


@pytest.mark.parametrize("num_samples", [512, 5000, 80000])
def test_lengths_that_are_no_multiple_of_the_hop(num_samples: int) -> None:
    waveform = tones(num_samples)
    back = istft(stft(waveform, CONFIG), CONFIG, num_samples)
    whole = CONFIG.num_frames(num_samples) * CONFIG.hop_length
    assert back.shape == (num_samples,)
    torch.testing.assert_close(back[: whole - 256], waveform[: whole - 256], atol=1e-4, rtol=0)
    assert back[whole:].abs().sum() == 0


def test_a_tone_lies_in_its_bin_with_its_phase_and_an_impulse_in_its_frame() -> None:
    bin_number, start_rad = 40, 0.7
    time = torch.arange(8192, dtype=torch.float64)
    tone = 0.5 * torch.cos(2 * math.pi * bin_number * time / 512 + start_rad)
    frame = stft(tone, CONFIG)[16]  # centred at sample 4096, so its first sample is 3840
    assert frame.abs().argmax() == bin_number - 1  # DC is dropped
    assert frame[bin_number - 1].abs().item() == pytest.approx(0.5 * 512 / 4, rel=1e-9)
    expected = start_rad + 2 * math.pi * bin_number * (4096 - 256) / 512
    assert math.cos(frame[bin_number - 1].angle().item() - expected) == pytest.approx(1.0)
    impulse = torch.zeros(8192).index_fill(0, torch.tensor(10 * 256), 1.0)
    assert stft(impulse, CONFIG).abs().sum(-1).argmax() == 10


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_channels_are_invertible(representation) -> None:
    spectrum = stft(noise(2, 2, 20480), CONFIG)
    channels = stft_to_channels(spectrum, representation)
    assert channels.shape == (2, num_stft_channels(representation), 80, 256)
    assert not channels.is_complex()
    torch.testing.assert_close(channels_to_stft(channels, representation), spectrum, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_compressed_channels_keep_phase_and_are_exact_below_the_floor(exponent) -> None:
    spectrum = stft(noise(1, 2, 4096), CONFIG)
    spectrum[..., :8] *= 1e-7
    channels = stft_to_channels(spectrum, "complex", exponent=exponent)
    left = torch.complex(channels[:, 0], channels[:, 1])
    loud = spectrum[:, 0].abs() > MAGNITUDE_FLOOR
    torch.testing.assert_close(left.abs()[loud], (spectrum[:, 0].abs() ** exponent)[loud])
    torch.testing.assert_close(torch.cos(left.angle() - spectrum[:, 0].angle()), torch.ones(1, 16, 256))
    back = channels_to_stft(channels, "complex", exponent=exponent)
    assert ((back - spectrum).abs() <= 1e-4 * spectrum.abs() + 1e-12).all()


def test_interaural_channels_carry_level_difference_and_time_difference() -> None:
    delay_samples, gain = 7, 0.25
    source = noise(NUM_SAMPLES + delay_samples)
    ears = torch.stack([source[delay_samples:], gain * source[:-delay_samples]])[None]  # right later and softer
    channels = stft_to_channels(stft(ears, CONFIG), "interaural")
    frequency = torch.arange(1, 257) * 2 * math.pi / 512
    turn = torch.complex(channels[:, 2], channels[:, 3]).mean(dim=(0, 1))
    assert torch.cos(turn.angle()[:200] + frequency[:200] * delay_samples).min() > 0.99
    assert (channels[:, 0] - channels[:, 1]).mean().item() == pytest.approx(-math.log(gain), abs=0.02)


@pytest.mark.parametrize("representation", ["logmag_cossin", "interaural"])
def test_cosine_and_sine_are_brought_back_to_unit_length(representation) -> None:
    spectrum = stft(noise(1, 2, 4096), CONFIG)
    channels = stft_to_channels(spectrum, representation)
    channels[:, 2:] *= 0.3
    torch.testing.assert_close(channels_to_stft(channels, representation), spectrum, atol=1e-5, rtol=1e-4)
    channels[:, 2:] = 0.0
    phaseless = channels_to_stft(channels, representation)
    assert (phaseless.imag == 0).all()
    torch.testing.assert_close(phaseless.real, spectrum.abs(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_gradients_are_finite_at_silence(representation) -> None:
    waveform = torch.zeros(1, 2, 2048, requires_grad=True)
    channels = stft_to_channels(stft(waveform, CONFIG), representation)
    channels.square().sum().backward()
    assert waveform.grad.isfinite().all()
    still = torch.zeros_like(channels, requires_grad=True)
    istft(channels_to_stft(still, representation), CONFIG, 2048).square().sum().backward()
    assert still.grad.isfinite().all()


def test_first_use_without_gradients_does_not_spoil_training() -> None:
    hann_window.cache_clear()
    with torch.inference_mode():
        stft(torch.zeros(2048), CONFIG)
    waveform = noise(2048).requires_grad_()
    spectrum = stft(waveform, CONFIG)
    istft(spectrum, CONFIG, 2048).square().sum().backward()
    assert waveform.grad.abs().sum() > 0


@pytest.mark.parametrize(("n_fft", "win_length", "hop_length"), [(512, 512, 256), (1024, 1024, 160), (512, 400, 128)])
def test_overlap_add_is_the_inverse_transform_of_torch(n_fft: int, win_length: int, hop_length: int) -> None:
    """To the last bit, and so are its gradients."""
    generator = torch.Generator().manual_seed(0)
    made, gradients = [], []
    spectrum = torch.randn(2, 20, n_fft // 2 + 1, dtype=torch.complex64, generator=generator).requires_grad_()
    for way in (
        lambda: overlap_add(spectrum, n_fft, win_length, hop_length, n_fft // 2, 19 * hop_length),
        lambda: torch.istft(
            spectrum.mT, n_fft, hop_length, win_length, window=torch.hann_window(win_length), length=19 * hop_length
        ),
    ):
        made.append(way())
        gradients += torch.autograd.grad(made[-1].square().sum(), spectrum)
    assert torch.equal(*made) and torch.equal(*gradients)


def test_precision_follows_the_waveform() -> None:
    waveform = noise(4096).double()
    spectrum = stft(waveform, CONFIG)
    assert spectrum.dtype == torch.complex128
    torch.testing.assert_close(spectrum.to(torch.complex64), stft(waveform.float(), CONFIG), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"n_fft": 511}, "n_fft must be an even"),
        ({"win_length": 1024}, "win_length must be in"),
        ({"hop_length": 300}, "hop_length must be in"),
    ],
)
def test_settings_that_cannot_be_inverted_are_refused(fields, match) -> None:
    with pytest.raises(ValueError, match=match):
        StftConfig(**fields)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="waveform must be longer than 256 samples, got 256"):
        stft(torch.zeros(256), CONFIG)
    with pytest.raises(ValueError, match="waveform must be float32 or float64"):
        stft(torch.zeros(1024, dtype=torch.int16), CONFIG)
    with pytest.raises(ValueError, match="stft must have 4 frames and 256 bins"):
        istft(torch.zeros(5, 256, dtype=torch.complex64), CONFIG, 1024)
    with pytest.raises(ValueError, match=r"stft must be complex of shape \(B, 2, T, F\)"):
        stft_to_channels(torch.zeros(1, 1, 4, 256, dtype=torch.complex64), "complex")
    with pytest.raises(ValueError, match=r"channels must be of shape \(B, 6, T, F\)"):
        channels_to_stft(torch.zeros(1, 4, 4, 256), "interaural")
    with pytest.raises(ValueError, match="representation must be one of"):
        num_stft_channels("polar")
    with pytest.raises(ValueError, match="exponent must be in"):
        channels_to_stft(torch.zeros(1, 4, 4, 256), "complex", exponent=0.0)

import math
from pathlib import Path

import pytest
import torch

from dualspec.audio.binaural import render
from dualspec.audio.hrir import load_sofa
from dualspec.features.mel import MelConfig, log_mel
from dualspec.features.stft import StftConfig, stft
from dualspec.synthesis.griffin_lim import unit_phase
from dualspec.synthesis.reconstruct import near_ear, reconstruct, shares_framing

STFT = StftConfig()
CENTERED = MelConfig(n_fft=512, win_length=512, hop_length=256, framing="centered")
VOCODER = MelConfig()
NUM_SAMPLES = 40960
SAMPLE_RATE = 16000
DELAYS_AND_GAINS = [(5.3, -8.0), (11.7, -13.0), (0.0, 0.0)]


def source(name: str) -> torch.Tensor:
    time_s = torch.arange(NUM_SAMPLES) / SAMPLE_RATE
    hiss = 0.1 * torch.randn(NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    if name == "noise":
        return hiss
    if name == "bursts":
        return hiss * (time_s % 0.5 < 0.08)
    return sum(0.1 / k * torch.sin(2 * math.pi * 220 * k * time_s) for k in range(1, 12))


def delayed(waveform: torch.Tensor, delay_samples: float) -> torch.Tensor:
    spectrum = torch.fft.rfft(waveform, 2 * NUM_SAMPLES)
    turn = torch.arange(len(spectrum)) * (-2j * math.pi * delay_samples / (2 * NUM_SAMPLES))
    return torch.fft.irfft(spectrum * turn.exp(), 2 * NUM_SAMPLES)[:NUM_SAMPLES]


def two_ears(name: str, delay_samples: float, gain_db: float, *, far: str = "right") -> torch.Tensor:
    near = source(name)
    ears = [near, delayed(near, delay_samples) * 10 ** (gain_db / 20)]
    return torch.stack(ears if far == "right" else ears[::-1])[None]


def itd_us(waveform: torch.Tensor) -> torch.Tensor:
    """Lag of the left ear, microseconds, at the peak of the 150-1200 Hz cross-correlation, 4 µs apart."""
    upsampling, size = 16, 2 * waveform.shape[-1]
    spectrum = torch.fft.rfft(waveform.double(), size)
    frequency_hz = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum = spectrum * ((frequency_hz >= 150) & (frequency_hz <= 1200))
    correlation = torch.fft.irfft(spectrum[..., 0, :] * spectrum[..., 1, :].conj(), size * upsampling)
    reach = SAMPLE_RATE * upsampling // 1000
    correlation = torch.cat([correlation[..., -reach:], correlation[..., : reach + 1]], dim=-1)
    return (correlation.argmax(dim=-1) - reach) / (SAMPLE_RATE * upsampling) * 1e6


def ild_db(waveform: torch.Tensor) -> torch.Tensor:
    power = waveform.double().square().mean(dim=-1)
    return 10 * torch.log10(power[..., 0] / power[..., 1])


def assert_cues_kept(estimate: torch.Tensor, reference: torch.Tensor) -> None:
    assert (itd_us(estimate) - itd_us(reference)).abs().max() < 30
    assert (ild_db(estimate) - ild_db(reference)).abs().max() < 0.5


def rebuild(variant: str, waveform: torch.Tensor, mel_config: MelConfig = CENTERED, **options) -> torch.Tensor:
    """Reconstruct from the true mel and the true STFT."""
    num_samples = waveform.shape[-1]
    return reconstruct(
        variant,
        num_samples=num_samples,
        stft_config=STFT,
        mel_config=mel_config,
        log_mel=None if variant == "stft_base" else log_mel(waveform, mel_config),
        stft=None if variant == "mel_base" else stft(waveform, STFT),
        **options,
    )


class PerfectVocoder:
    """Returns the true ears, or the true near ear for a mid mel, 32 samples too long as HiFi-GAN does."""

    def __init__(self, waveform: torch.Tensor) -> None:
        self.waveform = waveform

    def __call__(self, mel: torch.Tensor) -> torch.Tensor:
        ears = self.waveform.flatten(0, 1)
        if len(mel) != len(ears):
            ears = self.waveform[torch.arange(len(mel)), near_ear(log_mel(self.waveform, CENTERED))]
        return torch.nn.functional.pad(ears, (0, 32))


def test_stft_base_is_the_inverse_stft_and_mel_base_the_vocoder() -> None:
    waveform = two_ears("tones", 5.3, -8.0)
    back = rebuild("stft_base", waveform)
    assert (back - waveform)[..., 256:-256].abs().max() < 2e-3
    vocoded = rebuild("mel_base", waveform, VOCODER, vocoder=PerfectVocoder(waveform))
    assert torch.equal(vocoded, waveform)


@pytest.mark.parametrize("variant", ["dualspec", "dualspec_p"])
def test_the_merge_takes_magnitude_from_the_vocoder_and_phase_from_the_stft(variant) -> None:
    waveform, other = two_ears("noise", 5.3, -8.0), two_ears("tones", 2.0, -3.0)
    same = rebuild(variant, waveform, VOCODER, vocoder=PerfectVocoder(waveform))
    assert (same - waveform)[..., 512:-512].abs().max() < 2e-2
    merged = rebuild(variant, waveform, VOCODER, vocoder=PerfectVocoder(other))
    expected = stft(other, STFT).abs() * unit_phase(stft(waveform, STFT))
    from_parts = reconstruct("stft_base", num_samples=NUM_SAMPLES, stft_config=STFT, mel_config=VOCODER, stft=expected)
    torch.testing.assert_close(merged, from_parts)


def test_dualspec_d_needs_no_vocoder() -> None:
    waveform = two_ears("noise", 5.3, -8.0)
    back = rebuild("dualspec_d", waveform)
    assert (log_mel(back, CENTERED) - log_mel(waveform, CENTERED)).abs().mean() < 0.1
    assert_cues_kept(back, waveform)


@pytest.mark.parametrize("mid_phase", ["stft", "griffin_lim", "vocoder"])
@pytest.mark.parametrize("far", ["left", "right"])
@pytest.mark.parametrize("name", ["noise", "tones", "bursts"])
def test_phase_delta_keeps_time_and_level_differences(name, far, mid_phase) -> None:
    waveform = torch.cat([two_ears(name, delay, gain, far=far) for delay, gain in DELAYS_AND_GAINS])
    vocoder = PerfectVocoder(waveform) if mid_phase == "vocoder" else None
    back = rebuild("dualspec_d", waveform, mode="phase_delta", mid_phase=mid_phase, vocoder=vocoder)
    assert_cues_kept(back, waveform)


def test_phase_delta_keeps_the_cues_whatever_the_vocoder_says() -> None:
    """A vocoder whose phase is its own (other noise, wrong level) changes neither ITD nor ILD."""
    waveform = torch.cat([two_ears("noise", delay, gain) for delay, gain in DELAYS_AND_GAINS])
    other = 0.02 * torch.randn(3, NUM_SAMPLES, generator=torch.Generator().manual_seed(9))
    for mel_config in (CENTERED, VOCODER):
        back = rebuild("dualspec", waveform, mel_config, mode="phase_delta", vocoder=lambda mel: other)
        assert (itd_us(back) - itd_us(waveform)).abs().max() < 30
        assert (ild_db(back) - ild_db(waveform)).abs().max() < 1.0
        assert (log_mel(back, CENTERED) - log_mel(waveform, CENTERED)).mean().abs() < 0.25


def test_phase_delta_takes_the_levels_of_the_bands() -> None:
    waveform = two_ears("noise", 5.3, -8.0)
    for vocoder in (PerfectVocoder(waveform), lambda mel: 0.3 * PerfectVocoder(waveform)(mel)):
        back = rebuild("dualspec", waveform, mode="phase_delta", vocoder=vocoder)
        assert (log_mel(back, CENTERED) - log_mel(waveform, CENTERED)).abs().mean() < 0.05


@pytest.mark.parametrize("mid_phase", ["stft", "griffin_lim", "vocoder"])
def test_phase_delta_keeps_the_cues_of_a_real_head(shared_data: Path, mid_phase) -> None:
    hrir_set = load_sofa(shared_data / "hrir" / "fabian.sofa")
    azimuths_deg = torch.arange(0, 360, 30, dtype=torch.float64)
    waveform = render(source("noise").expand(12, -1), hrir_set.at(azimuths_deg))
    vocoder = PerfectVocoder(waveform) if mid_phase == "vocoder" else None
    back = rebuild("dualspec_d", waveform, mode="phase_delta", mid_phase=mid_phase, vocoder=vocoder)
    assert_cues_kept(back, waveform)
    assert itd_us(back)[3] < -400  # 90 degrees: the left ear is first
    assert ild_db(back)[3] > 3


def test_mirrored_ears_give_mirrored_sound_and_gain_passes_through() -> None:
    waveform = two_ears("noise", 5.3, -8.0)
    options = {"mode": "phase_delta", "mid_phase": "griffin_lim"}
    back = rebuild("dualspec_d", waveform, **options)
    torch.testing.assert_close(rebuild("dualspec_d", waveform.flip(1), **options), back.flip(1))
    louder = rebuild("dualspec_d", 2 * waveform, **options)
    torch.testing.assert_close(louder, 2 * back, atol=2e-3, rtol=0)


def test_silence_stays_silent() -> None:
    silent = torch.zeros(1, 2, NUM_SAMPLES)
    for mode, mid_phase in (("paper", "vocoder"), ("phase_delta", "stft"), ("phase_delta", "griffin_lim")):
        assert rebuild("dualspec_d", silent, mode=mode, mid_phase=mid_phase).abs().max() < 1e-4


def test_near_ear_and_shared_framing() -> None:
    mels = torch.tensor([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]])[:, :, None, None].expand(3, 2, 4, 8)
    assert near_ear(mels).tolist() == [0, 1, 0]
    assert shares_framing(CENTERED, STFT)
    assert not shares_framing(VOCODER, STFT)
    assert not shares_framing(MelConfig(n_fft=512, win_length=512, hop_length=256), STFT)


def test_wrong_parts_are_refused() -> None:
    waveform = two_ears("noise", 1.0, -1.0)
    spectra = {"log_mel": log_mel(waveform, CENTERED), "stft": stft(waveform, STFT)}
    common = {"num_samples": NUM_SAMPLES, "stft_config": STFT, "mel_config": CENTERED}
    with pytest.raises(ValueError, match="variant must be one of mel_base"):
        reconstruct("tango", **spectra, **common)
    with pytest.raises(ValueError, match="mode must be one of paper"):
        reconstruct("dualspec", mode="merge", **spectra, **common)
    with pytest.raises(ValueError, match="mid_phase must be one of vocoder"):
        reconstruct("dualspec", mid_phase="mel", **spectra, **common)
    with pytest.raises(ValueError, match="log_mel must be None for stft_base, got a tensor"):
        reconstruct("stft_base", **spectra, **common)
    with pytest.raises(ValueError, match="stft must be given for dualspec, got None"):
        reconstruct("dualspec", log_mel=spectra["log_mel"], **common)
    with pytest.raises(ValueError, match="mode must be 'paper' for stft_base"):
        reconstruct("stft_base", stft=spectra["stft"], mode="phase_delta", **common)
    with pytest.raises(ValueError, match="vocoder must be given here"):
        reconstruct("dualspec", **spectra, **common)
    with pytest.raises(ValueError, match=r"log_mel must be of shape \(B, 2, 160, 64\), got \(1, 2, 159, 64\)"):
        reconstruct("dualspec_d", log_mel=spectra["log_mel"][:, :, 1:], stft=spectra["stft"], **common)
    with pytest.raises(ValueError, match="vocoder must return at least 40960 samples, got 100"):
        reconstruct("dualspec", vocoder=lambda mel: torch.zeros(len(mel), 100), **spectra, **common)
    with pytest.raises(ValueError, match="mel_config must share the STFT's framing for dualspec_d"):
        rebuild("dualspec_d", waveform, VOCODER)

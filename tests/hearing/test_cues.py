"""Interaural cues against closed forms, computed and measured heads."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT, lateral_side, sector_grid_deg
from dualspec.audio.binaural import render
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head
from dualspec.hearing.cues import audible, band_cues, cue_errors, erb_edges_hz, interaural_cues, target_cues

RATE = 16000


def noise(seed: int, *shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def itd_us(waveform: Tensor, sample_rate: int) -> Tensor:
    return interaural_cues(waveform, sample_rate).itd_us


def delayed(waveform: Tensor, delay_s: float, sample_rate: int = RATE) -> Tensor:
    """Delay by any fraction of a sample: a phase ramp, with silence around so that nothing wraps."""
    padded = torch.nn.functional.pad(waveform, (200, 200))
    frequency = torch.fft.rfftfreq(padded.shape[-1], 1.0 / sample_rate, dtype=torch.float64)
    ramp = torch.polar(torch.ones_like(frequency), -2.0 * math.pi * frequency * delay_s)
    return torch.fft.irfft(torch.fft.rfft(padded) * ramp, n=padded.shape[-1])


def ears(waveform: Tensor, left_delay_us: float, right_delay_us: float = 0.0) -> Tensor:
    return torch.stack([delayed(waveform, left_delay_us * 1e-6), delayed(waveform, right_delay_us * 1e-6)])


@pytest.fixture(scope="module")
def fabian(shared_data: Path) -> HrirSet:
    return load_sofa(shared_data / "hrir" / "fabian.sofa")


@pytest.mark.parametrize("delay_us", [-937.0, -700.0, -62.5, -31.25, -1.0, 0.0, 3.7, 62.5, 250.1, 777.7, 950.0])
@pytest.mark.parametrize("num_samples", [1600, 16000, 81920])
def test_a_pure_delay_is_the_time_difference(delay_us: float, num_samples: int) -> None:
    cues = interaural_cues(ears(noise(1, num_samples), delay_us), RATE)
    assert abs(float(cues.itd_us) - delay_us) < 0.5
    assert abs(float(cues.ild_db)) < 0.02
    assert float(cues.coherence) > 0.999


def test_the_left_ear_first_is_negative() -> None:
    source = noise(2, 8000)
    assert float(itd_us(ears(source, 0.0, 300.0), RATE)) == pytest.approx(-300.0, abs=0.5)
    assert float(itd_us(ears(source, 300.0, 0.0), RATE)) == pytest.approx(300.0, abs=0.5)


def test_a_delay_beyond_any_head_ends_at_the_edge_of_the_search() -> None:
    assert abs(float(itd_us(ears(noise(3, 16000), 1100.0), RATE))) <= 1000.0


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_pure_delay_at_other_rates(rate: int) -> None:
    source = noise(4, rate)
    pair = torch.stack([delayed(source, 0.0, rate), delayed(source, 412e-6, rate)])
    assert float(itd_us(pair, rate)) == pytest.approx(-412.0, abs=0.5)


@pytest.mark.parametrize("gain_db", [-30.0, -6.0, 0.0, 0.1, 20.0])
def test_a_pure_gain_is_the_level_difference(gain_db: float) -> None:
    source = noise(5, 16000)
    pair = torch.stack([source * 10 ** (gain_db / 20), source])
    cues = interaural_cues(pair, RATE)
    assert float(cues.ild_db) == pytest.approx(gain_db, abs=1e-9)
    assert float(cues.itd_us) == pytest.approx(0.0, abs=1e-6)
    assert float(cues.coherence) == pytest.approx(1.0, abs=1e-9)


def test_unrelated_ears_have_no_coherence() -> None:
    assert float(interaural_cues(noise(6, 20, 2, 81920), RATE).coherence.max()) < 0.06


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_coherence_is_the_share_of_common_power(share: float) -> None:
    common, own = noise(7, 81920), noise(8, 2, 81920)
    pair = share**0.5 * common + (1 - share) ** 0.5 * own
    assert float(interaural_cues(pair, RATE).coherence) == pytest.approx(share, abs=0.04)


def test_swapped_ears_mirror_the_cues() -> None:
    pair = ears(noise(9, 16000), -412.0) * torch.tensor([[1.0], [0.3]])
    straight, swapped = interaural_cues(pair, RATE), interaural_cues(pair.flip(0), RATE)
    assert float(swapped.itd_us) == pytest.approx(-float(straight.itd_us), abs=1e-6)
    assert float(swapped.ild_db) == pytest.approx(-float(straight.ild_db), abs=1e-9)
    assert float(swapped.coherence) == pytest.approx(float(straight.coherence), abs=1e-9)


def test_level_and_silence_around_change_nothing() -> None:
    pair = ears(noise(10, 4000), 318.0)
    padded = torch.nn.functional.pad(0.01 * pair, (30000, 40000))
    for name, tolerance in (("itd_us", 0.5), ("ild_db", 1e-9), ("coherence", 1e-3)):
        before, after = (getattr(interaural_cues(sound, RATE), name) for sound in (pair, padded))
        assert float(after) == pytest.approx(float(before), abs=tolerance)


def test_a_click_a_tone_and_a_loud_hum_over_noise_keep_the_delay() -> None:
    time = torch.arange(16000, dtype=torch.float64) / RATE
    click = torch.zeros(16000, dtype=torch.float64)
    click[5000] = 0.5
    sounds = {
        "click": click,
        "tone": torch.sin(2 * math.pi * 440 * time) * torch.hann_window(16000, dtype=torch.float64),
        "hum": 0.3 * torch.sin(2 * math.pi * 200 * time) + 0.1 * noise(11, 16000),
    }
    for name, source in sounds.items():
        assert float(itd_us(ears(source, -512.0), RATE)) == pytest.approx(-512.0, abs=1.0), name


def test_independent_noise_at_both_ears_moves_the_delay_little() -> None:
    clean = ears(noise(12, 81520), 640.0)
    for snr_db, limit_us in ((20, 5.0), (10, 15.0), (0, 40.0)):
        noisy = clean + 10 ** (-snr_db / 20) * noise(13, *clean.shape)
        assert float(itd_us(noisy, RATE)) == pytest.approx(640.0, abs=limit_us)


def test_a_batch_equals_its_clips() -> None:
    batch = torch.stack([ears(noise(20 + i, 9000), 100.0 * i) for i in range(6)]).reshape(2, 3, 2, -1)
    cues = interaural_cues(batch.float(), RATE)
    assert cues.itd_us.shape == cues.ild_db.shape == cues.coherence.shape == cues.audible.shape == (2, 3)
    assert cues.itd_us.dtype == torch.float64
    one = interaural_cues(batch.float()[1, 2], RATE)
    assert float(cues.itd_us[1, 2]) == pytest.approx(float(one.itd_us), abs=1e-6)
    assert one.itd_us.shape == ()


def test_silent_clips_are_refused_or_masked() -> None:
    batch = noise(30, 3, 2, 8000)
    batch[1, LEFT] = 0
    with pytest.raises(ValueError, match=r"audible in both ears .* clip 1 of 3"):
        interaural_cues(batch, RATE)
    with pytest.raises(ValueError, match="audible in both ears"):
        itd_us(torch.zeros(2, 8000), RATE)
    cues = interaural_cues(batch, RATE, allow_silent=True)
    assert cues.audible.tolist() == audible(batch).tolist() == [True, False, True]
    for values in (cues.itd_us, cues.ild_db, cues.coherence):
        assert values.isnan().tolist() == [False, True, False]


def test_a_high_beep_has_a_level_but_no_delay() -> None:
    time = torch.arange(16000, dtype=torch.float64) / RATE
    beep = torch.hann_window(16000, dtype=torch.float64) * torch.sin(2 * math.pi * 4000 * time)
    cues = interaural_cues(torch.stack([0.5 * beep, 0.25 * beep]), RATE)
    assert bool(cues.audible) and not bool(cues.timed)
    assert math.isnan(float(cues.itd_us)) and math.isnan(float(cues.coherence))
    assert float(cues.ild_db) == pytest.approx(20 * math.log10(2), abs=1e-9)


@pytest.mark.parametrize("shape", [(8000,), (1, 8000), (4, 3, 8000), (2, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(..., 2, S\)"):
        interaural_cues(torch.zeros(shape), RATE)


def test_bad_numbers_and_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        interaural_cues(torch.full((2, 800), math.nan), RATE)
    with pytest.raises(ValueError, match="floating point"):
        interaural_cues(torch.zeros(2, 800, dtype=torch.int16), RATE)
    for band_hz in ((1200.0, 150.0), (0.0, 100.0), (150.0, 9000.0)):
        with pytest.raises(ValueError, match="band_hz must ascend"):
            interaural_cues(noise(31, 2, 800), RATE, band_hz=band_hz)
    with pytest.raises(ValueError, match="band_hz must be wider"):
        interaural_cues(noise(31, 2, 800), RATE, band_hz=(1000.0, 1000.1))


def test_erb_edges() -> None:
    edges = erb_edges_hz(100.0, 7500.0, 24)
    widths = [high - low for low, high in pairwise(edges)]
    assert len(edges) == 25 and edges[0] == pytest.approx(100.0) and edges[-1] == pytest.approx(7500.0)
    assert widths == sorted(widths) and widths[0] < 60 and widths[-1] > 500
    with pytest.raises(ValueError, match="low_hz < high_hz"):
        erb_edges_hz(500.0, 100.0)


def test_a_pure_delay_and_gain_in_every_band() -> None:
    pair = ears(noise(40, 40000), -655.0) * torch.tensor([[2.0], [1.0]])
    cues = band_cues(pair[None], RATE)
    middle = torch.tensor([0.5 * (low + high) for low, high in pairwise(erb_edges_hz())])
    assert cues.itd_us.shape == (1, 24)
    assert torch.equal(cues.timed[0], middle <= 1500.0)
    assert torch.equal(cues.itd_us.isnan(), ~cues.timed)
    assert float((cues.itd_us[cues.timed] + 655.0).abs().max()) < 2.0
    assert float((cues.ild_db - 20 * math.log10(2)).abs().max()) < 0.05
    assert float(cues.coherence.min()) > 0.99


def test_unrelated_ears_have_little_coherence_in_wide_bands_and_no_level() -> None:
    cues = band_cues(noise(41, 4, 2, 81920), RATE, edges_hz=(500.0, 1500.0, 3500.0, 7500.0))
    assert float(cues.coherence.max()) < 0.1
    assert float(cues.ild_db.abs().max()) < 0.3


def test_an_empty_band_has_no_cues() -> None:
    time = torch.arange(32000, dtype=torch.float64) / RATE
    tone = torch.hann_window(32000, dtype=torch.float64) * torch.sin(2 * math.pi * 500 * time)
    cues = band_cues(torch.stack([tone, tone]), RATE, edges_hz=(200.0, 400.0, 600.0, 3000.0))
    assert cues.audible.tolist() == [False, True, False]
    assert cues.ild_db.isnan().tolist() == cues.coherence.isnan().tolist() == [True, False, True]


def test_the_delay_of_a_spherical_head_lies_among_its_phase_delays() -> None:
    head = spherical_head(ear_azimuth_deg=90.0)
    azimuths = sector_grid_deg(24)
    spectrum = torch.fft.rfft(head.at(azimuths).double(), n=RATE)[..., :1201]  # one bin per Hz
    turn = torch.angle(spectrum[:, LEFT] * spectrum[:, RIGHT].conj()).numpy()
    frequency = np.arange(150, 1201)
    phase_delay_us = -np.unwrap(turn, axis=-1)[:, 150:] / (2 * np.pi * frequency) * 1e6
    for azimuth, found, delays in zip(azimuths, target_cues(head, azimuths).itd_us, phase_delay_us, strict=True):
        assert delays.min() - 1.0 < float(found) < delays.max() + 1.0
        lateral = math.asin(math.sin(math.radians(azimuth)))
        woodworth_us = 0.0875 / 343.0 * (abs(lateral) + math.sin(abs(lateral))) * 1e6
        assert abs(float(found)) > woodworth_us - 1.0  # the model's low frequencies are later than Woodworth's ray


def test_targets_of_a_mirrored_head_mirror() -> None:
    cues = target_cues(spherical_head(), [30.0, 75.0, 330.0, 285.0])
    assert torch.allclose(cues.itd_us[:2], -cues.itd_us[2:], atol=0.1)
    assert torch.allclose(cues.ild_db[:2], -cues.ild_db[2:], atol=1e-3)
    with pytest.raises(ValueError, match="azimuth"):
        target_cues(spherical_head(num_directions=12), [45.0])


def test_cue_errors_are_absolute_and_absent_where_a_cue_is() -> None:
    first = interaural_cues(ears(noise(51, 8000), 100.0)[None], RATE)
    second = interaural_cues(ears(noise(51, 8000), -50.0)[None] * torch.tensor([[2.0], [1.0]]), RATE)
    errors = cue_errors(first, second)
    assert float(errors.itd_error_us) == pytest.approx(150.0, abs=1.0)
    assert float(errors.ild_error_db) == pytest.approx(6.0206, abs=0.02)
    assert float(errors.coherence_error) == pytest.approx(0.0, abs=1e-3)
    nothing = interaural_cues(torch.zeros(1, 2, 8000), RATE, allow_silent=True)
    assert math.isnan(float(cue_errors(first, nothing).itd_error_us))


def test_the_cues_of_a_measured_head(fabian: HrirSet) -> None:
    cues = target_cues(fabian, sector_grid_deg())
    for azimuth, itd, ild, common in zip(sector_grid_deg(), cues.itd_us, cues.ild_db, cues.coherence, strict=True):
        side = lateral_side(azimuth)
        sign = {"left": 1.0, "right": -1.0, "median": 0.0}[side]
        if side == "median":
            assert abs(float(itd)) < 60 and abs(float(ild)) < 2
        else:
            assert -sign * float(itd) > 250 and sign * float(ild) > 4
        assert abs(float(itd)) < 850 and abs(float(ild)) < 22
        assert float(common) > 0.9
    left, right = cues.itd_us[3], cues.itd_us[9]
    assert -850 < float(left) < -700 and 700 < float(right) < 850
    assert float(cues.ild_db[3]) > 8 and float(cues.ild_db[9]) < -8


@pytest.mark.parametrize("name", ["fabian", "hutubs_pp91"])
def test_the_delay_of_measured_heads_by_another_way(shared_data: Path, name: str) -> None:
    """Peak of the time-domain cross-correlation after a Butterworth band-pass, 32 times oversampled."""
    signal = pytest.importorskip("scipy.signal")
    head = load_sofa(shared_data / "hrir" / f"{name}.sofa")
    sections = signal.butter(4, [150, 1200], "bandpass", fs=RATE, output="sos")
    pairs = np.pad(head.at(sector_grid_deg()).double().numpy(), ((0, 0), (0, 0), (2000, 2000)))
    pairs = signal.resample_poly(signal.sosfiltfilt(sections, pairs), 32, 1, axis=-1)
    middle, reach = pairs.shape[-1] - 1, 32 * RATE // 1000
    lags = [
        signal.correlate(left, right)[middle - reach : middle + reach + 1].argmax() - reach for left, right in pairs
    ]
    difference_us = torch.tensor(lags) / (32 * RATE) * 1e6 - target_cues(head, sector_grid_deg()).itd_us
    assert float(difference_us.abs().max()) < 30.0 and float(difference_us.abs().median()) < 5.0


@pytest.mark.parametrize("name", ["fabian", "hutubs_pp91"])
def test_rendered_noise_has_the_bands_of_its_head(shared_data: Path, name: str) -> None:
    head, azimuths, edges = load_sofa(shared_data / "hrir" / f"{name}.sofa"), [60.0, 180.0, 300.0], erb_edges_hz()
    responses = head.at(azimuths)
    target = band_cues(responses, RATE, edges_hz=edges)
    heard = band_cues(render(noise(70, 40000).expand(3, -1), responses), RATE, edges_hz=edges)
    errors = cue_errors(target, heard)
    assert errors.ild_error_db.shape == (3, 24) and torch.equal(target.timed, heard.timed)
    assert float(errors.ild_error_db.max()) < 2.5 and float(errors.ild_error_db.median()) < 0.4
    assert float(errors.itd_error_us[target.timed].max()) < 60.0
    high, low = target.ild_db[:, -6:].abs().mean(-1), target.ild_db[:, :6].abs().mean(-1)
    assert bool((high > 3 * low).all()), "heads shadow high frequencies more"
    assert bool((target.ild_db[0] > -1).all()) and bool((target.ild_db[2] < 1).all())


def test_real_recordings_carry_the_delay_of_the_head(fabian: HrirSet, shared_data: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    azimuths = (30.0, 90.0, 240.0)
    flat = target_cues(fabian, azimuths)
    errors = []
    for path in sorted((shared_data / "esc50" / "audio").glob("4-*.opus"))[::25]:
        sound, _ = soundfile.read(path)
        ears = render(torch.from_numpy(sound)[:40000].expand(3, -1), fabian.at(azimuths))
        errors.append(cue_errors(flat, interaural_cues(ears, RATE)))
    itd_error_us = torch.stack([error.itd_error_us for error in errors]).flatten()
    assert len(itd_error_us) >= 30
    assert float(itd_error_us.nanmedian()) < 5.0
    assert float((itd_error_us > 100).double().mean()) < 0.05


def test_ears_are_not_confused() -> None:
    pair = torch.zeros(2, 16000, dtype=torch.float64)
    source = noise(60, 16000)
    pair[LEFT], pair[RIGHT] = source, 0.5 * source.roll(8)
    cues = interaural_cues(pair, RATE)
    assert float(cues.itd_us) == pytest.approx(-500.0, abs=1.0) and float(cues.ild_db) > 5.9

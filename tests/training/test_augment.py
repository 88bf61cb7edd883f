"""What each change of a training clip keeps, what it moves, and what it leaves out."""

import math

import pytest
import torch
from torch import Tensor

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import render
from dualspec.audio.hrir import spherical_head
from dualspec.hearing.cues import interaural_cues
from dualspec.training.augment import AugmentConfig, Augmenter, quantize, stretched_spectrum, vocode
from dualspec.training.task import StepRandom

RATE, SAMPLES = 16_000, 8_192
HEAD = spherical_head()
HRIRS = HEAD.at(sector_grid_deg())
LATERAL = torch.tensor([1, 2, 3, 4, 7, 8, 9, 10])


def random(rows: slice = slice(0, 8), step: int = 0) -> StepRandom:
    return StepRandom(5, step, rows, 8)


def mono(seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(8, SAMPLES, generator=torch.Generator().manual_seed(seed))


def binaural() -> Tensor:
    return render(mono(), HRIRS[LATERAL])


def augmenter(**chances: object) -> Augmenter:
    return Augmenter(AugmentConfig(**chances), RATE)  # type: ignore[arg-type]


def itd_us(ears: Tensor) -> Tensor:
    return interaural_cues(ears, RATE).itd_us


def ild_db(ears: Tensor) -> Tensor:
    return interaural_cues(ears, RATE).ild_db


def coherence(ears: Tensor) -> Tensor:
    return interaural_cues(ears, RATE).coherence


def test_by_default_nothing_changes_and_nothing_is_drawn() -> None:
    none, draws = augmenter(), random()
    clips, hrirs = binaural(), HRIRS.expand(8, -1, -1, -1)
    assert torch.equal(none.change_source(mono(), None, draws), mono())
    assert torch.equal(none.change_heads(hrirs, draws), hrirs)
    assert torch.equal(none.render(mono(), hrirs, LATERAL, draws), clips)
    assert torch.equal(none.change_ears(clips, draws), clips)
    kept, targets = none.remove_direction(clips, LATERAL, draws)
    assert torch.equal(kept, clips) and torch.equal(targets.argmax(1), LATERAL) and torch.all(targets.sum(1) == 1)
    assert torch.equal(draws.uniform(), random().uniform())


def test_a_common_equalizer_keeps_time_and_level_differences() -> None:
    changed = augmenter(equalizer=1.0, band_limit=1.0, low_pass_hz=(4000.0, 5000.0)).change_source(
        mono(), None, random()
    )
    assert (changed - mono()).square().mean() > 0.1 * mono().square().mean()
    spectrum = torch.fft.rfft(changed).abs().square()
    frequency = torch.fft.rfftfreq(SAMPLES, 1 / RATE)
    assert (
        spectrum[:, frequency > 7900].mean() < 1e-2 * torch.fft.rfft(mono()).abs().square()[:, frequency > 7900].mean()
    )
    ears, same = render(changed, HRIRS[LATERAL]), binaural()
    assert torch.allclose(itd_us(ears), itd_us(same), atol=30)  # the sphere's delay varies a little
    for low, high in ((500, 1000), (1500, 2500)):  # level differences depend on frequency, so band by band
        kept, was = (_band_ild(clip, low, high) for clip in (ears, same))
        assert torch.allclose(kept, was, atol=1.0)


def _band_ild(clips: Tensor, low: float, high: float) -> Tensor:
    frequency = torch.fft.rfftfreq(clips.shape[-1], 1 / RATE)
    power = torch.fft.rfft(clips)[..., (frequency >= low) & (frequency < high)].abs().square().sum(-1)
    return 10 * (power[:, 0] / power[:, 1]).log10()


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_a_stretched_head_scales_its_delay_and_keeps_its_level(factor: float) -> None:
    stretched = torch.fft.irfft(stretched_spectrum(HRIRS[None], torch.tensor([factor]), 257))[0]
    was, now = (interaural_cues(responses[LATERAL], RATE) for responses in (HRIRS, stretched))
    assert torch.allclose(now.itd_us, factor * was.itd_us, rtol=0.03)
    if factor == 1.0:
        assert torch.allclose(stretched[..., :128], HRIRS, atol=1e-4)


def test_other_heads_move_the_cues_a_little() -> None:
    hrirs = HRIRS.expand(8, -1, -1, -1)
    changed = augmenter(head=1.0).change_heads(hrirs, random())
    rows = torch.arange(8)
    was, now = (interaural_cues(set_[rows, LATERAL], RATE) for set_ in (hrirs, changed))
    assert (was.itd_us.sign() == now.itd_us.sign()).all() and (was.ild_db.sign() == now.ild_db.sign()).all()
    assert 5 < (was.itd_us - now.itd_us).abs().mean() < 120
    half = augmenter(head=0.5).change_heads(hrirs, random())
    same = [torch.equal(half[row, ..., :128], hrirs[row]) for row in range(8)]
    assert any(same) and not all(same)


def test_a_room_adds_what_it_says() -> None:
    hrirs = HRIRS.expand(8, -1, -1, -1)
    dry = augmenter().render(mono(), hrirs, LATERAL, random())
    wet = augmenter(room=1.0, room_db=(6.0, 6.0)).render(mono(), hrirs, LATERAL, random())
    ratio_db = 10 * (dry.square().mean((1, 2)) / (wet - dry).square().mean((1, 2))).log10()
    assert torch.allclose(ratio_db, torch.full_like(ratio_db, 6.0), atol=2.5)  # the clip is finite, its tail is cut
    assert (coherence(wet) < coherence(dry) - 0.02).all()
    assert (itd_us(wet).sign() == itd_us(dry).sign()).double().mean() >= 7 / 8


def test_ear_errors_stay_within_their_size() -> None:
    changed = augmenter(ear_errors=1.0).change_ears(binaural(), random())
    difference = (ild_db(changed) - ild_db(binaural())).abs()
    assert difference.max() < 6 and difference.mean() > 0.3
    assert torch.allclose(itd_us(changed), itd_us(binaural()), atol=25)  # a gain without phase


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_noise_has_the_asked_level(snr_db: float) -> None:
    noisy = augmenter(noise=1.0, noise_snr_db=(snr_db, snr_db)).change_ears(binaural(), random())
    added = (noisy - binaural()).square().mean((1, 2))
    assert torch.allclose(10 * (binaural().square().mean((1, 2)) / added).log10(), torch.full((8,), snr_db), atol=0.01)


def test_vocoding_keeps_the_ears_together_when_only_the_common_phase_is_lost() -> None:
    spectrum = torch.complex(torch.randn(2, 2, 9, 256, generator=torch.Generator().manual_seed(1)), torch.ones(1))
    noise = torch.randn(2, 3, 9, 256, generator=torch.Generator().manual_seed(2))
    changed = vocode(spectrum, torch.tensor([0.0, 1.0, 0.0]).expand(2, 3), noise)
    assert torch.allclose(changed.abs(), spectrum.abs(), rtol=1e-4)
    cross = [pair[:, 0] * pair[:, 1].conj() for pair in (changed, spectrum)]
    assert torch.allclose(*cross, atol=1e-3)
    assert torch.allclose(vocode(spectrum, torch.zeros(2, 3), noise), spectrum, atol=1e-5)
    smooth = vocode(spectrum, torch.tensor([1.0, 0.0, 0.0]).expand(2, 3), noise).abs()
    assert smooth.diff(dim=-1).abs().mean() < 0.3 * spectrum.abs().diff(dim=-1).abs().mean()


def test_quantising_makes_holes_and_keeps_what_is_loud() -> None:
    spectrum = torch.fft.rfft(torch.randn(2, 2, 9, 510, generator=torch.Generator().manual_seed(3)))
    coarse = quantize(spectrum, torch.tensor([1.0, 0.0, 0.0]).expand(2, 3))
    assert 0.05 < (coarse == 0).double().mean() < 0.6
    kept = coarse != 0
    assert torch.allclose(coarse[kept].angle(), spectrum[kept].angle(), atol=1e-4)
    fine = quantize(spectrum, torch.tensor([0.0, 1.0, 0.0]).expand(2, 3))
    error_db = 10 * math.log10(float((fine - spectrum).abs().square().mean() / spectrum.abs().square().mean()))
    assert -40 < error_db < -20


def test_a_real_codec_keeps_the_delay() -> None:
    for step in range(2):
        coded = augmenter(codec=1.0, codec_bit_rates=(96_000, 96_000)).change_ears(binaural(), random(step=step))
        assert torch.allclose(itd_us(coded), itd_us(binaural()), atol=60)
        assert not torch.allclose(coded, binaural(), atol=1e-3)


def test_what_has_no_direction_is_not_given_one() -> None:
    directions = torch.tensor([0, 2, 3, 4, 6, 8, 9, 10])
    clips = render(mono(), HRIRS[directions])
    changed, targets = augmenter(no_direction=1.0).remove_direction(clips, directions, random(step=1))
    assert torch.allclose(targets.sum(1), torch.ones(8))
    median = directions % 6 == 0
    assert torch.equal(changed[median], clips[median]) and (targets[median].amax(1) == 1).all()
    unrelated = targets.amax(1) < 0.1
    undelayed = ~median & ~unrelated
    assert unrelated.any() and undelayed.any()
    assert (coherence(changed[unrelated]) < 0.5).all()
    assert (itd_us(changed[undelayed]).abs() < 40).all()
    assert torch.allclose(ild_db(changed), ild_db(clips), atol=1e-3)
    assert set(targets[undelayed].topk(2).indices.flatten().tolist()) == {0, 6}


def test_draws_do_not_depend_on_the_number_of_processes() -> None:
    every = dict.fromkeys(
        ("mixture", "equalizer", "band_limit", "head", "room", "ear_errors", "vocoder", "quantizer", "noise"), 0.5
    )
    chain = augmenter(**every, no_direction=0.5)

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        draws = random(rows)
        hrirs = chain.change_heads(HRIRS.expand(8, -1, -1, -1)[rows], draws)
        source = chain.change_source(mono()[rows], mono(1)[rows], draws)
        clips = chain.change_ears(chain.render(source, hrirs, LATERAL[rows], draws), draws)
        return chain.remove_direction(clips, LATERAL[rows], draws)

    whole, targets = run(slice(0, 8))
    assert torch.isfinite(whole).all()
    for rows in (slice(0, 3), slice(3, 8)):
        part, part_targets = run(rows)
        assert torch.allclose(part, whole[rows], atol=1e-4) and torch.equal(part_targets, targets[rows])


def test_a_chance_that_meets_no_clip_changes_none() -> None:
    """A batch may be one clip: where no row is drawn, each change leaves it as it was, at each chance of the chain."""
    names = ("mixture", "equalizer", "band_limit", "head", "room", "ear_errors", "vocoder", "quantizer", "noise")
    chain = augmenter(**dict.fromkeys(names, 1e-9), codec=1e-9, no_direction=1e-9)
    draws, one = random(slice(0, 1)), slice(0, 1)
    hrirs = chain.change_heads(HRIRS[None], draws)
    source = chain.change_source(mono()[one], mono(1)[one], draws)
    clips = chain.change_ears(chain.render(source, hrirs, LATERAL[one], draws), draws)
    kept, targets = chain.remove_direction(clips, LATERAL[one], draws)
    assert torch.allclose(kept, binaural()[one], atol=1e-5) and targets.argmax() == LATERAL[0]


def test_chances_are_checked() -> None:
    with pytest.raises(ValueError, match=r"augment.room must be a chance in \[0, 1\], got 3.0"):
        AugmentConfig(room=3.0)

import math

import pytest
import torch

from dualspec.features.mel import MelConfig
from dualspec.synthesis.discriminators import (
    Judgement,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    PeriodDiscriminatorConfig,
    ResolutionDiscriminatorConfig,
)
from dualspec.synthesis.vocoder_losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    mel_l1_loss,
    multi_resolution_stft_loss,
)

PERIODS = PeriodDiscriminatorConfig(periods=(2, 3), base_channels=4, max_channels=16, num_layers=3)
RESOLUTIONS = ResolutionDiscriminatorConfig(n_ffts=(256, 512), base_channels=4, num_layers=2)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def judgements(*scores: float) -> list[Judgement]:
    return [Judgement(torch.full((2, 5), score), [torch.full((2, 3), score)]) for score in scores]


def discriminators() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [MultiPeriodDiscriminator(PERIODS), MultiResolutionDiscriminator(RESOLUTIONS)]


def test_discriminators_judge_each_clip_on_its_own() -> None:
    waveform = noise(3, 4001)
    for discriminator in discriminators():
        together, alone = discriminator(waveform), discriminator(waveform[1:2])
        assert len(together) == 2
        for many, one in zip(together, alone, strict=True):
            assert many.score.shape[0] == 3
            assert len(many.features) >= 3
            torch.testing.assert_close(many.score[1:2], one.score)


def test_gradients_reach_every_weight_and_the_waveform_even_at_silence() -> None:
    for discriminator in discriminators():
        waveform = torch.cat([noise(1, 4096), torch.zeros(1, 4096)]).requires_grad_()
        adversarial_loss(discriminator(waveform)).backward()
        assert waveform.grad.isfinite().all()
        assert waveform.grad[0].abs().sum() > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())


def test_a_discriminator_learns_to_tell_tones_from_noise() -> None:
    tone = (0.2 * torch.sin(2 * math.pi * 440 * torch.arange(2048) / 16000)).expand(2, -1)
    for discriminator in discriminators():
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
        for step in range(50):
            loss = discriminator_loss(discriminator(tone), discriminator(noise(2, 2048, seed=step)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        made, real = discriminator(noise(2, 2048, seed=99)), discriminator(tone)
        assert all(r.score.mean() > m.score.mean() + 0.3 for r, m in zip(real, made, strict=True))


def test_least_squares_and_hinge_have_their_closed_forms() -> None:
    real, made = judgements(1.0, 0.5), judgements(0.0, 0.5)
    assert discriminator_loss(real, made).item() == pytest.approx((0 + 0.25 + 0.25) / 2)
    assert adversarial_loss(made).item() == pytest.approx((1 + 0.25) / 2)
    assert discriminator_loss(judgements(2.0), judgements(-2.0), "hinge").item() == 0
    assert discriminator_loss(judgements(0.0), judgements(0.5), "hinge").item() == pytest.approx(2.5)
    assert adversarial_loss(judgements(0.5), "hinge").item() == pytest.approx(-0.5)


def test_feature_matching_is_relative_and_leaves_the_reference_alone() -> None:
    assert feature_matching_loss(judgements(2.0), judgements(2.0)).item() == 0
    assert feature_matching_loss(judgements(2.0), judgements(3.0)).item() == pytest.approx(0.5)
    reference = [Judgement(torch.ones(1), [torch.ones(2, 3, requires_grad=True)])]
    estimate = [Judgement(torch.ones(1), [torch.zeros(2, 3, requires_grad=True)])]
    feature_matching_loss(reference, estimate).backward()
    assert reference[0].features[0].grad is None
    assert estimate[0].features[0].grad is not None


def test_waveform_losses_vanish_on_equal_sounds_and_grow_with_the_difference() -> None:
    sound = noise(2, 8192)
    for loss in (lambda a, b: mel_l1_loss(a, b, MelConfig()), multi_resolution_stft_loss):
        assert loss(sound, sound).item() == pytest.approx(0.0, abs=1e-6)
        assert loss(sound, 1.1 * sound) < loss(sound, 2.0 * sound)
    assert mel_l1_loss(sound, 2 * sound, MelConfig()).item() == pytest.approx(math.log(2), rel=1e-3)
    silent = torch.zeros(2, 8192, requires_grad=True)
    (mel_l1_loss(sound, silent, MelConfig()) + multi_resolution_stft_loss(sound, silent)).backward()
    assert silent.grad.isfinite().all()
    still = torch.zeros(2, 8192, requires_grad=True)
    multi_resolution_stft_loss(torch.zeros(2, 8192), still).backward()
    assert still.grad.isfinite().all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of least_squares, hinge"):
        adversarial_loss(judgements(1.0), "wasserstein")
    with pytest.raises(ValueError, match="reference and estimate must be judged by the same discriminators"):
        discriminator_loss(judgements(1.0), judgements(1.0, 2.0))
    with pytest.raises(ValueError, match="estimate must have the shape of the reference"):
        multi_resolution_stft_loss(noise(1, 4096), noise(1, 4128))
    with pytest.raises(ValueError, match="periods must be positive"):
        PeriodDiscriminatorConfig(periods=())
    with pytest.raises(ValueError, match="base_channels must be in"):
        PeriodDiscriminatorConfig(base_channels=512)
    with pytest.raises(ValueError, match="n_ffts must be multiples of 4"):
        ResolutionDiscriminatorConfig(n_ffts=(255,))
    with pytest.raises(ValueError, match="num_layers must be positive"):
        ResolutionDiscriminatorConfig(num_layers=0)


def test_silent_clip_does_not_drown_its_batch() -> None:
    """A padded corpus has silent crops; a ratio per clip would be thousands of times the others'."""
    reference = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))
    reference[1] = 0.0
    estimate = 0.9 * reference
    estimate[1] = 0.001
    assert float(multi_resolution_stft_loss(reference, estimate)) < 10.0

from dataclasses import replace

import pytest
import torch

from dualspec.features.mel import log_mel
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.latents.adversary import PatchDiscriminator, PatchDiscriminatorConfig
from dualspec.latents.losses import (
    VaeLossConfig,
    adversary_active,
    group_channels,
    hinge_discriminator_loss,
    kl_divergence,
    reconstruction_loss,
)
from dualspec.latents.vae import (
    AutoencoderKlConfig,
    SpectrogramVae,
    VaeConfig,
    channels_to_spectra,
    waveform_to_channels,
)
from dualspec.recipes import VAE_ROOMS, get_recipe

NUM_SAMPLES = 20_480


def clips(batch: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(batch, 2, NUM_SAMPLES, generator=torch.Generator().manual_seed(0))


def vae_config(size: str, room: str) -> VaeConfig:
    return get_recipe(f"{size}/{room}").task.vae


@pytest.mark.parametrize("size", ["mini", "tiny"])
@pytest.mark.parametrize("room", VAE_ROOMS)
def test_spectra_come_back_from_channels(size, room):
    """The channels are an invertible picture of the spectra: whatever is lost is lost by the network alone."""
    config, waveform = vae_config(size, room), clips()
    channels = waveform_to_channels(waveform, config)
    assert tuple(channels.shape[1:]) == config.input_shape(NUM_SAMPLES)
    spectra = channels_to_spectra(channels, config)
    if config.mel is not None:
        assert torch.allclose(spectra.log_mel, log_mel(waveform, config.mel), atol=1e-4)
    if config.stft is not None:
        reference = stft(waveform, config.stft)
        assert (spectra.stft - reference).abs().max() < 1e-3 * reference.abs().max() + 2 * config.log_floor
        assert (istft(spectra.stft, config.stft, NUM_SAMPLES) - waveform)[..., 512:-512].abs().max() < 2e-2


@pytest.mark.parametrize("size", ["mini", "tiny"])
@pytest.mark.parametrize("room", VAE_ROOMS)
def test_shapes_at_every_door(size, room):
    config = vae_config(size, room)
    vae = SpectrogramVae(config).eval()
    with torch.no_grad():
        latents = vae.encode(clips())
        spectra = vae.decode(latents)
    assert len(latents) == config.num_latents == (2 if room == "mono_mel_vae" else 1)
    assert all(tuple(latent.shape[1:]) == config.latent_shape(NUM_SAMPLES) for latent in latents)
    if config.mel is not None:
        assert tuple(spectra.log_mel.shape) == (2, 2, config.mel.num_frames(NUM_SAMPLES), 64)
    if config.stft is not None:
        assert tuple(spectra.stft.shape) == (2, 2, 80, 256)


def test_mono_vae_keeps_ears_apart():
    """DualSpec-P: swapping the ears of the input swaps the two latents."""
    vae = SpectrogramVae(vae_config("mini", "mono_mel_vae")).eval()
    with torch.no_grad():
        left, right = vae.encode(clips())
        swapped = vae.encode(clips().flip(1))
    assert torch.allclose(left, swapped[1], atol=1e-5)
    assert torch.allclose(right, swapped[0], atol=1e-5)


def test_latent_scale_gives_unit_variance_and_is_undone():
    config = replace(vae_config("mini", "stft_vae"), latent_scaling="per_feature", principal_channels=None)
    vae = SpectrogramVae(config).eval()
    with torch.no_grad():
        raw, _ = vae.encode_moments(waveform_to_channels(clips(8), vae.config))
        before = vae.decode(vae.encode(clips())).stft
        vae.set_latent_scale(raw)
        scaled = vae.encode(clips(8))[0]
        after = vae.decode(vae.encode(clips())).stft
    assert torch.allclose(scaled.std(dim=(0, 2)), torch.ones(8, 16), atol=1e-3)
    assert torch.allclose(before, after, atol=1e-3)
    with pytest.raises(ValueError, match="train the VAE first"):
        vae.set_latent_scale(torch.zeros(2, 8, 80, 16))


def test_posterior_draws_spread_as_the_variance_says():
    vae = SpectrogramVae(vae_config("tiny", "mel_vae")).eval()
    waveform = clips(1)
    with torch.no_grad():
        mean, log_variance = vae.encode_moments(waveform_to_channels(waveform, vae.config))
        generator = torch.Generator().manual_seed(1)
        draws = torch.stack(
            [vae.encode(waveform, lambda s: torch.randn(1, *s, generator=generator))[0] for _ in range(200)]
        )
    spread = ((draws - mean) / (0.5 * log_variance).exp()).square().mean().sqrt()
    assert abs(float(spread) - 1.0) < 0.05


def test_config_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="in_channels must be 4, got 2"):
        VaeConfig(feature="stft", stft=StftConfig(), autoencoder=AutoencoderKlConfig(in_channels=2))
    with pytest.raises(ValueError, match="must match the feature"):
        VaeConfig(feature="mel", stft=StftConfig(), autoencoder=AutoencoderKlConfig(in_channels=2))
    vae = SpectrogramVae(vae_config("mini", "mel_vae"))
    with pytest.raises(ValueError, match="multiple of 4"):
        vae.encode_moments(torch.zeros(1, 2, 81, 64))


def test_kl_is_that_of_a_gaussian():
    mean, log_variance = torch.tensor([[1.0]]), torch.tensor([[0.5]]).log() * 2  # N(1, 0.25)
    reference = torch.distributions.kl_divergence(
        torch.distributions.Normal(1.0, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(kl_divergence(mean, log_variance), reference)


@pytest.mark.parametrize("room", VAE_ROOMS)
def test_loss_groups_cover_every_channel_once(room):
    for size in ("mini", "tiny"):
        config = vae_config(size, room)
        covered = sorted(i for part in group_channels(config).values() for i in range(config.num_channels)[part])
        assert covered == list(range(config.num_channels))


def test_losing_the_level_difference_costs_more_than_losing_as_much_common_level():
    config, weights = vae_config("mini", "mel_vae"), VaeLossConfig()
    reference = waveform_to_channels(clips(), config)
    common, opposite = reference + 0.3, reference + torch.tensor([0.3, -0.3])[None, :, None, None]
    common_loss, _ = reconstruction_loss(reference, common, config, weights)
    opposite_loss, _ = reconstruction_loss(reference, opposite, config, weights)
    assert (opposite_loss > 1.2 * common_loss).all()
    assert (reconstruction_loss(reference, reference, config, weights)[0] == 0).all()


def test_adversary_waits_for_its_warm_up():
    weights = VaeLossConfig(adversarial_start_step=100, adversarial_start_fraction=0.5)
    assert not adversary_active(weights, 99, 0.9)
    assert not adversary_active(weights, 200, 0.4)
    assert adversary_active(weights, 100, 0.5)
    assert not adversary_active(VaeLossConfig(adversarial_weight=0.0, adversarial_start_step=0), 10, 0.5)


def test_discriminator_sees_patches_and_hinge_is_zero_when_sure():
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(in_channels=2, base_channels=4))
    scores = discriminator(torch.randn(3, 2, 80, 64))
    assert scores.shape[:2] == (3, 1)
    assert scores.shape[2] > 1
    assert float(hinge_discriminator_loss(torch.full((1,), 2.0), torch.full((1,), -2.0))) == 0.0
    assert float(hinge_discriminator_loss(torch.zeros(1), torch.zeros(1))) == 1.0

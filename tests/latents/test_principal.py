"""Linear autoencoders and latents in principal components."""

from dataclasses import replace

import pytest
import torch

from dualspec.latents.frame_autoencoder import FrameAutoencoder, FrameAutoencoderConfig, principal_components
from dualspec.latents.vae import SpectrogramVae, VaeConfig
from dualspec.recipes import get_recipe

SMALL = FrameAutoencoderConfig(
    in_channels=2,
    num_bins=6,
    latent_channels=2,
    latent_bins=4,
    time_compression=4,
    width=8,
    frame_width=8,
    encoder_layers=0,
    linear=True,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(rank: int, clips: int = 6, frames: int = 40) -> torch.Tensor:
    """Spectrograms (N, 2, T, 6) whose latent frames of 48 values lie in a plane of `rank` directions."""
    patches = drawn(clips, frames // 4, rank) @ drawn(rank, 48, seed=1) + 3.0
    return patches.unflatten(2, (4, 2, 6)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def test_principal_components_are_orthonormal_and_the_widest_first():
    rows = drawn(4000, 3) * torch.tensor([1.0, 5.0, 2.0]) + torch.tensor([7.0, 0.0, 0.0])
    mean, directions, std = principal_components(rows.split(700), 2)
    assert torch.allclose(directions.T @ directions, torch.eye(2), atol=1e-6)
    assert directions.abs().argmax(dim=0).tolist() == [1, 2]
    assert std.tolist() == pytest.approx([5.0, 2.0], rel=0.05)
    assert mean.tolist() == pytest.approx([7.0, 0.0, 0.0], abs=0.3)
    assert (directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_linear_autoencoder_starts_at_the_best_that_is_linear():
    """What has as many directions as latents comes back whole; of more, the error is what the others hold."""
    network = FrameAutoencoder(SMALL)
    for rank, left in ((8, 0.0), (12, 1.0)):
        channels = low_rank(rank)
        network.start_from(channels.split(4))
        with torch.no_grad():
            mean = network.encode_moments(channels)[:, :2]
            back = network.decode(mean)
        assert mean.shape == (6, 2, 10, 4)
        error = (back - channels).square().sum()
        frames = network._fold(channels).flatten(0, 1)
        variances = torch.linalg.svdvals(frames - frames.mean(dim=0)).square()
        assert float(error) == pytest.approx(float(variances[8:].sum()), rel=1e-3, abs=1e-3)
        assert bool(error > 1.0) == bool(left)


def test_an_ear_a_frame_and_a_band_stay_where_they_are():
    network = FrameAutoencoder(SMALL)
    channels = drawn(2, 2, 12, 6)
    assert torch.equal(network._unfold(network._fold(channels)), channels)


def test_a_linear_encoder_wants_more_frames_than_latents():
    with pytest.raises(ValueError, match="more than 8 latent frames, got 6"):
        FrameAutoencoder(SMALL).start_from([drawn(1, 2, 24, 6)])
    with pytest.raises(ValueError, match="must be finite"):
        FrameAutoencoder(SMALL).start_from([torch.full((1, 2, 240, 6), torch.nan)])
    with pytest.raises(ValueError, match="encoder_layers must be 0 for a linear encoder, got 2"):
        replace(SMALL, encoder_layers=2)


def principal(channels: int) -> SpectrogramVae:
    config = get_recipe("mini/stft_vae").task.vae
    return SpectrogramVae(replace(config, latent_scaling="principal", principal_channels=channels)).eval()


def test_scaled_principal_components_keep_half_their_differences_and_are_undone():
    vae = principal(8)
    latents = drawn(40, 8, 20, 16) * torch.linspace(0.1, 6.0, 8 * 16).reshape(8, 1, 16)
    vae.set_latent_scale(latents)
    (scaled,) = vae.scaled_latents(latents, latents)
    assert scaled.shape == (40, 8, 20, 16)
    std = scaled.permute(0, 2, 1, 3).flatten(0, 1).flatten(1).std(dim=0)
    assert float(std.square().mean()) == pytest.approx(1.0, abs=0.02)
    assert (std[:-1] >= std[1:] - 1e-3).all()
    raw = torch.linalg.svdvals(latents.permute(0, 2, 1, 3).flatten(2).flatten(0, 1) - vae.latent_shift.flatten())
    assert float(std[0] / std[-1]) == pytest.approx(float((raw[0] / raw[-1]).sqrt()), rel=0.02)
    assert torch.allclose(vae.unscale(scaled), latents, atol=1e-4)


def test_fewer_channels_keep_the_widest_components():
    """32 of 128 values of a latent frame, where no more vary: nothing is lost, and the denoiser has a quarter to do."""
    vae = principal(2)
    latents = (drawn(30, 20, 24) @ drawn(24, 128, seed=2)).unflatten(2, (8, 16)).permute(0, 2, 1, 3)
    with pytest.raises(ValueError, match="must vary in 32 directions"):
        vae.set_latent_scale(latents)  # they vary in 24
    with pytest.raises(ValueError, match="must be finite"):
        vae.set_latent_scale(latents * torch.nan)
    vae.set_latent_scale(latents + 1e-3 * drawn(*latents.shape, seed=3))
    (scaled,) = vae.scaled_latents(latents, latents)
    assert scaled.shape == (30, 2, 20, 16)
    assert vae.config.latent_shape(81_920) == (2, 80, 16)
    assert vae.config.moment_shape(81_920) == (8, 80, 16)
    assert torch.allclose(vae.unscale(scaled), latents, atol=0.02)


@pytest.mark.parametrize(("scaling", "kept"), [("principal", None), ("principal", 9), ("per_feature", 2)])
def test_kept_channels_are_checked(scaling: str, kept: int | None):
    config: VaeConfig = get_recipe("mini/stft_vae").task.vae
    with pytest.raises(ValueError, match="principal_channels must be 1 to 8"):
        replace(config, latent_scaling=scaling, principal_channels=kept)

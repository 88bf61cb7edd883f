from dataclasses import replace

import pytest
import torch

from dualspec.diffusion.denoiser import UnetConfig, build_denoiser
from dualspec.diffusion.transformer import DitConfig

CONFIGS = {
    "unet": UnetConfig(
        latent_shape=(4, 10, 6), cross_attention_dim=12, block_channels=(8, 16), num_heads=(1, 2), norm_groups=4
    ),
    "dit": DitConfig(
        latent_shape=(4, 10, 6),
        cross_attention_dim=12,
        width=32,
        num_layers=2,
        num_heads=2,
        mlp_width=48,
        patch_frames=2,
    ),
}
CONFIGS["dit with gains"] = replace(CONFIGS["dit"], input_gains=True)


def inputs(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 4, 10, 6, generator=generator)
    embeds = torch.randn(2, 5, 12, generator=generator)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    return latents, torch.tensor([10, 500]), embeds, mask


def trained(name: str) -> torch.nn.Module:
    """A denoiser whose zero-started output layer has been moved."""
    torch.manual_seed(0)
    module = build_denoiser(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_shape_is_kept_and_padding_of_the_text_does_not_leak(name):
    module, (latents, timesteps, embeds, mask) = trained(name), inputs()
    predicted = module(latents, timesteps, embeds, mask)
    assert predicted.shape == latents.shape
    poisoned = embeds.clone()
    poisoned[1, 3:] = 100.0
    assert torch.allclose(module(latents, timesteps, poisoned, mask), predicted, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_text_and_time_matter(name):
    module, (latents, timesteps, embeds, mask) = trained(name), inputs()
    predicted = module(latents, timesteps, embeds, mask)
    assert not torch.allclose(module(latents, timesteps, embeds.flip(-1), mask), predicted, atol=1e-3)
    assert not torch.allclose(module(latents, timesteps + 300, embeds, mask), predicted, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_clips_do_not_see_each_other(name):
    module, (latents, timesteps, embeds, mask) = trained(name), inputs()
    together = module(latents, timesteps, embeds, mask)
    alone = module(latents[1:], timesteps[1:], embeds[1:, :3], mask[1:, :3])
    assert torch.allclose(together[1:], alone, atol=1e-4)


@torch.no_grad()
def test_input_gains_pass_each_feature_on_as_the_time_says():
    """They begin at nothing; a gain of one feature moves that feature alone, by as much as the input has of it."""
    (latents, timesteps, embeds, mask), width = inputs(), 4 * 6 * 2
    module = build_denoiser(CONFIGS["dit with gains"]).eval()
    assert torch.equal(module(latents, timesteps, embeds, mask), torch.zeros_like(latents))
    module.input_gains.bias[7] = 0.5  # of 48: of two frames of (4, 6); channel 1, row 1 of the first frame
    expected = torch.zeros_like(latents)
    expected[:, 1, ::2, 1] = 0.5 * latents[:, 1, ::2, 1]
    assert torch.allclose(module(latents, timesteps, embeds, mask), expected, atol=1e-6)
    module.input_gains.weight.normal_(generator=torch.Generator().manual_seed(1))
    assert module.input_gains.weight.shape == (width, 32)
    later = module(latents, timesteps + 400, embeds, mask)
    assert not torch.allclose(later, module(latents, timesteps, embeds, mask), atol=1e-3)


def test_unused_frames_are_refused():
    with pytest.raises(ValueError, match="patch_frames must divide"):
        build_denoiser(DitConfig(latent_shape=(4, 10, 6), patch_frames=3))


def test_paper_unet_has_the_parameters_of_table_2():
    """865.93 M, counted layer by layer from the published configuration."""
    with torch.device("meta"):
        module = build_denoiser(UnetConfig(latent_shape=(8, 80, 72)))
    assert sum(p.numel() for p in module.parameters()) == 865_933_768

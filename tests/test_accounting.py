"""Operations counted by torch, against operations counted by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dualspec.accounting import compute, pipeline_compute, pipeline_parameters, recipe_compute
from dualspec.latents.vae import SpectrogramVae
from dualspec.pipeline import DualSpecPipeline
from dualspec.recipes import get_recipe, vae_configs


def by_hand(module: nn.Module, forward, *inputs: torch.Tensor) -> float:
    """Two operations for every weight that meets every output place of convolutions and linear layers, in 1e9."""
    total = 0.0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        places = output.numel() / layer.weight.shape[0]
        total += 2 * layer.weight.numel() * places

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        forward(*inputs)
    for hook in hooks:
        hook.remove()
    return total / 1e9


def test_turned_latents_cost_a_decoder_what_it_costs():
    """The decoder reads all 128 numbers of a latent frame, though the denoiser makes 32 of them."""
    recipe = get_recipe("mini/stft_base")
    vae = vae_configs(recipe.name, "stft_base")["stft_vae"]
    turned = replace(vae, latent_scaling="principal", principal_channels=2)
    denoiser = replace(recipe.task.variant.denoiser, latent_shape=(2, 80, 16))
    config = replace(recipe.task.variant, denoiser=denoiser)
    module = SpectrogramVae(turned).eval()
    expected = by_hand(module, module.decode_channels, torch.zeros(1, 8, 80, 16))
    assert compute(config, {"stft_vae": turned}, None).decode == pytest.approx(expected, rel=0.1)


def test_decoding_is_counted_as_by_hand():
    recipe = get_recipe("tiny/stft_base")
    config = recipe.task.variant
    vaes = vae_configs(recipe.name, "stft_base")
    vae = SpectrogramVae(vaes["stft_vae"]).eval()
    latents = torch.zeros(1, *vaes["stft_vae"].latent_shape(config.num_samples))
    counted = compute(config, vaes, None)
    assert counted.decode == pytest.approx(by_hand(vae, vae.decode_channels, latents), rel=1e-9)
    assert counted.text == 0.0 and counted.num_steps == 4 and counted.duration_s == 0.64
    assert counted.per_second() == pytest.approx((4 * counted.step + counted.decode) / 0.64)
    assert counted.per_second(1) < counted.per_second() and recipe_compute(recipe) == counted


def test_a_loaded_model_counts_as_its_recipe(tiny_model):
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)
    assert pipeline_compute(pipeline) == recipe_compute(get_recipe("tiny/dualspec"))
    modules = [pipeline.denoiser, *pipeline.vaes.values(), pipeline.vocoder]
    assert pipeline_parameters(pipeline) == sum(p.numel() for module in modules for p in module.parameters())


def test_only_variants_have_a_cost():
    with pytest.raises(ValueError, match="recipe must be of a variant, got tiny/vocoder"):
        recipe_compute(get_recipe("tiny/vocoder"))

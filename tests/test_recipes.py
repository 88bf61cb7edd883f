"""Every recipe builds, on the meta device, and says the same when it is read back."""

import pytest
import torch

from dualspec.accounting import account
from dualspec.config import from_dict, override, to_dict
from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import ROOMS, VAE_ROOMS, Recipe, get_recipe, recipe_names

VARIANTS = ("mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p")


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_builds_and_survives_json(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    assert account(recipe).total > 0


@pytest.mark.parametrize(("variant", "printed"), [*zip(VARIANTS, (1485, 1262, 1541, 1262, 1373), strict=True)])
def test_paper_sizes_are_those_of_table_2(variant, printed):
    """U-Net + T5 encoder + VAEs + vocoder, cut to whole millions as printed."""
    assert account(get_recipe(f"paper/{variant}")).total // 10**6 == printed


@pytest.mark.parametrize(("variant", "millions"), [*zip(VARIANTS, (1317, 1430, 1541, 1430, 1541), strict=True)])
def test_sizes_of_the_other_reading(variant, millions):
    """The text of section VI-A: compression 4 for mel, 8 for the others; sums of parts that were counted by hand."""
    assert account(get_recipe(f"paper-text/{variant}")).total // 10**6 == millions


@pytest.mark.parametrize("size", ["paper", "mini", "tiny"])
def test_a_vocoder_gives_back_as_many_samples_as_it_was_shown(size):
    task = get_recipe(f"{size}/vocoder").task
    num_samples = task.render.num_samples
    assert task.vocoder.num_samples(task.vocoder.mel.num_frames(num_samples)) >= num_samples


@pytest.mark.parametrize(
    ("room", "millions"),
    # counted layer by layer from the public configurations, not by this code
    [("mel_vae", 223.31), ("stft_vae", 55.38), ("dual_vae", 55.38), ("mono_mel_vae", 55.37)],
)
def test_paper_vaes_have_the_counted_sizes(room, millions):
    with torch.device("meta"):
        vae = SpectrogramVae(get_recipe(f"paper/{room}").task.vae)
    assert int(sum(p.numel() for p in vae.parameters()) / 1e4) / 100 == millions


def test_latents_of_both_layouts_are_those_of_decision_9():
    def shape(name):
        return get_recipe(name).task.variant.denoiser.latent_shape

    assert shape("paper/dualspec") == (8, 80, 72)
    assert shape("paper/dualspec_p") == (8, 128, 96)
    assert shape("paper-text/mel_base") == (8, 128, 16)
    assert shape("paper-text/stft_base") == (8, 40, 32)
    assert shape("mini/dualspec") == (10, 80, 16)


def test_section_6_settings():
    vae, diffusion = get_recipe("paper/stft_vae"), get_recipe("paper/dualspec")
    assert (vae.loop.max_steps, vae.loop.batch_size) == (1_200_000, 16 * 8)
    assert vae.task.optimizer.lr == 4.5e-6
    assert vae.task.loss.adversarial_start_step == 60_000
    assert (vae.task.optimizer.weight_decay, vae.loop.lr_schedule) == (0.0, "constant")  # Adam
    assert (diffusion.loop.batch_size, diffusion.loop.lr_schedule) == (64, "linear")
    assert diffusion.loop.max_steps == 200 * 50_000 // 64
    assert (diffusion.task.optimizer.lr, diffusion.task.optimizer.weight_decay) == (3e-5, 1e-2)
    assert (diffusion.task.variant.sampling.num_inference_steps, diffusion.task.variant.sampling.guidance_scale) == (
        200,
        3.0,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_embedded_size_stays_below_24_million(variant):
    """48 MB in half precision, with a vocoder and a localizer."""
    total = account(get_recipe(f"mini/{variant}")).parameters
    own = sum(count for name, count in total.items() if "text" not in name)
    assert own + account(get_recipe("mini/localizer")).total < 24e6
    assert account(get_recipe(f"mini/{variant}")).parameters["denoiser"] < 16e6


def test_variants_of_one_size_differ_in_nothing_but_their_latents():
    """A fair comparison: same denoiser, schedule, sampler and training for all five."""
    recipes = [get_recipe(f"mini/{variant}") for variant in VARIANTS]
    assert len({(recipe.loop, recipe.task.optimizer, recipe.task.variant.schedule) for recipe in recipes}) == 1
    assert len({(r.task.variant.denoiser.width, r.task.variant.denoiser.num_layers) for r in recipes}) == 1


def test_unknown_recipes_and_keys_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mini/stft_vae'"):
        get_recipe("mini/stft-vae")
    with pytest.raises(ValueError, match="did you mean"):
        override(get_recipe("mini/dualspec"), ["task.optimizer.learning_rate=1"])
    assert set(VAE_ROOMS) < set(ROOMS)

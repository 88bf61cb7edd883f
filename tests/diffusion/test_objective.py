import pytest
import torch

from dualspec.diffusion.objective import (
    NoiseScheduleConfig,
    add_noise,
    alphas_cumprod,
    drop_prompts,
    part_loss,
    predicted_latents,
    prediction_target,
    snr_weight,
)

SCHEDULES = [
    NoiseScheduleConfig(),
    NoiseScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True),
]


def test_schedule_is_stable_diffusions():
    """ᾱ by hand: squares of evenly spaced square roots of β (decision 13)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    assert torch.allclose(alphas_cumprod(NoiseScheduleConfig()), (1 - betas).cumprod(0), rtol=1e-4)


def test_last_step_of_zero_snr_schedule_is_noise_of_unit_variance():
    alpha_bar = alphas_cumprod(SCHEDULES[1])[-1:]
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(torch.full_like(noise, 3.0), noise, alpha_bar)
    assert torch.allclose(noisy, noise, atol=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_exact_target_gives_back_the_clean_latents(prediction_type):
    alpha_bar = alphas_cumprod(NoiseScheduleConfig())[torch.tensor([10, 500, 900])]
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    noisy = add_noise(latents, noise, alpha_bar)
    target = prediction_target(latents, noise, alpha_bar, prediction_type)
    assert torch.allclose(predicted_latents(noisy, target, alpha_bar, prediction_type), latents, atol=1e-4)


def test_both_targets_weigh_the_same_error_alike():
    """An error of the clean latents costs the same through ε and v, once each has its form of the weight."""
    alpha_bar = alphas_cumprod(NoiseScheduleConfig())[torch.tensor([50, 400, 800])].double()
    snr = alpha_bar / (1 - alpha_bar)
    # a unit error of z0 is an error of snr in ε², of (snr + 1) in v²
    assert torch.allclose(snr_weight(alpha_bar, "epsilon") * snr, snr_weight(alpha_bar, "v_prediction") * (snr + 1))
    assert torch.allclose(snr_weight(alpha_bar, "epsilon"), snr.clamp(max=5.0) / snr)
    assert (snr_weight(alpha_bar, "epsilon", None) == 1).all()


def test_zero_snr_weight_is_finite():
    alpha_bar = alphas_cumprod(SCHEDULES[1])
    assert torch.isfinite(snr_weight(alpha_bar, "v_prediction")).all()
    with pytest.raises(ValueError, match="must be 'v_prediction'"):
        NoiseScheduleConfig(zero_terminal_snr=True)


def test_parts_count_alike_whatever_their_size():
    small, large = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 20, 20)
    assert float(part_loss([small + 1, large], [small, large])) == float(part_loss([small, large + 1], [small, large]))
    assert float(part_loss([small + 1, large + 2], [small, large], [3.0, 0.5])) == pytest.approx(3.0 * 1 + 0.5 * 4)


def test_prompt_dropout_rate_and_choice():
    draws = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    kept = drop_prompts(["a"] * 10_000, 0.1, draws)
    assert 900 < kept.count("") < 1100
    assert drop_prompts(["a", "b"], 0.5, torch.tensor([0.4, 0.6])) == ["", "b"]

import pytest
import torch
from torch import nn

from dualspec.diffusion.objective import NoiseScheduleConfig, alphas_cumprod
from dualspec.diffusion.sampler import SAMPLERS, SamplingConfig, guide, initial_noise, make_scheduler, sample

SHAPE = (2, 8, 4)
TEXT = {
    "prompt_embeds": torch.zeros(2, 3, 4),
    "prompt_mask": torch.ones(2, 3, dtype=torch.bool),
    "negative_embeds": torch.ones(2, 2, 4),
    "negative_mask": torch.ones(2, 2, dtype=torch.bool),
}


class Oracle(nn.Module):
    """Knows the clean latents and answers exactly."""

    def __init__(self, clean: torch.Tensor, schedule: NoiseScheduleConfig) -> None:
        super().__init__()
        self.clean, self.schedule, self.calls = clean, schedule, []
        self.alpha_bars = alphas_cumprod(schedule)

    def forward(self, latents, timesteps, prompt_embeds, prompt_mask):
        self.calls.append(len(latents))
        alpha_bar = self.alpha_bars[timesteps.long()].view(-1, 1, 1, 1).clamp(min=2**-24).float()
        clean = self.clean.repeat(len(latents) // len(self.clean), 1, 1, 1)
        noise = (latents - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        if self.schedule.prediction_type == "epsilon":
            return noise
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "schedule", [NoiseScheduleConfig(), NoiseScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True)]
)
def test_oracle_denoiser_returns_the_clean_latents(sampler, schedule):
    clean = 0.8 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    noise = initial_noise(SHAPE, [1, 2])
    config = SamplingConfig(sampler=sampler, num_inference_steps=30, guidance_scale=1.0)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    latents = sample(Oracle(clean, schedule), schedule, config, noise=noise, step_generators=generators, **TEXT)
    assert (latents - clean).abs().max() < 0.1
    assert (latents - clean).abs().mean() < 0.03


def test_guidance_is_equation_16():
    conditional, unconditional = torch.tensor([2.0]), torch.tensor([1.0])
    assert guide(conditional, unconditional, 0.0) == unconditional
    assert guide(conditional, unconditional, 1.0) == conditional
    assert guide(conditional, unconditional, 3.0) == 4.0


class Words(nn.Module):
    """Answers with the mean of its words alone, so that guidance by w is another word without guidance."""

    def forward(self, latents, timesteps, prompt_embeds, prompt_mask):
        words = (prompt_embeds * prompt_mask[..., None]).sum((1, 2)) / (prompt_mask.sum(1) * prompt_embeds.shape[-1])
        return words.view(-1, 1, 1, 1).expand_as(latents)


def test_guidance_leads_from_the_empty_text_to_the_prompt_and_beyond():
    noise = initial_noise(SHAPE, [1, 2])

    def latents(prompt, empty, scale):
        text = TEXT | {"prompt_embeds": torch.full((2, 3, 4), prompt), "negative_embeds": torch.full((2, 2, 4), empty)}
        config = SamplingConfig(sampler="ddim", num_inference_steps=4, guidance_scale=scale)
        return sample(Words(), NoiseScheduleConfig(), config, noise=noise, **text)

    assert torch.allclose(latents(0.2, 0.1, 3.0), latents(0.4, 0.0, 1.0), atol=1e-5)  # 0.1 + 3 · (0.2 - 0.1)


def test_guidance_one_costs_one_evaluation_and_interval_halves_them():
    schedule = NoiseScheduleConfig()
    clean = torch.zeros(2, *SHAPE)
    for scale, interval, expected in [
        (1.0, (0.0, 1.0), [2] * 4),
        (3.0, (0.0, 1.0), [4] * 4),
        (3.0, (0.5, 1.0), [2, 2, 4, 4]),
    ]:
        oracle = Oracle(clean, schedule)
        config = SamplingConfig(sampler="ddim", num_inference_steps=4, guidance_scale=scale, guidance_interval=interval)
        sample(oracle, schedule, config, noise=initial_noise(SHAPE, [1, 2]), **TEXT)
        assert oracle.calls == expected


def test_noise_belongs_to_the_seed_not_to_the_batch():
    together = initial_noise(SHAPE, [7, 8, 9])
    assert torch.equal(initial_noise(SHAPE, [8])[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_schedulers_do_not_clip_latents():
    """The default of diffusers' DDIM and DDPM clips to ±1."""
    for name in ("ddpm", "ddim"):
        assert make_scheduler(name, NoiseScheduleConfig()).config.clip_sample is False


def test_callback_sees_every_step_and_may_stop():
    seen = []

    def note(index, timestep, latents):
        seen.append((index, int(timestep)))
        if index == 2:
            raise KeyboardInterrupt
        return latents

    schedule = NoiseScheduleConfig()
    with pytest.raises(KeyboardInterrupt):
        sample(
            Oracle(torch.zeros(2, *SHAPE), schedule), schedule, SamplingConfig(sampler="ddim", num_inference_steps=5),
            noise=initial_noise(SHAPE, [1, 2]), callback=note, **TEXT,
        )  # fmt: skip
    assert [index for index, _ in seen] == [0, 1, 2]
    assert [timestep for _, timestep in seen] == sorted({timestep for _, timestep in seen}, reverse=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sampler", "euler", "must be one of ddpm"),
        ("num_inference_steps", 0, "1 to 1000"),
        ("guidance_scale", 21.0, "0 to 20"),
        ("guidance_interval", (0.9, 0.1), "must rise"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**{field: value})

"""One signal out of two ears."""

import pytest
import torch

from dualspec.synthesis.mid_signal import common_phase_mid


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    waveform = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return waveform


@pytest.mark.parametrize("num_samples", [700, 4096, 5000])
def test_two_equal_ears_give_themselves_back(num_samples: int) -> None:
    ear = torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(num_samples)) * torch.hann_window(num_samples)
    torch.testing.assert_close(common_phase_mid(ear.expand(2, -1)), ear, atol=1e-4, rtol=0)


def test_a_delayed_ear_leaves_no_comb() -> None:
    """Adding a sound to itself 8 samples later removes 1000 Hz; joining them keeps it."""
    tone = torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(8192))
    late = torch.roll(tone, 8)
    ears = torch.stack([tone, late])
    assert ears.mean(dim=0).abs().max() < 1e-3
    mid = common_phase_mid(ears)[1024:-1024]
    assert mid.square().mean() == pytest.approx(0.5, rel=0.01)


def test_the_louder_ear_gives_the_phase_and_both_give_the_level() -> None:
    left = noise(6000)
    ears = torch.stack([left, 0.5 * left])
    loud = common_phase_mid(ears)
    assert torch.corrcoef(torch.stack([loud, left]))[0, 1] > 0.99
    assert loud.square().mean().sqrt() == pytest.approx(float(0.75 * left.square().mean().sqrt()), rel=0.03)
    torch.testing.assert_close(common_phase_mid(ears.flip(0)), loud)


def test_clips_of_a_batch_do_not_meet() -> None:
    ears = noise(3, 2, 4000)
    torch.testing.assert_close(common_phase_mid(ears)[1], common_phase_mid(ears[1]))


def test_silence_stays_silent() -> None:
    assert common_phase_mid(torch.zeros(2, 2000)).abs().max() == 0


def test_one_ear_is_refused() -> None:
    with pytest.raises(ValueError, match=r"waveform must be \(\.\.\., 2, S\)"):
        common_phase_mid(torch.zeros(1, 100))

import pytest
import torch

from dualspec.features.stft import StftConfig, stft
from dualspec.synthesis.griffin_lim import griffin_lim, unit_phase

DENSE = StftConfig(n_fft=512, win_length=512, hop_length=128)
NUM_SAMPLES = 16384


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inconsistency(magnitude: torch.Tensor, waveform: torch.Tensor) -> float:
    return ((stft(waveform, DENSE).abs() - magnitude).norm() / magnitude.norm()).item()


def test_the_true_phase_is_a_fixed_point() -> None:
    waveform = noise(2, NUM_SAMPLES)
    spectrum = stft(waveform, DENSE)
    back = griffin_lim(spectrum.abs(), DENSE, NUM_SAMPLES, num_iterations=4, initial_phase=spectrum.angle())
    assert back.shape == waveform.shape
    assert (back - waveform)[:, 512:-512].norm() < 0.1 * waveform.norm()


def test_iterations_and_momentum_bring_the_magnitude_nearer() -> None:
    magnitude = stft(noise(NUM_SAMPLES), DENSE).abs()
    errors = [
        inconsistency(magnitude, griffin_lim(magnitude, DENSE, NUM_SAMPLES, num_iterations=count, momentum=momentum))
        for count, momentum in ((0, 0.0), (8, 0.0), (32, 0.0), (32, 0.99))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25


def test_an_item_does_not_depend_on_its_batch_and_the_generator_decides() -> None:
    magnitude = stft(noise(3, NUM_SAMPLES), DENSE).abs()
    together = griffin_lim(magnitude, DENSE, NUM_SAMPLES, num_iterations=2)
    torch.testing.assert_close(griffin_lim(magnitude[1], DENSE, NUM_SAMPLES, num_iterations=2), together[1])
    seeded = [
        griffin_lim(magnitude, DENSE, NUM_SAMPLES, num_iterations=2, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(seeded[0], seeded[1])
    torch.testing.assert_close(seeded[0], together)
    assert not torch.allclose(seeded[0], seeded[2])


def test_silence_stays_silent() -> None:
    assert griffin_lim(torch.zeros(64, 256), DENSE, 8192).abs().max() == 0


def test_unit_phase_keeps_angles_and_takes_zero_as_one() -> None:
    numbers = torch.tensor([3 + 4j, -2j, 0j, 1e-30 + 0j], dtype=torch.complex128)
    expected = torch.tensor([0.6 + 0.8j, -1j, 1, 1], dtype=torch.complex128)
    torch.testing.assert_close(unit_phase(numbers), expected)


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum must be in"):
        griffin_lim(torch.zeros(64, 256), DENSE, 8192, momentum=1.0)
    with pytest.raises(ValueError, match="num_iterations must be 0 or more"):
        griffin_lim(torch.zeros(64, 256), DENSE, 8192, num_iterations=-1)

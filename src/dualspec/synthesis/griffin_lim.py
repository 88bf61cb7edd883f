"""Phase from magnitude alone, for the path that needs no trained vocoder."""

import torch
from torch import Tensor

from dualspec.features.stft import StftConfig, istft, stft

_TINY = 1e-16


def griffin_lim(
    magnitude: Tensor,
    config: StftConfig,
    num_samples: int,
    *,
    num_iterations: int = 32,
    momentum: float = 0.99,
    initial_phase: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find a waveform whose STFT has nearly the given magnitude (fast Griffin-Lim).

    The random start is drawn once and shared by every item of the batch, so an item's result does not depend on its
    neighbours, and equal magnitudes give equal waveforms.

    Args:
        magnitude: (..., T, F) non-negative, framed as :func:`dualspec.features.stft.stft` does (no DC).
        config: framing.
        num_samples: length of the result, samples.
        num_iterations: rounds of inverse and forward transform; 0 inverts the starting phase.
        momentum: 0 is the classic algorithm, values near 1 converge faster.
        initial_phase: (..., T, F) rad, starting phase; random when None.
        generator: source of the random start; seed 0 when None.

    Returns:
        (..., S) waveform.

    Raises:
        ValueError: momentum must be in [0, 1), num_iterations must not be negative.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}; use 0.99")
    if num_iterations < 0:
        raise ValueError(f"num_iterations must be 0 or more, got {num_iterations}; use 32")
    if initial_phase is None:
        initial_phase = _random_phase(magnitude, generator)
    unit = torch.polar(torch.ones_like(magnitude), initial_phase.expand_as(magnitude))
    previous = torch.zeros_like(unit)
    for _ in range(num_iterations):
        rebuilt = stft(istft(magnitude * unit, config, num_samples), config)
        unit = unit_phase(rebuilt - momentum / (1.0 + momentum) * previous)
        previous = rebuilt
    return istft(magnitude * unit, config, num_samples)


def unit_phase(spectrum: Tensor) -> Tensor:
    """Keep only the phase of a complex spectrum.

    Args:
        spectrum: (...) complex.

    Returns:
        (...) complex of magnitude one; zero gives 1.
    """
    power = spectrum.real.square() + spectrum.imag.square()
    heard = power > _TINY
    scale = power.clamp(min=_TINY).rsqrt()
    return torch.complex(torch.where(heard, spectrum.real * scale, 1.0), torch.where(heard, spectrum.imag * scale, 0.0))


def _random_phase(magnitude: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        generator = torch.Generator(magnitude.device).manual_seed(0)
    shape = magnitude.shape[-2:]
    draw = torch.rand(shape, generator=generator, device=generator.device, dtype=magnitude.dtype)
    return (2.0 * torch.pi * draw).to(magnitude.device)

"""The listeners that a vocoder is trained against: one folds the waveform by periods, one looks at complex spectra."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from dualspec.features.stft import framed_spectrum

_SLOPE = 0.1
_POWER_FLOOR = 1e-8


class Judgement(NamedTuple):
    """What one discriminator says about a batch."""

    score: Tensor
    """(B, ...) real, high for real sound."""
    features: list[Tensor]
    """Activations of every hidden layer, for feature matching."""


@dataclass(frozen=True, kw_only=True)
class PeriodDiscriminatorConfig:
    """Sizes of the multi-period discriminator."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Fold lengths, samples; primes share no multiples."""
    base_channels: int = 16
    """Channels of the first layer; each later one has up to four times those before."""
    max_channels: int = 256
    """Upper limit of channels."""
    num_layers: int = 4
    """Strided layers."""

    def __post_init__(self) -> None:
        """Refuse sizes without a meaning."""
        if not self.periods or min(self.periods) < 1:
            raise ValueError(
                f"periods must be positive numbers of samples, got {self.periods}; use primes from 2 to 11"
            )
        _check_sizes(self.base_channels, self.max_channels, self.num_layers)


@dataclass(frozen=True, kw_only=True)
class ResolutionDiscriminatorConfig:
    """Sizes of the multi-resolution STFT discriminator."""

    n_ffts: tuple[int, ...] = (256, 512, 1024)
    """Transform lengths, samples; the hop is a quarter of each."""
    base_channels: int = 16
    """Channels of every layer but the last."""
    num_layers: int = 4
    """Layers that halve the frequency axis, after the first."""

    def __post_init__(self) -> None:
        """Refuse sizes without a meaning."""
        if not self.n_ffts or any(n_fft < 16 or n_fft % 4 for n_fft in self.n_ffts):
            raise ValueError(f"n_ffts must be multiples of 4 from 16 on, got {self.n_ffts}; use powers of two")
        _check_sizes(self.base_channels, self.base_channels, self.num_layers)


class MultiPeriodDiscriminator(nn.Module):
    """Several discriminators, each of which sees the waveform folded into rows of one period (HiFi-GAN)."""

    def __init__(self, config: PeriodDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(_PeriodDiscriminator(period, config) for period in config.periods)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge waveforms.

        Args:
            waveform: (B, S) samples in [-1, 1].

        Returns:
            One judgement for each period.
        """
        return [member(waveform) for member in self.members]


class MultiResolutionDiscriminator(nn.Module):
    """Several discriminators, each of which sees the complex STFT at one resolution, magnitudes compressed."""

    def __init__(self, config: ResolutionDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(_ResolutionDiscriminator(n_fft, config) for n_fft in config.n_ffts)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge waveforms.

        Args:
            waveform: (B, S) samples in [-1, 1].

        Returns:
            One judgement for each resolution.
        """
        return [member(waveform) for member in self.members]


class _PeriodDiscriminator(nn.Module):
    def __init__(self, period: int, config: PeriodDiscriminatorConfig) -> None:
        super().__init__()
        self.period = period
        layers, channels = [], 1
        for index in range(config.num_layers):
            width = min(config.base_channels * 4**index, config.max_channels)
            layers.append(weight_norm(nn.Conv2d(channels, width, (5, 1), stride=(3, 1), padding=(2, 0))))
            channels = width
        layers.append(weight_norm(nn.Conv2d(channels, channels, (5, 1), padding=(2, 0))))
        self.layers = nn.ModuleList(layers)
        self.score = weight_norm(nn.Conv2d(channels, 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> Judgement:
        missing = -waveform.shape[-1] % self.period
        if missing:
            waveform = functional.pad(waveform[:, None], (0, missing), mode="reflect")[:, 0]
        return _judge(waveform.unflatten(-1, (-1, self.period))[:, None], self.layers, self.score)


class _ResolutionDiscriminator(nn.Module):
    def __init__(self, n_fft: int, config: ResolutionDiscriminatorConfig) -> None:
        super().__init__()
        self.n_fft = n_fft
        width = config.base_channels
        layers = [weight_norm(nn.Conv2d(2, width, (3, 9), padding=(1, 4)))]
        for index in range(config.num_layers):
            dilation = min(2**index, 4)
            layers.append(
                weight_norm(
                    nn.Conv2d(width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
                )
            )
        self.layers = nn.ModuleList(layers)
        self.score = weight_norm(nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))

    def forward(self, waveform: Tensor) -> Judgement:
        hop_length = self.n_fft // 4
        spectrum = framed_spectrum(
            waveform,
            n_fft=self.n_fft,
            win_length=self.n_fft,
            hop_length=hop_length,
            padding=self.n_fft // 2,
            num_frames=1 + waveform.shape[-1] // hop_length,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        spectrum = spectrum * power.clamp(min=_POWER_FLOOR) ** -0.25
        return _judge(torch.stack([spectrum.real, spectrum.imag], dim=1), self.layers, self.score)


def _judge(hidden: Tensor, layers: nn.ModuleList, score: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        hidden = functional.leaky_relu(layer(hidden), _SLOPE)
        features.append(hidden)
    return Judgement(score(hidden).flatten(1), features)


def _check_sizes(base_channels: int, max_channels: int, num_layers: int) -> None:
    if base_channels < 1 or max_channels < base_channels:
        raise ValueError(
            f"base_channels must be in 1..max_channels ({max_channels}), got {base_channels}; use the defaults"
        )
    if num_layers < 1:
        raise ValueError(f"num_layers must be positive, got {num_layers}; use 4")

"""Mel to waveform, one ear at a time: HiFi-GAN, a light ConvNeXt with an inverse-STFT head, and Griffin-Lim."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualspec.features.mel import MelConfig, mel_to_magnitude
from dualspec.features.stft import StftConfig, overlap_add
from dualspec.synthesis.griffin_lim import griffin_lim

_MAX_LOG_MAGNITUDE = math.log(100.0)
_PRIOR_FLOOR = 1e-5


@dataclass(frozen=True, kw_only=True)
class HifiGanConfig:
    """Sizes of a HiFi-GAN generator; the defaults are AudioLDM's (55.26 M parameters)."""

    kind: Literal["hifigan"] = "hifigan"
    """Which vocoder this is."""
    mel: MelConfig = field(default_factory=MelConfig)
    """Mel spectrogram that goes in."""
    initial_channels: int = 1024
    """Channels before the first upsampling; halved by each."""
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    """Stride of each upsampling; their product is the hop length."""
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    """Kernel of each upsampling, samples."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernels of the parallel residual blocks, samples."""
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    """Dilations inside each residual block."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if math.prod(self.upsample_rates) != self.mel.hop_length:
            raise ValueError(
                f"upsample_rates must multiply to the hop length {self.mel.hop_length}, got {self.upsample_rates}; "
                "change the rates or the mel settings"
            )
        if len(self.upsample_kernels) != len(self.upsample_rates):
            raise ValueError(
                f"upsample_kernels must be as many as upsample_rates, got {len(self.upsample_kernels)} and "
                f"{len(self.upsample_rates)}; give one kernel for each rate"
            )
        if len(self.resblock_dilations) != len(self.resblock_kernels):
            raise ValueError(
                f"resblock_dilations must be as many as resblock_kernels, got {len(self.resblock_dilations)} and "
                f"{len(self.resblock_kernels)}; give one tuple for each kernel"
            )
        if self.initial_channels < 2 ** len(self.upsample_rates):
            raise ValueError(
                f"initial_channels must be at least {2 ** len(self.upsample_rates)}, got {self.initial_channels}; "
                "each upsampling halves them"
            )

    def num_samples(self, num_frames: int) -> int:
        """Length of the waveform made from ``num_frames`` frames, samples (512 frames give 81,952)."""
        length = num_frames
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            length = (length - 1) * rate + kernel - 2 * ((kernel - rate) // 2)
        return length


@dataclass(frozen=True, kw_only=True)
class IstftHeadConfig:
    """Sizes of the light vocoder: ConvNeXt blocks at frame rate and an inverse-STFT head."""

    kind: Literal["istft_head"] = "istft_head"
    """Which vocoder this is."""
    mel: MelConfig = field(default_factory=MelConfig)
    """Mel spectrogram that goes in; the head uses its transform, window and hop."""
    dim: int = 256
    """Channels of the backbone."""
    num_layers: int = 6
    """Number of ConvNeXt blocks."""
    expansion: int = 3
    """Hidden width of a block over ``dim``."""
    kernel_size: int = 7
    """Frames seen by one block; odd."""

    def __post_init__(self) -> None:
        """Refuse sizes without a meaning."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}; use 7")
        for name in ("dim", "num_layers", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}; use the default")

    def num_samples(self, num_frames: int) -> int:
        """Length of the waveform made from ``num_frames`` frames, samples."""
        return num_frames * self.mel.hop_length


@dataclass(frozen=True, kw_only=True)
class GriffinLimConfig:
    """Settings of the vocoder without weights."""

    kind: Literal["griffin_lim"] = "griffin_lim"
    """Which vocoder this is."""
    mel: MelConfig = field(default_factory=MelConfig)
    """Mel spectrogram that goes in."""
    num_iterations: int = 32
    """Rounds of fast Griffin-Lim."""

    def __post_init__(self) -> None:
        """Refuse a count below zero."""
        if self.num_iterations < 0:
            raise ValueError(f"num_iterations must be 0 or more, got {self.num_iterations}; use 32")

    def num_samples(self, num_frames: int) -> int:
        """Length of the waveform made from ``num_frames`` frames, samples."""
        return num_frames * self.mel.hop_length


VocoderConfig = HifiGanConfig | IstftHeadConfig | GriffinLimConfig


def build_vocoder(config: VocoderConfig) -> "HifiGan | IstftHeadVocoder | GriffinLimVocoder":
    """Make the vocoder that a config describes, with fresh weights where it has any."""
    if isinstance(config, HifiGanConfig):
        return HifiGan(config)
    if isinstance(config, IstftHeadConfig):
        return IstftHeadVocoder(config)
    return GriffinLimVocoder(config)


class HifiGan(nn.Module):
    """HiFi-GAN generator, weight-compatible with AudioLDM's: ``generator`` is transformers' ``SpeechT5HifiGan``."""

    def __init__(self, config: HifiGanConfig) -> None:
        super().__init__()
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

        self.config = config
        self.generator = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=config.mel.n_mels,
                sampling_rate=config.mel.sample_rate,
                upsample_initial_channel=config.initial_channels,
                upsample_rates=list(config.upsample_rates),
                upsample_kernel_sizes=list(config.upsample_kernels),
                resblock_kernel_sizes=list(config.resblock_kernels),
                resblock_dilation_sizes=[list(dilations) for dilations in config.resblock_dilations],
                normalize_before=False,
            )
        )
        for module in self.generator.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                module.reset_parameters()  # transformers starts so small that a narrow generator never wakes up

    def forward(self, log_mel: Tensor) -> Tensor:
        """Synthesise a waveform.

        Args:
            log_mel: (B, T, M) natural-log mel.

        Returns:
            (B, S) waveform in [-1, 1], S = ``config.num_samples(T)``; a little longer than T hops.

        Paper section V-A.
        """
        _check_log_mel(log_mel, self.config.mel)
        return self.generator(log_mel)


class IstftHeadVocoder(nn.Module):
    """A vocoder that stays at frame rate: it predicts magnitude and phase of every frame and adds the frames up.

    The magnitude starts from the mel's own least-squares inverse, so the network only learns what the bands hide.
    """

    def __init__(self, config: IstftHeadConfig) -> None:
        super().__init__()
        self.config = config
        num_bins = config.mel.n_fft // 2 + 1
        self.embed = nn.Conv1d(config.mel.n_mels, config.dim, config.kernel_size, padding=config.kernel_size // 2)
        self.embed_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNextBlock(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, 3 * num_bins)
        self.apply(_init_weights)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Synthesise a waveform.

        Args:
            log_mel: (B, T, M) natural-log mel.

        Returns:
            (B, S) waveform, S = T * hop_length.
        """
        mel = self.config.mel
        _check_log_mel(log_mel, mel)
        num_samples = self.config.num_samples(log_mel.shape[1])
        if mel.framing == "centered":  # a frame past the end, so that frames cover every sample
            log_mel = torch.cat([log_mel, log_mel[:, -1:]], dim=1)
        return overlap_add(self._spectrum(log_mel), mel.n_fft, mel.win_length, mel.hop_length, mel.padding, num_samples)

    def _spectrum(self, log_mel: Tensor) -> Tensor:
        """Predict the complex spectrum (B, T, n_fft // 2 + 1) of every frame."""
        hidden = self.embed_norm(self.embed(log_mel.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            hidden = block(hidden)
        gain, cosine, sine = self.head(self.final_norm(hidden)).float().chunk(3, dim=-1)
        prior = mel_to_magnitude(log_mel.float(), self.config.mel, num_iterations=4).clamp(min=_PRIOR_FLOOR)
        magnitude = (prior.log() + gain).clamp(max=_MAX_LOG_MAGNITUDE).exp()
        scale = magnitude * (cosine.square() + sine.square() + 1e-12).rsqrt()
        return torch.complex(cosine * scale, sine * scale)


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer network on each frame, added to the input at small scale."""

    def __init__(self, config: IstftHeadConfig) -> None:
        super().__init__()
        dim = config.dim
        self.depthwise = nn.Conv1d(dim, dim, config.kernel_size, padding=config.kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen = nn.Linear(dim, config.expansion * dim)
        self.narrow = nn.Linear(config.expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1.0 / config.num_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform (B, T, dim) frames into (B, T, dim)."""
        mixed = self.depthwise(hidden.transpose(1, 2)).transpose(1, 2)
        return hidden + self.scale * self.narrow(functional.gelu(self.widen(self.norm(mixed))))


class GriffinLimVocoder(nn.Module):
    """The vocoder without weights: least-squares magnitude, then fast Griffin-Lim; equal mels give equal sounds."""

    def __init__(self, config: GriffinLimConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, log_mel: Tensor) -> Tensor:
        """Synthesise a waveform.

        Args:
            log_mel: (B, T, M) natural-log mel.

        Returns:
            (B, S) waveform, S = T * hop_length.
        """
        mel = self.config.mel
        _check_log_mel(log_mel, mel)
        framing = StftConfig(n_fft=mel.n_fft, win_length=mel.win_length, hop_length=mel.hop_length, framing=mel.framing)
        num_samples = self.config.num_samples(log_mel.shape[1])
        magnitude = mel_to_magnitude(log_mel, mel)[..., 1:]
        return griffin_lim(magnitude, framing, num_samples, num_iterations=self.config.num_iterations)


def _check_log_mel(log_mel: Tensor, mel: MelConfig) -> None:
    if log_mel.dim() != 3 or log_mel.shape[-1] != mel.n_mels:
        raise ValueError(
            f"log_mel must be of shape (B, T, {mel.n_mels}), got {tuple(log_mel.shape)}; put the ears into the batch"
        )


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""The variational autoencoders of the paper: Mel-VAE, STFT-VAE, Dual-VAE and the one-channel Mel-VAE.

Every VAE owns the description of the spectrogram it reads, so that a weights folder says how its input is made.
Axes are (batch, channel, time, frequency) everywhere; channel 0 is the left ear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualspec.features.mel import MelConfig, log_mel
from dualspec.features.stft import (
    StftConfig,
    StftRepresentation,
    channels_to_stft,
    num_stft_channels,
    stft,
    stft_to_channels,
)
from dualspec.latents.frame_autoencoder import FrameAutoencoder, FrameAutoencoderConfig, principal_components

Feature = Literal["mel", "mel_mono", "stft", "dual"]
LatentScaling = Literal["scalar", "per_feature", "principal"]
_EMPTY = 1e-5
"""Share of the widest component below which another is nothing but rounding."""
NormalDraw = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class AutoencoderKlConfig:
    """Sizes of the two-dimensional autoencoder of AudioLDM (diffusers `AutoencoderKL`)."""

    kind: Literal["kl2d"] = "kl2d"
    in_channels: int  # spectrogram channels C
    base_channels: int = 128  # channels of the first level
    channel_multipliers: tuple[int, ...] = (1, 2, 4)  # per level; the compression is 2^(levels - 1)
    layers_per_block: int = 2  # residual blocks per level
    latent_channels: int = 8  # channels of the latent grid
    norm_groups: int = 32  # groups of every group normalisation
    mid_attention: bool = True  # self-attention at the narrowest level

    @property
    def time_factor(self) -> int:
        """Spectrogram frames per latent frame."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def latent_shape(self, num_frames: int, num_bins: int) -> tuple[int, int, int]:
        """Return (channels, frames, rows) of the latent of a spectrogram of `num_frames` × `num_bins`."""
        return self.latent_channels, num_frames // self.time_factor, num_bins // self.time_factor


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What a VAE reads, how it is scaled, and the network that compresses it."""

    feature: Feature  # which spectrogram; "mel_mono" encodes each ear on its own
    autoencoder: AutoencoderKlConfig | FrameAutoencoderConfig  # the network
    mel: MelConfig | None = None  # for "mel", "mel_mono" and "dual"
    stft: StftConfig | None = None  # for "stft" and "dual"
    representation: StftRepresentation = "complex"  # how complex bins become real channels
    magnitude_exponent: float = 0.5  # compression of magnitudes in complex-valued channels
    complex_scale: float = 1.0  # factor on complex-valued channels, for unit variance
    log_floor: float = 1e-5  # smallest magnitude kept in logarithmic STFT channels
    log_mean: float = 0.0  # subtracted from logarithmic channels (natural log)
    log_std: float = 1.0  # divides logarithmic channels
    latent_scaling: LatentScaling = "scalar"  # one 1/std, one per latent channel and row, or principal components
    principal_channels: int | None = None  # of "principal": latent channels that are kept, the widest components first

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        needs_mel, needs_stft = self.feature != "stft", self.feature in ("stft", "dual")
        if needs_mel != (self.mel is not None) or needs_stft != (self.stft is not None):
            raise ValueError(
                f"mel and stft settings must match the feature, got feature={self.feature!r}, mel={bool(self.mel)}, "
                f"stft={bool(self.stft)}; set just what the feature reads"
            )
        if self.num_channels != self.autoencoder.in_channels:
            raise ValueError(
                f"autoencoder.in_channels must be {self.num_channels}, got {self.autoencoder.in_channels}; "
                f"feature {self.feature!r} has that many channels"
            )
        kept, most = self.principal_channels, self.autoencoder.latent_channels
        if (self.latent_scaling == "principal") != (kept is not None) or not 1 <= (kept or 1) <= most:
            raise ValueError(
                f"principal_channels must be 1 to {most} for latent_scaling 'principal' and None for others, "
                f"got {kept} for {self.latent_scaling!r}"
            )

    @property
    def num_channels(self) -> int:
        """Spectrogram channels of one autoencoder input."""
        mel_channels = {"mel": 2, "mel_mono": 1, "stft": 0, "dual": 2}[self.feature]
        stft_channels = num_stft_channels(self.representation) if self.stft is not None else 0
        return mel_channels + stft_channels

    def input_shape(self, num_samples: int) -> tuple[int, int, int]:
        """Return (channels, frames, rows) of one autoencoder input for clips of `num_samples`."""
        if self.stft is not None:
            return self.num_channels, self.stft.num_frames(num_samples), self.stft.num_bins
        assert self.mel is not None
        return self.num_channels, self.mel.num_frames(num_samples), self.mel.n_mels

    @property
    def num_latents(self) -> int:
        """Latents of one clip: "mel_mono" has one per ear, the others one."""
        return 2 if self.feature == "mel_mono" else 1

    def latent_shape(self, num_samples: int) -> tuple[int, int, int]:
        """Return (channels, frames, rows) of one scaled latent."""
        channels, num_frames, rows = self.moment_shape(num_samples)
        return self.principal_channels or channels, num_frames, rows

    def moment_shape(self, num_samples: int) -> tuple[int, int, int]:
        """Return (channels, frames, rows) of a posterior's mean, before `latent_scaling`."""
        _, num_frames, num_bins = self.input_shape(num_samples)
        return self.autoencoder.latent_shape(num_frames, num_bins)


@dataclass
class Spectra:
    """Spectrograms of both ears, as far as a VAE or a variant has them."""

    log_mel: Tensor | None = None  # (B, 2, T, M) natural log of magnitude
    stft: Tensor | None = None  # (B, 2, T, F) complex, DC bin dropped


def waveform_to_channels(waveform: Tensor, config: VaeConfig) -> Tensor:
    """Compute what the autoencoder reads.

    Args:
        waveform: (B, 2, S), in [-1, 1].
        config: the VAE's settings.

    Returns:
        (B, C, T, F); for "mel_mono" (2·B, 1, T, M), the ears of a clip next to each other.

    Paper section III-E; decisions 2, 3 and 21b.
    """
    parts = []
    if config.mel is not None:
        mel = (log_mel(waveform, config.mel) - config.log_mean) / config.log_std
        if config.feature == "mel_mono":
            return mel.reshape(-1, 1, *mel.shape[2:])
        if config.stft is not None:
            mel = mel.repeat_interleave(config.stft.num_bins // config.mel.n_mels, dim=-1)
        parts.append(mel)
    if config.stft is not None:
        parts.append(
            _scale_stft(
                stft_to_channels(
                    stft(waveform, config.stft), config.representation, exponent=config.magnitude_exponent
                ),
                config,
            )
        )
    return torch.cat(parts, dim=1)


def _scale_stft(channels: Tensor, config: VaeConfig) -> Tensor:
    """Normalise real STFT channels (B, C, T, F); direction-only channels get the compressed magnitude as length."""
    if config.representation == "complex":
        return channels * config.complex_scale
    floor = torch.tensor(config.log_floor).log().item()
    log_magnitude = channels[:, :2].clamp(min=floor)
    scaled = (log_magnitude - config.log_mean) / config.log_std
    if config.representation != "interaural":
        return torch.cat((scaled, channels[:, 2:]), dim=1)
    # Loud bins speak louder: the length of each unit vector becomes the compressed magnitude of the bin, so plain
    # differences weigh phase by energy. The inverse only reads the angle.
    length = (config.magnitude_exponent * 0.5 * (channels[:, 0] + channels[:, 1])).exp() * config.complex_scale
    return torch.cat((scaled, channels[:, 2:] * length.unsqueeze(1)), dim=1)


def channels_to_spectra(channels: Tensor, config: VaeConfig) -> Spectra:
    """Invert `waveform_to_channels` up to the waveform: the spectrograms that the channels stand for.

    Args:
        channels: (B, C, T, F), for "mel_mono" (2·B, 1, T, M).
        config: the VAE's settings.

    Returns:
        The spectra of both ears.
    """
    spectra = Spectra()
    if config.mel is not None:
        mel = channels[:, :2] * config.log_std + config.log_mean
        if config.feature == "mel_mono":
            mel = mel.reshape(-1, 2, *mel.shape[2:])
        if config.stft is not None:
            mel = mel.unflatten(-1, (config.mel.n_mels, -1)).mean(dim=-1)
        spectra.log_mel = mel
        channels = channels[:, 2:]
    if config.stft is not None:
        channels = unscale_stft(channels, config)
        spectra.stft = channels_to_stft(channels, config.representation, exponent=config.magnitude_exponent)
    return spectra


def unscale_stft(channels: Tensor, config: VaeConfig) -> Tensor:
    """Undo the normalisation of real STFT channels (B, C, T, F); what directions lost in length stays lost."""
    if config.representation == "complex":
        return channels / config.complex_scale
    return torch.cat((channels[:, :2] * config.log_std + config.log_mean, channels[:, 2:]), dim=1)


class SpectrogramVae(nn.Module):
    """A VAE over spectrograms of both ears, with its latent's measured scale.

    Args:
        config: what it reads and its sizes.
    """

    latent_shift: Tensor  # (1, C, 1, R), or (1, 1, 1, 1)
    latent_scale: Tensor  # the same; not of principal components
    latent_basis: Tensor  # (C·R, K·R) from a latent frame to its scaled principal components
    latent_inverse: Tensor  # (K·R, C·R) and back

    def __init__(self, config: VaeConfig) -> None:
        """Build the network; the latent scale is 1 until `set_latent_scale` measures it."""
        super().__init__()
        self.config = config
        self.autoencoder: Any = build_autoencoder(config.autoencoder)
        shape = (1, 1, 1, 1)
        if config.latent_scaling != "scalar":
            if not isinstance(config.autoencoder, FrameAutoencoderConfig):
                raise ValueError(
                    f"latent_scaling must be 'scalar' for a two-dimensional autoencoder, got {config.latent_scaling!r}"
                )
            shape = (1, config.autoencoder.latent_channels, 1, config.autoencoder.latent_bins)
        self.register_buffer("latent_shift", torch.zeros(shape))
        if config.principal_channels is None:
            self.register_buffer("latent_scale", torch.ones(shape))
        else:
            basis = torch.eye(shape[1] * shape[3], config.principal_channels * shape[3])
            self.register_buffer("latent_basis", basis)
            self.register_buffer("latent_inverse", basis.T.clone())

    def encode_moments(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, each (B, C', T', F'), of channels (B, C, T, F)."""
        if isinstance(self.autoencoder, FrameAutoencoder):
            moments = self.autoencoder.encode_moments(channels)
        else:
            moments = self.autoencoder.quant_conv(self.autoencoder.encoder(channels))
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode_channels(self, latents: Tensor) -> Tensor:
        """Return channels (B, C, T, F) of unscaled latents (B, C', T', F')."""
        if isinstance(self.autoencoder, FrameAutoencoder):
            return self.autoencoder.decode(latents)
        return self.autoencoder.decode(latents).sample

    def encode(self, waveform: Tensor, normal: NormalDraw | None = None) -> list[Tensor]:
        """Encode clips into scaled latents.

        Args:
            waveform: (B, 2, S), in [-1, 1].
            normal: draws standard normals (B, *shape) to sample the posterior; without it the mean is taken.

        Returns:
            `config.num_latents` tensors (B, C', T', F') of unit variance as a whole; "mel_mono" has one per ear.
        """
        return self.scaled_latents(*self.encode_moments(waveform_to_channels(waveform, self.config)), normal)

    def scaled_latents(self, mean: Tensor, log_variance: Tensor, normal: NormalDraw | None = None) -> list[Tensor]:
        """Return what `encode` returns, from the moments (B · ears, C', T', F') of the posterior."""
        ears = self.config.num_latents
        if normal is not None:
            mean = mean + normal((ears, *mean.shape[1:])).reshape(mean.shape).to(mean) * (0.5 * log_variance).exp()
        scaled = self._onto(mean - self.latent_shift, "basis")
        return list(scaled.unflatten(0, (-1, ears)).unbind(1))

    def unscale(self, scaled: Tensor) -> Tensor:
        """Return what `decode_channels` takes, (B, C', T', F'), of scaled latents."""
        return self._onto(scaled, "inverse") + self.latent_shift

    def _onto(self, latents: Tensor, name: Literal["basis", "inverse"]) -> Tensor:
        """Scale latents (B, C, T, R), or undo it."""
        if self.config.latent_scaling != "principal":
            return latents * self.latent_scale if name == "basis" else latents / self.latent_scale
        frames = latents.permute(0, 2, 1, 3).flatten(2) @ getattr(self, f"latent_{name}")
        return frames.unflatten(2, (-1, latents.shape[3])).permute(0, 2, 1, 3)

    def decode(self, latents: list[Tensor]) -> Spectra:
        """Decode scaled latents, listed as `encode` returns them, into the spectra of both ears."""
        together = torch.stack(latents, dim=1).flatten(0, 1)
        return channels_to_spectra(self.decode_channels(self.unscale(together)), self.config)

    @torch.no_grad()
    def set_latent_scale(self, latents: Tensor) -> None:
        """Measure shift and scale from unscaled posterior samples (N, C', T', F'). Decision 18.

        Principal components are scaled by the root of 1/std, so that they keep half their differences (in decibels):
        a denoiser settles the wide ones first, and few steps still reach the narrow ones. Their mean variance is 1.
        """
        if self.config.principal_channels is not None:
            kept = self.config.principal_channels * latents.shape[3]
            mean, basis, std = principal_components([latents.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)], kept)
            if not bool(std[-1] > _EMPTY * std[0]):
                raise ValueError(f"latents must vary in {kept} directions, got fewer; set principal_channels lower")
            scale = (std * std.mean()).rsqrt()
            self.latent_shift.copy_(mean.reshape(self.latent_shift.shape[1], -1)[None, :, None])
            self.latent_basis.copy_(basis * scale)
            self.latent_inverse.copy_((basis / scale).T)
            return
        dims = (0, 2) if self.config.latent_scaling == "per_feature" else (0, 1, 2, 3)
        std = latents.std(dim=dims, keepdim=True)
        if not torch.isfinite(std).all() or (std == 0).any():
            raise ValueError(
                "latents must be finite and not constant, got a zero or non-finite deviation; train the VAE first"
            )
        self.latent_scale.copy_(1 / std)
        if self.config.latent_scaling == "per_feature":
            self.latent_shift.copy_(latents.mean(dim=dims, keepdim=True))

    def encoder_modules(self) -> list[nn.Module]:
        """Return the modules that make latents."""
        if isinstance(self.autoencoder, FrameAutoencoder):
            return self.autoencoder.encoder_modules()
        return [self.autoencoder.encoder, self.autoencoder.quant_conv]

    def last_layer(self) -> nn.Parameter:
        """Return the decoder's last weight, whose gradient norm balances the adversarial loss."""
        if isinstance(self.autoencoder, FrameAutoencoder):
            return self.autoencoder.last_layer()
        return self.autoencoder.decoder.conv_out.weight


def build_autoencoder(config: AutoencoderKlConfig | FrameAutoencoderConfig) -> nn.Module:
    """Return the network that `config` describes. Paper section III-E, Table II."""
    if isinstance(config, FrameAutoencoderConfig):
        return FrameAutoencoder(config)
    from diffusers import AutoencoderKL

    levels = len(config.channel_multipliers)
    return AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.base_channels * factor for factor in config.channel_multipliers),
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
    )

"""A small frame-wise autoencoder: frequency rows are features, time is the only convolved axis.

The small models use it in place of the two-dimensional `AutoencoderKL`: at a few million parameters a
frame-wise network knows which row is which frequency, so a frequency-dependent interaural phase costs it nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

LINEAR_SPREAD = 0.04
"""Standard deviation of a linear encoder's latents about their mean, in the units of the channels."""


@dataclass(frozen=True, kw_only=True)
class FrameAutoencoderConfig:
    """Sizes of a frame-wise autoencoder."""

    kind: Literal["frames"] = "frames"
    in_channels: int  # spectrogram channels C
    num_bins: int  # frequency rows F of every channel
    latent_channels: int = 8  # channels of the latent grid
    latent_bins: int = 16  # frequency rows of the latent grid
    time_compression: int = 4  # frames per latent frame
    width: int = 256  # features inside, at the latent's frame rate
    frame_width: int = 192  # features inside, at the spectrogram's frame rate (decoder)
    encoder_layers: int = 3  # residual blocks of the encoder
    decoder_layers: int = 3  # residual blocks of the decoder at the latent's frame rate
    frame_layers: int = 2  # residual blocks of the decoder at the spectrogram's frame rate
    linear: bool = False  # the encoder is one linear map, the decoder its inverse plus the network; see `start_from`

    def __post_init__(self) -> None:
        """Refuse blocks of an encoder that has none."""
        if self.linear and self.encoder_layers:
            raise ValueError(f"encoder_layers must be 0 for a linear encoder, got {self.encoder_layers}; set both")

    @property
    def time_factor(self) -> int:
        """Spectrogram frames per latent frame."""
        return self.time_compression

    def latent_shape(self, num_frames: int, num_bins: int) -> tuple[int, int, int]:
        """Return (channels, frames, rows) of the latent of a spectrogram of `num_frames` × `num_bins`."""
        if num_bins != self.num_bins:
            raise ValueError(
                f"num_bins must be {self.num_bins}, got {num_bins}; the autoencoder was built for that many"
            )
        return self.latent_channels, num_frames // self.time_compression, self.latent_bins


class ConvNextBlock(nn.Module):
    """Depthwise convolution along time, then a two-layer perceptron per frame, added to the input.

    Args:
        width: features per frame.
        expansion: hidden features of the perceptron per feature.
        kernel_size: frames seen by the depthwise convolution, odd.
    """

    def __init__(self, width: int, expansion: int = 3, kernel_size: int = 7) -> None:
        """Build the block; its last layer starts small so that the block starts near the identity."""
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.project = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, T, width) to frames (B, T, width)."""
        mixed = self.depthwise(frames.transpose(1, 2)).transpose(1, 2)
        hidden = nn.functional.gelu(self.expand(self.norm(mixed)))
        return frames + self.scale * self.project(hidden)


class LinearEncoder(nn.Module):
    """One linear map of a latent frame's channels to the means of its latents; their spread is the same everywhere.

    Args:
        features: values of the spectrogram that a latent frame stands for.
        num_latents: values of a latent frame.
    """

    def __init__(self, features: int, num_latents: int) -> None:
        """Begin with a spread that hides what nobody hears."""
        super().__init__()
        self.to_mean = nn.Linear(features, num_latents)
        self.log_variance = nn.Parameter(torch.full((num_latents,), 2 * math.log(LINEAR_SPREAD)))

    def forward(self, frames: Tensor) -> Tensor:
        """Map latent frames (B, T, features) to means and log-variances (B, T, 2·latents)."""
        mean = self.to_mean(frames)
        return torch.cat((mean, self.log_variance.expand_as(mean)), dim=-1)


class FrameAutoencoder(nn.Module):
    """Spectrogram channels (B, C, T, F) ⇄ latent moments and latents (B, 8, T/r, rows).

    Args:
        config: the sizes.
    """

    def __init__(self, config: FrameAutoencoderConfig) -> None:
        """Build encoder and decoder."""
        super().__init__()
        self.config = config
        features, latent = config.in_channels * config.num_bins, config.latent_channels * config.latent_bins
        ratio = config.time_compression
        if config.linear:
            self.linear_encoder = LinearEncoder(ratio * features, latent)
            self.linear_decoder = nn.Linear(latent, ratio * features)
        else:
            self.embed = nn.Conv1d(features, config.width, ratio, stride=ratio)
            self.encoder = nn.Sequential(*(ConvNextBlock(config.width) for _ in range(config.encoder_layers)))
            self.to_moments = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 2 * latent))
        self.from_latent = nn.Linear(latent, config.width)
        self.decoder = nn.Sequential(*(ConvNextBlock(config.width) for _ in range(config.decoder_layers)))
        self.upsample = nn.ConvTranspose1d(config.width, config.frame_width, ratio, stride=ratio)
        self.frame_decoder = nn.Sequential(*(ConvNextBlock(config.frame_width) for _ in range(config.frame_layers)))
        last = nn.Linear(config.frame_width, features)
        self.to_channels = nn.Sequential(nn.LayerNorm(config.frame_width), last)
        if config.linear:  # the network adds to the linear map, and nothing at the beginning
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @torch.no_grad()
    def start_from(self, channels: Iterable[Tensor]) -> None:
        """Set the linear maps to the principal components of spectrograms: the best that a linear map can do.

        Args:
            channels: (N, C, T, F) of training clips, some at a time, T a multiple of the time compression.

        Raises:
            ValueError: there are no more latent frames than latents.
        """
        latents = self.config.latent_channels * self.config.latent_bins
        mean, basis, _ = principal_components((self._fold(some).flatten(0, 1) for some in channels), latents)
        self.linear_encoder.to_mean.weight.copy_(basis.T)
        self.linear_encoder.to_mean.bias.copy_(-(mean @ basis))
        self.linear_decoder.weight.copy_(basis)
        self.linear_decoder.bias.copy_(mean)

    def _fold(self, channels: Tensor) -> Tensor:
        """Return latent frames (B, T/r, r·C·F) of channels (B, C, T, F)."""
        folded = channels.unflatten(2, (-1, self.config.time_compression))
        return folded.permute(0, 2, 3, 1, 4).flatten(2)

    def _unfold(self, frames: Tensor) -> Tensor:
        """Return channels (B, C, T, F) of latent frames (B, T/r, r·C·F)."""
        shape = (self.config.time_compression, self.config.in_channels, self.config.num_bins)
        return frames.unflatten(2, shape).permute(0, 3, 1, 2, 4).flatten(2, 3)

    def encode_moments(self, channels: Tensor) -> Tensor:
        """Return mean and log-variance (B, 2·latent_channels, T/r, latent_bins) of channels (B, C, T, F)."""
        batch, _, num_frames, _ = channels.shape
        if num_frames % self.config.time_compression:
            raise ValueError(
                f"num_frames must be a multiple of {self.config.time_compression}, got {num_frames}; "
                "crop or pad the clip"
            )
        if self.config.linear:
            moments = self.linear_encoder(self._fold(channels))
        else:
            flat = channels.permute(0, 1, 3, 2).reshape(batch, -1, num_frames)
            moments = self.to_moments(self.encoder(self.embed(flat).transpose(1, 2)))
        grid = moments.reshape(batch, moments.shape[1], 2 * self.config.latent_channels, self.config.latent_bins)
        return grid.permute(0, 2, 1, 3)

    def decode(self, latents: Tensor) -> Tensor:
        """Return channels (B, C, T, F) of latents (B, latent_channels, T/r, latent_bins)."""
        batch, _, num_tokens, _ = latents.shape
        flat = latents.permute(0, 2, 1, 3).reshape(batch, num_tokens, -1)
        tokens = self.decoder(self.from_latent(flat))
        frames = self.frame_decoder(self.upsample(tokens.transpose(1, 2)).transpose(1, 2))
        features = self.to_channels(frames)
        grid = features.reshape(batch, features.shape[1], self.config.in_channels, self.config.num_bins)
        network = grid.permute(0, 2, 1, 3)
        return network + self._unfold(self.linear_decoder(flat)) if self.config.linear else network

    def encoder_modules(self) -> list[nn.Module]:
        """Return the modules that make latents."""
        return [self.linear_encoder] if self.config.linear else [self.embed, self.encoder, self.to_moments]

    def last_layer(self) -> nn.Parameter:
        """Return the decoder's last weight, whose gradient norm balances the adversarial loss."""
        last: Any = self.to_channels[1]
        return last.weight


def principal_components(rows: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the directions along which rows vary most.

    Args:
        rows: finite values (N, D), some at a time: D² numbers are kept of them, however many there are.
        count: K, at most D.

    Returns:
        Their mean (D,), the orthonormal directions (D, K), the widest first, and the standard deviations along them
        (K,).

    Raises:
        ValueError: there are no more rows than K, or they are not finite.
    """
    number, total, products, kind = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for kind in rows:
        values = kind.double()
        number, total, products = number + len(values), total + values.sum(dim=0), products + values.T @ values
    if number <= count:
        raise ValueError(f"clips must have more than {count} latent frames, got {number}; take more clips")
    if not bool(torch.isfinite(products).all()):
        raise ValueError("latents must be finite, got NaN or infinity; look at the clips, or train the VAE first")
    mean = total / number
    variances, directions = torch.linalg.eigh((products - number * torch.outer(mean, mean)) / (number - 1))
    order = variances.argsort(descending=True)[:count]
    kept = directions[:, order]
    kept = kept * kept.gather(0, kept.abs().argmax(dim=0, keepdim=True)).sign()  # no sign is left to chance
    return mean.to(kind), kept.to(kind), variances[order].clamp(min=0.0).sqrt().to(kind)

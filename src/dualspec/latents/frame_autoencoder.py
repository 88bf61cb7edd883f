"""A small frame-wise autoencoder: frequency rows are features, time is the only convolved axis.

The small models use it in place of the two-dimensional `AutoencoderKL`: at a few million parameters a
frame-wise network knows which row is which frequency, so a frequency-dependent interaural phase costs it nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


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
        self.embed = nn.Conv1d(features, config.width, ratio, stride=ratio)
        self.encoder = nn.Sequential(*(ConvNextBlock(config.width) for _ in range(config.encoder_layers)))
        self.to_moments = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 2 * latent))
        self.from_latent = nn.Linear(latent, config.width)
        self.decoder = nn.Sequential(*(ConvNextBlock(config.width) for _ in range(config.decoder_layers)))
        self.upsample = nn.ConvTranspose1d(config.width, config.frame_width, ratio, stride=ratio)
        self.frame_decoder = nn.Sequential(*(ConvNextBlock(config.frame_width) for _ in range(config.frame_layers)))
        self.to_channels = nn.Sequential(nn.LayerNorm(config.frame_width), nn.Linear(config.frame_width, features))

    def encode_moments(self, channels: Tensor) -> Tensor:
        """Return mean and log-variance (B, 2·latent_channels, T/r, latent_bins) of channels (B, C, T, F)."""
        batch, _, num_frames, _ = channels.shape
        if num_frames % self.config.time_compression:
            raise ValueError(
                f"num_frames must be a multiple of {self.config.time_compression}, got {num_frames}; "
                "crop or pad the clip"
            )
        flat = channels.permute(0, 1, 3, 2).reshape(batch, -1, num_frames)
        tokens = self.encoder(self.embed(flat).transpose(1, 2))
        moments = self.to_moments(tokens)
        grid = moments.reshape(batch, moments.shape[1], 2 * self.config.latent_channels, self.config.latent_bins)
        return grid.permute(0, 2, 1, 3)

    def decode(self, latents: Tensor) -> Tensor:
        """Return channels (B, C, T, F) of latents (B, latent_channels, T/r, latent_bins)."""
        batch, _, num_tokens, _ = latents.shape
        tokens = self.from_latent(latents.permute(0, 2, 1, 3).reshape(batch, num_tokens, -1))
        tokens = self.decoder(tokens)
        frames = self.frame_decoder(self.upsample(tokens.transpose(1, 2)).transpose(1, 2))
        flat = self.to_channels(frames)
        return flat.reshape(batch, flat.shape[1], self.config.in_channels, self.config.num_bins).permute(0, 2, 1, 3)

    def last_layer(self) -> nn.Parameter:
        """Return the decoder's last weight, whose gradient norm balances the adversarial loss."""
        last: Any = self.to_channels[1]
        return last.weight

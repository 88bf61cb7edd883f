"""The patch discriminator of the VAE's adversarial loss (reference [35] of the paper; decision 19)."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Sizes of the patch discriminator."""

    in_channels: int  # spectrogram channels C
    base_channels: int = 64  # channels of the first layer
    num_layers: int = 3  # stride-2 layers


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of a spectrogram: real or reconstructed.

    Args:
        config: the sizes.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        """Build the convolutions; group normalisation keeps the score of a clip free of its batch mates."""
        super().__init__()
        self.config = config
        width = config.base_channels
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index in range(1, config.num_layers + 1):
            stride = 2 if index < config.num_layers else 1
            wider = config.base_channels * min(2**index, 8)
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(1, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, channels: Tensor) -> Tensor:
        """Return one score per patch (B, 1, T', F'), high for real, of channels (B, C, T, F)."""
        return self.layers(channels)

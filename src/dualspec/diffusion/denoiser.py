"""The denoiser behind one interface: the paper's U-Net (diffusers) or the small transformer.

Both map (latents (B, C, T, F), timesteps (B,), prompt_embeds (B, L, D), prompt_mask (B, L)) to a prediction with the
shape of the latents.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dualspec.diffusion.transformer import DiffusionTransformer, DitConfig


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """Sizes of the U-Net; the defaults are Tango's and the paper's (section VI-B)."""

    kind: Literal["unet"] = "unet"
    latent_shape: tuple[int, int, int]  # (C, T, F) of the packed latents
    cross_attention_dim: int = 1024  # width of the text states
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)  # channels per level
    layers_per_block: int = 2  # residual blocks per level
    num_heads: tuple[int, ...] = (5, 10, 20, 20)  # attention heads per level
    norm_groups: int = 32  # groups of every group normalisation
    pad_to_multiple: int = 0  # latents are zero-padded to this multiple in T and F; 0: 2^(levels - 1)


class UnetDenoiser(nn.Module):
    """`UNet2DConditionModel` over (time, frequency), text by cross-attention.

    Args:
        config: the sizes. Paper Fig. 1, section VI-B.
    """

    def __init__(self, config: UnetConfig) -> None:
        """Build the U-Net; all levels but the last attend to the text."""
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.config = config
        levels = len(config.block_channels)
        self.unet = UNet2DConditionModel(
            sample_size=config.latent_shape[1:],
            in_channels=config.latent_shape[0],
            out_channels=config.latent_shape[0],
            layers_per_block=config.layers_per_block,
            block_out_channels=config.block_channels,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            attention_head_dim=config.num_heads,
            cross_attention_dim=config.cross_attention_dim,
            use_linear_projection=True,
            norm_num_groups=config.norm_groups,
        )
        self.multiple = config.pad_to_multiple or 2 ** (levels - 1)

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        """Return the prediction (B, C, T, F)."""
        num_frames, rows = latents.shape[2:]
        padded = nn.functional.pad(latents, (0, -rows % self.multiple, 0, -num_frames % self.multiple))
        predicted = self.unet(
            padded, timesteps, encoder_hidden_states=prompt_embeds, encoder_attention_mask=prompt_mask
        ).sample
        return predicted[:, :, :num_frames, :rows]


def build_denoiser(config: UnetConfig | DitConfig) -> UnetDenoiser | DiffusionTransformer:
    """Return the denoiser that `config` describes."""
    return UnetDenoiser(config) if isinstance(config, UnetConfig) else DiffusionTransformer(config)

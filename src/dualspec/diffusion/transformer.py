"""A one-dimensional diffusion transformer: one token per latent frame, text by cross-attention.

The small models use it behind the interface of the U-Net. Blocks are modulated by timestep and pooled text
(adaLN-single), queries and keys are normalised, the perceptrons are gated.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DitConfig:
    """Sizes of the diffusion transformer."""

    kind: Literal["dit"] = "dit"
    latent_shape: tuple[int, int, int]  # (C, T, F) of the packed latents
    cross_attention_dim: int = 384  # width of the text states
    width: int = 320  # features per token
    num_layers: int = 6  # blocks
    num_heads: int = 5  # attention heads
    patch_frames: int = 1  # latent frames per token
    mlp_width: int = 832  # hidden features of the gated perceptron
    input_gains: bool = False  # add the input, each feature times a gain of the condition's, to the output


class RmsNorm(nn.Module):
    """Scale features to unit root mean square."""

    def __init__(self, width: int) -> None:
        """Start with unit gains."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise the last axis."""
        return nn.functional.rms_norm(features, self.weight.shape, self.weight, 1e-6)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys."""

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        """Build the projections."""
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.query_norm, self.key_norm = RmsNorm(width // num_heads), RmsNorm(width // num_heads)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let tokens (B, N, width) look at context (B, M, context_width); mask (B, M) is True where it may."""
        query = self.query(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(self.query_norm(query), self.key_norm(key), value, mask)
        return self.output(attended.transpose(1, 2).flatten(2))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with heads (B, H, N, D) to keys and values (B, H, M, D) where mask (B, M) is True.

    In bf16 on a CPU it is written out: the backward pass of torch's own kernel takes a third of a training step there.
    """
    where = None if mask is None else mask[:, None, None, :]
    if query.device.type != "cpu" or value.dtype != torch.bfloat16:
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=where)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if where is not None:
        scores = scores.masked_fill(~where, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class DitBlock(nn.Module):
    """Self-attention, cross-attention to the text and a gated perceptron, modulated by the condition."""

    def __init__(self, config: DitConfig) -> None:
        """Build the block; `modulation` is its own offset to the shared condition."""
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.self_attention = Attention(width, width, config.num_heads)
        self.cross_attention = Attention(width, width, config.num_heads)
        self.gate_up = nn.Linear(width, 2 * config.mlp_width)
        self.down = nn.Linear(config.mlp_width, width)
        self.modulation = nn.Parameter(torch.randn(8, width) / math.sqrt(width))

    def forward(self, tokens: Tensor, condition: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Map tokens (B, N, width) under condition (B, 8, width) and text states (B, L, width)."""
        shift1, scale1, gate1, shift2, gate2, shift3, scale3, gate3 = (
            (condition + self.modulation).unsqueeze(2).unbind(1)
        )
        attended = self.norms[0](tokens) * (1 + scale1) + shift1
        tokens = tokens + gate1 * self.self_attention(attended, attended)
        tokens = tokens + gate2 * self.cross_attention(self.norms[1](tokens) + shift2, text, mask)
        gate, up = self.gate_up(self.norms[2](tokens) * (1 + scale3) + shift3).chunk(2, dim=-1)
        return tokens + gate3 * self.down(nn.functional.silu(gate) * up)


class DiffusionTransformer(nn.Module):
    """Predict noise or velocity of packed latents from timestep and text states.

    Args:
        config: the sizes.
    """

    positions: Tensor

    def __init__(self, config: DitConfig) -> None:
        """Build the network; its output starts at zero."""
        super().__init__()
        self.config = config
        channels, num_frames, rows = config.latent_shape
        if num_frames % config.patch_frames:
            raise ValueError(f"patch_frames must divide the {num_frames} latent frames, got {config.patch_frames}")
        features, width = channels * rows * config.patch_frames, config.width
        self.embed = nn.Linear(features, width)
        self.register_buffer(
            "positions", sinusoids(torch.arange(num_frames // config.patch_frames), width), persistent=False
        )
        self.time_mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.text_embed = nn.Sequential(
            nn.LayerNorm(config.cross_attention_dim), nn.Linear(config.cross_attention_dim, width)
        )
        self.text_queries = nn.Parameter(torch.randn(4, width) / math.sqrt(width))
        self.text_pool = Attention(width, width, config.num_heads)
        self.pooled_mlp = nn.Sequential(nn.Linear(4 * width, width), nn.SiLU(), nn.Linear(width, width))
        to_condition = nn.Linear(width, 8 * width)
        self.condition = nn.Sequential(nn.SiLU(), to_condition)
        self.blocks = nn.ModuleList(DitBlock(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.project_out = nn.Linear(width, features)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)
        nn.init.normal_(to_condition.weight, std=0.02)
        if config.input_gains:
            self.input_gains = nn.Linear(width, features)
            nn.init.zeros_(self.input_gains.weight)
            nn.init.zeros_(self.input_gains.bias)

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor, prompt_mask: Tensor) -> Tensor:
        """Return the prediction (B, C, T, F) for latents (B, C, T, F), timesteps (B,), text (B, L, D), mask (B, L)."""
        batch, channels, num_frames, rows = latents.shape
        folded = latents.permute(0, 2, 1, 3).reshape(batch, num_frames // self.config.patch_frames, -1)
        tokens = self.embed(folded) + self.positions[: folded.shape[1]].to(folded.dtype)
        text = self.text_embed(prompt_embeds)
        pooled = self.text_pool(self.text_queries.expand(batch, -1, -1), text, prompt_mask).flatten(1)
        summary = self.time_mlp(sinusoids(timesteps, 256).to(text.dtype)) + self.pooled_mlp(pooled)
        condition = self.condition(summary).unflatten(-1, (8, -1))
        for block in self.blocks:
            tokens = block(tokens, condition, text, prompt_mask)
        shift, scale = self.modulation_out(nn.functional.silu(summary)).unsqueeze(1).chunk(2, dim=-1)
        prediction = self.project_out(self.norm_out(tokens) * (1 + scale) + shift)
        if self.config.input_gains:
            prediction = prediction + folded * self.input_gains(nn.functional.silu(summary)).unsqueeze(1)
        return prediction.reshape(batch, num_frames, channels, rows).permute(0, 2, 1, 3)


def sinusoids(positions: Tensor, width: int, longest_period: float = 10_000.0) -> Tensor:
    """Return (N, width) sines and cosines of positions (N,), periods from 2π to `longest_period`·2π."""
    half = width // 2
    rates = torch.exp(-math.log(longest_period) * torch.arange(half, device=positions.device) / half)
    angles = positions.float()[:, None] * rates[None]
    return torch.cat((angles.cos(), angles.sin()), dim=-1)

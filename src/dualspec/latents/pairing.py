"""Joining the latents of one clip into the tensor that the denoiser sees, and taking it apart again.

Paper section III-C concatenates the Mel and the STFT latent without saying along which axis; see decision 9.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PairingLayout = Literal["channel", "frequency", "time"]
LatentShape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    """How the latents of one clip are laid side by side."""

    layout: PairingLayout = "frequency"  # "channel": same grid, stacked; "frequency": side by side; "time": end to end


class LatentPairing:
    """Pack parts (B, C, T, F) of different sizes into one tensor, and unpack it.

    * ``channel``: all parts share one (T, F) grid and are stacked on the channel axis.
    * ``frequency``: all parts share C; shorter time axes are zero-padded; parts stand side by side in frequency.
    * ``time``: all parts share C; narrower parts are folded to the widest part's rows and follow it in time.

    Args:
        config: the layout.
        shapes: (C, T, F) of each part, in order.
    """

    def __init__(self, config: PairingConfig, shapes: list[LatentShape]) -> None:
        """Check that the shapes suit the layout."""
        if not shapes:
            raise ValueError("shapes must name at least one latent, got none")
        self.config, self.shapes = config, list(shapes)
        channels, frames, rows = zip(*shapes, strict=True)
        if config.layout == "channel" and (len(set(frames)) > 1 or len(set(rows)) > 1):
            raise ValueError(f"latents must share one grid for the channel layout, got {shapes}; use 'frequency'")
        if config.layout != "channel" and len(set(channels)) > 1:
            raise ValueError(f"latents must share their channels for the {config.layout} layout, got {shapes}")
        if config.layout == "time" and any((t * f) % max(rows) for _, t, f in shapes):
            raise ValueError(
                f"latents must fold to rows of {max(rows)} for the time layout, got {shapes}; use 'frequency'"
            )

    @property
    def packed_shape(self) -> LatentShape:
        """(C, T, F) of the packed tensor."""
        channels, frames, rows = zip(*self.shapes, strict=True)
        if self.config.layout == "channel":
            return sum(channels), frames[0], rows[0]
        if self.config.layout == "frequency":
            return channels[0], max(frames), sum(rows)
        return channels[0], sum(t * f // max(rows) for _, t, f in self.shapes), max(rows)

    def pack(self, parts: list[Tensor]) -> Tensor:
        """Return latents (B, C, T, F) of parts (B, C_k, T_k, F_k)."""
        self._check(parts)
        if self.config.layout == "channel":
            return torch.cat(parts, dim=1)
        if self.config.layout == "frequency":
            longest = self.packed_shape[1]
            return torch.cat([torch.nn.functional.pad(p, (0, 0, 0, longest - p.shape[2])) for p in parts], dim=3)
        rows = self.packed_shape[2]
        return torch.cat([p.reshape(*p.shape[:2], -1, rows) for p in parts], dim=2)

    def unpack(self, latents: Tensor) -> list[Tensor]:
        """Return the parts (B, C_k, T_k, F_k) of packed latents; padding is dropped."""
        if latents.shape[1:] != torch.Size(self.packed_shape):
            raise ValueError(f"latents must be (B, {self.packed_shape}), got {tuple(latents.shape)}")
        parts, start = [], 0
        for channels, frames, rows in self.shapes:
            if self.config.layout == "channel":
                parts.append(latents[:, start : start + channels])
                start += channels
            elif self.config.layout == "frequency":
                parts.append(latents[:, :, :frames, start : start + rows])
                start += rows
            else:
                length = frames * rows // self.packed_shape[2]
                parts.append(latents[:, :, start : start + length].reshape(-1, channels, frames, rows))
                start += length
        return parts

    def _check(self, parts: list[Tensor]) -> None:
        got = [tuple(part.shape[1:]) for part in parts]
        if got != self.shapes:
            raise ValueError(f"latents must have the shapes {self.shapes}, got {got}")

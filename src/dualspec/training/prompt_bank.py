"""Token states of training prompts, which come again and again, in one tensor on the device."""

import torch
from torch import Tensor

from dualspec.text.encoder import TextEncoder

_LENGTH_STEP = 16
"""Prompts are padded to a multiple of this many tokens."""


class PromptBank:
    """Token states of prompts, encoded once each and kept in one tensor on the device: a batch is one look-up.

    A CPU encodes each prompt alone, so that its states depend on no other (the padding of a batch moves last bits) and
    a resumed training equals the uninterrupted one; a GPU those of a batch that are new at once.

    Args:
        encoder: the frozen text encoder.
        max_prompts: all are forgotten where they become more.
    """

    def __init__(self, encoder: TextEncoder, max_prompts: int) -> None:
        """Start empty."""
        self.encoder, self.max_prompts = encoder, max_prompts
        self.spans: dict[str, tuple[int, int]] = {}  # first place and number of tokens of each prompt
        self.states = torch.zeros(1, encoder.width, dtype=torch.float16)  # (N, D), tokens end to end; place 0 pads
        self.num_used = 1

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return states (B, L, D) and mask (B, L) on the device, padded to few lengths for compiled networks."""
        missing = {prompt for prompt in prompts if prompt not in self.spans}
        if len(self.spans) + len(missing) > self.max_prompts:
            self.spans, self.num_used, missing = {}, 1, set(prompts)
        if missing:
            self._learn(sorted(missing), device)
        starts, lengths = torch.tensor([self.spans[prompt] for prompt in prompts]).unbind(1)
        tokens = torch.arange(-(-int(lengths.max()) // _LENGTH_STEP) * _LENGTH_STEP)
        mask = tokens < lengths[:, None]
        places = torch.where(mask, starts[:, None] + tokens, 0).to(device, non_blocking=True)
        return self.states[places].float(), mask.to(device, non_blocking=True)

    def _learn(self, prompts: list[str], device: torch.device | str) -> None:
        alone = torch.device(device).type == "cpu"
        for group in [[prompt] for prompt in prompts] if alone else [prompts]:
            embeds, mask = self.encoder.encode(group)
            lengths = mask.sum(dim=1).tolist()
            needed = self.num_used + sum(lengths)
            if needed > len(self.states):
                states = torch.zeros(2 * needed, self.encoder.width, dtype=torch.float16, device=device)
                states[: self.num_used] = self.states[: self.num_used].to(device)
                self.states = states
            tokens = torch.cat([own[:length] for own, length in zip(embeds, lengths, strict=True)])
            self.states[self.num_used : needed] = tokens.to(device, torch.float16)
            for prompt, length in zip(group, lengths, strict=True):
                self.spans[prompt] = (self.num_used, length)
                self.num_used += length

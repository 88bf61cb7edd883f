"""Token states of training prompts, which come again and again, in one tensor on the device."""

import torch
from torch import Tensor, nn

from dualspec.text.encoder import TextEncoder


class PromptBank:
    """Token states of prompts, encoded once each and kept in one tensor on the device: a batch is one look-up.

    Args:
        encoder: the frozen text encoder.
        max_prompts: all are forgotten where they become more.
    """

    def __init__(self, encoder: TextEncoder, max_prompts: int) -> None:
        """Start empty."""
        self.encoder, self.max_prompts = encoder, max_prompts
        self.slots: dict[str, int] = {}
        self.states = torch.zeros(0, 0, encoder.width, dtype=torch.float16)  # (N, L, D)
        self.lengths = torch.zeros(0, dtype=torch.int64)  # (N,), on the CPU

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return states (B, L, D) padded to the longest prompt and mask (B, L), on the device."""
        missing = {prompt for prompt in prompts if prompt not in self.slots}
        if len(self.slots) + len(missing) > self.max_prompts:
            self.slots, missing = {}, set(prompts)
        if missing:
            self._learn(sorted(missing), device)
        chosen = torch.tensor([self.slots[prompt] for prompt in prompts])
        lengths = self.lengths[chosen]
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        places = chosen.to(device, non_blocking=True)
        return self.states[places, : mask.shape[1]].float(), mask.to(device, non_blocking=True)

    def _learn(self, prompts: list[str], device: torch.device | str) -> None:
        embeds, mask = self.encoder.encode(prompts)
        first, last = len(self.slots), len(self.slots) + len(prompts)
        num_tokens = max(self.states.shape[1], embeds.shape[1])
        if last > len(self.states) or num_tokens > self.states.shape[1]:
            room = len(self.states) if last <= len(self.states) else 2 * last
            states = torch.zeros(room, num_tokens, self.encoder.width, dtype=torch.float16, device=device)
            states[:first, : self.states.shape[1]] = self.states[:first].to(device)
            self.states, self.lengths = states, nn.functional.pad(self.lengths, (0, room - len(self.lengths)))
        self.states[first:last] = 0.0
        self.states[first:last, : embeds.shape[1]] = embeds.to(device, torch.float16)
        self.lengths[first:last] = mask.sum(dim=1).cpu()
        self.slots |= {prompt: first + place for place, prompt in enumerate(prompts)}

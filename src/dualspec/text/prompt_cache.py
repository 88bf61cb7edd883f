"""Token states of prompts, each encoded once: texts come again, above all the empty one of guidance."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualspec.text.encoder import TextEncoder


class PromptCache:
    """The states of the texts that were used last. Another encoder, device or precision empties it.

    Args:
        max_prompts: texts that are kept. Each is encoded alone, so that its states depend on nothing that was encoded
            beside or before it (the padding of a batch moves last bits).
    """

    def __init__(self, max_prompts: int) -> None:
        """Start empty."""
        self.max_prompts = max_prompts
        self.states: dict[str, Tensor] = {}  # (L, D) of each text, the one used last at the end
        self._made_by: tuple[Any, ...] = ()

    @torch.no_grad()
    def encode(self, encoder: TextEncoder, prompts: Sequence[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return states (B, L, D) float32, zero behind a prompt's end, and mask (B, L), on the device.

        Raises:
            ValueError: a prompt is too long or not valid Unicode, or there is none.
        """
        weight = next(itertools.chain(encoder.parameters(), encoder.buffers()), None)
        made_by = (encoder, getattr(weight, "device", None), getattr(weight, "dtype", None))
        if self._made_by != made_by:
            self.states, self._made_by = {}, made_by
        found = {prompt: self.states.pop(prompt) for prompt in dict.fromkeys(prompts) if prompt in self.states}
        missing = sorted(set(prompts) - set(found))
        for texts in [[text] for text in missing] if prompts else [[]]:  # the encoder refuses an empty list
            embeds, _ = encoder.encode(texts)
            found[texts[0]] = embeds[0].to(device, torch.float32)
        # what was cut is encoded again, so that it is said again
        self.states |= {text: states for text, states in found.items() if len(states) < encoder.max_tokens}
        while len(self.states) > self.max_prompts:
            del self.states[next(iter(self.states))]
        chosen = [found[prompt].to(device) for prompt in prompts]
        embeds = nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        mask = torch.arange(embeds.shape[1])[None] < torch.tensor([len(states) for states in chosen])[:, None]
        return embeds, mask.to(device, non_blocking=True)

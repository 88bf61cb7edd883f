"""The text encoder without torch: words to token states on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dualspec.engine.session import Graphs
from dualspec.text.bert_files import BertFiles
from dualspec.text.encoder_files import check_prompt_text

_MAX_CACHED_PROMPTS = 128


class OnnxTextEncoder:
    """`text.encoder.BertTextEncoder` with the embedded weights.

    Its word vectors stay in the file, but for those in use.

    Args:
        graphs: where the network's graph lies.
        max_tokens: longest prompt in tokens.
        num_threads: that share one operation.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """

    def __init__(self, graphs: Graphs, max_tokens: int, num_threads: int) -> None:
        """Check the files and load all but the word vectors."""
        self._files = BertFiles(max_tokens=max_tokens)
        self._network = graphs.open("text", self._files.layers(), num_threads=num_threads, once=True)
        self._states = lru_cache(maxsize=_MAX_CACHED_PROMPTS)(self._states_of)

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return token states (B, L, D), zero behind a prompt's end, and the mask (B, L).

        Each text is encoded alone, so that its states depend on nothing beside or before it, and kept for the next.

        Raises:
            ValueError: a prompt is no text, too long or not valid Unicode.
        """
        for prompt in prompts:
            check_prompt_text(prompt)
        tokens = [tuple(row) for row in self._files.tokenize(prompts)]
        mask = np.arange(max(map(len, tokens))) < np.array([[len(row)] for row in tokens])
        states = np.zeros((*mask.shape, self._files.config.hidden_size), dtype=np.float32)
        for row, own in enumerate(tokens):
            states[row, : len(own)] = self._states(own)
        return states, mask

    def pool(self, prompts: Sequence[str]) -> np.ndarray:
        """Return one vector (B, D) float32 per prompt: the mean of its token states.

        Raises:
            ValueError: as for `encode`.
        """
        states, mask = self.encode(prompts)
        return states.sum(axis=1) / mask.sum(axis=1, keepdims=True, dtype=np.float32)

    def _states_of(self, tokens: tuple[int, ...]) -> np.ndarray:
        """Return the states (L, D) of one text."""
        words = self._files.words(tokens)[None]
        (states,) = self._network.run(None, {"words": words, "mask": np.ones(words.shape[:2], dtype=bool)})
        return states[0]

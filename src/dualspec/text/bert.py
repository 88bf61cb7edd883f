"""The network of the small text encoder: a BERT without its pooler, on word vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualspec.text.bert_files import WORDS, BertConfig, BertFiles


class BertLayer(nn.Module):
    """One layer: every token looks at every other, then a network of its own; each is added and normalised after."""

    def __init__(self, config: BertConfig) -> None:
        """Set the sizes; the names are those of published weights."""
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_attention_heads

        def normed(size: int) -> nn.ModuleDict:
            norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            return nn.ModuleDict({"dense": nn.Linear(size, width), "LayerNorm": norm})

        looking = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": looking, "output": normed(width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = normed(inner)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return states (B, L, D) of states (B, L, D) and the mask (B, 1, 1, L)."""
        looking: Any = self.attention["self"]
        seen: Any = self.attention["output"]
        output: Any = self.output
        query, key, value = (
            looking[name](hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        hidden = seen["LayerNorm"](hidden + seen["dense"](mixed))
        inner = functional.gelu(self.intermediate["dense"](hidden))
        return output["LayerNorm"](hidden + output["dense"](inner))


class BertEncoder(nn.Module):
    """Token states from word vectors (J. Devlin et al., "BERT", NAACL 2019), under the names of published weights."""

    def __init__(self, config: BertConfig) -> None:
        """Set the sizes."""
        super().__init__()
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, width),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, width),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, eps=config.layer_norm_eps),
            }
        )
        layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return the states (B, L, D) of word vectors (B, L, D), where mask (B, L) is True at tokens."""
        places = torch.arange(words.shape[1], device=words.device)
        kinds = torch.zeros_like(places)  # all of the first sentence
        hidden = (
            words + self.embeddings["position_embeddings"](places) + self.embeddings["token_type_embeddings"](kinds)
        )
        hidden = self.embeddings["LayerNorm"](hidden)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            hidden = layer(hidden, mask[:, None, None, :])
        return hidden

    def read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the states (B, L, D) of tokens (B, L)."""
        return self(self.embeddings["word_embeddings"](tokens), mask)


def load_bert(files: BertFiles) -> BertEncoder:
    """Build the network of a folder with its weights; any missing, extra or misshapen tensor is an error.

    Raises:
        ValueError: names the first of them, or a number that is not finite.
    """
    state = files.layers() | {WORDS: files.words()}
    with torch.device("meta"):
        bert = BertEncoder(files.config)
    expected = {name: tuple(value.shape) for name, value in bert.state_dict().items()}
    shapes = {name: value.shape for name, value in state.items()}
    for problem, names in (
        ("missing", expected.keys() - shapes.keys()),
        ("unexpected", shapes.keys() - expected.keys()),
        ("misshapen", {name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name]}),
    ):
        if names:
            raise ValueError(f"weights of {files.folder} must fit its config.json, got {problem} {sorted(names)[:3]}")
    bert.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, assign=True)
    return bert.eval().requires_grad_(False)

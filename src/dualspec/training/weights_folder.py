"""What a weights folder says of itself. Nothing here loads torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualspec.files import read_json, sha256_of

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
HEADS_NAME = "heads.json"
"""What a run's folder says of the heads that directions are rendered with."""
_DOCUMENT = {"format_version": int, "type": str, "config": dict, "files": dict, "notes": dict}


def read_notes(folder: str | Path) -> dict[str, Any]:
    """Return the training facts stored in a weights folder."""
    return read_document(folder)["notes"]


def read_hashes(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every file of tensors in a weights folder, by name."""
    return dict(read_document(folder)["files"])


def read_document(folder: str | Path) -> dict[str, Any]:
    """Return what the description of a weights folder holds: type and values of the config, files, notes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another format.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no weights in {folder}: {CONFIG_NAME} is missing")
    document = read_json(path)
    if not isinstance(document, dict) or {name: type(value) for name, value in document.items()} != _DOCUMENT:
        raise ValueError(f"{path} must be a weights description, got other keys or types; restore the folder")
    if document["format_version"] != FORMAT_VERSION or not all(type(v) is str for v in document["files"].values()):
        got = document["format_version"]
        raise ValueError(f"{path} must have format_version {FORMAT_VERSION} and hashes of files, got {got!r:.80}")
    return document


def checked_files(folder: str | Path) -> Iterator[Path]:
    """Yield the files of tensors of a weights folder, each after its hash was checked.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one was changed or cut.
    """
    folder = Path(folder)
    for name, expected in read_document(folder)["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"no weights in {folder}: {name} is missing")
        if sha256_of(path) != expected:
            raise ValueError(f"{path} must have the SHA-256 {expected[:12]}…, got another; it is damaged, restore it")
        yield path

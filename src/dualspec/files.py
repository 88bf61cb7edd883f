"""Files that appear whole or not at all, and JSON that is read strictly."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 1 << 20


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary file name beside `path`; it takes the place of `path` only when the block ends without error.

    The temporary name keeps the suffix, so that writers which choose their format by it can be used. Whatever is
    raised inside the block, a signal's exception included, the temporary file is removed and `path` stays as it was.

    Args:
        path: the final file; its folder must exist.

    Raises:
        FileNotFoundError: the folder is absent.
        OSError: `path` is something else than a regular file, or the disk refuses.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {str(target.parent)!r} must exist, got none; make it first")
    if target.exists() and not target.is_file():
        raise OSError(f"path must be a regular file, got {str(target)!r}; choose another name")
    temporary = target.with_name(f".tmp-{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to a file that appears whole or not at all.

    Raises:
        OSError: the folder is absent or the disk refuses; the former content stays.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, line ends as given, to a file that appears whole or not at all.

    Raises:
        OSError: the folder is absent or the disk refuses; the former content stays.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of limited size, strictly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than `max_bytes`, no UTF-8 or no strict JSON; the message names the file.
    """
    with open(path, "rb") as stream:
        data = stream.read(max_bytes + 1)
    name = os.fspath(path)
    if len(data) > max_bytes:
        raise ValueError(f"{name} must be at most {max_bytes} bytes, got more; is it the right file?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be UTF-8 text, got other bytes ({error}); is it the right file?") from error
    return parse_json(text, name)


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; a key that stands twice in one object, NaN, infinities and bottomless nesting are refused.

    Args:
        text: the JSON text.
        where: the name under which errors speak of it.

    Raises:
        ValueError: the text is no strict JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(
            f"{where} must be JSON of reasonable depth, got bottomless nesting; write it flatter"
        ) from error
    except ValueError as error:
        raise ValueError(f"{where} must be JSON, got something else ({error}); correct it") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _sync(path: Path) -> None:
    """Ask the system to put a file or a folder on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

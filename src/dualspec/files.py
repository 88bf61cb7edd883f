"""Files that appear whole or not at all, locks, and reading that is bounded and strict."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and what killed processes left stays
    fcntl = None  # type: ignore[assignment]

MAX_JSON_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 20  # of a text that is read as a whole
MAX_LINE_BYTES = 1 << 16  # of one line, the manifest's too
MAX_FILE_NAME_BYTES = 255  # what file systems take
_PREFIX = ".tmp-dualspec-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary file name near `path`; it takes the place of `path` only when the block ends without error.

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
    with saying_what_is_free(target.parent), temporary_in(target.parent) as folder:
        temporary = folder / f"new{target.suffix}"
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)


@contextmanager
def saying_what_is_free(folder: Path) -> Iterator[None]:
    """Add the place, and the bytes that are free there, to the system's bare word that a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
            raise
        free = shutil.disk_usage(folder).free
        raise OSError(error.errno, f"{error.strerror}, {free} bytes are free", str(folder)) from error


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """Lend a folder beside the target; its files move into the target together, when the block ends without error.

    Raises:
        OSError: a file cannot be written, or a folder bears its name.
    """
    with saying_what_is_free(folder), temporary_in(folder) as temporary:
        yield temporary
        files = sorted(temporary.iterdir())
        for file in files:
            if (folder / file.name).is_dir():
                raise OSError(f"output must be a file, got the folder {folder / file.name}; choose another name")
        for file in files:
            os.replace(file, folder / file.name)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Lend a temporary folder beside a new one; it takes that name only when the block ends without error.

    What killed processes left there is removed first.

    Raises:
        ValueError: the folder exists.
        OSError: the disk refuses; the error says how much is free.
    """
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    with saying_what_is_free(folder.parent), temporary_in(folder.parent) as temporary:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        temporary.rename(folder)
        sync(folder.parent)


def check_new(folder: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        ValueError: it does.
    """
    if folder.exists():
        raise ValueError(f"folder must be new, got {folder}, which exists; choose another name or remove it")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, made where there is none, against other processes for as long as the block lasts.

    Raises:
        BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise BlockingIOError(f"{folder} must be free, got one that another process fills; wait for it")
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes, whatever machine or container they are in.

    The system lifts the lock when the descriptor is closed or its process dies.

    Returns:
        False if another process holds it.

    Raises:
        OSError: this file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Make a temporary folder that is this process' alone while the block lasts; it goes, unless it was renamed.

    It is locked, so that `remove_leftovers` can tell it from what a dead process left; by the process' number it could
    not, as two containers that share a folder do not see each other's. A folder, as some writers replace their file.

    Args:
        folder: where; it must exist.

    Raises:
        OSError: it cannot be made.
    """
    path, descriptor = _made(folder)
    try:
        yield path
    finally:
        remove(path)
        if descriptor is not None:
            os.close(descriptor)


def _made(folder: Path) -> tuple[Path, int | None]:
    """Make and lock a folder; another is made where the first was swept away before it was locked."""
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        path.mkdir()
        if fcntl is None:
            return path, None
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            is_ours = lock(descriptor)
        except OSError:  # no locks here: `remove_leftovers` finds that, too, and removes nothing
            is_ours = True
        if is_ours and _is_still(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary folders that killed processes left in a folder, or anywhere below it; those in use stay."""
    if fcntl is None:
        return
    for path in [*(folder.rglob(f"{_PREFIX}*") if below else folder.glob(f"{_PREFIX}*"))]:
        if not re.fullmatch(rf"{re.escape(_PREFIX)}[0-9a-f]{{16}}", path.name):
            continue
        with suppress(OSError):  # it has gone meanwhile, is no folder of ours, or there are no locks
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if lock(descriptor) and _is_still(path, descriptor):
                    remove(path)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a file of limited size; of a larger one, or of a device without end, no more than one byte beyond that.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger; the message names the file.
    """
    with open(path, "rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{os.fspath(path)} must be at most {max_bytes} bytes, got more; is it the right file?")
    return data


def read_text(path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text of limited size, line ends as they are, without the mark that some editors put before it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than `max_bytes`, or no UTF-8; the message names the file.
    """
    return _decoded(read_bytes(path, max_bytes=max_bytes), os.fspath(path))


def read_lines(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line of a UTF-8 file, each with its end; no more than a line is held at a time.

    Args:
        path: the file.
        max_bytes: of the whole file; None for any number.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file, or a line of it, is too large or no UTF-8; the message names file and line.
    """
    name, number, count = os.fspath(path), 0, 0
    with open(path, "rb") as stream:
        while raw := stream.readline(MAX_LINE_BYTES + 2):
            number += 1
            count += len(raw)
            if max_bytes is not None and count > max_bytes:
                raise ValueError(f"{name} must be at most {max_bytes} bytes, got more; is it the right file?")
            if len(raw) > MAX_LINE_BYTES + 1:
                where = f"{name}:{number}"
                raise ValueError(f"{where} must have at most {MAX_LINE_BYTES} bytes, got more; is it the right file?")
            yield number, _decoded(raw, f"{name}:{number}", "utf-8-sig" if number == 1 else "utf-8")


def _decoded(data: bytes, where: str, encoding: str = "utf-8-sig") -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be UTF-8 text, got other bytes ({error}); save it as UTF-8") from error


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of limited size, strictly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than `max_bytes`, no UTF-8 or no strict JSON; the message names the file.
    """
    return parse_json(read_text(path, max_bytes=max_bytes), os.fspath(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; a key that stands twice in one object, NaN, infinities and bottomless nesting are refused.

    Args:
        text: the JSON text.
        where: the name under which errors speak of it.

    Raises:
        ValueError: the text is no strict JSON.
    """
    try:
        return _STRICT.decode(text)
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


_STRICT = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def sync(path: Path) -> None:
    """Ask the system to put a file or a folder on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

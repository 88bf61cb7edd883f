"""Files that appear whole or not at all, and JSON that is read strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
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
    temporary = target.with_name(f"{_temporary_name()}{target.suffix}")
    try:
        with saying_what_is_free(target.parent):
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    temporary = folder / _temporary_name()
    temporary.mkdir()
    try:
        with saying_what_is_free(folder):
            yield temporary
        files = sorted(temporary.iterdir())
        for file in files:
            if (folder / file.name).is_dir():
                raise OSError(f"output must be a file, got the folder {folder / file.name}; choose another name")
        for file in files:
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Lend a temporary folder beside a new one; it takes that name only when the block ends without error.

    What killed processes of this machine left there is removed first.

    Raises:
        ValueError: the folder exists.
        OSError: the disk refuses; the error says how much is free.
    """
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    temporary = folder.with_name(_temporary_name())
    try:
        with saying_what_is_free(folder.parent):
            temporary.mkdir()
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            temporary.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lifts it when the process dies
        except BlockingIOError:
            raise BlockingIOError(f"{folder} must be free, got one that another process fills; wait for it") from None
        yield
    finally:
        os.close(descriptor)


def check_readable(folder: Path) -> None:
    """Refuse a folder where one below it cannot be listed; `Path.glob` would pass over that in silence.

    Raises:
        OSError: there is one; the error names it.
    """

    def refuse(error: OSError) -> None:
        raise error

    for _ in os.walk(folder, onerror=refuse):
        pass


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder, or anywhere below it."""
    pattern = f".tmp-{_machine()}-*"
    for path in [*(folder.rglob(pattern) if below else folder.glob(pattern))]:
        number = path.name.split("-")[2]
        if number.isdigit() and not _is_alive(int(number)):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_name() -> str:
    return f".tmp-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}"


def _machine() -> str:
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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

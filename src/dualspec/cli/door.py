"""The outermost door: every known error becomes one line on stderr and a documented exit code.

| code | meaning |
|---|---|
| 0 | done |
| 2 | the command is wrong: an option, a prompt, a recipe, a key |
| 65 | the data is wrong: unreadable audio, another SOFA convention, damaged weights |
| 66 | an input is not there |
| 70 | an error in this program; the trace is kept |
| 73 | another run holds the folder |
| 74 | the system refuses: disk full, no permission, no memory |
| 75 | training was stopped by SIGUSR1; the state is saved, `--resume` goes on |
| 130, 143 | stopped by Ctrl-C or SIGTERM |
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer

from dualspec.memory import is_out_of_memory

USAGE, BAD_DATA, NO_INPUT, BUG, LOCKED, IO_ERROR, STOPPED = 2, 65, 66, 70, 73, 74, 75
INTERRUPTED, TERMINATED = 130, 143
FEWER = "take a smaller --batch-size, fewer clips or another --device"


class UsageProblem(Exception):
    """The command itself is wrong."""


@contextmanager
def usage() -> Iterator[None]:
    """Say that a ValueError inside the block is about the command and not about the content of a file."""
    try:
        yield
    except ValueError as error:
        raise UsageProblem(str(error)) from error


def refuse(message: str) -> NoReturn:
    """End the command because of how it was called."""
    raise UsageProblem(message)


def note(message: str) -> None:
    """Print one line that is no result to stderr."""
    print(_one_line(message), file=sys.stderr)


def door(verb: Callable[..., None]) -> Callable[..., None]:
    """Wrap a verb so that it ends with a documented exit code, and shows warnings as single lines."""

    @functools.wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with _warnings_as_lines():
                verb(*args, **kwargs)
        except typer.Exit:
            raise
        except BaseException as error:
            code, message = exit_code(error)
            if code == BUG:
                raise
            if message:
                note(f"error: {message}")
            raise typer.Exit(code) from error

    return wrapped


def exit_code(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an error and the line that tells the user; an error that nobody expected is a bug."""
    message = str(error)
    match error:
        case UsageProblem():
            return USAGE, message
        case KeyboardInterrupt():
            return INTERRUPTED, "stopped; finished files are complete, nothing half-written is left"
        case SystemExit():
            return (error.code, "") if isinstance(error.code, int) else (BUG, message)
        case _ if is_out_of_memory(error):
            advised = message.startswith("out of memory with")
            return IO_ERROR, message if advised else f"out of memory; {FEWER}"
        case BlockingIOError():
            return LOCKED, message
        case BrokenPipeError():  # whoever read our output has left
            _silence_stdout()
            return IO_ERROR, ""
        case FileNotFoundError():
            return NO_INPUT, _of_system(error)
        case OSError():
            return IO_ERROR, _of_system(error)
        case UnicodeEncodeError() if sys.getfilesystemencoding() != "utf-8":
            return IO_ERROR, f"names must be {error.encoding} in this locale, got others; set LC_ALL=C.UTF-8"
        case ValueError() if _raised_by_us(error):
            return BAD_DATA, message
    return BUG, message


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    for name in ("stdout", "stderr"):  # one that was closed (`>&-`) takes what is said, and the next file is not it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    with _termination_raises():
        try:
            code = app(arguments or ["--help"], standalone_mode=False, prog_name="dualspec")
            sys.stdout.flush()
        except typer.Exit as stop:
            return stop.exit_code
        except _UsageError as error:
            note(f"error: {error.format_message()} (see dualspec {_command_of(error)}--help)")
            return USAGE
        except BaseException as error:
            number, message = exit_code(error)
            if number == BUG:
                _show_trace(error)
                message = f"an error in dualspec ({type(error).__name__}); please report it with the lines above"
            if message:
                note(f"error: {message}")
            return number
    return code if isinstance(code, int) else 0


_UsageError: Any = typer.BadParameter.__bases__[0]  # typer has moved its home between versions


def _command_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path.split()[1:] if context is not None else []
    return "".join(f"{word} " for word in path)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _of_system(error: OSError) -> str:
    """Say what the operating system refused, with the file's name; our own messages stay as they are."""
    if error.strerror is None or error.errno is None:
        return str(error)
    name = f"{os.fspath(error.filename)}: " if isinstance(error.filename, (str, os.PathLike)) else ""
    return f"{name}{error.strerror}"


def _raised_by_us(error: ValueError) -> bool:
    """Tell our own refusals, which explain themselves, from a library's, which nobody foresaw."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return str(module).partition(".")[0] == __name__.partition(".")[0]


def _show_trace(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)


def _silence_stdout() -> None:
    """Keep the interpreter's last flush from failing once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            note(f"warning: {message}")

        warnings.showwarning = show
        yield


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files are removed on the way out."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread: the host program owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

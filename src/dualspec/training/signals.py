"""Signals that end a run after the step at hand."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def signals_noted(note: Callable[[int], None]) -> Iterator[None]:
    """Pass the first SIGINT, SIGTERM or SIGUSR1 to `note`; a second one acts as usual.

    Outside the main thread nothing is watched: there the host program owns the signals.
    """
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous: dict[int, Any] = {}

    def first(number: int, frame: object) -> None:
        note(number)
        for watched_number in watched:
            signal.signal(watched_number, previous[watched_number])

    try:
        for number in watched:
            previous[number] = signal.signal(number, first)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number in watched:
            signal.signal(number, previous[number])

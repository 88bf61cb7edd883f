"""What every fuzz test needs: many cases, a limit in time and memory for each, and one kind of allowed error."""

from __future__ import annotations

import copy
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS_PER_CASE = 5
LONGEST_MESSAGE = 1_000  # characters; the door of the command line makes one line of it
BYTES_OF_ROOM = 2**30  # beyond what the process holds when the test begins
CASES = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture
def memory_bound() -> Iterator[None]:
    """Let every allocation beyond 1 GiB fail while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES_OF_ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 4_097, 70_000, 2**31, 2**63, 10**30, -(2**63), 0.0, -0.0, 0.5, 1e308,
    1e-320, "", "0", "x", "犬", "\x00", "\ud800", "kind", "../../etc/passwd", "/etc/passwd", "a" * 5_000, [], {}, [[]],
    [0] * 3, [70_000] * 4, [-1], [{}], {"kind": "unet"}, {"": None},
]  # fmt: skip
SEEDS = st.integers(0, 2**63 - 1).map(random.Random)


class Fuzz:
    """Try many cases: each is accepted, or refused by a short error of the house, in time and memory."""

    seeds = SEEDS

    def __init__(self, name: str, cases: int, figure: Callable[[str], None]) -> None:
        self.name, self.cases, self.figure = name.partition("[")[0].removeprefix("test_"), cases, figure

    def __call__(
        self, cases: st.SearchStrategy[Any], act: Callable[[Any], object], what: str = "", share: float = 1
    ) -> None:
        counts, slowest = {"accepted": 0, "refused": 0}, 0.0

        @settings(
            max_examples=round(share * self.cases),
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(cases)
        def once(case: Any) -> None:
            nonlocal slowest
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_CASE)
            try:
                act(case)
                counts["accepted"] += 1
            except (ValueError, FileNotFoundError) as error:
                check_refusal(error)
                counts["refused"] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                slowest = max(slowest, time.monotonic() - started)

        previous = signal.signal(signal.SIGALRM, too_late)
        try:
            once()
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert all(counts.values()), f"only one outcome: {counts}"
        self.figure(f"fuzz, {what or self.name}: {sum(counts.values())} cases, {counts}, slowest {slowest:.2f} s")

    @staticmethod
    def damage(content: bytes, hot: int | None = None) -> st.SearchStrategy[bytes]:
        """Bytes like `content`, as `damaged` makes them."""
        return SEEDS.map(lambda draw: damaged(content, draw, hot))

    @staticmethod
    def with_large(content: bytes, hot: int, act: Callable[[bytes], object]) -> Callable[[random.Random], object]:
        """Let `act` take `SEEDS` in place of `damage`: hypothesis keeps every case, and thousands are a gigabyte."""
        return lambda draw: act(damaged(content, draw, hot))

    @staticmethod
    def mutated(document: Any) -> st.SearchStrategy[Any]:
        """JSON like `document`: up to three values somewhere in it replaced, taken away, renamed or added."""
        return SEEDS.map(lambda draw: changed(document, draw))


@pytest.fixture(params=CASES)
def fuzz(request: pytest.FixtureRequest, memory_bound: None, figure: Callable[[str], None]) -> Fuzz:
    """What tries many cases, and makes them."""
    return Fuzz(request.node.name, request.param, figure)


def too_late(number: int, frame: object) -> None:
    raise AssertionError(f"a case took more than {SECONDS_PER_CASE} s")


def damaged(content: bytes, draw: random.Random, hot: int | None = None) -> bytes:
    """A copy of bytes: places changed (rather among the first `hot`), cut, or with an insertion."""
    data = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 2, 4, 12))):
        reach = min(hot or len(data), len(data)) if draw.random() < 0.7 else len(data)
        data[draw.randrange(reach)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    if draw.random() < 0.3:
        at = draw.randrange(len(data))
        data[at:at] = draw.randbytes(draw.randrange(1, 16))
    return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)


def check_refusal(error: BaseException) -> None:
    """Refuse an error that is long, or that no line of ours raised."""
    assert 0 < len(str(error)) <= LONGEST_MESSAGE and is_ours(error), repr(error)


def changed(document: Any, draw: random.Random) -> Any:
    """A copy of a JSON value with up to three changes."""
    root, paths = [copy.deepcopy(document)], list(_paths(document))
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        _change(root, draw.choice(paths), draw)
    return root[0]


def is_ours(error: BaseException) -> bool:
    """Whether the error was raised by a line of dualspec, as the command line's door asks."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("dualspec")


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _paths(value, (*path, key))


def _change(root: list[Any], path: tuple[Any, ...], draw: random.Random) -> None:
    node: Any = root
    key: Any = 0
    for part in path:
        inner = node[key]
        if not ((isinstance(inner, dict) and part in inner) or (isinstance(inner, list) and part in range(len(inner)))):
            break
        node, key = inner, part
    kind, value = draw.choice(("replace", "replace", "delete", "rename", "add")), copy.deepcopy(draw.choice(ODD_VALUES))
    if kind == "delete" and node is not root:
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif kind == "add" and isinstance(node[key], dict):
        node[key]["surprise"] = value
    else:
        node[key] = value

"""A blind listening test: what a person hears in which order, what was answered, and what it amounts to.

Answers are lines of a CSV file, each on the disk before the next clip is heard. Whoever comes back under the same name
goes on where they were.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import torch

from dualspec.audio.azimuth import check_azimuth_deg, circular_error_deg
from dualspec.evaluation import spatial_metrics
from dualspec.evaluation.clips import Clip
from dualspec.files import lock, read_bytes
from dualspec.hearing.proof import front_back_confused


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where one listener heard one clip."""

    listener: str  # name or number
    trial: int  # 1 is the first clip that this listener heard
    clip: str  # file
    clip_sha256: str  # of the file
    asked_deg: float  # where it was meant to be
    answered_deg: float  # where it was heard
    response_s: float  # from the first play to the answer
    num_plays: int
    headphones: str  # what the check of left and right gave: passed, failed or skipped
    answered_at: str  # UTC

    @property
    def error_deg(self) -> float:
        """Smaller angle between both directions, degrees."""
        return circular_error_deg(self.asked_deg, self.answered_deg)

    @property
    def front_back_confused(self) -> str:
        """Whether the mirror image was heard: yes, no, or nothing for a clip on the axis through the ears."""
        return {True: "yes", False: "no", None: ""}[front_back_confused(self.asked_deg, self.answered_deg)]


MAX_RESULTS_BYTES = 1 << 26  # about a quarter of a million answers
FIELDS = tuple(field.name for field in fields(Answer))
COLUMNS = (*FIELDS[:6], "error_deg", "front_back_confused", *FIELDS[6:])
_TYPES: dict[str, Callable[[str], Any]] = {"trial": int, "num_plays": int, "response_s": float}
_TYPES |= dict.fromkeys(("asked_deg", "answered_deg"), lambda text: check_azimuth_deg(float(text)))


def read_answers(path: Path) -> list[Answer]:
    """Read a results file strictly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its head or a line is another; the line is named.
    """
    return _parsed(path, read_bytes(path, max_bytes=MAX_RESULTS_BYTES))


def _parsed(path: Path, content: bytes) -> list[Answer]:
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    try:
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"columns must be {','.join(COLUMNS)}, got others")
        return [_answer(row) for row in rows]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}:{max(1, rows.line_num)} must be a line of a listening test, got: {error}; correct it"
        ) from error


def _answer(row: list[str]) -> Answer:
    values = dict(zip(COLUMNS, row, strict=True))
    return Answer(**{name: _TYPES.get(name, str)(values[name]) for name in FIELDS})


def _line(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


class Results:
    """A results file that this process alone may extend; made by `open_results`."""

    def __init__(self, descriptor: int, answers: list[Answer]) -> None:
        """Keep the open file and what it holds."""
        self._descriptor, self.answers = descriptor, answers

    def append(self, answer: Answer) -> None:
        """Put one line on the disk, whole.

        Raises:
            OSError: the disk refuses; no part of the line stays.
        """
        line = _line(getattr(answer, name) for name in COLUMNS)
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError("the disk took only a part of an answer; make room")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        self.answers.append(answer)


@contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """Open or begin a results file; a last line that a crash left unfinished is dropped, for its clip is heard again.

    Nothing is written before all that stands there is known to be a table of answers: any other file stays as it is.

    Raises:
        BlockingIOError: another process extends it.
        ValueError: it holds something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"results must be a file, got {path}, a folder or device; choose another name")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if not lock(descriptor):
            raise BlockingIOError(f"results must be free, got {path}, which another process extends")
        answers = _mended(descriptor, path)
        yield Results(descriptor, answers)
    finally:
        os.close(descriptor)


def _mended(descriptor: int, path: Path) -> list[Answer]:
    """Read an open results file, and bring its end to the end of a line."""
    content = read_bytes(path, max_bytes=MAX_RESULTS_BYTES)
    if _line(COLUMNS).startswith(content):  # new, or stopped while it was begun
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _line(COLUMNS))
        return []
    end = content.rfind(b"\n") + 1
    answers = _parsed(path, content[:end])
    if end < len(content):
        try:
            (last,) = _parsed(path, _line(COLUMNS) + content[end:])
        except ValueError:
            last = None
        if last is not None and _has_zone(last.answered_at):  # all but its end is there, as some editors leave it
            os.write(descriptor, b"\n")
            answers.append(last)
        else:
            os.ftruncate(descriptor, end)
    return answers


def _has_zone(time: str) -> bool:
    """Tell whether a time, the last of an answer's fields, is there to its end."""
    try:
        return datetime.fromisoformat(time).utcoffset() is not None
    except ValueError:
        return False


def draw_order(clips: Sequence[Clip], listener: str, *, seed: int, num: int | None = None) -> list[Clip]:
    """Draw the clips that a listener hears and their order; it follows from the seed and the listener's name alone.

    Args:
        clips: those with an azimuth.
        listener: name.
        seed: of the test.
        num: clips for each listener, spread over the azimuths as evenly as can be; all if None.
    """
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed} {listener}".encode()).digest()[:6], "big")
    )
    seen: Counter[float | None] = Counter()
    rounds = []
    for place in torch.randperm(len(clips), generator=generator).tolist():
        rounds.append((seen[clips[place].azimuth_deg], place))
        seen[clips[place].azimuth_deg] += 1
    chosen = [place for _, place in sorted(rounds, key=lambda pair: pair[0])[:num]]
    return [clips[chosen[place]] for place in torch.randperm(len(chosen), generator=generator).tolist()]


class ListeningTest:
    """Clips, and the answers of any number of listeners at once.

    Args:
        clips: two-ear clips with an azimuth.
        results: where answers go.
        seed: of the orders.
        num: clips for each listener; all if None.

    Raises:
        ValueError: the results are of other clips.
    """

    def __init__(self, clips: Sequence[Clip], results: Results, *, seed: int = 0, num: int | None = None) -> None:
        """Check that clips and results belong together."""
        known = {clip.path.name: clip.sha256 for clip in clips}
        for answer in results.answers:
            if known.get(answer.clip) != answer.clip_sha256:
                raise ValueError(f"results must be of these clips, got {answer.clip}, another; take another --results")
        self._clips, self._results, self._seed, self._lock = list(clips), results, seed, Lock()
        self.num_trials = min(num or len(clips), len(clips))

    def answers(self, listener: str) -> list[Answer]:
        """Return what a listener has answered."""
        return [answer for answer in self._results.answers if answer.listener == listener]

    def clip(self, listener: str, trial: int) -> Clip:
        """Return the clip that a listener is to hear.

        Raises:
            LookupError: this trial is not the listener's next.
        """
        given = self.answers(listener)
        heard = {answer.clip for answer in given}
        order = draw_order(self._clips, listener, seed=self._seed, num=self.num_trials)
        pending = [clip for clip in order if clip.path.name not in heard]
        if trial != len(given) + 1 or len(given) >= self.num_trials or not pending:
            raise LookupError(f"trial must be {len(given) + 1} of {self.num_trials}, got {trial}; reload the page")
        return pending[0]

    def answer(self, listener: str, trial: int, azimuth_deg: float, **facts: Any) -> None:
        """Store where a listener heard a clip; facts are the other fields of an answer.

        Raises:
            LookupError: this trial is not the listener's next.
            OSError: the disk refuses.
        """
        with self._lock:
            clip = self.clip(listener, trial)
            asked: dict[str, Any] = {"clip": clip.path.name, "clip_sha256": clip.sha256, "asked_deg": clip.azimuth_deg}
            self._results.append(Answer(listener=listener, trial=trial, answered_deg=azimuth_deg, **asked, **facts))


def summarise(answers: Sequence[Answer]) -> dict[str, float]:
    """Compute what answers amount to: `num_answers`, accuracy in sectors of 30 degrees, mean errors, front and back.

    Returns:
        "num_answers", "azimuth_accuracy" (21), "azimuth_mae_deg" (22), "folded_mae_deg", "front_back_rate" if a clip
        has a mirror image, "median_response_s".

    Paper equations (21) and (22).
    """
    asked = torch.tensor([answer.asked_deg for answer in answers], dtype=torch.float64)
    answered = torch.tensor([answer.answered_deg for answer in answers], dtype=torch.float64)
    mirrored = spatial_metrics.front_back_rate(asked, answered)
    result = {
        "num_answers": len(answers),
        "azimuth_accuracy": spatial_metrics.azimuth_accuracy(asked, answered),
        "azimuth_mae_deg": spatial_metrics.azimuth_mae_deg(asked, answered),
        "folded_mae_deg": float(spatial_metrics.folded_error_deg(asked, answered).mean()),
        "median_response_s": median(answer.response_s for answer in answers),
    }
    return result if math.isnan(mirrored) else result | {"front_back_rate": mirrored}


def group(answers: Iterable[Answer], key: Callable[[Answer], Any]) -> dict[Any, dict[str, float]]:
    """Summarise answers by listener, direction or whatever a key says, in the order of the keys."""
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return {name: summarise(groups[name]) for name in sorted(groups)}

"""Jobs: a bounded queue, one worker thread that owns the model, results that expire."""

from __future__ import annotations

import logging
import math
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualspec.config import to_dict
from dualspec.memory import is_out_of_memory
from dualspec.scenes.score import Scene
from dualspec.web.messages import Job, JobState, Order
from dualspec.web.settings import Settings

if TYPE_CHECKING:
    from dualspec.generation import WrittenClip

MakeClips = Callable[[Order | Scene, Path, Callable[[int, int], None]], "Iterator[WrittenClip]"]
"""From an order, a folder and a callback of (steps done, steps in all), which may raise, to finished clips."""
STOPPING = "the server is stopping"
CLIP_S = 5.12  # what one clip counts as where results are bounded
_Outcome = tuple[JobState, str | None, int]  # state, reason, HTTP status
_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """No job can be taken now: the reason, and the seconds after which it is worth trying again."""


class _Stopped(Exception):
    """Raised inside the pipeline's step to end a job; holds its outcome."""


@dataclass(kw_only=True, eq=False)
class Task:
    """A job as the server holds it."""

    id: str
    order: Order | Scene
    folder: Path
    state: JobState = "queued"
    step: int = 0
    num_steps: int = 0
    clips: list[WrittenClip] = field(default_factory=list)
    error: str | None = None
    status: int = 200  # of HTTP, when it is over
    stop: str | None = None  # why it shall end, once that is wanted
    over: float | None = None  # when it ended, clock of time.monotonic
    seen: float = field(default_factory=time.monotonic)  # when somebody asked for it last
    followers: int = 0  # who listen to it

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Count somebody who listens for as long as the block lasts."""
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1
            self.seen = time.monotonic()


class JobBook:
    """All jobs of a service.

    Args:
        make_clips: does the work, in the one worker thread.
        root: folder for results; each job has a folder in it, named by its random 128-bit id.
        settings: sizes and times.
    """

    def __init__(self, make_clips: MakeClips, root: Path, settings: Settings) -> None:
        """Start the worker."""
        self._make_clips, self._root, self._settings = make_clips, root, settings
        self._tasks: dict[str, Task] = {}
        self._queue: deque[Task] = deque()
        self._changed = threading.Condition(threading.RLock())
        self._mean_s = 10.0  # of the last jobs
        self._closed = False
        self.draining = False
        self.running: Task | None = None
        self._worker = threading.Thread(target=self._work, name="dualspec-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    def submit(self, order: Order | Scene) -> Task:
        """Take a job.

        Raises:
            QueueFull: too many wait, or the service is stopping.
        """
        with self._changed:
            if self.draining:
                raise QueueFull(STOPPING, 10)
            if self.waiting >= self._settings.queue_size:
                words = f"queue must hold at most {self._settings.queue_size} jobs, got one more; try again later"
                raise QueueFull(words, min(120, max(1, math.ceil(self._mean_s))))
            name = secrets.token_hex(16)
            self._tasks[name] = task = Task(id=name, order=order, folder=self._root / name)
            self._queue.append(task)
            self._changed.notify()
            return task

    def find(self, task_id: str) -> Task | None:
        """Return a job by its id, and note that somebody asked for it."""
        task = self._tasks.get(task_id)
        if task is not None:
            task.seen = time.monotonic()
        return task

    def cancel(self, task: Task, reason: str = "cancelled by the client") -> None:
        """End a job: at once if it waits, after the present denoising step if it runs; finished clips stay."""
        with self._changed:
            if task in self._queue:
                self._queue.remove(task)
                self._end(task, ("cancelled", reason, 503))
            elif task.over is None:
                task.stop = task.stop or reason

    def describe(self, task: Task) -> Job:
        """Say where a job stands."""
        with self._changed:
            return Job(
                id=task.id,
                state=task.state,
                order=task.order if isinstance(task.order, Order) else to_dict(task.order),
                queue_position=self._queue.index(task) + 1 if task in self._queue else None,
                step=task.step,
                num_steps=task.num_steps,
                clips=[_in_short(clip) for clip in task.clips],
                error=task.error,
                expires_in_s=None if task.over is None else task.over + self._settings.keep_s - time.monotonic(),
            )

    def sweep(self) -> None:
        """Delete what has expired or is too much, oldest first, and cancel jobs that nobody asks for any more."""
        now = time.monotonic()
        with self._changed:
            over = sorted((task for task in self._tasks.values() if task.over is not None), key=lambda t: t.over or now)
            excess = sum(map(_weight, over)) - self._settings.kept_clips
            for task in over:
                if excess > 0 or now > (task.over or now) + self._settings.keep_s:
                    excess -= _weight(task)
                    del self._tasks[task.id]
                    shutil.rmtree(task.folder, ignore_errors=True)
            for task in self._tasks.values():
                if not task.followers and now > task.seen + self._settings.abandoned_s:
                    self.cancel(task, f"nobody asked for it in {self._settings.abandoned_s:g} s")

    def drain(self, *, all_jobs: bool = False) -> None:
        """Take no more jobs; cancel those that wait, and on demand the one that runs."""
        with self._changed:
            self.draining = True
            for task in [*self._queue, *([self.running] if all_jobs and self.running is not None else [])]:
                self.cancel(task, STOPPING)

    def close(self) -> None:
        """End the worker; a job that runs is cancelled."""
        with self._changed:
            self.drain(all_jobs=True)
            self._closed = True
            self._changed.notify()
        self._worker.join(timeout=5.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                task = self.running = self._queue.popleft()
                task.state = "running"
            started = time.monotonic()
            outcome = self._outcome(task, started + self._settings.deadline_s)
            with self._changed:
                self.running = None
                self._mean_s += 0.3 * (time.monotonic() - started - self._mean_s)
                self._end(task, outcome)

    def _outcome(self, task: Task, deadline: float) -> _Outcome:
        """Run a job and say how it ended."""

        def on_step(step: int, num_steps: int) -> None:
            task.step, task.num_steps = step, num_steps
            if task.stop is not None:
                raise _Stopped("cancelled", task.stop, 503)
            if time.monotonic() > deadline:
                words = f"job must end within {self._settings.deadline_s:g} s, got to step {step} of {num_steps}"
                raise _Stopped("failed", f"{words}; ask for fewer steps or clips", 504)

        try:
            task.folder.mkdir()
            for clip in self._make_clips(task.order, task.folder, on_step):
                task.clips.append(clip)
        except _Stopped as stop:
            state, reason, status = stop.args
            return state, reason, status
        except Exception as error:  # the outermost door: the client gets one line, the log the trace
            if is_out_of_memory(error):
                return "failed", "out of memory; ask for fewer clips, or take a smaller --batch-size", 503
            _log.exception("job %s failed", task.id)
            return "failed", f"an error in dualspec ({type(error).__name__}); the server's log has the trace", 500
        return "done", None, 200

    def _end(self, task: Task, outcome: _Outcome) -> None:
        task.state, task.error, task.status = outcome
        task.over = time.monotonic()


def _weight(task: Task) -> int:
    """Count the clips of a job; a scene counts as often as a clip of the embedded model would fit into it."""
    seconds = (clip.record["num_samples"] / clip.record["sample_rate"] for clip in task.clips)
    return max(1, sum(math.ceil(length_s / CLIP_S) for length_s in seconds))


def _in_short(clip: WrittenClip) -> dict[str, Any]:
    asked, made = ("prompt", "read_as", "seed", "azimuth"), ("num_samples", "sample_rate", "direction")
    keys = (*asked, "gain_db", "passed_full_scale_db", "loudness", *made)
    return {"name": clip.path.stem} | {key: clip.record[key] for key in keys if key in clip.record}

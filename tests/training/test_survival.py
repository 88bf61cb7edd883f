"""Training survives anything: kills, full disks, flipped bytes, signals, dead and hung processes. (T1, T2, T4 to T8)"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dualspec.training import checkpoint, weights
from dualspec.training import processes as processes_module
from dualspec.training.checkpoint import list_checkpoints, newest_checkpoint
from dualspec.training.processes import Processes


def sibling(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


line, run_tiny = sibling("test_loop"), sibling("run_tiny")
LOOP = replace(line.LOOP, save_every=4, validate_every=0)
Figure = Callable[[str], None]


def child(act: Callable[[], object], **environment: object) -> int:
    """Do something in a process of its own, which is a copy of this one; return its number."""
    number = os.fork()
    if number:
        return number
    os.environ.update({name: str(value) for name, value in environment.items()})
    sys.stdout.flush()
    try:
        act()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def group(act: Callable[[Processes], object], world_size: int) -> list[int]:
    """Do something in each of the processes of a group."""
    if world_size == 1:
        return [child(lambda: act(Processes()))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [child(lambda: act(Processes.join("cpu")), RANK=own, LOCAL_RANK=own, **rank) for own in range(world_size)]


def ended(numbers: list[int]) -> list[int]:
    """Wait; return exit codes, or the negative number of the signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]


def outcome(folder: Path) -> tuple[dict[int, str], list[str]]:
    """Every loss to the last bit, and the hashes of the newest checkpoint: weights, moments and average."""
    newest = list_checkpoints(folder / "checkpoints")[-1]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(newest.glob("*.safetensors"))]
    entries = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    key = next(name for name in entries[0] if name.endswith("_loss"))
    return {entry["step"]: entry[key].hex() for entry in entries if entry["split"] == "train"}, hashes


WRITES = [(checkpoint, "write_tensors"), (weights, "sync"), (Path, "rename"), (shutil, "rmtree"), (Path, "write_text")]


def trap(at: int, act: Callable[[], object], *, after: bool = False) -> None:
    """Let `act` happen at the `at`-th of all steps of saving, counted from 1, of whatever kind."""
    done = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == at and not after:
                act()
            result = real(*arguments, **options)
            if done == at and after:
                act()
            return result

        return call

    for owner, name in WRITES:
        setattr(owner, name, wrapped(getattr(owner, name)))


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_the_points_of_saving(tmp_path: Path, every: int, figure: Figure) -> None:
    """Before and after each write, flush, rename and removal of three saves: no state is lost, the end is the same."""
    line.run(tmp_path / "whole", loop=LOOP)
    points = 0
    for at in range(1, 1000, every):
        folder = tmp_path / f"cut{at}"

        def killed(folder: Path = folder, at: int = at) -> None:
            trap(at, lambda: os.kill(os.getpid(), signal.SIGKILL), after=bool(at % 2))
            line.run(folder, loop=LOOP)

        (code,) = ended([child(killed)])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        found, complaints = newest_checkpoint(folder / "checkpoints")
        assert not complaints and (found is not None or at <= 10)
        line.run(folder, loop=LOOP, resume=True)
        assert outcome(folder) == outcome(tmp_path / "whole")
        points += 1
    assert points * every > 30
    figure(f"training: SIGKILL at {points} points of saving, every one resumed to the same bits")


def test_half_a_line_of_the_log_is_cut_off(tmp_path: Path) -> None:
    line.run(tmp_path, loop=replace(LOOP, max_steps=8))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "minu')
    line.run(tmp_path, loop=LOOP, resume=True)
    assert sorted(outcome(tmp_path)[0]) == list(range(1, 13))


@pytest.fixture(scope="module")
def tiny_job(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Callable[[str], dict[str, Any]]:
    settings = [
        "loop.max_steps=8", "loop.save_every=2", "loop.log_every=1", "loop.validate_every=3",
        "task.loss.adversarial_start_step=3",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("runs")
    return lambda name: {
        "recipe": "tiny/mel_vae", "settings": settings, "corpus": str(corpus), "folder": str(folder / name), "vaes": {},
        "stop": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("world_size", "kills"),
    [(1, 2), (2, 1), *(pytest.param(size, 20, marks=pytest.mark.slow) for size in (1, 2))],
)
def test_killed_at_random_moments(tiny_job: Callable, world_size: int, kills: int, figure: Figure) -> None:
    """The same run killed again and again, in making clips, computing, averaging, logging or saving."""
    whole, cut = tiny_job(f"whole{world_size}-{kills}"), tiny_job(f"cut{world_size}-{kills}")
    started = time.monotonic()
    assert ended(group(lambda own: run_tiny.run_job(whole, own), world_size)) == [0] * world_size
    seconds, draw, survived = time.monotonic() - started, random.Random(kills), 0
    for attempt in range(20 * kills):
        numbers = group(lambda own: run_tiny.run_job(cut, own), world_size)
        time.sleep(draw.uniform(0.1, 0.9) * seconds * (1 if attempt % 3 else 0.5))
        for number in numbers:
            os.kill(number, signal.SIGKILL)
        survived += ended(numbers) == [-signal.SIGKILL] * world_size
        folder = Path(cut["folder"])
        assert not newest_checkpoint(folder / "checkpoints")[1]
        if survived >= kills:
            break
        if (folder / "weights").exists():
            shutil.rmtree(folder)
    assert ended(group(lambda own: run_tiny.run_job(cut, own), world_size)) == [0] * world_size
    assert outcome(Path(cut["folder"])) == outcome(Path(whole["folder"]))
    exported = [(Path(job["folder"]) / "weights" / "model.safetensors").read_bytes() for job in (whole, cut)]
    assert exported[0] == exported[1]
    left = [path.name for path in Path(cut["folder"]).rglob(".*")]
    assert left == []
    figure(
        f"training, {world_size} process(es): {survived} SIGKILLs at random moments, losses and weights bit-identical"
    )


@pytest.mark.parametrize("flips", [150, pytest.param(1_500, marks=pytest.mark.slow)])
def test_any_changed_byte_is_noticed_and_the_checkpoint_before_is_taken(
    tmp_path: Path, flips: int, figure: Figure
) -> None:
    line.run(tmp_path, loop=LOOP)
    (_, _, facts), _ = newest_checkpoint(tmp_path / "checkpoints")
    files = sorted(list_checkpoints(tmp_path / "checkpoints")[-1].iterdir())
    draw, noticed = random.Random(0), 0
    for _ in range(flips):
        path = draw.choice(files)
        content = path.read_bytes()
        damaged = bytearray(content)
        at = draw.randrange(len(damaged))
        damaged[at] ^= draw.randrange(1, 256)
        path.write_bytes(damaged if draw.random() < 0.9 else content[:at])
        found, complaints = newest_checkpoint(tmp_path / "checkpoints")
        if found[0] == 12:  # another white space in the JSON
            assert path.name == "state.json" and (found[2], not complaints) == (facts, True)
        else:
            assert found[0] == 8 and len(complaints) == 1 and "must be whole" in complaints[0]
            noticed += 1
        path.write_bytes(content)
    assert noticed >= 0.95 * flips
    figure(f"checkpoints: {flips} changed or cut, {noticed} noticed and passed over, the others say the same")


def test_a_checkpoint_that_was_passed_over_does_not_count_as_kept(tmp_path: Path) -> None:
    line.run(tmp_path, loop=LOOP)
    (list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json").write_text("{}")
    line.run(tmp_path, loop=replace(LOOP, max_steps=11, save_every=1), resume=True)
    assert [path.name[-2:] for path in list_checkpoints(tmp_path / "checkpoints")] == ["10", "11", "12"]


@pytest.mark.parametrize("at", [12, 13, 15, 18, 21])
def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path, at: int) -> None:
    """Writing tensors, the state, flushing and renaming of the second save: the system says ENOSPC (injected)."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def act() -> None:
        trap(at, full)
        with pytest.raises(OSError, match="No space left"):
            line.run(tmp_path / "cut", loop=LOOP)

    assert ended([child(act)]) == [0]
    found, complaints = newest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert (found[0], complaints) == (4, [])
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-00000004"]
    line.run(tmp_path / "whole", loop=LOOP)
    line.run(tmp_path / "cut", loop=LOOP, resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("limit", [0, 64, 200])
def test_a_file_that_may_not_grow_is_an_error_of_the_system_that_says_what_is_free(tmp_path: Path, limit: int) -> None:
    """The kernel itself refuses (RLIMIT_FSIZE), in the middle of a file of tensors."""
    line.run(tmp_path, loop=replace(LOOP, max_steps=4))

    def act() -> None:
        trainer = line.Trainer(line.LineTask(), LOOP, tmp_path, Processes())
        trainer.resume()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match=r"needs \d+ bytes, \d+ are free"):
            trainer.save()

    assert ended([child(act)]) == [0]
    assert newest_checkpoint(tmp_path / "checkpoints")[0][0] == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    trainer = line.run(tmp_path, loop=LOOP)
    trainer.task.phase.line.weight.data[0, 0] = float("nan")
    trainer.state.step += 1
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in line\.weight"):
        trainer.save()
    assert newest_checkpoint(tmp_path / "checkpoints")[0][0] == 12


def misbehave(folder: Path, at: int, act: Callable[[], object], expect: Callable[[line.Trainer], object]) -> Callable:
    """A run of two processes in which the second one does something at a step."""

    def run(own: Processes) -> None:
        trainer = line.Trainer(line.LineTask(), LOOP, folder, own)
        make_batch = trainer.task.make_batch

        def made(indices: Any, random: Any) -> Any:
            if own.rank == 1 and trainer.state.step == at:
                act()
            return make_batch(indices, random)

        trainer.task.make_batch = made
        expect(trainer)

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path: Path, number: int) -> None:
    def expect(trainer: Any) -> None:
        assert trainer.run().stop_signal == number

    act = misbehave(tmp_path, 3, lambda: signal.raise_signal(number), expect)
    assert ended(group(act, 2)) == [0, 0]
    assert newest_checkpoint(tmp_path / "checkpoints")[0][0] == 4


@pytest.mark.slow
def test_sigusr1_to_the_launcher_saves_where_it_is_told_to_pass_it_on(tiny_job: Callable, tmp_path: Path) -> None:
    """`torchrun` itself ends with 1 then, whatever its processes say, but none of the steps is lost."""
    job = tiny_job("launched")
    job["settings"] = ["loop.log_every=1", "loop.save_every=100000", "loop.max_steps=100000", "loop.validate_every=0"]
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    words = ["--standalone", "--nproc-per-node=2", "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    script, source = Path(__file__).with_name("run_tiny.py"), Path(__file__).parents[2] / "src"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, script, tmp_path / "jobs.json"],
        env=os.environ | {"PYTHONPATH": str(source)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = Path(job["folder"]) / "log.jsonl"
    while launcher.poll() is None and not (log.exists() and log.read_text().count("\n") > 1):
        time.sleep(0.1)
    launcher.send_signal(signal.SIGUSR1)
    assert launcher.wait(60) == 1
    found, complaints = newest_checkpoint(Path(job["folder"]) / "checkpoints")
    assert found[0] >= 2 and not complaints and not (Path(job["folder"]) / "weights").exists()


@pytest.mark.parametrize("way", ["hangs", "dies"])
def test_a_dead_or_hung_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(processes_module, "STEP_TIMEOUT_S", 3)
    act = (lambda: time.sleep(60)) if way == "hangs" else (lambda: os.kill(os.getpid(), signal.SIGKILL))

    def expect(trainer: Any) -> None:
        with pytest.raises(TimeoutError, match=r"within 3 s, got nothing from rank \[1\]; it died or hangs"):
            trainer.run()
        os._exit(7)

    started = time.monotonic()
    first, second = group(misbehave(tmp_path, 5, act, expect), 2)
    assert ended([first]) == [7] and time.monotonic() - started < 30
    os.kill(second, signal.SIGKILL)
    ended([second])
    assert newest_checkpoint(tmp_path / "checkpoints")[0][0] == 4


def test_no_process_outlives_its_launcher(tmp_path: Path) -> None:
    def worker() -> None:
        Processes.join("cpu")
        (tmp_path / "ready").write_text(str(os.getpid()))
        time.sleep(60)

    def launch() -> None:
        group_of_one = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
        os.waitpid(child(worker, **group_of_one), 0)

    launcher = child(launch)
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        time.sleep(0.05)
    orphan = Path("/proc") / (tmp_path / "ready").read_text()
    os.kill(launcher, signal.SIGKILL)
    ended([launcher])
    deadline = time.monotonic() + 5
    while orphan.exists() and "Z" not in (orphan / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not orphan.exists() or "Z" in (orphan / "stat").read_text().split()[2]

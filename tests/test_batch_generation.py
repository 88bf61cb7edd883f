"""A list shared by several processes: no clip lost, none made twice, the bytes of a single process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dualspec.cli import app
from dualspec.generation import whole_batches
from dualspec.prompt_lists import ClipRequest
from dualspec.text.prompts import parse_prompt

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_CLIPS, BATCH = 6, 2


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"file": f"{index:02d}.wav", "prompt": f"EVENT: Dog {'bark ' * (index % 3)}& LOCATION: DOA {30 * (index % 12)}"}
        for index in range(NUM_CLIPS)
    ]
    path = tmp_path_factory.mktemp("list") / "list.jsonl"
    path.write_text("".join(json.dumps(row | {"seed": index}) + "\n" for index, row in enumerate(rows)))
    return path


def words(listing: Path, model: Path, output: Path, *more: object) -> list[str]:
    common = ("generate", "--manifest", listing, "--model", model, "-o", output, "--batch-size", BATCH)
    return [str(word) for word in (*common, "--device", "cpu", "--steps", 1, "--no-picture", "--no-proof", *more)]


def generate(*arguments: object) -> str:
    result = CliRunner().invoke(app, words(*arguments))  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def alone(listing: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of the list."""
    folder = tmp_path_factory.mktemp("alone")
    generate(listing, tiny_model, folder)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def process_of_rank(launcher: int, rank: int) -> int:
    """Find the process of a rank among the launcher's children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in map(int, children):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"no rank {rank} among {children}")


def test_a_killed_rank_loses_nothing(listing: Path, tiny_model: Path, tmp_path: Path, alone: dict[str, bytes]) -> None:
    """Two ranks under torchrun, one killed by SIGKILL midway; then one process ends the work."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    launcher = subprocess.Popen(
        [*torchrun, "-m", "dualspec", *words(listing, tiny_model, tmp_path, "--steps", 30)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("*.wav")):
        assert launcher.poll() is None and time.monotonic() < deadline, "the ranks made nothing"
        time.sleep(0.02)
    victim = process_of_rank(launcher.pid, 0)  # it has the first and the last batch
    os.kill(victim, signal.SIGKILL)
    assert launcher.wait(timeout=120) != 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.wav")}
    assert 0 < len(before) < NUM_CLIPS, "killed midway"
    stale = next(iter(tmp_path.glob(".tmp-*")), tmp_path / f".tmp-dualspec-{'0' * 16}")
    stale.mkdir(exist_ok=True)
    (stale / "half.wav").write_bytes(b"RIFF")
    said = generate(listing, tiny_model, tmp_path, "--steps", 30)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.wav")}
    kept = [name for name in before if before[name] == after[name]]
    assert f"{len(kept)} clips stand already" in said if kept else "stand already" not in said
    assert len(kept) % BATCH == 0 or len(kept) == NUM_CLIPS
    reference = tmp_path / "reference"
    generate(listing, tiny_model, reference, "--steps", 30)
    assert contents(reference) == {name: data for name, data in contents(tmp_path).items() if "/" not in name}
    assert set(contents(reference)) == set(alone)


@pytest.mark.parametrize("num_processes", [2, 5])
def test_any_number_of_processes_makes_what_one_makes(
    listing: Path,
    tiny_model: Path,
    tmp_path: Path,
    alone: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    num_processes: int,
) -> None:
    """Ranks one after the other, each of which knows of the others by its environment alone."""
    monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    made: list[str] = []
    for rank in reversed(range(num_processes)):
        monkeypatch.setenv("RANK", str(rank))
        before = set(contents(tmp_path))
        said = generate(listing, tiny_model, tmp_path)
        assert "stand already" not in said and "replaced" not in said
        made += sorted(set(contents(tmp_path)) - before)
    assert sorted(made) == sorted(alone) and contents(tmp_path) == alone


def test_what_stands_is_kept_and_what_does_not_is_made_anew(
    listing: Path, tiny_model: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    for name, data in alone.items():
        (tmp_path / name).write_bytes(data)

    def run(*more: object) -> int:
        """Return how many clips were made."""
        said = generate(listing, tiny_model, tmp_path, *more)
        made = said.count("replaced") + said.count(".wav:") - said.count("replaced\n")
        kept = NUM_CLIPS - made
        assert ("stand already" in said) == (kept > 0) and (not kept or f"{kept} clips stand" in said)
        return made

    assert run() == 0 and contents(tmp_path) == alone
    for spoil, damaged in (("00.wav", None), ("03.json", b"{"), ("05.wav", alone["05.wav"][:-2] + b"\0\1")):
        (tmp_path / spoil).unlink()
        if damaged is not None:
            (tmp_path / spoil).write_bytes(damaged)
        assert run() == BATCH, "its batch, and no other"
        assert contents(tmp_path) == alone
    for change in (("--seed", 1), ("--subtype", "PCM_24"), ("--duration", 0.5)):
        assert run(*change) == NUM_CLIPS, change
    engine = ("--sample-rate", 48_000, "--loudness", -23)
    assert run(*engine) == NUM_CLIPS and run(*engine) == 0 and run(*engine[:2]) == NUM_CLIPS


def test_pictures_proofs_and_candidates_count_too(listing: Path, tiny_model: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("".join(listing.read_text().splitlines(keepends=True)[:2]))
    common = ("--manifest", short, "--model", tiny_model, "-o", tmp_path / "out", "--steps", 1, "--batch-size", 1)

    def run(*more: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in ("generate", *common, *more)])
        assert result.exit_code == 0, result.output
        return result.output

    run("--no-picture", "--no-proof")
    assert "stand" not in run("--best-of", 2)
    before = contents(tmp_path / "out")
    assert "2 clips stand already and are kept, 0 are to be made" in run("--best-of", 2)
    (tmp_path / "out" / "01.png").unlink()
    assert "1 clips stand already" in run("--best-of", 2) and contents(tmp_path / "out") == before


def test_single_prompts_are_always_made(tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", "EVENT: Rain & LOCATION: DOA 0", "--model", str(tiny_model), "-o", str(tmp_path / "a.wav")]
    for expected in (False, True):
        result = CliRunner().invoke(app, [*words, "--steps", "1", "--no-picture", "--no-proof"])
        assert result.exit_code == 0 and ("replaced" in result.output) == expected


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 9), st.integers(1, 7))
def test_batches_are_shared_out_whole(num: int, best_of: int, batch_size: int, num_processes: int) -> None:
    parsed = parse_prompt("EVENT: Dog & LOCATION: DOA 0")
    requests = [
        ClipRequest(prompt="", parsed=parsed, seed=index, path=Path(f"{index}.wav"), best_of=best_of)
        for index in range(num)
    ]
    batches = whole_batches(requests, batch_size)
    assert [request for batch in batches for request in batch] == requests
    assert all(len(batch) * best_of % batch_size == 0 for batch in batches[:-1])
    shares = [batches[rank::num_processes] for rank in range(num_processes)]
    assert sorted(request.seed for share in shares for batch in share for request in batch) == list(range(num))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_words_that_were_not_trained_are_read_as_trained_ones(tiny_model: Path, tmp_path: Path) -> None:
    own, other = "EVENT: Rain & LOCATION: DOA 90", "a dog barking over my left shoulder"
    read = "EVENT: A dog barking & LOCATION: DOA 150"
    (tmp_path / "list.jsonl").write_text(
        "".join(
            json.dumps({"file": f"{name}.wav", "prompt": prompt, "seed": 1}) + "\n"
            for name, prompt in {"own": own, "other": other, "read": read}.items()
        )
    )
    common = (tmp_path / "list.jsonl", tiny_model, tmp_path, "--batch-size", 1)
    said = generate(*common)
    assert said.count("read as") == 1 and f"read as {read!r}, asked 135" in said
    known = contents(tmp_path)
    assert known["other.wav"] == known["read.wav"] != known["own.wav"]
    record = json.loads(known["other.json"])
    assert (record["prompt"], record["read_as"], record["azimuth"]["azimuth_deg"]) == (other, read, 135.0)
    assert "3 clips stand already and are kept, 0 are to be made" in generate(*common)

    said = generate(*common, "--location-words", "typed")
    assert "2 clips stand already and are kept, 1 are to be made" in said and "read as" not in said
    typed = contents(tmp_path)
    assert [name for name in known if known[name] != typed[name] and name.endswith(".wav")] == ["other.wav"]
    assert json.loads(typed["other.json"])["read_as"] == other

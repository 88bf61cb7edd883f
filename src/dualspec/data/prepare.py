"""From corpora to one prepared folder: filter, resample, split by source recording, write shards and a manifest.

The clips are cut into groups before any is decoded; each group becomes one FLAC shard and one journal. So the result
depends neither on the number of workers nor on timing, and a run that was killed goes on where it stopped and ends with
the same bytes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dualspec.data.corpora import CorpusSpec, SourceClip, left_out, read_corpus
from dualspec.data.listings import OPEN_LICENCES
from dualspec.data.manifest import (
    MANIFEST_NAME,
    REJECTS_NAME,
    SUMMARY_NAME,
    ManifestRow,
    RejectRow,
    Split,
    row_from_dict,
    write_manifest,
)
from dualspec.data.shards import ShardTask, build_shard, die_with_parent
from dualspec.files import held, read_json, remove, remove_leftovers, write_text_atomic

if TYPE_CHECKING:
    from dualspec.audio.hrir import HrirSet

CLIPS_PER_SHARD = 512
FORMAT_VERSION = 1
# Reasons that follow from a rule and not from damage; they do not count against the budget of bad clips.
RULE_REASONS = frozenset({"licence", "too_short", "unsupported", "hidden", "not_sound", "no_label"})
_MAX_JOURNAL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What a prepared corpus holds."""

    sample_rate: int
    """Hz."""
    num_clips: int
    """Clips in the manifest."""
    duration_s: float
    """Length of all clips, seconds."""
    num_recordings: int
    """Source recordings."""
    counts: dict[str, dict[str, dict[str, int]]]
    """Clips by corpus, split and licence."""
    rejects: dict[str, dict[str, int]]
    """Clips left out by corpus and reason."""
    num_duplicates: int
    """Clips whose samples equal those of an earlier clip in the manifest."""


def prepare(
    corpora: Sequence[CorpusSpec],
    out_dir: str | Path,
    *,
    sample_rate: int = 16_000,
    min_seconds: float = 1.0,
    licence: Literal["all", "open"] = "all",
    max_clip_seconds: float | None = None,
    workers: int = 2,
    render_to: str | Path | None = None,
    hrir_set: "HrirSet | None" = None,
    max_bad_fraction: float = 0.01,
) -> PrepareSummary:
    """Prepare corpora for training. Call it again after an interruption: finished shards are kept.

    With more than one worker the calling script needs the usual `if __name__ == "__main__"` guard.

    Args:
        corpora: Readers and folders.
        out_dir: Folder for `manifest.jsonl`, `rejects.jsonl`, `summary.json` and `shards/`.
        sample_rate: Rate of the prepared clips, Hz.
        min_seconds: Shorter clips are left out.
        licence: "open" keeps only CC0 and CC-BY recordings.
        max_clip_seconds: Longer clips are cut to their first seconds; None keeps them whole.
        workers: Processes.
        render_to: Folder for twelve stereo files per clip, `<corpus>/<clip id>^<azimuth>.wav`; None writes none.
        hrir_set: Head responses for `render_to`.
        max_bad_fraction: Largest share of damaged clips that is accepted.

    Returns:
        Counts.

    Raises:
        FileNotFoundError: A corpus is absent.
        ValueError: A setting or list is bad, `out_dir` holds a corpus made with other settings, or too many clips are
            damaged.
        OSError: A worker ended without a word, the disk refuses, or another process prepares the same folder.

    Paper section V-C.
    """
    _check_settings(sample_rate, min_seconds, licence, max_clip_seconds, workers, render_to, hrir_set, corpora)
    out_dir = Path(out_dir)
    clips = _collect(corpora)
    named = [clip for clip in clips if _is_text(clip)]
    splits = assign_splits(named)
    rejects = [_name_reject(clip) for clip in clips if not _is_text(clip)]
    kept = [clip for clip in named if licence == "all" or clip.licence in OPEN_LICENCES]
    num_candidates = len(kept) + len(rejects)
    rejects += [_licence_reject(clip) for clip in named if licence == "open" and clip.licence not in OPEN_LICENCES]
    rejects += [row for spec in corpora for row in left_out(spec)]
    settings = {
        "format_version": FORMAT_VERSION,
        "corpora": sorted(spec.name for spec in corpora),
        "sample_rate": sample_rate,
        "min_seconds": min_seconds,
        "licence": licence,
        "max_clip_seconds": max_clip_seconds,
        "render": _render_fingerprint(render_to, hrir_set),
    }
    with held(out_dir):
        remove_leftovers(out_dir, below=True)
        _claim(out_dir, settings)
        tasks = _tasks(kept, splits, out_dir, settings, render_to, _grid_hrirs(hrir_set, sample_rate))
        _remove_stale(out_dir, tasks, render_to)
        missing = [task for task in tasks if not _is_done(task)]
        if missing:  # a manifest must never stand beside shards of another run
            (out_dir / MANIFEST_NAME).unlink(missing_ok=True)
        _run(missing, workers, len(tasks))
        rows: list[ManifestRow] = []
        for task in tasks:
            journal = read_json(task.journal, max_bytes=_MAX_JOURNAL_BYTES)
            rows += [row_from_dict(row, str(task.journal)) for row in journal["rows"]]
            rejects += [RejectRow(**reject) for reject in journal["rejects"]]
        return _publish(out_dir, settings, rows, rejects, num_candidates, max_bad_fraction)


def assign_splits(clips: Sequence[SourceClip]) -> dict[str, Split]:
    """Give every source recording one split.

    A recording is tested when a corpus' own partition says so, or, where the corpus gives none, when
    int(sha256(id)[:8], 16) % 10 == 0 for the part of the recording behind the colon. Where its clips disagree, test
    wins over valid and valid over train. Where none is tested, as may happen with a few clips, the recording with the
    smallest hash is, so that something is held out.

    Args:
        clips: Clips of all corpora.

    Returns:
        Split of each recording.
    """
    rank: dict[Split, int] = {"train": 0, "valid": 1, "test": 2}
    splits: dict[str, Split] = {}
    for clip in clips:
        split = clip.split_hint or _hashed_split(clip.recording)
        splits[clip.recording] = max(split, splits.get(clip.recording, split), key=rank.__getitem__)
    if "test" not in splits.values() and len(splits) > 1:
        splits[min(splits, key=_recording_hash)] = "test"
    return splits


def _hashed_split(recording: str) -> Split:
    return "test" if _recording_hash(recording) % 10 == 0 else "train"


def _recording_hash(recording: str) -> int:
    return int(hashlib.sha256(recording.split(":", 1)[1].encode()).hexdigest()[:8], 16)


def _check_settings(
    sample_rate: int,
    min_seconds: float,
    licence: str,
    max_clip_seconds: float | None,
    workers: int,
    render_to: str | Path | None,
    hrir_set: "HrirSet | None",
    corpora: Sequence[CorpusSpec],
) -> None:
    if not corpora or len({spec.name for spec in corpora}) != len(corpora):
        raise ValueError(
            f"corpora must name each reader once, got {[spec.name for spec in corpora]}; merge the folders"
        )
    if not 8_000 <= sample_rate <= 48_000:
        raise ValueError(f"sample_rate must be 8000 to 48000 Hz, got {sample_rate}; the paper uses 16000")
    if not 0 < min_seconds <= 600:
        raise ValueError(f"min_seconds must lie in (0, 600], got {min_seconds}; the paper uses 1")
    if max_clip_seconds is not None and max_clip_seconds < min_seconds:
        raise ValueError(
            f"max_clip_seconds must be at least min_seconds, got {max_clip_seconds}; raise it or pass None"
        )
    if licence not in ("all", "open"):
        raise ValueError(f"licence must be 'all' or 'open', got {licence!r}; choose one of them")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}; give a number of processes")
    if (render_to is None) != (hrir_set is None):
        raise ValueError("render_to and hrir_set must be given together, got only one; add the other or drop it")


def _collect(corpora: Sequence[CorpusSpec]) -> list[SourceClip]:
    """Clips of all corpora in the order of the manifest."""
    clips = sorted((clip for spec in corpora for clip in read_corpus(spec)), key=_id_of)
    twice = [name for name, count in Counter(map(_id_of, clips)).items() if count > 1]
    if twice:
        raise ValueError(f"clip ids must be unique, got {twice[0]!r} twice ({len(twice)} such); rename the files")
    if not clips:
        raise ValueError(
            f"corpora must list clips, got none in {[str(spec.root) for spec in corpora]}; check the folders"
        )
    return clips


def _id_of(clip: SourceClip) -> str:
    return f"{clip.corpus}/{clip.clip_id}"


def _licence_reject(clip: SourceClip) -> RejectRow:
    detail = f"licence {clip.licence} is not one of {', '.join(OPEN_LICENCES)}"
    return RejectRow(id=_id_of(clip), corpus=clip.corpus, reason="licence", detail=detail)


def _is_text(clip: SourceClip) -> bool:
    """Whether everything that the manifest says of a clip can be written; a file name may be any bytes."""
    try:
        "".join((_id_of(clip), clip.recording, *clip.labels, clip.licence, clip.attribution)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_reject(clip: SourceClip) -> RejectRow:
    name = _id_of(clip).encode(errors="backslashreplace").decode()
    detail = "name, labels or credit are no Unicode text; rename the file"
    return RejectRow(id=name, corpus=clip.corpus, reason="bad_name", detail=detail)


def _claim(out_dir: Path, settings: dict[str, Any]) -> None:
    """Make sure that the folder is new, or was made with the same settings."""
    path = out_dir / "settings.json"
    if path.is_file():
        found = read_json(path)
        if found != settings:
            names = sorted(
                name for name in settings if not isinstance(found, dict) or found.get(name) != settings[name]
            )
            raise ValueError(
                f"{out_dir} must be empty or made with the same settings, got other {names}; take another folder"
            )
        return
    if any(out_dir.iterdir()):
        raise ValueError(f"{out_dir} must be empty or a prepared corpus, got other files; take another folder")
    write_text_atomic(path, json.dumps(settings, indent=2) + "\n")


def _tasks(
    clips: Sequence[SourceClip],
    splits: dict[str, Split],
    out_dir: Path,
    settings: dict[str, Any],
    render_to: str | Path | None,
    hrirs: Any,
) -> list[ShardTask]:
    (out_dir / "shards").mkdir(exist_ok=True)
    tasks = []
    for number, first in enumerate(range(0, len(clips), CLIPS_PER_SHARD)):
        group = tuple(clips[first : first + CLIPS_PER_SHARD])
        tasks.append(
            ShardTask(
                out_dir=out_dir,
                shard=f"shards/shard-{number:05d}.flac",
                key=_group_key(group, splits, settings),
                clips=group,
                splits=tuple(splits[clip.recording] for clip in group),
                sample_rate=settings["sample_rate"],
                min_seconds=settings["min_seconds"],
                max_clip_seconds=settings["max_clip_seconds"],
                render_to=None if render_to is None else Path(render_to),
                hrirs=hrirs,
            )
        )
    return tasks


def _group_key(clips: Sequence[SourceClip], splits: dict[str, Split], settings: dict[str, Any]) -> str:
    """Fingerprint of everything that a shard is made from, the sizes and times of its source files included."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for clip in clips:
        stat = clip.path.stat() if clip.path.is_file() else None
        values = asdict(clip) | {"split": splits[clip.recording], "path": clip.path.name}
        values["file"] = [stat.st_size, stat.st_mtime_ns] if stat else None
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()


def _is_done(task: ShardTask) -> bool:
    if not task.journal.is_file() or not (task.out_dir / task.shard).is_file():
        return False
    journal = read_json(task.journal, max_bytes=_MAX_JOURNAL_BYTES)
    return isinstance(journal, dict) and journal.get("key") == task.key


def _remove_stale(out_dir: Path, tasks: Sequence[ShardTask], render_to: str | Path | None) -> None:
    """Remove what an interrupted run or a longer list of clips has left."""
    wanted = {task.journal.name for task in tasks} | {Path(task.shard).name for task in tasks}
    stale = [path for path in (out_dir / "shards").glob("shard-*") if path.name not in wanted]
    for path in stale:
        remove(path)
    if render_to is not None:
        remove_leftovers(Path(render_to), below=True)


def _run(tasks: Sequence[ShardTask], workers: int, num_all: int) -> None:
    """Build the shards that are missing, in this process or in fresh ones."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("preparing", total=num_all, completed=num_all - len(tasks))
        if workers == 1 or len(tasks) < 2:
            for task in tasks:
                build_shard(task)
                progress.advance(bar)
            return
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=die_with_parent
        )
        try:
            for future in as_completed([pool.submit(build_shard, task) for task in tasks]):
                future.result()
                progress.advance(bar)
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process ended without a word, as when memory runs out or the script lacks its __main__ "
                "guard; run it again with workers=1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _publish(
    out_dir: Path,
    settings: dict[str, Any],
    rows: list[ManifestRow],
    rejects: list[RejectRow],
    num_candidates: int,
    max_bad_fraction: float,
) -> PrepareSummary:
    rejects = sorted(rejects, key=lambda reject: reject.id)
    write_manifest(out_dir / REJECTS_NAME, rejects)
    bad = Counter(reject.reason for reject in rejects if reject.reason not in RULE_REASONS)
    if bad.total() > max_bad_fraction * num_candidates:
        raise ValueError(
            f"damaged clips must be at most {max_bad_fraction:.1%} of {num_candidates}, got {bad.total()} {dict(bad)}; "
            f"read {out_dir / REJECTS_NAME}, then mend the corpus or raise max_bad_fraction"
        )
    if not rows:
        raise ValueError(f"corpora must hold usable clips, got none of {num_candidates}; read {out_dir / REJECTS_NAME}")
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        by_licence = counts.setdefault(row.corpus, {}).setdefault(row.split, {})
        by_licence[row.licence] = by_licence.get(row.licence, 0) + 1
    reasons: dict[str, dict[str, int]] = {}
    for reject in rejects:
        by_reason = reasons.setdefault(reject.corpus, {})
        by_reason[reject.reason] = by_reason.get(reject.reason, 0) + 1
    summary = PrepareSummary(
        sample_rate=settings["sample_rate"],
        num_clips=len(rows),
        duration_s=round(sum(row.duration_s for row in rows), 3),
        num_recordings=len({row.recording for row in rows}),
        counts=counts,
        rejects=reasons,
        num_duplicates=len(rows) - len({row.sha256 for row in rows}),
    )
    write_text_atomic(out_dir / SUMMARY_NAME, json.dumps(asdict(summary), indent=2, sort_keys=True) + "\n")
    write_manifest(out_dir / MANIFEST_NAME, rows)
    return summary


def _grid_hrirs(hrir_set: "HrirSet | None", sample_rate: int) -> Any:
    """Responses (A, 2, K) of the twelve directions as an array that crosses process borders."""
    if hrir_set is None:
        return None
    import torch

    from dualspec.audio.azimuth import sector_grid_deg

    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64)
    return hrir_set.resample(sample_rate).at(azimuths).numpy()


def _render_fingerprint(render_to: str | Path | None, hrir_set: "HrirSet | None") -> Any:
    if render_to is None or hrir_set is None:
        return None
    responses = hashlib.sha256(hrir_set.impulse_responses.numpy().tobytes()).hexdigest()
    return {"folder": str(Path(render_to).resolve()), "hrir_set": hrir_set.name, "sha256": responses}

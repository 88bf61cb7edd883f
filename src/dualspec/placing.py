"""Recordings of anybody into directions, file by file: the classic renderer, in which no model has a part."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dualspec.audio.audio_file import AudioFileError
from dualspec.audio.azimuth import azimuth_name
from dualspec.audio.binaural import normalize_peak, spatialize
from dualspec.audio.delivery import bandwidth_note, bring_to_loudness
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head
from dualspec.audio.movement import AzimuthPath, Waypoint, render_moving
from dualspec.audio.sofa import MIN_SAMPLE_RATE
from dualspec.audio.suffixes import READABLE_SUFFIXES, find_sounds, without_sound_suffix
from dualspec.audio.waveform import read_waveform, resample, write_waveform
from dualspec.data.manifest import REJECTS_NAME, json_lines
from dualspec.files import MAX_FILE_NAME_BYTES, parse_json, sha256_of, write_text_atomic

LIST_NAME = "manifest.jsonl"
Where = float | AzimuthPath
"""An azimuth, degrees, or a path of them."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head at any sample rate."""

    at: Callable[[int], HrirSet]  # from a rate in Hz
    content_rate: int | None  # Hz of the measurement; None where it is computed at any rate
    facts: dict[str, Any]  # name, licence and, of a file, SHA-256


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the files are like."""

    sample_rate: int | None = None  # Hz; the recording's own if None
    subtype: Literal["PCM_16", "PCM_24"] = "PCM_16"  # sample format
    peak: float = 0.5  # of the louder ear, where no loudness is asked for
    loudness_lufs: float | None = None  # by one gain for both ears


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One file that is wanted."""

    source: Path  # recording
    name: str  # of the recording in lists: its way below the folder that was given
    where: Where
    target: Path  # sound file


def load_head(sofa: Path | None) -> Head:
    """Read a head (SOFA), or compute a sphere where there is none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no usable head.
    """
    if sofa is None:
        sphere = cache(lambda rate: spherical_head(sample_rate=rate, num_taps=max(128, rate // 125)))
        return Head(at=sphere, content_rate=None, facts={"name": "spherical_head", "licence": "computed"})
    measured = load_sofa(sofa, sample_rate=None)
    facts = {"name": measured.name, "licence": measured.licence, "sha256": sha256_of(sofa)}
    return Head(at=cache(measured.resample), content_rate=measured.sample_rate, facts=facts)


def read_path(text: str) -> AzimuthPath:
    """Read a path such as "0:270,2.5:90": seconds and degrees of its way-points.

    Raises:
        ValueError: it is no such list, or no possible path.
    """
    try:
        pairs = [tuple(map(float, point.split(":"))) for point in text.split(",")]
        points = tuple(Waypoint(time_s=time_s, azimuth_deg=azimuth_deg) for time_s, azimuth_deg in pairs)
        return AzimuthPath(waypoints=points)
    except ValueError as error:
        hint = f"; {error}" if " must " in str(error) else ""
        raise ValueError(
            f"path must be seconds:degrees, separated by commas, got {text!r:.80}{hint}; write 0:270,2.5:90 for "
            "right to left through the back, 0:270,2.5:450 through the front"
        ) from error


def list_recordings(sources: Sequence[Path], output: Path) -> tuple[list[tuple[Path, str]], Counter[str]]:
    """List sound files, and those below folders, with their names ("steps/wood/1.wav" below the folder).

    Sound that cannot be read is among them, so that it is refused with its reason.

    Returns:
        The files, and how many others of the folders were left out as "hidden", "not_sound" (another suffix, or a pipe)
        or "own" (of the output folder).

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a folder holds no sound, or two files would have one name.
    """
    found: dict[str, tuple[Path, str]] = {}
    left_out: Counter[str] = Counter()
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} must be a sound file or a folder, got none; check the path")
        files = [source]
        if source.is_dir():
            if source.resolve() == output.resolve():
                raise ValueError(f"output must be another folder than the recordings', got {output} twice; change one")
            files = []
            for path, reason in find_sounds(source):
                if output.resolve() in path.resolve().parents:
                    left_out["own"] += 1
                elif reason is None and path.is_file():
                    files.append(path)
                elif not path.is_dir() or reason is not None:
                    left_out[reason or "not_sound"] += 1
            if not files:
                known = ", ".join(READABLE_SUFFIXES)
                raise ValueError(f"{source} must hold sound files ({known}), got none; check the folder")
        for path in files:
            inner = path.relative_to(source) if source.is_dir() else Path(path.name)
            if (other := found.setdefault(_stem(inner), (path, inner.as_posix()))[0]) != path:
                raise ValueError(f"recordings must differ in name, got {other} and {path}; rename one")
    return [*found.values()], left_out


def _stem(inner: Path) -> str:
    return "-".join(inner.with_name(without_sound_suffix(inner.name)).parts)


def plan(recordings: Sequence[tuple[Path, str]], directions: Sequence[Where], output: Path) -> list[Placement]:
    """Give every recording in every direction its file in a folder: steps-wood-1-az030.wav, dog-az270to090.wav."""
    return [
        Placement(source=path, name=name, where=where, target=output / f"{_stem(Path(name))}-{_name(where)}.wav")
        for path, name in recordings
        for where in directions
    ]


def check_targets(placements: Sequence[Placement]) -> None:
    """Refuse a plan that would write over one of its own recordings, by whatever name or link.

    Raises:
        ValueError: it would; the file is named.
    """
    sources = {(status.st_dev, status.st_ino) for status in (path.stat() for path in {p.source for p in placements})}
    for wanted in placements:
        if (
            _fits(wanted.target)
            and wanted.target.exists()
            and ((status := wanted.target.stat()).st_dev, status.st_ino) in sources
        ):
            raise ValueError(f"output must leave the recordings alone, got {wanted.target}, which is one; rename it")


def _fits(target: Path) -> bool:
    """Tell whether a file system takes a name, and a list can hold it."""
    try:
        return len(target.name.encode()) <= MAX_FILE_NAME_BYTES
    except UnicodeEncodeError:  # bytes that are no text
        return False


def _name(where: Where) -> str:
    if not isinstance(where, AzimuthPath):
        return azimuth_name(where)
    return f"{azimuth_name(where.waypoints[0].azimuth_deg)}to{where.waypoints[-1].azimuth_deg:03g}"


def place(mono: Tensor, where: Where, head: HrirSet) -> Tensor:
    """Render a mono clip (1, S), at the head's rate, in a direction or along a path: (2, S) at its natural level."""
    if isinstance(where, AzimuthPath):
        return render_moving(mono[0], where, head)
    return spatialize(mono, where, head, method="interpolate")


def set_level(ears: Tensor, sample_rate: int, form: Form) -> tuple[Tensor, dict[str, Any]]:
    """Bring both ears (2, S) by one gain to the form's loudness or peak; return what was done beside them."""
    if form.loudness_lufs is None:
        return normalize_peak(ears, form.peak), {}
    ears, loudness = bring_to_loudness(ears, sample_rate, form.loudness_lufs)
    return ears, {"loudness": loudness}


def render_files(placements: Iterable[Placement], head: Head, form: Form) -> Iterator[dict[str, Any]]:
    """Render recordings, which are read once where their placements follow each other.

    Yields:
        For every file, when it is written, what a list says of it: `file`, `source`, `azimuth_deg` or `path`, its form,
        and `bandwidth` where the recording's or the head's rate leaves the top of the file's band empty. For every
        recording that cannot be used: `source`, `reason`, `detail`.
    """
    read: tuple[Path, Tensor | AudioFileError, int, int] | None = None
    unnamed: set[Path] = set()
    for wanted in placements:
        if not _fits(wanted.target):
            if wanted.source not in unnamed:
                yield _unnamed(wanted)
            unnamed.add(wanted.source)
            continue
        if read is None or read[0] != wanted.source:
            read = (wanted.source, *_read(wanted.source, form.sample_rate))
            if isinstance(read[1], AudioFileError):
                yield {"source": wanted.name, "reason": read[1].reason, "detail": str(read[1])}
        _, mono, own_rate, num_channels = read
        if isinstance(mono, AudioFileError):
            continue
        rate = form.sample_rate or own_rate
        ears, facts = set_level(place(mono, wanted.where, head.at(rate)), rate, form)
        lacks = bandwidth_note(min(own_rate, head.content_rate or own_rate), rate)
        row: dict[str, Any] = {"file": wanted.target.name, "source": wanted.name} | _direction(wanted.where)
        row |= {"head": head.facts, "system": {"kind": "recordings", "name": "spatialize"}}
        row |= {"sample_rate": rate, "num_samples": ears.shape[-1], "subtype": form.subtype}
        row |= {"mixed_channels": num_channels} if num_channels > 1 else {}
        row |= facts | ({"bandwidth": lacks} if lacks is not None else {}) | {"silent": not bool(ears.any())}
        row |= {"replaced": wanted.target.exists()}
        write_waveform(wanted.target, ears, rate, subtype=form.subtype)
        yield row | {"sha256": sha256_of(wanted.target)}


def _unnamed(wanted: Placement) -> dict[str, Any]:
    """Say that a recording's name cannot be a rendering's."""
    source = wanted.name.encode(errors="backslashreplace").decode()
    size, end = len(os.fsencode(wanted.target.name)), wanted.target.name[-12:]
    detail = f"name must be text and at most {MAX_FILE_NAME_BYTES} bytes with its direction, got {size} with {end!r}"
    return {"source": source, "reason": "bad_name", "detail": f"{source[:80]}: {detail}; rename it"}


def _direction(where: Where) -> dict[str, Any]:
    if not isinstance(where, AzimuthPath):
        return {"azimuth_deg": where}
    return {"path": [[point.time_s, point.azimuth_deg] for point in where.waypoints]}


def _read(path: Path, sample_rate: int | None) -> tuple[Tensor | AudioFileError, int, int]:
    """Read a recording as (1, S) at a rate, with its own rate and number of channels, or say why it cannot be used."""
    try:
        waveform, own_rate = read_waveform(path)
        if own_rate < MIN_SAMPLE_RATE:
            raise AudioFileError(
                "bad_sample_rate", f"{path} must have {MIN_SAMPLE_RATE} Hz or more, got {own_rate}; take another"
            )
    except AudioFileError as error:
        return error, 0, 0
    return resample(waveform.mean(0, keepdim=True), own_rate, sample_rate or own_rate), own_rate, len(waveform)


def read_list(folder: Path) -> list[dict[str, Any]]:
    """Read the list of a folder's renderings, if it has one.

    Raises:
        ValueError: there is a list of something else.
    """
    path, rows = folder / LIST_NAME, []
    for where, line in json_lines(path) if path.is_file() else ():
        row = parse_json(line, where)
        if not isinstance(row, dict) or row.get("system", {}).get("name") != "spatialize":
            raise ValueError(f"{where} must be a rendering's row, got another list; choose another folder")
        rows.append(row)
    rejects = folder / REJECTS_NAME
    for where, line in json_lines(rejects) if rejects.is_file() else ():
        row = parse_json(line, where)
        if not isinstance(row, dict) or row.keys() != {"source", "reason", "detail"}:
            raise ValueError(f"{where} must be a rendering's reject, got another list; choose another folder")
    return rows


def write_lists(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the lists of a folder: its renderings, with those of earlier runs that are still there, and its rejects."""
    made = {row["file"]: {key: row[key] for key in row if key != "replaced"} for row in rows if "file" in row}
    kept = {row["file"]: row for row in read_list(folder) if (folder / row["file"]).is_file()}
    _write_lines(folder / LIST_NAME, [*(kept | made).values()])
    rejects = [row for row in rows if "reason" in row]
    if rejects or (folder / REJECTS_NAME).exists():
        _write_lines(folder / REJECTS_NAME, rejects)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def is_cut(row: dict[str, Any]) -> bool:
    """Tell whether a sound ends before its path does."""
    return "path" in row and row["path"][-1][0] > row["num_samples"] / row["sample_rate"]

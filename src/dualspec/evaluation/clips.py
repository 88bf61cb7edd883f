"""Folders of clips as the judge sees them: sound files, and what their records or a manifest say was asked for.

Nothing is taken from memory: any system's output can be judged. Records are the JSON files that lie beside clips;
where there are none, a manifest of JSON lines names `file` and, where known, `azimuth_deg`, `style` and `prompt`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dualspec.audio.azimuth import check_azimuth_deg
from dualspec.audio.suffixes import READABLE_SUFFIXES
from dualspec.audio.waveform import read_waveform, resample
from dualspec.data.listings import clean_label
from dualspec.data.manifest import json_lines
from dualspec.files import parse_json, read_json, sha256_of

MANIFEST_NAMES = ("manifest.jsonl", "prompts.jsonl")
MIN_SECONDS = 0.1
"""Shorter clips have too few frames for a picture or a classifier."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One sound file and what was asked for."""

    path: Path  # sound file
    sha256: str  # of the file
    azimuth_deg: float | None = None  # asked direction
    style: str | None = None  # doa, clock or general
    record: dict[str, Any] = field(default_factory=dict)  # all that its record or manifest row says

    @property
    def name(self) -> str:
        """Name under which clips of two folders pair; the sound format and how letters are composed do not matter."""
        return unicodedata.normalize("NFC", self.path.stem)

    @property
    def label(self) -> str | None:
        """What sound was asked for, in plain lower-case words: the label, where the record has one, or the event."""
        words = self.record.get("label") or self.record.get("event")
        return clean_label(words) if isinstance(words, str) else None


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What may be done to files that are no two-ear clips at the judge's rate; without leave they are refused."""

    sample_rate: int = 16_000  # Hz
    resample: bool = False  # other rates are resampled
    copy_mono: bool = False  # one channel goes to both ears


class Ears(NamedTuple):
    """A clip at the judge's rate, and what was done to get it there."""

    waveform: Tensor  # (2, S), channel 0 left, in [-1, 1]
    copied_mono: bool
    resampled: bool


def list_clips(folder: Path, *, manifest: Path | None = None) -> list[Clip]:
    """List the clips of a folder by name, with their records or the rows of a manifest.

    A manifest in the folder is used where no clip has a record. Clips whose record says "rendered" are left out: their
    direction comes from a head, not from a model.

    Raises:
        FileNotFoundError: no such folder, or a record or row names a sound that is not there.
        ValueError: no clips, a name stands twice, some sounds have no record, or a record or row is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; generate clips into it first")
    sounds = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".")
    }
    for path in sounds.values():
        if not path.is_file():
            raise ValueError(f"{path} must be a sound file, got a folder, a pipe or a dead link; move it away")
    records = _records(folder, sounds)
    if manifest is None and not records:
        manifest = next((folder / name for name in MANIFEST_NAMES if (folder / name).is_file()), None)
    if manifest is not None:
        records = _rows(manifest, sounds)
    elif 0 < len(records) < len(sounds):
        lost = next(name for name in sounds if name not in records)
        raise ValueError(
            f"{folder} must hold a record beside every sound or beside none, got none for {lost}; remove it, or name "
            "a --manifest"
        )
    if not records:
        records = {name: {} for name in sounds}
    clips = [_clip(sounds[name], record) for name, record in records.items() if not record.get("rendered")]
    if not clips:
        raise ValueError(f"{folder} must hold clips (.wav, .flac), got none; generate some into it")
    clips.sort(key=lambda clip: clip.name)
    for one, other in pairwise(clips):
        if one.name == other.name:
            raise ValueError(f"{folder} must hold one sound of every name, got two called {one.name}; remove one")
    return clips


def pair_clips(clips: Sequence[Clip], references: Sequence[Clip]) -> list[Clip]:
    """Return the reference of every clip, by name.

    Raises:
        ValueError: a clip has none; the first few are named. References without a clip are no fault.
    """
    by_name = {clip.name: clip for clip in references}
    missing = [clip.name for clip in clips if clip.name not in by_name]
    if missing:
        raise ValueError(
            f"references must hold a clip of every name, got none for {len(missing)} of {len(clips)}: "
            f"{', '.join(missing[:3])}; add them, or compare the sets alone with --unpaired"
        )
    return [by_name[clip.name] for clip in clips]


def read_ears(path: Path, conversion: Conversion) -> Ears:
    """Read a clip as both ears at the judge's rate.

    Raises:
        ValueError: unreadable, too short, or of another rate or number of channels without leave to convert.
    """
    waveform, rate = read_waveform(path)
    num_channels = waveform.shape[0]
    if num_channels > 2 or (num_channels == 1 and not conversion.copy_mono):
        hint = "allow copies by --copy-mono" if num_channels == 1 else "choose two of them"
        raise ValueError(f"{path} must have two channels, got {num_channels}; {hint}")
    if waveform.shape[1] < MIN_SECONDS * rate:
        raise ValueError(f"{path} must last {MIN_SECONDS} s or more, got {waveform.shape[1]} samples; leave it out")
    if rate != conversion.sample_rate:
        if not conversion.resample:
            raise ValueError(f"{path} must be at {conversion.sample_rate} Hz, got {rate}; allow it by --resample")
        waveform = resample(waveform, rate, conversion.sample_rate)
    return Ears(waveform.expand(2, -1), num_channels == 1, rate != conversion.sample_rate)


def source_of(clips: Sequence[Clip]) -> dict[str, Any]:
    """Say what made the clips, by their records.

    Returns:
        "kind" (model, baseline, cascade, recordings, round trip, unknown, mixed) and, where known, "name", "sha256" of
        the weights by part and file, "sampling", "best_of".
    """
    sources = [_source(clip.record) for clip in clips]
    return sources[0] if all(source == sources[0] for source in sources) else {"kind": "mixed"}


def _source(record: dict[str, Any]) -> dict[str, Any]:
    if isinstance(record.get("system"), dict):
        return record["system"]
    model = record.get("model")
    if not isinstance(model, dict):
        return {"kind": "unknown"}
    return {
        "kind": "control" if record.get("location_blanked") else "model",
        "name": model.get("variant"),
        "sha256": model.get("sha256"),
        "sampling": record.get("sampling"),
        "best_of": record.get("best_of") or 1,
    }


def _records(folder: Path, sounds: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Read the JSON files that are records of clips: those with a key "azimuth"."""
    stems = {path.stem: name for name, path in sounds.items()}
    records = {}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or "azimuth" not in record:
            continue
        if path.stem not in stems:
            raise FileNotFoundError(f"no sound beside {path}; restore it or remove the record")
        records[stems[path.stem]] = record
    return records


def _rows(manifest: Path, sounds: dict[str, Path]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    composed = {unicodedata.normalize("NFC", name): name for name in sounds}
    for where, line in json_lines(manifest):
        row = parse_json(line, where)
        if not isinstance(row, dict) or not isinstance(row.get("file"), str):
            raise ValueError(
                f"{where} must be an object with the name of a file, got {line.strip()[:60]!r}; correct it"
            )
        name = row["file"] if row["file"] in sounds else composed.get(unicodedata.normalize("NFC", row["file"]))
        if name is None:
            raise FileNotFoundError(f"{where} names {row['file']}, which is not in the folder; restore it")
        if name in rows:
            raise ValueError(f"{where}: file must be unique, got {row['file']!r} again; remove one")
        azimuth = {"azimuth_deg": row.get("azimuth_deg"), "style": row.get("style")}
        rows[name] = row | {"azimuth": azimuth if row.get("azimuth_deg") is not None else None}
    return rows


def _clip(path: Path, record: dict[str, Any]) -> Clip:
    azimuth = record.get("azimuth")
    azimuth = azimuth if isinstance(azimuth, dict) else {}
    asked = azimuth.get("azimuth_deg")
    try:
        asked = None if asked is None else check_azimuth_deg(asked)
    except ValueError as error:
        raise ValueError(f"record of {path}: {error}") from error
    return Clip(path=path, sha256=sha256_of(path), azimuth_deg=asked, style=azimuth.get("style"), record=record)

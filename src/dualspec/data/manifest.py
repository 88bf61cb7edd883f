"""The manifest of a prepared corpus: one JSON line per clip, read and written strictly."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from dualspec.files import MAX_LINE_BYTES, parse_json, read_lines, write_text_atomic

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
MANIFEST_NAME = "manifest.jsonl"
REJECTS_NAME = "rejects.jsonl"
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One clip of a prepared corpus."""

    id: str
    """"<corpus>/<clip id>", unique in the manifest."""
    corpus: str
    """Name of the reader that found the clip."""
    recording: str
    """"<namespace>:<id>" of the source recording; all its clips lie in one split."""
    labels: tuple[str, ...]
    """Class labels in plain lower-case words, the most specific first."""
    licence: str
    """Licence code such as "CC0" or "CC-BY"."""
    attribution: str
    """Whom to credit, and where the recording is found."""
    split: Split
    """Part of the corpus."""
    duration_s: float
    """Length, seconds."""
    num_samples: int
    """Length, samples at the corpus' rate."""
    sha256: str
    """SHA-256 of the little-endian int16 samples; of an Opus clip's bytes, as decoders may differ in the last bit."""
    shard: str
    """File that holds the samples, relative to the manifest."""
    offset: int
    """First sample of the clip in the shard; of an Opus clip, its first byte."""

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {self.split!r:.80}; prepare the corpus again")
        if not self.id or ":" not in self.recording or not self.labels or not all(self.labels):
            raise ValueError(
                f"id, recording and labels must be complete, got row {self.id!r:.80}; prepare the corpus again"
            )
        if self.num_samples < 1 or self.offset < 0 or len(self.sha256) != 64:
            raise ValueError(
                f"num_samples, offset and sha256 must be possible, got row {self.id!r:.80}; prepare it again"
            )
        if not _lies_beside(self.shard):
            raise ValueError(f"shard must lie beside the manifest, got {self.shard!r:.80}; prepare the corpus again")


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectRow:
    """One clip that was left out, and why."""

    id: str
    """"<corpus>/<clip id>"."""
    corpus: str
    """Name of the reader that found the clip."""
    reason: str
    """Reason code, for example "too_short"."""
    detail: str
    """One sentence for people."""


_FIELD_KINDS: dict[str, type] = {
    "id": str,
    "corpus": str,
    "recording": str,
    "labels": tuple,
    "licence": str,
    "attribution": str,
    "split": str,
    "duration_s": float,
    "num_samples": int,
    "sha256": str,
    "shard": str,
    "offset": int,
}
_REPEATED = ("corpus", "licence", "split", "shard")


@lru_cache(maxsize=1024)
def _lies_beside(shard: str) -> bool:
    return not Path(shard).is_absolute() and ".." not in Path(shard).parts


def to_dict(row: ManifestRow | RejectRow) -> dict[str, Any]:
    """Return the fields of a row in their order."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def to_line(row: ManifestRow | RejectRow) -> str:
    """Write a row as one JSON line with its fields in their order."""
    line = json.dumps(to_dict(row), ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
    if len(line.encode()) > MAX_LINE_BYTES:
        raise ValueError(f"row must fit in {MAX_LINE_BYTES} bytes, got {row.id!r}; shorten its labels or attribution")
    return line


def row_from_dict(data: Any, where: str) -> ManifestRow:
    """Build a row from parsed JSON, strictly: every field, no other, each of its type."""
    if not isinstance(data, dict) or set(data) != set(_FIELD_KINDS):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{where} must have the fields {sorted(_FIELD_KINDS)}, got {found}; prepare the corpus again")
    values: dict[str, Any] = dict(data)
    if isinstance(values["labels"], list) and all(isinstance(label, str) for label in values["labels"]):
        values["labels"] = tuple(values["labels"])
    for name, kind in _FIELD_KINDS.items():
        if type(values[name]) is not kind:
            what = "list of str" if kind is tuple else kind.__name__
            raise ValueError(f"{where}: {name} must be {what}, got {values[name]!r:.80}; prepare the corpus again")
    for name in _REPEATED:  # one string for all rows that share it
        values[name] = sys.intern(values[name])
    values["labels"] = tuple(map(sys.intern, values["labels"]))
    try:
        return ManifestRow(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def write_manifest(path: str | Path, rows: Iterable[ManifestRow | RejectRow]) -> None:
    """Write rows as JSON lines; the file appears only when it is complete."""
    write_text_atomic(Path(path), "".join(to_line(row) + "\n" for row in rows))


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Read a manifest strictly.

    Args:
        path: The manifest file, or the folder of a prepared corpus.

    Returns:
        Rows in file order.

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: A line is too long, not JSON, has wrong fields, or an id stands twice; the message names the line.
    """
    path = Path(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a manifest, got none; run `dualspec prepare` first")
    rows = [row_from_dict(parse_json(line, where), where) for where, line in json_lines(path)]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{path}: id must be unique, got {row.id!r:.80} twice; prepare the corpus again")
        seen.add(row.id)
    return rows


def json_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place (file:line) and the text of every line; bytes that are no UTF-8 or too many are refused."""
    for number, line in read_lines(path):
        yield f"{path}:{number}", line

"""The manifest: what is written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dualspec.data.manifest import ManifestRow, read_manifest, to_line, write_manifest
from dualspec.files import MAX_LINE_BYTES

ROW = ManifestRow(
    id="esc50/1-2-A-0",
    corpus="esc50",
    recording="freesound:2",
    labels=("dog", "domestic animal – ü"),
    licence="CC-BY",
    attribution="Freesound 2 by someone",
    split="train",
    duration_s=5.0,
    num_samples=80_000,
    sha256="0" * 64,
    shard="shards/shard-00000.flac",
    offset=0,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [dataclasses.replace(ROW, id=f"esc50/{number}") for number in range(3)]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "manifest.jsonl") == rows


def test_an_absent_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dualspec prepare"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "must have the fields"),
        ({"offset": None}, "offset must be int"),
        ({"offset": True}, "offset must be int"),
        ({"duration_s": 5}, "duration_s must be float"),
        ({"labels": "dog"}, "labels must be list of str"),
        ({"labels": ["dog", 1]}, "labels must be list of str"),
        ({"labels": []}, "must be complete"),
        ({"recording": "2"}, "must be complete"),
        ({"split": "dev"}, "split must be one of"),
        ({"offset": -1}, "must be possible"),
        ({"sha256": "00"}, "must be possible"),
        ({"shard": "/etc/passwd"}, "must lie beside"),
        ({"shard": "../x.flac"}, "must lie beside"),
    ],
)
def test_lines_are_read_strictly(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = json.loads(to_line(ROW)) | change
    (tmp_path / "manifest.jsonl").write_text(to_line(ROW) + "\n" + json.dumps(data) + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(tmp_path)
    assert "manifest.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ('{"a": NaN}', "must be JSON"),
        ("[1]", "must have the fields"),
        ("\n", "must be JSON"),
        (" " * (MAX_LINE_BYTES + 10), "must have at most"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_and_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_manifest(tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", [ROW, ROW])
    with pytest.raises(ValueError, match="id must be unique"):
        read_manifest(tmp_path)


def test_a_row_too_long_to_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must fit in"):
        write_manifest(tmp_path / "manifest.jsonl", [dataclasses.replace(ROW, attribution="x" * MAX_LINE_BYTES)])
    assert not list(tmp_path.iterdir())

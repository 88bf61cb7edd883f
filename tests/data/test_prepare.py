"""Preparing a corpus: counts, splits, rejects, the same bytes however it is run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render_directions
from dualspec.audio.hrir import spherical_head
from dualspec.audio.waveform import from_pcm16, read_waveform
from dualspec.data import prepare as prepare_module
from dualspec.data.corpora import CorpusSpec
from dualspec.data.datasets import ClipDataset
from dualspec.data.manifest import read_manifest
from dualspec.data.prepare import PrepareSummary, prepare

RATE = 16_000


def tone(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))


def folder(
    root: Path, clips: dict[str, np.ndarray | None], columns: dict[str, dict[str, str]] | None = None
) -> CorpusSpec:
    """Write clips and their list; `columns` adds fields to single clips."""
    root.mkdir(parents=True, exist_ok=True)
    names = ("licence", "recording", "split")
    lines = ["file,label,licence,recording,split"]
    for name, samples in clips.items():
        if samples is not None:
            soundfile.write(root / name, samples, RATE)
        extra = (columns or {}).get(name, {})
        lines.append(",".join((name, "Some_label", *(extra.get(field, "") for field in names))))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return CorpusSpec(name="folder", root=root)


def run(spec: CorpusSpec, out: Path, **kwargs: object) -> PrepareSummary:
    return prepare([spec], out, **({"workers": 1} | kwargs))  # type: ignore[arg-type]


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "CLIPS_PER_SHARD", 4)


def test_clips_come_out_resampled_mono_and_at_their_level(tmp_path: Path) -> None:
    time = np.arange(2 * 44_100) / 44_100
    (tmp_path / "in").mkdir()
    sine = 0.6 * np.sin(2 * np.pi * 500 * time)
    soundfile.write(tmp_path / "in" / "a.wav", np.stack((sine, 0 * sine), 1), 44_100, subtype="FLOAT")
    (tmp_path / "in" / "labels.csv").write_text("file,label\na.wav,Sine_tone\n")
    summary = run(CorpusSpec(name="folder", root=tmp_path / "in"), tmp_path / "out")
    (row,) = read_manifest(tmp_path / "out")
    assert (row.id, row.labels, row.num_samples, row.duration_s) == ("folder/a", ("sine tone",), 2 * RATE, 2.0)
    pcm, _ = ClipDataset(tmp_path / "out", row.split, num_samples=None)[0]
    expected = 0.3 * torch.sin(2 * np.pi * 500 * torch.arange(2 * RATE, dtype=torch.float64) / RATE)
    assert float((from_pcm16(pcm) - expected).abs()[200:-200].max()) < 2e-4
    assert summary.num_clips == 1 and summary.duration_s == 2.0 and not summary.rejects


def test_short_silent_and_closed_clips_are_rejected_by_rule(tmp_path: Path) -> None:
    clips = {
        "short.wav": tone(0.999),
        "just.wav": tone(1.0),
        "silent.wav": np.zeros(RATE),
        "closed.wav": tone(1.5),
        "loud.wav": tone(1.2) * 2.5,
    }
    open_licence = {name: {"licence": "CC0"} for name in clips if name != "closed.wav"}
    spec = folder(tmp_path / "in", clips, open_licence)
    soundfile.write(tmp_path / "in" / "loud.wav", clips["loud.wav"], RATE, subtype="FLOAT")
    summary = run(spec, tmp_path / "out", licence="open", max_bad_fraction=0.5)
    assert summary.rejects["folder"] == {"licence": 1, "silent": 1, "too_short": 1}
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["id"] for reject in rejects] == ["folder/closed", "folder/short", "folder/silent"]
    rows = {row.id: row for row in read_manifest(tmp_path / "out")}
    assert set(rows) == {"folder/just", "folder/loud"}
    bank = [ClipDataset(tmp_path / "out", split, num_samples=None) for split in {row.split for row in rows.values()}]
    peaks = {data.rows[i].id: int(data[i][0].to(torch.int32).abs().max()) for data in bank for i in range(len(data))}
    assert peaks["folder/loud"] == 32_767  # beyond full scale: scaled as a whole, not clipped


def test_long_clips_are_cut_when_asked(tmp_path: Path) -> None:
    spec = folder(tmp_path / "in", {"a.wav": tone(3)})
    run(spec, tmp_path / "out", max_clip_seconds=1.5)
    assert read_manifest(tmp_path / "out")[0].num_samples == 1.5 * RATE


def test_a_recording_lies_in_one_split_even_across_corpora(tmp_path: Path) -> None:
    names = [f"{number}.wav" for number in range(30)]
    spec = folder(
        tmp_path / "in", {name: tone(1.01) for name in names}, {n: {"recording": "freesound:77"} for n in names}
    )
    esc = tmp_path / "esc"
    (esc / "meta").mkdir(parents=True)
    (esc / "audio").mkdir()
    (esc / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n4-77-A-0.wav,4,0,dog,True,77,A\n1-78-A-0.wav,1,0,dog,True,78,A\n"
    )
    for name in ("4-77-A-0", "1-78-A-0"):
        soundfile.write(esc / "audio" / f"{name}.wav", tone(1.5), RATE)
    prepare([CorpusSpec(name="esc50", root=esc), spec], tmp_path / "out", workers=1)
    splits = {row.id: row.split for row in read_manifest(tmp_path / "out")}
    assert splits.pop("esc50/1-78-A-0") == "train"
    assert set(splits.values()) == {"test"} and len(splits) == 31


def test_without_a_partition_the_hash_of_the_recording_decides(tmp_path: Path) -> None:
    run(folder(tmp_path / "in", {f"{number}.wav": tone(1.01) for number in range(40)}), tmp_path / "out")
    for row in read_manifest(tmp_path / "out"):
        digest = hashlib.sha256(row.recording.removeprefix("folder:").encode()).hexdigest()
        assert row.split == ("test" if int(digest[:8], 16) % 10 == 0 else "train")


def damage(path: Path, kind: int) -> str:
    """Damage a file in one of ten ways; return the reason code it must be listed with."""
    samples = tone(1.5)
    if kind == 0:
        path.write_bytes(b"")
        return "empty"
    if kind == 1:
        path.write_text("text" * 1000)
        return "unreadable"
    if kind == 2:
        path.write_bytes(path.read_bytes()[:20_000])
        return "truncated"
    if kind == 3:
        soundfile.write(path, samples, RATE, format="FLAC")
        path.rename(path.with_suffix(".flac"))
        path.with_suffix(".flac").write_bytes(path.with_suffix(".flac").read_bytes()[:9_000])
        return "unreadable"
    if kind == 4:
        data = bytearray(path.read_bytes())
        data[40:44] = b"\xff\xff\xff\x7f"
        path.write_bytes(data)
        return "truncated"
    if kind == 5:
        soundfile.write(path, samples * np.nan, RATE, subtype="FLOAT")
        return "not_finite"
    if kind == 6:
        soundfile.write(path, samples * 0, RATE)
        return "silent"
    if kind == 7:
        soundfile.write(path, samples[: RATE // 2], RATE)
        return "too_short"
    if kind == 8:
        soundfile.write(path, np.zeros((20, 1024)), RATE)
        return "too_many_channels"
    soundfile.write(path, samples, RATE, format="FLAC")
    return "wrong_extension"


def test_every_damaged_file_is_listed_with_its_reason_and_none_is_fatal(tmp_path: Path) -> None:
    names = [f"{number:03d}.wav" for number in range(120)]
    spec = folder(tmp_path / "in", {name: tone(1.01, seed=int(name[:3])) for name in names})
    expected = {f"folder/{name[:3]}": damage(spec.root / name, int(name[:3]) // 4 % 10) for name in names[::4]}
    (spec.root / names[1]).unlink()
    expected["folder/001"] = "missing"
    with pytest.raises(ValueError, match="damaged clips must be at most"):
        run(spec, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    summary = run(spec, tmp_path / "out", max_bad_fraction=1.0)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["id"]: reject["reason"] for reject in rejects} == expected
    assert summary.num_clips == 120 - len(expected) == len(read_manifest(tmp_path / "out"))


def test_a_corpus_that_is_not_there_stops_early(tmp_path: Path) -> None:
    spec = folder(tmp_path / "in", {f"{number}.wav": None for number in range(150)})
    with pytest.raises(ValueError, match="got 100 bad ones in a row"):
        run(spec, tmp_path / "out", max_bad_fraction=1.0)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, small_shards: None) -> None:
    spec = folder(tmp_path / "in", {f"{number}.wav": tone(1 + number / 10, seed=number) for number in range(10)})
    run(spec, tmp_path / "one", workers=1)
    run(spec, tmp_path / "two", workers=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) == 4 + 2 * 3


KILLED = """
import os, signal, sys
from pathlib import Path
from dualspec.data import prepare, shards
from dualspec.data.corpora import CorpusSpec
prepare.CLIPS_PER_SHARD = 4
calls, real = 0, shards._usable_pcm
def usable(*args):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
shards._usable_pcm = usable
prepare.prepare([CorpusSpec(name="folder", root=Path(sys.argv[1]))], sys.argv[2], workers=1)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, small_shards: None) -> None:
    spec = folder(tmp_path / "in", {f"{number}.wav": tone(1 + number / 10, seed=number) for number in range(10)})
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(spec.root), str(out), "7"],
        env=os.environ | {"PYTHONPATH": str(Path(prepare_module.__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    left = contents(out)
    assert "shards/shard-00000.json" in left and "manifest.jsonl" not in left
    assert [name for name in left if ".tmp-" in name]
    (out / f".tmp-dualspec-{'0' * 16}").mkdir()
    (out / f".tmp-dualspec-{'0' * 16}" / "half.jsonl").write_text("half a manifest")
    before = (out / "shards" / "shard-00000.flac").stat().st_mtime_ns
    run(spec, out)
    assert (out / "shards" / "shard-00000.flac").stat().st_mtime_ns == before  # kept, not built again
    run(spec, tmp_path / "clean")
    assert contents(out) == contents(tmp_path / "clean")


def test_changed_sources_are_read_again_and_old_shards_go(tmp_path: Path, small_shards: None) -> None:
    clips = {f"{number}.wav": tone(1.1, seed=number) for number in range(9)}
    spec = folder(tmp_path / "in", clips)
    run(spec, tmp_path / "out")
    soundfile.write(spec.root / "5.wav", tone(1.3, seed=99), RATE)
    del clips["8.wav"]
    lines = (spec.root / "labels.csv").read_text().splitlines()
    (spec.root / "labels.csv").write_text("\n".join(lines[:-1]) + "\n")
    run(spec, tmp_path / "out")
    run(spec, tmp_path / "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_run_killed_before_its_first_file_can_be_repeated(tmp_path: Path) -> None:
    left = tmp_path / "out" / f".tmp-dualspec-{'0' * 16}"
    left.mkdir(parents=True)
    (left / "half.json").write_text("{")
    run(folder(tmp_path / "in", {"a.wav": tone(1.1)}), tmp_path / "out")
    assert not [name for name in contents(tmp_path / "out") if ".tmp-" in name]


def test_folders_made_otherwise_are_left_alone(tmp_path: Path) -> None:
    spec = folder(tmp_path / "in", {"a.wav": tone(1.1)})
    run(spec, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"same settings, got other \['min_seconds'\]"):
        run(spec, tmp_path / "out", min_seconds=0.5)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="must be empty or a prepared corpus"):
        run(spec, tmp_path / "in")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 100}, "sample_rate must be"),
        ({"min_seconds": 0}, "min_seconds must lie"),
        ({"max_clip_seconds": 0.5}, "max_clip_seconds must be"),
        ({"licence": "free"}, "licence must be"),
        ({"workers": 0}, "workers must be"),
        ({"render_to": "x"}, "must be given together"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(CorpusSpec(name="folder", root=tmp_path / "none"), tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_corpora_without_usable_clips_are_errors(tmp_path: Path) -> None:
    spec = folder(tmp_path / "in", {"a.wav": tone(0.5)})
    with pytest.raises(ValueError, match="must name each reader once"):
        prepare([spec, spec], tmp_path / "out")
    with pytest.raises(ValueError, match="must hold usable clips"):
        run(spec, tmp_path / "out")
    (spec.root / "labels.csv").write_text("file,label\n")
    with pytest.raises(ValueError, match="must list clips"):
        run(spec, tmp_path / "out2")
    (spec.root / "labels.csv").write_text("file,label\na.wav,x\na.flac,x\n")
    with pytest.raises(ValueError, match="clip ids must be unique"):
        run(spec, tmp_path / "out2")


def test_twelve_stereo_files_per_clip_are_rendered_when_asked(tmp_path: Path) -> None:
    spec = folder(tmp_path / "in", {"a.wav": tone(1.1), "b.wav": tone(1.0, seed=1), "short.wav": tone(0.1)})
    heads = spherical_head(num_directions=36)
    run(spec, tmp_path / "out", render_to=tmp_path / "stereo", hrir_set=heads)
    names = {path.name for path in (tmp_path / "stereo" / "folder").iterdir()}
    assert names == {f"{clip}^{azimuth}.wav" for clip in "ab" for azimuth in range(0, 360, 30)}
    (row,) = [row for row in read_manifest(tmp_path / "out") if row.id == "folder/a"]
    pcm, _ = ClipDataset(tmp_path / "out", row.split, num_samples=None)[0]
    hrirs = heads.at(torch.tensor(sector_grid_deg(), dtype=torch.float64))
    expected = normalize_peak(render_directions(from_pcm16(pcm)[None], hrirs))[0]
    for index, azimuth in enumerate(range(0, 360, 30)):
        stereo, rate = read_waveform(tmp_path / "stereo" / "folder" / f"a^{azimuth}.wav")
        assert rate == RATE and stereo.shape == (2, row.num_samples)
        torch.testing.assert_close(stereo, expected[index], atol=1e-4, rtol=0)
        assert float(stereo.abs().max()) == pytest.approx(0.5, abs=1e-4)
    left, _ = read_waveform(tmp_path / "stereo" / "folder" / "a^90.wav")
    assert float(left[0].std()) > 1.5 * float(left[1].std())
    with pytest.raises(ValueError, match="same settings, got other"):
        run(spec, tmp_path / "out")

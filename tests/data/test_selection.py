"""Lists of clips at azimuths: balanced, disjoint by recording, read back strictly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from dualspec.audio.waveform import write_waveform
from dualspec.cli import app
from dualspec.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest, write_manifest
from dualspec.data.selection import Pair, draw_pairs, read_pairs, select_pairs, write_pairs
from dualspec.prompt_lists import standard_test_set


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 40 clips, two of each recording, without shards: what is selected needs none."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        ManifestRow(
            id=f"folder/{number}",
            corpus="folder",
            recording=f"folder:{number // 2}",
            labels=("dog", "animal"),
            licence="CC0",
            attribution="own",
            split="test" if number // 2 % 5 == 0 else "train",
            duration_s=1.0,
            num_samples=16_000,
            sha256="0" * 64,
            shard="shards/shard-00000.flac",
            offset=16_000 * number,
        )
        for number in range(40)
    ]
    write_manifest(folder / MANIFEST_NAME, rows)
    return folder


@given(st.integers(1, 40), st.data(), st.integers(0, 2**31))
def test_pairs_are_balanced_and_never_repeat(num_clips: int, data: st.DataObject, seed: int) -> None:
    num = data.draw(st.integers(1, 12 * num_clips))
    pairs = draw_pairs(num_clips, num, seed=seed)
    assert len(set(pairs)) == num
    azimuths = Counter(azimuth for _, azimuth in pairs)
    assert max(azimuths.values()) - min(azimuths[azimuth] for azimuth in range(12)) <= 1
    clips = Counter(clip for clip, _ in pairs)
    assert max(clips.values()) - min(clips[clip] for clip in range(num_clips)) <= 1
    assert draw_pairs(num_clips, 12 * num_clips, seed=seed)[:num] == pairs, "a smaller draw begins the larger one"


def test_the_papers_numbers() -> None:
    """50,000 of 70,000 training clips: none twice, 4,166 or 4,167 of each azimuth; another seed draws others."""
    pairs = draw_pairs(70_000, 50_000, seed=0)
    assert len({clip for clip, _ in pairs}) == 50_000
    assert set(Counter(azimuth for _, azimuth in pairs).values()) == {4_166, 4_167}
    same = len(set(pairs) & set(draw_pairs(70_000, 50_000, seed=1)))
    assert same == pytest.approx(50_000**2 / (12 * 70_000), rel=0.1), "as many as chance alone would share"


def test_train_and_test_lists_share_no_recording(corpus: Path) -> None:
    rows = {row.id: row for row in read_manifest(corpus)}
    lists = {split: select_pairs(corpus, split, 60, seed=3) for split in ("train", "test")}  # type: ignore[arg-type]
    recordings = {split: {rows[pair.clip].recording for pair in pairs} for split, pairs in lists.items()}
    assert not recordings["train"] & recordings["test"] and all(recordings.values())
    assert {rows[pair.clip].split for pair in lists["test"]} == {"test"}


def test_the_test_list_is_the_test_set_of_the_same_seed(corpus: Path) -> None:
    rows = standard_test_set(corpus, 50, styles=["doa"], seed=4)
    pairs = select_pairs(corpus, "test", 50, seed=4)
    assert [(row.recording, row.azimuth_deg) for row in rows] == [(pair.clip, pair.azimuth_deg) for pair in pairs]


def test_lists_come_back_as_they_were(corpus: Path, tmp_path: Path) -> None:
    pairs = select_pairs(corpus, "train", 70, seed=0)
    write_pairs(tmp_path / "list.jsonl", pairs)
    assert read_pairs(tmp_path / "list.jsonl") == pairs
    assert json.loads((tmp_path / "list.jsonl").read_text().splitlines()[0]).keys() == {"clip", "azimuth_deg"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold pairs, got none"),
        ('{"clip": "a"}\n', r"list\.jsonl:1 must hold clip and azimuth_deg alone"),
        ('{"clip": "a", "azimuth_deg": 360}\n', r":1: azimuth_deg must be a number"),
        ('{"clip": 1, "azimuth_deg": 0}\n', ":1: clip must be an id"),
        ('{"clip": "a", "azimuth_deg": 30}\n{"clip": "a", "azimuth_deg": 30.0}\n', ":2: pairs must be unique"),
        ("a, 30\n", r":1 must be JSON"),
    ],
)
def test_bad_lists_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "list.jsonl")


def test_more_than_there_is_cannot_be_selected(corpus: Path) -> None:
    with pytest.raises(ValueError, match="num must be 1 to 96 with 8 clips at 12 azimuths, got 97"):
        select_pairs(corpus, "test", 97, seed=0)
    with pytest.raises(ValueError, match="must hold valid clips"):
        select_pairs(corpus, "valid", 1, seed=0)


def test_prepare_writes_both_lists_from_layouts_as_published(tmp_path: Path) -> None:
    """ARCA23K and FSD50K together: a recording that lies in both is where FSD50K puts it, in one split alone."""
    noise = torch.Generator().manual_seed(0)
    lists = {
        "arca/ARCA23K.ground_truth/train.csv": ("fname,label,mid", [(1, "Dog"), (2, "Dog"), (9, "Dog")]),
        "fsd/FSD50K.ground_truth/dev.csv": ("fname,labels,mids,split", [(3, "Dog", "val"), (4, "Cat", "train")]),
        "fsd/FSD50K.ground_truth/eval.csv": ("fname,labels,mids", [(9, "Dog"), (10, "Cat")]),
    }
    for name, (header, rows) in lists.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "".join([header, *(f"\n{n},{label},/m/1{''.join(f',{w}' for w in rest)}" for n, label, *rest in rows)])
        )
        audio = file.parents[1] / {"train": "ARCA23K.audio"}.get(file.stem, f"FSD50K.{file.stem}_audio")
        audio.mkdir(exist_ok=True)
        for number, *_ in rows:
            write_waveform(audio / f"{number}.wav", 0.1 * torch.randn(1, 48_000, generator=noise), 44_100)
    words = ("prepare", tmp_path / "out", "--corpus", f"arca23k={tmp_path / 'arca'}", "--workers", 1)
    words += ("--corpus", f"fsd50k={tmp_path / 'fsd'}")
    said = dualspec(*words, "--select", 30, "--test", 13, "--seed", 5)
    assert said.exit_code == 0, said.output
    assert "train_pairs.jsonl: 30 clips" in said.output
    splits = {row.id: row.split for row in read_manifest(tmp_path / "out")}
    assert splits["arca23k/9"] == splits["fsd50k/9"] == "test" and splits["fsd50k/3"] == "valid"
    for split, num in (("train", 30), ("test", 13)):
        pairs = read_pairs(tmp_path / "out" / f"{split}_pairs.jsonl")
        assert len(pairs) == num and {splits[pair.clip] for pair in pairs} == {split}
        assert pairs == select_pairs(tmp_path / "out", split, num, seed=5)  # type: ignore[arg-type]
    before = (tmp_path / "out" / "train_pairs.jsonl").read_bytes()
    assert dualspec(*words, "--select", 30, "--seed", 5).exit_code == 0
    assert (tmp_path / "out" / "train_pairs.jsonl").read_bytes() == before
    assert dualspec(*words, "--seed", 5).exit_code == 2
    too_many = dualspec(*words, "--select", 10_000)
    assert too_many.exit_code == 65 and "take fewer" in too_many.output
    assert (tmp_path / "out" / "train_pairs.jsonl").read_bytes() == before


def test_a_pair_is_a_clip_at_an_azimuth() -> None:
    assert Pair(clip="a", azimuth_deg=30) == Pair(clip="a", azimuth_deg=30.0)
    with pytest.raises(ValueError, match="azimuth_deg must be"):
        Pair(clip="a", azimuth_deg=-30.0)

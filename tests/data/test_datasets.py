"""Banks, datasets and the order of training."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualspec.data.corpora import CorpusSpec
from dualspec.data.datasets import ClipDataset, batch_indices, hold_out, load_clips
from dualspec.data.manifest import read_manifest
from dualspec.data.prepare import prepare

RATE = 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    lines = ["file,label,split"]
    for number in range(9):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, RATE + 1000 * number)
        soundfile.write(root / f"{number}.wav", samples, RATE)
        lines.append(f"{number}.wav,Label {number};Thing,{'test' if number % 3 == 0 else 'train'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    prepare([CorpusSpec(name="folder", root=root)], root / "out", workers=1)
    return root / "out"


def samples_of(corpus: Path, name: str) -> torch.Tensor:
    samples, _ = soundfile.read(corpus.parent / f"{name}.wav", dtype="int16")
    return torch.from_numpy(samples)


def test_a_bank_holds_the_first_samples_of_every_clip(corpus: Path) -> None:
    bank = load_clips(corpus, "train", num_samples=18_000)
    assert len(bank) == 6 and bank.waveforms.shape == (6, 18_000) and bank.waveforms.dtype == torch.int16
    assert bank.sample_rate == RATE and bank.ids == [f"folder/{n}" for n in (1, 2, 4, 5, 7, 8)]
    for index, name in enumerate(bank.ids):
        pcm = samples_of(corpus, name.removeprefix("folder/"))[:18_000]
        assert bank.lengths[index] == len(pcm) and torch.equal(bank.waveforms[index, : len(pcm)], pcm)
        assert not bank.waveforms[index, len(pcm) :].any()
        assert bank.labels[index] == (f"label {name[-1]}", "thing") == bank.rows[index].labels
    floats = bank.float_waveforms(torch.tensor([2, 0]))
    assert torch.equal(floats * 32_768, bank.waveforms[[2, 0]].float()) and floats.dtype == torch.float32


def test_a_smaller_bank_is_the_same_choice_every_time(corpus: Path) -> None:
    three = load_clips(corpus, "train", max_clips=3).ids
    assert three == load_clips(corpus, "train", max_clips=3).ids and len(three) == 3
    assert set(three) < set(load_clips(corpus, "train", max_clips=4).ids)
    assert load_clips(corpus, "test").ids == load_clips(corpus, "test", max_clips=99).ids
    with pytest.raises(ValueError, match="max_clips must be at least 1"):
        load_clips(corpus, "train", max_clips=0)
    with pytest.raises(ValueError, match=r"got 'valid'; choose from \['test', 'train'\]"):
        load_clips(corpus, "valid")


def test_a_dataset_reads_the_same_as_a_bank(corpus: Path) -> None:
    bank = load_clips(corpus, "train")
    dataset = ClipDataset(corpus, "train")
    for order in ([5, 0, 3, 3], range(len(dataset))):
        for index in order:
            pcm, same = dataset[index]
            assert same == index and torch.equal(pcm, bank.waveforms[index])
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[2][0], bank.waveforms[2])
    dataset.close()
    whole, _ = ClipDataset(corpus, "train", num_samples=None)[5]
    assert torch.equal(whole, samples_of(corpus, "8"))


def test_shards_that_changed_are_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "manifest.jsonl").write_bytes((corpus / "manifest.jsonl").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"shard-00000\.flac"):
        load_clips(tmp_path, "train")
    shard = tmp_path / "shards" / "shard-00000.flac"
    total = sum(row.num_samples for row in read_manifest(corpus))
    soundfile.write(shard, np.zeros(total, np.int16), RATE)
    with pytest.raises(ValueError, match="must hold clip folder/1 as prepared"):
        load_clips(tmp_path, "train")
    with pytest.raises(ValueError, match="must hold clip folder/1 as prepared"):
        ClipDataset(tmp_path, "train")[0]
    data = (corpus / "shards" / "shard-00000.flac").read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="prepare"):
        load_clips(tmp_path, "train")


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_an_epoch_holds_every_clip_once(num_clips: int, batch_size: int, seed: int) -> None:
    steps = range(-(-2 * num_clips // batch_size))
    order = torch.cat([batch_indices(num_clips, batch_size, step, seed) for step in steps])
    for epoch in range(2):
        part = order[epoch * num_clips : (epoch + 1) * num_clips]
        assert Counter(part.tolist()) == Counter(range(num_clips))


def test_the_order_is_a_function_of_seed_and_step_alone() -> None:
    late = batch_indices(1000, 64, 40, 7)
    for step in range(5):
        batch_indices(1000, 64, step, 7)
    assert torch.equal(batch_indices(1000, 64, 40, 7), late)
    assert not torch.equal(batch_indices(1000, 64, 40, 8), late)
    assert not torch.equal(batch_indices(1000, 1000, 0, 7), batch_indices(1000, 1000, 1, 7))
    global_state = torch.get_rng_state()
    batch_indices(123, 5, 0, 99)
    assert torch.equal(torch.get_rng_state(), global_state)
    with pytest.raises(ValueError, match="must be at least 1"):
        batch_indices(0, 4, 0, 0)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.99])
def test_recordings_are_held_out_whole_and_leave_something(corpus: Path, share: float) -> None:
    rows = [replace(row, recording=f"x:{index // 2}") for index, row in enumerate(read_manifest(corpus))]
    held = hold_out(rows, share)
    before, after = (Counter(row.split for row in some) for some in (rows, held))
    assert after["test"] == before["test"] and after["train"] + after["valid"] == before["train"]
    kept, left = ({row.recording for row in held if row.split == split} for split in ("train", "valid"))
    assert kept and left and not kept & left
    num_recordings = len({row.recording for row in rows if row.split == "train"})
    assert len(left) == min(max(1, round(share * num_recordings)), num_recordings - 1)
    assert {row.id for row in hold_out(rows[::-1], share) if row.split == "valid"} == {
        row.id for row in held if row.split == "valid"
    }
    assert hold_out(held, 0.9) == held  # a corpus with a split of its own keeps it


def test_held_out_clips_are_loaded_as_valid(corpus: Path) -> None:
    train, valid = (load_clips(corpus, split, held_out=0.2).ids for split in ("train", "valid"))
    assert len(valid) == 1 and set(train) | set(valid) == set(load_clips(corpus, "train").ids)
    rows = read_manifest(corpus)
    assert hold_out(rows, 0.0) == rows
    with pytest.raises(ValueError, match=r"held_out must be in \[0, 1\), got 1"):
        hold_out(rows, 1)
    with pytest.raises(ValueError, match="must be 0 for a corpus with one training recording"):
        hold_out([row for row in rows if row.split == "train"][:1], 0.1)

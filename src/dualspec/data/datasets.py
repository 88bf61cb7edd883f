"""Waveforms of a prepared corpus: a bank in memory, a torch dataset that reads on demand, and the order of training.

Nothing here is random: rendering, crops and prompts are the task's business.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dualspec.audio.codec import OpusReader
from dualspec.audio.waveform import Pcm16Reader, crop_or_pad
from dualspec.data.manifest import ManifestRow, Split, read_manifest
from dualspec.data.shards import pcm_sha256


@dataclass(frozen=True)
class ClipBank:
    """Clips of one length, all in the memory of one device."""

    waveforms: Tensor
    """(N, S) int16; divide by 32768 for full scale 1."""
    lengths: Tensor
    """(N,) int64: samples before the zeros at the end."""
    labels: list[tuple[str, ...]]
    """Labels of each clip."""
    ids: list[str]
    """Ids of the clips."""
    rows: list[ManifestRow]
    """Manifest rows of the clips."""
    sample_rate: int
    """Hz."""
    damaged: tuple[str, ...] = ()
    """Ids of the clips that could not be read: silence here, and to be weighed out."""

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.ids)

    def float_waveforms(self, indices: Tensor) -> Tensor:
        """Clips as float.

        Args:
            indices: (B,) int64, on any device.

        Returns:
            (B, S) float32 in [-1, 1) on the bank's device.
        """
        return self.waveforms[indices.to(self.waveforms.device)].to(torch.float32) / 32_768.0


def load_clips(
    manifest_dir: str | Path,
    split: Split,
    *,
    num_samples: int = 81_920,
    max_clips: int | None = None,
    only: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    held_out: float = 0.0,
    max_damaged: float = 0.0,
) -> ClipBank:
    """Load the first samples of every clip of a split, zero-padded; every clip is checked against its SHA-256.

    Args:
        manifest_dir: Folder of a prepared corpus.
        split: "train", "valid" or "test".
        num_samples: Length of every clip in the bank, samples (81,920 are 5.12 s at 16 kHz).
        max_clips: Keep this many clips, chosen by the hash of their ids; None keeps all.
        only: Keep the clips with these ids (those held out are left out); None keeps all.
        device: Where the bank lives.
        held_out: Share of the training recordings that count as "valid", see `hold_out`.
        max_damaged: Share of clips, or one, that may have been damaged since they were prepared; they keep their place
            in the bank, so that no other clip takes it, and are named in `damaged`.

    Raises:
        FileNotFoundError: A manifest or shard is absent.
        ValueError: The split is empty, or a shard does not hold what the manifest says, in more clips than accepted.

    Paper section V-C.
    """
    manifest_dir = Path(manifest_dir)
    every = hold_out(read_manifest(manifest_dir), held_out)
    rows = choose(every, split, max_clips)
    if only is not None:
        missing = sorted(set(only) - {row.id for row in every if row.split in (split, "valid")})
        if missing:
            raise ValueError(f"only must name {split} clips of {manifest_dir}, got {missing[0]!r}; select them again")
        rows = [row for row in rows if row.id in only]
    waveforms = torch.zeros(len(rows), num_samples, dtype=torch.int16)
    sample_rate = 0
    damaged: list[str] = []
    by_shard: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_shard.setdefault(row.shard, []).append(index)
    for shard, indices in by_shard.items():
        with open_shard(manifest_dir / shard) as reader:
            if sample_rate not in (0, reader.sample_rate):
                raise ValueError(f"{shard} must have {sample_rate} Hz, got {reader.sample_rate}; prepare it again")
            sample_rate = reader.sample_rate
            for index, pcm in zip(indices, _attempts(reader, [rows[index] for index in indices]), strict=True):
                if isinstance(pcm, ValueError):
                    damaged.append(rows[index].id)
                    if len(damaged) > (max(1.0, max_damaged * len(rows)) if max_damaged else 0):
                        raise pcm
                    continue
                waveforms[index, : pcm.shape[0]] = pcm[:num_samples]
    return ClipBank(
        waveforms=waveforms.to(device),
        lengths=torch.tensor([min(row.num_samples, num_samples) for row in rows]).to(device),
        labels=[row.labels for row in rows],
        ids=[row.id for row in rows],
        rows=rows,
        sample_rate=sample_rate,
        damaged=tuple(damaged),
    )


class ClipDataset(Dataset[tuple[Tensor, int]]):
    """Clips of a split, read from their shards when asked; for corpora larger than the memory.

    An item is the clip's first samples, (num_samples,) int16 and zero-padded, and its index in `rows`. Files are opened
    anew in every worker process.
    """

    def __init__(self, manifest_dir: str | Path, split: Split, *, num_samples: int | None = 81_920) -> None:
        """Read the manifest.

        Args:
            manifest_dir: Folder of a prepared corpus.
            split: "train", "valid" or "test".
            num_samples: Length of every item in samples; None keeps each clip whole.
        """
        self.manifest_dir = Path(manifest_dir)
        self.rows = choose(read_manifest(self.manifest_dir), split, None)
        self.num_samples = num_samples
        self._readers: dict[str, Pcm16Reader | OpusReader] = {}

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Read one clip and check it against its SHA-256."""
        row = self.rows[index]
        pcm = read_checked(self._reader(row.shard), row)
        return (pcm if self.num_samples is None else crop_or_pad(pcm, self.num_samples)), index

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self._reader(self.rows[0].shard).sample_rate

    def _reader(self, shard: str) -> Pcm16Reader | OpusReader:
        if shard not in self._readers:
            if len(self._readers) >= 64:
                self.close()
            self._readers[shard] = open_shard(self.manifest_dir / shard)
        return self._readers[shard]

    def __getstate__(self) -> dict[str, object]:
        """Leave open files behind when the dataset goes to a worker process."""
        return self.__dict__ | {"_readers": {}}

    def close(self) -> None:
        """Close the shards that are open."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def batch_indices(num_clips: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Clips of one training step: a pure function of its arguments.

    Every epoch is a permutation of all clips, so none repeats within it; batches run on across its end. With several
    processes each takes its part of this global batch, so their number does not change the order.

    Args:
        num_clips: Clips in the bank.
        batch_size: Clips of the global batch.
        step: Step, from 0.
        seed: Seed of the run.

    Returns:
        (batch_size,) int64 on the CPU.
    """
    if num_clips < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"num_clips and batch_size must be at least 1 and step at least 0, got {num_clips}, {batch_size}, {step}; "
            "check the split"
        )
    first = step * batch_size
    parts = []
    while first < (step + 1) * batch_size:
        epoch, start = divmod(first, num_clips)
        part = _permutation(num_clips, epoch, seed)[start : start + (step + 1) * batch_size - first]
        parts.append(part)
        first += part.shape[0]
    return torch.cat(parts)


@lru_cache(maxsize=4)
def _permutation(num_clips: int, epoch: int, seed: int) -> Tensor:
    key = hashlib.sha256(f"clip order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
    return torch.randperm(num_clips, generator=generator)


def hold_out(rows: Sequence[ManifestRow], share: float) -> list[ManifestRow]:
    """Move a share of the training recordings, at least one, to the split "valid", unless the corpus has its own.

    Which ones depends on nothing but their names: every stage and every seed leaves out the same.

    Raises:
        ValueError: The share is not in [0, 1), or leaves nothing to train on.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"held_out must be in [0, 1), got {share}; 0.05 is the usual one")
    recordings = {row.recording for row in rows if row.split == "train"}
    if share == 0.0 or not recordings or any(row.split == "valid" for row in rows):
        return list(rows)
    if len(recordings) == 1:
        raise ValueError("held_out must be 0 for a corpus with one training recording, got one; nothing would be left")
    order = sorted(recordings, key=lambda name: hashlib.sha256(f"valid {name}".encode()).digest())
    chosen = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    return [replace(row, split="valid") if row.split == "train" and row.recording in chosen else row for row in rows]


def choose(rows: Sequence[ManifestRow], split: Split, max_clips: int | None) -> list[ManifestRow]:
    """Return the rows of a split in their order; of more than `max_clips` those whose ids have the smallest hashes."""
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        found = sorted({row.split for row in rows})
        raise ValueError(f"split must be one that the corpus has, got {split!r}; choose from {found}")
    if max_clips is None or max_clips >= len(chosen):
        return chosen
    if max_clips < 1:
        raise ValueError(f"max_clips must be at least 1, got {max_clips}; pass None to keep all")
    kept = sorted(chosen, key=lambda row: hashlib.sha256(row.id.encode()).digest())[:max_clips]
    names = {row.id for row in kept}
    return [row for row in chosen if row.id in names]


def open_shard(path: Path) -> Pcm16Reader | OpusReader:
    """Open a shard of a prepared corpus, or of a packed one."""
    return OpusReader(path) if path.suffix == ".opus" else Pcm16Reader(path)


def _attempts(reader: Pcm16Reader | OpusReader, rows: Sequence[ManifestRow]) -> Iterator[Tensor | ValueError]:
    """Yield the clips of rows of one shard, or why one cannot be had; Opus is decoded on all cores."""

    def attempt(row: ManifestRow) -> Tensor | ValueError:
        try:
            return read_checked(reader, row)
        except ValueError as error:
            return error

    if isinstance(reader, Pcm16Reader):  # of one thread
        yield from map(attempt, rows)
        return
    with ThreadPoolExecutor() as pool:
        yield from pool.map(attempt, rows)


def read_checked(reader: Pcm16Reader | OpusReader, row: ManifestRow) -> Tensor:
    """Read a clip (S,) int16 from its shard and check its SHA-256.

    Raises:
        ValueError: the shard does not hold what the manifest says.
    """
    if isinstance(reader, OpusReader):
        sha256 = reader.sha256(row.offset)
        pcm = reader.read(row.offset, row.num_samples) if sha256 == row.sha256 else torch.empty(0)
    else:
        pcm = reader.read(row.offset, row.num_samples)
        sha256 = pcm_sha256(pcm)
    if sha256 != row.sha256:
        raise ValueError(
            f"{reader.path} must hold clip {row.id} as prepared, got other samples; prepare the corpus again"
        )
    return pcm

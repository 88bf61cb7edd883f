"""A prepared corpus made small enough to carry: clips cut to the seconds used, as Opus, in files of some megabytes.

It is read as any other: ids, recordings, labels, licences, credits and splits are those of the corpus it comes from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from dualspec.audio.codec import OpusWriter, opus_clip
from dualspec.data.datasets import choose, open_shard, read_checked
from dualspec.data.manifest import MANIFEST_NAME, ManifestRow, Split, read_manifest, write_manifest
from dualspec.files import whole_folder

MAX_SECONDS = 3600.0
_CHUNK = 64
"""Clips that are held in memory and coded side by side."""


def pack_corpus(
    corpus: str | Path,
    out_dir: str | Path,
    *,
    bit_rate: int = 16_000,
    seconds: float = 5.12,
    max_shard_bytes: int = 15 * 2**20,
    splits: Sequence[Split] = ("train", "valid", "test"),
    max_clips: int | None = None,
    workers: int = 1,
    on_progress: Callable[[float], None] = lambda _: None,
) -> list[ManifestRow]:
    """Write a corpus again with Opus shards; the folder appears when it is complete.

    Args:
        corpus: Folder of a prepared corpus.
        out_dir: New folder for `manifest.jsonl` and `shards/`.
        bit_rate: Nominal rate, bit/s; libopus varies it with the sound.
        seconds: Longer clips are cut to their beginning.
        max_shard_bytes: Largest shard, but for a clip that is larger itself.
        splits: Splits that are kept.
        max_clips: Keep this many clips of each split, as `load_clips` chooses them; None keeps all.
        workers: Clips coded at a time.
        on_progress: Gets the share that is done.

    Returns:
        Rows of the new manifest.

    Raises:
        ValueError: The folder exists, a setting is bad, the corpus has none of the splits, or a shard is damaged.
        FileNotFoundError: A manifest or shard is absent.
    """
    corpus, out_dir = Path(corpus), Path(out_dir)
    if not 0 < seconds <= MAX_SECONDS or not 6_000 <= bit_rate <= 256_000:
        raise ValueError(
            f"seconds must be above 0, at most {MAX_SECONDS:g}, and bit_rate 6000 to 256000, got {seconds:g} and "
            f"{bit_rate}; say 5.12 and 16000"
        )
    every = read_manifest(corpus)
    chosen = {row.id for split in {row.split for row in every} & set(splits) for row in choose(every, split, max_clips)}
    rows = [row for row in every if row.id in chosen]
    if not rows:
        raise ValueError(f"splits must be ones that {corpus} has, got {', '.join(splits)}; name another")
    with whole_folder(out_dir) as temporary:
        (temporary / "shards").mkdir()
        packed = _write(corpus, temporary, rows, bit_rate, seconds, max_shard_bytes, workers, on_progress)
        write_manifest(temporary / MANIFEST_NAME, packed)
    return packed


def _write(
    corpus: Path,
    out_dir: Path,
    rows: Sequence[ManifestRow],
    bit_rate: int,
    seconds: float,
    max_shard_bytes: int,
    workers: int,
    on_progress: Callable[[float], None],
) -> list[ManifestRow]:
    packed: list[ManifestRow] = []
    with ThreadPoolExecutor(workers) as pool, ExitStack() as stack:  # libsndfile lets other threads run
        writer: OpusWriter | None = None
        for shard, own in groupby(rows, key=lambda row: row.shard):
            whole = list(own)
            with open_shard(corpus / shard) as reader:
                num_samples, rate = round(seconds * reader.sample_rate), reader.sample_rate
                for first in range(0, len(whole), _CHUNK):
                    chunk = whole[first : first + _CHUNK]
                    clips = [read_checked(reader, row)[:num_samples] for row in chunk]
                    coded = pool.map(lambda pcm, rate=rate: opus_clip(pcm, rate, bit_rate), clips)
                    for row, pcm, clip in zip(chunk, clips, coded, strict=True):
                        if writer is None or writer.num_bytes + len(clip) > max_shard_bytes:
                            stack.close()  # the shard before is whole
                            name = f"shards/shard-{len({row.shard for row in packed}):05d}.opus"
                            writer = stack.enter_context(OpusWriter(out_dir / name))
                        offset, sha256 = writer.append(clip)
                        facts: dict[str, Any] = {"shard": name, "offset": offset, "sha256": sha256}
                        facts |= {"num_samples": len(pcm), "duration_s": round(len(pcm) / rate, 6)}
                        packed.append(replace(row, **facts))
                    on_progress(len(packed) / len(rows))
    return packed

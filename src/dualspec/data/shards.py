"""Building one shard of a prepared corpus: decode, judge, store, and render when asked."""

import hashlib
import json
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.waveform import AudioFileError, Pcm16Writer, from_pcm16, read_waveform, resample, to_pcm16
from dualspec.data.corpora import SourceClip
from dualspec.data.manifest import ManifestRow, RejectRow, Split, to_dict
from dualspec.files import MAX_FILE_NAME_BYTES, write_text_atomic

SILENCE_PEAK = 8  # int16 units: -72 dBFS; a clip below it has less than four bits left
MAX_BAD_IN_A_ROW = 100


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Everything that a worker needs to build one shard."""

    out_dir: Path
    """Folder of the prepared corpus."""
    shard: str
    """FLAC file relative to it."""
    key: str
    """Fingerprint of clips and settings."""
    clips: tuple[SourceClip, ...]
    """Clips of this shard, in the order of the manifest."""
    splits: tuple[Split, ...]
    """Split of each clip."""
    sample_rate: int
    """Hz."""
    min_seconds: float
    """Shorter clips are left out."""
    max_clip_seconds: float | None
    """Longer clips are cut."""
    render_to: Path | None
    """Folder for stereo files."""
    hrirs: Any
    """Array (12, 2, K) of head responses, or None."""

    @property
    def journal(self) -> Path:
        """File that says that the shard is complete, with its rows and rejects."""
        return (self.out_dir / self.shard).with_suffix(".json")


def die_with_parent() -> None:
    """End this worker at once when its parent ends or the terminal interrupts, so that none is left behind."""
    parent = parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Rejected(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def build_shard(task: ShardTask) -> None:
    """Write the shard and then its journal.

    Raises:
        ValueError: A hundred clips in a row are damaged, as when a disk is not mounted.
    """
    torch.set_num_threads(1)
    rows: list[ManifestRow] = []
    rejects: list[RejectRow] = []
    bad_in_a_row = 0
    with Pcm16Writer(task.out_dir / task.shard, task.sample_rate) as writer:
        for clip, split in zip(task.clips, task.splits, strict=True):
            try:
                _check_name(clip, task)
                pcm = _usable_pcm(clip, task)
            except _Rejected as rejected:
                name = f"{clip.corpus}/{clip.clip_id}"
                rejects.append(RejectRow(id=name, corpus=clip.corpus, reason=rejected.reason, detail=str(rejected)))
                bad_in_a_row = 0 if rejected.reason in ("too_short", "unsupported") else bad_in_a_row + 1
                if bad_in_a_row >= MAX_BAD_IN_A_ROW:
                    raise ValueError(
                        f"clips must be readable, got {bad_in_a_row} bad ones in a row, the last: {rejected}; "
                        "check that the corpus is complete"
                    ) from rejected
                continue
            bad_in_a_row = 0
            rows.append(_row(clip, split, pcm, task, writer.append(pcm)))
            if task.render_to is not None:
                _render(clip, pcm, task)
    content = {"key": task.key, "rows": [to_dict(row) for row in rows], "rejects": [to_dict(row) for row in rejects]}
    write_text_atomic(task.journal, json.dumps(content) + "\n")


def _check_name(clip: SourceClip, task: ShardTask) -> None:
    """Refuse a clip whose renderings would have longer names than file systems take."""
    longest = Path(f"{clip.clip_id}^330.wav").name
    if task.render_to is not None and len(os.fsencode(longest)) > MAX_FILE_NAME_BYTES:
        raise _Rejected("bad_name", f"name must leave room for ^330.wav, got {len(os.fsencode(longest))} bytes with it")


def _usable_pcm(clip: SourceClip, task: ShardTask) -> Tensor:
    """Decode a clip to (S,) int16 at the corpus' rate, or say why it cannot be used."""
    try:
        waveform, rate = read_waveform(clip.path, mono=True)
    except AudioFileError as error:
        raise _Rejected(error.reason, str(error)) from error
    except FileNotFoundError as error:
        raise _Rejected("missing", str(error)) from error
    if waveform.shape[-1] < task.min_seconds * rate:
        raise _Rejected("too_short", f"{waveform.shape[-1] / rate:.3f} s is less than {task.min_seconds:g} s")
    waveform = resample(waveform, rate, task.sample_rate)[0]
    if task.max_clip_seconds is not None:
        waveform = waveform[: round(task.max_clip_seconds * task.sample_rate)]
    peak = float(waveform.abs().max())
    pcm = to_pcm16(waveform / peak if peak > 1.0 else waveform)
    if int(pcm.to(torch.int32).abs().max()) < SILENCE_PEAK:
        raise _Rejected("silent", f"peak {peak:.2e} is below {SILENCE_PEAK / 32768:.2e}")
    return pcm


def _row(clip: SourceClip, split: Split, pcm: Tensor, task: ShardTask, offset: int) -> ManifestRow:
    return ManifestRow(
        id=f"{clip.corpus}/{clip.clip_id}",
        corpus=clip.corpus,
        recording=clip.recording,
        labels=clip.labels,
        licence=clip.licence,
        attribution=clip.attribution,
        split=split,
        duration_s=round(pcm.shape[0] / task.sample_rate, 6),
        num_samples=pcm.shape[0],
        sha256=pcm_sha256(pcm),
        shard=task.shard,
        offset=offset,
    )


def pcm_sha256(pcm: Tensor) -> str:
    """SHA-256 of int16 samples in little-endian order."""
    return hashlib.sha256(pcm.numpy().astype("<i2", copy=False).tobytes()).hexdigest()


def _render(clip: SourceClip, pcm: Tensor, task: ShardTask) -> None:
    """Write the clip as heard from twelve directions; one gain for both ears. Paper section V-C."""
    from dualspec.audio.azimuth import sector_grid_deg
    from dualspec.audio.binaural import normalize_peak, render_directions
    from dualspec.audio.waveform import write_waveform

    assert task.render_to is not None
    stereo = normalize_peak(render_directions(from_pcm16(pcm)[None], torch.from_numpy(task.hrirs)))[0]
    folder = task.render_to / clip.corpus
    for azimuth, waveform in zip(sector_grid_deg(), stereo, strict=True):
        path = folder / f"{clip.clip_id}^{azimuth:g}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_waveform(path, waveform, task.sample_rate)

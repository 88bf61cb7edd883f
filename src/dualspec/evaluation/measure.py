"""What is measured of every clip, once: cues, the localizer's answer, embeddings, likeness to a reference.

Measurements are kept by the SHA-256 of the file and the measurer, so that a judgement that was interrupted goes on, and
so that several systems share one reference set. The same files are always measured together: several processes, or a
second start, give the same bits as one uninterrupted run with as many threads.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualspec.data.manifest import json_lines
from dualspec.data.shards import die_with_parent
from dualspec.evaluation import signal_metrics
from dualspec.evaluation.clips import Clip, Conversion, read_ears
from dualspec.files import atomic_path, parse_json, write_text_atomic
from dualspec.hearing.cues import CUES, audible, interaural_cues
from dualspec.hearing.proof import band_edges_hz, band_powers

if TYPE_CHECKING:
    from dualspec.evaluation.embedders import Embedder
    from dualspec.hearing.localizer import Localizer

Key = tuple[str, str]  # what was measured (and by which weights), SHA-256 of the file or of both files
FLUSH_EVERY = 16  # chunks between two writes of the cache
EMBEDDER = "embedder:"  # begins the kinds of measurements that embedders make
_VERSION = 2  # counts up when a measurement changes: what an older cache holds is then measured anew


@dataclass(frozen=True, kw_only=True)
class EmbedderSource:
    """Where every process gets its own copy of an embedder."""

    load: Callable[[], Embedder]  # loads it on its device
    sha256: str  # of its weights


@dataclass(frozen=True, kw_only=True)
class Measurer:
    """How clips are measured; goes to every process, which loads its own copies of the networks."""

    mode: Literal["ears", "compat"] = "ears"  # compat: each channel's mean is taken out first, as audioldm_eval does
    conversion: Conversion = field(default_factory=Conversion)  # what may be done to odd files
    localizer: Callable[[], Localizer] | None = None  # loads the localizer on its device
    localizer_sha256: str = ""  # of its weights
    embedders: Mapping[str, EmbedderSource] = field(default_factory=dict)  # by name; the first gives KL, FD and IS
    device: str = "cpu"  # where cues are measured; "cuda" spreads processes over all GPUs
    batch_size: int = 16  # files measured together

    @property
    def kinds(self) -> dict[str, str]:
        """What is measured of every file, each with its key in the cache."""
        how, leave = self._how, f"{self.conversion.resample:d}{self.conversion.copy_mono:d}"
        kinds = {"cues": f"cues:{how}:{leave}"}
        if self.localizer is not None:
            kinds["localizer"] = f"localizer:{how}:{self.localizer_sha256}"
        for name, source in self.embedders.items():
            kinds[f"{EMBEDDER}{name}"] = f"{EMBEDDER}{how}:{self.mode}:{source.sha256}"
        return kinds

    @property
    def pair_kind(self) -> str:
        """Key of the likeness of two files in the cache."""
        return f"likeness:{self._how}"

    @property
    def _how(self) -> str:
        return f"{_VERSION}:{self.conversion.sample_rate}"


class Cache:
    """Measurements in memory and, when there is a folder, on disk: clips.jsonl and embeddings.safetensors."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier judgement left.

        Raises:
            ValueError: a file is damaged; it is named.
        """
        self.folder = folder
        self.values: dict[Key, dict[str, Any]] = {}
        self.tensors: dict[str, Tensor] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "clips.jsonl").is_file():
            for where, line in json_lines(folder / "clips.jsonl"):
                row = parse_json(line, where)
                if not isinstance(row, dict) or set(row) != {"sha256", "what", "values"}:
                    raise ValueError(f"{where} must be a measurement, got {line.strip()[:60]!r}; remove the file")
                self.values[row["what"], row["sha256"]] = row["values"]
        if (folder / "embeddings.safetensors").is_file():
            try:
                self.tensors = load_file(folder / "embeddings.safetensors")
            except SafetensorError as error:
                raise ValueError(f"{folder}/embeddings.safetensors must be whole, got {error}; remove it") from error

    def has(self, key: Key) -> bool:
        """Tell whether a measurement is there."""
        return key in self.values and (not key[0].startswith(EMBEDDER) or f"{'/'.join(key)}/logits" in self.tensors)

    def embedding(self, key: Key) -> tuple[Tensor, Tensor]:
        """Return embeddings (2, D) and logits (2, C) of both ears."""
        return self.tensors[f"{'/'.join(key)}/embeddings"], self.tensors[f"{'/'.join(key)}/logits"]

    def add(self, key: Key, values: dict[str, Any]) -> None:
        """Keep a measurement that is not there yet; arrays become tensors beside the JSON line."""
        if not self.has(key):
            arrays = {name: value for name, value in values.items() if hasattr(value, "shape")}
            self.tensors |= {f"{'/'.join(key)}/{name}": torch.tensor(value) for name, value in arrays.items()}
            self.values[key] = {name: value for name, value in values.items() if name not in arrays}

    def write(self) -> None:
        """Put everything on disk; each file appears whole or stays as it was."""
        if self.folder is None:
            return
        if self.tensors:
            with atomic_path(self.folder / "embeddings.safetensors") as temporary:
                save_file(self.tensors, temporary)
        rows = ({"sha256": sha256, "what": what, "values": values} for (what, sha256), values in self.values.items())
        write_text_atomic(self.folder / "clips.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


@dataclass(frozen=True)
class _Chunk:
    """Files, or pairs of files, that are measured together, and what of them."""

    kinds: dict[str, str]  # kind and its key in the cache
    tasks: Sequence[tuple[str, tuple[Path, ...]]]  # SHA-256 and the file or both files


def measure(
    clips: Sequence[Clip],
    pairs: Sequence[tuple[Clip, Clip]],
    measurer: Measurer,
    cache: Cache,
    *,
    processes: int = 1,
    on_clips: Callable[[int], None] | None = None,
) -> None:
    """Measure all clips and pairs that the cache lacks, and keep the cache up to date on disk.

    Args:
        clips: files; those with equal bytes count once.
        pairs: (reference, estimate) whose likeness is wanted.
        measurer: how.
        cache: what is there already; is filled.
        processes: that many new ones share the work; 1 works in this one.
        on_clips: called with the number of files and pairs done so far.

    Raises:
        ValueError: a file is no clip of the judge's kind; what was measured before stays in the cache.
        OSError: a process ended without a word.
    """
    done = 0
    chunks = list(_chunks(clips, pairs, measurer, cache))
    try:
        for index, (num_tasks, results) in enumerate(_run(chunks, measurer, processes), start=1):
            for key, values in results:
                cache.add(key, values)
            done += num_tasks
            if on_clips is not None:
                on_clips(done)
            if index % FLUSH_EVERY == 0:
                cache.write()
    finally:
        if done:
            cache.write()


def _chunks(clips: Sequence[Clip], pairs: Sequence[tuple[Clip, Clip]], how: Measurer, cache: Cache) -> Iterator[_Chunk]:
    """Cut all files into chunks, whatever the cache holds, and leave out those that lack nothing."""
    files = list({clip.sha256: (clip.path,) for clip in clips}.items())
    for start in range(0, len(files), how.batch_size):
        tasks = files[start : start + how.batch_size]
        kinds = {kind: what for kind, what in how.kinds.items() if not all(cache.has((what, sha)) for sha, _ in tasks)}
        if kinds:
            yield _Chunk(kinds, tasks)
    both = {pair_sha256(*pair): (pair[0].path, pair[1].path) for pair in pairs}
    lacking = [(sha, paths) for sha, paths in both.items() if not cache.has((how.pair_kind, sha))]
    for start in range(0, len(lacking), how.batch_size):
        yield _Chunk({"likeness": how.pair_kind}, lacking[start : start + how.batch_size])


def pair_sha256(reference: Clip, estimate: Clip) -> str:
    """Return the name of a pair in the cache."""
    return f"{reference.sha256}+{estimate.sha256}"


_Results = tuple[int, list[tuple[Key, dict[str, Any]]]]  # number of tasks, and the measurements of all


def _run(chunks: list[_Chunk], how: Measurer, processes: int) -> Iterator[_Results]:
    if processes == 1 or len(chunks) < 2:
        yield from map(_Worker(how, how.device), chunks)
        return
    context = multiprocessing.get_context("spawn")
    ranks = context.Value("i", 0)
    pool = ProcessPoolExecutor(min(processes, len(chunks)), context, _start_worker, (how, ranks, processes))
    try:
        for future in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a process ended without a word, as when memory runs out; go on with fewer --processes, or with 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_WORKER: list[_Worker] = []


def _start_worker(how: Measurer, ranks: Any, processes: int) -> None:
    """Load the networks once per process."""
    die_with_parent()
    with ranks.get_lock():
        rank = ranks.value
        ranks.value += 1
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    spread = how.device == "cuda" and torch.cuda.device_count() > 1
    device = f"cuda:{rank % torch.cuda.device_count()}" if spread else how.device
    if spread:
        torch.cuda.set_device(device)
    _WORKER[:] = [_Worker(how, device)]


def _work(chunk: _Chunk) -> _Results:
    return _WORKER[0](chunk)


class _Worker:
    """Measures chunks in one process."""

    def __init__(self, how: Measurer, device: str) -> None:
        self.how, self.device = how, device
        self.localizer = how.localizer() if how.localizer is not None else None
        self.embedders = {f"{EMBEDDER}{name}": source.load() for name, source in how.embedders.items()}

    @torch.inference_mode()
    def __call__(self, chunk: _Chunk) -> _Results:
        """Return (key in the cache, values) of everything that is wanted of a chunk."""
        results: list[tuple[Key, dict[str, Any]]] = []
        read = [(sha, [read_ears(path, self.how.conversion) for path in paths]) for sha, paths in chunk.tasks]
        if "likeness" in chunk.kinds:
            for sha, (reference, estimate) in read:
                likeness = _likeness(reference.waveform, estimate.waveform)
                results.append(((chunk.kinds["likeness"], sha), likeness))
            return len(read), results
        read.sort(key=lambda row: row[1][0].waveform.shape[-1])
        for _, group in itertools.groupby(read, key=lambda row: row[1][0].waveform.shape[-1]):
            same = [(sha, ears) for sha, (ears,) in group]
            batch = torch.stack([ears.waveform for _, ears in same]).to(self.device)
            for kind, what in chunk.kinds.items():
                if kind in self.embedders:
                    rows = self._embedded(batch, self.embedders[kind])
                else:
                    rows = {"cues": self._cues, "localizer": self._located}[kind](batch)
                if kind == "cues":
                    done = [{"copied_mono": ears.copied_mono, "resampled": ears.resampled} for _, ears in same]
                    rows = [row | extra for row, extra in zip(rows, done, strict=True)]
                results += [((what, sha), row) for (sha, _), row in zip(same, rows, strict=True)]
        return len(read), results

    def _cues(self, ears: Tensor) -> list[dict[str, Any]]:
        rate = self.how.conversion.sample_rate
        cues = interaural_cues(ears, rate, allow_silent=True)
        powers = band_powers(ears, rate, band_edges_hz(rate)).sum(-2).tolist()  # of the sound, for a head's target
        columns = [getattr(cues, name).tolist() for name in CUES]
        return [
            {name: None if value != value else value for name, value in zip(CUES, row, strict=True)}
            | {"band_power": power}
            for *row, power in zip(*columns, powers, strict=True)
        ]

    def _located(self, ears: Tensor) -> list[dict[str, Any]]:
        """Ask the localizer where each clip is; one with a silent ear has no answer."""
        rows: list[dict[str, Any]] = [{} for _ in ears]
        heard = audible(ears)
        if self.localizer is not None and bool(heard.any()):
            found = self.localizer.predict(ears[heard], self.how.conversion.sample_rate)
            for place, row in enumerate(heard.nonzero().flatten().tolist()):
                names = ("azimuth_deg", "expectation_deg", "confidence")
                rows[row] = {name: float(getattr(found, name)[place]) for name in names}
        return rows

    def _embedded(self, ears: Tensor, embedder: Embedder) -> list[dict[str, Any]]:
        if self.how.mode == "compat":
            ears = ears - ears.mean(-1, keepdim=True)
        found = embedder(ears.flatten(0, 1), self.how.conversion.sample_rate)
        parts = [value.float().cpu().unflatten(0, (-1, 2)).numpy() for value in (found.embeddings, found.logits)]
        return [{"embeddings": own, "logits": scores} for own, scores in zip(*parts, strict=True)]


def _likeness(reference: Tensor, estimate: Tensor) -> dict[str, Any]:
    """Compare a pair ear by ear; the PSNR of equal ears has no number."""
    found = signal_metrics.evaluate(reference, estimate)
    psnr = [None if math.isinf(value) else value for value in found["psnr_db"].tolist()]
    return {"psnr_db": psnr, "ssim": found["ssim"].tolist()}

"""What is measured of every clip, once: cues, the localizer's answer, embeddings, likeness to a reference.

Measurements are kept by the SHA-256 of the file and the measurer, so that a judgement that was interrupted goes on, and
so that several systems share one reference set. They do not depend on batches, chunks or the number of processes.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualspec.data.manifest import json_lines
from dualspec.evaluation import signal_metrics
from dualspec.evaluation.clips import Clip, Conversion, read_ears
from dualspec.files import atomic_path, parse_json, write_text_atomic
from dualspec.hearing.cues import audible, interaural_cues
from dualspec.hearing.proof import band_edges_hz, band_powers

if TYPE_CHECKING:
    from dualspec.evaluation.embedders import Embedder
    from dualspec.hearing.localizer import Localizer

Mode = Literal["ears", "compat"]
Key = tuple[str, str]  # what was measured (and by which weights), SHA-256 of the file or of both files
FLUSH_EVERY = 16  # chunks between two writes of the cache


@dataclass(frozen=True, kw_only=True)
class Measurer:
    """How clips are measured; goes to every process, which loads its own copies of the networks."""

    mode: Mode = "ears"  # compat: the mean of each channel is taken out first, as audioldm_eval does
    conversion: Conversion = field(default_factory=Conversion)  # what may be done to odd files
    localizer: Callable[[], Localizer] | None = None  # loads the localizer on its device
    localizer_sha256: str = ""  # of its weights
    embedder: Callable[[], Embedder] | None = None  # loads the embedder on its device
    embedder_sha256: str = ""  # of its weights
    device: str = "cpu"  # where cues are measured; "cuda" spreads processes over all GPUs
    batch_size: int = 16  # clips of one length measured at once

    @property
    def kinds(self) -> dict[str, str]:
        """What is measured of every file, each with its key in the cache."""
        how = f"{self.conversion.sample_rate}"
        kinds = {"cues": f"cues+bands:{how}"}
        if self.localizer is not None:
            kinds["localizer"] = f"localizer:{how}:{self.localizer_sha256}"
        if self.embedder is not None:
            kinds["embedder"] = f"embedder:{how}:{self.mode}:{self.embedder_sha256}"
        return kinds

    @property
    def pair_kind(self) -> str:
        """Key of the likeness of two files in the cache."""
        return f"likeness:{self.conversion.sample_rate}"


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
        return key in self.values and (
            not key[0].startswith("embedder:") or _tensor_name(key, "logits") in self.tensors
        )

    def embedding(self, key: Key) -> tuple[Tensor, Tensor]:
        """Return embeddings (2, D) and logits (2, C) of both ears."""
        return self.tensors[_tensor_name(key, "embeddings")], self.tensors[_tensor_name(key, "logits")]

    def add(self, key: Key, values: dict[str, Any]) -> None:
        """Keep a measurement; arrays become tensors beside the JSON line."""
        plain = {}
        for name, value in values.items():
            if hasattr(value, "shape"):
                self.tensors[_tensor_name(key, name)] = torch.tensor(value)
            else:
                plain[name] = value
        self.values[key] = plain

    def write(self) -> None:
        """Put everything on disk; each file appears whole or stays as it was."""
        if self.folder is None:
            return
        if self.tensors:
            with atomic_path(self.folder / "embeddings.safetensors") as temporary:
                save_file(self.tensors, temporary)
        rows = ({"sha256": sha256, "what": what, "values": values} for (what, sha256), values in self.values.items())
        write_text_atomic(self.folder / "clips.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _tensor_name(key: Key, name: str) -> str:
    return f"{key[0]}/{key[1]}/{name}"


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
        clips: files; those with equal samples count once.
        pairs: (reference, estimate) whose likeness is wanted.
        measurer: how.
        cache: what is there already; is filled.
        processes: that many new processes share the work; 1 works in this one.
        on_clips: called with the number of files and pairs done so far.

    Raises:
        ValueError: a file is no clip of the judge's kind; what was measured before stays in the cache.
    """
    tasks = _missing(clips, pairs, measurer, cache)
    chunks = [tasks[start : start + measurer.batch_size] for start in range(0, len(tasks), measurer.batch_size)]
    done = 0
    try:
        for index, results in enumerate(_run(chunks, measurer, processes), start=1):
            for key, values in results:
                cache.add(key, values)
            done = min(done + measurer.batch_size, len(tasks))
            if on_clips is not None:
                on_clips(done)
            if index % FLUSH_EVERY == 0:
                cache.write()
    finally:
        if done:
            cache.write()


@dataclass(frozen=True)
class _Task:
    """One file or one pair of files, and what is wanted of it."""

    paths: tuple[Path, ...]
    sha256: str
    kinds: tuple[tuple[str, str], ...]  # (kind, its key in the cache)


def _missing(clips: Sequence[Clip], pairs: Sequence[tuple[Clip, Clip]], how: Measurer, cache: Cache) -> list[_Task]:
    tasks = {}
    for clip in clips:
        wanted = tuple((kind, what) for kind, what in how.kinds.items() if not cache.has((what, clip.sha256)))
        if wanted:
            tasks[clip.sha256] = _Task((clip.path,), clip.sha256, wanted)
    for reference, estimate in pairs:
        both = pair_sha256(reference, estimate)
        if not cache.has((how.pair_kind, both)):
            tasks[both] = _Task((reference.path, estimate.path), both, (("likeness", how.pair_kind),))
    return list(tasks.values())


def pair_sha256(reference: Clip, estimate: Clip) -> str:
    """Return the name of a pair in the cache."""
    return f"{reference.sha256}+{estimate.sha256}"


def _run(chunks: list[list[_Task]], how: Measurer, processes: int) -> Iterator[list[tuple[Key, dict[str, Any]]]]:
    if processes == 1 or len(chunks) < 2:
        worker = _Worker(how, how.device)
        yield from map(worker, chunks)
        return
    context = multiprocessing.get_context("spawn")
    ranks = context.Value("i", 0)
    pool = ProcessPoolExecutor(min(processes, len(chunks)), context, _start_worker, (how, ranks, processes))
    try:
        for future in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_WORKER: list[_Worker] = []


def _start_worker(how: Measurer, ranks: Any, processes: int) -> None:
    """Load the networks once per process."""
    with ranks.get_lock():
        rank = ranks.value
        ranks.value += 1
    torch.set_num_threads(max(1, (torch.get_num_threads() or 1) // processes))
    spread = how.device == "cuda" and torch.cuda.device_count() > 1
    device = f"cuda:{rank % torch.cuda.device_count()}" if spread else how.device
    if spread:
        torch.cuda.set_device(device)
    _WORKER[:] = [_Worker(how, device)]


def _work(chunk: list[_Task]) -> list[tuple[Key, dict[str, Any]]]:
    return _WORKER[0](chunk)


class _Worker:
    """Measures chunks of tasks in one process."""

    def __init__(self, how: Measurer, device: str) -> None:
        self.how, self.device = how, device
        self.localizer = how.localizer() if how.localizer is not None else None
        self.embedder = how.embedder() if how.embedder is not None else None

    @torch.inference_mode()
    def __call__(self, chunk: list[_Task]) -> list[tuple[Key, dict[str, Any]]]:
        """Return (key in the cache, values) of everything that the tasks want."""
        singles: list[tuple[_Task, Tensor, bool]] = []
        results: list[tuple[Key, dict[str, Any]]] = []
        for task in chunk:
            read = [read_ears(path, self.how.conversion) for path in task.paths]
            if len(read) == 2:
                results.append(((task.kinds[0][1], task.sha256), self._likeness(read[0][0], read[1][0])))
            else:
                singles.append((task, *read[0]))
        singles.sort(key=lambda single: single[1].shape[-1])
        for _, group in itertools.groupby(singles, key=lambda single: single[1].shape[-1]):
            same = list(group)
            for kind, measure_kind in (
                ("cues", self._cues),
                ("localizer", self._located),
                ("embedder", self._embedded),
            ):
                rows = [row for row in same if kind in dict(row[0].kinds)]
                if rows:
                    ears = torch.stack([waveform for _, waveform, _ in rows]).to(self.device)
                    for (task, _, is_mono), values in zip(rows, measure_kind(ears), strict=True):
                        extra = {"copied_mono": is_mono} if kind == "cues" else {}
                        results.append(((dict(task.kinds)[kind], task.sha256), values | extra))
        return results

    def _cues(self, ears: Tensor) -> list[dict[str, Any]]:
        cues = interaural_cues(ears, self.how.conversion.sample_rate, allow_silent=True)
        columns = {name: getattr(cues, name).tolist() for name in ("itd_us", "ild_db", "coherence", "audible", "timed")}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        rate = self.how.conversion.sample_rate
        powers = band_powers(ears, rate, band_edges_hz(rate)).sum(-2).tolist()  # of the sound, for a head's target
        return [
            {name: None if value != value else value for name, value in row.items()}
            | {"num_samples": ears.shape[-1], "band_power": power}
            for row, power in zip(rows, powers, strict=True)
        ]

    def _located(self, ears: Tensor) -> list[dict[str, Any]]:
        """Ask the localizer where each clip is; one with a silent ear has no answer."""
        if self.localizer is None:
            raise AssertionError("only asked for with a localizer")
        heard = audible(ears)
        rows: list[dict[str, Any]] = [{} for _ in ears]
        if not bool(heard.any()):
            return rows
        found = self.localizer.predict(ears[heard], self.how.conversion.sample_rate)
        for place, row in enumerate(heard.nonzero().flatten().tolist()):
            rows[row] = {
                "azimuth_deg": float(found.azimuth_deg[place]),
                "expectation_deg": float(found.expectation_deg[place]),
                "confidence": float(found.confidence[place]),
            }
        return rows

    def _embedded(self, ears: Tensor) -> list[dict[str, Any]]:
        if self.embedder is None:
            raise AssertionError("only asked for with an embedder")
        if self.how.mode == "compat":
            ears = ears - ears.mean(-1, keepdim=True)
        found = self.embedder(ears.flatten(0, 1), self.how.conversion.sample_rate)
        embeddings, logits = (
            value.float().cpu().unflatten(0, (-1, 2)).numpy() for value in (found.embeddings, found.logits)
        )
        return [{"embeddings": own, "logits": scores} for own, scores in zip(embeddings, logits, strict=True)]

    def _likeness(self, reference: Tensor, estimate: Tensor) -> dict[str, Any]:
        """Compare a pair ear by ear; the PSNR of equal ears has no number."""
        found = signal_metrics.evaluate(reference, estimate)
        psnr = [None if math.isinf(value) else value for value in found["psnr_db"].tolist()]
        return {"psnr_db": psnr, "ssim": found["ssim"].tolist()}

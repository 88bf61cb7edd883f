"""Results on disk → the paper's tables and sweeps, its numbers beside ours, as Markdown.

A row of ours is printed only when the weights that made it are at hand: every file of weights that its clips name must
have the SHA-256 of a file in one of the given folders. Otherwise it reads "weights not at hand": what nobody can
check, and what random weights made, never reaches a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualspec.evaluation.paper_tables import NAMES, NUM_TEST_CLIPS, QUALITY, TABLE_1, TABLE_2, TABLE_3, VAE_NAMES
from dualspec.evaluation.report import MAX_RESULT_BYTES, is_judgement, table
from dualspec.evaluation.spatial_metrics import azimuth_accuracy
from dualspec.files import read_json, sha256_of

NOT_AT_HAND = "weights not at hand"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
HEADS = {
    "psnr_db": "PSNR ↑",
    "ssim": "SSIM ↑",
    "fd": "FD ↓",
    "kl": "KL ↓",
    "inception_score": "IS ↑",
    "azimuth_mae_deg": "MAE ° ↓",
    "azimuth_accuracy": "ACC % ↑",
    "median_itd_error_us": "ITD error µs ↓",
    "median_ild_error_db": "ILD error dB ↓",
    "median_coherence": "coherence",
}
EXTRA = ("median_itd_error_us", "median_ild_error_db", "median_coherence")
DIGITS = {"psnr_db": 2, "ssim": 3, "fd": 2, "kl": 3, "inception_score": 2, "median_itd_error_us": 0}
SWEEPS = {"fig6": ("guidance_scale", "guidance scale"), "fig7": ("num_inference_steps", "inference steps")}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One judgement on disk."""

    name: str  # of its folder or file
    data: dict[str, Any]

    @property
    def source(self) -> dict[str, Any]:
        """What made the clips."""
        return self.data["source"]

    @property
    def system(self) -> str:
        """Name of the model, variant or baseline."""
        return str(self.source.get("name"))

    def value(self, name: str) -> float | None:
        """Return a metric: the mean of both ears, or the left ear alone in compat mode; None where there is none."""
        quality = self.data["quality"]
        found = quality.get("mean", quality.get("left", {})).get(name, self.data.get("direction", {}).get(name))
        return None if found is None else float(found)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model amounts to; None was not counted."""

    parameters: int | None = None
    gflops: float | None = None  # for one second of audio, one denoising step
    gflops_full: float | None = None  # for one second of audio, all steps
    seconds: float | None = None  # for one second of audio


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A folder of weights that is at hand."""

    sha256: frozenset[str]  # of its files
    size: Size = Size()


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """All that a report may print."""

    results: Sequence[Result]
    weights: Sequence[Weights] = ()
    paper_sizes: Mapping[str, Size] = field(default_factory=dict)  # of the paper's variants; needs no weights

    def weights_of(self, result: Result) -> Weights | None:
        """Return the folder that holds every file of weights that a result names, if one is at hand."""
        wanted = set(_hashes(result.source.get("sha256")))
        if result.source.get("kind") == "recordings":
            return Weights(sha256=frozenset())  # real sound through a head: no weights are involved
        return next((own for own in self.weights if wanted and wanted <= own.sha256), None)

    def of(self, kinds: Sequence[str], system: str | None = None) -> list[Result]:
        """Return the results of some kinds, and of one system."""
        return [r for r in self.results if r.source.get("kind") in kinds and system in (None, r.system)]


def read_results(folder: Path) -> list[Result]:
    """Read all judgements below a folder: NAME/result.json or NAME.json.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file is no result; it is named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of results {folder}; make one by `dualspec evaluate ... -o {folder}/NAME`")
    results = []
    for path in sorted([*folder.glob("*/result.json"), *folder.glob("*.json")]):
        data = read_json(path, max_bytes=MAX_RESULT_BYTES)
        if not is_judgement(data):
            raise ValueError(f"{path} must be a result of `dualspec evaluate`, got another file; judge the clips again")
        results.append(Result(name=path.parent.name if path.name == "result.json" else path.stem, data=data))
    return results


def hash_weights(folder: Path) -> frozenset[str]:
    """Return the SHA-256 of every file of weights below a folder.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no weights folder {folder}; give one that is at hand, or leave it out")
    return frozenset(sha256_of(path) for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES and path.is_file())


def _hashes(value: Any, name: str = "") -> Iterator[str]:
    """Yield the hashes of files of weights in a nested record; configs do not count."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _hashes(below, str(key))
    elif isinstance(value, str) and name.endswith(WEIGHT_SUFFIXES):
        yield value


def table_1(shelf: Shelf) -> str:
    """What the autoencoders lose. Paper Table I."""
    columns = ("psnr_db", "ssim", *QUALITY, *EXTRA)
    rows = []
    for variant, printed in TABLE_1.items():
        rows.append([f"{VAE_NAMES[variant]}, paper", f"{NUM_TEST_CLIPS}", *_printed(columns, printed)])
        rows += _own_rows(shelf, shelf.of(["round trip"], variant), columns, VAE_NAMES[variant])
    others = [result for result in shelf.of(["round trip"]) if result.system not in TABLE_1]
    rows += _own_rows(shelf, others, columns) if others else []
    return table(["round trip", "clips", *_heads(columns)], rows) + _footnotes(shelf, ["round trip"])


def table_2(shelf: Shelf) -> str:
    """The variants beside mono baselines, cascades and the upper bound. Paper Table II."""
    columns = (*QUALITY, *EXTRA)
    sizes = ["params M", "GFLOPs/s", "GFLOPs/s, all steps", "time s/s"]
    rows = []
    for system, (count, flops, seconds, *printed) in TABLE_2.items():
        first = [f"{NAMES[system]}, paper", f"{NUM_TEST_CLIPS}", _plain(count), _plain(flops), "–", _plain(seconds, 2)]
        rows.append([*first, *_printed(columns, printed)])
        size = shelf.paper_sizes.get(system)
        if size is not None:
            own = [_plain((size.parameters or 0) // 1_000_000), _plain(size.gflops), _plain(size.gflops_full), "–"]
            rows.append(_absent(f"{NAMES[system]}, our recipe of its size", columns, own))
        found = shelf.of(["model", "baseline"], system)
        rows += _own_rows(shelf, found, columns, NAMES[system], sized=True) if found or size is None else []
    for kind, words in (("cascade", "cascade with a head"), ("recordings", "held-out recordings through a head")):
        for result in shelf.of([kind]):
            label = f"{words}: {NAMES.get(result.system, result.system)}"
            rows += _own_rows(shelf, [result], columns, label, sized=True)
    heads = ["system", "clips", *sizes, *_heads(columns)]
    return table(heads, rows) + _footnotes(shelf, ["model", "baseline", "cascade", "recordings"])


def table_3(shelf: Shelf) -> str:
    """The three wordings of the location. Paper Table III."""
    columns = (*QUALITY, *EXTRA)
    rows = []
    for variant, by_style in TABLE_3.items():
        for style, printed in by_style.items():
            rows.append([f"{NAMES[variant]}, paper", style, f"{NUM_TEST_CLIPS}", *_printed(columns, printed)])
            found = [r for r in shelf.of(["model"], variant) if list(r.data["styles"]) == [style]]
            rows += [[name, style, *cells] for name, *cells in _own_rows(shelf, found, columns, NAMES[variant])]
    return table(["system", "location", "clips", *_heads(columns)], rows) + _footnotes(shelf, ["model"])


def sweep(shelf: Shelf, figure: str) -> dict[str, list[tuple[float, Result]]]:
    """Group results of models that differ in guidance (fig6) or steps (fig7) alone. Paper Figs. 6 and 7.

    Returns:
        For each system, named with its other settings, results by rising value; systems with one value are left out,
        and so is what weights at hand did not make.

    Raises:
        ValueError: two results differ in nothing, so that one point would hide the other.
    """
    key = SWEEPS[figure][0]
    groups: dict[str, dict[float, Result]] = {}
    for result in shelf.of(["model"]):
        sampling = dict(result.source.get("sampling") or {})
        if key in sampling and shelf.weights_of(result) is not None:
            value = float(sampling.pop(key))
            words = [f"{name} {setting}" for name, setting in sorted(sampling.items()) if name != "guidance_interval"]
            words += [f"best of {result.source.get('best_of', 1)}", f"{result.data['num_clips']} clips"]
            words += [] if result.data["mode"] == "ears" else [result.data["mode"]]
            words += [result.data[judge]["name"] for judge in ("embedder", "localizer") if judge in result.data]
            weights = "".join(sorted(_hashes(result.source.get("sha256"))))[:8]
            system, styles = NAMES.get(result.system, result.system), "+".join(result.data["styles"])
            points = groups.setdefault(f"{system} ({weights}), {styles}, {', '.join(words)}", {})
            if value in points:
                names = f"{points[value].name} and {result.name}"
                raise ValueError(f"results of one sweep must differ in {key}, got {names} alike; move one away")
            points[value] = result
    return {name: sorted(points.items()) for name, points in groups.items() if len(points) > 1}


def sweep_table(groups: Mapping[str, Sequence[tuple[float, Result]]], figure: str) -> str:
    """Write a sweep as Markdown."""
    columns = (*QUALITY, *EXTRA)
    rows = [
        [
            name,
            f"{value:g}",
            str(result.data["num_clips"]),
            *(_cell(column, result.value(column)) for column in columns),
        ]
        for name, points in groups.items()
        for value, result in points
    ]
    return table(["system", SWEEPS[figure][1], "clips", *_heads(columns)], rows)


def event_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write scores of clips (`clip_scores.COLUMNS`) by event: medians, those least like their references first."""
    events: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        events.setdefault(str(row.get("event", "–")).casefold(), []).append(row)
    columns = ("kl", "azimuth_accuracy", "median_itd_error_us", "median_ild_error_db")
    found = []
    for event, own in events.items():
        asked = torch.tensor(
            [(row["azimuth_deg"], row["heard_deg"]) for row in own if {"azimuth_deg", "heard_deg"} <= set(row)]
        )
        values = [_median(own, "kl"), azimuth_accuracy(*asked.T) if len(asked) else None]
        found.append((event, len(own), [*values, _median(own, "itd_error_us"), _median(own, "ild_error_db")]))
    found.sort(key=lambda row: (-(row[2][0] or 0.0), row[0]))
    cells = [
        [event, str(count), *(_cell(name, value) for name, value in zip(columns, values, strict=True))]
        for event, count, values in found
    ]
    return table(["event", "clips", *_heads(columns)], cells)


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return float(np.median(values)) if values else None


def _own_rows(
    shelf: Shelf, results: Sequence[Result], columns: Sequence[str], label: str | None = None, *, sized: bool = False
) -> list[list[str]]:
    """Return one row per result, or one that says that there is none."""
    dashes = ["–"] * 4 if sized else []
    if not results:
        return [_absent(f"{label}, ours", columns, dashes)]
    rows = []
    for result in results:
        name = f"{label or NAMES.get(result.system, result.system)}, ours ({result.name})"
        best_of = result.source.get("best_of") or 1
        name += f", best of {best_of}" if best_of != 1 else ""
        name += f", {result.data['mode']}" if result.data["mode"] != "ears" else ""
        weights = shelf.weights_of(result)
        if weights is None:
            rows.append(_absent(name, columns, dashes))
            continue
        size = weights.size
        sizes = [
            _plain(None if size.parameters is None else size.parameters / 1e6, 1),
            _plain(size.gflops, 2),
            _plain(size.gflops_full, 1),
            _plain(size.seconds, 2),
        ]
        cells = [_cell(column, result.value(column)) for column in columns]
        rows.append([name, str(result.data["num_clips"]), *(sizes if sized else []), *cells])
    return rows


def _absent(name: str, columns: Sequence[str], sizes: Sequence[str]) -> list[str]:
    return [name, "–", *sizes, NOT_AT_HAND, *["–"] * (len(columns) - 1)]


def _footnotes(shelf: Shelf, kinds: Sequence[str]) -> str:
    """Name the embedders and judges of the rows, with the judges' warnings."""
    lines = []
    for result in shelf.of(kinds):
        facts = [result.data[key] | {"role": key} for key in ("embedder", "localizer") if key in result.data]
        if facts and shelf.weights_of(result) is not None:
            words = [f"{own['role']} {own['name']} ({own['sha256'][:12]}…)" for own in facts]
            words += [f"**{own['warning']}**" for own in facts if own.get("warning")]
            lines.append(f"\n- {result.name}: {', '.join(words)}")
    return "".join(["\n", *lines]) if lines else ""


def _heads(columns: Sequence[str]) -> list[str]:
    return [HEADS[name] for name in columns]


def _printed(columns: Sequence[str], values: Sequence[float | None]) -> list[str]:
    """Write what the paper prints; it has nothing for our last columns."""
    return [_cell(name, value) for name, value in zip_longest(columns, values)]


def _cell(name: str, value: float | None) -> str:
    if name == "azimuth_accuracy" and value is not None:
        return f"{100 * value:.1f}"
    return _plain(value, DIGITS.get(name, 2))


def _plain(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

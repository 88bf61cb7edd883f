"""Results on disk → the paper's tables and sweeps, its numbers beside ours, as Markdown.

A row of ours is printed only when the weights that made it are at hand: every file of weights that its clips name must
have the SHA-256 of a file in one of the given folders. Otherwise it reads "weights not at hand": what nobody can
check, and what random weights made, never reaches a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualspec.evaluation.paper_tables import NAMES, NUM_TEST_CLIPS, QUALITY, TABLE_1, TABLE_2, TABLE_3, VAE_NAMES
from dualspec.evaluation.report import table
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
    def kind(self) -> str:
        """How they were made."""
        return str(self.source.get("kind"))

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
class Weights:
    """A folder of weights that is at hand."""

    sha256: frozenset[str]  # of its files
    parameters: int | None = None
    gflops: float | None = None  # for one second of audio, one denoising step
    gflops_full: float | None = None  # for one second of audio, all steps
    seconds: float | None = None  # for one second of audio


@dataclass(frozen=True, kw_only=True)
class PaperSize:
    """What one of the paper's own sizes amounts to; needs no weights."""

    parameters: int
    gflops: float
    gflops_full: float


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """All that a report may print."""

    results: Sequence[Result]
    weights: Sequence[Weights] = ()
    paper_sizes: Mapping[str, PaperSize] = field(default_factory=dict)  # by variant

    def weights_of(self, result: Result) -> Weights | None:
        """Return the folder that holds every file of weights that a result names, if one is at hand."""
        wanted = set(_hashes(result.source.get("sha256")))
        if result.kind == "recordings":
            return Weights(sha256=frozenset())  # real sound through a head: no weights are involved
        return next((own for own in self.weights if wanted and wanted <= own.sha256), None)

    def of(self, kinds: Sequence[str], system: str | None = None) -> list[Result]:
        """Return the results of some kinds, and of one system."""
        return [r for r in self.results if r.kind in kinds and system in (None, r.system)]


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
        data = read_json(path, max_bytes=1 << 24)
        if (
            not isinstance(data, dict)
            or data.get("format_version") != 1
            or not {"source", "quality", "num_clips"} <= set(data)
        ):
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
    return frozenset(sha256_of(path) for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES)


def _hashes(value: Any, name: str = "") -> Iterator[str]:
    """Yield the hashes of files of weights in a nested record; configs do not count."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _hashes(below, str(key))
    elif isinstance(value, str) and name.endswith(WEIGHT_SUFFIXES):
        yield value


def table_1(shelf: Shelf) -> str:
    """What the autoencoders lose. Paper Table I."""
    columns = ("psnr_db", "ssim", *QUALITY)
    rows = []
    for variant, printed in TABLE_1.items():
        rows.append(
            [f"{VAE_NAMES[variant]}, paper", f"{NUM_TEST_CLIPS}", *_cells(columns, printed), *["–"] * len(EXTRA)]
        )
        rows += _own_rows(shelf, shelf.of(["round trip"], variant), (*columns, *EXTRA), VAE_NAMES[variant])
    others = [r for r in shelf.of(["round trip"]) if r.system not in TABLE_1]
    rows += _own_rows(shelf, others, (*columns, *EXTRA)) if others else []
    return table(["round trip", "clips", *_heads((*columns, *EXTRA))], rows) + _footnotes(shelf, ["round trip"])


def table_2(shelf: Shelf) -> str:
    """The variants beside mono baselines, cascades and the upper bound. Paper Table II."""
    columns = (*QUALITY, *EXTRA)
    sizes = ["params M", "GFLOPs/s", "GFLOPs/s, all steps", "time s/s"]
    rows = []
    for system, printed in TABLE_2.items():
        count, flops, seconds = printed[:3]
        first = [f"{NAMES[system]}, paper", f"{NUM_TEST_CLIPS}", _plain(count), _plain(flops), "–", _plain(seconds, 2)]
        rows.append([*first, *_cells(QUALITY, printed[3:]), *["–"] * len(EXTRA)])
        size = shelf.paper_sizes.get(system)
        if size is not None:
            own = [_plain(size.parameters // 1_000_000), _plain(size.gflops), _plain(size.gflops_full), "–"]
            rows.append(
                [f"{NAMES[system]}, our recipe of its size", "–", *own, NOT_AT_HAND, *["–"] * (len(columns) - 1)]
            )
        found = shelf.of(["model", "baseline"], system)
        rows += _own_rows(shelf, found, columns, NAMES[system], sized=True, silent=size is not None)
    for kind, words in (("cascade", "cascade with a head"), ("recordings", "held-out recordings through a head")):
        for result in shelf.of([kind]):
            rows += _own_rows(
                shelf, [result], columns, f"{words}: {NAMES.get(result.system, result.system)}", sized=True
            )
    heads = ["system", "clips", *sizes, *_heads(columns)]
    return table(heads, rows) + _footnotes(shelf, ["model", "baseline", "cascade", "recordings"])


def table_3(shelf: Shelf) -> str:
    """The three wordings of the location. Paper Table III."""
    columns = (*QUALITY, *EXTRA)
    rows = []
    for variant, by_style in TABLE_3.items():
        for style, printed in by_style.items():
            rows.append(
                [f"{NAMES[variant]}, paper", style, f"{NUM_TEST_CLIPS}", *_cells(QUALITY, printed), *["–"] * len(EXTRA)]
            )
            found = [r for r in shelf.of(["model"], variant) if list(r.data["styles"]) == [style]]
            for row in _own_rows(shelf, found, columns, NAMES[variant]):
                rows.append([row[0], style, *row[1:]])
    return table(["system", "location", "clips", *_heads(columns)], rows) + _footnotes(shelf, ["model"])


def sweep(shelf: Shelf, figure: str) -> dict[str, list[tuple[float, Result]]]:
    """Group results of models that differ in guidance (fig6) or steps (fig7) alone. Paper Figs. 6 and 7.

    Returns:
        For each system, named with its other settings, results by rising value; systems with one value are left out,
        and so is what weights at hand did not make.
    """
    key = SWEEPS[figure][0]
    groups: dict[str, dict[float, Result]] = {}
    for result in shelf.of(["model"]):
        sampling = result.source.get("sampling") or {}
        if key in sampling and shelf.weights_of(result) is not None:
            rest = {name: value for name, value in sampling.items() if name != key and name != "guidance_interval"}
            words = ", ".join(f"{name} {value}" for name, value in sorted(rest.items()))
            weights = "".join(sorted(_hashes(result.source.get("sha256"))))[:8]
            system, styles = NAMES.get(result.system, result.system), "+".join(result.data["styles"])
            best_of = result.source.get("best_of", 1)
            name = f"{system} ({weights}), {styles}, {words}, best of {best_of}"
            groups.setdefault(name, {})[float(sampling[key])] = result
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


def _own_rows(
    shelf: Shelf,
    results: Sequence[Result],
    columns: Sequence[str],
    label: str | None = None,
    *,
    sized: bool = False,
    silent: bool = False,
) -> list[list[str]]:
    """Return one row per result, or one that says that there is none unless `silent`."""
    num_sizes = 4 if sized else 0
    if not results:
        missing = [f"{label}, ours", "–", *["–"] * num_sizes, NOT_AT_HAND, *["–"] * (len(columns) - 1)]
        return [] if silent else [missing]
    rows = []
    for result in results:
        name = f"{label or NAMES.get(result.system, result.system)}, ours ({result.name})"
        best_of = result.source.get("best_of") or 1
        name += f", best of {best_of}" if best_of != 1 else ""
        name += f", {result.data['mode']}" if result.data["mode"] != "ears" else ""
        weights = shelf.weights_of(result)
        if weights is None:
            rows.append([name, "–", *["–"] * num_sizes, NOT_AT_HAND, *["–"] * (len(columns) - 1)])
            continue
        sizes = [
            _plain(None if weights.parameters is None else weights.parameters / 1e6, 1),
            _plain(weights.gflops, 2),
            _plain(weights.gflops_full, 1),
            _plain(weights.seconds, 2),
        ]
        cells = [_cell(column, result.value(column)) for column in columns]
        rows.append([name, str(result.data["num_clips"]), *(sizes if sized else []), *cells])
    return rows


def _footnotes(shelf: Shelf, kinds: Sequence[str]) -> str:
    """Name the embedders and judges of the rows, with the judges' warnings."""
    lines = []
    for result in shelf.of(kinds):
        if shelf.weights_of(result) is None:
            continue
        words = [
            f"{key} {result.data[key]['name']} ({result.data[key]['sha256'][:12]}…)"
            for key in ("embedder", "localizer")
            if key in result.data
        ]
        warning = result.data.get("localizer", {}).get("warning")
        words += [f"**{warning}**"] if warning else []
        if words:
            lines.append(f"- {result.name}: {', '.join(words)}")
    return "".join(f"\n{line}" for line in (["", *lines] if lines else []))


def _heads(columns: Sequence[str]) -> list[str]:
    return [HEADS[name] for name in columns]


def _cells(columns: Sequence[str], values: Sequence[float | None]) -> list[str]:
    return [_cell(name, value) for name, value in zip(columns, values, strict=True)]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    scale, digits = (100.0, 1) if name == "azimuth_accuracy" else (1.0, DIGITS.get(name, 2))
    return f"{scale * value:.{digits}f}"


def _plain(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

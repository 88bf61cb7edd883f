"""What was measured of single clips, as a judgement sees it, and as one row per clip for tests of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.hrir import HrirSet
from dualspec.evaluation import distribution_metrics
from dualspec.evaluation.clips import Clip
from dualspec.evaluation.measure import EMBEDDER, Cache, Measurer, pair_sha256
from dualspec.files import read_lines, write_text_atomic
from dualspec.hearing.cues import CUES, InterauralCues, cue_errors
from dualspec.hearing.proof import measure_head

COLUMNS = (
    *("file", "event", "style", "azimuth_deg", "heard_deg", "expectation_deg"),
    *("itd_us", "ild_db", "coherence", "itd_error_us", "ild_error_db", "psnr_db", "ssim", "kl"),
)
"""PSNR, SSIM and KL are means of both ears (compat: the left one); a cell that could not be measured is empty."""
_WORDS = ("file", "event", "style")


class View:
    """The cache as one judgement sees it."""

    def __init__(self, measurer: Measurer, cache: Cache) -> None:
        self.how, self.cache, self.keys = measurer, cache, measurer.kinds

    def of(self, kind: str, clip: Clip) -> dict[str, Any]:
        """Return one measurement of a clip."""
        return self.cache.values[self.keys[kind], clip.sha256]

    def embeddings(self, clips: Sequence[Clip], embedder: str) -> tuple[Tensor, Tensor]:
        """Return embeddings (N, 2, D) and logits (N, 2, C) by one of the embedders."""
        key = self.keys[f"{EMBEDDER}{embedder}"]
        own = [self.cache.embedding((key, clip.sha256)) for clip in clips]
        embeddings, logits = zip(*own, strict=True)
        return torch.stack(embeddings), torch.stack(logits)

    def likeness(self, pairs: Sequence[tuple[Clip, Clip]]) -> list[dict[str, Any]]:
        """Return PSNR and SSIM, for each ear, of pairs (reference, estimate)."""
        return [self.cache.values[self.how.pair_kind, pair_sha256(*pair)] for pair in pairs]

    def cues(self, clips: Sequence[Clip]) -> InterauralCues:
        """Return the cues (N,) of clips; NaN where there is none."""
        rows = [self.of("cues", clip) for clip in clips]
        columns = {}
        for name in CUES:
            values = [float("nan") if row[name] is None else row[name] for row in rows]
            columns[name] = torch.tensor(values, dtype=torch.bool if name in ("audible", "timed") else torch.float64)
        return InterauralCues(**columns)

    def targets(
        self, clips: Sequence[Clip], true_clips: Sequence[Clip] | None, hrir_set: HrirSet | None
    ) -> tuple[InterauralCues | None, str]:
        """Return the cues (N,) that clips should have where they were asked for, if anything says so, and its name."""
        if hrir_set is not None:
            azimuths = [float(clip.azimuth_deg or 0.0) for clip in clips]
            head = measure_head(hrir_set, azimuths_deg=sorted(set(azimuths)))
            power = torch.tensor([self.of("cues", clip)["band_power"] for clip in clips], dtype=torch.float64)
            return head.targets_of(power, azimuths), f"each clip's own spectrum through {hrir_set.name}"
        return (None, "none") if true_clips is None else (self.cues(true_clips), "the reference clips")


def clip_scores(
    view: View, clips: Sequence[Clip], partners: Sequence[Clip] | None, hrir_set: HrirSet | None
) -> list[dict[str, Any]]:
    """Return one row of `COLUMNS` per clip; what could not be measured is left out.

    Args:
        view: measurements of all clips.
        clips: what is judged.
        partners: true clips of the same names, one for each, if there are any.
        hrir_set: head whose cues are the target in place of those of the true clips.
    """
    compat = view.how.mode == "compat"
    ears, epsilon = slice(0, 1 if compat else 2), distribution_metrics.COMPAT_EPSILON if compat else 0.0
    rows: list[dict[str, Any]] = []
    for clip in clips:
        cues = view.of("cues", clip)
        heard = view.of("localizer", clip) if view.how.localizer is not None else {}
        rows.append(
            {"file": clip.path.name, "event": clip.record.get("event", clip.record.get("label")), "style": clip.style}
            | {"azimuth_deg": clip.azimuth_deg, "heard_deg": heard.get("azimuth_deg")}
            | {"expectation_deg": heard.get("expectation_deg")}
            | {name: cues[name] for name in ("itd_us", "ild_db", "coherence")}
        )
    asked = [index for index, clip in enumerate(clips) if clip.azimuth_deg is not None]
    if asked:
        own = [clips[index] for index in asked]
        true_clips = None if partners is None else [partners[index] for index in asked]
        targets, _ = view.targets(own, true_clips, hrir_set)
        if targets is not None:
            errors = cue_errors(targets, view.cues(own))
            for name in ("itd_error_us", "ild_error_db"):
                for index, value in zip(asked, getattr(errors, name).tolist(), strict=True):
                    rows[index][name] = value
    if partners is not None:
        pairs = list(zip(partners, clips, strict=True))
        for row, likeness in zip(rows, view.likeness(pairs), strict=True):
            row |= {name: _mean(likeness[name][ears]) for name in ("psnr_db", "ssim")}
    if partners is not None and view.how.embedders:
        first = next(iter(view.how.embedders))
        (_, true), (_, found) = view.embeddings(partners, first), view.embeddings(clips, first)
        for row, reference, estimate in zip(rows, true[:, ears], found[:, ears], strict=True):
            row["kl"] = distribution_metrics.kl_divergence(reference, estimate, epsilon=epsilon)
    return [{name: value for name, value in row.items() if value is not None and value == value} for row in rows]


def _mean(values: Sequence[float | None]) -> float | None:
    """Average both ears; None where one of them has no number."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def write_clip_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `clip_scores` as CSV with one line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text_atomic(path, text.getvalue())


def read_clip_scores(path: Path) -> list[dict[str, Any]]:
    """Read what `write_clip_scores` wrote; empty cells are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another table, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no scores of clips {path}; write them by `dualspec evaluate ... -o {path.parent}`")
    reader = csv.DictReader((line for _, line in read_lines(path)), strict=True)
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, got others; judge the clips again")
        return [_scores(row, f"{path} line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise ValueError(
            f"{path} must be CSV, got an error near line {reader.line_num}: {error}; judge again"
        ) from error


def _scores(row: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return {key: value if key in _WORDS else float(value) for key, value in row.items() if value}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} must be scores of a clip, got {error}; judge the clips again") from error

"""A folder of clips → one judgement: quality, direction and their tables, as JSON, Markdown and figures.

What cannot be measured is not in the result, but named in "absent" with the reason: no error becomes a number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.hrir import HrirSet
from dualspec.evaluation import spatial_metrics
from dualspec.evaluation.clips import Clip, pair_clips, source_of
from dualspec.evaluation.distribution_metrics import (
    COMPAT_EPSILON,
    COMPAT_SPLITS,
    Mode,
    frechet_distance,
    inception_score,
    kl_divergence,
)
from dualspec.evaluation.figures import confusion_figure, cue_figure
from dualspec.evaluation.measure import Cache, Measurer, measure, pair_sha256
from dualspec.evaluation.spatial_metrics import direction_table, on_correct_side
from dualspec.files import write_text_atomic
from dualspec.hearing.cues import InterauralCues
from dualspec.hearing.proof import measure_head

FORMAT_VERSION = 1
KL_MODES: dict[str, Mode] = {"kl": "softmax", "kl_sigmoid": "sigmoid"}
CUE_NAMES = ("itd_us", "ild_db", "coherence", "audible", "timed")


def judge(
    clips: Sequence[Clip],
    references: Sequence[Clip] | None = None,
    *,
    measurer: Measurer,
    cache: Cache | None = None,
    hrir_set: HrirSet | None = None,
    localizer: dict[str, Any] | None = None,
    embedder: dict[str, Any] | None = None,
    paired: bool = True,
    processes: int = 1,
    on_clips: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Judge a folder.

    Args:
        clips: what is judged.
        references: true clips; by name they are the targets of cues, KL, PSNR and SSIM, as a set that of FD.
        measurer: how single clips are measured.
        cache: where measurements are kept.
        hrir_set: the head whose cues for each clip's own spectrum are the target, in place of those of the references.
        localizer: name, SHA-256 and accuracy of the measurer's localizer, for the record.
        embedder: name and SHA-256 of the measurer's embedder, for the record.
        paired: compare by name; otherwise references are only another set.
        processes: processes that share the work.
        on_clips: as `measure`.

    Returns:
        JSON values: "quality" by ear and their mean, "direction", "rows" per azimuth, "confusion" (asked by heard
        sectors), "source" (what made the clips), and in "absent" each metric that has no value, with the reason.

    Raises:
        ValueError: clips without a reference, or files that are no clips.

    Paper section VI-C.
    """
    cache = Cache(None) if cache is None else cache
    partners = pair_clips(clips, references) if references is not None and paired else None
    pairs = list(zip(partners, clips, strict=True)) if partners is not None else []
    others = partners if partners is not None else list(references or ())
    measure([*clips, *others], pairs, measurer, cache, processes=processes, on_clips=on_clips)
    view = _View(measurer, cache)
    absent: dict[str, str] = {}
    _refuse_own_choice(clips, measurer)
    result: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "num_clips": len(clips),
        "mode": measurer.mode,
        "source": source_of(clips),
        "styles": dict(sorted(Counter(str(clip.style) for clip in clips).items())),
    }
    if references is not None:
        result["reference"] = {"num_clips": len(others), "paired": partners is not None}
    for name, facts in (("embedder", embedder), ("localizer", localizer)):
        if facts is not None:
            result[name] = facts
    result["quality"] = _quality(view, clips, others, pairs, absent)
    result |= _direction(view, clips, partners, hrir_set, absent)
    num_copied = sum(view.cues(clip)["copied_mono"] for clip in clips)
    if num_copied:
        result["num_copied_mono"] = num_copied
    return result | {"absent": absent}


def _refuse_own_choice(clips: Sequence[Clip], measurer: Measurer) -> None:
    """What chose or guided may not judge."""
    for clip in clips:
        chooser = clip.record.get("chooser")
        chosen_by = chooser.get("sha256") if isinstance(chooser, dict) else None
        if measurer.localizer is not None and chosen_by == measurer.localizer_sha256:
            raise ValueError(
                f"localizer must be another than the one that chose {clip.path.name} among several, "
                f"got the same, {chosen_by[:12]}…; judge by another"
            )


class _View:
    """The cache as this judgement sees it."""

    def __init__(self, measurer: Measurer, cache: Cache) -> None:
        self.how, self.cache = measurer, cache

    def cues(self, clip: Clip) -> dict[str, Any]:
        return self.cache.values[self.how.kinds["cues"], clip.sha256]

    def located(self, clip: Clip) -> dict[str, Any]:
        return self.cache.values[self.how.kinds["localizer"], clip.sha256]

    def likeness(self, reference: Clip, estimate: Clip) -> dict[str, Any]:
        return self.cache.values[self.how.pair_kind, pair_sha256(reference, estimate)]

    def embeddings(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Return embeddings (N, 2, D) and logits (N, 2, C)."""
        own = [self.cache.embedding((self.how.kinds["embedder"], clip.sha256)) for clip in clips]
        embeddings, logits = zip(*own, strict=True)
        return torch.stack(embeddings), torch.stack(logits)


def _quality(
    view: _View, clips: Sequence[Clip], others: Sequence[Clip], pairs: list[tuple[Clip, Clip]], absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Return the metrics of equations (17) to (20) for each ear, and their mean; compat has the left ear alone."""
    ears = {"left": LEFT} if view.how.mode == "compat" else {"left": LEFT, "right": RIGHT}
    quality: dict[str, dict[str, float]] = {ear: {} for ear in ears}
    if pairs:
        rows = [view.likeness(*pair) for pair in pairs]
        for name in ("psnr_db", "ssim"):
            values = {
                ear: [row[name][index] for row in rows if row[name][index] is not None] for ear, index in ears.items()
            }
            if all(values.values()):
                quality = {
                    ear: own | {name: _number(torch.tensor(values[ear]).double().mean())}
                    for ear, own in quality.items()
                }
            else:
                absent[name] = "every clip equals its reference"
    else:
        absent |= dict.fromkeys(("psnr_db", "ssim", "kl"), "no reference of the same name")
    if view.how.embedder is None:
        absent |= dict.fromkeys(("fd", "kl", "inception_score"), "no embedder was named")
    else:
        _distributions(view, clips, others, bool(pairs), ears, quality, absent)
    if len(ears) == 2:
        shared = [name for name in quality["left"] if name in quality["right"]]
        quality["mean"] = {name: _number((quality["left"][name] + quality["right"][name]) / 2) for name in shared}
    return {ear: values for ear, values in quality.items() if values}


def _distributions(
    view: _View,
    clips: Sequence[Clip],
    others: Sequence[Clip],
    paired: bool,
    ears: dict[str, int],
    quality: dict[str, dict[str, float]],
    absent: dict[str, str],
) -> None:
    """Add FD, KL and IS of each ear."""
    compat = view.how.mode == "compat"
    splits = COMPAT_SPLITS if compat else 1
    embeddings, logits = view.embeddings(clips)
    theirs = view.embeddings(others) if others else None
    if len(clips) < splits:
        absent["inception_score"] = f"{splits} parts need as many clips, got {len(clips)}"
    if theirs is None:
        absent["fd"] = "no references"
    elif min(len(clips), len(others)) < 2:
        absent["fd"] = f"a covariance needs 2 clips or more, got {len(clips)} and {len(others)} references"
    for ear, index in ears.items():
        values: dict[str, float] = {}
        if theirs is not None and "fd" not in absent:
            values["fd"] = frechet_distance(theirs[0][:, index], embeddings[:, index])
        if theirs is not None and paired:
            epsilon = COMPAT_EPSILON if compat else 0.0
            for name, mode in KL_MODES.items():
                values[name] = kl_divergence(theirs[1][:, index], logits[:, index], mode=mode, epsilon=epsilon)
        if "inception_score" not in absent:
            values["inception_score"], spread = inception_score(logits[:, index], num_splits=splits)
            if splits > 1:
                values["inception_score_std"] = spread
        quality[ear] |= {name: _number(value) for name, value in values.items()}


def _direction(
    view: _View,
    clips: Sequence[Clip],
    partners: list[Clip] | None,
    hrir_set: HrirSet | None,
    absent: dict[str, str],
) -> dict[str, Any]:
    """Compare where clips are with where they were asked for. Equations (21), (22)."""
    mono = [bool(clip.record.get("mono")) or view.cues(clip)["copied_mono"] for clip in clips]
    if all(mono):
        return _no_direction(absent, "a mono signal at both ears has none")
    chosen = [index for index, clip in enumerate(clips) if clip.azimuth_deg is not None]
    if not chosen:
        return _no_direction(absent, "no record or manifest says where a clip was asked for")
    asked = [clips[index] for index in chosen]
    azimuths = torch.tensor([clip.azimuth_deg for clip in asked], dtype=torch.float64)
    cues = _cues(view, asked)
    if hrir_set is not None:
        head = measure_head(hrir_set, azimuths_deg=azimuths.unique(sorted=True).tolist())
        power = torch.tensor([view.cues(clip)["band_power"] for clip in asked], dtype=torch.float64)
        targets, target = head.targets_of(power, azimuths.tolist()), f"each clip's own spectrum through {hrir_set.name}"
    elif partners is not None:
        targets, target = _cues(view, [partners[index] for index in chosen]), "the reference clips"
    else:
        nothing = torch.full_like(azimuths, float("nan"))
        targets, target = InterauralCues(**dict.fromkeys(CUE_NAMES, nothing)), "none"
        names = ("median_itd_error_us", "median_ild_error_db", "median_coherence_error")
        absent |= dict.fromkeys(names, "neither a head nor references")
    sides = on_correct_side(azimuths, cues)
    heard = cues.audible & cues.timed
    direction: dict[str, Any] = {
        "num_asked": len(asked),
        "num_heard": int(heard.sum()),
        "target": target,
        "num_lateral": int((~sides.isnan()).sum()),
        "share_louder_and_earlier_at_the_correct_ear": _optional(sides.nanmean()),
        "median_coherence": _optional(cues.coherence.nanmedian()),
    }
    errors = spatial_metrics.cue_error_medians(targets, cues)
    direction |= {f"median_{name}": _number(value) for name, value in errors.items()}
    rows = [
        {name: _optional(value) for name, value in asdict(row).items()}
        for row in direction_table(azimuths, cues, targets)
    ]
    result: dict[str, Any] = {"rows": rows}
    if view.how.localizer is None:
        absent |= dict.fromkeys(("azimuth_accuracy", "azimuth_mae_deg", "front_back_rate"), "no localizer was named")
    else:
        true_clips = [partners[index] for index in chosen] if partners is not None else None
        scores, confusion = _localized(view, asked, azimuths, true_clips)
        direction |= scores
        result["confusion"] = confusion
    return {"direction": direction} | result


def _no_direction(absent: dict[str, str], reason: str) -> dict[str, Any]:
    absent["direction"] = reason
    return {}


def _localized(
    view: _View, clips: Sequence[Clip], azimuths: Tensor, partners: Sequence[Clip] | None
) -> tuple[dict[str, Any], list[list[int]]]:
    """Accuracy, errors and confusions over the clips that have an answer; the others are counted."""
    answers = [view.located(clip) for clip in clips]
    known = torch.tensor(["azimuth_deg" in answer for answer in answers])
    if not bool(known.any()):
        return {"num_localized": 0}, []
    wanted = azimuths[known]
    found, mean = (
        torch.tensor([answer[name] for answer in answers if answer], dtype=torch.float64)
        for name in ("azimuth_deg", "expectation_deg")
    )
    result = {name: _number(value) for name, value in spatial_metrics.evaluate(wanted, found, mean).items()}
    if partners is not None:  # the paper's wording: the direction "matches that of the corresponding real audio"
        both = [
            (one["azimuth_deg"], other["azimuth_deg"])
            for one, other in zip(map(view.located, partners), answers, strict=True)
            if one and other
        ]
        if both:
            real, own = torch.tensor(both, dtype=torch.float64).T
            result["agreement_with_reference"] = _number(spatial_metrics.azimuth_accuracy(real, own))
    return {"num_localized": int(known.sum())} | result, spatial_metrics.confusion_matrix(wanted, found).tolist()


def _cues(view: _View, clips: Sequence[Clip]) -> InterauralCues:
    rows = [view.cues(clip) for clip in clips]
    columns = {}
    for name in CUE_NAMES:
        values = [float("nan") if row[name] is None else row[name] for row in rows]
        columns[name] = torch.tensor(values, dtype=torch.bool if name in ("audible", "timed") else torch.float64)
    return InterauralCues(**columns)


def write_judgement(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json, result.md and the figures into a folder that exists."""
    write_text_atomic(folder / "result.json", json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text_atomic(folder / "result.md", markdown(result) + "\n")
    if result.get("rows"):
        cue_figure(result["rows"], folder / "cues.png")
    if result.get("confusion"):
        confusion_figure(result["confusion"], folder / "confusion.png")


def markdown(result: dict[str, Any]) -> str:
    """Write a result as Markdown: quality per ear, direction, cues per azimuth, and what is absent."""
    blocks = [f"{result['num_clips']} clips, mode {result['mode']}"]
    if result["quality"]:
        names = list(dict.fromkeys(name for values in result["quality"].values() for name in values))
        blocks.append(
            table(
                ["ear", *names],
                [[ear, *(_cell(values.get(name)) for name in names)] for ear, values in result["quality"].items()],
            )
        )
    for name in ("embedder", "localizer"):
        if name in result:
            blocks.append(f"{name}: {result[name]['name']}, SHA-256 {result[name]['sha256'][:12]}…")
            if result[name].get("warning"):
                blocks.append(f"**{result[name]['warning']}**")
    if "direction" in result:
        blocks.append(table(["direction", ""], [[name, _cell(value)] for name, value in result["direction"].items()]))
        blocks.append(markdown_table(result["rows"]))
    blocks += [f"- {name}: absent, {reason}" for name, reason in result["absent"].items()]
    return "\n\n".join(blocks)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of a direction table as Markdown: mean cues per azimuth beside the target's."""
    digits = {"itd_us": 0, "target_itd_us": 0, "ild_db": 1, "target_ild_db": 1, "coherence": 2}
    digits |= {"median_itd_error_us": 0, "median_ild_error_db": 1}
    heads = ["azimuth", "clips", "ITD µs", "target", "ILD dB", "target", "coherence", "ITD error µs", "ILD error dB"]
    return table(
        heads,
        [
            [f"{row['azimuth_deg']:.0f}", f"{row['num_heard']:.0f} of {row['num_clips']:.0f}"]
            + ["–" if row[name] is None else f"{row[name]:.{count}f}" for name, count in digits.items()]
            for row in rows
        ],
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write cells as a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float:
    return round(float(value), 6)


def _optional(value: Any) -> float | int | None:
    """Round to six digits; what could not be measured is absent, not a number."""
    number = float(value)
    if number != number:
        return None
    return value if isinstance(value, int) else round(number, 6)

"""A folder of clips → one judgement: quality, direction and their tables, as JSON, Markdown and figures.

What cannot be measured is not in the result, but named in "absent" with the reason: no error becomes a number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.hrir import HrirSet
from dualspec.evaluation import distribution_metrics, spatial_metrics
from dualspec.evaluation.clip_scores import View, clip_scores, write_clip_scores
from dualspec.evaluation.clips import Clip, pair_clips, source_of
from dualspec.evaluation.figures import confusion_figure, cue_figure
from dualspec.evaluation.measure import Cache, Measurer, measure
from dualspec.files import read_json, write_text_atomic
from dualspec.hearing.cues import CUES, InterauralCues

MAX_RESULT_BYTES = 1 << 24

FORMAT_VERSION = 1


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
        processes: as `measure`.
        on_clips: as `measure`.

    Returns:
        JSON values: "quality" by ear and their mean, "direction", "rows" per azimuth, "confusion" (asked by heard
        sectors), "source" (what made the clips), and in "absent" each metric that has no value, with the reason.

    Raises:
        ValueError: clips without a reference, or files that are no clips.

    Paper section VI-C.
    """
    _refuse_own_choice(clips, measurer)
    view = View(measurer, Cache(None) if cache is None else cache)
    partners = pair_clips(clips, references) if references is not None and paired else None
    pairs = list(zip(partners, clips, strict=True)) if partners is not None else []
    others = partners if partners is not None else list(references or ())
    measure([*clips, *others], pairs, measurer, view.cache, processes=processes, on_clips=on_clips)
    absent: dict[str, str] = {}
    result: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "num_clips": len(clips),
        "mode": measurer.mode,
        "source": source_of(clips),
        "styles": dict(sorted(Counter(str(clip.style) for clip in clips).items())),
    }
    if references is not None:
        result["reference"] = {"num_clips": len(others), "paired": partners is not None}
    result |= {name: facts for name, facts in (("embedder", embedder), ("localizer", localizer)) if facts is not None}
    result["quality"] = _quality(view, clips, others, pairs, absent)
    result |= _direction(view, clips, partners, hrir_set, absent)
    for name in ("copied_mono", "resampled"):
        count = sum(view.of("cues", clip)[name] for clip in [*clips, *others])
        result |= {f"num_{name}": count} if count else {}
    result["clips"] = clip_scores(view, clips, partners, hrir_set)
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


def _quality(
    view: View, clips: Sequence[Clip], others: Sequence[Clip], pairs: list[tuple[Clip, Clip]], absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Return the metrics of equations (17) to (20) for each ear, and their mean; compat has the left ear alone."""
    ears = {"left": LEFT} if view.how.mode == "compat" else {"left": LEFT, "right": RIGHT}
    quality: dict[str, dict[str, float]] = {ear: {} for ear in ears}
    if pairs:
        rows = view.likeness(pairs)
        for ear, index in ears.items():
            quality[ear] |= _likeness(rows, index, compat=view.how.mode == "compat")
        for name in ("psnr_db", "ssim"):
            equal = [ear for ear in ears if name not in quality[ear]]
            if equal:
                where = "" if len(equal) == len(ears) else f" at the {equal[0]} ear"
                absent[name] = f"every clip equals its reference{where}"
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


def _likeness(rows: Sequence[dict[str, Any]], ear: int, *, compat: bool) -> dict[str, float]:
    """Average PSNR and SSIM of one ear; equal clips have no PSNR, and compat leaves them out of the SSIM, too."""
    different = [row for row in rows if row["psnr_db"][ear] is not None]
    kept = {"psnr_db": different, "ssim": different if compat else rows}
    return {
        name: _number(torch.tensor([row[name][ear] for row in chosen]).double().mean())
        for name, chosen in kept.items()
        if chosen
    }


def _distributions(
    view: View,
    clips: Sequence[Clip],
    others: Sequence[Clip],
    paired: bool,
    ears: dict[str, int],
    quality: dict[str, dict[str, float]],
    absent: dict[str, str],
) -> None:
    """Add FD, KL and IS of each ear."""
    embeddings, logits = view.embeddings(clips)
    true_embeddings, true_logits = view.embeddings(others) if others else (None, None)
    for ear, index in ears.items():
        values = distribution_metrics.evaluate(
            None if true_embeddings is None else true_embeddings[:, index],
            embeddings[:, index],
            None if true_logits is None or not paired else true_logits[:, index],
            logits[:, index],
            compat=view.how.mode == "compat",
        )
        quality[ear] |= {name: _number(value) for name, value in values.items()}
    if "fd" not in values:
        few = f"a covariance needs 2 clips or more, got {len(clips)} and {len(others)} references"
        absent["fd"] = few if others else "no references"
    if "inception_score" not in values:
        absent["inception_score"] = f"{distribution_metrics.COMPAT_SPLITS} parts need as many clips, got {len(clips)}"


def _direction(
    view: View, clips: Sequence[Clip], partners: list[Clip] | None, hrir_set: HrirSet | None, absent: dict[str, str]
) -> dict[str, Any]:
    """Compare where clips are with where they were asked for. Equations (21), (22)."""
    chosen = [index for index, clip in enumerate(clips) if clip.azimuth_deg is not None]
    if all(clip.record.get("mono") or view.of("cues", clip)["copied_mono"] for clip in clips):
        absent["direction"] = "a mono signal at both ears has none"
        return {}
    if not chosen:
        absent["direction"] = "no record or manifest says where a clip was asked for"
        return {}
    asked = [clips[index] for index in chosen]
    true_clips = [partners[index] for index in chosen] if partners is not None else None
    azimuths = torch.tensor([clip.azimuth_deg for clip in asked], dtype=torch.float64)
    cues = view.cues(asked)
    targets, words = view.targets(asked, true_clips, hrir_set)
    if targets is None:
        names = ("median_itd_error_us", "median_ild_error_db", "median_coherence_error")
        absent |= dict.fromkeys(names, "neither a head nor references")
        targets = InterauralCues(**dict.fromkeys(CUES, torch.full_like(azimuths, float("nan"))))
    sides = spatial_metrics.on_correct_side(azimuths, cues)
    direction: dict[str, Any] = {
        "num_asked": len(asked),
        "num_heard": int((cues.audible & cues.timed).sum()),
        "target": words,
        "num_lateral": int((~sides.isnan()).sum()),
        "share_louder_and_earlier_at_the_correct_ear": _optional(sides.nanmean().item()),
        "median_coherence": _optional(cues.coherence.nanmedian().item()),
    }
    errors = spatial_metrics.cue_error_medians(targets, cues)
    direction |= {f"median_{name}": _number(value) for name, value in errors.items()}
    table = spatial_metrics.direction_table(azimuths, cues, targets)
    result: dict[str, Any] = {"rows": [{name: _optional(value) for name, value in row.items()} for row in table]}
    if view.how.localizer is None:
        absent |= dict.fromkeys(("azimuth_accuracy", "azimuth_mae_deg", "front_back_rate"), "no localizer was named")
    else:
        scores, result["confusion"] = _localized(view, asked, azimuths, true_clips)
        direction |= scores
    return {"direction": direction} | result


def _localized(
    view: View, clips: Sequence[Clip], azimuths: Tensor, true_clips: Sequence[Clip] | None
) -> tuple[dict[str, Any], list[list[int]]]:
    """Accuracy, errors and confusions over the clips that have an answer; the others are counted."""
    answers = [view.of("localizer", clip) for clip in clips]
    wanted = azimuths[torch.tensor([bool(answer) for answer in answers])]
    if not len(wanted):
        return {"num_localized": 0}, []
    found, mean = (
        torch.tensor([answer[name] for answer in answers if answer], dtype=torch.float64)
        for name in ("azimuth_deg", "expectation_deg")
    )
    result = {name: _number(value) for name, value in spatial_metrics.evaluate(wanted, found, mean).items()}
    if true_clips is not None:  # the paper's wording: the direction "matches that of the corresponding real audio"
        pairs = zip((view.of("localizer", clip) for clip in true_clips), answers, strict=True)
        both = [(one["azimuth_deg"], other["azimuth_deg"]) for one, other in pairs if one and other]
        if both:
            real, own = torch.tensor(both, dtype=torch.float64).T
            result["agreement_with_reference"] = _number(spatial_metrics.azimuth_accuracy(real, own))
    return {"num_localized": len(wanted)} | result, spatial_metrics.confusion_matrix(wanted, found).tolist()


def write_judgement(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json, result.md, clips.csv (every clip's scores) and the figures into a folder that exists."""
    scores = result["clips"]
    result = {name: value for name, value in result.items() if name != "clips"}
    write_text_atomic(folder / "result.json", json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text_atomic(folder / "result.md", markdown(result) + "\n")
    write_clip_scores(folder / "clips.csv", scores)
    if result.get("rows"):
        cue_figure(result["rows"], folder / "cues.png")
    if result.get("confusion"):
        confusion_figure(result["confusion"], folder / "confusion.png")


def check_judgement(folder: Path) -> None:
    """Refuse a folder whose files a judgement would replace though no judgement wrote them.

    Raises:
        ValueError: there is one; it is named.
    """
    try:
        found = read_json(folder / "result.json", max_bytes=MAX_RESULT_BYTES)
    except (FileNotFoundError, ValueError):
        found = None
    if is_judgement(found):
        return
    for name in ("result.json", "result.md", "clips.csv"):
        if (folder / name).exists():
            raise ValueError(
                f"output must leave {folder / name} alone, got a file that is no result; choose another folder"
            )


def is_judgement(data: Any) -> bool:
    """Tell a parsed result.json from any other JSON."""
    return (
        isinstance(data, dict) and data.get("format_version") == 1 and {"source", "quality", "num_clips"} <= set(data)
    )


def markdown(result: dict[str, Any]) -> str:
    """Write a result as Markdown: quality per ear, direction, cues per azimuth, and what is absent."""
    odd = [f", {name} {result[name]}" for name in ("num_copied_mono", "num_resampled") if name in result]
    blocks = [f"{result['num_clips']} clips, mode {result['mode']}{''.join(odd)}"]
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


def _optional(value: float) -> float | None:
    """Round to six digits; what could not be measured is absent, not a number."""
    return None if value != value else value if isinstance(value, int) else _number(value)

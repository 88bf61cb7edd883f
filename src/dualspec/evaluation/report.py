"""A folder of clips → one judgement: quality, direction and their tables, as JSON, Markdown and figures.

What cannot be measured is not in the result, but named in "absent" with the reason: no error becomes a number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.hrir import HrirSet
from dualspec.evaluation import spatial_metrics
from dualspec.evaluation.clip_scores import View, clip_scores, write_clip_scores
from dualspec.evaluation.clips import Clip, pair_clips, source_of
from dualspec.evaluation.figures import confusion_figure, cue_figure
from dualspec.evaluation.measure import Cache, Measurer, measure
from dualspec.evaluation.probe import LoadedProbe
from dualspec.evaluation.quality import quality, rounded
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
    probes: Mapping[str, LoadedProbe] | None = None,
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
        probes: say which sound is recognised, by the name of the embedder that each belongs to.
        paired: compare by name; otherwise references are only another set.
        processes: as `measure`.
        on_clips: as `measure`.

    Returns:
        JSON values: "quality" by ear and their mean, with FD, KL and IS by "embedder", the first; these and
        "recognised" by each of "embedders"; "direction", "rows" per azimuth, "confusion" (asked by heard sectors),
        "source" (what made the clips), and in "absent" each metric that has no value, with the reason.

    Raises:
        ValueError: clips without a reference, files that are no clips, or a probe of another embedder's weights.

    Paper section VI-C.
    """
    _refuse_own_choice(clips, measurer)
    _refuse_foreign_probes(probes or {}, measurer)
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
    embedders = [{"name": name, "sha256": source.sha256} for name, source in measurer.embedders.items()]
    result |= {"embedder": embedders[0]} if embedders else {}
    result |= {"localizer": localizer} if localizer is not None else {}
    result |= quality(view, clips, others, pairs, probes or {}, absent)
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


def _refuse_foreign_probes(probes: Mapping[str, LoadedProbe], measurer: Measurer) -> None:
    """A probe says nothing of another classifier's embeddings."""
    for name, loaded in probes.items():
        wanted = loaded.probe.config.embedder_sha256
        if name not in measurer.embedders or wanted != measurer.embedders[name].sha256:
            raise ValueError(
                f"probe must belong to an embedder that is used, got one for {name} with the SHA-256 {wanted[:12]}…; "
                "name that embedder, or make a probe for yours by `dualspec probe`"
            )


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
    direction |= {f"median_{name}": rounded(value) for name, value in errors.items()}
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
    result = {name: rounded(value) for name, value in spatial_metrics.evaluate(wanted, found, mean).items()}
    if true_clips is not None:  # the paper's wording: the direction "matches that of the corresponding real audio"
        pairs = zip((view.of("localizer", clip) for clip in true_clips), answers, strict=True)
        both = [(one["azimuth_deg"], other["azimuth_deg"]) for one, other in pairs if one and other]
        if both:
            real, own = torch.tensor(both, dtype=torch.float64).T
            result["agreement_with_reference"] = rounded(spatial_metrics.azimuth_accuracy(real, own))
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
    blocks += _recognised_tables(result.get("embedders", {}))
    judges = [("embedder", {"name": name, **facts}) for name, facts in result.get("embedders", {}).items()]
    judges += [("localizer", result["localizer"])] if "localizer" in result else []
    for role, facts in judges:
        blocks.append(f"{role}: {facts['name']}, SHA-256 {facts['sha256'][:12]}…")
        if facts.get("warning"):
            blocks.append(f"**{facts['warning']}**")
    if "direction" in result:
        blocks.append(table(["direction", ""], [[name, _cell(value)] for name, value in result["direction"].items()]))
        blocks.append(markdown_table(result["rows"]))
    blocks += [f"- {name}: absent, {reason}" for name, reason in result["absent"].items()]
    return "\n\n".join(blocks)


def _recognised_tables(embedders: dict[str, dict[str, Any]]) -> list[str]:
    """Write FD, KL, IS and the shares of clips recognised by embedder, and the shares by class, the worst first."""
    names = ("fd", "kl", "inception_score")
    found = {name: facts["recognised"] for name, facts in embedders.items() if "recognised" in facts}
    rows = []
    for name, facts in embedders.items():
        quality = facts["quality"].get("mean", facts["quality"].get("left", {}))
        rows.append([name, *(_cell(quality.get(key)) for key in names), *_counted(found.get(name))])
    heads = ["embedder", *names, "recognised top-1 %", "top-5 %", "clips", "left out", "true unseen clips, top-1 %"]
    blocks = [table(heads, rows)] if rows else []
    labels = sorted({label for own in found.values() for label in own["classes"]})
    labels.sort(key=lambda label: sum(own["classes"].get(label, {"top1": 0.0})["top1"] for own in found.values()))
    if found:
        lines = []
        for label in labels:
            each = [own["classes"].get(label) for own in found.values()]
            count = next(own["num_clips"] for own in each if own)
            lines.append([label, str(count), *(_share(own, key) for own in each for key in ("top1", "top5"))])
        blocks.append(table(["sound", "clips", *(f"{n} {t} %" for n in found for t in ("top-1", "top-5"))], lines))
    return blocks


def _counted(found: dict[str, Any] | None) -> list[str]:
    """Write the shares recognised, the clips behind them, and what the probe makes of true unseen clips."""
    if found is None:
        return ["–"] * 5
    truth = found["probe"].get("held_out_top1")
    counts = [str(found["num_clips"]), str(found["num_left_out"])]
    return [_share(found, "top1"), _share(found, "top5"), *counts, "–" if truth is None else f"{100 * truth:.1f}"]


def _share(found: dict[str, Any] | None, name: str) -> str:
    """Write a share and its interval in per cent."""
    if found is None:
        return "–"
    low, high = (f"{100 * bound:.0f}" for bound in found[f"{name}_interval"])
    return f"{100 * found[name]:.1f} [{low}, {high}]"


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


def _optional(value: float) -> float | None:
    """Round to six digits; what could not be measured is absent, not a number."""
    return None if value != value else value if isinstance(value, int) else rounded(value)

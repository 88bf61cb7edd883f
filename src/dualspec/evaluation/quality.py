"""What clips sound like: likeness to true ones, distances of sets, and whether the sound is recognised.

Equations (17) to (20) of the paper, for each ear and their mean, by each classifier that was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.evaluation import distribution_metrics
from dualspec.evaluation.clip_scores import View
from dualspec.evaluation.clips import Clip
from dualspec.evaluation.probe import LoadedProbe, recognised


def quality(
    view: View,
    clips: Sequence[Clip],
    others: Sequence[Clip],
    pairs: Sequence[tuple[Clip, Clip]],
    probes: Mapping[str, LoadedProbe],
    absent: dict[str, str],
) -> dict[str, Any]:
    """Measure everything but direction.

    Args:
        view: measurements of all clips.
        clips: what is judged.
        others: true clips, as a set.
        pairs: (true clip, clip) of the same name, if they are compared by name.
        probes: by the name of the embedder that each belongs to.
        absent: takes up what has no value, with the reason.

    Returns:
        "quality": PSNR and SSIM, and the first embedder's FD, KL and IS, by ear; compat has the left ear alone. Where
        there are embedders, "embedders": these three and "recognised", by the name of each.
    """
    compat, ears = view.how.mode == "compat", _ears(view)
    values: dict[str, dict[str, float]] = {ear: {} for ear in ears}
    if pairs:
        rows = view.likeness(pairs)
        for ear, index in ears.items():
            values[ear] |= _likeness(rows, index, compat=compat)
        for name in ("psnr_db", "ssim"):
            equal = [ear for ear in ears if name not in values[ear]]
            if equal:
                where = "" if len(equal) == len(ears) else f" at the {equal[0]} ear"
                absent[name] = f"every clip equals its reference{where}"
    else:
        absent |= dict.fromkeys(("psnr_db", "ssim", "kl"), "no reference of the same name")
    embedders: dict[str, dict[str, Any]] = {}
    for name, source in view.how.embedders.items():
        own = _distributions(view, name, clips, others, bool(pairs), absent)
        if not embedders:
            values = {ear: values[ear] | own[ear] for ear in ears}
        embedders[name] = {"sha256": source.sha256, "quality": _with_mean(own)}
        embedders[name] |= _recognised(view, name, clips, probes.get(name), absent)
    if not embedders:
        absent |= dict.fromkeys(("fd", "kl", "inception_score", "recognised"), "no embedder was named")
    result: dict[str, Any] = {"quality": {ear: own for ear, own in _with_mean(values).items() if own}}
    return result | ({"embedders": embedders} if embedders else {})


def _ears(view: View) -> dict[str, int]:
    return {"left": LEFT} if view.how.mode == "compat" else {"left": LEFT, "right": RIGHT}


def _with_mean(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Add the mean of both ears, where there are two."""
    if len(values) < 2:
        return values
    left, right = values["left"], values["right"]
    return values | {"mean": {name: rounded((left[name] + right[name]) / 2) for name in left if name in right}}


def _likeness(rows: Sequence[dict[str, Any]], ear: int, *, compat: bool) -> dict[str, float]:
    """Average PSNR and SSIM of one ear; equal clips have no PSNR, and compat leaves them out of the SSIM, too."""
    different = [row for row in rows if row["psnr_db"][ear] is not None]
    kept = {"psnr_db": different, "ssim": different if compat else rows}
    return {
        name: rounded(torch.tensor([row[name][ear] for row in chosen]).double().mean())
        for name, chosen in kept.items()
        if chosen
    }


def _distributions(
    view: View, embedder: str, clips: Sequence[Clip], others: Sequence[Clip], paired: bool, absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Return FD, KL and IS of each ear by one embedder."""
    embeddings, logits = view.embeddings(clips, embedder)
    true_embeddings, true_logits = view.embeddings(others, embedder) if others else (None, None)
    found: dict[str, dict[str, float]] = {}
    for ear, index in _ears(view).items():
        values = distribution_metrics.evaluate(
            None if true_embeddings is None else true_embeddings[:, index],
            embeddings[:, index],
            None if true_logits is None or not paired else true_logits[:, index],
            logits[:, index],
            compat=view.how.mode == "compat",
        )
        found[ear] = {name: rounded(value) for name, value in values.items()}
    if "fd" not in values:
        few = f"a covariance needs 2 clips or more, got {len(clips)} and {len(others)} references"
        absent["fd"] = few if others else "no references"
    if "inception_score" not in values:
        absent["inception_score"] = f"{distribution_metrics.COMPAT_SPLITS} parts need as many clips, got {len(clips)}"
    return found


def _recognised(
    view: View, embedder: str, clips: Sequence[Clip], loaded: LoadedProbe | None, absent: dict[str, str]
) -> dict[str, Any]:
    """Ask a probe about the mean embedding of both ears; nothing is returned where there is no answer."""
    if loaded is None:
        absent[f"recognised by {embedder}"] = "there is no probe for these weights"
        return {}
    embeddings = view.embeddings(clips, embedder)[0][:, list(_ears(view).values())].mean(1)
    counted = recognised(loaded.probe, embeddings, [clip.label for clip in clips])
    if counted is None:
        absent[f"recognised by {embedder}"] = "no clip was asked for one of the classes of its probe"
        return {}
    return {"recognised": {"probe": loaded.facts, **counted}}


def rounded(value: Any) -> float:
    """Round to six digits."""
    return round(float(value), 6)

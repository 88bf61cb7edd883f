"""Is it copying? How near generated clips lie to training clips, against how near training clips lie to each other.

Distances are 1 minus the cosine of the angle between two embeddings of one classifier (see `embedders`): 0 for the same
clip, whatever its level, about 1 for unrelated ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestTraining:
    """For each of N generated clips, the training clip nearest to it."""

    index: Tensor  # (N,) row of that training clip
    distance: Tensor  # (N,) cosine distance to it, 0 to 2
    class_distances: Tensor  # (M,) each training clip's to its nearest other clip of its class; NaN for a class of one
    percentile: Tensor
    """(N,) percentage of the clips of that training clip's class that are nearer to another one of their class than the
    generated clip is to that training clip: near 0 is a copy, 50 is as near as the class's clips commonly are to each
    other. NaN for a class of one."""


def nearest_in_embedding(
    generated: Tensor, training: Tensor, class_ids: Tensor, *, source_ids: Tensor | None = None
) -> NearestTraining:
    """Find the nearest training clip of each generated one, and say how near that is for its class.

    Args:
        generated: (N, D) embeddings.
        training: (M, D) embeddings by the same classifier.
        class_ids: (M,) class of each training clip, integers.
        source_ids: (M,) recording from which each training clip was cut, integers; clips of one recording are not
            compared with each other, as they are alike without anyone copying. None: each its own.

    Raises:
        ValueError: shapes that do not fit, or embeddings that are not finite or zero.
    """
    if generated.ndim != 2 or training.ndim != 2 or generated.shape[1] != training.shape[1] or not len(training):
        raise ValueError(
            f"embeddings must be (N, D) and (M, D), got {tuple(generated.shape)} and {tuple(training.shape)}; "
            "use one classifier for both"
        )
    source_ids = torch.arange(len(training)) if source_ids is None else source_ids
    if class_ids.shape != training.shape[:1] or source_ids.shape != training.shape[:1]:
        raise ValueError(
            f"class_ids and source_ids must have shape ({len(training)},), got {tuple(class_ids.shape)} and "
            f"{tuple(source_ids.shape)}; give one for each training clip"
        )
    queries, known = _directions(generated, "generated"), _directions(training, "training")
    nearest = [(1.0 - chunk @ known.T).min(dim=1) for chunk in queries.split(CHUNK)]
    distance = torch.cat([found.values for found in nearest]).clamp(min=0.0)
    index = torch.cat([found.indices for found in nearest])
    class_distances = torch.full((len(known),), float("nan"), dtype=torch.float64)
    percentile = torch.full_like(distance, float("nan"))
    for class_id in class_ids.unique():
        rows = (class_ids == class_id).nonzero().flatten()
        apart = (1.0 - known[rows] @ known[rows].T).clamp(min=0.0)
        apart[source_ids[rows][:, None] == source_ids[rows]] = float("inf")
        own = apart.amin(dim=1)
        class_distances[rows] = torch.where(own.isinf(), float("nan"), own)
        own, here = own[~own.isinf()], class_ids[index] == class_id
        if len(own):
            percentile[here] = (own < distance[here, None]).double().mean(dim=1) * 100.0
    return NearestTraining(index=index, distance=distance, class_distances=class_distances, percentile=percentile)


def _directions(embeddings: Tensor, name: str) -> Tensor:
    """Scale embeddings (N, D) to unit length, float64 on the CPU."""
    rows = embeddings.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(rows).all() and (rows.norm(dim=1) > 0).all()):
        raise ValueError(f"{name} embeddings must be finite and not zero, got one that is; leave that clip out")
    return functional.normalize(rows, dim=1)

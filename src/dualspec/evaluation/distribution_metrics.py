"""How far a set of generated clips is from a set of real ones, in the space of an audio classifier.

The task: a classifier (see `embedders`) gives each clip an embedding, for the Fréchet distance, and class scores, for
the Kullback-Leibler divergence and the inception score. All numbers depend on the classifier: name it beside them. All
are computed in float64 on the CPU.

Conventions: the reference comes first. The Fréchet distance compares two sets of any order and size; it falls with the
number of clips, so compare values of equal counts alone. The divergence compares pairs: row by row the same clip. The
`compat` form of each is audioldm_eval's, whose numbers the field prints.

Paper equations (19) and (20).
"""

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.random import RandomState
from scipy.linalg import blas, eigh
from torch import Tensor

Mode = Literal["softmax", "sigmoid"]
COMPAT_EPSILON = 1e-6  # what audioldm_eval adds to the estimate's probabilities before it takes their logarithm
COMPAT_SPLITS = 10  # parts over which audioldm_eval averages the inception score
COMPAT_SEED = 2020  # of its shuffle before the split
_SHOWS = 1e-6  # what rounding may do to a Fréchet distance, as a share of it


def validate(values: Tensor, name: str, *, min_clips: int = 1) -> Tensor:
    """Check embeddings or logits (N, D), one row for each clip, and bring them to float64 on the CPU.

    Raises:
        ValueError: another shape, too few clips, or values that are not finite.
    """
    if values.ndim != 2 or values.shape[1] == 0 or not values.is_floating_point():
        raise ValueError(f"{name} must be floating point with shape (N, D), got {values.dtype} {tuple(values.shape)}")
    if len(values) < min_clips:
        raise ValueError(f"{name} must hold {min_clips} clips or more, got {len(values)}; judge more clips")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity; look for the clip that gives it")
    return values.detach().to("cpu", torch.float64)


def frechet_distance(reference: Tensor, estimate: Tensor) -> float:
    """Measure the Fréchet distance between embeddings (N, D) and (M, D), N and M of 2 or more, each set a Gaussian.

    With centred rows A and B, scaled so that AᵀA and BᵀB are the (unbiased) covariances, the trace of the matrix root
    in the definition is the sum of the singular values of A Bᵀ. So no root is taken, nothing can turn complex, and sets
    of fewer clips than dimensions are as good as others. Where there are more, the roots of the eigenvalues of the
    covariances' product are the same and take half the time; they are taken where their rounding cannot show.

    Raises:
        ValueError: one clip alone (it has no covariance), or sets of different dimensions.

    Paper Eq. (19).
    """
    reference = validate(reference, "reference embeddings", min_clips=2)
    estimate = validate(estimate, "estimate embeddings", min_clips=2)
    if reference.shape[1] != estimate.shape[1]:
        raise ValueError(
            f"embeddings must have one dimension, got {reference.shape[1]} and {estimate.shape[1]}; "
            "use one classifier for both"
        )
    first, second = ((values - values.mean(dim=0)) / (len(values) - 1) ** 0.5 for values in (reference, estimate))
    means = (reference.mean(dim=0) - estimate.mean(dim=0)).square().sum()
    spread = float(means + first.square().sum() + second.square().sum())
    if min(len(first), len(second)) > first.shape[1]:
        cross, doubt = _cross_by_eigenvalues(first, second)
        if 2.0 * doubt <= _SHOWS * (spread - 2.0 * cross):
            return spread - 2.0 * cross
    roots = [torch.linalg.qr(values, mode="r").R for values in (first, second)]
    return max(0.0, spread - 2.0 * float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum()))


def _cross_by_eigenvalues(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the sum of the singular values of A Bᵀ, and what rounding could add to it; it may be infinite."""
    covariances = [blas.dsyrk(1.0, values.numpy().T, lower=True) for values in (first, second)]  # the lower halves
    try:
        how = {"type": 2, "lower": True, "driver": "gv", "eigvals_only": True}
        roots = np.sqrt(eigh(*covariances, **how, check_finite=False).clip(min=0.0))
    except np.linalg.LinAlgError:  # the second has directions without any spread
        return 0.0, math.inf
    sizes = [2.0 * (half**2).sum() - (np.diag(half) ** 2).sum() for half in covariances]  # squared Frobenius norms
    rounding = np.finfo(np.float64).eps * math.sqrt(len(roots) * sizes[0] * sizes[1])
    with np.errstate(divide="ignore"):
        doubt = np.minimum(math.sqrt(rounding), rounding / (2.0 * roots))
    return float(roots.sum()), float(doubt.sum())


def kl_divergence(
    reference_logits: Tensor, estimate_logits: Tensor, *, mode: Mode = "softmax", epsilon: float = 0.0
) -> float:
    """Average the Kullback-Leibler divergence of each estimate's class probabilities from its reference's, nats.

    Args:
        reference_logits: (N, C) class scores.
        estimate_logits: (N, C), row by row of the clips that belong to those.
        mode: "softmax" makes the scores one distribution over the classes; "sigmoid" one probability for each class, of
            which audioldm_eval sums p ln(p / q) over the classes without their complements: it can be negative.
        epsilon: added to the estimate's probabilities; `COMPAT_EPSILON` for audioldm_eval's number, which is a little
            below zero for equal clips.

    Raises:
        ValueError: shapes that differ, or an unknown mode.

    Paper section VI-C.
    """
    reference = validate(reference_logits, "reference logits")
    estimate = validate(estimate_logits, "estimate logits")
    if reference.shape != estimate.shape:
        raise ValueError(
            f"logits must be pairs of clips, got {tuple(reference.shape)} and {tuple(estimate.shape)}; "
            "give every reference one estimate of the same name"
        )
    wanted, found = _log_probabilities(reference, mode), _log_probabilities(estimate, mode)
    if epsilon > 0:
        found = (found.exp() + epsilon).log()
    return float((wanted.exp() * (wanted - found)).sum(dim=1).mean())


def _log_probabilities(logits: Tensor, mode: Mode) -> Tensor:
    if mode not in ("softmax", "sigmoid"):
        raise ValueError(f'mode must be "softmax" or "sigmoid", got {mode!r}; choose one')
    return logits.log_softmax(dim=1) if mode == "softmax" else torch.nn.functional.logsigmoid(logits)


def inception_score(logits: Tensor, *, num_splits: int = 1) -> tuple[float, float]:
    """Measure how certain the classifier is of each clip and how many classes the set covers, from class scores (N, C).

    The clips are scored together, or in parts, as audioldm_eval does (`COMPAT_SPLITS`): that is lower for few clips.

    Returns:
        Mean and standard deviation over the parts; 1 (all clips alike) to C.

    Raises:
        ValueError: fewer clips than parts.

    Paper Eq. (20).
    """
    if num_splits < 1:
        raise ValueError(f"num_splits must be 1 or more, got {num_splits}; audioldm_eval uses {COMPAT_SPLITS}")
    logits = validate(logits, "logits", min_clips=num_splits)
    # audioldm_eval's own generator: the parts are the same clips as in its numbers, and no shared state is touched.
    order = torch.from_numpy(RandomState(COMPAT_SEED).permutation(len(logits)))
    log_p = logits[order].log_softmax(dim=1)
    bounds = [index * len(log_p) // num_splits for index in range(num_splits + 1)]
    scores = torch.stack([_score(log_p[start:stop]) for start, stop in pairwise(bounds)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(log_p: Tensor) -> Tensor:
    marginal = log_p.exp().mean(dim=0).log().clamp(min=torch.finfo(log_p.dtype).min)
    return (log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp()


def evaluate(
    reference_embeddings: Tensor | None,
    estimate_embeddings: Tensor,
    reference_logits: Tensor | None,
    estimate_logits: Tensor,
    *,
    compat: bool = False,
) -> dict[str, float]:
    """Compute all metrics of this module that the clips allow.

    Args:
        reference_embeddings: (N, D); None without references.
        estimate_embeddings: (M, D).
        reference_logits: (M, C), row by row of the clips that belong to the estimates; None where none do.
        estimate_logits: (M, C).
        compat: audioldm_eval's constants.

    Returns:
        "fd" (of 2 clips or more on both sides), "kl" and "kl_sigmoid" (of pairs), "inception_score" (of as many clips
        as parts) and, of several parts, "inception_score_std".
    """
    result: dict[str, float] = {}
    if reference_embeddings is not None and min(len(reference_embeddings), len(estimate_embeddings)) > 1:
        result["fd"] = frechet_distance(reference_embeddings, estimate_embeddings)
    if reference_logits is not None:
        epsilon = COMPAT_EPSILON if compat else 0.0
        result["kl"] = kl_divergence(reference_logits, estimate_logits, epsilon=epsilon)
        result["kl_sigmoid"] = kl_divergence(reference_logits, estimate_logits, mode="sigmoid", epsilon=epsilon)
    num_splits = COMPAT_SPLITS if compat else 1
    if len(estimate_logits) >= num_splits:
        result["inception_score"], spread = inception_score(estimate_logits, num_splits=num_splits)
        result |= {"inception_score_std": spread} if num_splits > 1 else {}
    return result

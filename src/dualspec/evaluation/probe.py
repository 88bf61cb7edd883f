"""A linear probe: which of some classes a clip sounds like, by a classifier's embedding of it.

It answers "is the sound recognised?": trained on true mono recordings, asked about clips that nobody labelled. It
belongs to one embedder, known by its SHA-256, and is worth what its own accuracy on true unseen recordings says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

L2 = 0.01  # weight of the squared coefficients, halved, against the mean cross-entropy


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What a probe reads and answers."""

    embedder: str  # name of the classifier whose embeddings it reads
    embedder_sha256: str  # of that classifier's weights
    num_features: int  # of an embedding
    classes: tuple[str, ...]  # in plain lower-case words

    def __post_init__(self) -> None:
        """Refuse classes that cannot be told apart."""
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be two or more, each once, got {self.classes!r:.80}; check the labels")


class Probe(nn.Module):
    """Multinomial logistic regression on embeddings."""

    def __init__(self, config: ProbeConfig) -> None:
        """Make room for the coefficients."""
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.num_features, len(config.classes))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return class scores (N, C) of embeddings (N, D)."""
        return self.linear(embeddings)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedProbe:
    """A probe and what every result of it must name."""

    probe: Probe
    facts: dict[str, Any]  # JSON values: SHA-256 of its weights, accuracy on true unseen recordings with their count


def fit_probe(config: ProbeConfig, embeddings: Tensor, class_ids: Tensor, *, l2: float = L2) -> Probe:
    """Fit a probe to labelled embeddings: the same numbers give the same probe.

    Each feature is brought to mean 0 and variance 1. L-BFGS minimises, from zero and in float64, the mean cross-entropy
    plus l2 / 2 times the sum of the squared coefficients. The coefficients then take in the scales of the features.

    Args:
        config: of the probe.
        embeddings: (N, D).
        class_ids: (N,) places in `config.classes`.
        l2: weight of the coefficients.

    Raises:
        ValueError: shapes that do not fit, a class without a clip, values that are not finite, or no convergence.
    """
    num_classes = len(config.classes)
    if embeddings.shape != (len(class_ids), config.num_features) or not bool(torch.isfinite(embeddings).all()):
        raise ValueError(
            f"embeddings must be finite, with shape ({len(class_ids)}, {config.num_features}), "
            f"got {tuple(embeddings.shape)}; embed the clips anew"
        )
    counts = torch.bincount(class_ids, minlength=num_classes)
    if len(counts) > num_classes or not bool((counts > 0).all()):
        raise ValueError(
            f"class_ids must name each of {num_classes} classes, got {counts.tolist()!r:.80} clips of them"
        )
    values = embeddings.double()
    mean, spread = values.mean(0), values.std(0, correction=0)
    spread[spread == 0] = 1.0  # what never varies tells nothing, and gets no coefficient
    features, wanted = (values - mean) / spread, functional.one_hot(class_ids, num_classes).double()

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        table = torch.from_numpy(coefficients).view(num_classes, -1)
        weight, bias = table[:, :-1], table[:, -1]
        log_p = (features @ weight.T + bias).log_softmax(1)
        error = (log_p.exp() - wanted) / len(wanted)
        gradient = torch.cat([error.T @ features + l2 * weight, error.sum(0)[:, None]], 1)
        value = -(log_p * wanted).sum(1).mean() + 0.5 * l2 * weight.square().sum()
        return float(value), gradient.flatten().numpy()

    start = np.zeros(num_classes * (config.num_features + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2_000, "gtol": 1e-6, "ftol": 1e-12})
    if not found.success:
        raise ValueError(f"l2 must let the fit converge, got {l2}: {found.message}; raise it")
    table = torch.from_numpy(found.x).view(num_classes, -1)
    weight = table[:, :-1] / spread
    probe = Probe(config)
    state = {"linear.weight": weight, "linear.bias": table[:, -1] - weight @ mean}
    probe.load_state_dict({name: value.float() for name, value in state.items()})
    return probe.eval().requires_grad_(False)


def recognised(probe: Probe, embeddings: Tensor, labels: Sequence[str | None]) -> dict[str, Any] | None:
    """Count the clips whose label is the probe's first answer, or among its first five.

    Args:
        probe: is asked.
        embeddings: (N, D), by the embedder that the probe belongs to.
        labels: what each clip should be, in plain lower-case words; others than the probe's classes are left out.

    Returns:
        JSON values: "num_clips" judged, "num_left_out", the shares "top1" and "top5" with their 95 % intervals
        "top1_interval" and "top5_interval", and the same of each label in "classes"; None where no label is a class.
    """
    places = {label: place for place, label in enumerate(probe.config.classes)}
    kept = [index for index, label in enumerate(labels) if label in places]
    if not kept:
        return None
    own = [str(labels[index]) for index in kept]
    scores = probe(embeddings[kept])
    at = torch.tensor([places[label] for label in own])
    ranks = (scores >= scores.gather(1, at[:, None])).sum(1)  # 1 is the first; a tie counts against the clip
    by_label = {label: ranks[[index for index, name in enumerate(own) if name == label]] for label in sorted(set(own))}
    return {
        **_shares(ranks),
        "num_left_out": len(labels) - len(kept),
        "classes": {label: _shares(found) for label, found in by_label.items()},
    }


def _shares(ranks: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"num_clips": len(ranks)}
    for name, best in (("top1", 1), ("top5", 5)):
        hits = int((ranks <= best).sum())
        found |= {name: round(hits / len(ranks), 6), f"{name}_interval": list(wilson_interval(hits, len(ranks)))}
    return found


def wilson_interval(hits: int, num_trials: int) -> tuple[float, float]:
    """Return the interval in which a share lies with 95 % confidence, after Wilson, 1927."""
    z2 = 1.959964**2
    centre = (hits + z2 / 2) / (num_trials + z2)
    half = (z2 * (hits * (num_trials - hits) / num_trials + z2 / 4)) ** 0.5 / (num_trials + z2)
    return round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)

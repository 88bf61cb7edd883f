import math

import numpy as np
import pytest
import scipy.linalg
import torch

from dualspec.evaluation.distribution_metrics import (
    COMPAT_EPSILON,
    COMPAT_SPLITS,
    evaluate,
    frechet_distance,
    inception_score,
    kl_divergence,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def root_distance(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """The definition, word for word, with scipy's matrix root."""
    first, second = reference.numpy(), estimate.numpy()
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return float((shift @ shift + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2))).real)


def test_frechet_distance_equals_the_definition_with_a_matrix_root():
    mix = normal(6, 6, seed=1)
    reference, estimate = normal(80, 6) @ mix, normal(50, 6, seed=2) * 2 + 0.3
    expected = root_distance(reference, estimate)
    assert frechet_distance(reference, estimate) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(estimate, reference) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_two_gaussians_in_closed_form():
    """Whitened samples have the identity as covariance, to the last digit: then both Gaussians are known."""
    sample = normal(200, 5)
    sample = sample - sample.mean(0)
    white = sample @ torch.linalg.inv(torch.linalg.cholesky(sample.T @ sample / 199)).T
    first, second = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([2.0, 2, 1, 0.5, 0]).double()
    shift = torch.tensor([1.0, 0, -2, 0, 0.5]).double()
    expected = shift.square().sum() + (first - second).square().sum()
    assert frechet_distance(white * first, white * second + shift) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-9, 0.0])
@pytest.mark.parametrize("ratio", [3.0, 1 + 1e-3, 1 + 1e-7])
def test_frechet_distance_in_closed_form_however_small_a_direction_or_the_distance(smallest, ratio):
    """Sets with exactly diagonal covariances in a common rotated frame: the distance is that of their deviations."""
    generator = torch.Generator().manual_seed(5)
    columns = torch.randn(200, 16, generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(columns - columns.mean(dim=0)).Q  # orthonormal, and of mean zero
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    deviations = torch.cat((torch.linspace(1, 2, 14, dtype=torch.float64), torch.tensor([smallest, smallest])))
    first, second = (199**0.5 * columns * values @ rotation for values in (deviations, ratio * deviations))
    expected = float((ratio * deviations - deviations).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=3e-6, abs=1e-13)


def test_frechet_distance_of_fewer_clips_than_dimensions():
    reference, estimate = normal(7, 40), normal(9, 40, seed=1)
    value = frechet_distance(reference.float(), estimate.float())
    assert value == pytest.approx(root_distance(reference, estimate), rel=1e-4)
    assert frechet_distance(reference, reference) == pytest.approx(0.0, abs=1e-12)
    assert frechet_distance(reference, reference + 2.0) == pytest.approx(40 * 4.0)


def test_frechet_distance_of_two_clips_each_by_hand():
    """Variances along one axis: 2 and 8, means apart by 3."""
    reference = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert frechet_distance(reference, 2 * reference + 2) == pytest.approx(3**2 + 2**2 + (2**0.5 - 8**0.5) ** 2)
    # The same, with the second Gaussian along the other axis: the variances share nothing.
    other = torch.tensor([[1.0, -2.0], [1.0, 2.0]])
    assert frechet_distance(reference, other) == pytest.approx(2 + 8)


def test_kl_divergence_by_hand():
    reference = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
    estimate = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
    by_hand = 0.8 * math.log(0.8 / 0.6) + 0.2 * math.log(0.2 / 0.4)
    by_hand += 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(reference, estimate) == pytest.approx(by_hand / 2)
    logits = torch.tensor([[math.log(4.0), 0.0]])  # sigmoids 0.8 and 0.5
    other = torch.tensor([[0.0, math.log(3.0)]])  # 0.5 and 0.75
    by_hand = 0.8 * math.log(0.8 / 0.5) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(logits, other, mode="sigmoid") == pytest.approx(by_hand)


def test_kl_divergence_of_audioldm_eval():
    """Its formula: torch's kl_div of log(p + 1e-6), summed, over the number of pairs."""
    reference, estimate = 3 * normal(8, 20), 3 * normal(8, 20, seed=1)
    for mode, function in (("softmax", lambda x: x.softmax(1)), ("sigmoid", torch.sigmoid)):
        theirs = torch.nn.functional.kl_div(
            (function(estimate) + 1e-6).log(), function(reference), reduction="sum"
        ) / len(reference)
        assert kl_divergence(reference, estimate, mode=mode, epsilon=COMPAT_EPSILON) == pytest.approx(float(theirs))
    assert -1e-3 < kl_divergence(reference, reference, epsilon=COMPAT_EPSILON) < 0.0
    assert kl_divergence(reference, reference) == 0.0


def test_extreme_scores_stay_finite():
    logits = torch.tensor([[2000.0, -2000.0, 0.0], [-2000.0, 2000.0, 0.0]])
    assert kl_divergence(logits, logits.flip(0)) == pytest.approx(4000.0)
    assert inception_score(logits) == (pytest.approx(2.0), 0.0)


def test_inception_score_of_known_sets():
    assert inception_score(torch.eye(5).repeat(4, 1) * 100)[0] == pytest.approx(5.0)
    assert inception_score(normal(1, 5).repeat(8, 1))[0] == pytest.approx(1.0)
    half = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(half)[0] == pytest.approx(expected)


def test_inception_score_of_audioldm_eval():
    """Its loop, on numpy: shuffle by RandomState(2020), ten parts, softmax."""
    logits = 2 * normal(37, 12)
    shuffled = logits.numpy()[np.random.RandomState(2020).permutation(37)]
    p = np.exp(shuffled) / np.exp(shuffled).sum(1, keepdims=True)
    scores = []
    for part in range(10):
        chunk = p[part * 37 // 10 : (part + 1) * 37 // 10]
        scores.append(np.exp((chunk * (np.log(chunk) - np.log(chunk.mean(0)))).sum(1).mean()))
    mean, deviation = inception_score(logits, num_splits=COMPAT_SPLITS)
    assert (mean, deviation) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))
    assert inception_score(logits)[0] > mean


def test_evaluate_gives_the_ideal_values_for_equal_sets():
    embeddings, logits = normal(30, 4), normal(30, 6, seed=1)
    ideal = evaluate(embeddings, embeddings, logits, logits)
    assert ideal["fd"] == pytest.approx(0.0, abs=1e-12) and ideal["kl"] == ideal["kl_sigmoid"] == 0.0
    compat = evaluate(embeddings, embeddings, logits, logits, compat=True)
    assert compat["kl"] < 0.0 and compat["inception_score_std"] > 0.0
    alone = evaluate(None, embeddings[:1], None, logits[:1])
    assert alone == {"inception_score": pytest.approx(1.0)}, "what cannot be computed is absent"


def test_what_cannot_be_computed_is_refused():
    one, many = normal(1, 4), normal(6, 4)
    with pytest.raises(ValueError, match="estimate embeddings must hold 2 clips or more, got 1"):
        frechet_distance(many, one)
    with pytest.raises(ValueError, match="one dimension, got 4 and 3"):
        frechet_distance(many, many[:, :3])
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(many, many / 0)
    with pytest.raises(ValueError, match="must be pairs of clips"):
        kl_divergence(many, one)
    with pytest.raises(ValueError, match="mode must be"):
        kl_divergence(many, many, mode="hard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hold 10 clips or more, got 6"):
        inception_score(many, num_splits=10)
    with pytest.raises(ValueError, match=r"shape \(N, D\)"):
        inception_score(many[0])

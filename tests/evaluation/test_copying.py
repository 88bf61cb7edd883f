import math

import pytest
import torch

from dualspec.evaluation.copying import nearest_in_embedding


def at(*degrees: float) -> torch.Tensor:
    """Embeddings on a circle, so that every distance is 1 - cos of an angle."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_nearest_and_percentile_by_hand():
    """Class 0 at 0, 10, 30 degrees (nearest others 10, 10, 20 away), class 1 at 90, 150 (60, 60), class 2 alone."""
    training, classes = at(0, 10, 30, 90, 150, 300), torch.tensor([0, 0, 0, 1, 1, 2])
    generated = torch.cat([3.0 * at(1), at(45), at(120.1), at(300)])
    found = nearest_in_embedding(generated, training, classes)
    assert found.index.tolist() == [0, 2, 4, 5]
    angles = [math.degrees(math.acos(1 - distance)) for distance in found.distance.tolist()]
    assert angles == pytest.approx([1, 15, 29.9, 0], abs=1e-4)
    own = [math.degrees(math.acos(1 - distance)) for distance in found.class_distances[:5].tolist()]
    assert own == pytest.approx([10, 10, 20, 60, 60])
    assert found.percentile[:3].tolist() == pytest.approx([0.0, 200 / 3, 0.0])
    assert math.isnan(found.class_distances[5]) and math.isnan(found.percentile[3])


def test_clips_of_one_recording_do_not_make_a_class_look_dense():
    training, classes = at(0, 1, 40), torch.zeros(3, dtype=torch.long)
    near = nearest_in_embedding(at(20.4), training, classes)
    assert float(near.percentile) == pytest.approx(200 / 3)
    apart = nearest_in_embedding(at(20.4), training, classes, source_ids=torch.tensor([7, 7, 8]))
    assert float(apart.percentile) == 0.0
    alone = nearest_in_embedding(at(20.4), training, classes, source_ids=torch.zeros(3))
    assert bool(alone.class_distances.isnan().all()) and math.isnan(alone.percentile)


def test_copies_stand_out_and_fresh_clips_of_a_class_do_not():
    generator = torch.Generator().manual_seed(0)
    training = torch.randn(60, 16, generator=generator) + 4 * torch.eye(16)[torch.arange(60) % 3]
    copies = training[:10] + 0.01 * torch.randn(10, 16, generator=generator)
    fresh = torch.randn(40, 16, generator=generator) + 4 * torch.eye(16)[torch.arange(40) % 3]
    classes = torch.arange(60) % 3
    found = nearest_in_embedding(torch.cat([copies, fresh]), training, classes)
    assert found.index[:10].tolist() == list(range(10))
    assert float(found.percentile[:10].max()) == 0.0
    assert 20 < float(found.percentile[10:].median()) < 90


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one classifier"):
        nearest_in_embedding(at(0), torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"must have shape \(2,\)"):
        nearest_in_embedding(at(0), at(0, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="generated embeddings must be finite and not zero"):
        nearest_in_embedding(0 * at(0), at(0, 1), torch.zeros(2))

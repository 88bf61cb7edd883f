import math

import pytest
import torch

from dualspec.data.datasets import ClipBank
from dualspec.evaluation.signal_metrics import log_mel_distance, nearest_clips


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(count, 2, 16_000, generator=torch.Generator().manual_seed(seed))


def test_a_level_change_is_its_logarithm():
    reference = noise(2)
    assert float(log_mel_distance(reference, reference).max()) == 0.0
    halved = log_mel_distance(reference, reference / 2)
    assert torch.allclose(halved, torch.full((2,), math.log(2)), atol=1e-3)


def test_one_ear_lost_is_half_of_both():
    reference = noise(1)
    one, both = reference.clone(), reference / 2
    one[:, 1] /= 2
    assert float(log_mel_distance(reference, one)) == pytest.approx(
        0.5 * float(log_mel_distance(reference, both)), rel=1e-3
    )


def test_a_copy_is_found_whatever_its_level_and_other_sounds_are_far():
    clips = noise(5)[:, 0]
    bank = ClipBank(
        waveforms=(clips * 32768).round().to(torch.int16),
        lengths=torch.full((5,), 16_000),
        labels=[(f"label {index}",) for index in range(5)],
        ids=[f"clip{index}" for index in range(5)],
        rows=[],
        sample_rate=16_000,
    )
    query = 0.3 * clips[2][None, None].expand(1, 2, -1)
    (copy,) = nearest_clips(query, bank, chunk=2)
    assert (copy.clip_id, copy.label) == ("clip2", "label 2")
    (other,) = nearest_clips(query, bank, skip=["clip2"])
    assert other.clip_id != "clip2"
    assert other.distance > 20 * copy.distance

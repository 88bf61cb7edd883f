import math

import pytest
import torch

from dualspec.data.datasets import ClipBank
from dualspec.evaluation.signal_metrics import (
    evaluate,
    mel_image,
    nearest_clips,
    psnr_db,
    ssim,
)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(count, 2, 16_000, generator=torch.Generator().manual_seed(seed))


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
    copy, other = nearest_clips(torch.stack([0.3 * clips[2], noise(1, seed=1)[0, 0]]), bank, chunk=2)
    assert (copy.clip_id, copy.label) == ("clip2", "label 2")
    assert other.distance > 20 * copy.distance


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_psnr_by_hand():
    reference = torch.zeros(2, 8, 8)
    estimate = torch.stack([torch.full((8, 8), 0.1), torch.eye(8)])
    assert psnr_db(reference, estimate).tolist() == pytest.approx([20.0, 10 * math.log10(8)])
    assert psnr_db(reference, reference).tolist() == [math.inf, math.inf]


def test_ssim_of_one_window_by_hand():
    """A 7 x 7 image is one window: means, variances and covariance over 48."""
    x, y = pictures(7, 7), pictures(7, 7, seed=1)
    extent = float(max(x.max(), y.max()) - min(x.min(), y.min()))
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    covariance = torch.cov(torch.stack([x.flatten(), y.flatten()]))
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    assert float(ssim(x, y)) == pytest.approx(float(expected), rel=1e-10)


def test_ssim_of_equal_and_of_constant_images():
    image = pictures(3, 2, 64, 20)
    assert ssim(image, image).shape == (3, 2)
    assert ssim(image, image).flatten().tolist() == pytest.approx([1.0] * 6)
    flat = torch.full((64, 20), 0.4)
    assert float(ssim(flat, flat)) == 1.0
    assert float(ssim(torch.zeros(9, 9), torch.ones(9, 9))) == pytest.approx(1e-4 / (1 + 1e-4))


def test_psnr_and_ssim_equal_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image checks SSIM")
    x = pictures(4, 64, 30)
    y = (x + 0.1 * pictures(4, 64, 30, seed=1)).clamp(0, 1)
    for row in range(4):
        one, other = x[row].numpy(), y[row].numpy()
        extent = max(one.max(), other.max()) - min(one.min(), other.min())
        theirs = metrics.structural_similarity(one, other, data_range=extent)
        assert float(ssim(x, y)[row]) == pytest.approx(theirs, rel=1e-9)
        assert float(psnr_db(x, y)[row]) == pytest.approx(metrics.peak_signal_noise_ratio(one, other), rel=1e-9)


def test_the_mel_image_of_a_tone_has_its_level():
    """Magnitude of a tone at a bin: amplitude * 128; a bin's share of its unit-area bands is what librosa gives it."""
    seconds = torch.arange(16_000, dtype=torch.float64) / 16_000
    bin_hz = 16_000 / 512
    tone = 0.5 * torch.sin(2 * math.pi * 32 * bin_hz * seconds)
    image = mel_image(tone + 0.2)  # the mean is taken out
    assert image.shape == (64, 101)
    edges = 50 / (200 / 3) + torch.arange(66) * (15 + math.log(8) / (math.log(6.4) / 27) - 50 / (200 / 3)) / 65
    edges_hz = torch.where(edges < 15, edges * 200 / 3, 1000 * torch.exp((edges - 15) * math.log(6.4) / 27))
    magnitudes = {31: 32.0, 32: 64.0, 33: 32.0}  # Hann: half the height beside the peak
    levels = []
    for low, middle, high in zip(edges_hz[:-2], edges_hz[1:-1], edges_hz[2:], strict=True):
        heights = [min((k * bin_hz - low) / (middle - low), (high - k * bin_hz) / (high - middle)) for k in magnitudes]
        area = 2 / float(high - low)
        levels.append(sum(max(0.0, float(h)) * area * m for h, m in zip(heights, magnitudes.values(), strict=True)))
    expected = ((20 * torch.tensor(levels).clamp(min=1e-5).log10() + 80) / 100).clamp(0, 1)
    assert float(expected.max()) > 0.7
    assert torch.allclose(image[:, 50], expected.double(), atol=1e-4)


def test_evaluate_is_ideal_for_equal_clips_and_crops_to_the_shorter_one():
    reference = noise(2)
    same = evaluate(reference, reference)
    assert same["psnr_db"].shape == (2, 2) and bool(same["psnr_db"].isinf().all())
    assert same["ssim"].flatten().tolist() == pytest.approx([1.0] * 4)
    halved = evaluate(reference, reference[..., :12_000] / 2)  # every band 6.02 dB lower: 0.0602 of the range
    assert torch.allclose(halved["psnr_db"], torch.full((2, 2), -20 * math.log10(0.0602)).double(), atol=0.2)


def test_pictures_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="images must have one shape"):
        psnr_db(pictures(8, 8), pictures(8, 9))
    with pytest.raises(ValueError, match="7 pixels or more"):
        ssim(pictures(64, 6), pictures(64, 6))
    with pytest.raises(ValueError, match="finite"):
        ssim(pictures(8, 8) / 0, pictures(8, 8))

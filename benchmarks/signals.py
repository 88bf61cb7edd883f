"""Rendering, and the Fréchet distance, against the usual ways with scipy; one thread.

python benchmarks/signals.py
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import sqrtm
from scipy.signal import fftconvolve

from compare import Row, at_least, at_most, interleaved, table
from dualspec.audio.binaural import render, render_directions
from dualspec.audio.hrir import spherical_head
from dualspec.evaluation.distribution_metrics import frechet_distance

NUM_SAMPLES, CLIPS = 80_000, 4


def rendering_rows() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    mono = 0.1 * torch.randn(CLIPS, NUM_SAMPLES, generator=generator)
    hrirs = spherical_head(sample_rate=16_000, num_taps=256).at([30.0 * index for index in range(12)])
    own = hrirs[torch.arange(CLIPS) % 12]

    def usual(pairs: torch.Tensor) -> np.ndarray:
        ears = [
            [fftconvolve(clip, ear)[:NUM_SAMPLES] for ear in pair]
            for clip, pair in zip(mono.numpy(), pairs.numpy(), strict=True)
        ]
        return np.array(ears)

    best = interleaved(
        {
            "usual": lambda: usual(own),
            "ours": lambda: render(mono, own),
            "ours, all": lambda: render_directions(mono, hrirs),
        },
        repeats=20,
    )
    gap = float(np.abs(usual(own) - render(mono, own).numpy()).max())
    counts = f"{CLIPS} clips of 5 s, 256 taps, two ears, best of 20"
    return [
        at_least("clips/s rendered / by scipy.signal.fftconvolve", 4.0, best["usual"] / best["ours"], counts),
        at_least("the same with all 12 directions of each clip", 10.0, 12 * best["usual"] / best["ours, all"], counts),
        at_most("largest difference between the two", 1e-4, gap, counts),
    ]


def frechet_rows(width: int = 2048, clips: int = 5000) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    sets = [
        torch.randn(clips, width, generator=generator, dtype=torch.float64) @ mixing + shift for shift in (0.0, 0.05)
    ]
    values: dict[str, float] = {}

    def usual() -> None:
        means, covariances = [x.mean(0).numpy() for x in sets], [np.cov(x.numpy().T) for x in sets]
        root = sqrtm(covariances[0] @ covariances[1]).real
        gap = means[0] - means[1]
        values["usual"] = float(gap @ gap + np.trace(covariances[0] + covariances[1] - 2.0 * root))

    def ours() -> None:
        values["ours"] = frechet_distance(*sets)

    best = interleaved({"usual": usual, "ours": ours}, repeats=1)
    counts = f"{width} features, {clips} clips, once"
    equal = abs(values["ours"] / values["usual"] - 1.0)
    return [
        at_least("Fréchet distances/s / by scipy.linalg.sqrtm", 5.0, best["usual"] / best["ours"], counts),
        at_most("relative difference between the two", 1e-8, equal, counts),
    ]


def measure() -> list[Row]:
    torch.set_num_threads(1)
    return rendering_rows() + frechet_rows()


if __name__ == "__main__":
    print(table(measure()))

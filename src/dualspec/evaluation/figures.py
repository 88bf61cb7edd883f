"""Figures of a judgement: asked against heard directions, and cues per azimuth beside those of the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dualspec.files import atomic_path


def confusion_figure(table: Sequence[Sequence[int]], path: Path) -> None:
    """Draw counts (I, I) of asked (rows) against heard sectors (columns), and the share heard right around a head.

    Sector 0 is in front, they go counter-clockwise. Paper Eq. (21): accuracy is the share on the diagonal.
    """
    from matplotlib.figure import Figure

    counts = torch.tensor(table, dtype=torch.float64)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    size = len(table)
    names = [f"{360 * index / size:.0f}" for index in range(size)]
    figure = Figure(figsize=(9.6, 4.6), dpi=120, layout="constrained")
    matrix = figure.add_subplot(1, 2, 1)
    matrix.imshow(shares.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    matrix.set_xticks(range(size), names, fontsize=7)
    matrix.set_yticks(range(size), names, fontsize=7)
    matrix.set_xlabel("heard azimuth (degrees)")
    matrix.set_ylabel("asked azimuth (degrees)")
    for asked, heard in counts.nonzero().tolist():
        color = "white" if shares[asked, heard] > 0.5 else "black"
        matrix.text(heard, asked, f"{counts[asked, heard]:.0f}", ha="center", va="center", fontsize=6, color=color)
    dial: Any = figure.add_subplot(1, 2, 2, projection="polar")
    dial.set_theta_zero_location("N")
    for asked in range(size):
        right = float(shares[asked, asked])
        dial.bar(2 * math.pi * asked / size, right, width=5 / size, color="tab:blue", alpha=0.7)
    dial.set_ylim(0.0, 1.0)
    dial.set_xticks([2 * math.pi * index / size for index in range(size)], [f"{name}°" for name in names], fontsize=8)
    dial.set_yticks([0.5, 1.0], ["0.5", "1"], fontsize=7)
    dial.set_title("share heard where asked (0° front, 90° left)", fontsize=9)
    _write(figure, path)


def cue_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw mean ITD, ILD and coherence of a direction table, and the target's as a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), dpi=120, layout="constrained")
    azimuths = [row["azimuth_deg"] for row in rows]
    panels = (
        ("itd_us", "ITD (µs), negative: left first"),
        ("ild_db", "ILD (dB), positive: left louder"),
        ("coherence", "coherence"),
    )
    for axis, (name, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for key, style, legend in ((f"target_{name}", "k--", "target"), (name, "o-", "clips")):
            if key in rows[0]:
                values = [float("nan") if row[key] is None else row[key] for row in rows]
                axis.plot(azimuths, values, style, linewidth=1.2, markersize=3, label=legend)
        axis.set_xlabel("asked azimuth (degrees)")
        axis.set_ylabel(label)
        axis.set_xticks(range(0, 360, 90))
        axis.grid(alpha=0.3)
    axis.set_ylim(0.0, 1.02)
    figure.axes[0].legend(fontsize=8)
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})

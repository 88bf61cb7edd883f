"""Figures: spectrograms of both ears, a direction dial, training curves. PNG files that appear whole or not at all."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dualspec.audio.azimuth import LEFT, RIGHT, check_azimuth_deg, class_azimuth_deg
from dualspec.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes
    from torch import Tensor

FrequencyScale = Literal["linear", "log"]

MAX_COLUMNS = 2000
"""More frames than this are averaged before drawing; a screen shows no more."""
_WINDOW_S = 0.032
_LOG_TICKS_KHZ = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
_DPI = 120
_QUARTERS = {0: "front", 90: "left", 180: "back", 270: "right"}


def spectrogram_figure(
    waveform: Tensor | np.ndarray,
    sample_rate: int,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    azimuth_deg: float | None = None,
    heard_deg: float | None = None,
    scale: FrequencyScale = "linear",
    range_db: float = 80.0,
) -> None:
    """Draw the spectrograms of both ears: left ear above, right ear below, one colour scale for both.

    Args:
        waveform: (2, S), channel 0 left, in [-1, 1].
        sample_rate: Hz.
        path: PNG file to write; its folder must exist.
        title: line above the figure, shown as it is.
        azimuth_deg: direction that was asked for, degrees, 90 = left; dashed on a small dial, no dial if both are None.
        heard_deg: direction that was heard, degrees; solid.
        scale: frequency axis, linear from 0 or logarithmic from 50 Hz.
        range_db: span of the colour scale below the loudest point of both ears, dB.

    Raises:
        ValueError: the waveform must have two finite ears, the numbers must be in range, the path must end in .png.
        FileNotFoundError: the folder is absent.

    Paper Fig. 5.
    """
    from matplotlib.figure import Figure

    _check_png(path)
    samples = np.asarray(waveform.detach().cpu() if hasattr(waveform, "detach") else waveform, dtype=np.float64)
    if samples.ndim != 2 or len(samples) != 2 or samples.shape[-1] < 1 or not np.isfinite(samples).all():
        raise ValueError(
            f"waveform must be finite with shape (2, S), got {tuple(waveform.shape)}; give the left and the right ear"
        )
    if scale not in ("linear", "log"):
        raise ValueError(f'scale must be "linear" or "log", got {scale!r}; choose one')
    if not 0.0 < range_db < math.inf or sample_rate < 1000:
        raise ValueError(
            f"range_db must be positive and sample_rate at least 1000 Hz, got {range_db} and {sample_rate}; "
            "80 dB are usual"
        )
    decibels, extent = _decibels(samples, sample_rate, range_db)
    figure = Figure(figsize=(7.2, 5.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, ear, name in ((axes[0], LEFT, "left ear"), (axes[1], RIGHT, "right ear")):
        mesh = axis.imshow(
            decibels[ear].T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=-range_db,
            vmax=0.0,
            extent=extent,
        )
        axis.set_xlim(0.0, waveform.shape[-1] / sample_rate)
        if scale == "log":
            axis.set_yscale("log")
            axis.set_yticks([tick for tick in _LOG_TICKS_KHZ if tick <= sample_rate / 2000.0], minor=False)
            axis.set_yticks([], minor=True)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylim(_LOG_TICKS_KHZ[0] if scale == "log" else 0.0, sample_rate / 2000.0)
        axis.set_facecolor("black")
        axis.set_ylabel(f"{name}\nfrequency (kHz)")
    axes[1].set_xlabel("time (s)")
    figure.colorbar(mesh, ax=list(axes), label="level (dB re loudest point of both ears)", pad=0.02)
    if title:
        figure.suptitle(_heading(title), fontsize=11)
    _inset_dial(axes[0], azimuth_deg, heard_deg)
    _write(figure, path)


def direction_figure(
    probabilities: Sequence[float] | np.ndarray,
    path: str | os.PathLike[str],
    *,
    asked_deg: float | None = None,
    heard_deg: float | None = None,
    title: str = "",
) -> None:
    """Draw a direction dial seen from above: front is up, left is left, one bar per sector.

    Args:
        probabilities: (I,) probability of each sector, sector 0 in front, counter-clockwise.
        path: PNG file to write; its folder must exist.
        asked_deg: direction that was asked for, degrees; a dashed line.
        heard_deg: direction that was heard, degrees; a solid line.
        title: line above the dial, shown as it is.

    Raises:
        ValueError: there must be two or more probabilities in [0, 1]; directions must be in [0, 360).
        FileNotFoundError: the folder is absent.

    Paper section IV.
    """
    from matplotlib.figure import Figure

    _check_png(path)
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError(f"probabilities must be two or more in [0, 1], got {values.tolist()!r:.80}; pass one clip's")
    figure = Figure(figsize=(3.6, 3.8), dpi=_DPI, layout="constrained")
    axis: Any = figure.add_subplot(projection="polar")
    _orient(axis)
    centres = [math.radians(class_azimuth_deg(index, len(values))) for index in range(len(values))]
    axis.bar(centres, values.tolist(), width=0.9 * 2 * math.pi / len(values), color="tab:blue", alpha=0.7)
    axis.set_ylim(0.0, 1.0)
    axis.set_yticks([0.5, 1.0], ["0.5", "1"], fontsize=7, color="0.4")
    axis.set_rlabel_position(15)
    axis.set_xticks(
        [math.radians(azimuth) for azimuth in range(0, 360, 30)],
        [_QUARTERS.get(azimuth, f"{azimuth}°") for azimuth in range(0, 360, 30)],
        fontsize=8,
    )
    _needles(axis, asked_deg, heard_deg)
    if asked_deg is not None or heard_deg is not None:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    if title:
        figure.suptitle(_heading(title, 40), fontsize=10)
    _write(figure, path)


def curves_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    y_label: str,
    x_label: str = "step",
    log_y: bool = False,
    title: str = "",
) -> None:
    """Draw named curves, such as the losses of a run.

    Args:
        curves: points (x, y) of each curve, in the order of x; a value that is not finite leaves a gap.
        path: PNG file to write; its folder must exist.
        y_label: quantity and unit of the vertical axis.
        x_label: quantity and unit of the horizontal axis.
        log_y: draw the vertical axis logarithmically; every value must then be positive.
        title: line above the figure, shown as it is.

    Raises:
        ValueError: there must be a curve, each with a point, and positive values on a logarithmic axis.
        FileNotFoundError: the folder is absent.
    """
    from matplotlib.figure import Figure

    _check_png(path)
    if not curves or not all(curves.values()):
        empty = [name for name, points in curves.items() if not points]
        raise ValueError(
            f"curves must hold at least one curve with points, got {empty or 'none'}; leave empty ones out"
        )
    lowest = min((y for points in curves.values() for _, y in points if math.isfinite(y)), default=1.0)
    if log_y and lowest <= 0:
        raise ValueError(f"curves must be positive on a logarithmic axis, got {lowest}; use log_y=False")
    figure = Figure(figsize=(7.2, 4.0), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, marker="." if len(points) < 30 else "", linewidth=1.2, label=_plain(name))
    if log_y:
        axis.set_yscale("log")
    axis.set_xlabel(_plain(x_label))
    axis.set_ylabel(_plain(y_label))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    if title:
        figure.suptitle(_heading(title), fontsize=11)
    _write(figure, path)


class Lane(NamedTuple):
    """One sound of a scene, as it is drawn."""

    text: str
    onset_s: float
    length_s: float
    points: tuple[tuple[float, float], ...]
    """Way-points: seconds from the onset, azimuth in degrees as it stands; one for a sound that stands still."""


def scene_figure(lanes: Sequence[Lane], duration_s: float, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw a scene from above, front up and left left, and below it when each sound is heard.

    Args:
        lanes: the sounds; each has a circle of its own, the first one outside.
        duration_s: length of the scene, seconds.
        path: PNG file to write; its folder must exist.
        title: line above the figure, shown as it is.

    Raises:
        ValueError: there must be a sound, and the path must end in .png.
        FileNotFoundError: the folder is absent.
    """
    from matplotlib.figure import Figure

    _check_png(path)
    if not lanes:
        raise ValueError("lanes must hold at least one sound, got none; a scene has events")
    below = 0.8 + 0.27 * len(lanes)
    figure = Figure(figsize=(7.2, 4.4 + below), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(4.4, below))
    dial: Any = figure.add_subplot(grid[0], projection="polar")
    _orient(dial)
    dial.set_ylim(0.0, 1.1)
    dial.set_yticks([])
    dial.set_xticks(
        [math.radians(azimuth) for azimuth in range(0, 360, 30)],
        [_QUARTERS.get(azimuth, f"{azimuth}°") for azimuth in range(0, 360, 30)],
        fontsize=8,
    )
    dial.fill([math.tau * step / 60 for step in range(60)], [0.1] * 60, color="0.85", zorder=3)
    dial.fill([-0.35, 0.0, 0.35], [0.09, 0.16, 0.09], color="0.85", zorder=3)
    time = figure.add_subplot(grid[1])
    for index, lane in enumerate(lanes):
        _draw_lane(dial, time, index, lane, radius=1.0 - 0.75 * index / max(len(lanes), 6))
    time.set_xlim(0.0, duration_s)
    time.set_ylim(len(lanes) - 0.4, -0.6)
    time.set_yticks([])
    time.set_xlabel("time (s)")
    time.grid(axis="x", alpha=0.3)
    if title:
        figure.suptitle(_heading(title), fontsize=11)
    _write(figure, path)


def _draw_lane(dial: Any, time: Any, index: int, lane: Lane, radius: float) -> None:
    """Draw one sound: a dot, or an arc with its head, and the bar of its time."""
    color = f"C{index % 10}"
    angles = [math.radians(azimuth) for _, azimuth in lane.points]
    first, last = lane.points[0][1], lane.points[-1][1]
    dial.plot(angles[:1], [radius], "o", color=color, markersize=13, zorder=4)
    dial.annotate(str(index + 1), (angles[0], radius), ha="center", va="center", color="white", fontsize=8, zorder=5)
    if len(angles) > 1:
        line = [a + (b - a) * step / 60 for a, b in itertools.pairwise(angles) for step in range(61)]
        dial.plot(line, [radius] * len(line), color=color, linewidth=2)
        before = next((angle for angle in reversed(line) if angle != line[-1]), line[-1])
        arrow = {"arrowstyle": "-|>", "color": color, "mutation_scale": 18, "shrinkA": 0, "shrinkB": 0}
        dial.annotate("", (line[-1], radius), (before, radius), arrowprops=arrow)
    where = f"{first:g}°" if len(angles) == 1 else f"{first:g}° → {last:g}°, moving"
    time.barh(index, lane.length_s, left=lane.onset_s, height=0.72, color=color, alpha=0.55)
    words = f"{index + 1}  {textwrap.shorten(lane.text, 60, placeholder=' …')}, {where}"
    time.text(0.01, index, _plain(words), va="center", fontsize=8, transform=time.get_yaxis_transform())


def _decibels(
    samples: np.ndarray, sample_rate: int, range_db: float
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return levels (2, T, F), dB, 0 at the loudest point of both ears, and their edges: s, s, kHz, kHz."""
    n_fft = max(2 * round(_WINDOW_S * sample_rate / 2), 16)
    hop, num_samples = n_fft // 4, max(samples.shape[-1], n_fft)
    padded = np.pad(samples, ((0, 0), (0, num_samples - samples.shape[-1])))
    padded = np.pad(padded, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[:, ::hop][:, : num_samples // hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(np.fft.rfft(frames * window)[..., 1:]) ** 2
    hop_s, bin_khz = hop / sample_rate, sample_rate / n_fft / 1000.0
    extent = (-0.5 * hop_s, (power.shape[1] - 0.5) * hop_s, 0.5 * bin_khz, (power.shape[2] + 0.5) * bin_khz)
    if power.shape[1] > MAX_COLUMNS:
        edges = np.arange(MAX_COLUMNS + 1) * power.shape[1] / MAX_COLUMNS
        first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
        sums = np.cumsum(np.pad(power, ((0, 0), (1, 0), (0, 0))), axis=1)
        power = ((sums[:, last] - sums[:, first]) / (last - first)[:, None]).clip(min=0.0)
    loudest, floor = float(power.max()), 10.0 ** (-range_db / 10.0)
    relative = (power / loudest).clip(min=floor) if loudest > 0.0 else np.full_like(power, floor)
    return 10.0 * np.log10(relative), extent


def _orient(axis: PolarAxes) -> None:
    """Turn a polar axis so that 0 degrees is up and azimuth grows to the left."""
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(1)


def _needles(axis: PolarAxes, asked_deg: float | None, heard_deg: float | None) -> None:
    """Draw where a sound was asked for, dashed, and where it was heard, solid, labelled for a legend."""
    for name, azimuth_deg, style, color in (
        ("heard", heard_deg, "-", "tab:red"),
        ("asked", asked_deg, "--", "black"),
    ):
        if azimuth_deg is not None:
            angle = math.radians(check_azimuth_deg(azimuth_deg))
            axis.plot([angle, angle], [0.0, 1.0], style, color=color, linewidth=2, label=f"{name} {azimuth_deg:.0f}°")


def _inset_dial(parent: Any, asked_deg: float | None, heard_deg: float | None) -> None:
    """Put a small dial into the upper right corner of an axis, if there is a direction to show."""
    if asked_deg is None and heard_deg is None:
        return
    box = parent.inset_axes((0.825, 0.4, 0.17, 0.58))
    box.set_xticks([])
    box.set_yticks([])
    box.patch.set_alpha(0.9)
    dial = box.inset_axes((0.2, 0.33, 0.6, 0.5), projection="polar")
    _orient(dial)
    _needles(dial, asked_deg, heard_deg)
    dial.set_ylim(0.0, 1.15)
    dial.set_yticks([])
    dial.set_xticks([0.0, math.pi / 2, math.pi, 3 * math.pi / 2], ["F", "L", "B", "R"], fontsize=7)
    dial.tick_params(pad=-4)
    box.legend(*dial.get_legend_handles_labels(), loc="lower center", fontsize=6, frameon=False, borderpad=0.1)


def _plain(text: str) -> str:
    """Keep text as it is: no dollar sign starts a formula."""
    return text.replace("$", r"\$")


def _heading(text: str, width: int = 80) -> str:
    """Break a long title into at most three lines."""
    return textwrap.fill(_plain(textwrap.shorten(text, 3 * width - 10, placeholder=" …")), width)


def _check_png(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"path must end in .png, got {os.fspath(path)!r}; figures are PNG files")


def _write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write without the time or the program's version, so that the same figure gives the same bytes."""
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # any words may stand in a title
        figure.savefig(temporary, format="png", metadata={"Software": None})

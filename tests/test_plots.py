"""Figures are written whole, show what they should, and refuse what they cannot show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from dualspec import plots
from dualspec.plots import curves_figure, direction_figure, spectrogram_figure

RATE = 16000
SECTORS = [0.02, 0.06, 0.9, 0.02, *[0.0] * 8]


def beep(frequency_hz: float, num_samples: int = 8000) -> Tensor:
    time = torch.arange(num_samples) / RATE
    return 0.5 * torch.sin(2 * math.pi * frequency_hz * time)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(imread(path))[..., :3]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_both_ears_left_above_right(tmp_path: Path, scale: Any) -> None:
    path = tmp_path / "ears.png"
    spectrogram_figure(torch.stack([beep(2000), 0 * beep(2000)]), RATE, path, title="a beep", scale=scale)
    image = pixels(path)
    assert image.shape[0] > 500 and image.shape[1] > 700
    coloured = np.ptp(image[:, 100:700], axis=-1) > 0.3  # text, frames and the scale's quiet end are grey or black
    upper, lower = np.array_split(coloured, 2)
    assert upper.sum() > 1000 and lower.sum() == 0


def test_levels_share_one_scale_and_bins_lie_at_their_frequency() -> None:
    decibels, (first_s, last_s, first_khz, last_khz) = plots._decibels(
        torch.stack([beep(2000), 0.1 * beep(2000)]).double().numpy(), RATE, 80.0
    )
    assert float(decibels[0].max()) == pytest.approx(0.0, abs=1e-6)
    assert float(decibels[1].max()) == pytest.approx(-20.0, abs=0.01)
    assert float(decibels.min()) == pytest.approx(-80.0, abs=1e-6)
    row, num_rows = int(decibels[0].mean(0).argmax()), decibels.shape[2]
    assert first_khz + (row + 0.5) * (last_khz - first_khz) / num_rows == pytest.approx(2.0, abs=1e-3)
    assert first_s < 0 < 0.45 < last_s < 0.51


def test_long_short_and_silent_clips_are_drawn(tmp_path: Path) -> None:
    for number, waveform in enumerate((torch.zeros(2, 300000), torch.full((2, 1), 0.5), beep(100, 90).expand(2, -1))):
        path = tmp_path / f"{number}.png"
        spectrogram_figure(waveform, RATE, path, azimuth_deg=270.0)
        assert path.read_bytes().startswith(b"\x89PNG")
    decibels, _ = plots._decibels(np.zeros((2, 300000)), RATE, 60.0)
    assert decibels.shape[1] == plots.MAX_COLUMNS and bool((decibels + 60 < 1e-9).all())


def test_the_same_figure_gives_the_same_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        direction_figure(SECTORS, tmp_path / name, asked_deg=60.0, heard_deg=58.5, title="$x_2$ stays plain $")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first.png", "second.png"]


def test_left_is_drawn_on_the_left(tmp_path: Path) -> None:
    for azimuth, columns in ((3, slice(None, 215)), (9, slice(215, None))):
        values = [0.0] * 12
        values[azimuth] = 1.0
        direction_figure(torch.tensor(values), tmp_path / "dial.png")
        image = pixels(tmp_path / "dial.png")
        blue = (image[..., 2] > image[..., 0] + 0.2).astype(int)
        assert blue[:, columns].sum() > 0.95 * blue.sum() > 500


def test_the_dial_beside_the_ears_shows_where_it_was_heard(tmp_path: Path) -> None:
    centres = []
    for heard_deg in (None, 90.0, 270.0):
        path = tmp_path / "ears.png"
        spectrogram_figure(torch.zeros(2, 8000), RATE, path, azimuth_deg=0.0, heard_deg=heard_deg)
        dial = pixels(path)[:120, 600:740]  # above the legend, left of the colour bar
        red = (dial[..., 0] > 0.6) & (dial[..., 1] < 0.35) & (dial[..., 2] < 0.35)
        centres.append(np.nonzero(red)[1].mean() if red.any() else None)
    assert centres[0] is None and centres[1] < centres[2] - 20


def test_curves(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    curves = {"train": [(step, 1.0 / (1 + step)) for step in range(100)], "valid": [(0, 1.0), (50, math.nan)]}
    curves_figure(curves, path, y_label="loss", log_y=True, title="a run " * 100)
    assert pixels(path).shape == (480, 864, 3)


def test_wrong_sounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"shape \(2, S\)"):
        spectrogram_figure(torch.zeros(1, 8000), RATE, path)
    with pytest.raises(ValueError, match="waveform must be finite"):
        spectrogram_figure(torch.full((2, 800), math.nan), RATE, path)
    with pytest.raises(ValueError, match="range_db must be positive"):
        spectrogram_figure(torch.zeros(2, 800), RATE, path, range_db=0.0)
    with pytest.raises(ValueError, match="scale must be"):
        spectrogram_figure(torch.zeros(2, 800), RATE, path, scale="mel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="azimuth_deg must be"):
        spectrogram_figure(torch.zeros(2, 800), RATE, path, azimuth_deg=400.0)
    assert list(tmp_path.iterdir()) == []


def test_wrong_numbers_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        direction_figure(SECTORS, tmp_path / "x.pdf")
    with pytest.raises(FileNotFoundError, match="must exist"):
        direction_figure(SECTORS, tmp_path / "absent" / "x.png")
    for values in ([1.0], [0.5, math.nan], [2.0, -1.0]):
        with pytest.raises(ValueError, match="probabilities must be"):
            direction_figure(values, tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one curve"):
        curves_figure({"loss": []}, tmp_path / "x.png", y_label="loss")
    with pytest.raises(ValueError, match="positive on a logarithmic axis"):
        curves_figure({"loss": [(0, 0.0)]}, tmp_path / "x.png", y_label="loss", log_y=True)
    assert list(tmp_path.iterdir()) == []


def test_a_scene_is_drawn_from_above(tmp_path: Path) -> None:
    """The same scene gives the same bytes; another way round gives another picture."""
    from dualspec.plots import Lane, scene_figure

    still = Lane("rain $x$", 0.0, 9.0, ((0.0, 180.0),))
    for name, end in (("one", 390.0), ("two", 390.0), ("other", 30.0)):
        scene_figure([still, Lane("bee", 2.0, 4.0, ((0.0, 330.0), (4.0, end)))], 9.0, tmp_path / f"{name}.png")
    one, two, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    with pytest.raises(ValueError, match="lanes must hold at least one sound"):
        scene_figure([], 9.0, tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        scene_figure([still], 9.0, tmp_path / "none.jpg")

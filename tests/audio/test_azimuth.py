"""The direction convention: counter-clockwise degrees, 90 is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualspec.audio.azimuth import (
    LEFT,
    NUM_SECTORS,
    RIGHT,
    azimuth_class,
    check_azimuth_deg,
    circular_error_deg,
    class_azimuth_deg,
    lateral_side,
    mirror_front_back_deg,
    sector_grid_deg,
    wrap_deg,
)

ANGLES = st.floats(-1e6, 1e6)


def test_ears_are_left_then_right() -> None:
    assert (LEFT, RIGHT) == (0, 1)


def test_grid_is_twelve_directions_from_the_front() -> None:
    assert sector_grid_deg() == tuple(float(angle) for angle in range(0, 360, 30))
    assert len(sector_grid_deg()) == NUM_SECTORS
    assert sector_grid_deg(4) == (0.0, 90.0, 180.0, 270.0)


@given(ANGLES)
def test_wrap_lands_in_one_turn_and_keeps_the_direction(angle: float) -> None:
    wrapped = wrap_deg(angle)
    assert 0.0 <= wrapped < 360.0
    assert math.cos(math.radians(wrapped)) == pytest.approx(math.cos(math.radians(angle)), abs=1e-6)
    assert wrap_deg(wrapped) == wrapped


def test_wrap_never_returns_360_for_a_tiny_negative_angle() -> None:
    assert wrap_deg(-1e-20) == 0.0
    assert wrap_deg(np.array([-1e-20, 720.0, -90.0])).tolist() == [0.0, 0.0, 270.0]
    assert wrap_deg(torch.tensor([-1e-20, 720.0, -90.0], dtype=torch.float64)).tolist() == [0.0, 0.0, 270.0]


@given(ANGLES, ANGLES)
def test_circular_error_is_symmetric_and_at_most_180(reference: float, estimate: float) -> None:
    error = circular_error_deg(reference, estimate)
    assert 0.0 <= error <= 180.0
    assert error == circular_error_deg(estimate, reference)
    assert circular_error_deg(reference, reference) == 0.0


def test_circular_error_crosses_the_front() -> None:
    assert circular_error_deg(350.0, 10.0) == 20.0
    assert circular_error_deg(0.0, 180.0) == 180.0
    assert circular_error_deg(np.array([330.0, 90.0]), np.array([0.0, 270.0])).tolist() == [30.0, 180.0]
    assert circular_error_deg(torch.tensor([330, 90]), torch.tensor([0, 270])).tolist() == [30, 180]


@pytest.mark.parametrize("num_sectors", [1, 4, 12, 36, 360])
def test_class_and_azimuth_are_inverse(num_sectors: int) -> None:
    classes = list(range(num_sectors))
    angles = [class_azimuth_deg(sector, num_sectors) for sector in classes]
    assert angles == list(sector_grid_deg(num_sectors))
    assert [azimuth_class(angle, num_sectors) for angle in angles] == classes
    tensor = class_azimuth_deg(torch.arange(num_sectors), num_sectors)
    assert azimuth_class(tensor, num_sectors).tolist() == classes
    array = class_azimuth_deg(np.arange(num_sectors), num_sectors)
    assert azimuth_class(array, num_sectors).tolist() == classes


@given(ANGLES)
def test_class_is_the_nearest_sector_for_every_kind_of_number(angle: float) -> None:
    sector = azimuth_class(angle)
    assert circular_error_deg(class_azimuth_deg(sector), angle) <= 15.0 + 1e-6
    assert azimuth_class(torch.tensor([angle], dtype=torch.float64)).tolist() == [sector]
    assert azimuth_class(np.array([angle])).tolist() == [sector]


def test_class_wraps_at_the_front_and_breaks_ties_counter_clockwise() -> None:
    assert [azimuth_class(angle) for angle in (345.1, 359.9, 0.0, 14.9, 15.0, 345.0)] == [0, 0, 0, 0, 1, 0]
    assert azimuth_class(torch.tensor([90.0])).dtype == torch.int64


@given(ANGLES)
def test_front_back_mirror_undoes_itself_and_keeps_the_side(angle: float) -> None:
    mirrored = mirror_front_back_deg(angle)
    assert circular_error_deg(mirror_front_back_deg(mirrored), angle) < 1e-6
    assert math.sin(math.radians(mirrored)) == pytest.approx(math.sin(math.radians(angle)), abs=1e-6)


def test_mirror_and_side_of_known_directions() -> None:
    assert [mirror_front_back_deg(float(angle)) for angle in (0, 30, 90, 270, 300)] == [180, 150, 90, 270, 240]
    assert [lateral_side(angle) for angle in (0.0, 1.0, 90.0, 179.0, 180.0, 181.0, 270.0, 359.0, -90.0, 360.0)] == [
        "median", "left", "left", "left", "median", "right", "right", "right", "right", "median",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 90, 359.999, np.float32(30), np.int64(270)])
def test_valid_azimuths_pass_the_door(value: float) -> None:
    checked = check_azimuth_deg(value)
    assert isinstance(checked, float) and checked == value and math.copysign(1, checked) == 1


@pytest.mark.parametrize(
    ("value", "hint"),
    [(360, "say 0"), (-90, "say 270"), (720.5, "say 0.5"), (math.nan, "finite"), (math.inf, "finite"),
     ("90", "one number"), (None, "one number"), (True, "one number"), ([90], "one number")],
)  # fmt: skip
def test_invalid_azimuths_are_refused_with_a_hint(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"^azimuth_deg must be .*, got .*{hint}") as caught:
        check_azimuth_deg(value)
    assert "\n" not in str(caught.value)


def test_nothing_invalid_becomes_a_class() -> None:
    for bad in (math.nan, np.array([0.0, math.nan]), torch.tensor([0.0, math.inf])):
        with pytest.raises(ValueError, match="azimuth_deg must be finite"):
            azimuth_class(bad)
    for bad_class in (12, -1, np.array([0, 12]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="azimuth_class must be 0 to 11"):
            class_azimuth_deg(bad_class)
    with pytest.raises(ValueError, match="azimuth_deg must be finite"):
        lateral_side(math.nan)
    for num_sectors in (0, -3, 1.5, True):
        with pytest.raises(ValueError, match="num_sectors must be a whole number"):
            sector_grid_deg(num_sectors)  # type: ignore[arg-type]

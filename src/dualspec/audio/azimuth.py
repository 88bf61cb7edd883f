"""The direction convention, in one place.

Azimuths are degrees on the horizontal plane, counter-clockwise seen from above:
0 is front, 90 is LEFT, 180 is back, 270 is RIGHT (SOFA and HUTUBS convention).
Ears are always ordered left, right.
"""

from __future__ import annotations

import math
import sys
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LEFT = 0
"""Channel index of the left ear."""
RIGHT = 1
"""Channel index of the right ear."""
NUM_SECTORS = 12
"""Number of directions of the paper's grid, 30 degrees apart."""

Angle = TypeVar("Angle", float, np.ndarray, "Tensor")

MEDIAN_TOLERANCE_DEG = 1e-6


def wrap_deg(angle_deg: Angle) -> Angle:
    """Bring any finite angle into [0, 360).

    Args:
        angle_deg: angle, degrees; a number, array or tensor of any shape.

    Returns:
        The same direction in [0, 360), degrees, of the same kind and shape.
    """
    if _is_tensor(angle_deg):
        wrapped: Any = angle_deg.remainder(360)
        return wrapped.where(wrapped < 360, wrapped.new_zeros(()))
    if isinstance(angle_deg, np.ndarray):
        remainder = np.mod(angle_deg, 360)
        return np.where(remainder >= 360, np.zeros_like(remainder), remainder)
    number: Any = float(angle_deg) % 360.0
    return number * (number < 360.0)


def check_azimuth_deg(value: object) -> float:
    """Accept one azimuth at the door, or say what is wrong with it.

    Args:
        value: a real number, degrees.

    Returns:
        The azimuth as a float in [0, 360), degrees.

    Raises:
        ValueError: unless the value is a finite number with 0 <= value < 360.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and 0.0 <= number < 360.0:
            return abs(number)  # -0.0 becomes 0.0
        hint = f"say {wrap_deg(number):g}" if math.isfinite(number) else "give a finite number"
    else:
        hint = "give one number"
    raise ValueError(
        f"azimuth_deg must be a number with 0 <= azimuth_deg < 360, got {value!r:.60}; {hint} "
        "(0 front, 90 left, 270 right)"
    )


def azimuth_name(azimuth_deg: float) -> str:
    """Write an azimuth, degrees, as it stands in names of files: az030, az270, az22.5."""
    return f"az{azimuth_deg:03g}"


def sector_grid_deg(num_sectors: int = NUM_SECTORS) -> tuple[float, ...]:
    """List the azimuths of an even grid that starts at the front.

    Args:
        num_sectors: number of directions on the circle.

    Returns:
        The azimuths, degrees: 0, 30, ..., 330 for twelve sectors.

    Raises:
        ValueError: when num_sectors is not a positive whole number.
    """
    _check_num_sectors(num_sectors)
    return tuple(index * 360.0 / num_sectors for index in range(num_sectors))


@overload
def azimuth_class(azimuth_deg: float, num_sectors: int = ...) -> int: ...
@overload
def azimuth_class(azimuth_deg: np.ndarray, num_sectors: int = ...) -> np.ndarray: ...
@overload
def azimuth_class(azimuth_deg: Tensor, num_sectors: int = ...) -> Tensor: ...
def azimuth_class(
    azimuth_deg: float | np.ndarray | Tensor, num_sectors: int = NUM_SECTORS
) -> int | np.ndarray | Tensor:
    """Find the sector whose centre is nearest; a tie goes counter-clockwise.

    Args:
        azimuth_deg: angle, degrees, any finite value; a number, array or tensor.
        num_sectors: number of sectors on the circle.

    Returns:
        Sector index 0 to num_sectors - 1 (int, int64 array or int64 tensor, same shape); 0 is front.

    Raises:
        ValueError: when an angle is not finite or num_sectors is not positive.

    Paper section IV: twelve azimuth classes, 30 degrees each.
    """
    _check_num_sectors(num_sectors)
    if _is_tensor(azimuth_deg):
        sectors = (azimuth_deg.double() * (num_sectors / 360.0) + 0.5).floor()
        _check_finite(bool(sectors.isfinite().all()))
        return sectors.remainder(num_sectors).long()
    if isinstance(azimuth_deg, np.ndarray):
        indices = np.floor(azimuth_deg.astype(np.float64) * (num_sectors / 360.0) + 0.5)
        _check_finite(bool(np.isfinite(indices).all()))
        return np.mod(indices, num_sectors).astype(np.int64)
    _check_finite(math.isfinite(azimuth_deg))
    return math.floor(azimuth_deg * (num_sectors / 360.0) + 0.5) % num_sectors


@overload
def class_azimuth_deg(azimuth_class: int, num_sectors: int = ...) -> float: ...
@overload
def class_azimuth_deg(azimuth_class: np.ndarray, num_sectors: int = ...) -> np.ndarray: ...
@overload
def class_azimuth_deg(azimuth_class: Tensor, num_sectors: int = ...) -> Tensor: ...
def class_azimuth_deg(
    azimuth_class: int | np.ndarray | Tensor, num_sectors: int = NUM_SECTORS
) -> float | np.ndarray | Tensor:
    """Give the centre azimuth of a sector.

    Args:
        azimuth_class: sector index 0 to num_sectors - 1; an int, integer array or integer tensor.
        num_sectors: number of sectors on the circle.

    Returns:
        Azimuth, degrees (float, float64 array or float32 tensor, same shape).

    Raises:
        ValueError: when an index is outside the grid.
    """
    _check_num_sectors(num_sectors)
    if _is_tensor(azimuth_class):
        inside = bool(((azimuth_class >= 0) & (azimuth_class < num_sectors)).all())
    else:
        inside = bool(np.all((np.asarray(azimuth_class) >= 0) & (np.asarray(azimuth_class) < num_sectors)))
    if not inside:
        raise ValueError(
            f"azimuth_class must be 0 to {num_sectors - 1}, got {azimuth_class!r:.60}; use azimuth_class() to get one"
        )
    if _is_tensor(azimuth_class):
        return azimuth_class.float() * (360.0 / num_sectors)
    if isinstance(azimuth_class, np.ndarray):
        return azimuth_class.astype(np.float64) * (360.0 / num_sectors)
    return float(azimuth_class) * 360.0 / num_sectors


def circular_error_deg(reference_deg: Angle, estimate_deg: Angle) -> Angle:
    """Measure the smaller angle between two directions.

    Args:
        reference_deg: true direction, degrees.
        estimate_deg: found direction, degrees, same kind, broadcastable shape.

    Returns:
        Unsigned error in [0, 180], degrees; symmetric in its arguments.

    Paper Eq. (22).
    """
    difference = wrap_deg(abs(reference_deg - estimate_deg))
    return 180 - abs(180 - difference)


def mirror_front_back_deg(azimuth_deg: Angle) -> Angle:
    """Mirror a direction at the axis through both ears: front and back change places.

    Args:
        azimuth_deg: direction, degrees.

    Returns:
        (180 - azimuth_deg) mod 360, degrees, of the same kind.
    """
    return wrap_deg(180 - azimuth_deg)


def lateral_side(azimuth_deg: float) -> Literal["left", "right", "median"]:
    """Say on which side of the head a direction lies.

    Args:
        azimuth_deg: direction, degrees, any finite value.

    Returns:
        "left" for angles between 0 and 180, "right" between 180 and 360, "median" for front and back.

    Raises:
        ValueError: when the angle is not finite.
    """
    _check_finite(math.isfinite(azimuth_deg))
    angle = wrap_deg(float(azimuth_deg))
    if min(angle, 360.0 - angle, abs(angle - 180.0)) <= MEDIAN_TOLERANCE_DEG:
        return "median"
    return "left" if angle < 180.0 else "right"


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Tell tensors without loading torch: where it is not loaded there are none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _check_num_sectors(num_sectors: int) -> None:
    if isinstance(num_sectors, bool) or not isinstance(num_sectors, int) or num_sectors < 1:
        raise ValueError(f"num_sectors must be a whole number of at least 1, got {num_sectors!r}; the paper uses 12")


def _check_finite(all_finite: bool) -> None:
    if not all_finite:
        raise ValueError("azimuth_deg must be finite, got NaN or infinity; remove such rows first")

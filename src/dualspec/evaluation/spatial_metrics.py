"""Direction of two-eared clips against the direction that was asked for.

Conventions: azimuth in degrees counter-clockwise, 90 = left; ITD negative = left ear first; ILD positive = left
louder. A clip without sound at both ears has no direction: it is counted, and left out of every mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dualspec.audio.azimuth import circular_error_deg, lateral_side, mirror_front_back_deg
from dualspec.hearing.cues import InterauralCues


@dataclass(frozen=True, kw_only=True)
class DirectionRow:
    """Cues of all clips that were asked for one azimuth."""

    azimuth_deg: float
    num_clips: int  # clips asked for
    num_heard: int  # clips with a direction
    itd_us: float  # mean
    ild_db: float  # mean
    coherence: float  # mean
    median_itd_error_us: float  # against the target
    median_ild_error_db: float  # against the target
    target_itd_us: float
    target_ild_db: float


def azimuth_accuracy(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the share of estimates (N,) that equal the reference (N,). Equation (21)."""
    return float((circular_error_deg(reference_deg, estimate_deg) < 1e-6).double().mean())


def azimuth_mae_deg(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the mean circular error of estimates (N,) in degrees. Equation (22)."""
    return float(torch.as_tensor(circular_error_deg(reference_deg, estimate_deg)).double().mean())


def front_back_rate(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the share of clips (N,) heard nearer to the front-back mirror image of the reference than to it."""
    off_axis = ((reference_deg % 180) - 90).abs() > 1e-6
    error = torch.as_tensor(circular_error_deg(reference_deg, estimate_deg))
    mirrored = torch.as_tensor(circular_error_deg(mirror_front_back_deg(reference_deg), estimate_deg))
    return float((mirrored < error)[off_axis].double().mean())


def on_correct_side(azimuths_deg: Tensor, cues: InterauralCues) -> Tensor:
    """Say which clips are both louder and earlier at the ear that faces the source.

    Args:
        azimuths_deg: (N,) asked directions.
        cues: measured, each (N,).

    Returns:
        (N,) float64: 1 yes, 0 no (also where the clip has no cue), NaN on the median plane, which has no such ear.
    """
    sides = [lateral_side(float(azimuth)) for azimuth in azimuths_deg]
    sign = torch.tensor([{"left": 1.0, "right": -1.0, "median": float("nan")}[side] for side in sides]).double()
    correct = (sign * cues.ild_db > 0) & (sign * cues.itd_us < 0)
    return torch.where(sign.isnan(), sign, correct.double())


def direction_table(azimuths_deg: Tensor, cues: InterauralCues, targets: InterauralCues) -> list[DirectionRow]:
    """Average the cues per asked azimuth.

    Args:
        azimuths_deg: (N,) asked directions.
        cues: measured, each (N,).
        targets: what the head gives at those directions, each (N,).

    Returns:
        One row per azimuth, rising.
    """
    rows = []
    for azimuth in azimuths_deg.unique(sorted=True):
        chosen = azimuths_deg == azimuth
        heard = chosen & cues.audible & cues.timed
        itd, ild = cues.itd_us[heard], cues.ild_db[heard]
        rows.append(
            DirectionRow(
                azimuth_deg=float(azimuth),
                num_clips=int(chosen.sum()),
                num_heard=int(heard.sum()),
                itd_us=float(itd.mean()),
                ild_db=float(ild.mean()),
                coherence=float(cues.coherence[heard].mean()),
                median_itd_error_us=float((itd - targets.itd_us[heard]).abs().nanmedian()),
                median_ild_error_db=float((ild - targets.ild_db[heard]).abs().nanmedian()),
                target_itd_us=float(targets.itd_us[chosen].nanmean()),
                target_ild_db=float(targets.ild_db[chosen].nanmean()),
            )
        )
    return rows

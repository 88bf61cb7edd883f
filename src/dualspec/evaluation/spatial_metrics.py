"""Direction of two-eared clips against the direction that was asked for.

Conventions: the reference comes first; azimuth in degrees counter-clockwise, 90 = left; ITD negative = left ear first;
ILD positive = left louder. A clip without sound at both ears has no direction: it is counted, and left out of every
mean.
"""

import torch
from torch import Tensor

from dualspec.audio.azimuth import NUM_SECTORS, azimuth_class, circular_error_deg, lateral_side, mirror_front_back_deg
from dualspec.hearing.cues import InterauralCues, cue_errors


def validate(reference_deg: Tensor, estimate_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Check directions (N,) and (N,), degrees, N of 1 or more, and bring them to float64.

    Raises:
        ValueError: other shapes, no clip, or an angle that is not finite.
    """
    if reference_deg.ndim != 1 or reference_deg.shape != estimate_deg.shape or len(reference_deg) == 0:
        raise ValueError(
            f"directions must be two lists of one length of 1 or more, got {tuple(reference_deg.shape)} and "
            f"{tuple(estimate_deg.shape)}; judge clips that can be heard"
        )
    if not bool(torch.isfinite(reference_deg).all() and torch.isfinite(estimate_deg).all()):
        raise ValueError("directions must be finite, got NaN or infinity; leave clips without a direction out")
    return reference_deg.double(), estimate_deg.double()


def azimuth_accuracy(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the share of estimates (N,) that lie in the reference's sector of 30 degrees. Equation (21).

    An estimate within half a sector of the reference is right, too: a reference at a border, or a judge that hears more
    finely than in sectors, is not called wrong for the sector's sake.
    """
    return float(_is_right(*validate(reference_deg, estimate_deg)).double().mean())


def _is_right(reference_deg: Tensor, estimate_deg: Tensor) -> Tensor:
    is_near = circular_error_deg(reference_deg, estimate_deg) <= 180.0 / NUM_SECTORS + 1e-6
    return is_near | (azimuth_class(reference_deg) == azimuth_class(estimate_deg))


def azimuth_mae_deg(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the mean circular error of estimates (N,) in degrees. Equation (22)."""
    return float(circular_error_deg(*validate(reference_deg, estimate_deg)).mean())


def _errors(reference_deg: Tensor, estimate_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Return the circular errors (N,) in degrees to the reference and to its front-back mirror image."""
    reference, estimate = validate(reference_deg, estimate_deg)
    return circular_error_deg(reference, estimate), circular_error_deg(mirror_front_back_deg(reference), estimate)


def front_back_rate(reference_deg: Tensor, estimate_deg: Tensor) -> float:
    """Return the share of clips (N,) heard nearer to the front-back mirror image of the reference than to it.

    Clips at 90 and 270 degrees are their own mirror image and do not count; NaN where there are no others.
    """
    direct, mirrored = _errors(reference_deg, estimate_deg)
    off_axis = ((reference_deg.double() % 180) - 90).abs() > 1e-6
    return float((mirrored < direct)[off_axis].double().mean())


def folded_error_deg(reference_deg: Tensor, estimate_deg: Tensor) -> Tensor:
    """Return the circular error (N,) in degrees to the nearer one of the reference and its front-back mirror image."""
    return torch.minimum(*_errors(reference_deg, estimate_deg))


def confusion_matrix(reference_deg: Tensor, estimate_deg: Tensor) -> Tensor:
    """Count clips (12, 12) by the sector of the reference (row) and of the estimate (column).

    What `azimuth_accuracy` calls right stands on the diagonal, in the estimate's sector.
    """
    reference, estimate = validate(reference_deg, estimate_deg)
    columns = azimuth_class(estimate)
    rows = torch.where(_is_right(reference, estimate), columns, azimuth_class(reference))
    return torch.bincount(rows * NUM_SECTORS + columns, minlength=NUM_SECTORS**2).reshape(NUM_SECTORS, NUM_SECTORS)


def evaluate(reference_deg: Tensor, estimate_deg: Tensor, expectation_deg: Tensor) -> dict[str, float]:
    """Compute all metrics of what a localizer says.

    Args:
        reference_deg: (N,) asked directions.
        estimate_deg: (N,) centres of the most probable sectors.
        expectation_deg: (N,) mean directions over the sectors' probabilities (decision 25).

    Returns:
        "azimuth_accuracy", "azimuth_mae_deg", "expectation_mae_deg", "folded_mae_deg", and "front_back_rate" if a clip
        has a mirror image.
    """
    result = {
        "azimuth_accuracy": azimuth_accuracy(reference_deg, estimate_deg),
        "azimuth_mae_deg": azimuth_mae_deg(reference_deg, estimate_deg),
        "expectation_mae_deg": azimuth_mae_deg(reference_deg, expectation_deg),
        "folded_mae_deg": float(folded_error_deg(reference_deg, estimate_deg).mean()),
    }
    mirrored = front_back_rate(reference_deg, estimate_deg)
    return result if mirrored != mirrored else result | {"front_back_rate": mirrored}


def cue_error_medians(reference: InterauralCues, estimate: InterauralCues) -> dict[str, float]:
    """Return the medians over clips of the errors of cues, each (N,); a cue that no clip has is absent."""
    medians = {name: float(values.nanmedian()) for name, values in vars(cue_errors(reference, estimate)).items()}
    return {name: value for name, value in medians.items() if value == value}


def on_correct_side(azimuths_deg: Tensor, cues: InterauralCues) -> Tensor:
    """Say which clips are both louder and earlier at the ear that faces the asked azimuths (N,).

    Returns:
        (N,) float64: 1 yes, 0 no (also where the clip has no cue), NaN on the median plane, which has no such ear.
    """
    sides = [lateral_side(float(azimuth)) for azimuth in azimuths_deg]
    sign = torch.tensor([{"left": 1.0, "right": -1.0, "median": float("nan")}[side] for side in sides]).double()
    correct = (sign * cues.ild_db > 0) & (sign * cues.itd_us < 0)
    return torch.where(sign.isnan(), sign, correct.double())


def direction_table(azimuths_deg: Tensor, cues: InterauralCues, targets: InterauralCues) -> list[dict[str, float]]:
    """Average the cues, each (N,), and what they should be, per asked azimuth (N,).

    Returns:
        One row per azimuth, rising: clips asked for and those with a direction, means of cues, medians of errors
        against the target, and the target's means. NaN where there is nothing to average.
    """
    rows = []
    for azimuth in azimuths_deg.unique(sorted=True):
        chosen = azimuths_deg == azimuth
        heard = chosen & cues.audible & cues.timed
        itd, ild = cues.itd_us[heard], cues.ild_db[heard]
        row = {
            "azimuth_deg": azimuth,
            "num_clips": chosen.sum(),
            "num_heard": heard.sum(),
            "itd_us": itd.mean(),
            "ild_db": ild.mean(),
            "coherence": cues.coherence[heard].mean(),
            "median_itd_error_us": (itd - targets.itd_us[heard]).abs().nanmedian(),
            "median_ild_error_db": (ild - targets.ild_db[heard]).abs().nanmedian(),
            "target_itd_us": targets.itd_us[chosen].nanmean(),
            "target_ild_db": targets.ild_db[chosen].nanmean(),
        }
        rows.append({name: value.item() for name, value in row.items()})
    return rows

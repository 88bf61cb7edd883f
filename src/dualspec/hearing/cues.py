"""Interaural cues of two-eared sound: time difference (ITD), level difference (ILD) and coherence.

Signs: ITD is negative when the left ear hears first, ILD is positive when the left ear is louder; a source on the left
has both. The ITD is the lag of the highest cross-correlation within ±1 ms in 150 to 1200 Hz, where a head delays
waves without ambiguity. The correlation is taken over the whole clip, so that silence weighs nothing, and is
partly whitened (each frequency's weight is its smoothed power to the power 1 - 0.75): a loud tone then does not decide
alone, the lag depends little on the source's spectrum, and bands that hold only faint noise still count little. The
coherence is the highest normalised cross-correlation without whitening.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.hearing.correlation import MAX_LAG_S, BandSpectra, band_spectra, highest_lag

if TYPE_CHECKING:
    from dualspec.audio.hrir import HrirMethod, HrirSet

CUES = ("itd_us", "ild_db", "coherence", "audible", "timed")
"""What `InterauralCues` holds, in its order."""
TIMING_BAND_HZ = (150.0, 1200.0)
"""Band in which ITD and coherence are measured."""
FINE_STRUCTURE_LIMIT_HZ = 1500.0
"""Above this a band's waves are shorter than the head, and its ITD is left out."""
SILENCE_POWER = 1e-10
"""Mean square below which an ear is silent: -100 dB re full scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InterauralCues:
    """Cues of each clip (...) or of each band of each clip (..., K), float64; NaN where a mask says there are none."""

    itd_us: Tensor  # arrival at the left ear minus arrival at the right ear, microseconds: negative = left first
    ild_db: Tensor  # level of the left ear minus level of the right ear, dB: positive = left louder
    coherence: Tensor  # highest normalised cross-correlation within 1 ms, 0 to 1
    audible: Tensor  # bool: both ears hold sound, so there is an ILD
    timed: Tensor  # bool: both ears hold sound where waves can be timed, so there is an ITD


@dataclass(frozen=True, kw_only=True, eq=False)
class CueErrors:
    """Absolute differences of cues, same shapes, float64; NaN where either side has no such cue."""

    itd_error_us: Tensor
    ild_error_db: Tensor
    coherence_error: Tensor


def interaural_cues(
    waveform: Tensor, sample_rate: int, *, band_hz: tuple[float, float] = TIMING_BAND_HZ, allow_silent: bool = False
) -> InterauralCues:
    """Measure ITD and coherence in one band, and the broadband ILD.

    Args:
        waveform: (..., 2, S), channel 0 left, in [-1, 1].
        sample_rate: Hz.
        band_hz: edges of the band for ITD and coherence, Hz; the ILD is always broadband.
        allow_silent: give NaN and a false mask for clips with a silent ear, instead of refusing them.

    Returns:
        Cues of shape (...). A clip with sound, but none in the band, has an ILD and no ITD or coherence.

    Raises:
        ValueError: the waveform must have two finite ears, both audible unless allow_silent; the band must fit.
    """
    flat, lead = _flatten(waveform, sample_rate, [band_hz])
    power = flat.square().mean(-1)
    audible = (power >= SILENCE_POWER).all(-1)
    if not (allow_silent or bool(audible.all())):
        raise ValueError(
            f"waveform must be audible in both ears (above -100 dB), got silence in clip "
            f"{int((~audible).nonzero()[0])} of {len(audible)}; leave silent clips out"
        )
    view = band_spectra(flat, sample_rate, band_hz)
    timed = audible & view.present
    limit = torch.full((len(flat),), MAX_LAG_S, dtype=torch.float64, device=flat.device)
    itd_s, _ = highest_lag(view.whitened(), view.frequency, -limit, limit)
    cues = InterauralCues(
        itd_us=_only(itd_s * 1e6, timed),
        ild_db=_only(10.0 * (power[:, LEFT] / power[:, RIGHT]).log10(), audible),
        coherence=_only(_coherence(view), timed),
        audible=audible,
        timed=timed,
    )
    return _reshape(cues, lead)


def audible(waveform: Tensor) -> Tensor:
    """Tell which clips (..., 2, S), in [-1, 1], can be judged: (...) bool, both ears are above -100 dB re full scale.

    Raises:
        ValueError: the waveform must have two finite ears.
    """
    flat, lead = _flatten(waveform)
    return (flat.square().mean(-1) >= SILENCE_POWER).all(-1).reshape(lead)


def erb_edges_hz(low_hz: float = 100.0, high_hz: float = 7500.0, num_bands: int = 24) -> tuple[float, ...]:
    """Divide a range into K bands of equal width on the ear's own (ERB-rate) scale; return K + 1 ascending edges, Hz.

    Raises:
        ValueError: unless 0 < low_hz < high_hz and there is at least one band.

    B. R. Glasberg and B. C. J. Moore, "Derivation of auditory filter shapes from notched-noise data", Hear. Res.,
    vol. 47, 1990.
    """
    if not 0.0 < low_hz < high_hz < math.inf or num_bands < 1:
        raise ValueError(
            f"bands must be at least 1 with 0 < low_hz < high_hz, got {num_bands} from {low_hz} to {high_hz} Hz; "
            "24 from 100 to 7500 are usual"
        )
    first, last = (math.log10(1.0 + 0.00437 * edge) for edge in (low_hz, high_hz))
    rates = [first + (last - first) * index / num_bands for index in range(num_bands + 1)]
    return tuple((10.0**rate - 1.0) / 0.00437 for rate in rates)


def band_cues(
    waveform: Tensor, sample_rate: int, *, edges_hz: Sequence[float] | None = None, allow_silent: bool = False
) -> InterauralCues:
    """Measure the cues (..., K) of clips (..., 2, S), channel 0 left, band by band.

    A narrow band's correlation has several equal peaks; the one within half a period of the broadband ITD is taken.
    Bands centred above 1500 Hz have no ITD; a band that holds less than a millionth of an ear's power has no cues. The
    K + 1 edges ascend; None stands for 24 ERB bands from 100 Hz up.

    Raises:
        ValueError: as `interaural_cues`; edges must ascend, and each band must hold a frequency of the transform.
    """
    if edges_hz is None:
        edges_hz = erb_edges_hz(high_hz=min(7500.0, 0.47 * sample_rate))
    bands = list(pairwise(edges_hz))
    flat, lead = _flatten(waveform, sample_rate, bands)
    whole = interaural_cues(flat, sample_rate, allow_silent=allow_silent)
    centre_s = torch.where(whole.timed, whole.itd_us, 0.0) * 1e-6
    columns = [_one_band(flat, sample_rate, band, whole.audible, centre_s) for band in bands]
    joined = (torch.stack(column, dim=-1) for column in zip(*columns, strict=True))
    return _reshape(InterauralCues(**dict(zip(CUES, joined, strict=True))), (*lead, len(bands)))


def target_cues(
    hrir_set: HrirSet, azimuths_deg: Tensor | Sequence[float], *, method: HrirMethod = "nearest"
) -> InterauralCues:
    """Measure the cues (N,) that a head gives to a source with a flat spectrum at the azimuths (N,), degrees.

    Level and delay of a head vary with frequency: for another sound, measure that sound rendered, or see
    `proof.HeadCues.targets`.

    Raises:
        ValueError: a direction is not in the set; `HrirSet.at` says how directions between measured ones are served.
    """
    return interaural_cues(hrir_set.at(azimuths_deg, method=method), hrir_set.sample_rate)


def cue_errors(reference: InterauralCues, estimate: InterauralCues) -> CueErrors:
    """Compare measured cues with wanted ones of broadcastable shape."""
    return CueErrors(
        itd_error_us=(estimate.itd_us - reference.itd_us).abs(),
        ild_error_db=(estimate.ild_db - reference.ild_db).abs(),
        coherence_error=(estimate.coherence - reference.coherence).abs(),
    )


def _one_band(
    flat: Tensor, sample_rate: int, band_hz: tuple[float, float], heard: Tensor, centre_s: Tensor
) -> tuple[Tensor, ...]:
    """Return itd_us, ild_db, coherence, audible and timed, each (N,), of one band."""
    view = band_spectra(flat, sample_rate, band_hz)
    middle_hz = 0.5 * (band_hz[0] + band_hz[1])
    present = heard & view.present
    timed = present & (middle_hz <= FINE_STRUCTURE_LIMIT_HZ)
    limit, reach = MAX_LAG_S, 0.5 / middle_hz
    low, high = (centre_s - reach).clamp(min=-limit), (centre_s + reach).clamp(max=limit)
    itd_s, _ = highest_lag(view.whitened(), view.frequency, low, high)
    level = 10.0 * (view.power[:, LEFT] / view.power[:, RIGHT]).log10()
    return _only(itd_s * 1e6, timed), _only(level, present), _only(_coherence(view), present), present, timed


def _coherence(view: BandSpectra) -> Tensor:
    limit = torch.full_like(view.power[:, 0], MAX_LAG_S)
    _, height = highest_lag(view.cross(), view.frequency, -limit, limit)
    scale = (view.power[:, LEFT] * view.power[:, RIGHT]).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return (height / scale).clamp(0.0, 1.0)


def _flatten(
    waveform: Tensor, sample_rate: int | None = None, bands_hz: Sequence[tuple[float, float]] = ()
) -> tuple[Tensor, torch.Size]:
    """Check the input and return it as float64 (N, 2, S) with the leading shape."""
    if waveform.ndim < 2 or waveform.shape[-2] != 2 or waveform.shape[-1] < 1 or not waveform.is_floating_point():
        raise ValueError(
            f"waveform must be floating point with shape (..., 2, S), got {waveform.dtype} {tuple(waveform.shape)}; "
            "cues need a left and a right ear"
        )
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError("waveform must be finite, got NaN or infinity; look for the fault where it was made")
    for low, high in bands_hz:
        if sample_rate is None or not 0.0 < low < high <= sample_rate / 2:
            raise ValueError(
                f"band_hz must ascend between 0 and half of the sample rate ({sample_rate} Hz), got {(low, high)}; "
                "lower the band or use a higher rate"
            )
    return waveform.double().reshape(-1, 2, waveform.shape[-1]), waveform.shape[:-2]


def _only(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, math.nan)


def _reshape(cues: InterauralCues, shape: Sequence[int]) -> InterauralCues:
    return InterauralCues(**{name: value.reshape(tuple(shape)) for name, value in vars(cues).items()})

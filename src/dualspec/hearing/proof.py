"""Proof of direction: where a two-eared clip is heard, and how far its cues are from those of a head.

All that is known of a head here are its cues, a few hundred numbers in `HeadCues`: no response and no renderer is read.
A level difference depends on the sound (ears differ most at high frequencies), so it is stored by bands, and a clip is
held against what the head would give to the clip's own spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dualspec.arithmetic import own_arithmetic
from dualspec.audio.azimuth import (
    LEFT,
    RIGHT,
    circular_error_deg,
    class_azimuth_deg,
    mirror_front_back_deg,
    sector_grid_deg,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dualspec.audio.hrir import HrirSet
    from dualspec.hearing.cues import InterauralCues
    from dualspec.hearing.localizer import Localizer

NO_ANSWER = "silent in at least one ear"
_COARSEST_BIN_HZ = 4.0
_TIED_DEG = 1e-6
_ERRORS = {"itd_us": "itd_error_us", "ild_db": "ild_error_db", "coherence": "coherence_error"}
_ANSWERS = (
    *("no_answer", "heard_deg", "confidence", "expectation_deg", "error_deg", "front_back_confused"),
    *_ERRORS,
    *_ERRORS.values(),
)


@dataclass(frozen=True, kw_only=True)
class HeadCues:
    """Cues that one head gives to sound from a ring of directions; degrees counter-clockwise, 90 left."""

    name: str  # of the head, short
    licence: str  # of the data that it comes from
    sha256: str | None  # of the SOFA file; None for a computed head
    azimuths_deg: tuple[float, ...]  # (A,) ascending, degrees
    itd_us: tuple[float, ...]  # (A,) for a flat spectrum, negative = left first; it hardly depends on the sound
    coherence: tuple[float, ...]  # (A,) for a flat spectrum, 0 to 1
    edges_hz: tuple[float, ...]  # (K + 1,) ascending band edges, Hz
    ild_db: tuple[tuple[float, ...], ...]  # (A, K) level of the left ear minus level of the right ear in each band, dB

    def __post_init__(self) -> None:
        """Refuse tables of another length, and axes that do not ascend."""
        sizes = [len(self.itd_us), len(self.coherence), len(self.ild_db)]
        if not self.azimuths_deg or sizes != [len(self.azimuths_deg)] * 3:
            raise ValueError(f"tables must have one row per direction, got {len(self.azimuths_deg)} and {sizes}")
        if {len(row) for row in self.ild_db} != {len(self.edges_hz) - 1}:
            raise ValueError(f"ild_db must have {len(self.edges_hz) - 1} bands in each row, got others; restore it")
        for name in ("azimuths_deg", "edges_hz"):
            if any(high <= low for low, high in pairwise(getattr(self, name))):
                raise ValueError(f"{name} must ascend, got {getattr(self, name)}; sort it")

    def targets(self, waveform: Tensor, sample_rate: int, azimuths_deg: Sequence[float]) -> InterauralCues:
        """Say which cues (N,) this head would give, at azimuths (N,), to the very sounds of clips (N, 2, S)."""
        return self.targets_of(band_powers(waveform, sample_rate, self.edges_hz).sum(-2), azimuths_deg)

    def targets_of(self, power: Tensor, azimuths_deg: Sequence[float]) -> InterauralCues:
        """Say which cues (N,) this head would give, at azimuths (N,), to sounds of known spectra.

        In each band a head shares out the sound's power (N, K), of both ears together and up to a factor, by its level
        difference there; the sum over the bands is the broadband level difference, and without sound there is none.
        Between the stored directions all cues are interpolated linearly.
        """
        import torch

        from dualspec.hearing.cues import InterauralCues

        itd_us, share, coherence = (torch.from_numpy(table) for table in self.between(azimuths_deg))
        everywhere = torch.ones(len(power), dtype=torch.bool)
        ild_db = 10.0 * ((power * share).sum(-1) / (power * (1.0 - share)).sum(-1)).log10()
        return InterauralCues(itd_us=itd_us, ild_db=ild_db, coherence=coherence, audible=everywhere, timed=everywhere)

    def between(self, azimuths_deg: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ITD (N,), the left ear's share of a sound's power in each band (N, K), and coherence (N,) at azimuths.

        Between the stored directions all are interpolated linearly, the share as the level difference.
        """
        tables = (np.array(self.itd_us)[None], np.array(self.ild_db).T, np.array(self.coherence)[None])
        itd_us, ild_db, coherence = (
            np.stack([np.interp(azimuths_deg, self.azimuths_deg, row, period=360.0) for row in table], axis=-1)
            for table in tables
        )
        return itd_us[:, 0], 1.0 / (1.0 + 10.0 ** (-0.1 * ild_db)), coherence[:, 0]


def band_edges_hz(sample_rate: int) -> tuple[float, ...]:
    """Return the edges (K + 1,) of 24 bands, equally wide on the ERB-rate scale, from 20 Hz to half the sample rate."""
    from dualspec.hearing.cues import erb_edges_hz

    return tuple(round(edge, 2) for edge in erb_edges_hz(20.0, sample_rate / 2, 24))


def measure_head(
    hrir_set: HrirSet, *, sha256: str | None = None, azimuths_deg: Sequence[float] | None = None
) -> HeadCues:
    """Measure the cues of a head in the bands of `band_edges_hz`, rounded to 0.01 µs, 0.001 dB and 0.0001.

    Azimuths (A,) ascend; None takes the twelve of the grid. Between measured directions the responses are interpolated.
    """
    from dualspec.hearing.cues import target_cues

    azimuths = sector_grid_deg() if azimuths_deg is None else tuple(azimuths_deg)
    flat = target_cues(hrir_set, azimuths, method="interpolate")
    edges_hz = band_edges_hz(hrir_set.sample_rate)
    power = band_powers(hrir_set.at(azimuths, method="interpolate"), hrir_set.sample_rate, edges_hz)
    ild_db = 10.0 * (power[:, LEFT] / power[:, RIGHT]).log10()
    return HeadCues(
        name=hrir_set.name,
        licence=hrir_set.licence,
        sha256=sha256,
        azimuths_deg=azimuths,
        itd_us=tuple(round(value, 2) for value in flat.itd_us.tolist()),
        coherence=tuple(round(value, 4) for value in flat.coherence.tolist()),
        edges_hz=edges_hz,
        ild_db=tuple(tuple(round(value, 3) for value in row) for row in ild_db.tolist()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectionJudge:
    """Who proves directions: a localizer that answers, and a head whose cues are the target."""

    localizer: Localizer
    facts: dict[str, Any]  # of the localizer, JSON values: name, SHA-256, warning
    target: HeadCues

    @own_arithmetic()
    def hear(self, waveform: Tensor | np.ndarray, sample_rate: int, asked_deg: float | None = None) -> dict[str, Any]:
        """Prove where one clip is.

        Args:
            waveform: (2, S), channel 0 left, in [-1, 1].
            sample_rate: Hz; other rates than the localizer's are resampled.
            asked_deg: direction that was asked for, degrees; None measures without comparing.

        Returns:
            JSON values: azimuths in degrees, confidence, `front_back_confused` (heard on the other side of the axis
            through the ears), the three cues and their absolute errors against the target. What cannot be said is
            None; a clip with a silent ear has no answer at all, and `no_answer` says why.
        """
        import torch

        from dualspec.audio.waveform import resample
        from dualspec.hearing.cues import audible, interaural_cues

        rate = self.localizer.config.sample_rate
        clip = resample(torch.as_tensor(waveform), sample_rate, rate)[None]
        if not bool(audible(clip)):
            return proof_block(self.facts, self.target, asked_deg, None)
        result = self.localizer.predict(clip.to(_device_of(self.localizer)), rate)
        heard = float(result.azimuth_deg), float(result.confidence), float(result.expectation_deg)
        wanted = None if asked_deg is None else _three(self.target.targets(clip, rate, [asked_deg]))
        return proof_block(self.facts, self.target, asked_deg, heard, _three(interaural_cues(clip, rate)), wanted)


def proof_block(
    facts: dict[str, Any],
    target: HeadCues,
    asked_deg: float | None,
    heard: tuple[float, float, float] | None,
    cues: Mapping[str, float] | None = None,
    wanted: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Say in JSON values where a clip is, as `DirectionJudge.hear` describes.

    Args:
        facts: of the localizer.
        target: the head.
        asked_deg: direction that was asked for, degrees.
        heard: azimuth in degrees, confidence and expectation in degrees; None if an ear is silent.
        cues: itd_us, ild_db and coherence of the clip.
        wanted: those of the head for this clip at the asked direction.
    """
    block: dict[str, Any] = {"asked_deg": asked_deg} | dict.fromkeys(_ANSWERS)
    block |= {"localizer": facts, "target": {"name": target.name, "sha256": target.sha256}}
    if heard is None or cues is None:
        return block | {"no_answer": NO_ANSWER}
    heard_deg, confidence, expectation_deg = heard
    block |= {"heard_deg": heard_deg, "confidence": round(confidence, 4), "expectation_deg": round(expectation_deg, 2)}
    block |= {name: _number(value) for name, value in cues.items()}
    if asked_deg is not None and wanted is not None:
        block["error_deg"] = circular_error_deg(asked_deg, heard_deg)
        block["front_back_confused"] = front_back_confused(asked_deg, heard_deg)
        for name, error in _ERRORS.items():
            block[error] = _number(abs(cues[name] - wanted[name]))
    return block


def placement_scores(
    localizer: Localizer, waveform: Tensor, sample_rate: int, asked_deg: Sequence[float]
) -> list[float | None]:
    """Score how well clips (N, 2, S) are placed: the mean cosine between where each is heard and was asked for (N,).

    The localizer chooses by it; whoever reports afterwards must be another one.

    Returns:
        For each clip the mean over the sectors, weighted by probability: 1 surely there, -1 surely opposite; None for a
        clip with a silent ear.
    """
    import torch

    from dualspec.audio.waveform import resample
    from dualspec.hearing.cues import audible

    clips = resample(waveform, sample_rate, localizer.config.sample_rate)
    scores: list[float | None] = [None] * len(clips)
    rows = audible(clips).nonzero().flatten().tolist()
    if rows:
        found = localizer.predict(clips[rows].to(_device_of(localizer)), localizer.config.sample_rate).probabilities
        centres = class_azimuth_deg(torch.arange(found.shape[-1]), found.shape[-1]).double()
        for row, probabilities in zip(rows, found.cpu(), strict=True):
            cosine = torch.deg2rad(centres - asked_deg[row]).cos()
            scores[row] = round(float((probabilities * cosine).sum()), 6)
    return scores


def front_back_confused(asked_deg: float, heard_deg: float) -> bool | None:
    """Say whether a direction was heard nearer to the front-back mirror image of what was asked for than to it.

    None where the asked direction lies on the axis through the ears, which has no front or back. Degrees.
    """
    mirrored = mirror_front_back_deg(asked_deg)
    if circular_error_deg(asked_deg, mirrored) < _TIED_DEG:
        return None
    return circular_error_deg(mirrored, heard_deg) < circular_error_deg(asked_deg, heard_deg) - _TIED_DEG


def band_powers(waveform: Tensor, sample_rate: int, edges_hz: Sequence[float]) -> Tensor:
    """Return the energy (..., K) of sounds (..., S) in each band, float64, up to a common factor."""
    import torch

    num_samples = max(waveform.shape[-1], round(sample_rate / _COARSEST_BIN_HZ))
    spectrum = torch.fft.rfft(waveform.double(), n=num_samples)
    sums = torch.nn.functional.pad((spectrum.real.square() + spectrum.imag.square()).cumsum(-1), (1, 0))
    places = [min(round(edge * num_samples / sample_rate), spectrum.shape[-1]) for edge in edges_hz]
    return sums[..., places].diff(dim=-1)


def _device_of(localizer: Localizer) -> torch.device:
    return next(localizer.parameters()).device


def _three(cues: InterauralCues) -> dict[str, float]:
    return {name: float(getattr(cues, name)) for name in _ERRORS}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)

"""A folder of clips with their records → figures of direction, as JSON and as a Markdown table.

A record is the JSON that lies beside a clip; "azimuth" says what was asked for. Any system's output can be judged: all
that is read is sound files and records.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.hrir import HrirSet
from dualspec.audio.waveform import read_waveform
from dualspec.evaluation.signal_metrics import log_mel_distance
from dualspec.evaluation.spatial_metrics import (
    DirectionRow,
    azimuth_accuracy,
    azimuth_mae_deg,
    direction_table,
    front_back_rate,
    on_correct_side,
)
from dualspec.files import read_json
from dualspec.hearing.cues import InterauralCues, interaural_cues, target_cues
from dualspec.hearing.localizer import Localizer

MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """One clip of a folder."""

    name: str  # file name
    azimuth_deg: float  # asked for
    waveform: Tensor  # (2, S)


def read_clips(folder: Path, sample_rate: int = 16_000) -> list[JudgedClip]:
    """Read all clips of a folder that have a record with an azimuth; clips marked "rendered" are left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no clip with an azimuth, or a clip has not two ears or another rate.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; generate clips into it first")
    clips = []
    for record_path in sorted(folder.glob("*.json")):
        record = read_json(record_path, max_bytes=MAX_RECORD_BYTES)
        azimuth = record.get("azimuth") if isinstance(record, dict) else None
        if not isinstance(azimuth, dict) or record.get("rendered"):
            continue
        sounds = [path for path in (record_path.with_suffix(s) for s in (".wav", ".flac")) if path.is_file()]
        if not sounds:
            raise FileNotFoundError(f"no sound beside {record_path}; restore it or remove the record")
        waveform, rate = read_waveform(sounds[0])
        if waveform.shape[0] != 2 or rate != sample_rate:
            raise ValueError(
                f"{sounds[0]} must have two channels at {sample_rate} Hz, got {waveform.shape[0]} at {rate} Hz; "
                "judge clips as they were generated"
            )
        clips.append(JudgedClip(name=sounds[0].name, azimuth_deg=float(azimuth["azimuth_deg"]), waveform=waveform))
    if not clips:
        raise ValueError(f"{folder} must hold clips with records that name an azimuth, got none; generate some into it")
    return clips


def judge_direction(
    clips: list[JudgedClip],
    *,
    hrir_set: HrirSet | None = None,
    references: dict[str, JudgedClip] | None = None,
    localizer: Localizer | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Measure where clips are, against what was asked for.

    Args:
        clips: the clips.
        hrir_set: the head whose cues for white noise are the target, unless there are references.
        references: the true clips by file name; then their own cues are the target.
        localizer: adds accuracy, mean absolute error and front-back rate.
        batch_size: clips measured at once.

    Returns:
        JSON values: counts, shares, medians, and "rows" per azimuth.
    """
    azimuths = torch.tensor([clip.azimuth_deg for clip in clips], dtype=torch.float64)
    cues = _join(_cues(batch) for batch in _batches(clips, batch_size))
    if references is not None:
        paired = [_paired(clip, references) for clip in clips]
        targets = _join(_cues(batch) for batch in _batches(paired, batch_size))
        mel_error = _mel_error(paired, clips, batch_size)
    elif hrir_set is not None:
        targets = target_cues(hrir_set, azimuths.tolist(), method="interpolate")
    else:
        raise ValueError("a target must be given, got neither a head nor references; name one of them")
    rows = direction_table(azimuths, cues, targets)
    sides = on_correct_side(azimuths, cues)
    heard = cues.audible & cues.timed
    result: dict[str, Any] = {
        "num_clips": len(clips),
        "num_heard": int(heard.sum()),
        "target": "the reference clips" if references is not None else f"white noise through {hrir_set.name}",  # type: ignore[union-attr]
        "num_lateral": int((~sides.isnan()).sum()),
        "share_louder_and_earlier_at_the_correct_ear": _number(sides.nanmean()),
        "median_itd_error_us": _number((cues.itd_us - targets.itd_us).abs().nanmedian()),
        "median_ild_error_db": _number((cues.ild_db - targets.ild_db).abs().nanmedian()),
        "median_coherence": _number(cues.coherence.nanmedian()),
        "rows": [asdict(row) for row in rows],
    }
    if references is not None:
        result["median_log_mel_error_neper"] = _number(mel_error.median())
    if localizer is not None:
        result |= _localized(clips, azimuths, heard, localizer, batch_size)
    return result


def _localized(
    clips: list[JudgedClip], azimuths: Tensor, heard: Tensor, localizer: Localizer, batch_size: int
) -> dict[str, Any]:
    """Accuracy, mean absolute error and front-back rate over the clips that can be judged. Equations (21), (22)."""
    chosen = [clip for clip, ok in zip(clips, heard.tolist(), strict=True) if ok]
    wanted = azimuths[heard]
    found = torch.cat(
        [
            localizer.predict(torch.stack([clip.waveform for clip in batch]), localizer.config.sample_rate).azimuth_deg
            for batch in _batches(chosen, batch_size)
        ]
    ).cpu()
    return {
        "num_localized": len(chosen),
        "azimuth_accuracy": _number(azimuth_accuracy(wanted, found)),
        "azimuth_mae_deg": _number(azimuth_mae_deg(wanted, found)),
        "front_back_rate": _number(front_back_rate(wanted, found)),
    }


def markdown_table(rows: list[dict[str, Any]] | list[DirectionRow]) -> str:
    """Write the rows of a direction table as Markdown: mean cues per azimuth beside the target's."""
    lines = [
        "| azimuth | clips | ITD µs | target | ILD dB | target | coherence | ITD error µs | ILD error dB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = asdict(row) if isinstance(row, DirectionRow) else row
        lines.append(
            f"| {values['azimuth_deg']:.0f} | {values['num_heard']} of {values['num_clips']} "
            f"| {values['itd_us']:.0f} | {values['target_itd_us']:.0f} "
            f"| {values['ild_db']:.1f} | {values['target_ild_db']:.1f} | {values['coherence']:.2f} "
            f"| {values['median_itd_error_us']:.0f} | {values['median_ild_error_db']:.1f} |"
        )
    return "\n".join(lines)


def _mel_error(references: list[JudgedClip], clips: list[JudgedClip], batch_size: int) -> Tensor:
    """Return the log-mel distance (N,) of every clip to its reference."""
    pairs = zip(_batches(references, batch_size), _batches(clips, batch_size), strict=True)
    return torch.cat(
        [
            log_mel_distance(
                torch.stack([clip.waveform for clip in one]), torch.stack([clip.waveform for clip in other])
            )
            for one, other in pairs
        ]
    )


def _cues(clips: list[JudgedClip]) -> InterauralCues:
    shortest = min(clip.waveform.shape[-1] for clip in clips)
    stacked = torch.stack([clip.waveform[:, :shortest] for clip in clips])
    return interaural_cues(stacked, 16_000, allow_silent=True)


def _join(parts: Iterable[InterauralCues]) -> InterauralCues:
    collected = list(parts)
    return InterauralCues(**{name: torch.cat([vars(part)[name] for part in collected]) for name in vars(collected[0])})


def _batches(clips: list[JudgedClip], size: int) -> list[list[JudgedClip]]:
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def _paired(clip: JudgedClip, references: dict[str, JudgedClip]) -> JudgedClip:
    if clip.name not in references:
        raise ValueError(
            f"references must hold a clip of every name, got none for {clip.name}; add it or remove the clip"
        )
    return references[clip.name]


def _number(value: Any) -> float | None:
    """Round to six digits; what could not be measured is absent, not a number."""
    number = float(value)
    return None if number != number else round(number, 6)

"""Sound as it is handed out: brought to a loudness by one gain for both ears, and honest about its bandwidth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dualspec.audio.waveform import resample

if TYPE_CHECKING:
    from torch import Tensor

METER_RATE = 48_000  # Hz; the rate for which ITU-R BS.1770 gives its weighting filter
BLOCK_S = 0.4
"""A measuring block of ITU-R BS.1770; a shorter sound is measured as one block that ends in silence."""
PART_S = 60
"""Longer sounds are measured in parts, so that no more than one is held at the meter's rates."""
CEILING_DBTP = -1.0
"""Highest true peak that a gain may lead to (EBU R 128)."""
MIN_LUFS, MAX_LUFS = -70.0, -5.0


def check_loudness(target_lufs: float) -> float:
    """Accept a loudness to aim at.

    Raises:
        ValueError: it is outside -70 to -5 LUFS.
    """
    if not MIN_LUFS <= target_lufs <= MAX_LUFS:
        raise ValueError(f"loudness must be {MIN_LUFS:g} to {MAX_LUFS:g} LUFS, got {target_lufs:g}; -23 is the usual")
    return target_lufs


def integrated_loudness(waveform: Tensor, sample_rate: int) -> float | None:
    """Measure the gated loudness of one or two channels.

    Args:
        waveform: (C, S), full scale 1.
        sample_rate: Hz.

    Returns:
        LUFS; None where no block is louder than the gate of -70 LUFS. Only whole blocks count (0.4 s, every 0.1 s).

    Recommendation ITU-R BS.1770-4.
    """
    if waveform.shape[-1] <= PART_S * sample_rate:
        loudness, _ = _measure(waveform, sample_rate)
    else:
        loudness = _gated(np.concatenate([*_block_loudness(waveform, sample_rate)]))
    return loudness if math.isfinite(loudness) else None


def _measure(waveform: Tensor, sample_rate: int) -> tuple[float, np.ndarray]:
    """Measure the loudness of a waveform (C, S), LUFS, and that of its blocks."""
    from pyloudnorm import Meter

    samples = resample(waveform, sample_rate, METER_RATE).double().numpy().T
    block, step = round(BLOCK_S * METER_RATE), round(BLOCK_S * METER_RATE / 4)
    if len(samples) < block:
        samples = np.pad(samples, ((0, block - len(samples)), (0, 0)))
    whole = len(samples) - (len(samples) - block) % step
    meter = Meter(METER_RATE, filter_class="DeMan")
    return float(meter.integrated_loudness(samples[:whole])), np.array(meter.blockwise_loudness)


def _block_loudness(waveform: Tensor, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield the loudness of all blocks part by part, LUFS; a second before each part lets the filters settle."""
    for start, part in _parts(waveform, sample_rate):
        if part.shape[-1] >= BLOCK_S * sample_rate:
            first = 10 * start  # there are ten blocks a second
            yield _measure(part, sample_rate)[1][first : first + 10 * PART_S]


def _parts(waveform: Tensor, sample_rate: int) -> Iterator[tuple[int, Tensor]]:
    """Cut a long waveform (C, S) into parts of a minute; yield the seconds before each, and it with a second around."""
    for start in range(0, waveform.shape[-1], PART_S * sample_rate):
        before = sample_rate if start else 0
        yield before // sample_rate, waveform[:, start - before : start + (PART_S + 1) * sample_rate]


def _gated(loudness: np.ndarray) -> float:
    """Put the loudness of blocks together, LUFS. ITU-R BS.1770-4, equations 5 to 7."""
    loudness = loudness[loudness >= MIN_LUFS]
    if not len(loudness):
        return -math.inf
    power = 10 ** (loudness / 10)
    power = power[loudness > 10 * math.log10(power.mean()) - 10]
    return 10 * math.log10(power.mean())


def true_peak_db(waveform: Tensor, sample_rate: int) -> float:
    """Measure the peak between the samples of a waveform (C, S) that is not silent: dBTP, at 192 kHz or more.

    Recommendation ITU-R BS.1770-4, annex 2.
    """
    factor, peak = max(1, -(-4 * METER_RATE // sample_rate)), float(waveform.abs().max())
    for before, part in _parts(waveform, sample_rate):
        fine = resample(part, sample_rate, factor * sample_rate)
        first = before * factor * sample_rate
        peak = max(peak, float(fine[:, first : first + PART_S * factor * sample_rate].abs().max()))
    return 20 * math.log10(peak)


def bring_to_loudness(waveform: Tensor, sample_rate: int, target_lufs: float) -> tuple[Tensor, dict[str, Any]]:
    """Bring a sound to a loudness by one gain for all channels; there is no limiter.

    Args:
        waveform: (C, S), one or two channels.
        sample_rate: Hz.
        target_lufs: wanted loudness, LUFS.

    Returns:
        The waveform, and what a record says of it: `target_lufs`, `lufs`, `true_peak_dbtp`, `gain_db`,
        `held_by_peak` (a larger gain would lift the true peak above -1 dBTP, so the sound stays quieter) and
        `shorter_than_block`. Silence stays silence: its numbers are None.

    Raises:
        ValueError: the target is out of range.
    """
    facts: dict[str, Any] = {"target_lufs": check_loudness(target_lufs), "lufs": None, "true_peak_dbtp": None}
    facts |= {"gain_db": 0.0, "held_by_peak": False, "shorter_than_block": waveform.shape[-1] < BLOCK_S * sample_rate}
    peak = float(waveform.abs().max())
    scaled = waveform / peak if peak > 0 else waveform  # so that the gate of -70 LUFS meets every sound alike
    loudness = integrated_loudness(scaled, sample_rate) if peak > 0 else None
    if loudness is None:
        return waveform, facts
    top = true_peak_db(scaled, sample_rate)
    wanted, most = target_lufs - loudness, CEILING_DBTP - top
    gain = min(wanted, most)
    facts |= {"lufs": round(loudness + gain, 2), "true_peak_dbtp": round(top + gain, 2)}
    facts |= {"gain_db": round(gain - 20 * math.log10(peak), 2), "held_by_peak": most < wanted}
    return scaled * 10 ** (gain / 20), facts


def loudness_words(facts: dict[str, Any]) -> str:
    """Tell in short what `bring_to_loudness` did."""
    if facts["lufs"] is None:
        return "no loudness, for it is silent"
    words = f"{facts['lufs']:g} LUFS"
    if facts["held_by_peak"]:
        words += f" and not {facts['target_lufs']:g}, for its true peak is at {facts['true_peak_dbtp']:g} dBTP"
    return words + (f" (shorter than {BLOCK_S:g} s, measured with silence behind it)" * facts["shorter_than_block"])


def bandwidth_note(content_rate: int, sample_rate: int) -> str | None:
    """Say what a file of a rate does not hold because its sound comes from a lower one (Hz); None if it does not."""
    if content_rate >= sample_rate:
        return None
    return (
        f"{content_rate / 1000:g} kHz content resampled to {sample_rate / 1000:g} kHz: "
        f"nothing above {content_rate / 2000:g} kHz"
    )


def samples_of_length(audio_length_in_s: float | None, num_samples: int, sample_rate: int) -> int:
    """Return the samples of a clip of a length in seconds; None is the whole length that the model makes.

    Args:
        audio_length_in_s: wanted length, seconds.
        num_samples: the longest that the model makes, samples.
        sample_rate: Hz.

    Raises:
        ValueError: it is below 0.1 s or longer than the model's clips.
    """
    if audio_length_in_s is None:
        return num_samples
    if not 0.1 <= audio_length_in_s <= num_samples / sample_rate:
        raise ValueError(
            f"audio_length_in_s must be 0.1 to {num_samples / sample_rate:g}, got {audio_length_in_s:g}; "
            "the model was trained on clips of that length, lay several clips end to end for more"
        )
    return round(audio_length_in_s * sample_rate)

"""Sound as it is handed out: brought to a loudness by one gain for both ears, and honest about its bandwidth."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

from dualspec.audio.waveform import Sound, resample

METER_RATE = 48_000  # Hz; the rate for which ITU-R BS.1770 gives its weighting filter
K_WEIGHTING = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
"""Both stages at 48 kHz, numerators and denominators in powers of z^-1: tables 1 and 2 of ITU-R BS.1770-4."""
_DECAY = METER_RATE
"""Samples after which the weighting of an impulse is below 1e-9 of its peak; they are the FFT's guard."""
GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
BLOCK_S = 0.4
"""A measuring block of ITU-R BS.1770; a shorter sound is measured as one block that ends in silence."""
PART_S = 60
"""Longer sounds are measured in parts, so that no more than one is held at the meter's rates."""
CEILING_DBTP = -1.0
"""Highest true peak that a gain may lead to (EBU R 128)."""
DELIVERY_LUFS = -23.0
"""Loudness of what is made for listening: `generate PROMPT`, the page (EBU R 128). Lists and Python: as it comes."""
MIN_LUFS, MAX_LUFS = -70.0, -5.0


def check_loudness(target_lufs: float) -> float:
    """Accept a loudness to aim at.

    Raises:
        ValueError: it is outside -70 to -5 LUFS.
    """
    if not MIN_LUFS <= target_lufs <= MAX_LUFS:
        raise ValueError(f"loudness must be {MIN_LUFS:g} to {MAX_LUFS:g} LUFS, got {target_lufs:g}; -23 is the usual")
    return target_lufs


def integrated_loudness(waveform: Sound, sample_rate: int) -> float | None:
    """Measure the gated loudness of one or two channels.

    Written out, for the field's library needs scipy, which takes longer to load than a clip takes to make; the tests
    hold it against that library.

    Args:
        waveform: (C, S), full scale 1.
        sample_rate: Hz.

    Returns:
        LUFS; None where no block is louder than the gate of -70 LUFS. Only whole blocks count (0.4 s, every 0.1 s).

    Recommendation ITU-R BS.1770-4.
    """
    block, step = round(BLOCK_S * METER_RATE), round(BLOCK_S * METER_RATE / 4)
    energy = [_weighted_energy(part, before, sample_rate) for before, part in _parts(waveform, sample_rate)]
    steps = np.concatenate([part[: len(part) // step * step].reshape(-1, step).sum(1) for part in energy])
    power = np.convolve(steps, np.ones(block // step), mode="valid") / block
    loud = power[_lufs(power) > GATE_LUFS]
    if not len(loud):
        return None
    return float(_lufs(loud[_lufs(loud) > _lufs(loud.mean()) + RELATIVE_GATE_LU].mean()))


def _parts(waveform: Sound, sample_rate: int) -> Iterator[tuple[int, Sound]]:
    """Cut a waveform (C, S) into parts of a minute; yield the seconds before each, and it with a second around."""
    for start in range(0, waveform.shape[-1], PART_S * sample_rate):
        before = sample_rate if start else 0
        yield before // sample_rate, waveform[:, start - before : start + (PART_S + 1) * sample_rate]


def _weighted_energy(part: Sound, before: int, sample_rate: int) -> np.ndarray:
    """Return the weighted energy (S,) at 48 kHz of a part without the second before and after it, a block at least."""
    samples: np.ndarray = np.asarray(resample(part, sample_rate, METER_RATE), dtype=np.float64)
    missing = round(BLOCK_S * METER_RATE) - samples.shape[-1]
    samples = np.pad(samples, ((0, 0), (0, 0 if before else max(0, missing))))
    first = before * METER_RATE
    energy: np.ndarray = np.square(_k_weighted(samples)).sum(0)
    return energy[first : first + PART_S * METER_RATE]


def _k_weighted(samples: np.ndarray) -> np.ndarray:
    """Weight (C, S) at 48 kHz as the recommendation does, by an FFT long enough that the filters have died away."""
    size = 1 << (samples.shape[-1] + _DECAY - 1).bit_length()
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(delay)
    for numerator, denominator in K_WEIGHTING:
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    return np.fft.irfft(np.fft.rfft(samples, n=size) * response, n=size)[..., : samples.shape[-1]]


def _lufs(power: np.ndarray) -> np.ndarray:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-30))


def true_peak_db(waveform: Sound, sample_rate: int) -> float:
    """Measure the peak between the samples of a waveform (C, S) that is not silent: dBTP, at 192 kHz or more.

    Recommendation ITU-R BS.1770-4, annex 2.
    """
    factor, peak = max(1, -(-4 * METER_RATE // sample_rate)), float(abs(waveform).max())
    for before, part in _parts(waveform, sample_rate):
        fine: Any = resample(part, sample_rate, factor * sample_rate)
        first = before * factor * sample_rate
        peak = max(peak, float(abs(fine[:, first : first + PART_S * factor * sample_rate]).max()))
    return 20 * math.log10(peak)


def bring_to_loudness(waveform: Sound, sample_rate: int, target_lufs: float) -> tuple[Sound, dict[str, Any]]:
    """Bring a sound to a loudness by one gain for all channels; there is no limiter.

    Args:
        waveform: (C, S), one or two channels, a tensor or an array.
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
    peak = float(abs(waveform).max())
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


def deliver(
    waveform: Sound, sample_rate: int, file_rate: int, loudness_lufs: float | None
) -> tuple[Sound, dict[str, Any]]:
    """Bring a sound to the rate and loudness of its file.

    Args:
        waveform: (C, S), one or two channels.
        sample_rate: Hz.
        file_rate: wanted rate, Hz.
        loudness_lufs: wanted loudness; None leaves the level, unless the new samples would pass full scale.

    Returns:
        The sound, and what a record says of it.
    """
    facts: dict[str, Any] = {}
    sound: Any = resample(waveform, sample_rate, file_rate) if file_rate != sample_rate else waveform
    if (lacks := bandwidth_note(sample_rate, file_rate)) is not None:
        facts["bandwidth"] = lacks
    if loudness_lufs is not None:
        sound, facts["loudness"] = bring_to_loudness(sound, file_rate, loudness_lufs)
    elif file_rate != sample_rate and (peak := float(abs(sound).max())) > 1:  # peaks between the old samples
        sound, facts["resampling_gain_db"] = sound / peak, round(-20 * math.log10(peak), 6)
    return sound, facts


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
    if isinstance(audio_length_in_s, bool) or not isinstance(audio_length_in_s, numbers.Real):
        raise ValueError(f"audio_length_in_s must be a number of seconds, got {audio_length_in_s!r:.40}; write 2.5")
    if not 0.1 <= audio_length_in_s <= num_samples / sample_rate:
        raise ValueError(
            f"audio_length_in_s must be 0.1 to {num_samples / sample_rate:g}, got {audio_length_in_s:g}; "
            "the model was trained on clips of that length, lay several clips end to end for more"
        )
    return round(audio_length_in_s * sample_rate)

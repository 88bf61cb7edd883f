"""The judge without torch: the localizer's graph, and the cues of `hearing.cues` for one clip in NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from dualspec.audio.azimuth import LEFT, RIGHT, class_azimuth_deg
from dualspec.bundle import judge_facts, localizer_folder, localizer_notes, target_head
from dualspec.engine.session import Graphs, read_arrays
from dualspec.engine.spectra import Framing
from dualspec.hearing.proof import HeadCues, proof_block
from dualspec.training.weights_folder import read_document

_MAGNITUDE_FLOOR = 1e-5
_SILENCE_POWER = 1e-10
_BAND_HZ, _MAX_LAG_S, _EMPTY_BAND_RATIO = (150.0, 1200.0), 1e-3, 1e-6
_COARSEST_BIN_HZ, _ENVELOPE_HZ, _WHITENING, _GRID_STEP_S, _NEWTON_STEPS = 4.0, 50.0, 0.75, 25e-6, 6
_TINY = float(np.finfo(np.float64).tiny)


class OnnxJudge:
    """Who proves directions, as `hearing.proof.DirectionJudge` does.

    Args:
        folder: weights folder of the localizer.
        facts: what records say of it.
        target: the head whose cues are the target.
        num_threads: that share one operation.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], target: HeadCues, *, num_threads: int) -> None:
        """Load the localizer; its graph must have been made for it."""
        config, graphs = read_document(folder)["config"], Graphs()
        if not graphs.fits("localizer", config):
            raise ValueError(f"the localizer of {folder} must be the one of the graph, got another; use --engine torch")
        self.facts, self.target, self._config = facts, target, config
        self._framing = Framing.of(config["stft"])
        weights = read_arrays(folder, graphs.weights("localizer"), "localizer.")
        self._network = graphs.open("localizer", weights, num_threads=num_threads)

    def hear(self, waveform: np.ndarray, sample_rate: int, asked_deg: float | None = None) -> dict[str, Any]:
        """Prove where one clip (2, S) is, in the words of `hearing.proof.DirectionJudge.hear`.

        Raises:
            ValueError: the sample rate is not the localizer's.
        """
        if sample_rate != self._config["sample_rate"]:
            raise ValueError(
                f"sample_rate must be {self._config['sample_rate']} Hz, got {sample_rate}; use --engine torch"
            )
        ears = waveform.astype(np.float64)
        if not ((ears**2).mean(axis=-1) >= _SILENCE_POWER).all():
            return proof_block(self.facts, self.target, asked_deg, None)
        wanted = None if asked_deg is None else _wanted(self.target, ears, sample_rate, asked_deg)
        return proof_block(
            self.facts, self.target, asked_deg, self._heard(waveform), interaural_cues(ears, sample_rate), wanted
        )

    def _heard(self, waveform: np.ndarray) -> tuple[float, float, float]:
        """Return azimuth, confidence and expectation of a clip, as `hearing.localizer.result_of` does."""
        magnitude, phase, mask = self._features(waveform)
        (scores,) = self._network.run(None, {"magnitude": magnitude, "phase": phase, "heard": mask})
        shares = np.exp(scores[0].astype(np.float64) - scores[0].max())
        shares /= shares.sum()
        winner = int(shares.argmax())
        centres = np.deg2rad(class_azimuth_deg(np.arange(len(shares)), len(shares)))
        east, north = float(shares @ np.cos(centres)), float(shares @ np.sin(centres))
        azimuth_deg = class_azimuth_deg(winner, len(shares))
        lost = math.hypot(east, north) <= 1e-6
        expectation_deg = azimuth_deg if lost else math.degrees(math.atan2(north, east)) % 360.0
        return azimuth_deg, float(shares[winner]), expectation_deg

    def _features(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `hearing.localizer.Localizer.features` returns of one clip with interaural phases."""
        spectrum = self._framing.stft(waveform.astype(np.float32))
        power = (spectrum.real**2 + spectrum.imag**2).mean(axis=(0, 2))
        floor = power.max() * np.float32(10.0 ** (-self._config["frame_range_db"] / 10.0))
        heard = (power >= floor) & (power > 0)
        level = np.float32(power.sum() / heard.sum())
        scaled = spectrum / np.sqrt(level)
        size = np.maximum(np.abs(scaled), np.float32(_MAGNITUDE_FLOOR))
        left, right = scaled / size
        turn, log_size, mask = right * left.conj(), np.log(size), heard[:, None]
        mean = np.float32((log_size * mask).sum() / (mask.sum() * log_size.shape[0] * log_size.shape[2]))
        return ((log_size - mean) * mask)[None], (np.stack([turn.real, turn.imag]) * mask)[None], heard[None]


def load_onnx_judge(folder: Path, *, num_threads: int) -> OnnxJudge:
    """Load who proves the directions of a model's clips: the embedded judge, and the model's own head.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: a file is damaged.
    """
    weights = localizer_folder("robust")
    facts = judge_facts(*localizer_notes(weights))
    return OnnxJudge(weights, facts, target_head(folder), num_threads=num_threads)


def interaural_cues(ears: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Measure ITD, ILD and coherence of one audible clip (2, S), float64, as `hearing.cues.interaural_cues` does."""
    power = (ears**2).mean(axis=-1)
    cues = {"itd_us": math.nan, "ild_db": 10.0 * math.log10(power[LEFT] / power[RIGHT]), "coherence": math.nan}
    fft_size = _fast_length(max(ears.shape[-1] + math.ceil(_MAX_LAG_S * sample_rate), _shortest(sample_rate)))
    first, last = (round(edge * fft_size / sample_rate) for edge in _BAND_HZ)
    inside = np.fft.rfft(ears, n=fft_size)[:, first:last]
    energy = inside.real**2 + inside.imag**2
    total = energy.sum(axis=-1)
    if not (2.0 * total / fft_size / (ears**2).sum(axis=-1) >= _EMPTY_BAND_RATIO).all():
        return cues
    omega = 2.0 * math.pi * np.arange(first, last) * (sample_rate / fft_size)
    cross = inside[LEFT] * inside[RIGHT].conj()
    width = min(round(_ENVELOPE_HZ * fft_size / sample_rate), len(omega)) // 2 * 2 + 1
    envelope = np.sqrt(_smooth(energy[LEFT], width) * _smooth(energy[RIGHT], width))
    whitened = cross / (envelope + 1e-9 * envelope.mean() + _TINY) ** _WHITENING
    cues["itd_us"] = _highest_lag(whitened, omega)[0] * 1e6
    cues["coherence"] = min(max(_highest_lag(cross, omega)[1] / math.sqrt(total[LEFT] * total[RIGHT]), 0.0), 1.0)
    return cues


def _wanted(target: HeadCues, ears: np.ndarray, sample_rate: int, asked_deg: float) -> dict[str, float]:
    """Return the cues that a head would give to the very sound of a clip, as `HeadCues.targets` does."""
    size = max(ears.shape[-1], _shortest(sample_rate))
    spectrum = np.fft.rfft(ears, n=size)
    sums = np.pad((spectrum.real**2 + spectrum.imag**2).cumsum(axis=-1), ((0, 0), (1, 0)))
    places = [min(round(edge * size / sample_rate), spectrum.shape[-1]) for edge in target.edges_hz]
    power = np.diff(sums[:, places]).sum(axis=0)
    itd_us, share, coherence = target.between([asked_deg])
    ild_db = 10.0 * np.log10((power * share[0]).sum() / (power * (1.0 - share[0])).sum())
    return {"itd_us": float(itd_us[0]), "ild_db": float(ild_db), "coherence": float(coherence[0])}


def _shortest(sample_rate: int) -> int:
    """Return the samples of a transform whose bins are as wide as they may be."""
    return math.ceil(sample_rate / _COARSEST_BIN_HZ)


def _fast_length(shortest: int) -> int:
    """Return the next length whose only factors are 2, 3 and 5, as scipy's `next_fast_len` for real input does."""
    best = 1 << (shortest - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            length = three << max(0, (-(-shortest // three) - 1).bit_length())
            best, three = min(best, length), 3 * three
        five *= 5
    return best


def _smooth(energy: np.ndarray, width: int) -> np.ndarray:
    """Running mean of (F,) over an odd number of bins, fewer at the ends."""
    sums, centre = np.append(0.0, energy.cumsum()), np.arange(len(energy))
    first, last = np.maximum(centre - width // 2, 0), np.minimum(centre + width // 2 + 1, len(energy))
    return np.maximum((sums[last] - sums[first]) / (last - first), 0.0)


def _highest_lag(cross: np.ndarray, omega: np.ndarray) -> tuple[float, float]:
    """Return the lag within 1 ms of the highest cross-correlation, s, and the correlation there.

    A grid, then Newton's method, as `hearing.correlation.highest_lag`.
    """
    step = min(_GRID_STEP_S, 0.1 / (omega[-1] / (2.0 * math.pi)))
    steps = math.ceil(_MAX_LAG_S / step)
    lags = np.linspace(-steps * step, steps * step, 2 * steps + 1)
    lags = lags[np.abs(lags) <= _MAX_LAG_S + step / 2]
    angles = omega[:, None] * lags
    heights = cross.real @ np.cos(angles) - cross.imag @ np.sin(angles)
    start = float(np.clip(lags[heights.argmax()], -_MAX_LAG_S, _MAX_LAG_S))
    low, high = max(start - step, -_MAX_LAG_S), min(start + step, _MAX_LAG_S)
    lag = start
    for _ in range(_NEWTON_STEPS):
        turned = cross * np.exp(1j * lag * omega)
        slope, bend = -float(omega @ turned.imag), -float((omega**2) @ turned.real)
        move = -slope / bend if bend < 0 else math.copysign(step, slope) if slope else 0.0
        lag = min(max(lag + min(max(move, -step), step), low), high)
    return lag, float((cross * np.exp(1j * lag * omega)).real.sum())

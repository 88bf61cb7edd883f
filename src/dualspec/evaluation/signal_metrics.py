"""How far sound is from its reference, and from everything the model was trained on.

Distances are mean absolute differences of log-mel spectrograms (64 bands, natural logarithm), in nepers; 1 neper is
8.7 dB. Levels are floored 60 dB below the loudest band of the clip, so that silence is silence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dualspec.data.datasets import ClipBank
from dualspec.features.mel import MelConfig, log_mel

MEL = MelConfig(n_fft=1024, win_length=1024, hop_length=512, framing="centered")
FLOOR_NEPER = 6.9  # 60 dB


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """The training clip nearest to a sound."""

    distance: float  # nepers, after both were brought to one level
    clip_id: str
    label: str


def log_mel_distance(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the mean absolute log-mel difference (B,) in nepers of waveforms (B, 2, S), ear by ear."""
    first, second = log_mel(reference, MEL), log_mel(estimate, MEL)
    floor = first.amax(dim=(1, 2, 3), keepdim=True) - FLOOR_NEPER
    return (first.maximum(floor) - second.maximum(floor)).abs().flatten(1).mean(dim=1)


def nearest_clips(
    waveform: Tensor, bank: ClipBank, *, skip: list[str] | None = None, chunk: int = 64
) -> list[Neighbour]:
    """Find the nearest training clip of each sound, whatever their levels.

    Args:
        waveform: (B, 2, S); the ears are averaged.
        bank: training clips of the same length.
        skip: per sound, a clip id that does not count (the sound itself).
        chunk: training clips compared at once.

    Returns:
        One neighbour per sound.
    """
    queries = _level_free(log_mel(waveform.mean(dim=1), MEL))
    best = [Neighbour(distance=float("inf"), clip_id="", label="") for _ in queries]
    for start in range(0, len(bank), chunk):
        rows = torch.arange(start, min(start + chunk, len(bank)))
        clips = _level_free(log_mel(bank.float_waveforms(rows), MEL))
        for index, query in enumerate(queries):
            distances = (clips - query).abs().flatten(1).mean(dim=1)
            if skip is not None and skip[index] in bank.ids[start : start + len(rows)]:
                distances[bank.ids[start : start + len(rows)].index(skip[index])] = float("inf")
            at = int(distances.argmin())
            if float(distances[at]) < best[index].distance:
                clip = start + at
                best[index] = Neighbour(
                    distance=float(distances[at]), clip_id=bank.ids[clip], label=bank.labels[clip][0]
                )
    return best


def _level_free(mel: Tensor) -> Tensor:
    """Bring log-mels (B, T, M) to a loudest band of 0 and floor them."""
    return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-FLOOR_NEPER)

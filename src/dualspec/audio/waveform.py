"""Waveforms on disk and off: reading, writing, resampling, cropping.

Together with `audio_file`, which opens and checks, the only place that touches audio files.
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import soundfile

from dualspec.audio.audio_file import (
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    AudioFileError,
    AudioInfo,
    check_limits,
    decode,
    info_of,
    open_checked,
    whole_file,
)

if TYPE_CHECKING:
    from torch import Tensor

PCM16_SCALE = 32_768.0
_FRAMES_AT_ONCE = 2**20
Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]
Sound = TypeVar("Sound", "Tensor", np.ndarray)

_WRITE_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG"}
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header of an audio file without decoding it.

    Args:
        path: WAV, FLAC, Ogg (Vorbis or Opus), AIFF or MP3 file.

    Returns:
        Frames, rate, channels and container.

    Raises:
        FileNotFoundError: The file is absent.
        AudioFileError: (a ValueError) empty, unreadable, wrongly named or truncated file.
    """
    with open_checked(Path(path)) as file:
        return info_of(file)


def read_waveform(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    mono: bool = False,
    max_seconds: float = 600.0,
    max_channels: int = 8,
) -> tuple[Tensor, int]:
    """Read an audio file; limits are checked before anything is decoded.

    Args:
        path: WAV, FLAC, Ogg (Vorbis or Opus), AIFF or MP3 file.
        sample_rate: Rate in Hz to resample to (soxr HQ); None keeps the file's own.
        mono: Return the mean of the channels.
        max_seconds: Longest duration accepted, in seconds.
        max_channels: Most channels accepted.

    Returns:
        Waveform (C, S), float32, full scale is 1, and its sample rate in Hz.

    Raises:
        FileNotFoundError: The file is absent.
        AudioFileError: (a ValueError) the file is empty, unreadable, wrongly named, truncated, too long, has too many
            channels, an impossible rate, or samples that are not finite.
    """
    import torch

    samples, own_rate = read_samples(path, mono=mono, max_seconds=max_seconds, max_channels=max_channels)
    waveform = torch.from_numpy(samples)
    if sample_rate is None or sample_rate == own_rate:
        return waveform, own_rate
    return resample(waveform, own_rate, sample_rate), sample_rate


def read_samples(
    path: str | Path, *, mono: bool = False, max_seconds: float = 600.0, max_channels: int = 8
) -> tuple[np.ndarray, int]:
    """Read an audio file as `read_waveform` does, at its own rate, as an array: torch is not loaded."""
    path = Path(path)
    with open_checked(path) as file:
        info = info_of(file)
        check_limits(path, info, max_seconds=max_seconds, max_channels=max_channels)
        samples = decode(path, file, info)
    if not np.isfinite(samples).all():
        raise AudioFileError("not_finite", f"{path} must hold finite samples, got NaN or infinity; export it again")
    if mono:
        samples = samples.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(samples.T), info.sample_rate


def write_waveform(
    path: str | Path,
    waveform: Tensor | np.ndarray,
    sample_rate: int,
    *,
    subtype: Subtype | None = None,
    overwrite: bool = True,
    clip: Literal["refuse", "scale"] = "refuse",
) -> float:
    """Write an audio file; it appears under its name only when it is complete.

    Args:
        path: Target; its suffix chooses the container: .wav, .flac, .ogg or .opus (both Ogg Opus).
        waveform: (C, S) float in [-1, 1], or int16 PCM that is stored as it is.
        sample_rate: Hz.
        subtype: "PCM_16" (default), "PCM_24" or "FLOAT" (WAV only); not for Ogg Opus.
        overwrite: Replace an existing file.
        clip: What to do with samples beyond ±1: refuse, or scale all channels by one gain and warn.

    Returns:
        The gain that was applied: 1.0 unless `clip="scale"` had to act.

    Raises:
        ValueError: A bad shape, value, suffix or subtype.
        FileExistsError: The file exists and `overwrite` is False.
    """
    path = Path(path)
    file_format, subtype_name = _output_format(path, subtype, sample_rate)
    if waveform.ndim != 2 or 0 in waveform.shape:
        raise ValueError(f"waveform must be (C, S) and not empty, got {tuple(waveform.shape)}; add the channel axis")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or pass overwrite=True")
    samples = waveform if isinstance(waveform, np.ndarray) else waveform.detach().cpu().numpy()
    peak = 1.0 if samples.dtype == np.int16 else _peak_to_divide_by(samples, clip)
    kind: dict[str, Any] = {"subtype": subtype_name, "format": file_format}
    with whole_file(path) as file, soundfile.SoundFile(file, "w", sample_rate, len(samples), **kind) as target:
        for start in range(0, samples.shape[1], _FRAMES_AT_ONCE):
            target.write(_to_storage(samples[:, start : start + _FRAMES_AT_ONCE], subtype_name, peak))
    return 1.0 / peak


def resample(waveform: Sound, from_rate: int, to_rate: int) -> Sound:
    """Change the sample rate by soxr HQ.

    Args:
        waveform: (..., S) float, a tensor or an array.
        from_rate: Present rate, Hz.
        to_rate: Wanted rate, Hz.

    Returns:
        (..., S') float32 of the same kind on the CPU, S' = S * to_rate / from_rate rounded by soxr.
    """
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise ValueError(
                f"{name} must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, got {rate}; give the rate in Hz"
            )
    if waveform.shape[-1] == 0:
        raise ValueError("waveform must hold at least one sample, got none; nothing can be resampled")
    import soxr

    if not isinstance(waveform, np.ndarray):
        import torch

        return torch.from_numpy(resample(waveform.detach().to("cpu", torch.float32).numpy(), from_rate, to_rate))
    samples = waveform.astype(np.float32, copy=False)
    if from_rate == to_rate:
        return samples
    rows = [soxr.resample(row, from_rate, to_rate, quality="HQ") for row in samples.reshape(-1, samples.shape[-1])]
    return np.stack(rows).reshape(*samples.shape[:-1], -1)


def crop_or_pad(waveform: Tensor, num_samples: int) -> Tensor:
    """Keep the first samples, or add zeros at the end.

    Args:
        waveform: (..., S).
        num_samples: Wanted length in samples.

    Returns:
        (..., num_samples). Paper section V-C.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}; give a length in samples")
    import torch

    missing = num_samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[..., :num_samples]


def to_pcm16(waveform: Tensor) -> Tensor:
    """Round a float waveform to int16 PCM (1.0 becomes 32767).

    Args:
        waveform: (..., S) finite float in [-1, 1]; values beyond are limited.

    Returns:
        (..., S) int16.
    """
    return (waveform.double() * PCM16_SCALE).round().clamp(-PCM16_SCALE, PCM16_SCALE - 1).short()


def from_pcm16(pcm: Tensor) -> Tensor:
    """Turn int16 PCM into a float32 waveform in [-1, 1).

    Args:
        pcm: (..., S) int16.

    Returns:
        (..., S) float32.
    """
    return pcm.float() / PCM16_SCALE


class Pcm16Reader:
    """Random access to a mono 16-bit file, exact to the bit. One reader belongs to one thread."""

    def __init__(self, path: str | Path) -> None:
        """Open the file and check its header."""
        self.path = Path(path)
        self._file = open_checked(self.path)
        self.info = info_of(self._file)
        if self.info.num_channels != 1 or self._file.subtype != "PCM_16":
            found = f"{self.info.num_channels} channels of {self._file.subtype}"
            self.close()
            raise AudioFileError("unreadable", f"{path} must be mono PCM_16, got {found}; prepare the corpus again")
        self.sample_rate = self.info.sample_rate

    def read(self, offset: int, num_samples: int) -> Tensor:
        """Read a stretch of samples.

        Args:
            offset: First sample.
            num_samples: Number of samples.

        Returns:
            (num_samples,) int16.
        """
        if offset < 0 or num_samples < 1 or offset + num_samples > self.info.num_frames:
            raise AudioFileError(
                "truncated",
                f"{self.path} must hold samples {offset} to {offset + num_samples}, got {self.info.num_frames}; "
                "prepare the corpus again",
            )
        try:
            if self._file.tell() != offset:
                self._file.seek(offset)
            pcm = self._file.read(num_samples, dtype="int16")
        except soundfile.SoundFileError as error:
            raise AudioFileError(
                "unreadable", f"{self.path} must be readable, got: {error}; prepare it again"
            ) from error
        if len(pcm) != num_samples:
            raise AudioFileError("truncated", f"{self.path} must be complete, got {len(pcm)} samples; prepare it again")
        import torch

        return torch.from_numpy(pcm)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Pcm16Reader:
        """Return the open reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class Pcm16Writer:
    """Append mono int16 clips to one FLAC file that appears under its name only when it is complete."""

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        """Open a temporary file beside the target."""
        self.num_samples = 0
        with ExitStack() as stack:
            file = stack.enter_context(whole_file(Path(path)))
            self._file = stack.enter_context(soundfile.SoundFile(file, "w", sample_rate, 1, "PCM_16", format="FLAC"))
            self._stack = stack.pop_all()

    def append(self, pcm: Tensor) -> int:
        """Write a clip behind the others.

        Args:
            pcm: (S,) int16.

        Returns:
            Offset in samples of the clip in the file.
        """
        offset = self.num_samples
        self._file.write(pcm.numpy())
        self.num_samples += pcm.shape[0]
        return offset

    def __enter__(self) -> Pcm16Writer:
        """Return the open writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the file, or remove what was written when an error is passing through."""
        self._stack.__exit__(kind, error, trace)


def _output_format(path: Path, subtype: Subtype | None, sample_rate: int) -> tuple[str, str]:
    suffix = path.suffix.lower()
    if suffix not in _WRITE_FORMATS:
        known = ", ".join(_WRITE_FORMATS)
        raise ValueError(f"path must end in one of {known}, got {path.name!r}; rename the output")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample_rate must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, got {sample_rate}; resample")
    file_format = _WRITE_FORMATS[suffix]
    if file_format == "OGG":
        if subtype is not None:
            raise ValueError(f"subtype must be absent for {suffix}, got {subtype!r}; write WAV or FLAC to choose it")
        if sample_rate not in OPUS_RATES:
            raise ValueError(f"sample_rate must be one of {OPUS_RATES} for Opus, got {sample_rate}; resample first")
        return file_format, "OPUS"
    if subtype == "FLOAT" and file_format == "FLAC":
        raise ValueError("subtype must be PCM_16 or PCM_24 for .flac, got 'FLOAT'; write .wav instead")
    if subtype not in (None, "PCM_16", "PCM_24", "FLOAT"):
        raise ValueError(f"subtype must be PCM_16, PCM_24 or FLOAT, got {subtype!r}; choose one of them")
    return file_format, subtype or "PCM_16"


def _peak_to_divide_by(samples: np.ndarray, clip: Literal["refuse", "scale"]) -> float:
    peak = max(float(samples.max()), -float(samples.min()))  # NaN is neither, and no comparison holds for it
    if not math.isfinite(peak):
        raise ValueError("waveform must be finite, got NaN or infinity; nothing was written")
    if peak <= 1.0:
        return 1.0
    if clip != "scale":
        raise ValueError(f"waveform must lie in [-1, 1], got a peak of {peak:.4g}; lower it or pass clip='scale'")
    warnings.warn(
        f"waveform peak {peak:.4g} lies beyond full scale; all channels scaled by {1 / peak:.4g}", stacklevel=3
    )
    return peak


def _to_storage(samples: np.ndarray, subtype: str, peak: float) -> np.ndarray:
    """(C, S) to the (S, C) array whose integers the file will hold; `peak` becomes full scale."""
    if samples.dtype == np.int16:
        if subtype not in ("PCM_16", "OPUS"):
            raise ValueError(f"subtype must be PCM_16 for int16 samples, got {subtype!r}; pass a float waveform")
        return samples.T
    samples = samples.astype(np.float64)
    samples = samples if peak == 1.0 else (samples / peak).clip(-1.0, 1.0)
    if subtype == "PCM_16":
        return (samples * PCM16_SCALE).round().clip(-PCM16_SCALE, PCM16_SCALE - 1).astype(np.int16).T
    if subtype == "PCM_24":
        return ((samples * 2**23).round().clip(-(2**23), 2**23 - 1) * 256).astype(np.int32).T
    return samples.astype(np.float32).T

"""Opening audio files of strangers, and writing whole ones: what libsndfile does not check.

It reads a truncated WAV without a word and believes any header: the limits here stand before the decoder. And what it
writes as it closes a compressed file it never asks about: on a full disk a FLAC without its end looked well written.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import soundfile

from dualspec.audio.suffixes import CONTAINERS, OTHER_SUFFIXES
from dualspec.files import atomic_path

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 384_000
MAX_TOTAL_SAMPLES = 2**26  # samples of all channels together that one read may decode (256 MiB of float32)

RejectReason = Literal[
    "empty",
    "unreadable",
    "unsupported",
    "wrong_extension",
    "truncated",
    "too_long",
    "too_many_channels",
    "bad_sample_rate",
    "not_finite",
]

_KNOWN_FORMATS = tuple({name for names in CONTAINERS.values() for name in names})
_READABLE = "WAV, FLAC, Ogg, AIFF or MP3"
_UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a FLAC stream whose header does not tell its length
_OPEN_ENDS = (0x7F00_0000, 0x7FFF_F000, 0x8000_0000, 0xFFFF_F000, 0x1_0000_0000)
_HEADER_BYTES = 256
_LARGEST_INT = 0x7FFF_FFFF  # near 0x80000000, and no writer's mark: a lie, or damage
_OGG_TAIL_BYTES = 2 * 65_307  # two Ogg pages of the largest size


class AudioFileError(ValueError):
    """An audio file that must not be used.

    Attributes:
        reason: Short code of what is wrong with the file.
    """

    def __init__(self, reason: RejectReason, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(message)
        self.reason: RejectReason = reason

    def __reduce__(self) -> tuple[type[AudioFileError], tuple[str, str]]:
        """Pickle with both arguments, so that the error can cross a process border."""
        return (type(self), (self.reason, str(self)))


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What the header of an audio file says."""

    num_frames: int
    """Samples per channel."""
    sample_rate: int
    """Hz."""
    num_channels: int
    """Number of channels."""
    format: str
    """Container as libsndfile names it, for example "WAV"."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.sample_rate


def info_of(file: soundfile.SoundFile) -> AudioInfo:
    """Take the header of an open file."""
    return AudioInfo(
        num_frames=file.frames, sample_rate=file.samplerate, num_channels=file.channels, format=file.format
    )


def open_checked(path: Path) -> soundfile.SoundFile:
    """Open a file after the checks that need no decoding: present, not empty, right container, complete."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be an audio file, got none; check the path")
    size = path.stat().st_size
    if size == 0:
        raise AudioFileError("empty", f"{path} must hold audio, got 0 bytes; copy or download it again")
    suffix = path.suffix.lower()
    if suffix == ".raw":
        raise AudioFileError("unsupported", f"{path} must have a header, got headerless .raw; convert it to WAV")
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise AudioFileError("unreadable", f"{path} must be readable, got: {error.strerror}; allow it") from error
    try:
        with _chatter_silenced():
            file = _unclosed(path, head, size) or soundfile.SoundFile(path)
            if file.frames == _UNKNOWN_FRAMES:
                file.close()
                file = _Unmeasured(path)
    except soundfile.LibsndfileError as error:
        raise _refusal(path, head, suffix, error) from error
    try:
        _check_container(path, suffix, size, file)
    except AudioFileError:
        file.close()
        raise
    return file


@contextmanager
def _chatter_silenced() -> Iterator[None]:
    """Keep libmpg123 from writing notes of its own beside our one line; for other threads' sake in a command alone."""
    try:
        kept = os.dup(2) if threading.current_thread() is threading.main_thread() else None
    except OSError:  # it was closed
        kept = None
    if kept is None:
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _refusal(path: Path, head: bytes, suffix: str, error: soundfile.LibsndfileError) -> AudioFileError:
    """Say why libsndfile does not open a file: it is of another kind, or one of ours with something wrong in it."""
    kinds = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "WAV"}
    kind = kinds.get(head[:4], "")
    if kind and (kind != "WAV" or head[8:] == b"WAVE") and suffix not in OTHER_SUFFIXES:
        words = f"{path} must be whole and of a usual coding, got {kind}: {error.error_string}; copy or convert it"
        return AudioFileError("unreadable", words)
    reason: RejectReason = "unsupported" if suffix in OTHER_SUFFIXES else "unreadable"
    named = f" in a {suffix} file" if suffix in OTHER_SUFFIXES else ""
    return AudioFileError(reason, f"{path} must be {_READABLE}, got: {error.error_string}{named}; convert it")


def _check_container(path: Path, suffix: str, size: int, file: soundfile.SoundFile) -> None:
    if file.format not in _KNOWN_FORMATS:
        raise AudioFileError("unsupported", f"{path} must be {_READABLE}, got {file.format}; convert it")
    is_mp3 = suffix == ".mp3" and file.subtype == "MPEG_LAYER_III"  # some wrap it in a WAV
    if not is_mp3 and file.format not in CONTAINERS.get(suffix, _KNOWN_FORMATS):
        raise AudioFileError(
            "wrong_extension",
            f"{path} must be named after its container, got {file.format} inside; rename it or convert it to WAV",
        )
    if not _is_complete(path, file.format, size):
        raise AudioFileError(
            "truncated", f"{path} must be complete, got {size} bytes where its header promises more; copy it again"
        )


def check_limits(path: Path, info: AudioInfo, *, max_seconds: float, max_channels: int) -> None:
    """Refuse a header that promises too little or too much, before anything is decoded."""
    if info.num_frames < 1:
        raise AudioFileError("empty", f"{path} must hold samples, got a header only; export it again")
    if not MIN_SAMPLE_RATE <= info.sample_rate <= MAX_SAMPLE_RATE:
        raise AudioFileError(
            "bad_sample_rate",
            f"{path} must have {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, got {info.sample_rate}; resample it",
        )
    if info.num_channels > max_channels:
        raise AudioFileError(
            "too_many_channels",
            f"{path} must have at most {max_channels} channels, got {info.num_channels}; mix it down",
        )
    if info.duration_s > max_seconds or info.num_frames * info.num_channels > MAX_TOTAL_SAMPLES:
        raise AudioFileError(
            "too_long",
            f"{path} must last at most {max_seconds:g} s and {MAX_TOTAL_SAMPLES} samples, got "
            f"{info.duration_s:.1f} s in {info.num_channels} channels; cut it",
        )


def decode(path: Path, file: soundfile.SoundFile, info: AudioInfo) -> np.ndarray:
    """Decode all frames to (S, C) float32; a shortfall is an error except in MP3, whose header only estimates."""
    try:
        with _chatter_silenced():
            samples = file.read(info.num_frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioFileError("unreadable", f"{path} must be decodable, got: {error}; copy it again") from error
    is_mp3 = file.subtype == "MPEG_LAYER_III"
    if len(samples) == 0 or (len(samples) < info.num_frames and not is_mp3):
        raise AudioFileError(
            "truncated", f"{path} must hold {info.num_frames} frames, got {len(samples)}; copy it again"
        )
    return samples


def _is_complete(path: Path, file_format: str, size: int) -> bool:
    """Compare the sizes that the container states with the file; libsndfile reads truncated WAV without a word."""
    if file_format in ("WAV", "WAVEX", "RF64"):
        return _iff_end(path, b"data", "<") <= size
    if file_format == "AIFF":
        return _iff_end(path, b"SSND", ">") <= size
    if file_format == "OGG":
        return _ogg_ends(path, size)
    return True  # FLAC raises when it is decoded; MP3 has no size to compare


def _iff_end(path: Path, wanted: bytes, endian: Literal["<", ">"]) -> int:
    """Byte where the sample chunk of a RIFF, RF64 or AIFF file must end; beyond any file when there is none."""
    if (chunk := _sample_chunk(path, wanted, endian)) is None:
        return 2**63
    start, num_bytes, long_size = chunk
    if num_bytes == 0xFFFFFFFF and 0 < long_size < 2**63:
        return start + long_size
    return start if _is_open_end(num_bytes) else start + num_bytes


def _sample_chunk(path: Path, wanted: bytes, endian: Literal["<", ">"]) -> tuple[int, int, int] | None:
    """Find the sample chunk of a RIFF, RF64 or AIFF file: its first byte, its size, and RF64's long size if any."""
    long_size = 0
    with open(path, "rb") as stream:
        order = ">" if stream.read(4) == b"RIFX" else endian
        stream.seek(12)
        for _ in range(1_000):
            header = stream.read(8)
            if len(header) < 8:
                break
            name, num_bytes = header[:4], int(struct.unpack(order + "I", header[4:])[0])
            if name == b"ds64":
                fields = stream.read(16)
                long_size = int(struct.unpack("<Q", fields[8:16])[0]) if len(fields) == 16 else 0
                stream.seek(-len(fields), os.SEEK_CUR)
            if name == wanted:
                return stream.tell(), num_bytes, long_size
            stream.seek(num_bytes + num_bytes % 2, os.SEEK_CUR)
    return None


def _is_open_end(num_bytes: int) -> bool:
    """Tell a size that stands for "until the end" from one that was counted.

    Who writes into a pipe cannot come back to fill it in: ffmpeg leaves 0xFFFFFFFF, SoX 0x7FFFF000 or 0x7F000000,
    arecord 0x80000000, others these with or without a header, or rounded to whole frames.
    """
    return num_bytes != _LARGEST_INT and any(abs(mark - num_bytes) < _HEADER_BYTES for mark in _OPEN_ENDS)


def _unclosed(path: Path, head: bytes, size: int) -> soundfile.SoundFile | None:
    """Open a WAV or RF64 file whose sizes were left at nothing though sound follows; None for any other file.

    libsndfile reads a WAV to its end where the RIFF chunk has 8 bytes and "data" none, so it gets a copy that says so.
    """
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    with path.open("rb") as stream:
        start, num_bytes, long_size = _sample_chunk(path, b"data", "<") or (size, 0, 0)
        is_open = num_bytes == 0 or (head[:4] == b"RF64" and num_bytes == 0xFFFFFFFF and not 0 < long_size < 2**63)
        stream.seek(start)
        if not is_open or start >= size or _is_chunk(stream.read(8), size - start):
            return None
        if size > 8 * MAX_TOTAL_SAMPLES:
            words = f"{path} must hold at most {MAX_TOTAL_SAMPLES} samples, got {size} bytes; cut it"
            raise AudioFileError("too_long", words)
        with TemporaryFile() as copy:
            stream.seek(0)
            shutil.copyfileobj(stream, copy)
            for place, content in ((0, b"RIFF" + (8).to_bytes(4, "little")), (start - 4, bytes(4))):
                copy.seek(place)
                copy.write(content)
            copy.seek(0)
            return soundfile.SoundFile(os.dup(copy.fileno()))


def _is_chunk(header: bytes, room: int) -> bool:
    """Tell the header of another chunk, such as LIST, from the first samples of a sound."""
    name, num_bytes = header[:4], int.from_bytes(header[4:8], "little")
    return len(header) == 8 and all(32 <= byte < 127 for byte in name) and 8 + num_bytes <= room


class _Unmeasured(soundfile.SoundFile):
    """A FLAC stream whose header does not say how long it is: counted by decoding it once, then read from the start."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._num_frames, most = 0, MAX_TOTAL_SAMPLES // max(1, self.channels)
        with soundfile.SoundFile(path) as own:
            own.seekable = lambda: False
            while self._num_frames <= most and len(block := own.read(65_536, dtype="float32", always_2d=True)):
                self._num_frames += len(block)

    @property
    def frames(self) -> int:
        """Samples per channel; one block more than may be read, where there are more than that."""
        return self._num_frames

    def seekable(self) -> bool:
        """Keep the binding from seeking after each read, which fails where the length is not known."""
        return False


def _ogg_ends(path: Path, size: int) -> bool:
    """Whether a complete last page (flag 4) stands in the tail of an Ogg file."""
    with open(path, "rb") as stream:
        stream.seek(max(0, size - _OGG_TAIL_BYTES))
        tail = stream.read()
    at = tail.rfind(b"OggS")
    while at >= 0:
        page = tail[at:]
        if len(page) > 27 and page[5] & 4 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return True
        at = tail.rfind(b"OggS", 0, at)
    return False


class _WatchedFile(io.FileIO):
    """A file that remembers what the system refused while libsndfile wrote."""

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes; after a refusal only pretend to, as libsndfile's binding asserts that they are written."""
        left = memoryview(data)
        try:
            while left and self.refusal is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.refusal = error
        return len(data)


@contextmanager
def whole_file(path: Path) -> Iterator[io.FileIO]:
    """Lend a file to write sound into; it appears as `path` when the block ends and every byte of it was written.

    Raises:
        OSError: the system or libsndfile refused; whatever was there before stays.
    """
    with atomic_path(path) as temporary, _WatchedFile(temporary, "w+") as file:
        try:
            yield file
        except soundfile.SoundFileError as error:
            file.refusal = file.refusal or OSError(str(error))
        if file.refusal is not None:
            free = shutil.disk_usage(path.parent).free
            raise OSError(f"{path} could not be written, {free} bytes are free: {file.refusal}") from file.refusal

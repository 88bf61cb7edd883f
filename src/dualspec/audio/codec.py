"""Lossy codecs: a waveform sent through one, and many clips kept in one Opus file."""

from __future__ import annotations

import hashlib
import zlib
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile

from dualspec.audio.audio_file import AudioFileError
from dualspec.audio.waveform import OPUS_RATES, crop_or_pad, from_pcm16, to_pcm16
from dualspec.files import atomic_path, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

Codec = Literal["opus", "mp3"]

_CODECS: dict[str, tuple[int, int, dict[str, str]]] = {  # range of libsndfile's scale, bit/s
    "opus": (6_000, 256_000, {"format": "OGG", "subtype": "OPUS"}),
    "mp3": (8_000, 160_000, {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}),
}
_MAX_SHARD_BYTES = 2**30
_FIRST_PAGE = b"OggS\0\2"
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def code_and_decode(waveform: Tensor, sample_rate: int, codec: Codec, bit_rate: int) -> Tensor:
    """Send a waveform through a lossy codec; nothing stays on the disk.

    Args:
        waveform: (C, S) float in [-1, 1].
        sample_rate: Hz, one that the codec takes.
        codec: "opus" keeps the time; "mp3" adds its own delay of about 50 ms.
        bit_rate: Nominal rate of all channels together, bit/s, brought into the codec's range.

    Returns:
        (C, S) float32 on the CPU.

    Raises:
        ValueError: the codec is unknown.
    """
    return crop_or_pad(_decoded(_coded(waveform, sample_rate, codec, bit_rate)), waveform.shape[-1])


def _coded(waveform: Tensor, sample_rate: int, codec: Codec, bit_rate: int) -> bytes:
    """Return a waveform (C, S) as the bytes of a file of the codec."""
    if codec not in _CODECS:
        raise ValueError(f"codec must be {' or '.join(_CODECS)}, got {codec!r}; choose one of them")
    lowest, highest, kind = _CODECS[codec]
    rate = bit_rate / len(waveform) if codec == "opus" else bit_rate  # libsndfile's scale is per channel for Opus
    level = min(1.0, max(0.0, (highest - rate) / (highest - lowest)))
    import torch

    samples = waveform.detach().to("cpu", torch.float32).numpy().T
    with TemporaryFile() as stream:  # by its number: a Python stream would be called back, where Ctrl-C gets lost
        soundfile.write(stream.fileno(), samples, sample_rate, compression_level=level, closefd=False, **kind)
        stream.seek(0)
        return stream.read()


def _decoded(data: bytes) -> Tensor:
    """Return the waveform (C, S) that the bytes of an audio file hold, float32."""
    import torch

    with TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        samples, _ = soundfile.read(stream.fileno(), dtype="float32", always_2d=True, closefd=False)
    return torch.from_numpy(np.ascontiguousarray(samples.T))


def opus_clip(pcm: Tensor, sample_rate: int, bit_rate: int) -> bytes:
    """Code one mono clip (S,) int16 as an Opus stream of its own.

    Raises:
        ValueError: Opus has no such rate.
    """
    if sample_rate not in OPUS_RATES:
        raise ValueError(f"sample_rate must be one of {OPUS_RATES} for Opus, got {sample_rate}; prepare at 16000")
    return _coded(from_pcm16(pcm)[None], sample_rate, "opus", bit_rate)


class OpusWriter:
    """Append Opus clips to one file that appears under its name only when it is complete: a chained Ogg stream."""

    def __init__(self, path: str | Path) -> None:
        """Open a temporary file beside the target."""
        self.num_bytes = self.num_clips = 0
        self._stack = ExitStack()
        self._file = self._stack.enter_context(self._stack.enter_context(atomic_path(path)).open("wb"))

    def append(self, clip: bytes) -> tuple[int, str]:
        """Write a clip of `opus_clip` behind the others; return the offset of its first byte, and its SHA-256."""
        offset, clip = self.num_bytes, _renumbered(clip, self.num_clips)
        self._file.write(clip)
        self.num_bytes += len(clip)
        self.num_clips += 1
        return offset, hashlib.sha256(clip).hexdigest()

    def __enter__(self) -> OpusWriter:
        """Return the open writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the file, or remove what was written when an error is passing through."""
        self._stack.__exit__(kind, error, trace)


class OpusReader:
    """Access to the clips of an `OpusWriter`'s file by the offsets of their first bytes."""

    def __init__(self, path: str | Path) -> None:
        """Read the file, some megabytes.

        Raises:
            AudioFileError: (a ValueError) it does not begin with an Opus stream of one channel.
        """
        self.path = Path(path)
        self._data = read_bytes(self.path, max_bytes=_MAX_SHARD_BYTES)
        head = self._data[28:44]
        if self._data[:6] != _FIRST_PAGE or head[:8] != b"OpusHead" or head[9] != 1:
            raise AudioFileError("unreadable", f"{path} must be a file of mono Opus clips, got another; pack it again")
        self.sample_rate = int.from_bytes(head[12:16], "little")

    def sha256(self, offset: int) -> str:
        """Return the SHA-256 of the coded clip that begins at a byte."""
        return hashlib.sha256(self._clip(offset)).hexdigest()

    def read(self, offset: int, num_samples: int) -> Tensor:
        """Decode the clip that begins at byte `offset` to (num_samples,) int16."""
        try:
            pcm = to_pcm16(_decoded(self._clip(offset))[0])
        except soundfile.SoundFileError as error:
            raise AudioFileError("unreadable", f"{self.path} must be readable, got: {error}; pack it again") from error
        if len(pcm) != num_samples:
            raise AudioFileError("truncated", f"{self.path} must be complete, got {len(pcm)} samples; pack it again")
        return pcm

    def close(self) -> None:
        """Let go of the file's bytes."""
        self._data = b""

    def __enter__(self) -> OpusReader:
        """Return the open reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _clip(self, offset: int) -> bytes:
        end = self._data.find(_FIRST_PAGE, offset + 1)
        return self._data[offset : end if end > 0 else None]


def _renumbered(stream: bytes, serial: int) -> bytes:
    """Give every page of an Ogg stream this number: libsndfile draws one from the clock. RFC 3533, section 6."""
    pages, start = bytearray(stream), 0
    while start < len(pages):
        num_segments = pages[start + 26]
        end = start + 27 + num_segments + sum(pages[start + 27 : start + 27 + num_segments])
        pages[start + 14 : start + 18] = serial.to_bytes(4, "little")
        pages[start + 22 : start + 26] = bytes(4)
        pages[start + 22 : start + 26] = _ogg_checksum(pages[start:end]).to_bytes(4, "little")
        start = end
    return bytes(pages)


def _ogg_checksum(page: bytearray) -> int:
    """Return Ogg's CRC-32: zlib's with the bits of every byte and of the sum mirrored, and nothing inverted."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)

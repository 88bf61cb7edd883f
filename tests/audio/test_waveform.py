"""Audio files: exact round trips, and every way in which a file must be refused."""

from __future__ import annotations

import math
import pickle
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualspec.audio.audio_file import AudioFileError
from dualspec.audio.codec import code_and_decode
from dualspec.audio.waveform import (
    Pcm16Reader,
    Pcm16Writer,
    audio_info,
    crop_or_pad,
    from_pcm16,
    read_waveform,
    resample,
    to_pcm16,
    write_waveform,
)

RATE = 16_000


def noise(channels: int = 2, num_samples: int = RATE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, num_samples, generator=generator) * 1.8 - 0.9


def reason_of(path: Path, **kwargs: object) -> str:
    with pytest.raises(AudioFileError) as caught:
        read_waveform(path, **kwargs)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError) and str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_16", 0.5 / 2**15),
        ("a.wav", "PCM_24", 0.5 / 2**23),
        ("a.wav", "FLOAT", 0.0),
        ("a.flac", "PCM_16", 0.5 / 2**15),
        ("a.flac", "PCM_24", 0.5 / 2**23),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, name: str, subtype: str, error: float) -> None:
    waveform = noise()
    assert write_waveform(tmp_path / name, waveform, RATE, subtype=subtype) == 1.0  # type: ignore[arg-type]
    read, rate = read_waveform(tmp_path / name)
    assert rate == RATE and read.dtype == torch.float32 and read.shape == waveform.shape
    assert float((read - waveform).abs().max()) <= error * 1.001
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_int16_samples_are_stored_as_they_are(tmp_path: Path) -> None:
    pcm = torch.tensor([[-32768, -1, 0, 1, 32767]], dtype=torch.int16)
    write_waveform(tmp_path / "a.flac", pcm, RATE)
    read, _ = read_waveform(tmp_path / "a.flac")
    assert torch.equal(to_pcm16(read), pcm) and torch.equal(from_pcm16(pcm), read)


@pytest.mark.parametrize("name", ["a.opus", "a.ogg"])
def test_opus_keeps_length_and_level(tmp_path: Path, name: str) -> None:
    tone = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE)[None]
    write_waveform(tmp_path / name, tone, RATE)
    read, rate = read_waveform(tmp_path / name)
    assert rate == RATE and abs(read.shape[-1] - RATE) <= 320
    assert float(read.std()) == pytest.approx(float(tone.std()), rel=0.05)


@pytest.mark.parametrize(("codec", "bit_rate"), [("opus", 32_000), ("opus", 128_000), ("mp3", 64_000)])
def test_a_codec_keeps_shape_and_level(codec: Literal["opus", "mp3"], bit_rate: int) -> None:
    time = torch.arange(2 * RATE) / RATE
    tone = torch.stack([0.4 * torch.sin(2 * torch.pi * 440 * time), 0.2 * torch.sin(2 * torch.pi * 880 * time)])
    coded = code_and_decode(tone, RATE, codec, bit_rate)
    assert coded.shape == tone.shape and not torch.equal(coded, tone)
    middle = slice(RATE // 2, 3 * RATE // 2)
    assert torch.allclose(coded[:, middle].square().mean(1), tone[:, middle].square().mean(1), rtol=0.1)
    with pytest.raises(ValueError, match="codec must be opus or mp3, got 'aac'"):
        code_and_decode(tone, RATE, "aac", bit_rate)  # type: ignore[arg-type]


def test_header_is_read_without_decoding(tmp_path: Path) -> None:
    write_waveform(tmp_path / "a.wav", noise(2, 24_000), 48_000)
    info = audio_info(tmp_path / "a.wav")
    assert (info.num_frames, info.sample_rate, info.num_channels, info.format) == (24_000, 48_000, 2, "WAV")
    assert info.duration_s == 0.5


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    waveform = noise(3)
    write_waveform(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    read, _ = read_waveform(tmp_path / "a.wav", mono=True)
    torch.testing.assert_close(read, waveform.mean(0, keepdim=True))


@given(st.integers(1, 400), st.integers(1, 400))
def test_crop_or_pad_keeps_the_start_and_adds_zeros(length: int, wanted: int) -> None:
    waveform = torch.arange(1.0, length + 1).repeat(2, 1)
    result = crop_or_pad(waveform, wanted)
    kept = min(length, wanted)
    assert result.shape == (2, wanted)
    assert torch.equal(result[:, :kept], waveform[:, :kept]) and not result[:, kept:].any()


def test_resampling_keeps_pitch_level_and_duration(tmp_path: Path) -> None:
    tone = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(44_100, dtype=torch.float64) / 44_100)
    write_waveform(tmp_path / "a.wav", tone[None], 44_100, subtype="FLOAT")
    read, rate = read_waveform(tmp_path / "a.wav", sample_rate=RATE)
    expected = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(RATE, dtype=torch.float64) / RATE)
    assert rate == RATE and read.shape == (1, RATE)
    assert float((read[0] - expected)[200:-200].abs().max()) < 1e-4
    assert torch.equal(resample(tone, 44_100, 44_100), tone.float())
    assert resample(tone.expand(2, 3, -1), 44_100, RATE).shape == (2, 3, RATE)


def test_too_loud_is_refused_or_scaled_by_one_gain(tmp_path: Path) -> None:
    waveform = torch.stack((noise(1)[0] * 3, noise(1)[0] * 0.3))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        write_waveform(tmp_path / "a.wav", waveform, RATE)
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="scaled by"):
        gain = write_waveform(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT", clip="scale")
    read, _ = read_waveform(tmp_path / "a.wav")
    torch.testing.assert_close(read, waveform * gain)
    assert float(read.abs().max()) == pytest.approx(1.0)


def test_nothing_is_written_of_a_bad_request(tmp_path: Path) -> None:
    good = noise()
    (tmp_path / "old.wav").write_bytes(b"old")
    with pytest.raises(ValueError, match="must be finite"):
        write_waveform(tmp_path / "a.wav", good.clone().fill_(math.nan), RATE)
    with pytest.raises(ValueError, match=r"must be \(C, S\)"):
        write_waveform(tmp_path / "a.wav", good[0], RATE)
    with pytest.raises(ValueError, match="must end in one of"):
        write_waveform(tmp_path / "a.mp3", good, RATE)
    with pytest.raises(ValueError, match=r"subtype must be absent for \.opus"):
        write_waveform(tmp_path / "a.opus", good, RATE, subtype="PCM_16")
    with pytest.raises(ValueError, match="for Opus"):
        write_waveform(tmp_path / "a.opus", good, 44_100)
    with pytest.raises(ValueError, match=r"for \.flac"):
        write_waveform(tmp_path / "a.flac", good, RATE, subtype="FLOAT")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_waveform(tmp_path / "old.wav", good, RATE, overwrite=False)
    with pytest.raises(FileNotFoundError, match="must exist"):
        write_waveform(tmp_path / "none" / "a.wav", good, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["old.wav"]


def damage(path: Path, kind: str) -> str:
    """Write a file with one kind of damage; return the reason it must be refused for."""
    waveform = noise(1, 5 * RATE if path.suffix == ".opus" else RATE).numpy().T
    name = path.stem
    if kind == "zero bytes":
        path.write_bytes(b"")
        return "empty"
    if kind == "text":
        path.write_text("this is no audio\n" * 100)
        return "unreadable"
    if kind.startswith("truncated"):
        whole = path.with_name(f"{name}.whole{path.suffix}")
        suffix_format = {".wav": "WAV", ".flac": "FLAC", ".aiff": "AIFF", ".opus": "OGG"}[path.suffix]
        soundfile.write(whole, waveform, RATE, format=suffix_format, subtype="OPUS" if suffix_format == "OGG" else None)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        whole.unlink()
        return "unreadable" if path.suffix == ".flac" else "truncated"
    if kind == "header only":
        soundfile.write(path, waveform[:0], RATE)
        return "empty"
    if kind == "lying FLAC":
        soundfile.write(path, waveform, RATE)
        data = bytearray(path.read_bytes())
        data[21] |= 0x0F  # STREAMINFO: 36 bits of total samples
        data[22:26] = b"\xff\xff\xff\xf0"
        path.write_bytes(data)
        return "too_long"
    if kind == "lying WAV":
        soundfile.write(path, waveform, RATE)
        data = bytearray(path.read_bytes())
        at = data.index(b"data")
        data[at + 4 : at + 8] = struct.pack("<I", 2**31 - 1)
        path.write_bytes(data)
        return "truncated"
    if kind == "NaN":
        soundfile.write(path, np.where(np.arange(RATE)[:, None] == 99, np.nan, waveform), RATE, subtype="FLOAT")
        return "not_finite"
    if kind == "1024 channels":
        soundfile.write(path, np.zeros((10, 1024)), RATE)
        return "too_many_channels"
    if kind == "1 Hz":
        soundfile.write(path, waveform, 1)
        return "bad_sample_rate"
    assert kind == "wrong extension"
    soundfile.write(path, waveform, RATE, format="FLAC")
    return "wrong_extension"


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("zero bytes", ".wav"),
        ("text", ".wav"),
        ("text", ".flac"),
        ("truncated", ".wav"),
        ("truncated", ".flac"),
        ("truncated", ".aiff"),
        ("truncated", ".opus"),
        ("header only", ".wav"),
        ("lying FLAC", ".flac"),
        ("lying WAV", ".wav"),
        ("NaN", ".wav"),
        ("1024 channels", ".wav"),
        ("1 Hz", ".wav"),
        ("wrong extension", ".wav"),
    ],
)
def test_damaged_files_are_refused_with_their_reason(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    expected = damage(path, kind)
    assert reason_of(path) == expected


def test_limits_hold_before_decoding(tmp_path: Path) -> None:
    write_waveform(tmp_path / "a.wav", noise(4, 2 * RATE), RATE)
    assert reason_of(tmp_path / "a.wav", max_seconds=1.9) == "too_long"
    assert reason_of(tmp_path / "a.wav", max_channels=3) == "too_many_channels"
    assert read_waveform(tmp_path / "a.wav", max_seconds=2, max_channels=4)[0].shape == (4, 2 * RATE)


def test_absent_folder_and_headerless_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(FileNotFoundError, match="must be an audio file"):
            read_waveform(path)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    assert reason_of(tmp_path / "a.raw") == "unsupported"


def test_extra_chunks_and_odd_sizes_are_no_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1001), RATE, subtype="PCM_U8")
    data = path.read_bytes()
    listed = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(data[:12] + listed + data[12:] + listed)
    assert read_waveform(path)[0].shape == (1, 1001)


def test_random_damage_never_gives_anything_but_samples_or_a_reason(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for suffix, kwargs in ((".wav", {}), (".flac", {}), (".ogg", {"subtype": "OPUS"}), (".aiff", {}), (".mp3", {})):
        path = tmp_path / f"a{suffix}"
        soundfile.write(path, generator.uniform(-0.5, 0.5, 2000), RATE, **kwargs)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            data = whole.copy()
            places = generator.integers(0, min(len(data), 200 if generator.random() < 0.7 else len(data)), 4)
            data[places] = generator.integers(0, 256, 4)
            path.write_bytes(data.tobytes())
            try:
                waveform, _ = read_waveform(path, max_seconds=10)
            except AudioFileError as error:
                assert error.reason
            else:
                assert waveform.isfinite().all() and waveform.shape[0] <= 8


def test_the_error_crosses_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(AudioFileError("silent", "why")))  # type: ignore[arg-type]
    assert (error.reason, str(error)) == ("silent", "why")


def test_shards_give_back_every_clip_and_appear_only_when_complete(tmp_path: Path) -> None:
    clips = [to_pcm16(noise(1, n, seed=n)[0]) for n in (700, 1, 5000)]
    with Pcm16Writer(tmp_path / "s.flac", RATE) as writer:
        offsets = [writer.append(clip) for clip in clips]
        assert not (tmp_path / "s.flac").exists()
    assert offsets == [0, 700, 701]
    with Pcm16Reader(tmp_path / "s.flac") as reader:
        for place in (2, 0, 1, 2):
            assert torch.equal(reader.read(offsets[place], len(clips[place])), clips[place])
        with pytest.raises(AudioFileError, match="must hold samples"):
            reader.read(5000, 702)
    with pytest.raises(RuntimeError, match="stop"), Pcm16Writer(tmp_path / "t.flac", RATE) as writer:
        writer.append(clips[0])
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["s.flac"]
    write_waveform(tmp_path / "stereo.wav", noise(2), RATE)
    with pytest.raises(AudioFileError, match="must be mono PCM_16"):
        Pcm16Reader(tmp_path / "stereo.wav")


def patched_wav(path: Path, data_size: int, riff_size: int | None, **kind: str) -> np.ndarray:
    """Write 0.1 s as a pipe would, which cannot fill in sizes; return the samples (S, C)."""
    samples = noise(2, 1600).numpy().T
    soundfile.write(path, samples, RATE, **kind)
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", data_size)
    if riff_size is not None:
        content[4:8] = struct.pack("<I", riff_size)
    path.write_bytes(content)
    return samples


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("riff_size", [None, 0, 36, 0x7FFF_F024, 0xFFFF_FFFF])
@pytest.mark.parametrize("data_size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_F000, 0xFFFF_FFDB, 0xFFFF_FFFF])
def test_wav_from_a_pipe_is_read_to_its_end(
    tmp_path: Path, data_size: int, riff_size: int | None, subtype: str
) -> None:
    samples = patched_wav(tmp_path / "a.wav", data_size, riff_size, subtype=subtype)
    read, rate = read_waveform(tmp_path / "a.wav")
    assert rate == RATE and read.shape == (2, 1600) and audio_info(tmp_path / "a.wav").num_frames == 1600
    assert float((read.T - torch.from_numpy(samples)).abs().max()) <= 1.01 / 2**15
    assert reason_of(tmp_path / "a.wav", max_seconds=0.05) == "too_long"
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: content.index(b"data") + 8])
    assert reason_of(tmp_path / "a.wav") == "empty"


@pytest.mark.parametrize("long_size", [0, 2**64 - 1])
def test_rf64_and_aiff_from_a_pipe_are_read_to_their_ends(tmp_path: Path, long_size: int) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1, 1600).numpy().T, RATE, format="RF64")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"ds64") + 8
    content[at + 8 : at + 16] = struct.pack("<Q", long_size)
    (tmp_path / "a.wav").write_bytes(content)
    assert read_waveform(tmp_path / "a.wav")[0].shape == (1, 1600)
    soundfile.write(tmp_path / "a.aiff", noise(1, 1600).numpy().T, RATE)
    content = bytearray((tmp_path / "a.aiff").read_bytes())
    at = content.index(b"SSND") + 4
    content[at : at + 4] = struct.pack(">I", 0x7F00_0008 if long_size else 0xFFFF_FFFF)
    (tmp_path / "a.aiff").write_bytes(content)
    assert read_waveform(tmp_path / "a.aiff")[0].shape == (1, 1600)


def test_an_empty_data_chunk_before_another_chunk_is_no_sound(tmp_path: Path) -> None:
    patched_wav(tmp_path / "a.wav", 0, None)
    content = (tmp_path / "a.wav").read_bytes()
    head = content[: content.index(b"data") + 8]
    (tmp_path / "a.wav").write_bytes(head + b"LIST" + struct.pack("<I", 4) + b"abcd")
    assert reason_of(tmp_path / "a.wav") == "empty"


def endless_flac(path: Path, num_samples: int) -> np.ndarray:
    """Write FLAC whose header does not say how long it is, as an encoder leaves it that writes into a pipe."""
    samples = noise(2, num_samples).numpy().T
    soundfile.write(path, samples, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return samples


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    samples = endless_flac(path, 70_000)
    read, _ = read_waveform(path)
    assert read.shape == (2, 70_000) and audio_info(path).num_frames == 70_000
    assert float((read.T - torch.from_numpy(samples)).abs().max()) <= 1.01 / 2**15
    assert reason_of(path, max_seconds=4) == "too_long"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert reason_of(path) == "unreadable"
    path.write_bytes(whole)
    monkeypatch.setattr("dualspec.audio.audio_file.MAX_TOTAL_SAMPLES", 70_000)
    assert reason_of(path) == "too_long"
    assert audio_info(path).num_frames < 70_000 + 65_536, "no more than a block beyond the limit is decoded"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.w64", "W64"), ("a.caf", "CAF"), ("a.au", "AU"), ("upload", "W64"), ("a.wav", "AU")]
)
def test_containers_that_are_not_read_are_named(tmp_path: Path, name: str, kind: str) -> None:
    soundfile.write(tmp_path / name, noise().numpy().T, RATE, format=kind)
    with pytest.raises(AudioFileError, match=f"must be WAV, FLAC, Ogg, AIFF or MP3, got {kind}; convert it") as caught:
        read_waveform(tmp_path / name)
    assert caught.value.reason == "unsupported" and "named" not in str(caught.value)


def mp3_in_wav(mp3: bytes, tag: int = 0x55) -> bytes:
    fmt = struct.pack("<HHIIHHHHIHHH", tag, 2, RATE, 4_000, 1, 0, 12, 1, 2, 144, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"fact" + struct.pack("<II", 4, 99_999)
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", len(mp3)) + mp3 + bytes(len(mp3) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_mp3_in_a_wav_is_read_under_both_names_and_other_codings_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.mp3", noise().numpy().T, RATE)
    mp3 = (tmp_path / "whole.mp3").read_bytes()
    for name in ("a.wav", "a.mp3"):
        (tmp_path / name).write_bytes(mp3_in_wav(mp3))
        assert read_waveform(tmp_path / name)[0].shape == (2, RATE)
    for name in ("b.wav", "upload"):
        (tmp_path / name).write_bytes(mp3_in_wav(mp3, tag=0x00FF))  # AAC
        with pytest.raises(AudioFileError, match="must be whole and of a usual coding, got WAV: ") as caught:
            read_waveform(tmp_path / name)
        assert caught.value.reason == "unreadable"
    (tmp_path / "c.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    assert reason_of(tmp_path / "c.m4a") == "unsupported"


@pytest.mark.parametrize("name", ["a.wave", "a.aifc", "a.oga", "a.bwf", "a.rf64"])
def test_other_names_of_known_containers_are_read(tmp_path: Path, name: str) -> None:
    kind = {"a.aifc": "AIFF", "a.oga": "OGG", "a.rf64": "RF64"}.get(name, "WAV")
    soundfile.write(tmp_path / name, noise(1).numpy().T, RATE, format=kind)
    assert read_waveform(tmp_path / name)[0].shape == (1, RATE)
    soundfile.write(tmp_path / name, noise(1).numpy().T, RATE, format="FLAC")
    assert reason_of(tmp_path / name) == "wrong_extension"

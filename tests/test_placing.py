"""Recordings into directions: whole folders, paths, rates, loudness, lists and rejects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import spatialize
from dualspec.audio.delivery import integrated_loudness
from dualspec.audio.hrir import spherical_head
from dualspec.audio.movement import AzimuthPath, Waypoint, render_moving
from dualspec.audio.waveform import audio_info, read_waveform, resample, write_waveform
from dualspec.cli import app
from dualspec.evaluation.clips import list_clips
from dualspec.placing import read_path


def dualspec(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["spatialize", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    return result


def noise(seconds: float, sample_rate: int, *, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(channels)
    return 0.1 * torch.randn(channels, round(seconds * sample_rate), generator=generator)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder with sounds at two rates, one of them deeper down, and a broken file."""
    folder = tmp_path / "in"
    (folder / "steps" / "wood").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    write_waveform(folder / "dog.wav", noise(0.5, 44_100, channels=2), 44_100)
    write_waveform(folder / "steps" / "wood" / "1.flac", noise(0.5, 16_000), 16_000)
    write_waveform(folder / ".hidden" / "no.wav", noise(0.1, 16_000), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF and nothing else")
    (folder / "readme.txt").write_text("no sound")
    return folder


def rows(folder: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_folder_goes_around_the_head_and_a_bad_file_is_listed(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = dualspec(sounds, "-o", out, "--azimuths", 12, code=65)
    made = {
        f"{stem}-az{azimuth:03.0f}.wav": azimuth for stem in ("dog", "steps-wood-1") for azimuth in sector_grid_deg()
    }
    assert {path.name for path in out.glob("*.wav")} == set(made)
    listed = rows(out)
    assert {row["file"]: row["azimuth_deg"] for row in listed} == made
    assert {row["source"] for row in listed} == {"dog.wav", "steps/wood/1.flac"}
    assert {row["source"]: row.get("mixed_channels") for row in listed} == {"dog.wav": 2, "steps/wood/1.flac": None}
    (reject,) = rows(out, "rejects.jsonl")
    assert reject["source"] == "broken.wav" and reject["reason"] == "unreadable"
    assert "got 1 of 3 that are not, listed in" in result.output and "24 files were written" in result.output
    assert str(tmp_path) not in (out / "manifest.jsonl").read_text()
    for name, azimuth in (("steps-wood-1-az090.wav", 90.0), ("dog-az210.wav", 210.0)):
        ears, sample_rate = read_waveform(out / name)
        source = sounds / ("dog.wav" if name.startswith("dog") else "steps/wood/1.flac")
        mono, own_rate = read_waveform(source, mono=True)
        head = spherical_head(sample_rate=own_rate, num_taps=max(128, own_rate // 125))
        expected = spatialize(mono, azimuth, head, method="interpolate", peak=0.5)
        assert sample_rate == own_rate
        torch.testing.assert_close(ears, expected, atol=2 / 32_768, rtol=0)
    clips = list_clips(out)  # the judge and the listening page take the folder as it is
    assert len(clips) == 24 and {clip.azimuth_deg for clip in clips} == set(sector_grid_deg())


def test_files_for_a_game_engine(sounds: Path, tmp_path: Path, write_sofa: Callable[..., Path]) -> None:
    """48 kHz, 24 bit, -23 LUFS; what the recording or the head cannot give is said for each file."""
    out, common = tmp_path / "out", ("--sample-rate", 48_000, "--subtype", "PCM_24", "--loudness", -23)
    result = dualspec(sounds / "dog.wav", sounds / "steps", "-o", out, "--azimuth", 270, "--azimuth", 22.5, *common)
    assert {path.name for path in out.glob("*.wav")} == {
        f"{a}-az{b}.wav" for a in ("dog", "wood-1") for b in (270, 22.5)
    }
    for row in rows(out):
        ears, sample_rate = read_waveform(out / row["file"])
        assert sample_rate == 48_000 == row["sample_rate"] and audio_info(out / row["file"]).num_frames == 24_000
        assert integrated_loudness(ears, 48_000) == pytest.approx(-23, abs=0.02) and row["loudness"]["lufs"] == -23
        khz = "44.1" if row["source"] == "dog.wav" else "16"
        assert (
            row["bandwidth"].startswith(f"{khz} kHz content resampled to 48 kHz") and row["bandwidth"] in result.output
        )
    assert not (out / "rejects.jsonl").exists() and result.output.count("-23 LUFS") == 4
    mono, _ = read_waveform(sounds / "dog.wav", sample_rate=48_000, mono=True)
    expected = spatialize(mono, 270, spherical_head(sample_rate=48_000, num_taps=384), method="interpolate")
    ears, _ = read_waveform(out / "dog-az270.wav")
    ratio = ears / expected
    assert float(ratio[expected.abs() > 0.01].std()) < 1e-3, "rendered at the output's rate, one gain for both ears"
    dualspec(sounds / "dog.wav", "-o", out / "x.wav", "--azimuth", 0, "--sofa", write_sofa())
    said = dualspec(sounds / "dog.wav", "-o", out / "x.wav", "--azimuth", 0, "--sofa", write_sofa()).output
    assert "16 kHz content resampled to 44.1 kHz: nothing above 8 kHz" in said and "replaced" in said, "the head's rate"


def test_a_path_is_followed_and_named_after_its_ends(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = dualspec(sounds / "steps", "-o", out, "--path", "0:270,0.4:90", "--path", "0:-30,0.6:30").output
    assert {path.name for path in out.glob("*.wav")} == {"wood-1-az270to090.wav", "wood-1-az-30to030.wav"}
    assert said.count("the sound ends before the path") == 1
    first = next(row for row in rows(out) if row["file"] == "wood-1-az270to090.wav")
    assert first["path"] == [[0.0, 270.0], [0.4, 90.0]] and "azimuth_deg" not in first
    mono, _ = read_waveform(sounds / "steps/wood/1.flac")
    path = AzimuthPath(waypoints=(Waypoint(time_s=0, azimuth_deg=270), Waypoint(time_s=0.4, azimuth_deg=90)))
    expected = render_moving(mono[0], path, spherical_head(sample_rate=16_000, num_taps=128))
    ears, _ = read_waveform(out / first["file"])
    torch.testing.assert_close(ears, 0.5 * expected / expected.abs().max(), atol=2 / 32_768, rtol=0)


def test_the_list_grows_with_the_folder_and_forgets_what_is_gone(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dualspec(sounds, "-o", out, "--azimuth", 0, code=65)
    dualspec(sounds / "dog.wav", sounds / "steps", "-o", out, "--azimuth", 0, "--azimuth", 90)
    assert rows(out, "rejects.jsonl") == [], "the latest run's"
    assert {row["file"] for row in rows(out)} == {f"{x}-az{a}.wav" for x, a in _pairs()} | {"steps-wood-1-az000.wav"}
    (out / "steps-wood-1-az000.wav").unlink()
    assert "replaced" in dualspec(sounds / "dog.wav", sounds / "steps", "-o", out, "--azimuth", 0, code=0).output
    assert {row["file"] for row in rows(out)} == {f"{x}-az{a}.wav" for x, a in _pairs()}
    (out / "manifest.jsonl").write_text('{"file": "a.wav", "prompt": "of a model"}\n')
    assert "got another list" in dualspec(sounds / "steps", "-o", out, "--azimuth", 0, "--azimuth", 9, code=65).output


def _pairs() -> list[tuple[str, str]]:
    return [(stem, azimuth) for stem in ("dog", "wood-1") for azimuth in ("000", "090")]


def test_what_was_made_below_the_recordings_is_none_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_waveform(folder / "dog.wav", noise(0.2, 16_000), 16_000)
    for azimuth in (90, 270):
        dualspec(folder, "-o", folder / "out", "--azimuth", azimuth)
    assert sorted(path.name for path in (folder / "out").glob("*.wav")) == ["dog-az090.wav", "dog-az270.wav"]


def test_silence_and_short_sounds_are_told(tmp_path: Path) -> None:
    write_waveform(tmp_path / "silent.wav", torch.zeros(1, 16_000), 16_000)
    write_waveform(tmp_path / "short.wav", noise(0.1, 16_000), 16_000)
    said = dualspec(tmp_path, "-o", tmp_path / "out", "--azimuth", 90, "--loudness", -23).output
    assert "silent-az090.wav: 1 s, azimuth 90, rendered through spherical_head, no loudness, for it is silent" in said
    assert "-23 LUFS (shorter than 0.4 s, measured with silence behind it)" in said
    assert not read_waveform(tmp_path / "out" / "silent-az090.wav")[0].any()


def test_downsampling_keeps_what_both_rates_hold(tmp_path: Path) -> None:
    low = resample(noise(0.5, 16_000), 16_000, 48_000)
    write_waveform(tmp_path / "a.wav", low, 48_000, subtype="FLOAT")
    for rate in (16_000, 48_000):
        dualspec(
            tmp_path / "a.wav",
            "-o",
            tmp_path / f"{rate}.wav",
            "--azimuth",
            45,
            "--sample-rate",
            rate,
            "--subtype",
            "PCM_24",
        )
    narrow, wide = (
        read_waveform(tmp_path / "16000.wav")[0],
        read_waveform(tmp_path / "48000.wav", sample_rate=16_000)[0],
    )
    spectra = [torch.fft.rfft(ears)[:, 100:2_000].abs() for ears in (narrow, wide)]
    levels = [20 * torch.log10(spectrum.square().mean(1).sqrt()) for spectrum in spectra]
    difference = levels[0] - levels[1]
    assert float((difference[0] - difference[1]).abs()) < 0.1, "the ears keep their difference"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-o", "{}/out"], 2, "--azimuth, --azimuths or --path must be given"),
        (["-o", "{}/out", "--azimuth", "360"], 2, "azimuth_deg must be a number"),
        (["-o", "{}/out", "--path", "0:0,1"], 2, "path must be seconds:degrees"),
        (["-o", "{}/out", "--path", "1:0,0:9"], 2, "must be later than"),
        (["-o", "{}/out", "--azimuth", "0", "--loudness", "-3"], 2, "loudness must be -70 to -5 LUFS"),
        (["-o", "{}/out", "--azimuth", "0", "--loudness", "-23", "--peak", "0.5"], 2, "--loudness must come without"),
        (["-o", "{}/out.wav", "--azimuths", "2"], 2, "output must be a folder for 3 recordings in 2 directions"),
        (["-o", "{}/out.mp3", "--azimuth", "0"], 2, "output must end in .wav or .flac"),
        (["-o", "{}/in", "--azimuth", "0"], 65, "output must be another folder"),
        (["-o", "{}/out", "--path", "0:0,1:9", "--path", "0:0,2:9"], 2, "paths must differ in where they begin or end"),
        (["{}/in/dog.wav", "-o", "{}/out", "--azimuth", "0"], 65, "recordings must differ in name"),
        (["{}/no.wav", "-o", "{}/out", "--azimuth", "0"], 66, "must be a sound file or a folder"),
        (["{}/in/.hidden/..", "-o", "{}/out", "--azimuth", "0"], 65, "recordings must differ in name"),
    ],
)
def test_what_cannot_be_is_refused(sounds: Path, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    (tmp_path / "other").mkdir()
    write_waveform(tmp_path / "other" / "dog.wav", noise(0.1, 16_000), 16_000)
    extra = [tmp_path / "other"] if "differ in name" in message else []
    said = dualspec(sounds, *extra, *(word.format(tmp_path) for word in words), code=code)
    assert message in said.output and not (tmp_path / "out").exists()


def test_a_path_is_read_as_it_is_written() -> None:
    assert [(point.time_s, point.azimuth_deg) for point in read_path("0:270, 2.5:450").waypoints] == [
        (0, 270),
        (2.5, 450),
    ]
    for wrong in ("", "0", "a:b", "0:1:2", "0:0,nan:3", "0:0,0.01:180"):
        with pytest.raises(ValueError, match="path must be seconds:degrees"):
            read_path(wrong)

"""What nobody asked for is not overwritten, deleted or left undone: odd names, links, environments, two at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.audio.waveform import write_waveform
from dualspec.cli import main
from dualspec.cli.door import BAD_DATA, IO_ERROR, LOCKED, USAGE, exit_code
from dualspec.config import load_json, save_json
from dualspec.files import held
from dualspec.recipes import get_recipe, vae_configs
from dualspec.training.diffusion_task import DiffusionTaskConfig
from dualspec.training.weights import save_state

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
LIST = {"prompt": PROMPT, "azimuth_deg": 270.0}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_waveform(tmp_path / "dog.wav", torch.linspace(-0.3, 0.3, 16_000)[None], 16_000)
    return tmp_path / "dog.wav"


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_a_recording_is_not_replaced_by_its_rendering(recording, link, capsys):
    content, output = recording.read_bytes(), recording
    if link is not None:
        output = recording.with_name("other.wav")
        link(output, recording)
    assert main(["spatialize", str(recording), "-o", str(output), "--azimuth", "90"]) == USAGE
    assert "must leave the recordings alone" in capsys.readouterr().err
    assert recording.read_bytes() == content == output.read_bytes()


def test_a_recording_that_bears_the_name_of_a_rendering_stays(recording, capsys):
    other = recording.with_name("dog-az090.wav")
    other.write_bytes(recording.read_bytes())
    words = ["spatialize", str(recording), str(other), "-o", str(recording.parent), "--azimuth", "90"]
    assert main(words) == USAGE
    assert str(other) in capsys.readouterr().err and other.read_bytes() == recording.read_bytes()


@pytest.mark.parametrize("content", ['{"precious": 1}', "no JSON at all", "[]"])
def test_a_json_that_is_no_record_stays(tmp_path, content, capsys):
    (tmp_path / "keep.json").write_text(content)
    (tmp_path / "scene.json").write_text(json.dumps({"events": [{"text": "rain", "azimuth_deg": 180}]}))
    for words in (["generate", PROMPT], ["scene", str(tmp_path / "scene.json")]):
        assert main([*words, "-o", str(tmp_path / "keep.wav")]) == USAGE
        assert "keep.json alone" in capsys.readouterr().err
    assert (tmp_path / "keep.json").read_text() == content and not (tmp_path / "keep.wav").exists()


def test_a_rendered_sound_has_a_name_of_its_own(tmp_path, capsys):
    rows = [LIST | {"file": name} for name in ("dog.wav", "dog-rendered.wav")]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["generate", "--manifest", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "out"), "--sofa", "x.sofa"]
    assert main(words) == USAGE
    assert "dog-rendered.json twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", [3, None, ["a.wav"], "a\0.wav", "\ud800.wav", "a" * 300 + ".wav", "é" * 150 + ".wav"])
def test_names_that_no_file_can_have_are_refused_with_their_line(tmp_path, name, capsys):
    (tmp_path / "list.jsonl").write_text(json.dumps(LIST | {"file": name}))
    assert main(["generate", "--manifest", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "out")]) == BAD_DATA
    assert "list.jsonl:1: file must be a plain name" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "size"), [("3", "2"), ("x", "1"), ("-1", "2"), ("0", "0")])
def test_a_share_that_is_none_is_refused(monkeypatch, tmp_path, capsys, rank, size):
    """It would make nothing and say that all is done."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(["generate", PROMPT, "-o", str(tmp_path / "a.wav")]) == USAGE
    assert "RANK must be 0 to WORLD_SIZE - 1" in capsys.readouterr().err


def test_a_rank_alone_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    words = ["generate", PROMPT, "-o", str(tmp_path / "a.wav"), "--steps", "1", "--no-picture", "--no-proof"]
    assert main(words) == 0 and (tmp_path / "a.wav").is_file()


def test_closed_streams_stop_nothing(monkeypatch, recording, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["spatialize", str(recording), "-o", str(tmp_path / "out"), "--azimuths", "2"]) == 0
    assert len(list((tmp_path / "out").glob("*.wav"))) == 2


def test_names_that_the_locale_cannot_say_are_an_error_of_the_system(monkeypatch):
    error = UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert exit_code(error) == (IO_ERROR, "names must be ascii in this locale, got others; set LC_ALL=C.UTF-8")


def test_two_cannot_prepare_one_folder(recording, tmp_path, capsys):
    (tmp_path / "corpus" / "dog").mkdir(parents=True)
    recording.rename(tmp_path / "corpus" / "dog" / "1.wav")
    words = ["prepare", str(tmp_path / "out"), "--corpus", f"folder={tmp_path / 'corpus'}", "--workers", "1"]
    with held(tmp_path / "out"):
        assert main(words) == LOCKED
    assert "another process fills" in capsys.readouterr().err
    theirs = [tmp_path / "rendered" / ".tmp-notes", tmp_path / "rendered" / "deep" / ".tmp-folder" / "file"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    left = tmp_path / "out" / f".tmp-dualspec-{'0' * 16}"
    (left / left.name).mkdir(parents=True)
    (left / "half.json").write_text("{")
    assert main([*words, "--render-to", str(tmp_path / "rendered")]) == 0
    assert all(path.read_text() == "mine" for path in theirs)
    assert not list((tmp_path / "out").glob(".tmp-*"))
    assert len(list((tmp_path / "rendered").rglob("*.wav"))) == 12


def test_a_folder_that_cannot_be_read_is_not_passed_over(recording, tmp_path, monkeypatch, capsys):
    closed, listed = tmp_path / "corpus" / "dog" / "closed", os.scandir
    closed.mkdir(parents=True)
    recording.rename(closed.parent / "1.wav")

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    corpus = str(tmp_path / "corpus")
    for words in (["spatialize", corpus, "--azimuth", "9", "-o"], ["prepare", "--corpus", f"folder={corpus}"]):
        assert main([*words, str(tmp_path / "out")]) == IO_ERROR
        assert capsys.readouterr().err == f"error: {closed}: Permission denied\n"
    assert not (tmp_path / "out").exists()


def test_weights_do_not_take_the_place_of_another_folder(tmp_path):
    config = vae_configs("tiny/dualspec", "dualspec")["mel_vae"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="must go to a new folder"):
        save_state(tmp_path / "thesis", {"a": torch.ones(1)}, config)
    assert os.listdir(tmp_path) == ["thesis"] and (tmp_path / "thesis" / "chapter.txt").is_file()
    for _ in range(2):  # weights take the place of weights
        save_state(tmp_path / "weights", {"a": torch.ones(1)}, config)


def test_a_long_word_in_a_configuration_makes_no_long_message(tmp_path):
    path = tmp_path / "config.json"
    save_json(get_recipe("tiny/dualspec").task, path)
    document = json.loads(path.read_text())
    document["config"]["variant"]["text_encoder"]["name_or_path"] = "a" * 5_000
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="name_or_path and sha256 must be empty") as refused:
        load_json(DiffusionTaskConfig, path)
    assert len(str(refused.value)) < 1_000

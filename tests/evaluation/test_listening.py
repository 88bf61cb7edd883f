"""Listening tests: orders, answers on the disk, and what they amount to."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.waveform import write_waveform
from dualspec.cli import app
from dualspec.evaluation.clips import Clip
from dualspec.evaluation.listening import (
    COLUMNS,
    Answer,
    ListeningTest,
    draw_order,
    group,
    open_results,
    read_answers,
    summarise,
)

FACTS = {"response_s": 2.5, "num_plays": 2, "headphones": "passed", "answered_at": "2026-01-01T00:00:00+00:00"}
CLIPS = [
    Clip(path=Path(f"{place}-{azimuth:g}.wav"), sha256=f"{place} {azimuth}", azimuth_deg=azimuth)
    for azimuth in sector_grid_deg()
    for place in range(4)
]


def answered(asked: float, heard: float, listener: str = "ann") -> Answer:
    clip = {"clip": "a.wav", "clip_sha256": "0"}
    return Answer(listener=listener, trial=1, asked_deg=asked, answered_deg=heard, **clip, **FACTS)  # type: ignore[arg-type]


def test_each_listener_has_an_order_of_their_own_that_can_be_drawn_again() -> None:
    order = draw_order(CLIPS, "ann", seed=1)
    assert Counter(clip.path for clip in order) == Counter(clip.path for clip in CLIPS)
    assert (
        order
        == draw_order(CLIPS, "ann", seed=1)
        != draw_order(CLIPS, "bob", seed=1)
        != draw_order(CLIPS, "bob", seed=2)
    )
    for num in (12, 24, 30):
        spread = Counter(clip.azimuth_deg for clip in draw_order(CLIPS, "ann", seed=3, num=num))
        assert len(spread) == 12 and set(spread.values()) <= {num // 12, -(-num // 12)}


def test_a_listener_goes_on_where_they_were(tmp_path: Path) -> None:
    path, heard = tmp_path / "answers.csv", []
    for start in (1, 4):
        with open_results(path) as results:
            test = ListeningTest(CLIPS, results, seed=5, num=6)
            for trial in range(start, start + 3):
                heard.append(test.clip("ann", trial))
                for wrong in (trial - 1, trial + 1):
                    with pytest.raises(LookupError, match=f"trial must be {trial} of 6, got {wrong}"):
                        test.answer("ann", wrong, 0.0, **FACTS)
                test.answer("ann", trial, 30.0, **FACTS)
            assert len(test.answers("ann")) == start + 2 and test.answers("bob") == []
    assert heard == draw_order(CLIPS, "ann", seed=5, num=6)
    with pytest.raises(LookupError):
        test.clip("ann", 7)
    stored = read_answers(path)
    assert [answer.clip for answer in stored] == [clip.path.name for clip in heard] and stored == results.answers
    assert next(csv.reader(path.open())) == list(COLUMNS)


def test_a_line_that_a_crash_left_unfinished_is_heard_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with open_results(path) as results:
        test = ListeningTest(CLIPS, results)
        test.answer("ann", 1, 30.0, **FACTS)
        test.answer("ann", 2, 30.0, **FACTS)
    whole = path.read_bytes()
    for cut in (2, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with open_results(path) as results:
            assert [answer.trial for answer in results.answers] == [1]
            ListeningTest(CLIPS, results).answer("ann", 2, 30.0, **FACTS)
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # all but the end of the line is there
    with open_results(path) as results:
        assert [answer.trial for answer in results.answers] == [1, 2]
    assert path.read_bytes() == whole
    for begun in (b"", b"listener,tri"):
        path.write_bytes(begun)
        with open_results(path) as results:
            assert not results.answers
        assert path.read_bytes() == whole.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    "content",
    [
        b"name,score\nann,1\nbob,2",
        b"notes of a day, without an end",
        b"listener,trial\nann,1",
        b"\xff\xfe\x00 no text",
        b"\n",
        ",".join(COLUMNS).encode() + b"\nann,1\nbo",
        "ïlistener".encode(),
    ],
)
def test_files_of_others_stay_as_they_are_to_the_byte(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"answers.csv:\d+ must be a line of a listening test"), open_results(path):
        pass
    assert path.read_bytes() == content
    with pytest.raises(OSError, match="results must be a file"), open_results(Path("/dev/zero")):
        pass


def test_only_one_process_extends_a_file_and_other_clips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with open_results(path) as results:
        ListeningTest(CLIPS, results).answer("ann", 1, 30.0, **FACTS)
        with pytest.raises(BlockingIOError, match="results must be free"), open_results(path):
            pass
        with pytest.raises(ValueError, match="results must be of these clips"):
            ListeningTest([Clip(path=CLIPS[0].path, sha256="other", azimuth_deg=0.0)], results)
    for wrong in (
        "a,b\n",
        path.read_text() + "ann,2\n",
        path.read_text() + path.read_text().splitlines()[1].replace(",30.0,", ",360,") + "\n",
    ):
        (tmp_path / "wrong.csv").write_text(wrong)
        with (
            pytest.raises(ValueError, match=r"wrong.csv:\d must be a line of a listening test"),
            open_results(tmp_path / "wrong.csv"),
        ):
            pass


def test_what_answers_amount_to() -> None:
    """By hand: errors 0, 20, 120 (front for back) and 10 degrees; the last clip is on the axis through the ears."""
    answers = [answered(0, 0), answered(350, 10), answered(30, 150), answered(270, 260)]
    assert [answer.error_deg for answer in answers] == [0, 20, 120, 10]
    assert [answer.front_back_confused for answer in answers] == ["no", "no", "yes", ""]
    result = summarise(answers)
    assert result["num_answers"] == 4 and result["azimuth_mae_deg"] == 37.5
    assert result["azimuth_accuracy"] == 0.75, "350 and 10 lie in the sector of the front"
    assert result["front_back_rate"] == pytest.approx(1 / 3) and result["folded_mae_deg"] == 7.5
    assert "front_back_rate" not in summarise(answers[3:]) and math.isfinite(summarise(answers[3:])["azimuth_mae_deg"])
    per = group([*answers, answered(90, 90, "bob")], lambda answer: answer.listener)
    assert per["ann"] == result and per["bob"]["azimuth_mae_deg"] == 0 and list(per) == ["ann", "bob"]


def test_the_summary_is_printed_for_people_and_directions(tmp_path: Path) -> None:
    with open_results(tmp_path / "answers.csv") as results:
        for answer in (answered(30, 150), answered(30, 30, "bob"), answered(90, 90, "bob")):
            results.append(answer)
    said = CliRunner().invoke(app, ["listen", "--summary", str(tmp_path / "answers.csv")])
    assert said.exit_code == 0, said.output
    lines = [line.split() for line in said.output.splitlines()]
    assert ["ann", "1", "0.0", "120.0", "0.0", "100.0", "2.5"] in lines
    assert ["(all)", "3", "66.7", "40.0", "0.0", "50.0", "2.5"] in lines
    assert ["90", "1", "100.0", "0.0", "0.0", "2.5"] in lines


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "one of FOLDER and --summary must be given"),
        (["{}/in", "--summary", "{}/x.csv"], 2, "one of FOLDER and --summary must be given"),
        (["--summary", "{}/none.csv"], 66, "none.csv"),
        (["{}/none"], 66, "no folder"),
        (["{}/in"], 65, "must hold clips with an azimuth"),
        (["{}/in", "--manifest", "{}/mono.jsonl"], 65, "must have two channels, got 1"),
        (["{}/in", "--host", "0.0.0.0"], 2, "token must be given"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    pytest.importorskip("fastapi", reason="the page needs the extra 'web'")
    (tmp_path / "in").mkdir()
    write_waveform(tmp_path / "in" / "a.wav", torch.zeros(1, 100), 16_000)
    (tmp_path / "mono.jsonl").write_text('{"file": "a.wav", "azimuth_deg": 30}\n')
    said = CliRunner().invoke(app, ["listen", *(word.format(tmp_path) for word in words)])
    assert said.exit_code == code and message in said.output, said.output

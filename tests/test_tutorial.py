"""The blocks of the tutorial, of the Python page and of the README, as they stand there, with fewer denoising steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dualspec.audio.waveform import read_waveform
from dualspec.cli import app


@pytest.fixture
def run_page(page_blocks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """A function that runs a page in an empty folder; it returns the names that Python left, and all that was said."""
    monkeypatch.chdir(tmp_path)

    def run(page: str, *languages: str) -> tuple[dict[str, Any], str]:
        names, said = {}, ""
        for language, block in page_blocks(page, *languages):
            if language == "python":
                exec(compile(re.sub(r"num_inference_steps=\d+", "num_inference_steps=3", block), page, "exec"), names)
                said += capsys.readouterr().out
                continue
            program, *words = block
            words += ["--steps", "3"] if words[0] == "generate" else []
            result = CliRunner().invoke(app, words)
            assert program == "dualspec" and result.exit_code == 0, f"{block}: {result.output}"
            said += result.output
        return names, said

    return run


def test_the_tutorial_works_from_top_to_bottom(run_page: Any) -> None:
    names, said = run_page("docs/tutorial.md", "sh", "python")
    assert "asked 90, heard 90" in said, "as the page says"
    assert names["proof"]["itd_us"] < -500 and names["proof"]["ild_db"] > 0, "the left ear is first, and louder"
    left, right = (read_waveform(name)[0] for name in ("rain.wav", "right.wav"))
    assert left[0].square().mean() > left[1].square().mean() and right[0].square().mean() < right[1].square().mean()
    seeds = sorted(json.loads(path.read_text())["seed"] for path in Path("variants").glob("*.json"))
    assert seeds == [0, 1, 2] and len(list(Path("clips").glob("*.wav"))) == 12
    assert names["cues"].itd_us[3] < -500 < 500 < names["cues"].itd_us[1], "nine o'clock is left, three is right"
    assert json.loads(Path("results/result.json").read_text())["num_clips"] == 12


def test_the_python_page_works(run_page: Any) -> None:
    names, said = run_page("docs/python.md", "python")
    assert "heard at 270 degrees" in said and said.count("step") == 3
    left, right = names["two"]
    assert left.shape == right.shape == (2, 81_920)
    assert Path("copy/CREDITS.tsv").is_file() and Path("copy/README.md").read_text().startswith("---\nlibrary_name")
    assert names["again"].events == names["pipeline"].events


def test_the_python_lines_of_the_readme_work(run_page: Any) -> None:
    run_page("README.md", "python")
    assert read_waveform("dog.wav")[0].shape == (2, 81_920)

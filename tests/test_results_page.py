"""The tables of docs/results.md: each has its place, and writing them leaves the rest of the page alone."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "tools" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "results.md")
    module.PAGE.write_text((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    return module


def judged(work: Path, name: str, accuracy: float) -> None:
    """Write a judgement as `dualspec evaluate` does, and what the command printed."""
    direction = {"num_asked": 12, "share_louder_and_earlier_at_the_correct_ear": 1.0, "azimuth_accuracy": accuracy}
    direction |= {"median_itd_error_us": 6.2, "median_ild_error_db": 0.251, "median_coherence": 0.96}
    direction |= {"azimuth_mae_deg": 2.5}
    row = {"azimuth_deg": 90.0, "num_clips": 1, "num_heard": 1, "itd_us": -770.1, "target_itd_us": -772.0}
    row |= {
        "ild_db": 4.4,
        "target_ild_db": None,
        "coherence": 0.98,
        "median_itd_error_us": 7.0,
        "median_ild_error_db": 0.2,
    }
    quality = {"mean": {"fd": 12.345, "kl": 3.2, "inception_score": 2.5, "psnr_db": 30.7, "ssim": 0.813}}
    (work / "results" / name).mkdir(parents=True)
    result = {"num_clips": 12, "quality": quality, "direction": direction, "rows": [row]}
    (work / "results" / name / "result.json").write_text(json.dumps(result))
    (work / "logs").mkdir(exist_ok=True)
    (work / "logs" / f"{name}.txt").write_text("\n--- \n\nreal\t1m0.0s\nuser\t0m6.0s\nsys\t0m0.144s\n")


def test_every_table_has_its_place_and_nothing_else_changes(maker: ModuleType, tmp_path: Path) -> None:
    from dualspec.evaluation.clip_scores import write_clip_scores

    work = tmp_path / "work"
    names = [*maker.WORDINGS, "blank", *(f"steps-{maker.slug(words)}" for words in maker.STEPS)]
    names += [f"guidance-{words}" for words in maker.GUIDANCE]
    names += ["target", *(f"target-{style}" for style in maker.WORDINGS), "target-others"]
    names += [f"roundtrip-{name}" for name in maker.LAST_STEPS]
    names += [f"target-{words}-{reading}" for words in ("unseen", "between") for reading in ("typed", "known")]
    for name in names:
        judged(work, name, 0.125)
    write_clip_scores(work / "results" / "target" / "clips.csv", [{"file": "a.wav", "event": "Dog", "kl": 1.5}])
    (work / "logs" / "nearest.txt").write_text("clip  distance\na.wav  0.5\n\n--- \n")
    before = maker.PAGE.read_text(encoding="utf-8")
    blocks = dict(maker.tables(work))
    assert set(blocks) == set(re.findall(r"<!-- made: ([\w-]+) -->", before))
    maker.write(maker.argparse.Namespace(work=work))
    after = maker.PAGE.read_text(encoding="utf-8")
    for block in blocks.values():
        assert block in after
    blank = re.compile(r"(<!-- made: [\w-]+ -->\n).*?(\n<!-- end -->)", re.DOTALL)
    assert blank.sub(r"\1\2", before) == blank.sub(r"\1\2", after) and before != after


def test_a_table_says_what_was_measured(maker: ModuleType, tmp_path: Path) -> None:
    judged(tmp_path, "doa", 0.125)
    rows = maker._quality("steps", {"8": "doa"}, tmp_path, timed=True).splitlines()
    assert (
        rows[2] == "| 8 | 12 | 12.35 | 3.200 | 2.50 | 2.50 | 12.5 | 6 | 0.25 | 0.96 | 0.10 |"
    )  # 6.144 s for 12 x 5.12 s
    judged(tmp_path, "roundtrip-own", 1.0)
    row = "| as it is | 12 | 6.2 | 0.25 | 0.96 | 30.70 | 0.813 | 12.35 | 3.200 | 2.50 | 100.0 % | 2.5 |"
    assert maker._round_trips({"own": "as it is"}, tmp_path).splitlines()[2] == row
    assert "12.35" not in maker._quality("steps", {"8": "doa"}, tmp_path, least=13)
    assert "| doa | 12 | 100.0 % | 6 | 0.25 | 0.96 | 12.5 % | 2.5 | – |" in maker._directions(
        "reads", {"doa": "doa"}, tmp_path
    )
    assert maker._azimuths([json.loads((tmp_path / "results/doa/result.json").read_text())["rows"][0]]).endswith(
        "| 90 | 1 of 1 | -770 | -772 | 4.4 | – | 0.98 | 7 | 0.2 |"
    )

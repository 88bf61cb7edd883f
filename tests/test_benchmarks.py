"""The measuring scripts run, on a few made-up clips, and their figures hang together."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_corpus_throughput(tmp_path: Path) -> None:
    module = script("corpus_throughput")
    result = module.measure(module.made_up(tmp_path, 40), tmp_path)
    shards, files = (
        result[name]["clips_per_s"] for name in ("rendered_from_shards_in_random_order", "read_from_ready_stereo_files")
    )
    assert result["shards_against_files"] == pytest.approx(shards / files)
    assert result["rendered_from_memory"]["times_real_time"] > 50
    assert result["disk"]["stereo_bytes_per_clip_second_and_direction"] == pytest.approx(64_000, rel=0.01)
    assert result["disk"]["shards_bytes_per_clip_second"] < 32_000


def test_a_manifest_row_costs_a_kilobyte_whatever_their_number(tmp_path: Path) -> None:
    module = script("corpus_throughput")
    facts = module.manifest_facts(tmp_path, 20_000)
    assert facts["rows"] == 20_000 and facts["bytes_in_memory_per_row"] < 1_200


def test_training_speed_counts_operations_and_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = script("training_speed")
    corpus = module.made_up(tmp_path, 8)
    options = argparse.Namespace(size="tiny", device="cpu", clips=2, repeat=1, set=[])
    two = module.measure("mel_vae", corpus, options)
    assert two["recipe"] == "tiny/mel_vae" and 0 < two["drawing"] < 1 and 0 < two["utilisation"] < 1
    options.clips = 4
    assert module.measure("mel_vae", corpus, options)["gflop_a_clip"] == pytest.approx(two["gflop_a_clip"], rel=0.05)


def test_paper_speed_rehearses_from_words_to_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command for a GPU runs, at tiny size: a batch of two is the same sound, and every figure is there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    options = argparse.Namespace(
        size="tiny", device="cpu", clips=[2], sampler=["dpmpp:2"], compile=False, mode=None, compare=True, repeat=1
    )
    (row,) = script("paper_speed").measure("dualspec_d", options)
    assert row["variant"] == "tiny/dualspec_d" and row["clips"] == 2 and row["seconds_per_second"] > 0
    assert row["of_the_paper"] == pytest.approx(row["seconds_per_second"] / 1.21, abs=1e-3)
    assert row["mel_neper"] < 1e-3 and row["itd_us"] < 1 and row["ild_db"] < 0.01

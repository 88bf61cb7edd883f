"""The comparisons of `make bench` run at a small size, and their tables land where they belong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))

    def by_name(name: str) -> ModuleType:
        return importlib.import_module(name)

    return by_name


def test_a_bar_is_kept_on_its_own_side_only(load) -> None:
    compare = load("compare")
    assert compare.at_least("speed", 4.0, 4.0, "").kept and not compare.at_least("speed", 4.0, 3.9, "").kept
    assert compare.at_most("error", 1.0, 1.0, "").kept and not compare.at_most("error", 1.0, 1.1, "").kept
    last = compare.table([compare.at_most("error", 1.0, 1.25, "2 clips")]).splitlines()[-1]
    assert last == "| error | ≤ 1 | 1.25 | **no** | 2 clips |"


def test_the_exact_denoiser_is_the_mean_of_the_noise(load) -> None:
    pytest.importorskip("onnxruntime")
    import torch

    solver = load("solver")
    schedule = solver.NoiseScheduleConfig()
    means = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    denoiser = solver.ExactDenoiser(means[:1], schedule)  # of one Gaussian: a linear function of the noisy latents
    noisy, alpha_bar = torch.ones(2, 1, 8, 8), denoiser.alpha_bar[500]
    expected = noisy.flatten(1) - alpha_bar.sqrt() * means[:1]
    expected = expected * (1 - alpha_bar).sqrt() / (1 - alpha_bar + alpha_bar * solver.SPREAD**2)
    found = denoiser(noisy, torch.full((2,), 500), noisy, noisy).flatten(1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_both_ways_of_a_distance_agree(load) -> None:
    signals = load("signals")
    assert signals.frechet_rows(width=32, clips=200)[1].kept


def test_a_table_is_put_between_its_marks(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import run; from pathlib import Path\n"
        "run.write(Path(sys.argv[2]), 'solver', 'new')\n"
    )
    page = tmp_path / "performance.md"
    page.write_text("a\n<!-- bench: solver -->\nold\n<!-- end -->\nb\n")
    words = [sys.executable, "-c", code, str(REPOSITORY / "benchmarks"), str(page)]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")})
    assert page.read_text() == "a\n<!-- bench: solver -->\nnew\n<!-- end -->\nb\n"
    assert subprocess.run([*words[:-1], str(REPOSITORY / "LICENSE")], capture_output=True).returncode == 1


def test_the_page_has_room_for_every_table() -> None:
    text = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in ("engines", "solver", "signals", "judging", "service"):
        assert text.count(f"<!-- bench: {name} -->\n") == 1

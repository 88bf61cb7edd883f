"""The embedded localizers: small, measured, credited; the robust one hears direction and doubts its absence."""

import pytest
import torch

from dualspec.audio.azimuth import lateral_side, sector_grid_deg
from dualspec.audio.hrir import spherical_head
from dualspec.evaluation.audition import _render, judge
from dualspec.model_folder import LOCALIZERS, load_localizer, localizer_folder

FOLDER = localizer_folder("robust").parent


def test_both_are_small_and_their_card_names_sources_and_limits() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4.1e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("ESC-50", "Berklee", "FABIAN", "HUTUBS", "KEMAR", "CREDITS.tsv", "CC BY 4.0"):
        assert name in card


@pytest.mark.parametrize("name", LOCALIZERS)
def test_each_was_measured_and_needs_no_warning(name: str) -> None:
    loaded = load_localizer(name)
    assert loaded.name == name and loaded.held_out_accuracy is not None and loaded.warning is None
    assert loaded.sha256 in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sum(parameter.numel() for parameter in loaded.localizer.parameters()) < 1.6e6


def test_the_robust_one_hears_sides_through_a_sphere_and_doubts_what_has_no_direction() -> None:
    localizer, head = load_localizer("robust").localizer, spherical_head()
    sound = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(3))

    def hear(condition: str) -> tuple[torch.Tensor, torch.Tensor]:
        angle, sure, _ = judge(localizer, _render(sound, head, condition, 16_000, torch.Generator()), 16_000)
        return angle, sure

    angle, sure = hear("clean")
    sides = [lateral_side(float(value)) for value in angle]
    assert sides == [lateral_side(value) for value in sector_grid_deg()] * 2
    _, unrelated = hear("ears unrelated")
    undelayed, _ = hear("no delay")
    assert unrelated.mean() < 0.3 < 0.7 < sure.mean()
    assert (undelayed % 180 == 0).double().mean() > 0.8  # the median plane, not where the level says

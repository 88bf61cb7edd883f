"""The embedded model itself: it fits its limits, names its sources, and puts sounds where the words say."""

import pytest

from dualspec.evaluation.spatial_metrics import on_correct_side
from dualspec.hearing.cues import interaural_cues
from dualspec.model_folder import embedded_bundle
from dualspec.pipeline import DualSpecPipeline


def test_bundle_fits_its_limits():
    files = [path for path in embedded_bundle().rglob("*") if path.is_file()]
    weights = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) < 48e6
    assert max(weights) <= 16 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".tsv", ".txt"}


def test_every_training_clip_is_credited_and_open():
    lines = (embedded_bundle() / "CREDITS.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    assert len(rows) == 2767
    assert {row[1] for row in rows} == {"CC0", "CC-BY"}
    assert all(len(row) == 3 and row[2] for row in rows)
    card = (embedded_bundle() / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in ("ESC-50", "Berklee", "FABIAN"))


@pytest.mark.parametrize("words", ["DOA {azimuth}", "{hour} o'clock direction"])
def test_words_place_the_sound(words):
    """Four lateral directions, eight steps: louder and earlier at the ear that faces the source."""
    import torch

    azimuths = [60, 90, 270, 300]
    hours = {60: 10, 90: 9, 270: 3, 300: 2}
    prompts = [f"EVENT: Rain & LOCATION: {words.format(azimuth=a, hour=hours[a])}" for a in azimuths]
    pipeline = DualSpecPipeline.from_pretrained()
    output = pipeline(prompts, num_inference_steps=8, seed=[11, 12, 13, 14])
    assert output.audios.shape == (4, 2, 81_920)
    cues = interaural_cues(output.audios, output.sample_rate)
    assert on_correct_side(torch.tensor(azimuths, dtype=torch.float64), cues).tolist() == [1.0] * 4

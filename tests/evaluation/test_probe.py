"""Which sound is recognised: the fit of a probe, its counts, their intervals, and the probes that are embedded."""

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from dualspec.audio.waveform import crop_or_pad, read_waveform
from dualspec.data.corpora import read_esc50
from dualspec.evaluation.embedders import KNOWN, load_embedder
from dualspec.evaluation.probe import L2, Probe, ProbeConfig, fit_probe, recognised, wilson_interval
from dualspec.model_folder import PROBES, load_probe
from dualspec.training.weights import save_weights

CONFIG = ProbeConfig(embedder="bands", embedder_sha256="b" * 64, num_features=4, classes=("dog", "rain", "siren"))


def clouds(num: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of three classes that overlap a little; features of very different size, one that never varies."""
    generator = torch.Generator().manual_seed(seed)
    class_ids = torch.arange(num) % 3
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    values = 2.0 * centres[class_ids] + torch.randn(num, 3, generator=generator)
    return torch.cat([values * torch.tensor([1e-3, 1.0, 1e3]) + 5.0, torch.full((num, 1), 7.0)], 1), class_ids


def test_a_fit_is_the_optimum_that_it_claims_to_be() -> None:
    """Where the gradient is zero, classes are foreseen as often as they are, and errors pull as hard as the weight."""
    embeddings, class_ids = clouds()
    probe = fit_probe(CONFIG, embeddings, class_ids)
    error = probe(embeddings).double().softmax(1) - torch.nn.functional.one_hot(class_ids, 3)
    assert torch.allclose(error.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-4)
    spread, mean = embeddings[:, :3].double().std(0, correction=0), embeddings[:, :3].double().mean(0)
    pull = error.T @ ((embeddings[:, :3].double() - mean) / spread) / len(error)
    weight = probe.linear.weight[:, :3].double() * spread
    assert torch.allclose(pull, -L2 * weight, atol=1e-4) and float(weight.abs().max()) > 1.0
    assert float(probe.linear.weight[:, 3].abs().max()) == 0.0, "what never varies tells nothing"


def test_a_fit_recognises_what_it_never_saw_and_comes_out_the_same_again() -> None:
    embeddings, class_ids = clouds()
    probe, again = (fit_probe(CONFIG, embeddings, class_ids) for _ in range(2))
    assert torch.equal(probe.linear.weight, again.linear.weight) and torch.equal(probe.linear.bias, again.linear.bias)
    unseen, wanted = clouds(300, seed=1)
    found = recognised(probe, unseen, [CONFIG.classes[index] for index in wanted.tolist()])
    assert found is not None and 0.75 < found["top1"] < 1.0 and found["top5"] == 1.0


def test_what_cannot_be_fitted_is_refused() -> None:
    embeddings, class_ids = clouds()
    for values, classes, words in (
        (embeddings[:, :3], class_ids, r"shape \(60, 4\), got \(60, 3\)"),
        (embeddings / 0, class_ids, "embeddings must be finite"),
        (embeddings, class_ids.clamp(max=1), r"each of 3 classes, got \[20, 40, 0\]"),
        (embeddings, class_ids + 1, "each of 3 classes"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_probe(CONFIG, values, classes)
    for classes in (("dog",), ("dog", "dog")):
        with pytest.raises(ValueError, match="two or more, each once"):
            ProbeConfig(embedder="bands", embedder_sha256="", num_features=4, classes=classes)


def seven() -> Probe:
    """A probe whose scores are the embedding itself."""
    config = ProbeConfig(embedder="bands", embedder_sha256="", num_features=7, classes=tuple("abcdefg"))
    probe = Probe(config)
    probe.load_state_dict({"linear.weight": torch.eye(7), "linear.bias": torch.zeros(7)})
    return probe.requires_grad_(False)


def test_clips_are_counted_by_the_place_of_their_class() -> None:
    falling = torch.arange(7.0).flip(0)
    found = recognised(seven(), falling.expand(6, 7), ["a", "e", "f", "a", "whale", None])
    assert found is not None and (found["num_clips"], found["num_left_out"]) == (4, 2)
    assert (found["top1"], found["top5"]) == (0.5, 0.75)
    assert {label: (own["num_clips"], own["top1"], own["top5"]) for label, own in found["classes"].items()} == {
        "a": (2, 1.0, 1.0),
        "e": (1, 0.0, 1.0),
        "f": (1, 0.0, 0.0),
    }
    assert recognised(seven(), falling.expand(1, 7), ["whale"]) is None


def test_a_probe_that_cannot_decide_recognises_nothing() -> None:
    found = recognised(seven(), torch.zeros(1, 7), ["a"])
    assert found is not None and found["top1"] == found["top5"] == 0.0


@pytest.mark.parametrize(("hits", "num"), [(0, 10), (5, 10), (10, 10), (40, 200), (1, 1)])
def test_intervals_are_wilsons(hits: int, num: int) -> None:
    expected = binomtest(hits, num).proportion_ci(method="wilson")
    assert wilson_interval(hits, num) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_a_probe_is_stored_with_its_facts(tmp_path: Path) -> None:
    probe = fit_probe(CONFIG, *clouds())
    save_weights(tmp_path / "probe", probe, CONFIG, notes={"held_out_top1": 0.9})
    loaded = load_probe(tmp_path / "probe")
    assert loaded.probe.config == CONFIG and torch.equal(loaded.probe.linear.weight, probe.linear.weight)
    assert loaded.facts["held_out_top1"] == 0.9 and len(loaded.facts["sha256"]) == 64
    with pytest.raises(FileNotFoundError, match="no weights in"):
        load_probe(tmp_path)


@pytest.mark.parametrize("name", PROBES)
def test_the_embedded_probes_belong_to_published_weights_and_know_their_worth(name: str) -> None:
    loaded = load_probe(name)
    config, facts = loaded.probe.config, loaded.facts
    assert (config.embedder, config.embedder_sha256) == (name, KNOWN[name].sha256)
    assert len(config.classes) == 50 and {"dog", "church bells", "vacuum cleaner"} <= set(config.classes)
    assert facts["num_clips"] > 1000 and facts["held_out_clips"] > 300 and facts["l2"] == L2
    low, high = facts["held_out_top1_interval"]
    assert low < facts["held_out_top1"] < high and facts["held_out_top1"] > {"mn04_as": 0.9, "yamnet": 0.8}[name]


@pytest.mark.parametrize("name", PROBES)
def test_true_unseen_recordings_are_recognised(name: str, shared_data: Path) -> None:
    """Two clips of each of 25 classes of fold 4, which trained no probe."""
    file = shared_data / "embedders" / KNOWN[name].file_name
    try:
        embedder = load_embedder(f"{name}={file}" if file.is_file() else name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    rows = [row for row in read_esc50(shared_data / "esc50") if row.split_hint == "test" and row.path.is_file()]
    chosen = sorted(rows, key=lambda row: (row.labels[0], row.clip_id))[::8]
    sounds = torch.stack([crop_or_pad(read_waveform(row.path, mono=True)[0][0], 80_000) for row in chosen])
    loaded = load_probe(name)
    found = recognised(loaded.probe, embedder(sounds, 16_000).embeddings, [row.labels[0] for row in chosen])
    assert found is not None and found["num_clips"] == 50
    assert abs(found["top1"] - loaded.facts["held_out_top1"]) < 0.15

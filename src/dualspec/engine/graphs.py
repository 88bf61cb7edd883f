"""The networks of a model as ONNX graphs without weights; `python -m dualspec.engine.graphs` writes the embedded one's.

A graph names its weights as the weights folders do and holds none: whoever runs it reads them from their safetensors.
Beside the graphs, `graphs.json` says which settings each was made for and which weights it asks for. Only this file
needs torch and the exporter (extra `engine-export`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualspec.bundle import embedded_bundle, localizer_folder
from dualspec.config import to_dict
from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.variant import VariantConfig
from dualspec.engine.session import DECODER_SETTINGS, FORMAT_VERSION, GRAPHS_NAME, graphs_folder
from dualspec.features.mel import mel_to_magnitude
from dualspec.files import sha256_of, write_bytes_atomic, write_text_atomic
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.latents.pairing import LatentPairing
from dualspec.latents.vae import SpectrogramVae, VaeConfig, channels_to_spectra, unscale_stft
from dualspec.synthesis.reconstruct import near_ear
from dualspec.text.encoder import build_text_encoder
from dualspec.training.weights import load_module

OPSET = 20
_LARGEST_GRAPH = 300_000  # bytes; a larger one holds a copy of weights
_BATCH, _LENGTH = torch.export.Dim("batch", max=2048), torch.export.Dim("length", min=2, max=128)
_FRAMES = torch.export.Dim("frames", min=2)
Example = dict[str, tuple[Tensor, dict[int, Any]]]
"""Inputs by name: an example, and those of its axes that may have another length."""


class Decoder(nn.Module):
    """Packed latents to what the last step takes, where a mel part shares the framing of the STFT part behind it."""

    def __init__(self, vaes: dict[str, SpectrogramVae], pairing: LatentPairing) -> None:
        """Take the parts, mel first."""
        super().__init__()
        self.pairing = pairing
        for part, vae in vaes.items():
            self.add_module(part, vae)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the near ear (B,), magnitudes (B, 2, T, F) and real STFT channels (B, 6, T, F) of latents."""
        vaes: list[Any] = list(self.children())
        scaled = zip(vaes, self.pairing.unpack(latents), strict=True)
        mel, stft = (vae.decode_channels(vae.unscale(part)) for vae, part in scaled)
        log_mel: Any = channels_to_spectra(mel, vaes[0].config).log_mel
        magnitude = mel_to_magnitude(log_mel, vaes[0].config.mel)[..., 1:]
        return near_ear(log_mel), magnitude, unscale_stft(stft, vaes[1].config)


class Scores(nn.Module):
    """The localizer behind its features."""

    def __init__(self, localizer: Localizer) -> None:
        """Take the layers, under the names of the weights folder."""
        super().__init__()
        self.localizer = localizer

    def forward(self, magnitude: Tensor, phase: Tensor, heard: Tensor) -> Tensor:
        """Return the scores (B, I)."""
        return self.localizer.classify(magnitude, phase, heard)


def write_graphs(folder: Path) -> None:
    """Write the graphs of the embedded model and of its judge, and their index."""
    bundle, robust = embedded_bundle(), localizer_folder("robust")
    variant: dict[str, type] = {"VariantConfig": VariantConfig}
    denoiser, config = load_module(bundle / "denoiser", variant, lambda own: build_denoiser(own.denoiser))
    vaes = {part: load_module(bundle / part, {"VaeConfig": VaeConfig}, SpectrogramVae)[0] for part in config.parts}
    localizer, _ = load_module(robust, {"LocalizerConfig": LocalizerConfig}, Localizer)
    bert: Any = build_text_encoder(config.text_encoder)
    pairing = LatentPairing(config.pairing, config.latent_shapes({part: vae.config for part, vae in vaes.items()}))
    settings = to_dict(config)
    states = (_example(3, 5, bert.width), {0: _BATCH, 1: _LENGTH})
    mask = (torch.arange(5) < torch.tensor([[3], [5], [4]]), {0: _BATCH, 1: _LENGTH})
    latents = (_example(3, *pairing.packed_shape), {0: _BATCH})
    bins, phases = localizer.config.stft.num_bins, localizer.config.num_phase_channels
    spectra: Example = {
        "magnitude": (_example(3, 2, 37, bins), {0: _BATCH, 2: _FRAMES}),
        "phase": (_example(3, phases, 37, bins), {0: _BATCH, 2: _FRAMES}),
        "heard": (_example(3, 37) < 1.0, {0: _BATCH, 1: _FRAMES}),
    }
    prompt: Example = {"prompt_embeds": states, "prompt_mask": mask}
    steps: Example = {"latents": latents, "timesteps": (torch.full((3,), 500), {0: _BATCH})}
    with torch.no_grad():
        Decoder(vaes, pairing)(latents[0])  # what is computed once must not be computed while tracing
    chosen = {name: settings[name] for name in DECODER_SETTINGS}
    chosen["vaes"] = {part: to_dict(vae.config) for part, vae in vaes.items()}
    graphs: dict[str, tuple[nn.Module, Example, dict[str, Any]]] = {
        "text": (bert.model, {"words": states, "mask": mask}, settings["text_encoder"]),
        "denoiser": (denoiser, steps | prompt, settings["denoiser"]),
        "decoder": (Decoder(vaes, pairing), {"latents": latents}, chosen),
        "localizer": (Scores(localizer), spectra, to_dict(localizer.config)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, (module, example, made_for) in graphs.items():
        weights = _write(folder / f"{name}.onnx", module, example)
        index[name] = {"sha256": sha256_of(folder / f"{name}.onnx"), "settings": made_for, "weights": weights}
    document = {"format_version": FORMAT_VERSION, "opset": OPSET, "graphs": index}
    write_text_atomic(folder / GRAPHS_NAME, json.dumps(document, indent=1) + "\n")


def _example(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _write(path: Path, module: nn.Module, example: Example) -> dict[str, bool]:
    """Trace a module, write its graph without weights, and return their names and whether each is to be transposed."""
    from onnx.helper import make_tensor_value_info
    from onnxscript import optimizer

    exported = torch.onnx.export(
        module.eval(),
        tuple(value for value, _ in example.values()),
        input_names=list(example),
        dynamic_shapes=tuple(axes for _, axes in example.values()),
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert exported is not None
    model, known = exported.model_proto, module.state_dict()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in tensors.keys() & known.keys():  # as inputs they are out of the optimizer's reach
        model.graph.initializer.remove(tensors[name])
        model.graph.input.append(make_tensor_value_info(name, tensors[name].data_type, tensors[name].dims))
    model = optimizer.optimize(model)
    weights = [value for value in model.graph.input if value.name in known]
    turned = _without_transposes(model.graph, {value.name for value in weights})
    for value in weights:
        model.graph.input.remove(value)
        kind = value.type.tensor_type
        tensor = model.graph.initializer.add(name=value.name, data_type=kind.elem_type)
        sizes = [axis.dim_value for axis in kind.shape.dim]
        tensor.dims.extend(sizes[::-1] if value.name in turned else sizes)
        tensor.data_location = tensor.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
    for node in (*model.graph.node, *model.graph.input, *model.graph.output, model, model.graph):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    if model.ByteSize() > _LARGEST_GRAPH:
        raise ValueError(f"{path.stem} must be at most {_LARGEST_GRAPH} bytes, got {model.ByteSize()}; find the copy")
    write_bytes_atomic(path, model.SerializeToString(deterministic=True))
    return {value.name: value.name in turned for value in sorted(weights, key=lambda value: value.name)}


def _without_transposes(graph: Any, weights: set[str]) -> set[str]:
    """Take transpositions of matrices of weights out of a graph; return the names of those that are to be turned.

    At run time each would be a second copy of the weights in memory.
    """
    nodes = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]
    uses = [name for node in graph.node for name in node.input]
    turned = {node.output[0]: node.input[0] for node in nodes if uses.count(node.input[0]) == 1}
    for node in nodes:
        if node.output[0] in turned:
            graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = turned.get(name, name)
    return set(turned.values())


if __name__ == "__main__":
    write_graphs(Path(sys.argv[1]) if len(sys.argv) > 1 else graphs_folder())

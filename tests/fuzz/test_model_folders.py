"""Model folders from strangers: every JSON and every safetensors file of one, changed and damaged. (F3, G4)"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.variant import VariantConfig
from dualspec.files import sha256_of
from dualspec.latents.vae import SpectrogramVae, VaeConfig
from dualspec.model_folder import VOCODER_CONFIGS
from dualspec.synthesis.vocoder import build_vocoder
from dualspec.training.weights import load_module, read_state

PARTS: dict[str, Any] = {
    "denoiser": ({"VariantConfig": VariantConfig}, lambda config: build_denoiser(config.denoiser)),
    "stft_vae": ({"VaeConfig": VaeConfig}, SpectrogramVae),
    "vocoder": (VOCODER_CONFIGS, build_vocoder),
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def test_descriptions(fuzz, model: Path) -> None:
    """Sizes that the weights do not have are refused before anything of that size is built."""
    good = {part: (model / part / "config.json").read_bytes() for part in PARTS}

    def of(part: str) -> st.SearchStrategy[tuple[str, bytes]]:
        changed = fuzz.mutated(json.loads(good[part])).map(lambda value: json.dumps(value).encode())
        return st.tuples(st.just(part), fuzz.damage(good[part]) | changed | changed)

    def load(case: tuple[str, bytes]) -> None:
        part, data = case
        (model / part / "config.json").write_bytes(data)
        load_module(model / part, *PARTS[part])

    fuzz(st.one_of(*map(of, PARTS)), load)


def test_tensors_with_a_true_hash(fuzz, model: Path) -> None:
    """Who damages a file may correct its hash, too: the reader of safetensors and the shapes must hold alone."""
    folder = model / "stft_vae"
    path, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        config["files"][path.name] = sha256_of(path)
        (folder / "config.json").write_text(json.dumps(config))
        assert all(value.isfinite().all() for value in read_state(folder).values() if value.is_floating_point())

    fuzz(fuzz.seeds, fuzz.with_large(content, header, read), share=0.4)


def test_headers_of_tensors(fuzz, model: Path) -> None:
    """The JSON in front of the tensors: names, types, shapes and places that are not there."""
    folder = model / "stft_vae"
    path, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])

    def read(changed: Any) -> None:
        text = json.dumps(changed).encode()
        size = random.Random(text).choice((*[len(text)] * 6, 2**40, 2**63, 0))
        path.write_bytes(struct.pack("<Q", size) + text + content[8 + length :])
        config["files"][path.name] = sha256_of(path)
        (folder / "config.json").write_text(json.dumps(config))
        load_module(folder, *PARTS["stft_vae"])

    fuzz(fuzz.mutated(header), read, share=0.4)

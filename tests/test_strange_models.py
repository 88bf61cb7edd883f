"""A model folder from a stranger: nothing in it is executed, and whatever is wrong with it is named. (G4, T13)"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualspec.files import sha256_of
from dualspec.pipeline import DualSpecPipeline
from dualspec.text.encoder import TextEncoderConfig, build_text_encoder

PART = "stft_vae"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def rehash(folder: Path, **changes: object) -> None:
    """Bring the description in line with the files, as who damages a folder on purpose would."""
    document = json.loads((folder / "config.json").read_text())
    document["files"] = {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
    (folder / "config.json").write_text(json.dumps(document | changes))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    rehash(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("latent_scale"), "missing latent_scale"),
        (lambda t: t.update(stranger=torch.zeros(1)), "unknown stranger"),
        (lambda t: t.update(latent_scale=torch.zeros(3, 3)), r"latent_scale is \(3, 3\), not"),
        (lambda t: t.update(latent_scale=t["latent_scale"] * torch.nan), "NaN or infinity in latent_scale"),
        (lambda t: t.update(latent_scale=t["latent_scale"] / 0), "NaN or infinity in latent_scale"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(model: Path, change: Callable, complaint: str) -> None:
    edit(model / PART, change)
    with pytest.raises(ValueError, match=complaint):
        DualSpecPipeline.from_pretrained(model)


def test_a_tensor_that_stands_in_two_files_is_refused(model: Path) -> None:
    shutil.copy(model / PART / "model.safetensors", model / PART / "other.safetensors")
    rehash(model / PART)
    with pytest.raises(ValueError, match=r"got .* twice"):
        DualSpecPipeline.from_pretrained(model)


def header(size: int, text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(struct.pack("<Q", size) + text)


BOMB = b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}'


@pytest.mark.parametrize(
    "write",
    [
        header(2**63, b"{}"),
        header(100 * 2**20, b"{}"),
        header(len(BOMB), BOMB),
        header(60_000, b"[" * 60_000),
        header(len(BOMB) + 2, b'{"a":' * 18),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04" + bytes(100)),
        lambda path: os.truncate(path, 2**26),
    ],
)
def test_safetensors_that_promise_too_much_are_refused(model: Path, write: Callable[[Path], object]) -> None:
    write(model / PART / "model.safetensors")
    rehash(model / PART)
    with pytest.raises(ValueError, match="must be a safetensors file"):
        DualSpecPipeline.from_pretrained(model)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", ""])
def test_files_outside_the_folder_are_not_read(model: Path, name: str) -> None:
    document = json.loads((model / PART / "config.json").read_text())
    document["files"] = {name: "0" * 64}
    (model / PART / "config.json").write_text(json.dumps(document))
    with pytest.raises(FileNotFoundError, match="is missing"):
        DualSpecPipeline.from_pretrained(model)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"denoiser": {"layers_per_block": 70_000}}, "layers_per_block .* must be at most"),
        ({"denoiser": {"block_channels": [2**20, 2**20]}}, "must fit the model"),
        ({"denoiser": {"block_channels": [16] * 5_000}}, "block_channels .* must be at most"),
        ({"denoiser": {"num_heads": []}}, "must describe a network"),
        ({"num_samples": 10**12}, "at most 10 minutes"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_built(
    model: Path, changes: dict[str, object], complaint: str
) -> None:
    path = model / "denoiser" / "config.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        inner = document["config"][key]
        document["config"][key] = inner | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=complaint):
        DualSpecPipeline.from_pretrained(model)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def poison(folder: Path, canary: Path) -> None:
    """Everything by which a folder could try to run its own code."""
    code = f"import os; os.system(\"touch '{canary}'\")\n"
    for name in ("__init__.py", "modeling.py", "pipeline.py", "configuration.py", "sitecustomize.py", "setup.py"):
        (folder / name).write_text(code)
    (folder / "evil.pth").write_text(code)
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", "model.pkl", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    torch.save({"a": Canary(canary)}, folder / "model.ckpt")


AUTO_MAP = {"AutoModel": "modeling.M", "AutoTokenizer": ["modeling.T", None], "AutoConfig": "modeling.C"}


def test_the_canary_of_a_malicious_folder_never_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """What lies around whole weights is left alone; a description that asks for code is refused."""
    canary, tried = tmp_path / "canary", 0
    for folder in (model, *model.iterdir()):
        if folder.is_dir():
            poison(folder, canary)
    monkeypatch.chdir(model)
    assert DualSpecPipeline.from_pretrained(model).config.variant == "dualspec"
    index = json.loads((model / "model_index.json").read_text())
    for key in ("denoiser", "_class_name", "custom_pipeline", "auto_map", "parts"):
        changed = index | {key: ["modeling", "M"]}
        (model / "model_index.json").write_text(json.dumps(changed))
        tried += 1
        if key in ("_class_name", "parts"):
            with pytest.raises(ValueError):
                DualSpecPipeline.from_pretrained(model)
        else:
            DualSpecPipeline.from_pretrained(model)
    (model / "model_index.json").write_text(json.dumps(index))
    good = json.loads((model / PART / "config.json").read_text())
    for change in (
        {"type": "modeling.M"},
        {"type": "os.system"},
        {"_target_": "os.system"},
        {"config": good["config"] | {"auto_map": AUTO_MAP}},
        {"files": {"pytorch_model.bin": sha256_of(model / PART / "pytorch_model.bin")}},
        {"files": {"model.ckpt": sha256_of(model / PART / "model.ckpt")}},
        {"files": {"modeling.py": sha256_of(model / PART / "modeling.py")}},
    ):
        (model / PART / "config.json").write_text(json.dumps(good | change))
        tried += 1
        with pytest.raises(ValueError):
            DualSpecPipeline.from_pretrained(model)
    assert not canary.exists()
    figure(
        f"malicious model folders: {tried} descriptions that ask for code beside 12 files of code each, canary silent"
    )


def test_the_canary_of_a_text_encoder_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration and tokenizer that name code of their own; pickles beside the weights. Nobody is asked, either."""
    transformers = pytest.importorskip("transformers")
    folder, canary = tmp_path / "encoder", tmp_path / "canary"
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "the", "left"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer.from_pretrained(tmp_path).save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(document | {"auto_map": AUTO_MAP}))
    poison(folder, canary)
    choice = TextEncoderConfig(kind="minilm", name_or_path=str(folder))
    with pytest.raises(ValueError, match="must hold no code"):
        build_text_encoder(choice)
    for code in folder.glob("*.py"):
        code.unlink()
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked whether to run code"))
    embeds, _ = build_text_encoder(choice).encode(["a dog on the left"])
    assert embeds.shape[-1] == 8
    document = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(document | {"tokenizer_class": "Strange"}))
    document = json.loads((folder / "config.json").read_text())  # a kind of model that only its own code knows
    (folder / "config.json").write_text(json.dumps(document | {"model_type": "strange"}))
    poison(folder, canary)
    for code in folder.glob("*.py"):
        code.unlink()
    with pytest.raises(ValueError, match=r"model_type of .* must be 'bert'"):
        build_text_encoder(choice)
    assert not canary.exists()


def test_training_and_generation_need_no_pickle(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T13: with the unpickler taken away, a model loads, sounds and is saved again."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read or written")

    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)
    pipeline("EVENT: Dog bark & LOCATION: DOA 90", num_inference_steps=1)
    pipeline.save_pretrained(tmp_path / "copy")

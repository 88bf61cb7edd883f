import json
import shutil

import pytest
import torch
from torch import nn

from dualspec.latents.vae import SpectrogramVae, VaeConfig
from dualspec.recipes import get_recipe
from dualspec.training.weights import MAX_SHARD_BYTES, load_strictly, read_config, read_notes, read_state, save_weights

CONFIG: VaeConfig = get_recipe("tiny/mel_vae").task.vae
TYPES = {"VaeConfig": VaeConfig}


@pytest.fixture
def folder(tmp_path):
    save_weights(tmp_path / "vae", SpectrogramVae(CONFIG), CONFIG, notes={"steps": 3})
    return tmp_path / "vae"


def test_saved_and_loaded_weights_are_equal(folder):
    assert read_config(folder, TYPES) == CONFIG
    assert read_notes(folder) == {"steps": 3}
    vae = SpectrogramVae(CONFIG)
    load_strictly(vae, read_state(folder), folder)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, read_state(folder)[name])


def test_half_precision_halves_the_file_and_reads_as_float32(tmp_path, folder):
    save_weights(tmp_path / "half", SpectrogramVae(CONFIG), CONFIG, dtype=torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "half", folder)]
    assert 0.4 < sizes[0] / sizes[1] < 0.75
    assert all(value.dtype == torch.float32 for value in read_state(tmp_path / "half").values())


def test_large_weights_are_cut_into_shards(tmp_path):
    module = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(9))
    save_weights(tmp_path / "big", module, CONFIG)
    shards = sorted((tmp_path / "big").glob("*.safetensors"))
    assert len(shards) == 3
    assert all(path.stat().st_size < MAX_SHARD_BYTES + 10_000 for path in shards)
    assert len(read_state(tmp_path / "big")) == 9


def test_a_second_save_replaces_the_first_and_leaves_nothing_else(folder):
    save_weights(folder, SpectrogramVae(CONFIG), CONFIG, notes={"steps": 4})
    assert read_notes(folder) == {"steps": 4}
    assert [path.name for path in folder.parent.iterdir()] == ["vae"]


def test_a_folder_of_anybody_else_is_left_alone(tmp_path, folder):
    """Hugging Face's description has the same name; notes of one's own, a damaged description and a file stay, too."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "hub" / "pytorch_model.bin").write_bytes(b"weights")
    shutil.copytree(folder, tmp_path / "noted")
    (tmp_path / "noted" / "thesis.txt").write_text("years")
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "file").write_text("text")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("hub", "noted", "damaged", "file"):
        with pytest.raises(FileExistsError, match=f"must go to a new folder or replace .*{name}; name another"):
            save_weights(tmp_path / name, SpectrogramVae(CONFIG), CONFIG)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_and_one_that_lacks_a_shard_are_filled(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (folder / "model.safetensors").unlink()
    for path in (tmp_path / "empty", folder):
        save_weights(path, SpectrogramVae(CONFIG), CONFIG)
        assert {file.name for file in path.iterdir()} == {"config.json", "model.safetensors"}


def test_non_finite_weights_are_neither_written_nor_read(tmp_path, folder):
    vae = SpectrogramVae(CONFIG)
    vae.latent_scale.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity in latent_scale; nothing was written"):
        save_weights(tmp_path / "bad", vae, CONFIG)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damaged_files_are_refused(folder, damage):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
            read_state(folder)
        return
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-100])
    with pytest.raises(ValueError, match="it is damaged"):
        read_state(folder)


def test_weights_of_another_kind_or_shape_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="must be of OtherConfig, got VaeConfig"):
        read_config(folder, {"OtherConfig": VaeConfig})
    state = read_state(folder)
    vae = SpectrogramVae(CONFIG)
    first = next(iter(state))
    missing = {name: value for name, value in state.items() if name != first}
    with pytest.raises(ValueError, match=f"missing {first}"):
        load_strictly(vae, missing, folder)
    with pytest.raises(ValueError, match="unknown stranger"):
        load_strictly(vae, state | {"stranger": torch.zeros(1)}, folder)
    with pytest.raises(ValueError, match=r"is .*, not"):
        load_strictly(vae, state | {first: torch.zeros(7)}, folder)


def test_a_config_that_was_tampered_with_is_refused(folder):
    document = json.loads((folder / "config.json").read_text())
    document["config"]["surprise"] = 1
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="surprise"):
        read_config(folder, TYPES)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        read_config(folder, TYPES)
    with pytest.raises(FileNotFoundError, match="no weights in"):
        read_config(folder / "nowhere", TYPES)

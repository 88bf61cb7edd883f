import numpy as np
import pytest
import torch

from dualspec.importers.torch_file import read_torch_tensors


class Anything:
    pass


def test_tensors_come_back_beside_what_a_training_left(tmp_path):
    """The layout of PANNs' checkpoints: weights, a step count and a sampler with numpy arrays."""
    weights = {"fc.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
    sampler = {"indexes": np.arange(5), "queue": [np.int64(3), 4], "targets": np.ones(2, np.float32)}
    for legacy in (False, True):
        path = tmp_path / f"legacy{legacy}.pth"
        content = {"model": weights, "iteration": 5, "sampler": sampler}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        read = read_torch_tensors(path, key="model")
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_what_could_execute_is_refused(tmp_path):
    torch.save({"model": {"weight": torch.ones(1)}, "extra": Anything()}, tmp_path / "object.pt")
    with pytest.raises(ValueError, match="must hold tensors and plain data alone"):
        read_torch_tensors(tmp_path / "object.pt", key="model")


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, None, "finite, got NaN or infinity in a"),
        ({"a": torch.ones(1)}, "model", "named tensors under 'model'"),
        ({"a": torch.ones(1), "b": 3}, None, "must hold named tensors, got"),
        ([torch.ones(1)], None, "must hold named tensors"),
    ],
)
def test_other_content_is_refused(tmp_path, content, key, words):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=words):
        read_torch_tensors(tmp_path / "file.pt", key=key)


def test_damaged_large_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(1000)}, path)
    with pytest.raises(ValueError, match="must be at most 100 bytes"):
        read_torch_tensors(path, max_bytes=100)
    for damaged in (path.read_bytes()[:1500], b"", b"no weights at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="must hold tensors"):
            read_torch_tensors(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_torch_tensors(tmp_path / "absent.pt")

"""Weights read from ONNX: every way of writing a tensor, and every damaged file one line."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dualspec.importers.onnx_file import read_onnx_zip

LIMIT = 1 << 20


def varint(value: int) -> bytes:
    """Write a number as protocol buffers do."""
    return bytes([value & 127 | (128 if value > 127 else 0)]) + (varint(value >> 7) if value > 127 else b"")


def field(number: int, value: int | bytes | str) -> bytes:
    """Write a field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: torch.Tensor, *, place: tuple[str, int] | None = None, packed: bool = False) -> bytes:
    """Write an initializer, its numbers inside or, at a place, in another file."""
    dims = b"".join(varint(size) for size in values.shape)
    head = field(1, dims) if packed else b"".join(field(1, size) for size in values.shape)
    head += field(2, 1) + field(8, name)
    data = values.numpy().tobytes()
    if place is None:
        return head + field(9, data)
    pairs = {"location": place[0], "offset": str(place[1]), "length": str(len(data))}
    return head + b"".join(field(13, field(1, key) + field(2, value)) for key, value in pairs.items())


def model(initializers: Sequence[bytes]) -> bytes:
    """Write a model whose graph holds nothing else, with a field of every wire type before it."""
    fixed = varint(30 << 3 | 1) + bytes(8) + varint(31 << 3 | 5) + bytes(4)
    return field(1, 8) + field(2, "made by hand") + fixed + field(7, b"".join(field(5, one) for one in initializers))


def archive(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(f"folder/{name.replace('_', '.')}", data)
    return path


FIRST, SECOND = torch.arange(6.0).view(2, 3), torch.linspace(-1, 1, 300)


def whole() -> tuple[bytes, bytes]:
    """A model with one tensor inside and one in the file of data, and what is no float."""
    whole_number = field(1, 2) + field(2, 7) + field(8, "shape") + field(9, bytes(16))
    parts = [tensor("first", FIRST, packed=True), tensor("second", SECOND, place=("model.data", 8)), whole_number]
    return model(parts), bytes(8) + SECOND.numpy().tobytes()


def test_tensors_come_from_the_model_and_from_the_file_beside_it(tmp_path: Path) -> None:
    graph, data = whole()
    found = read_onnx_zip(archive(tmp_path / "m.zip", model_onnx=graph, model_data=data), max_bytes=LIMIT)
    assert list(found) == ["first", "second"]
    assert torch.equal(found["first"], FIRST) and torch.equal(found["second"], SECOND)


def test_a_model_that_is_cut_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    graph, data = whole()
    start = graph.index(b"made by hand") + 12  # what is cut before that has no graph, and so no tensors
    for length in range(start + 1, len(graph)):
        path = archive(tmp_path / "m.zip", model_onnx=graph[:length], model_data=data)
        try:
            found = read_onnx_zip(path, max_bytes=LIMIT)
        except ValueError as error:
            assert "must be a whole ONNX model" in str(error) and "\n" not in str(error)
        else:
            assert not found and length <= graph.index(b"first"), "what is cut before its graph holds nothing"


def test_bytes_that_were_changed_never_end_in_another_error(tmp_path: Path) -> None:
    graph, data = whole()
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        place, value = (int(torch.randint(high, (), generator=generator)) for high in (len(graph), 256))
        changed = graph[:place] + bytes([value]) + graph[place + 1 :]
        try:
            read_onnx_zip(archive(tmp_path / "m.zip", model_onnx=changed, model_data=data), max_bytes=LIMIT)
        except ValueError as error:
            assert str(tmp_path) in str(error)


def test_archives_of_other_things_are_refused(tmp_path: Path) -> None:
    graph, data = whole()
    (tmp_path / "text.zip").write_text("no archive")
    holds_nan = model([tensor("first", torch.tensor([1.0, float("nan")]))])
    negative = model([tensor("first", FIRST) + field(13, field(1, "location") + field(2, "model.data"))])
    for path, words in (
        (tmp_path / "text.zip", "must be a zip archive"),
        (archive(tmp_path / "none.zip", model_data=data), "one .onnx file, got 0"),
        (archive(tmp_path / "two.zip", a_onnx=graph, b_onnx=graph), "one .onnx file, got 2"),
        (archive(tmp_path / "alone.zip", model_onnx=graph), "whole ONNX model, got: 'model.data'"),
        (
            archive(tmp_path / "short.zip", model_onnx=graph, model_data=data[:-4]),
            "second of shape .300,. has 1196 bytes",
        ),
        (archive(tmp_path / "nan.zip", model_onnx=holds_nan), "NaN or infinity in first"),
        (archive(tmp_path / "odd.zip", model_onnx=negative, model_data=data), "whole ONNX model"),
        (archive(tmp_path / "large.zip", model_onnx=graph, model_data=bytes(LIMIT + 1)), "at most 1048576 bytes"),
    ):
        with pytest.raises(ValueError, match=words):
            read_onnx_zip(path, max_bytes=LIMIT)

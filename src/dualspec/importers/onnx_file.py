"""Weights published as ONNX: the named tensors of a graph, read without the `onnx` package; nothing is executed.

An ONNX file is one protocol buffer message, of which only the initializers are read (onnx.proto: ModelProto.graph is
field 7, GraphProto.initializer is field 5). What is done with them is the business of the module that takes them.
"""

from __future__ import annotations

import math
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FLOAT = 1  # TensorProto.DataType
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 1, 2, 8, 9, 13  # of TensorProto
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def read_onnx_zip(path: Path, *, max_bytes: int) -> dict[str, Tensor]:
    """Read the float32 initializers of the one ONNX model in a zip archive, with the file of data beside it, if any.

    Args:
        path: the archive.
        max_bytes: a larger member is refused before it is unpacked.

    Returns:
        Tensors by name, on the CPU, all finite.

    Raises:
        ValueError: no such archive, none or several models in it, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            models = [name for name in archive.namelist() if name.endswith(".onnx")]
            if len(models) != 1:
                raise ValueError(f"{path} must hold one .onnx file, got {len(models)}; get the original")
            folder = models[0].rpartition("/")[0]
            members = {info.filename.removeprefix(f"{folder}/"): info for info in archive.infolist()}
            large = next((info for info in members.values() if info.file_size > max_bytes), None)
            if large is not None:
                raise ValueError(f"{path} must hold files of at most {max_bytes} bytes, got {large.file_size}")
            files = {name: archive.read(info) for name, info in members.items() if not info.is_dir()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} must be a zip archive, got one that cannot be read: {error}; get it again") from error
    try:
        return _initializers(files.pop(models[0].rpartition("/")[2]), files)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{models[0]} in {path} must be a whole ONNX model, got: {error}; get it again") from error


def _initializers(model: bytes, files: dict[str, bytes]) -> dict[str, Tensor]:
    tensors = {}
    for graph in _fields(model)[_GRAPH]:
        for message in _fields(_bytes(graph))[_INITIALIZER]:
            fields = _fields(_bytes(message))
            if fields[_DATA_TYPE] == [FLOAT]:
                name = _bytes(fields[_NAME][0]).decode()
                tensors[name] = _tensor(name, fields, files)
    return tensors


def _tensor(name: str, fields: dict[int, list[int | bytes]], files: dict[str, bytes]) -> Tensor:
    shape = [size for field in fields[_DIMS] for size in ([field] if isinstance(field, int) else _varints(field))]
    if fields[_EXTERNAL_DATA]:
        pairs = [_fields(_bytes(pair)) for pair in fields[_EXTERNAL_DATA]]
        where = {_bytes(pair[1][0]).decode(): _bytes(pair[2][0]).decode() for pair in pairs}
        start = int(where.get("offset", "0"))
        data = files[where["location"]][start : start + int(where["length"])]
    else:
        data = _bytes(fields[_RAW_DATA][0])
    if len(data) != 4 * math.prod(shape):
        raise ValueError(f"{name} of shape {tuple(shape)} has {len(data)} bytes")
    values = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).reshape(shape)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"NaN or infinity in {name}")
    return values


def _fields(message: bytes) -> defaultdict[int, list[int | bytes]]:
    """Return the fields of a message by number: numbers, or the bytes of what has a length."""
    fields: defaultdict[int, list[int | bytes]] = defaultdict(list)
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, place = _varint(message, place)
            fields[number].append(value)
            continue
        if wire_type == _LENGTH:
            size, place = _varint(message, place)
        elif wire_type in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if wire_type == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if place + size > len(message):
            raise ValueError("an end before its time")
        fields[number].append(message[place : place + size])
        place += size
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; return it and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")


def _varints(packed: bytes) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text or data should be")
    return value

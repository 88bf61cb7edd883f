"""Weights published as `.pt`, `.pth` or `.bin`: the one place where a pickle is opened, by torch's safe reader."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 8 * 2**30
# Old training checkpoints keep number arrays beside their weights. These names rebuild such arrays and nothing else.
_CORES = ("core", "_core")  # of numpy 1 and 2
_NUMBER_ARRAYS: list[Any] = [
    *((np.ones(1).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in _CORES),
    *((np.float64(1).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in _CORES),
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")),
]


def read_torch_tensors(
    path: str | Path, *, key: str | Sequence[str] | None = None, max_bytes: int = MAX_BYTES
) -> dict[str, Tensor]:
    """Read the named tensors of a file written by `torch.save`; nothing in the file is executed.

    Args:
        path: the file.
        key: where the tensors lie in it, such as "model"; None when they are the outermost thing; of several the first
            that is there, and the outermost where none is.
        max_bytes: a larger file is refused before it is opened.

    Returns:
        Tensors by name, on the CPU, in the file's precision, all finite.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, damaged, holds other things than plain data, lacks the key, or a tensor is not
            finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check the path")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} must be at most {max_bytes} bytes, got {path.stat().st_size}; is it the right file?")
    try:
        with torch.serialization.safe_globals(_NUMBER_ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} must hold tensors and plain data alone, got: {reason}; get the original") from error
    if key is not None and not isinstance(key, str):
        key = next((name for name in key if isinstance(content, dict) and name in content), None)
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        where = "" if key is None else f" under {key!r}"
        raise ValueError(f"{path} must hold named tensors{where}, got something else; is it the right file?")
    for name, value in content.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"weights must be finite, got NaN or infinity in {name} of {path}; get the original")
    return dict(content)

"""Graphs and the weights that belong into them, as sessions of ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dualspec.files import read_json, sha256_of
from dualspec.training.weights_folder import checked_files

GRAPHS_NAME = "graphs.json"
FORMAT_VERSION = 1
DECODER_SETTINGS = ("variant", "pairing", "merge_mode", "mid_phase", "sample_rate", "num_samples")
"""Settings of a variant, beside its VAEs, for which a decoder's graph and all behind it are made."""
Arrays = dict[str, np.ndarray]


def graphs_folder() -> Path:
    """Return the folder of the graphs that are embedded."""
    return Path(str(resources.files("dualspec") / "bundles" / "graphs"))


_SAID_LATER = {"input_gains": False, "linear": False, "principal_channels": None, "framing": "centered"}
"""Settings that graphs and models of older versions do not name, and what they mean by that."""


def _told(settings: Any) -> Any:
    """Return settings (JSON values) as an older version would have written them."""
    if not isinstance(settings, dict):
        return settings
    later = {name for name, value in _SAID_LATER.items() if name in settings and settings[name] == value}
    return {name: _told(value) for name, value in settings.items() if name not in later}


class Graphs:
    """The graphs of a folder, by name."""

    def __init__(self, folder: Path | None = None) -> None:
        """Read the index; the embedded one if None.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another format.
        """
        self.folder = folder or graphs_folder()
        document = read_json(self.folder / GRAPHS_NAME)
        if not isinstance(document, dict) or document.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{self.folder / GRAPHS_NAME} must be an index of graphs, got another format; restore it")
        self._graphs: dict[str, Any] = document["graphs"]

    def fits(self, name: str, settings: Any) -> bool:
        """Tell whether a graph was made for these settings (JSON values)."""
        return bool(_told(self._graphs[name]["settings"]) == _told(settings))

    def weights(self, name: str) -> list[str]:
        """Return the names of the weights that a graph asks for."""
        return list(self._graphs[name]["weights"])

    def open(self, name: str, weights: Arrays, *, num_threads: int, once: bool = False) -> Any:
        """Join a graph and its weights: an `onnxruntime.InferenceSession` on the CPU.

        Args:
            name: of the graph.
            weights: float32 by the names that the graph asks for; they are taken out, so that no second copy stays.
            num_threads: that share one operation.
            once: it runs once or twice, so its matrices are not laid out anew for speed, which takes memory.

        Raises:
            FileNotFoundError: the graph is missing.
            ValueError: it was changed, or a weight is missing.
        """
        import onnxruntime

        path, wanted = self.folder / f"{name}.onnx", self._graphs[name]["weights"]  # name: is it to be transposed
        if sha256_of(path) != self._graphs[name]["sha256"]:
            raise ValueError(f"{path} must be the graph that {GRAPHS_NAME} names, got another; restore it")
        if missing := sorted(set(wanted) - set(weights)):
            raise ValueError(f"weights of the {name} must fit its graph, got none called {missing[0]}; restore them")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves its core
        options.enable_cpu_mem_arena = False
        if once:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = 4  # an error is raised, and said once
        arrays = [
            np.ascontiguousarray(weights.pop(key).T) if turned else weights.pop(key) for key, turned in wanted.items()
        ]
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        options.add_external_initializers(list(wanted), values)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read_arrays(folder: Path, wanted: Collection[str], prefix: str = "") -> Arrays:
    """Read tensors of a weights folder as float32, after checking every file's hash.

    Args:
        folder: the weights folder.
        wanted: names; those that are not there are left out, and others are not read.
        prefix: stands before every name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file was changed or cut, or holds a number that is not finite.
    """
    from safetensors import SafetensorError, safe_open

    arrays: Arrays = {}
    for path in checked_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in (name for name in file.keys() if f"{prefix}{name}" in wanted):  # noqa: SIM118
                    arrays[f"{prefix}{name}"] = file.get_tensor(name).astype(np.float32)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file, got {error}; restore it") from error
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"weights must be finite, got NaN or infinity in {name} of {folder}; restore the folder")
    return arrays


def available_threads() -> int:
    """Return how many threads serve one operation: the processors that this process may use, 8 at most.

    What the environment says to OpenMP (OMP_NUM_THREADS) counts here, too.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(said) if said.isdigit() else usable, usable, 8))

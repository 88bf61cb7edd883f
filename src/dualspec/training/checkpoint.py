"""Full-state checkpoints of a run: atomic, hashed, pickle-free, resumed exactly.

A checkpoint is a folder `step-00001234` of safetensors and one `state.json`, written under a temporary name, flushed
and renamed. All random numbers are functions of (seed, step), so no generator state needs keeping.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dualspec.files import read_json, sha256_of, temporary_in
from dualspec.training.weights import replace_folder, write_tensors

STATE_NAME = "state.json"
FORMAT_VERSION = 2  # 1 had no hash of the state itself


def save_checkpoint(
    runs_folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write one checkpoint and prune older ones.

    Args:
        runs_folder: holds the `step-…` folders.
        step: steps finished.
        tensors: file stem → name → tensor.
        facts: JSON values that belong to the state (config hash, elapsed time, counters).
        keep: how many checkpoints stay.

    Returns:
        The new checkpoint's folder.

    Raises:
        ValueError: a tensor is not finite; nothing is written.
        OSError: the disk refuses; the checkpoints before stay as they are.
    """
    for stem, values in tensors.items():
        for name, value in values.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"state must be finite, got NaN or infinity in {name} of {stem}; resume from before")
    folder = runs_folder / f"step-{step:08d}"
    runs_folder.mkdir(parents=True, exist_ok=True)
    with temporary_in(runs_folder) as temporary:
        hashes = {}
        for stem, values in tensors.items():
            hashes[f"{stem}.safetensors"] = write_tensors(temporary / f"{stem}.safetensors", values)
        document = {"format_version": FORMAT_VERSION, "step": step, "files": hashes, "facts": facts}
        document["sha256"] = _digest(document)
        (temporary / STATE_NAME).write_text(json.dumps(document, indent=1), encoding="utf-8")
        replace_folder(temporary, folder)
    # a newer one is a damaged one that was passed over: it does not count as kept
    for old in [path for path in list_checkpoints(runs_folder) if path <= folder][:-keep]:
        shutil.rmtree(old)
    return folder


def _digest(document: dict[str, Any]) -> str:
    plain = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def list_checkpoints(runs_folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    if not runs_folder.is_dir():
        return []
    return sorted(p for p in runs_folder.iterdir() if re.fullmatch(r"step-\d{8}", p.name) and p.is_dir())


def load_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint: steps finished, tensors by file stem, facts.

    Raises:
        ValueError: a file is missing, cut or changed.
    """
    try:
        document = read_json(folder / STATE_NAME)
        version, step, files, facts = (document[key] for key in ("format_version", "step", "files", "facts"))
        if len(document) != (4 if version == 1 else 5) or document.get("sha256", _digest(document)) != _digest(
            document
        ):
            raise ValueError("a state with another SHA-256 than its own")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {folder} must be whole, got {error!r}; delete it and resume from the one before"
        ) from error
    if version not in (1, FORMAT_VERSION):
        raise ValueError(f"checkpoint {folder} must have format_version {FORMAT_VERSION}, got {version}")
    tensors = {}
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise ValueError(
                f"checkpoint {folder} must be whole, got a damaged {name}; delete it and resume from the one before"
            )
        tensors[path.stem] = load_file(path)
    return step, tensors, facts


def newest_checkpoint(
    runs_folder: Path,
) -> tuple[tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]] | None, list[str]]:
    """Return the newest whole checkpoint (None when there is none) and one line about each damaged one passed over."""
    complaints: list[str] = []
    for folder in reversed(list_checkpoints(runs_folder)):
        try:
            return load_checkpoint(folder), complaints
        except ValueError as error:
            complaints.append(str(error))
    return None, complaints


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's moments to named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put moments that `optimizer_tensors` flattened back into an optimizer of the same parameters, sharded or not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = shard_like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def shard_like(value: Tensor, own: Any) -> Tensor:
    """Cut a whole tensor as `own` is cut by FSDP2; as it is where `own` is whole or has another shape."""
    if not hasattr(own, "full_tensor") or own.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)

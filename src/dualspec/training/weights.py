"""Weights folders: `config.json` beside safetensors shards, hashed, read back strictly.

A folder is complete or absent: it is written under a temporary name and renamed.
"""

import json
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualspec.arithmetic import own_arithmetic
from dualspec.config import from_dict, to_dict
from dualspec.files import held, sha256_of, sync, temporary_in
from dualspec.files import remove_leftovers as remove_temporaries
from dualspec.training.weights_folder import CONFIG_NAME, FORMAT_VERSION, checked_files, read_document, read_notes

__all__ = [
    "MAX_SHARD_BYTES",
    "load_module",
    "load_strictly",
    "read_config",
    "read_notes",
    "read_state",
    "remove_leftovers",
    "replace_folder",
    "save_state",
    "save_weights",
    "write_tensors",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
MAX_SHARD_BYTES = 15 * 2**20
_OUTGOING = ".old-dualspec-"


def save_weights(
    folder: str | Path,
    module: nn.Module,
    config: Any,
    *,
    dtype: torch.dtype = torch.float32,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a module's weights and the config that rebuilds it.

    Args:
        folder: replaced as a whole.
        module: its state dict is saved; floating tensors as `dtype`.
        config: the dataclass it was built from.
        dtype: torch.float32, or torch.float16 for shipping.
        notes: free JSON facts about the training.
    """
    save_state(folder, module.state_dict(), config, dtype=dtype, notes=notes)


def save_state(
    folder: str | Path,
    tensors: dict[str, Tensor],
    config: Any,
    *,
    dtype: torch.dtype = torch.float32,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a state dict as `save_weights` writes that of a module.

    Raises:
        ValueError: a tensor is not finite as `dtype`; nothing is written.
        FileExistsError: the folder holds anything that was not written here; nothing is removed.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.to(dtype)
            if not torch.isfinite(state[name]).all():
                raise ValueError(f"weights must be finite, got NaN or infinity in {name}; nothing was written")
    folder = Path(folder)
    if folder.exists() and not _is_ours(folder):
        raise FileExistsError(
            f"weights must go to a new folder or replace whole ones of dualspec alone, got {folder}; name another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_in(folder.parent) as temporary:
        files = {}
        shards = _shards(state)
        for index, shard in enumerate(shards):
            name = (
                "model.safetensors" if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
            )
            files[name] = write_tensors(temporary / name, shard)
        document = {"format_version": FORMAT_VERSION, "type": type(config).__name__, "config": to_dict(config)}
        document |= {"files": files, "notes": notes or {}}
        (temporary / CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        replace_folder(temporary, folder)


def _is_ours(folder: Path) -> bool:
    """Tell a folder that is empty, or holds what `save_state` wrote and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    try:
        return not names or names <= {CONFIG_NAME, *read_document(folder)["files"]}
    except (FileNotFoundError, ValueError):  # another's config.json, or a damaged one
        return False


def _shards(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split tensors, in order, into shards of at most `MAX_SHARD_BYTES` (a larger tensor has a shard of its own)."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        num_bytes = value.numel() * value.element_size()
        if shards[-1] and size + num_bytes > MAX_SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += num_bytes
    return shards


def replace_folder(temporary: Path, folder: Path) -> None:
    """Put a finished temporary folder in the place of `folder`; flushed to disk first, and the new name after."""
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    if folder.exists():
        outgoing = folder.with_name(f"{_OUTGOING}{folder.name}-{secrets.token_hex(8)}")
        with held(folder):
            folder.rename(outgoing)
            temporary.rename(folder)
            sync(folder.parent)
            shutil.rmtree(outgoing)
    else:
        temporary.rename(folder)
        sync(folder.parent)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as one safetensors file and return its SHA-256.

    Raises:
        OSError: the disk refuses; the message says how much there was to write and how much is free.
    """
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
        return sha256_of(path)
    except (SafetensorError, OSError) as error:
        needed = sum(value.numel() * value.element_size() for value in tensors.values())
        free = shutil.disk_usage(path.parent).free
        raise OSError(f"{path} needs {needed} bytes, {free} are free, and the system refused: {error}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer of folders left here; what it had moved aside comes back where its place is empty."""
    remove_temporaries(folder)
    for path in folder.glob(f"{_OUTGOING}*"):
        match = re.fullmatch(rf"{re.escape(_OUTGOING)}(.+)-[0-9a-f]{{16}}", path.name)
        if match is not None and path.is_dir():
            with suppress(BlockingIOError), held(path):
                if (folder / match[1]).exists():
                    shutil.rmtree(path)
                else:
                    path.rename(folder / match[1])


def read_config(folder: str | Path, config_types: dict[str, type]) -> Any:
    """Read the config of a weights folder.

    Args:
        folder: the weights folder.
        config_types: the config classes that are welcome, by name.

    Raises:
        FileNotFoundError: no such folder or no config in it.
        ValueError: the config is of another kind, version or shape.
    """
    return from_dict(*_typed_document(Path(folder), config_types), where=str(Path(folder) / CONFIG_NAME))


def _typed_document(folder: Path, config_types: dict[str, type]) -> tuple[type, dict[str, Any]]:
    document = read_document(folder)
    if document["type"] not in config_types:
        raise ValueError(
            f"weights in {folder} must be of {' or '.join(config_types)}, got {document['type']:.60}; name another"
        )
    return config_types[document["type"]], document["config"]


@own_arithmetic()
def load_module(
    folder: str | Path, config_types: dict[str, type], build: Callable[[Any], ModuleT]
) -> tuple[ModuleT, Any]:
    """Build what a weights folder describes and load its weights: frozen, in evaluation mode.

    Args:
        folder: the weights folder.
        config_types: the config classes that are welcome, by name.
        build: makes the module of a config.

    Returns:
        The module and its config.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is damaged, or does not fit.
    """
    config = read_config(folder, config_types)
    state = read_state(folder)
    _check_size(config, state, folder)
    try:
        with torch.device("meta"):
            twin = build(config)
    except _UNBUILDABLE as error:
        raise ValueError(
            f"config of {folder} must describe a network, got {error!r:.200}; restore the folder"
        ) from error
    _check_fit(twin, state, folder)  # a network of any size costs nothing up to here
    module = build(config)
    load_strictly(module, state, folder)
    return module.eval().requires_grad_(False), config


_UNBUILDABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def _check_size(config: Any, state: dict[str, Tensor], folder: str | Path) -> None:
    """Refuse counts of layers that the tensors cannot fill, before anything is built."""
    most = max(16, len(state))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    for name, value in values.items():
        layers = isinstance(value, tuple) and not any(isinstance(one, str) for one in value)  # words are no layers
        count = len(value) if layers else value if "layers" in name else 0
        if count > most:
            raise ValueError(
                f"{name} of {folder} must be at most {most} for its tensors, got {count}; restore the folder"
            )
        if is_dataclass(value):
            _check_size(value, state, folder)


def read_state(folder: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a weights folder as float32, after checking every file's hash.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a file was changed or cut, or holds a number that is not finite.
    """
    state: dict[str, Tensor] = {}
    for path in checked_files(folder):
        try:
            shard = load_file(path)
        except (SafetensorError, *_UNBUILDABLE) as error:  # types that torch lacks, sizes that overflow
            raise ValueError(f"{path} must be a safetensors file, got {error!r:.200}; restore it") from error
        if twice := sorted(set(state) & set(shard)):
            raise ValueError(f"{path} must hold tensors of its own, got {twice[0]:.80} twice; restore the folder")
        state |= shard
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.float()
            if not torch.isfinite(state[name]).all():
                raise ValueError(
                    f"weights must be finite, got NaN or infinity in {name} of {folder}; restore the folder"
                )
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], where: str | Path) -> None:
    """Load a state dict; every name and shape must match.

    Raises:
        ValueError: names the first tensors that are missing, unknown or misshapen.
    """
    _check_fit(module, state, where)
    module.load_state_dict(state, strict=True)


def _check_fit(module: nn.Module, state: dict[str, Tensor], where: str | Path) -> None:
    own = module.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"unknown {name}" for name in state if name not in own]
    faults += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        raise ValueError(
            f"weights of {where} must fit the model, got {len(faults)} differences: {'; '.join(faults[:4]):.400}"
        )

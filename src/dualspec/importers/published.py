"""Published weights wherever they lie, a file, a folder or a hub id, matched name by name; every tensor counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dualspec.files import read_json
from dualspec.importers.torch_file import read_torch_tensors

WEIGHT_NAMES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_SHARDS = ("*-of-*.safetensors", "*-of-*.bin")
_INSIDE = ("state_dict", "generator")  # where training programs put the tensors
_NOT_TRAINED = ("position_ids", "num_batches_tracked")
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Published weights under the names of one of our rooms."""

    tensors: dict[str, Tensor]
    config: Any  # the config of the room, which a recipe trains
    files: list[Path]  # that were read
    changed: dict[str, str] = field(default_factory=dict)  # our tensor → how it is not simply the published one
    left_out: Counter[str] = field(default_factory=Counter)  # beginning of published names → tensors not wanted here
    facts: dict[str, Any] = field(default_factory=dict)  # more for the notes of the weights folder


def locate(source: str, patterns: Sequence[str]) -> Path:
    """Return the file or folder that a user names; a hub id is fetched, or found in the hub's cache.

    Args:
        source: path, or "OWNER/NAME" of a hub.
        patterns: names of the files to fetch.

    Raises:
        FileNotFoundError: there is nothing of that name, or no way to the hub.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"no file or folder {source}; check the path, or give a hub id as OWNER/NAME")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"{source} is no path here, nor reachable as a hub id: {reason} Fetch it elsewhere and name its folder"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or, safely, of a pickled one, as float32; integers stay."""
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a whole safetensors file, got {error}; fetch it again") from error
        for name, value in state.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"weights must be finite, got NaN or infinity in {name} of {path}; get the original")
    else:
        state = read_torch_tensors(path, key=_INSIDE)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def part_tensors(folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """Read the weights of one part, in one file or several; their names are added to `files`."""
    found = [folder / name for name in WEIGHT_NAMES if (folder / name).is_file()][:1]
    found = found or next((shards for pattern in _SHARDS if (shards := sorted(folder.glob(pattern)))), [])
    if not found:
        raise FileNotFoundError(f"no weights in {folder}, such as {WEIGHT_NAMES[0]}; copy the whole published folder")
    files += found
    return {name: value for path in found for name, value in read_tensors(path).items()}


def part_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read a JSON config of a published folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON object.
    """
    if not (folder / name).is_file():
        raise FileNotFoundError(f"no {name} in {folder}; copy the whole published folder")
    config = read_json(folder / name)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / name} must be a JSON object, got {type(config).__name__}; restore it")
    return config


def match(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    where: str | Path,
    rename: Callable[[str], str] = str,
    *,
    tied: Iterable[set[str]] = (),
) -> dict[str, Tensor]:
    """Return published tensors under our own names; every tensor must be there, be known and fit.

    Args:
        own: tensors of our module, which may lie on the meta device.
        state: the published ones; counters that nobody trains may lack or be more.
        where: they come from, for messages.
        rename: gives the published name of a tensor of ours.
        tied: groups of our names of which one suffices.

    Raises:
        ValueError: names the first tensors that are missing, unknown or misshapen, as the file calls them.
    """
    spared = {name for group in tied if any(rename(one) in state for one in group) for name in group}
    found: dict[str, Tensor] = {}
    faults, known = [], set()
    for name, like in own.items():
        published = rename(name)
        known.add(published)
        value = state.get(published)
        if value is None:
            if name not in spared and not published.endswith(_NOT_TRAINED):
                faults.append(f"missing {published}")
        elif value.shape[: like.ndim] == like.shape and value.numel() == like.numel():
            found[name] = value.reshape(like.shape)  # a linear map may be stored as a convolution of width 1
        else:
            faults.append(f"{published} is {tuple(value.shape)}, not {tuple(like.shape)}")
    faults += [f"unknown {name}" for name in state if name not in known and not name.endswith(_NOT_TRAINED)]
    if faults:
        raise ValueError(f"weights of {where} must fit, got {len(faults)} differences: {'; '.join(faults[:4])}")
    return found


def fit(module: Any, state: Mapping[str, Tensor], where: Path, rename: Callable[[str], str] = str) -> Any:
    """Load published tensors into a module of diffusers or transformers: frozen, in evaluation mode.

    Raises:
        ValueError: as `match` does.
    """
    found = match(module.state_dict(), state, where, rename, tied=shared_names(module))
    module.load_state_dict(found, strict=False)  # what may be missing was checked above, by name
    return module.eval().requires_grad_(False)


def shared_names(module: nn.Module) -> list[set[str]]:
    """Return the groups of names under which one parameter stands several times."""
    groups: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [names for names in groups.values() if len(names) > 1]


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

"""Networks compiled for few shapes, so that a GPU replays them as CUDA graphs."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "fp32", "bf16"]
Network = Callable[..., Tensor]


def compile_methods(
    owners: list[tuple[nn.Module, str]], *, mode: str | None, precision: Precision, device: torch.device
) -> bool:
    """Replace methods of networks by their compiled selves, in place; what was compiled before is compiled anew.

    Args:
        owners: each a network and the method of it that maps tensors (B, ...) to one tensor (B, ...).
        mode: of `torch.compile`; None is "reduce-overhead" (CUDA graphs) on a GPU, "default" elsewhere.
        precision: of the arithmetic. "bf16" is autocast; the matrices and convolutions, which autocast would round at
            every call, are rounded once. "auto" is bf16 on a GPU, fp32 elsewhere.
        device: where they run.

    Returns:
        Whether weights were rounded.

    Raises:
        ValueError: no such mode or precision, or fp32 for weights that were rounded before.
    """
    gpu = device.type == "cuda"
    mode = mode or ("reduce-overhead" if gpu else "default")
    modes = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    for name, value, allowed in (("mode", mode, modes), ("precision", precision, ("auto", "fp32", "bf16"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}; leave it out")
    half = precision == "bf16" or (precision == "auto" and gpu)
    layers = [layer for owner, method in owners for layer in _matrices(owner, method)]
    if not half and any(layer.weight.dtype == torch.bfloat16 for layer in layers):
        raise ValueError(
            "precision must stay bf16 for weights that were rounded to it, got "
            f"{precision}, which is fp32 on {device}; load the model again"
        )
    for owner, method in owners:
        owner.__dict__.pop(method, None)
        setattr(owner, method, _few_shapes(getattr(owner, method), mode, half))
    if half:
        for layer in layers:
            layer.to(torch.bfloat16)
    return half


def _few_shapes(network: Network, mode: str, half: bool) -> Network:
    """Compile `network` for batches of 1, 2, 4, … rows; others are filled up with their last row.

    So a guided pair, a step without guidance and the rest of a list each meet a graph that stays. What a CUDA graph
    returns is overwritten by its next run, hence the copy.
    """
    compiled = torch.compile(network, mode=mode, dynamic=False)

    def run(*inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        missing = (1 << (rows - 1).bit_length()) - rows
        if missing:
            inputs = tuple(torch.cat((value, value[-1:].expand(missing, *value.shape[1:]))) for value in inputs)
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=half):
            return compiled(*(value.contiguous() for value in inputs))[:rows].to(torch.float32, copy=True)

    return run


def _matrices(owner: nn.Module, method: str) -> Iterator[Any]:
    """Yield the layers that autocast runs in bf16 and that this method alone uses."""
    encoders = owner.encoder_modules() if method != "forward" else []  # type: ignore[operator]
    kept = {id(layer) for module in encoders for layer in module.modules()}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return (layer for layer in owner.modules() if isinstance(layer, kinds) and id(layer) not in kept)

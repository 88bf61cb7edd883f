"""The arithmetic that networks were trained for, whatever the program around a call has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute in float32 on the devices that the code names: no autocast, default dtype or device of the caller's.

    A decorator, too. The caller's settings come back at the end.
    """
    import torch

    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield

"""When memory runs out: one error for what torch, ONNX Runtime and NumPy each say in their own way."""

from __future__ import annotations

import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

_WORDS = (
    *("can't allocate memory", "std::bad_alloc", "bad allocation", "Failed to allocate memory"),
    *("CUDA error: out of memory", "_ALLOC_FAILED"),  # the second of cuBLAS, cuDNN, cuFFT, …
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of any library says that there was no memory left, on the host or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or any(words in str(error) for words in _WORDS)


@contextmanager
def memory_watched(num_clips: int, setting: str) -> Iterator[None]:
    """Say what to try when memory runs out inside the block, and free what was taken: the process can go on.

    Args:
        num_clips: clips that are computed at once.
        setting: of that number, with its name, such as "--batch-size {}".

    Raises:
        MemoryError: there was not enough of it; whatever the library raised.
    """
    try:
        yield
    except _kinds() as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what was computed so far
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        advice = setting.format(num_clips // 2) if num_clips > 1 else "another device or a smaller model"
        clips = "1 clip" if num_clips == 1 else f"{num_clips} clips"
        raise MemoryError(f"out of memory with {clips} at once; try {advice}") from error


def _kinds() -> tuple[type[Exception], ...]:
    runtime = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")  # its errors have no base of their own
    return MemoryError, RuntimeError, *((runtime.Fail, runtime.RuntimeException) if runtime is not None else ())

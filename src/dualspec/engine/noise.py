"""The noise that torch draws for a seed, without torch: the same clips come out of both engines."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import MT19937

_STATE_WORDS = 624
_BLOCK = 16


def normal_noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return what `torch.randn(shape)` draws on the CPU from a generator of this seed, to 1e-6.

    A Mersenne Twister gives 24 bits for each number; in blocks of sixteen, the first eight are the radii and the last
    eight the angles of Box and Muller's method.

    Args:
        shape: of the noise; its size must be a multiple of 16, where torch takes another way at the end.
        seed: 0 or more; the generator takes its lowest 32 bits.

    Returns:
        Standard normal noise, float32.

    Raises:
        ValueError: the size is no multiple of 16.
    """
    size = math.prod(shape)
    if size % _BLOCK:
        raise ValueError(f"shape must hold a multiple of {_BLOCK} numbers, got {size}; use the torch engine")
    words = [seed & 0xFFFFFFFF]
    for index in range(1, _STATE_WORDS):
        words.append((1_812_433_253 * (words[-1] ^ (words[-1] >> 30)) + index) & 0xFFFFFFFF)
    twister = MT19937()
    key = np.array(words, dtype=np.uint32)
    twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": _STATE_WORDS}}
    uniform = (twister.random_raw(size) & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)
    first, second = uniform.reshape(-1, 2, _BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - first))
    angle = np.float32(2.0 * math.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(shape)

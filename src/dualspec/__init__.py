"""dualspec: from a sentence to two ears (text-to-binaural-audio by dual-spectrogram latent diffusion).

    >>> from dualspec import DualSpecPipeline
    >>> pipeline = DualSpecPipeline.from_pretrained()
    >>> output = pipeline("EVENT: Dog bark & LOCATION: 3 o'clock direction")

The public names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualspec.audio.hrir import HrirSet, load_sofa
    from dualspec.audio.waveform import write_waveform
    from dualspec.hearing.localizer import Localizer
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.text.prompts import parse_prompt

__version__ = "0.1.0"

__all__ = ["DualSpecPipeline", "HrirSet", "Localizer", "__version__", "load_sofa", "parse_prompt", "write_waveform"]

_HOMES = {
    "DualSpecPipeline": "dualspec.pipeline",
    "HrirSet": "dualspec.audio.hrir",
    "Localizer": "dualspec.hearing.localizer",
    "load_sofa": "dualspec.audio.hrir",
    "parse_prompt": "dualspec.text.prompts",
    "write_waveform": "dualspec.audio.waveform",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its room (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dualspec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})

"""The gradio page with the tiny model: its function makes two-ear sound; what the engine refuses, it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the gradio page needs the extra 'demo'")

import gradio

from dualspec.pipeline import DualSpecPipeline
from dualspec.web.gradio_demo import QUEUE_SIZE, demo


@pytest.fixture(scope="module")
def page(tiny_model: Path) -> Any:
    return demo(tiny_model)


def function_of(page: Any) -> Any:
    (block,) = [function for function in page.fns.values() if function.api_name == "generate"]
    return block.fn


def test_it_makes_what_the_pipeline_makes(page: Any, tiny_model: Path) -> None:
    (rate, samples), direction = function_of(page)("dog bark", 90, 3, 2, 3)
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)
    own = pipeline("EVENT: dog bark & LOCATION: DOA 90", seed=3, num_inference_steps=2).audios[0]
    assert rate == 16_000 and samples.dtype == np.int16 and samples.shape == (own.shape[1], 2)
    assert np.abs(samples.T / 32767 - own.numpy()).max() < 2 / 32767
    assert direction["asked_deg"] == 90.0


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("", 90, 0, 2, 3), "event"),
        (("x" * 501, 90, 0, 2, 3), "event"),
        (("dog & LOCATION: DOA 9", 90, 0, 2, 3), "event"),
        (("dog behind me", 90, 0, 2, 3), "event"),
        (("dog", 90, -1, 2, 3), "seed"),
        (("dog", 90, 0, 5000, 3), "num_inference_steps"),
        (("dog", 90, 0, 2, 99), "guidance_scale"),
    ],
)
def test_limits_are_the_engines_not_the_browsers(page: Any, order: tuple[Any, ...], message: str) -> None:
    with pytest.raises(gradio.Error, match=message):
        function_of(page)(*order)


def test_it_takes_no_files_and_waits_in_a_short_queue(page: Any) -> None:
    inputs = [
        type(block).__name__ for block in page.blocks.values() if getattr(block, "interactive", None) is not False
    ]
    assert not {"File", "UploadButton", "FileExplorer", "Image", "Video", "Audio"} & set(inputs)
    assert page._queue.max_size == QUEUE_SIZE and page._queue.default_concurrency_limit == 1
    assert not page.analytics_enabled

"""Compiled networks: few shapes, the same sound, and nothing rounded that is to be saved."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dualspec.compiled import compile_methods
from dualspec.pipeline import DualSpecPipeline

PROMPTS = ["EVENT: Dog bark & LOCATION: 3 o'clock direction", "EVENT: Rain & LOCATION: DOA 0", "EVENT: Cat"]
CPU = torch.device("cpu")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[int, ...]]]:
    """Leave networks uncompiled and note the shapes that each would be compiled for."""
    shapes: dict[str, set[tuple[int, ...]]] = {}

    def plain(network: Callable[..., Any], *, mode: str, dynamic: bool) -> Callable[..., Any]:
        own = shapes.setdefault(f"{mode} {len(shapes)}", set())
        assert dynamic is False
        return lambda *given: own.add(tuple(size for value in given for size in value.shape)) or network(*given)

    monkeypatch.setattr(torch, "compile", plain)
    return shapes


@pytest.fixture
def pipeline(tiny_model: Path) -> DualSpecPipeline:
    pipeline = DualSpecPipeline.from_pretrained(tiny_model)
    sampling = replace(pipeline.config.sampling, num_inference_steps=4, guidance_interval=(0.0, 0.5))
    pipeline.config = replace(pipeline.config, sampling=sampling)
    return pipeline


def test_few_shapes_serve_all_calls_and_the_sound_stays(
    pipeline: DualSpecPipeline, seen: dict[str, set[tuple[int, ...]]]
) -> None:
    """Three clips of three lengths of prompt, guided in half of the steps: pairs fill 8 rows, the others 4."""
    plain = pipeline(PROMPTS, seed=[1, 2, 3])
    fast = pipeline.compile()(PROMPTS, seed=[1, 2, 3])
    assert {name.split()[0] for name in seen} == {"default"}
    assert sorted(shape[0] for shape in seen["default 0"]) == [4, 8]
    assert all(len(shapes) == 1 for name, shapes in seen.items() if name != "default 0")
    assert (fast.audios - plain.audios).abs().max() <= 1e-3 * plain.audios.abs().max()
    before = {name: len(shapes) for name, shapes in seen.items()}
    pipeline([*PROMPTS[:2], "a very long and winding description of church bells & far away"] * 2, batch_size=3)
    assert {name: len(shapes) for name, shapes in seen.items()} == before


def test_bf16_is_autocast_and_such_weights_are_not_saved(
    pipeline: DualSpecPipeline, seen: dict[str, set[tuple[int, ...]]], tmp_path: Path
) -> None:
    autocast = copy.deepcopy(pipeline.denoiser)
    given = (torch.randn(2, *pipeline.pairing.packed_shape, generator=torch.Generator().manual_seed(0)),)
    given += (torch.tensor([5, 9]), torch.ones(2, 3, pipeline.text_encoder.width), torch.ones(2, 3, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        expected = autocast(*given).float()
    whole = pipeline(PROMPTS[0], seed=1).audios
    pipeline.compile(mode="reduce-overhead", precision="bf16")
    assert torch.equal(pipeline.denoiser(*given), expected)
    assert {name.split()[0] for name in seen} == {"reduce-overhead"}
    rounded = pipeline(PROMPTS[0], seed=1).audios
    assert rounded.dtype == torch.float32 and 0 < (rounded - whole).norm() < 0.2 * whole.norm()
    assert pipeline.round_trip(whole).shape == whole.shape  # encoders stay whole
    with pytest.raises(ValueError, match="weights must be whole to be saved"):
        pipeline.save_pretrained(tmp_path)


def test_rounded_weights_are_not_taken_for_whole(pipeline: DualSpecPipeline, seen: Any) -> None:
    """Fp32 after bf16 is refused and changes nothing; bf16 again is compiled anew."""
    settings: Any = {"seed": 1, "num_inference_steps": 1}
    rounded = pipeline.compile(precision="bf16")(PROMPTS[0], **settings).audios
    count = len(seen)
    for precision in ("fp32", "auto"):
        with pytest.raises(ValueError, match=f"precision must stay bf16 .*got {precision}, .*; load the model again"):
            pipeline.compile(precision=precision)
    assert len(seen) == count and torch.equal(
        pipeline.compile(precision="bf16")(PROMPTS[0], **settings).audios, rounded
    )
    assert len(seen) == 2 * count


def test_unknown_ways_are_refused(pipeline: DualSpecPipeline) -> None:
    for wrong, reason in (({"mode": "fast"}, "mode must be one of"), ({"precision": "fp8"}, "precision must be one")):
        with pytest.raises(ValueError, match=reason):
            pipeline.compile(**wrong)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_what_a_compiler_makes_is_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval().requires_grad_(False)
    plain = copy.deepcopy(network)
    compile_methods([(network, "forward")], mode=None, precision="auto", device=CPU)
    for rows in (3, 4):
        given = torch.randn(rows, 8)
        assert (network(given) - plain(given)).abs().max() < 1e-6
    assert network.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.timeout(3600)  # the compiler takes minutes on a CPU
def test_compiled_sound_is_the_same(pipeline: DualSpecPipeline) -> None:
    """Waveforms within 1e-3 of the peak, and what the compiler saw once serves the next call."""
    plain = pipeline(PROMPTS[0], seed=1).audios
    pipeline.compile()
    assert (pipeline(PROMPTS[0], seed=1).audios - plain).abs().max() <= 1e-3 * plain.abs().max()
    with torch.compiler.set_stance("fail_on_recompile"):
        pipeline(PROMPTS[1], seed=2)

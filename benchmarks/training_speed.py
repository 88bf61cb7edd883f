"""How much of the machine's arithmetic training uses, and what drawing the clips takes of it.

    python benchmarks/training_speed.py                      # made-up clips, the mini recipes, one thread of the CPU
    python benchmarks/training_speed.py --data CORPUS --device cuda --clips 512 --set loop.compile=true

In turn, five times each: matrix products of the device's own (fp32 on a CPU, bf16 on a GPU) and steps of the trainer,
adversaries and all. Operations are counted in a step, forward and backward (torch.utils.flop_counter); divided by the
time they give a rate, and that divided by the rate of the matrix products is the utilisation. "drawing" is the share
of a step that renders the clips, transforms them and, for a denoiser, encodes them by its frozen VAEs. On a CPU times
are of the processor, on a GPU of the clock, the device waited for; `host_waits` counts the times that a step made the
host wait for the device (GPU only). One JSON object per recipe.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from compare import host_waits
from corpus_throughput import made_up
from dualspec.audio.hrir import spherical_head
from dualspec.config import override
from dualspec.model_folder import embedded_bundle
from dualspec.recipes import get_recipe
from dualspec.training.diffusion_task import DiffusionTaskConfig
from dualspec.training.loop import Trainer
from dualspec.training.processes import Processes
from dualspec.training.run import build_task
from dualspec.training.task import StepRandom, global_batch

RECIPES = ("mel_vae", "stft_vae", "vocoder", "dualspec", "robust_localizer")


def make_trainer(name: str, corpus: Path, options: argparse.Namespace) -> Trainer:
    """Build the trainer of a recipe, its adversaries at work."""
    settings = [f"loop.batch_size={options.clips}", "loop.held_out=0", "loop.max_steps=1000", *options.set]
    recipe = override(get_recipe(f"{options.size}/{name}"), settings)
    vaes = {}
    if isinstance(recipe.task, DiffusionTaskConfig):
        vaes = {part: embedded_bundle() / part for part in recipe.task.variant.parts}
    head = spherical_head(sample_rate=16_000)
    bank = recipe.task.render.num_samples
    task = build_task(
        recipe.task, corpus, head, device=options.device, num_bank_samples=bank, vae_folders=vaes, held_out=0
    )
    trainer = Trainer(task, recipe.loop, Path("."), Processes(device=options.device))
    trainer.state.step = 900
    return trainer


def seconds(work: Callable[[], Any], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def measure(name: str, corpus: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one recipe."""
    trainer, device = make_trainer(name, corpus, options), options.device
    size, kind = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in "ab")

    def step() -> None:
        trainer._step()
        trainer.state.step += 1

    def draw() -> None:
        indices = global_batch(trainer.task.num_clips, options.clips, trainer.state.step, 0)
        random = StepRandom(0, trainer.state.step, slice(0, options.clips), options.clips, device)
        with torch.no_grad():
            trainer.task.make_batch(indices, random)

    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    step()
    times: dict[str, list[float]] = {"matmul": [], "step": [], "draw": []}
    for _ in range(options.repeat):
        times["matmul"].append(seconds(lambda: left @ right, device))
        times["step"].append(seconds(step, device))
        times["draw"].append(seconds(draw, device))
    best = {what: statistics.median(values) for what, values in times.items()}
    matmul_rate, rate = 2 * size**3 / best["matmul"], operations / best["step"]
    result = {
        "recipe": f"{options.size}/{name}",
        "clips_a_step": options.clips,
        "clips_per_s": round(options.clips / best["step"], 2),
        "gflop_a_clip": round(operations / options.clips / 1e9, 2),
        "utilisation": round(rate / matmul_rate, 3),
        "matmul_gflop_per_s": round(matmul_rate / 1e9, 1),
        "drawing": round(best["draw"] / best["step"], 3),
    }
    return result | ({"host_waits": host_waits(step)} if device == "cuda" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared corpus; made-up clips without")
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="all by default; repeatable")
    parser.add_argument("--size", default="mini", choices=("mini", "tiny"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, default=8, help="clips of a step")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, as for `dualspec train`")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        corpus = options.data or made_up(Path(name), 64)
        for recipe in options.recipe or RECIPES:
            print(json.dumps(measure(recipe, corpus, options)), flush=True)


if __name__ == "__main__":
    main()

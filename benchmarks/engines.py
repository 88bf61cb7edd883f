"""From a sentence to a WAV: cold and warm, with and without torch, and against 200 steps of DDIM in diffusers.

python benchmarks/engines.py

A cold start is a process of its own, everything in it counted (processor seconds of all threads). The comparator is
what a pipeline of the AudioLDM kind runs: `UNet2DConditionModel` with nearly the embedded denoiser's number of
parameters on the latents of a mel VAE, one for each ear, `DDIMScheduler`, guidance as a batch of two. Its text encoder,
VAE and vocoder are not counted, and of its 200 equal steps only some are run.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from compare import Row, at_least, at_most, interleaved, table
from dualspec.engine import pipeline as onnx
from dualspec.engine.pipeline import OnnxPipeline
from dualspec.pipeline import DualSpecPipeline

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
COLD = {
    "onnx": ["-m", "dualspec", "generate", PROMPT, "--engine", "onnx"],
    "onnx, no picture": ["-m", "dualspec", "generate", PROMPT, "--engine", "onnx", "--no-picture"],
    "torch": ["-m", "dualspec", "generate", PROMPT, "--engine", "torch"],
    "help": ["-m", "dualspec", "--help"],
    "diffusers": ["-c", "from diffusers import UNet2DConditionModel"],
}


def cold_starts(repeats: int) -> dict[str, dict[str, float]]:
    """Run each command in turn; return processor seconds, wall seconds (best) and peak memory (MB) of each."""
    found: dict[str, dict[str, float]] = {name: {"cpu": 1e9, "wall": 1e9, "mb": 0.0} for name in COLD}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name, words in COLD.items():
                own = ["-o", f"{folder}/clip.wav"] if "generate" in words else []
                # A process of its own between, so that the peak is this command's alone.
                code = (
                    "import os, resource, subprocess, sys, time; start = time.perf_counter()\n"
                    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
                    "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
                    "print(used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024)"
                )
                words = [sys.executable, "-c", code, sys.executable, *words, *own]
                said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                cpu, wall, mb = map(float, said.split())
                best = found[name]
                best |= {"cpu": min(best["cpu"], cpu), "wall": min(best["wall"], wall), "mb": max(best["mb"], mb)}
    return found


def cold_rows(repeats: int = 3) -> list[Row]:
    found = cold_starts(repeats)
    own, without = found["onnx"], found["onnx, no picture"]
    counts = f"5.12 s, the model's own number of steps, best of {repeats}"
    pair = f"{own['cpu']:.1f} against {{:.1f}} processor seconds, {counts}"
    with_picture, bare = (f"{counts}; {side['cpu']:.1f} processor seconds" for side in (own, without))
    return [
        at_most("generate, cold, wall seconds", 3.0, own["wall"], f"with proof and picture, {with_picture}"),
        at_most("generate --no-picture, cold, wall seconds", 3.0, without["wall"], f"with proof, {bare}"),
        at_most("generate, peak memory, MB", 300.0, own["mb"], f"{without['mb']:.0f} without picture, {counts}"),
        at_most(
            "generate / --engine torch", 0.5, own["cpu"] / found["torch"]["cpu"], pair.format(found["torch"]["cpu"])
        ),
        at_most(
            "generate / import of a U-Net from diffusers",
            0.5,
            own["cpu"] / found["diffusers"]["cpu"],
            pair.format(found["diffusers"]["cpu"]),
        ),
        at_most("--help, processor seconds", 1.0, found["help"]["cpu"], f"best of {repeats}"),
    ]


def warm_rows(sample_steps: int = 4) -> list[Row]:
    torch.set_num_threads(1)
    reference, engine = DualSpecPipeline.from_pretrained(), OnnxPipeline(num_threads=1)
    unet, unet_step = comparator()
    engine_first, torch_first = (copy.copy(way) for way in (engine, reference))
    sampling = replace(reference.config.sampling, guidance_interval=(0.0, 0.125))  # in the first of eight steps
    engine_first.config = SimpleNamespace(**vars(engine.config) | {"sampling": sampling})
    torch_first.config = replace(reference.config, sampling=sampling)
    inside = Inside(engine)
    best = interleaved(
        {
            "torch": lambda: reference(PROMPT, seed=0),
            "onnx": lambda: engine([PROMPT], seed=[0]),
            "first": lambda: engine_first([PROMPT], seed=[0]),
            "first, torch": lambda: torch_first(PROMPT, seed=0),
            "unet": lambda: [unet_step() for _ in range(sample_steps)],
        },
        repeats=3,
    )
    again = text_again(engine)
    outside = inside.share_outside(lambda: engine([PROMPT], seed=[0]))
    ddim = 200 / sample_steps * best["unet"]
    own, theirs = (sum(p.numel() for p in model.parameters()) / 1e6 for model in (reference.denoiser, unet))
    counts = f"5.12 s, {engine.config.sampling.num_inference_steps} steps, one thread, best of 3: {best['onnx']:.2f} s"
    return [
        at_most("warm clip, processor seconds per second of audio", 0.5, best["onnx"] / 5.12, counts),
        at_least(
            "torch / onnx, warm clip", 1.2, best["torch"] / best["onnx"], f"{counts} against {best['torch']:.2f} s"
        ),
        at_least(
            "200 steps of DDIM in a U-Net of diffusers / whole warm clip",
            10.0,
            ddim / best["onnx"],
            f"{theirs:.1f} M against {own:.1f} M parameters, {sample_steps} of 200 steps run; {counts}",
        ),
        at_least(
            "a text's states: encoded / remembered", 10.0, again, "ONNX, one prompt and the empty text, best of 5"
        ),
        at_least(
            "guidance in all steps / in the first alone, warm clip",
            1.15,
            best["onnx"] / best["first"],
            f"ONNX, {counts} against {best['first']:.2f} s",
        ),
        at_least(
            "the same in torch",
            1.15,
            best["torch"] / best["first, torch"],
            f"5.12 s, 8 steps, one thread, best of 3: {best['torch']:.2f} s against {best['first, torch']:.2f} s",
        ),
        at_most(
            "share of a warm clip outside the networks and the last step, from spectra to two ears",
            0.10,
            outside,
            f"the last step, mostly Griffin-Lim, takes {inside.share_last:.2f} of the clip",
        ),
    ]


def text_again(engine: OnnxPipeline) -> float:
    """Return the time of encoding a prompt and the empty text over that of finding them kept."""

    def encoded() -> None:
        engine.text_encoder._states.cache_clear()
        engine.text_encoder.encode([PROMPT, ""])

    best = interleaved(
        {"encoded": encoded, "kept": lambda: [engine.text_encoder.encode([PROMPT, ""]) for _ in range(10)]}
    )
    return 10 * best["encoded"] / best["kept"]


def comparator() -> tuple[Any, Any]:
    """Return a U-Net of the embedded denoiser's size and one guided DDIM step of it for both ears."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=(128, 16),
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 192),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=384,
        attention_head_dim=(2, 3, 6),  # the number of heads, each 32 wide
    ).eval()
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(200)
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 8, 128, 16, generator=generator), torch.randn(4, 12, 384, generator=generator)

    def step() -> None:
        with torch.no_grad():
            both = unet(torch.cat((latents, latents)), 500, encoder_hidden_states=text).sample
            scheduler.step(3.0 * both[:2] - 2.0 * both[2:], scheduler.timesteps[10], latents)

    return unet, step


class Inside:
    """Counts the processor seconds that an engine spends in its networks and in the last step."""

    def __init__(self, engine: OnnxPipeline) -> None:
        """Put itself around the three networks and the last step."""
        self.seconds, self.last, self.share_last = 0.0, 0.0, 0.0
        last_step = onnx.both_ears

        def both_ears(*words: Any) -> Any:
            before = time.process_time()
            ears = last_step(*words)
            self.last += time.process_time() - before
            return ears

        onnx.both_ears = both_ears
        engine._denoiser, engine._decoder = self._around(engine._denoiser), self._around(engine._decoder)
        engine.text_encoder._network = self._around(engine.text_encoder._network)

    def _around(self, session: Any) -> Any:
        counter = self

        class Counted:
            def run(self, *words: Any) -> Any:
                before = time.process_time()
                result = session.run(*words)
                counter.seconds += time.process_time() - before
                return result

        return Counted()

    def share_outside(self, call: Any, repeats: int = 5) -> float:
        """Return the least share of a call that is spent elsewhere."""
        shares = []
        for _ in range(repeats):
            self.seconds, self.last, before = 0.0, 0.0, time.process_time()
            call()
            whole = time.process_time() - before
            shares.append(1.0 - (self.seconds + self.last) / whole)
            self.share_last = self.last / whole
        return min(shares)


def neighbour_rows(repeats: int = 3) -> list[Row]:
    """Time a warm clip on all cores with and without a process that keeps one of them busy."""
    engine, code = OnnxPipeline(), "while True: pass"
    alone, crowded = [], []
    for _ in range(repeats):
        for seconds, words in ((alone, None), (crowded, [sys.executable, "-c", code])):
            other = subprocess.Popen(words) if words else None
            start = time.perf_counter()
            engine([PROMPT], seed=[0])
            seconds.append(time.perf_counter() - start)
            if other is not None:
                other.kill()
                other.wait()
    counts = f"wall, medians of {repeats}, {engine.num_threads} threads"
    return [
        at_most(
            "clip beside one busy process / alone",
            2.5,
            sorted(crowded)[repeats // 2] / sorted(alone)[repeats // 2],
            counts,
        )
    ]


def measure() -> list[Row]:
    return cold_rows() + warm_rows() + neighbour_rows()


if __name__ == "__main__":
    print(table(measure()))

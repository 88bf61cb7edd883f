"""From words to two-ear samples on the host, at the paper's size: seconds per second of audio, beside the paper's 1.21.

    python benchmarks/paper_speed.py --device cuda --compile --compare            # paper/dualspec, 1 and 16 clips
    python benchmarks/paper_speed.py --size tiny --compile --compare              # rehearsal on the CPU

Weights are random: they change no time. Prompts are new at every call, so that text is encoded each time. The first
call of each kind, which compiles, is counted apart. With --compile, networks run as `DualSpecPipeline.compile` makes
them: bf16 and CUDA graphs on a GPU. With --compare, the first clip stands beside the one that the same weights make of
the same seed in fp32, uncompiled and alone: mean distance of the log-mel (neper), of ITD and of ILD. Memory is the most
that torch allocated on a GPU, else the largest resident size so far; `host_waits` counts, on a GPU, how often a call
made the host wait for the device. One JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import torch
from torch import Tensor

from compare import host_waits
from dualspec.diffusion.denoiser import build_denoiser
from dualspec.features.mel import MelConfig, log_mel
from dualspec.hearing.cues import interaural_cues
from dualspec.latents.vae import SpectrogramVae
from dualspec.pipeline import DualSpecPipeline
from dualspec.recipes import get_recipe, vae_configs
from dualspec.synthesis.vocoder import build_vocoder
from dualspec.text.encoder import TextEncoder, build_text_encoder, t5_large_encoder_config

VARIANTS = ("mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p")
PAPER = 1.21  # seconds per second of audio, 200 steps of DDPM
SAMPLERS = ("ddpm:200", "dpmpp:25", "dpmpp:8")


class RandomT5(TextEncoder):
    """The encoder of FLAN-T5-large with random weights, which reads the bytes of a prompt."""

    def __init__(self, max_tokens: int) -> None:
        from transformers import T5EncoderModel

        config = t5_large_encoder_config()
        super().__init__(config.d_model, max_tokens)
        self.model = T5EncoderModel(config)

    def _token_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        assert len(prompts) == 1  # the pipeline encodes each text alone
        tokens = torch.tensor([[*prompts[0].encode(), 1][: self.max_tokens - 1]], device=self.model.device)
        return self.model(input_ids=tokens).last_hidden_state, torch.ones_like(tokens, dtype=torch.bool)


def build(name: str, options: argparse.Namespace) -> DualSpecPipeline:
    """Return the pipeline of a variant with random weights, the same each time."""
    torch.manual_seed(0)
    config = get_recipe(f"{options.size}/{name}").task.variant
    with torch.device(options.device):
        vaes = {part: SpectrogramVae(vae) for part, vae in vae_configs(f"{options.size}/{name}", name).items()}
        vocoder = build_vocoder(get_recipe(f"{options.size}/vocoder").task.vocoder)
        denoiser = build_denoiser(config.denoiser)
        paper = config.text_encoder.kind == "t5"
        text = RandomT5(config.text_encoder.max_tokens) if paper else build_text_encoder(config.text_encoder)
    return DualSpecPipeline(config, denoiser, vaes, vocoder, text).to(options.device)


def prompts(clips: int, call: int) -> list[str]:
    return [f"EVENT: Dog bark {call} {clip} & LOCATION: 3 o'clock direction" for clip in range(clips)]


def distances(estimate: Tensor, reference: Tensor, sample_rate: int) -> dict[str, float]:
    """Compare two clips (2, S)."""
    mels = [log_mel(clip, MelConfig(sample_rate=sample_rate)) for clip in (estimate, reference)]
    own, other = (interaural_cues(clip, sample_rate) for clip in (estimate, reference))
    found = {"mel_neper": float((mels[0] - mels[1]).abs().mean())}
    found |= {name: float((getattr(own, name) - getattr(other, name)).abs()) for name in ("itd_us", "ild_db")}
    return {name: round(value, 4) for name, value in found.items()}


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one variant with all samplers and batches."""
    ways = [(way.split(":")[0], int(way.split(":")[1])) for way in options.sampler or SAMPLERS]
    pipeline, cuda = build(name, options), options.device == "cuda"

    def clips(count: int, call: int, sampler: Any, steps: int) -> Tensor:
        settings = {"sampler": sampler, "num_inference_steps": steps, "batch_size": count}
        return pipeline(prompts(count, call), seed=list(range(count)), **settings).audios

    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    whole = {way: clips(1, -1, *way)[0] for way in ways} if options.compare else {}
    if options.compile:
        pipeline.compile(mode=options.mode)
    rows = []
    for count in options.clips or (1, 16):
        for way in ways:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds, first = [], None
            for call in range(-1, options.repeat):
                begin = time.perf_counter()
                made = clips(count, call, *way)  # ends on the host, so the device is done
                seconds.append(time.perf_counter() - begin)
                first = made[0] if first is None else first
            used = (
                torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            )
            each = min(seconds[1:]) / (count * pipeline.max_duration_s)
            row = {"variant": f"{options.size}/{name}", "clips": count, "sampler": way[0], "steps": way[1]}
            row |= {"seconds_per_second": round(each, 4), "of_the_paper": round(each / PAPER, 4)}
            row |= {"first_call_s": round(seconds[0], 2), "memory_gb": round(used / 1e9, 2)}
            row |= {"compiled": options.compile, "bf16": options.compile and cuda}
            if options.compare:
                row |= distances(first, whole[way], pipeline.sample_rate)
            if cuda:
                row["host_waits"] = host_waits(lambda count=count, way=way: clips(count, options.repeat, *way))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="dualspec by default; repeatable")
    parser.add_argument("--size", default="paper", help="paper, paper-text or tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, action="append", help="of a batch; 1 and 16 by default; repeatable")
    parser.add_argument("--sampler", action="append", metavar="NAME:STEPS", help=f"{', '.join(SAMPLERS)} by default")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--mode", help="of torch.compile")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    for name in options.variant or ("dualspec",):
        measure(name, options)


if __name__ == "__main__":
    main()

"""One forward and one training step of every part at the paper's size: parameters, peak memory, seconds.

    python benchmarks/paper_size.py                                  # all parts, one clip, fp32 on the CPU
    python benchmarks/paper_size.py --device cuda --clips 2 --repeat 5 --set loop.precision=bf16

Each figure comes from a process of its own. On the CPU the memory is the largest resident size less that before the
part was built, on a GPU what torch had allocated at most. Weights are random. A training step is the trainer's own,
the adversary included; with `--step-in-backward` AdamW moves each weight as soon as its gradient is there, without
clipping the norm: so the U-Net's step in fp32 fits where gradients and moments together would not.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

VARIANTS = ("mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p")
PARTS = ("mel_vae", "stft_vae", "dual_vae", "mono_mel_vae", "vocoder", *VARIANTS, "text_encoder")


def measure(part: str, train: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part once or more; the last and fastest time counts."""
    import torch

    from dualspec.accounting import count_parameters
    from dualspec.config import override
    from dualspec.forecast import forecast, phases_of
    from dualspec.recipes import get_recipe

    torch.manual_seed(0)
    cuda = options.device == "cuda"
    name = "dualspec" if part == "text_encoder" else part
    settings = [f"loop.batch_size={options.clips}", "loop.micro_batch=0", "loop.ema_decay=0", *options.set]
    recipe = override(get_recipe(f"{options.size}/{name}"), settings)
    phases_of(recipe, "meta")  # loads the libraries
    before = _resident_gb()
    module, act = (_training if train else _inference)(part, recipe, options)
    seconds, core_seconds = [], []
    half = cuda and recipe.loop.precision != "fp32" and not train
    for _ in range(options.repeat):
        begin, core_begin = time.perf_counter(), time.process_time()
        with torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
            act()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        core_seconds.append(time.process_time() - core_begin)
    memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else _resident_gb() - before
    result = {"part": part, "does": "train" if train else "infer", "parameters": count_parameters(module)}
    result |= {"memory_gb": round(memory, 2), "seconds": round(min(seconds), 2)}
    result["core_seconds"] = round(min(core_seconds), 2)  # what a busy machine leaves unchanged
    if train and not options.step_in_backward:
        parts = forecast(override(recipe, [] if cuda else ["loop.precision=fp32"]), 1).memory
        result["forecast_gb"] = round(sum(size for of, size in parts.items() if of != "frozen weights") / 1e9, 2)
    return result


def _resident_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _inference(part: str, recipe: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """Return a module and what uses it: a VAE there and back, one ear vocoded, one guided denoising step, two texts."""
    import torch

    from dualspec.diffusion.denoiser import build_denoiser
    from dualspec.latents.vae import SpectrogramVae
    from dualspec.synthesis.vocoder import build_vocoder
    from dualspec.text.encoder import t5_large_encoder_config

    task, clips = recipe.task, options.clips
    torch.set_grad_enabled(False)
    zeros = lambda *shape, **more: torch.zeros(*shape, device=options.device, **more)  # noqa: E731
    with torch.device(options.device):
        if part == "text_encoder":
            from transformers import T5EncoderModel

            module: Any = T5EncoderModel(t5_large_encoder_config())
            tokens = zeros(2 * clips, task.variant.text_encoder.max_tokens, dtype=torch.int64)
            return module.eval(), lambda: module(input_ids=tokens)
        if part == "vocoder":
            module, mel = build_vocoder(task.vocoder), task.vocoder.mel
            return module.eval(), lambda: module(zeros(clips, mel.num_frames(81_920), mel.n_mels))
        if part.endswith("vae"):
            module = SpectrogramVae(task.vae)
            channels = zeros(clips * task.vae.num_latents, *task.vae.input_shape(81_920))
            return module.eval(), lambda: module.decode_channels(module.encode_moments(channels)[0])
        config = task.variant
        module, length = build_denoiser(config.denoiser), config.text_encoder.max_tokens
        texts = zeros(2 * clips, length, config.denoiser.cross_attention_dim)
        mask, steps = torch.ones(2 * clips, length, dtype=torch.bool), zeros(2 * clips, dtype=torch.int64)
        return module.eval(), lambda: module(zeros(2 * clips, *config.denoiser.latent_shape), steps, texts, mask)


class _Clipless:
    """A task whose batches are noise of the right shape."""

    num_clips = 1000

    def __init__(self, recipe: Any, options: argparse.Namespace) -> None:
        import torch

        from dualspec.forecast import phases_of, zero_batch

        generator = torch.Generator().manual_seed(0)
        self.phases = phases_of(recipe, options.device)
        self.batch = {name: value.to(options.device) for name, value in zero_batch(recipe, options.clips).items()}
        for name, value in self.batch.items():
            if value.is_floating_point() and name != "weight":
                value.copy_(torch.randn(value.shape, generator=generator))

    def make_batch(self, indices: Any, random: Any) -> dict[str, Any]:
        return dict(self.batch)


def _training(part: str, recipe: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """Return a module and the trainer's step, late enough for every adversary."""
    import torch

    from dualspec.training.loop import Trainer
    from dualspec.training.processes import Processes

    task: Any = _Clipless(recipe, options)
    trainer = Trainer(task, recipe.loop, Path("."), Processes(device=options.device))
    trainer.state.step = recipe.loop.max_steps - 1
    if options.step_in_backward:
        for trained in trainer.trained.values():
            _step_in_backward(trained)
    module = next(iter(task.phases.values()))

    def act() -> None:
        logs = trainer._step()
        assert all(torch.isfinite(value) for value in logs.values())

    return module, act


def _step_in_backward(trained: Any) -> None:
    """Give every weight an AdamW of its own that acts when its gradient is complete."""
    import torch

    settings = trained.phase.optimizer_config
    for weight in trained.module.parameters():
        own = torch.optim.AdamW([weight], lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

        def move(value: Any, own: torch.optim.Optimizer = own) -> None:
            own.step()
            value.grad = None

        weight.register_post_accumulate_grad_hook(move)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="all by default; repeatable")
    parser.add_argument("--does", choices=("infer", "train"), action="append", help="both by default")
    parser.add_argument("--size", default="paper", help="paper, paper-text or tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--step-in-backward", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, as for `dualspec train`")
    options = parser.parse_args()
    parts, does = options.part or PARTS, options.does or ("infer", "train")
    if len(parts) == len(does) == 1:
        print(json.dumps(measure(parts[0], does[0] == "train", options)), flush=True)
        return
    common = [f"--{name}={getattr(options, name)}" for name in ("size", "device", "clips", "repeat")]
    common += [f"--set={setting}" for setting in options.set] + ["--step-in-backward"] * options.step_in_backward
    for part in parts:
        for what in does:
            if (part, what) != ("text_encoder", "train"):
                subprocess.run([sys.executable, __file__, *common, "--part", part, "--does", what], check=False)


if __name__ == "__main__":
    main()

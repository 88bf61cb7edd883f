"""Break rules on purpose and see that the tests notice: `python tests/mutations.py` (`make mutants`).

Each mutant is one replaced line, in a copy of the project; the tests named with it must fail. Not part of the suite: it
takes about ten minutes on two cores. Prints one line per mutant and ends with 1 if one survived.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """One broken rule."""

    rule: str
    file: str  # under src/dualspec
    old: str  # stands there once
    new: str
    tests: str  # files or folders under tests, by blanks


MUTANTS = (
    Mutant(
        "the ears are not swapped in a head",
        "audio/hrir.py",
        "            return self.impulse_responses[self._nearest(angles, tolerance_deg)]",
        "            return self.impulse_responses[self._nearest(angles, tolerance_deg)].flip(1)",
        "audio",
    ),
    Mutant(
        "azimuths count counter-clockwise",
        "audio/azimuth.py",
        '    return "left" if angle < 180.0 else "right"',
        '    return "left" if angle > 180.0 else "right"',
        "audio",
    ),
    Mutant(
        "an error wraps at 360 degrees",
        "audio/azimuth.py",
        "    return 180 - abs(180 - difference)",
        "    return difference",
        "audio evaluation",
    ),
    Mutant(
        "both ears share one gain",
        "audio/binaural.py",
        "    largest = waveform.abs().amax(dim=(-2, -1), keepdim=True)",
        "    largest = waveform.abs().amax(dim=-1, keepdim=True)",
        "audio",
    ),
    Mutant(
        "convolution keeps its first sample",
        "audio/binaural.py",
        "    valid = torch.fft.irfft(product, n=block_size)[..., num_taps - 1 :]",
        "    valid = torch.fft.irfft(product, n=block_size)[..., num_taps:]",
        "audio",
    ),
    Mutant(
        "clock hours count clockwise",
        "text/location_parser.py",
        '    return ParsedAzimuth(azimuth_deg=(360.0 - 30.0 * hour) % 360.0, spread_deg=0.0, style="clock")',
        '    return ParsedAzimuth(azimuth_deg=(30.0 * hour) % 360.0, spread_deg=0.0, style="clock")',
        "text",
    ),
    Mutant(
        "frames are counted by whole hops",
        "features/stft.py",
        "        return num_samples // self.hop_length",
        "        return num_samples // self.hop_length + 1",
        "features latents",
    ),
    Mutant(
        "the DC bin is dropped and no other",
        "features/stft.py",
        "    return spectrum[..., 1:]\n",
        "    return spectrum[..., :-1]\n",
        "features",
    ),
    Mutant(
        "mel bands have unit area",
        "features/mel.py",
        "        return triangles * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]",
        "        return triangles",
        "features",
    ),
    Mutant(
        "latents are scaled when they are encoded",
        "latents/vae.py",
        "        scaled = (mean - self.latent_shift) * self.latent_scale",
        "        scaled = mean - self.latent_shift",
        "latents",
    ),
    Mutant(
        "the parts come apart as they were packed",
        "latents/pairing.py",
        "                parts.append(latents[:, :, :frames, start : start + rows])",
        "                parts.append(latents[:, :, -frames:, start : start + rows])",
        "latents",
    ),
    Mutant(
        "the level difference between the ears has its own loss",
        "latents/losses.py",
        "    error = ((reference[:, 0] - reference[:, 1]) - (estimate[:, 0] - estimate[:, 1])).abs()",
        "    error = ((reference[:, 0] + reference[:, 1]) - (estimate[:, 0] + estimate[:, 1])).abs()",
        "latents training",
    ),
    Mutant(
        "noise is added by the square roots of the schedule",
        "diffusion/objective.py",
        "    return (alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise).to(latents.dtype)",
        "    return (alpha_bar * latents + (1 - alpha_bar) * noise).to(latents.dtype)",
        "diffusion",
    ),
    Mutant(
        "velocity has its sign",
        "diffusion/objective.py",
        "    return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents).to(latents.dtype)",
        "    return (alpha_bar.sqrt() * noise + (1 - alpha_bar).sqrt() * latents).to(latents.dtype)",
        "diffusion",
    ),
    Mutant(
        "guidance leads away from the empty text",
        "diffusion/sampler.py",
        "            prediction = guide(both[:batch], both[batch:], config.guidance_scale)",
        "            prediction = guide(both[batch:], both[:batch], config.guidance_scale)",
        "diffusion",
    ),
    Mutant(
        "the text mask reaches the denoiser",
        "diffusion/sampler.py",
        "            both = denoiser(torch.cat((model_input, model_input)), timesteps, embeds, mask)",
        "            both = denoiser(torch.cat((model_input, model_input)), timesteps, embeds, torch.ones_like(mask))",
        "diffusion test_pipeline.py",
    ),
    Mutant(
        "each clip has the noise of its own seed",
        "diffusion/sampler.py",
        "    clips = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]",
        "    clips = [torch.randn(shape, generator=torch.Generator().manual_seed(seeds[0])) for seed in seeds]",
        "diffusion test_pipeline.py",
    ),
    Mutant(
        "the magnitude comes from the mel branch, the phase from the STFT branch",
        "synthesis/reconstruct.py",
        "        return istft(magnitude * unit_phase(stft), stft_config, num_samples)",
        "        return istft(stft, stft_config, num_samples)",
        "synthesis",
    ),
    Mutant(
        "the time difference is left minus right",
        "hearing/cues.py",
        "        itd_us=_only(itd_s * 1e6, timed),",
        "        itd_us=_only(-itd_s * 1e6, timed),",
        "hearing",
    ),
    Mutant(
        "reference and estimate are not swapped in the divergence",
        "evaluation/distribution_metrics.py",
        "    return float((wanted.exp() * (wanted - found)).sum(dim=1).mean())",
        "    return float((found.exp() * (found - wanted)).sum(dim=1).mean())",
        "evaluation",
    ),
    Mutant(
        "clips at 90 and 270 degrees have no front and back",
        "evaluation/spatial_metrics.py",
        "    return float((mirrored < direct)[off_axis].double().mean())",
        "    return float((mirrored < direct).double().mean())",
        "evaluation",
    ),
    Mutant(
        "a recording lies in one split alone",
        "data/prepare.py",
        "        splits[clip.recording] = max(split, splits.get(clip.recording, split), key=rank.__getitem__)",
        "        splits[clip.recording] = split",
        "data",
    ),
    Mutant(
        "training reads no test clip",
        "training/run.py",
        'bank = load("train", max_clips=max_clips,',
        'bank = load("test", max_clips=max_clips,',
        "training",
    ),
    Mutant(
        "a clip that could not be had weighs nothing",
        "training/trained_phase.py",
        '                loss = (losses * batch["weight"]).sum() * share',
        "                loss = losses.sum() * share",
        "training",
    ),
    Mutant(
        "every process keeps its own rows of a draw",
        "training/task.py",
        "return torch.rand(self.num_rows, generator=self.cpu_generator)[self.rows]",
        "return torch.rand(self.num_rows, generator=self.cpu_generator)[: len(range(self.num_rows)[self.rows])]",
        "training",
    ),
    Mutant(
        "a share of the prompts is dropped, not the rest",
        "diffusion/objective.py",
        '    return ["" if draw < rate else prompt for prompt, draw in zip(prompts, draws.tolist(), strict=True)]',
        '    return [prompt if draw < rate else "" for prompt, draw in zip(prompts, draws.tolist(), strict=True)]',
        "diffusion",
    ),
    Mutant(
        "weights are checked against their hash",
        "training/weights.py",
        "        if sha256_of(path) != expected:",
        "        if False:",
        "training test_pipeline.py",
    ),
)


def survives(mutant: Mutant, work: Path) -> bool:
    """Apply a mutant in the copy, run its tests, take it back; say whether they passed."""
    file = work / "src" / "dualspec" / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} must hold the line once, got {text.count(mutant.old)}: {mutant.old.strip()}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    paths = [f"tests/{name}" for name in mutant.tests.split()]
    environment = os.environ | {"PYTHONPATH": str(work / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *paths], cwd=work, env=environment, capture_output=True, timeout=900, check=False
        )
    finally:
        file.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode} for {mutant.rule}: {done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="?", default="", help="only rules with these words")
    words = parser.parse_args().words
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", "site")
        shutil.copytree(ROOT, work, ignore=ignored)
        for mutant in MUTANTS:
            if words in mutant.rule:
                begin = time.monotonic()
                alive += (survived := survives(mutant, work))
                verdict = "SURVIVED" if survived else "caught"
                print(f"{verdict:8} {time.monotonic() - begin:4.0f} s  {mutant.rule} ({mutant.file})", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())

"""Break rules on purpose and see that the tests notice: `python tests/mutations.py` (`make mutants`).

Each mutant is one replaced line, in a copy of the project; the tests named with it must fail. Not part of the suite: it
takes about half an hour on two cores. Prints one line per mutant and ends with 1 if one survived.
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
        "degrees that were not trained are read as trained ones",
        "text/location_words.py",
        "            return location == self._doa(float(found[1]) % 360.0)",
        "            return True",
        "text/test_location_words.py",
    ),
    Mutant(
        "each style of words has a third of the visits",
        "text/lexicon.py",
        "        tuple(common // count if index * count % num_azimuths == 0 else 0 for count in counts)",
        "        tuple(1 if index * count % num_azimuths == 0 else 0 for count in counts)",
        "text/test_prompts.py training/test_visits.py",
    ),
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
        "    dims = (-2, -1)",
        "    dims = (-1,)",
        "audio",
    ),
    Mutant(
        "convolution keeps its first sample",
        "audio/binaural.py",
        "responses), n=block_size)[..., num_taps - 1 :]",
        "responses), n=block_size)[..., num_taps:]",
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
        "clockwise degrees run clockwise",
        "text/degree_words.py",
        '        return wrap_deg(origin - degrees if side == "clockwise" else origin + degrees)',
        '        return wrap_deg(origin + degrees if side == "clockwise" else origin - degrees)',
        "text/test_misread_words.py",
    ),
    Mutant(
        "a direction in the event is refused beside a location",
        "text/prompts.py",
        "    if found is not None:\n        raise ValueError(",
        "    if found is not None and not found.rest:\n        raise ValueError(",
        "text/test_misread_words.py",
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
        '        scaled = self._onto(mean - self.latent_shift, "basis")',
        '        scaled = self._onto(mean, "basis")',
        "latents",
    ),
    Mutant(
        "principal components keep half their differences",
        "latents/vae.py",
        "            scale = (std * std.mean()).rsqrt()",
        "            scale = std.reciprocal()",
        "latents",
    ),
    Mutant(
        "a linear encoder has the widest components",
        "latents/frame_autoencoder.py",
        "    order = variances.argsort(descending=True)[:count]",
        "    order = variances.argsort()[:count]",
        "latents",
    ),
    Mutant(
        "each clip has its own copies at the speeds",
        "training/task.py",
        "        return clips if num_speeds == 1 else clips * num_speeds + random.integers(num_speeds)",
        "        return clips if num_speeds == 1 else clips + random.integers(num_speeds)",
        "training/test_visits.py",
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
        "timesteps[step].expand(2 * batch), embeds, mask)",
        "timesteps[step].expand(2 * batch), embeds, torch.ones_like(mask))",
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
        "training/weights_folder.py",
        "        if sha256_of(path) != expected:",
        "        if False:",
        "training/test_weights.py test_strange_models.py",
    ),
    Mutant(
        "a path goes the way round that its azimuths say",
        "audio/movement.py",
        "        return np.interp(times_s, times, [point.azimuth_deg for point in self.waypoints])",
        "        return np.interp(times_s, times, [point.azimuth_deg % 360 for point in self.waypoints])",
        "audio/test_movement.py",
    ),
    Mutant(
        "a moving sound has the direction of its moment",
        "audio/movement.py",
        '        hrirs = hrir_set.at(azimuths[rows], method="interpolate").to(waveform.device)',
        '        hrirs = hrir_set.at(azimuths.flip(0)[rows], method="interpolate").to(waveform.device)',
        "audio/test_movement.py",
    ),
    Mutant(
        "a loudness is raised where it is too low",
        "audio/delivery.py",
        "    wanted, most = target_lufs - loudness, CEILING_DBTP - top",
        "    wanted, most = loudness - target_lufs, CEILING_DBTP - top",
        "audio/test_delivery.py",
    ),
    Mutant(
        "a loudness ends at the true peak",
        "audio/delivery.py",
        "    gain = min(wanted, most)",
        "    gain = wanted",
        "audio/test_delivery.py",
    ),
    Mutant(
        "an event of a scene has its level",
        "scenes/stage.py",
        "    return ears * gain, round(20 * math.log10(gain), 3)",
        "    return ears, round(20 * math.log10(gain), 3)",
        "scenes",
    ),
    Mutant(
        "events of a scene are added",
        "scenes/stage.py",
        "        mix[:, start : start + ears.shape[-1]] += ears[:, : mix.shape[-1] - start]",
        "        mix[:, start : start + ears.shape[-1]] = ears[:, : mix.shape[-1] - start]",
        "scenes",
    ),
    Mutant(
        "a folder's own output is no recording",
        "placing.py",
        "                if output.resolve() in path.resolve().parents:",
        "                if output.resolve() == path.resolve():",
        "test_placing.py",
    ),
    Mutant(
        "the queue is bounded",
        "web/jobs.py",
        "            if self.waiting >= self._settings.queue_size:",
        "            if False:",
        "web/test_service.py",
    ),
    Mutant(
        "a job has a deadline",
        "web/jobs.py",
        "            if time.monotonic() > deadline:",
        "            if False:",
        "web/test_service.py",
    ),
    Mutant(
        "a cancelled job ends",
        "web/jobs.py",
        "            if task.stop is not None:",
        "            if False:",
        "web/test_service.py",
    ),
    Mutant(
        "the token is compared",
        "web/guard.py",
        '            if not hmac.compare_digest(sent, f"Bearer {self._settings.token}".encode()):',
        "            if not sent:",
        "web/test_service.py",
    ),
    Mutant(
        "a foreign host is refused",
        "web/guard.py",
        "        if not self._settings.allows_host(host):",
        "        if False:",
        "web/test_service.py",
    ),
    Mutant(
        "another site's page is refused",
        "web/guard.py",
        '        if "origin" in headers and not self._is_own_page(headers["origin"], host):',
        "        if False:",
        "web/test_service.py",
    ),
    Mutant(
        "a body that never says its size is limited",
        "web/guard.py",
        "        if count > limit:",
        "        if False:",
        "web/test_service.py",
    ),
    Mutant(
        "the engine's solver ends with a step of first order",
        "engine/solver.py",
        "        if former is not None and step < steps - 1:",
        "        if former is not None and step < steps:",
        "engine",
    ),
    Mutant(
        "the engine's guidance leads away from the empty text",
        "engine/pipeline.py",
        "            return scale * predicted[:batch] + (1 - scale) * predicted[batch:] if guided else predicted",
        "            return scale * predicted[batch:] + (1 - scale) * predicted[:batch] if guided else predicted",
        "engine",
    ),
    Mutant(
        "the engine's denoiser gets the text mask",
        "engine/pipeline.py",
        '                "prompt_mask": mask[rows],',
        '                "prompt_mask": np.ones_like(mask[rows]),',
        "engine",
    ),
    Mutant(
        "the engine's clips have the noise of their own seeds",
        "engine/pipeline.py",
        "        noise = np.stack([normal_noise(self._shape, seed) for seed in seeds])",
        "        noise = np.stack([normal_noise(self._shape, seeds[0]) for seed in seeds])",
        "engine",
    ),
    Mutant(
        "the level difference is left minus right",
        "hearing/cues.py",
        "        ild_db=_only(10.0 * (power[:, LEFT] / power[:, RIGHT]).log10(), audible),",
        "        ild_db=_only(10.0 * (power[:, RIGHT] / power[:, LEFT]).log10(), audible),",
        "hearing",
    ),
    Mutant(
        "the mean direction is counter-clockwise",
        "hearing/localizer.py",
        "        expectation_deg=torch.where(torch.hypot(east, north) > 1e-6, mean_deg, azimuth_deg),",
        "        expectation_deg=torch.where(torch.hypot(east, north) > 1e-6, -mean_deg % 360, azimuth_deg),",
        "hearing",
    ),
    Mutant(
        "a covariance is over the clips",
        "evaluation/distribution_metrics.py",
        "((values - values.mean(dim=0)) / (len(values) - 1) ** 0.5 for values",
        "(values / (len(values) - 1) ** 0.5 for values",
        "evaluation",
    ),
    Mutant(
        "the inception score is against the mean over clips",
        "evaluation/distribution_metrics.py",
        "    marginal = log_p.exp().mean(dim=0).log().clamp(min=torch.finfo(log_p.dtype).min)",
        "    marginal = log_p.exp().mean(dim=1, keepdim=True).log().clamp(min=torch.finfo(log_p.dtype).min)",
        "evaluation",
    ),
    Mutant(
        "a report's mean is of both ears",
        "evaluation/quality.py",
        "rounded((left[name] + right[name]) / 2) for name",
        "rounded(left[name]) for name",
        "evaluation",
    ),
    Mutant(
        "a probe that cannot decide recognises nothing",
        "evaluation/probe.py",
        "(scores >= scores.gather(1, at[:, None])).sum(1)",
        "(scores > scores.gather(1, at[:, None])).sum(1) + 1",
        "evaluation",
    ),
    Mutant(
        "the mean of both ears is recognised",
        "evaluation/quality.py",
        "list(_ears(view).values())].mean(1)",
        "0]",
        "evaluation",
    ),
    Mutant(
        "a patch that is heard is not outvoted by silent ones",
        "evaluation/yamnet.py",
        "return embeddings.mean(1), yes - no",
        "return embeddings.mean(1), scores.mean(1)",
        "evaluation",
    ),
    Mutant(
        "a clip of the same recording is no neighbour",
        "evaluation/copying.py",
        '        apart[source_ids[rows][:, None] == source_ids[rows]] = float("inf")',
        '        apart.fill_diagonal_(float("inf"))',
        "evaluation",
    ),
    Mutant(
        "kept latents are those of the clip",
        "training/latent_bank.py",
        "        pairs = copies * self.num_directions + directions",
        "        pairs = copies.flip(0) * self.num_directions + directions",
        "training/test_latent_bank.py",
    ),
    Mutant(
        "a split holds its own clips alone",
        "data/datasets.py",
        "    chosen = [row for row in rows if row.split == split]",
        '    chosen = [row for row in rows if row.split != "valid"]',
        "data training/test_latent_bank.py",
    ),
    Mutant(
        "a recording is not replaced by its rendering",
        "placing.py",
        "            and ((status := wanted.target.stat()).st_dev, status.st_ino) in sources",
        "            and wanted.target.is_symlink()",
        "test_clumsy_hands.py",
    ),
    Mutant(
        "a file that is no record is not replaced by one",
        "prompt_lists.py",
        '        if found is not None and not (isinstance(found, dict) and {"num_samples", "sha256"} <= found.keys()):',
        "        if found is not None and not isinstance(found, dict):",
        "test_clumsy_hands.py",
    ),
    Mutant(
        "two do not prepare one folder",
        "files.py",
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "test_clumsy_hands.py",
    ),
    Mutant(
        "a head that does not come is given up",
        "web/serving.py",
        "        self._wait(self.head_s, self._close, None)",
        "        self._timer = None",
        "web/test_service.py",
    ),
    Mutant(
        "an answer that is not taken is given up",
        "web/serving.py",
        "            self._wait(self.answer_s, self.transport.abort)",
        "            pass",
        "web/test_service.py",
    ),
    Mutant(
        "long scenes count as many clips",
        "web/jobs.py",
        "    return max(1, sum(math.ceil(length_s / CLIP_S) for length_s in seconds))",
        "    return max(1, len([*seconds]))",
        "web/test_scenes.py",
    ),
    Mutant(
        "an old denoiser goes with no new VAE",
        "cli/build.py",
        "        return vae and (stage.share > 0 or self.weights(",
        "        return vae and (stage.share < 0 or self.weights(",
        "test_build.py",
    ),
    Mutant(
        "a raised limit gives a stopped stage its part",
        "stages.py",
        "        if self.stage != ahead[0].name or 0 < self.max_minutes < max_minutes:",
        "        if self.stage != ahead[0].name:",
        "test_build.py",
    ),
    Mutant(
        "a kit goes to a new folder",
        "cli/pack.py",
        "        check_new(output)",
        "        pass",
        "test_build.py",
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

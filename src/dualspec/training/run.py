"""From a recipe and a prepared corpus to trained weights: what `dualspec train` does."""

import contextlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualspec.audio.hrir import HrirSet
from dualspec.config import load_json, save_json, to_dict
from dualspec.data.datasets import load_clips
from dualspec.data.selection import read_pairs
from dualspec.diffusion.variant import VariantConfig
from dualspec.files import read_json, saying_what_is_free, write_text_atomic
from dualspec.latents.frame_autoencoder import FrameAutoencoderConfig
from dualspec.latents.vae import SpectrogramVae, VaeConfig
from dualspec.text.encoder import build_text_encoder
from dualspec.training.checkpoint import list_checkpoints
from dualspec.training.diffusion_task import DiffusionTask, DiffusionTaskConfig
from dualspec.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from dualspec.training.loop import LoopConfig, RunState, Trainer
from dualspec.training.processes import Processes
from dualspec.training.run_lock import LOG_NAME, end_of_log, holds_run, run_lock
from dualspec.training.task import BinauralSource, Task
from dualspec.training.vae_task import VaeTask, VaeTaskConfig
from dualspec.training.vocoder_task import VocoderTask, VocoderTaskConfig
from dualspec.training.weights import (
    load_module,
    load_strictly,
    read_config,
    read_notes,
    read_state,
    remove_leftovers,
)
from dualspec.training.weights_folder import HEADS_NAME

ORIGIN_NAME = "origin.json"
"""Notes of imported weights that a run started from; they and their licence go on into what it exports."""
MAX_DAMAGED = 0.01
"""Share of the training clips that may have been damaged since they were prepared: they are weighed out."""
TaskConfig = VaeTaskConfig | VocoderTaskConfig | DiffusionTaskConfig | LocalizerTaskConfig


def build_task(
    config: TaskConfig,
    manifest_dir: Path,
    heads: HrirSet | Sequence[HrirSet],
    *,
    device: str,
    num_bank_samples: int,
    vae_folders: dict[str, Path],
    max_clips: int | None = None,
    pairs: Path | None = None,
    held_out: float = LoopConfig.held_out,
    latents_folder: Path | None = None,
) -> Task:
    """Load the clips and build the task of a recipe.

    Args:
        config: the recipe's task.
        manifest_dir: what `dualspec prepare` wrote.
        heads: the head, or several from which one is drawn per clip, at 16 kHz.
        device: where clips and models live.
        num_bank_samples: samples kept of each clip.
        vae_folders: weights folders of the VAEs that the task needs, by part name.
        max_clips: keep only so many training clips.
        pairs: list of the clips and their directions (`dualspec prepare --select`); without it every clip is taken, and
            its direction drawn at each visit.
        held_out: share of the training recordings that validates; 0: the test split does.
        latents_folder: where kept latents outlive the process (diffusion only); in memory alone if None.

    Raises:
        FileNotFoundError: a VAE that the task needs has not been trained.
    """
    bank_samples = max(num_bank_samples, config.render.longest_part)
    load = partial(load_clips, manifest_dir, num_samples=bank_samples, device=device, held_out=held_out)
    chosen = None if pairs is None else read_pairs(pairs)
    only = None if chosen is None else {pair.clip for pair in chosen}
    bank = load("train", max_clips=max_clips, only=only, max_damaged=MAX_DAMAGED)
    if bank.damaged:
        warnings.warn(
            f"{len(bank.damaged)} of {len(bank)} training clips are not as prepared and count for nothing: "
            f"{', '.join(bank.damaged[:5])}{', …' if len(bank.damaged) > 5 else ''}; prepare the corpus again",
            stacklevel=2,
        )
    if chosen is not None:  # what validates is not trained on
        kept = set(bank.ids)
        chosen = [pair for pair in chosen if pair.clip in kept]
    source = BinauralSource(bank, heads, config.render, chosen)
    plain = replace(config.render, random_crop=False, max_shift_s=0.0, gain_range_db=0.0, speeds=(1.0,), repeats={})
    judged = BinauralSource(load("valid" if held_out else "test", max_clips=256), heads, plain)
    if isinstance(config, VaeTaskConfig):
        return VaeTask(config, source, judged)
    if isinstance(config, LocalizerTaskConfig):
        return LocalizerTask(config, source, judged)
    vaes = {}
    for part in needed_vaes(config):
        if part not in vae_folders:
            name = config.variant.variant if isinstance(config, DiffusionTaskConfig) else "the vocoder"
            raise FileNotFoundError(f"no weights of {part}, which {name} needs: train it first, or name its folder")
        vaes[part], _ = load_module(vae_folders[part], {"VaeConfig": VaeConfig}, SpectrogramVae)
    if isinstance(config, VocoderTaskConfig):
        return VocoderTask(config, source, judged, vaes.get("mel_vae"))
    text_encoder = build_text_encoder(config.variant.text_encoder, device)
    return DiffusionTask(config, source, judged, vaes, text_encoder, latents_folder)


def needed_vaes(config: TaskConfig) -> tuple[str, ...]:
    """Return the names of the trained VAEs that a task reads."""
    if isinstance(config, DiffusionTaskConfig):
        return config.variant.parts
    return ("mel_vae",) if isinstance(config, VocoderTaskConfig) and config.signal == "decoded_mid" else ()


def warm_start(task: Task, folder: Path) -> bool:
    """Start from exported weights: the first phase's model takes them; moments and averages start afresh.

    Returns:
        Whether the latents are scaled in another way than the weights', which is then measured.
    """
    phase = next(iter(task.phases.values()))
    _check_same_meaning(task, folder)
    state = read_state(folder)
    (prefix,) = {name.split(".", 1)[0] for name, _ in phase.named_parameters()}
    module = phase.get_submodule(prefix)
    if not isinstance(task, VaeTask) or read_config(folder, {"VaeConfig": VaeConfig}) == task.config.vae:
        load_strictly(module, state, folder)
        return False
    own = {name: value for name, value in module.state_dict().items() if name.startswith("latent_")}
    load_strictly(module, {n: v for n, v in state.items() if not n.startswith("latent_")} | own, folder)
    task.measure_latent_scale()
    return True


def _check_same_meaning(task: Task, folder: Path) -> None:
    """Refuse weights that fit in shape but were trained to read or to predict something else."""
    if isinstance(task, VaeTask):
        stored = read_config(folder, {"VaeConfig": VaeConfig})
        asked = task.config.vae
        if replace(stored, latent_scaling=asked.latent_scaling, principal_channels=asked.principal_channels) != asked:
            raise ValueError(f"weights to start from must be of the same VAE settings, got others in {folder}")
    if isinstance(task, VocoderTask):
        kind = type(task.config.vocoder)
        if read_config(folder, {kind.__name__: kind}) != task.config.vocoder:
            raise ValueError(f"weights to start from must be of the same vocoder settings, got others in {folder}")
    if isinstance(task, DiffusionTask):
        stored = read_config(folder, {"VariantConfig": VariantConfig})
        if stored.schedule != task.config.variant.schedule:
            raise ValueError(
                f"weights to start from must have the noise schedule and target of the recipe, got others in {folder}; "
                "set task.variant.schedule alike"
            )


def with_stored_schedule(config: TaskConfig, folder: Path, init: Path | None) -> TaskConfig:
    """Return a diffusion task with the target and noise schedule of the weights or of the run that it goes on from.

    Args:
        config: of any task; others than diffusion stay as they are.
        folder: run folder, whose settings count where `init` is None.
        init: exported weights to start from.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: they are no denoiser's.
    """
    if not isinstance(config, DiffusionTaskConfig):
        return config
    if init is not None:
        stored: VariantConfig = read_config(init, {"VariantConfig": VariantConfig})
    elif (folder / "task.json").is_file():
        stored = load_json(DiffusionTaskConfig, folder / "task.json", require_all=False).variant
    else:
        return config
    return replace(config, variant=replace(config.variant, schedule=stored.schedule))


def train(
    config: TaskConfig,
    loop: LoopConfig,
    folder: Path,
    *,
    make_task: Callable[[Processes], Task],
    processes: Processes,
    resume: bool = False,
    init: Path | None = None,
    heads: Sequence[dict[str, Any]] = (),
    export_dtype: torch.dtype = torch.float32,
    snapshot: bool = False,
    report: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> RunState:
    """Train a task in a run folder and export its averaged weights.

    Args:
        config: the task's settings, kept in the folder as `task.json`.
        loop: length, batch, precision, kept as `loop.json`.
        folder: run folder; must hold no run unless `resume`.
        make_task: builds the task for this process.
        processes: this process among all.
        resume: continue from the newest checkpoint.
        init: start from these exported weights.
        heads: what the run and its weights say of the heads that directions are rendered with.
        export_dtype: of the exported weights.
        snapshot: where a signal ends the run after a step, export the weights as they are to `snapshot/`.
        report: gets a line of text per log entry.
        on_progress: gets the fraction of the run that is done, after every step.

    Returns:
        The final state; `stop_signal` is set when a signal ended the run; no `weights/` are exported then.

    Raises:
        ValueError: the folder holds a run already, its settings differ, or a decoder has no encoder to go with.
        BlockingIOError: another process trains in the folder.
    """
    with saying_what_is_free(folder), run_lock(folder) if processes.is_main else contextlib.nullcontext():
        _check_folder(config, folder, resume)
        anew = init is None and not (resume and list_checkpoints(folder / "checkpoints"))
        if anew and _needs_encoder(config):
            raise ValueError("init must be given with decoder_only, got none; name the weights whose encoder stays")
        torch.manual_seed(loop.seed)
        task = make_task(processes)
        if init is not None and warm_start(task, init):
            report(f"the latents of {init} are turned: denoisers that were trained on them as they were do not fit")
        elif anew and isinstance(task, VaeTask):
            task.start_from_clips()
        _keep_settings(config, loop, folder, processes, init, heads)
        trainer = Trainer(task, loop, folder, processes, report, on_progress)
        if resume:
            done = trainer.resume()
            if done and processes.is_main:
                report(f"resumed at step {done}")
        state = trainer.run()
        if state.stop_signal is None or (snapshot and state.step):
            origin = folder / ORIGIN_NAME
            name = "weights" if state.stop_signal is None else "snapshot"
            notes = {"heads": [{"name": head["name"], "sha256": head["sha256"]} for head in heads]} if heads else {}
            trainer.export(name, dtype=export_dtype, notes=notes | (read_json(origin) if origin.is_file() else {}))
    return state


def _needs_encoder(config: TaskConfig) -> bool:
    """Tell whether a decoder alone is to be trained, and no encoder can be had from the clips."""
    if not isinstance(config, VaeTaskConfig) or not config.decoder_only:
        return False
    network = config.vae.autoencoder
    return not (isinstance(network, FrameAutoencoderConfig) and network.linear)


def _check_folder(config: TaskConfig, folder: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to go on with another recipe; what failed before its first checkpoint is no run."""
    if not holds_run(folder):
        return
    if not resume:
        raise ValueError(f"run folder must be new, got {folder}, which holds a run; add --resume or choose another")
    if not list_checkpoints(folder / "checkpoints"):
        raise ValueError(
            f"run folder must hold a checkpoint, got {folder}, which has weights alone; --init takes those"
        )
    task_path = folder / "task.json"
    if task_path.exists() and _stored(task_path, type(config)) != to_dict(config):
        raise ValueError(
            f"the recipe must be that of the run in {folder}, got other settings; resume with the same ones"
        )


def _keep_settings(
    config: TaskConfig,
    loop: LoopConfig,
    folder: Path,
    processes: Processes,
    init: Path | None,
    heads: Sequence[dict[str, Any]],
) -> None:
    processes.barrier()  # nobody writes before all have looked, nor before the task could be built
    if processes.is_main:
        remove_leftovers(folder)
        remove_leftovers(folder / "checkpoints")
        if not holds_run(folder):
            end_of_log(folder)
            (folder / LOG_NAME).unlink(missing_ok=True)  # of an attempt that left no checkpoint
        save_json(config, folder / "task.json")
        save_json(loop, folder / "loop.json")
        if heads:
            write_text_atomic(folder / HEADS_NAME, json.dumps(list(heads), indent=2) + "\n")
        if init is not None and "imported" in (notes := read_notes(init)):
            write_text_atomic(folder / ORIGIN_NAME, json.dumps({"imported": notes["imported"]}, indent=2) + "\n")
    processes.barrier()


def _stored(path: Path, cls: type) -> dict[str, Any]:
    """Read a run's task; what settings an older version did not have, it did as their defaults say."""
    return to_dict(load_json(cls, path, require_all=False))

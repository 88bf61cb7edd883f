"""`dualspec train`: a data set to weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import STOPPED, note, refuse, usage

if TYPE_CHECKING:
    import torch

    from dualspec.audio.hrir import HrirSet
    from dualspec.recipes import Recipe
    from dualspec.training.loop import RunState
    from dualspec.training.processes import Processes


def train(
    recipe: Annotated[str, typer.Argument(help="Such as mini/stft_vae; `dualspec show` lists them.")],
    data: Annotated[
        Path, typer.Option(help="What `dualspec prepare` wrote, or clips of your own in folders named by their label.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; this one goes to RUNS/RECIPE.")] = Path("runs"),
    vae: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=FOLDER", help="Weights of a VAE.  [default: RUNS/SIZE/PART/weights]"),
    ] = None,
    hrir: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD", help="Head: SOFA file or the word analytic; repeatable.  [default: analytic, a sphere]"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as task.optimizer.lr=1e-4; repeatable.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="End, and let the learning rate end, after this time; 0 is never.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from these exported weights, or from the parts of a whole model; default: embedded."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.  [default: the GPU, if any]")] = None,
    export: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of the exported weights.")] = "fp32",
    max_clips: Annotated[int | None, typer.Option(min=1, help="Use only so many clips.  [default: all]")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Train on these clips at these azimuths (`prepare --select`).  [default: azimuths are drawn]"
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeatable to the bit on a GPU too, and slower.")
    ] = False,
) -> None:
    """Train one part; its weights appear in RUNS/RECIPE/weights when it is done.

    Stopped by Ctrl-C, SIGTERM or SIGUSR1 it saves its state first, and --resume goes on from there. Several processes:
    torchrun --nproc-per-node N -m dualspec train ...
    """
    if pairs is not None and max_clips is not None:
        refuse("--pairs must not come with --max-clips, got both; the list says which clips are used")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with usage():
        chosen = resolve_recipe(recipe, settings or (), max_minutes)
    folder = runs / chosen.name
    from dualspec.cli.prepare import ready_corpus
    from dualspec.training.run_lock import holds_run

    if holds_run(folder) and not resume:
        refuse(f"run folder must be new, got {folder}, which holds a run; add --resume or take other --runs")
    init, parts = (None, {}) if init is None else _starting_weights(init, chosen, hrir or ())
    vae_folders = _vae_folders(chosen, runs, vae or (), parts)
    data = ready_corpus(data, runs)
    import torch

    from dualspec.training.processes import Processes

    chosen = going_on(chosen, folder, init, settings or ())
    torch.use_deterministic_algorithms(deterministic)
    with usage():
        processes = Processes.join(device)
    try:
        state = run_recipe(
            chosen,
            folder,
            processes,
            data=data,
            heads=read_heads(hrir or ()),
            vae_folders=vae_folders,
            max_clips=max_clips,
            pairs=pairs,
            resume=resume,
            init=init,
            export_dtype=torch.float16 if export == "fp16" else torch.float32,
        )
    finally:
        processes.leave()
    say_how_it_ended(state, "--resume goes on", processes, f"{folder / 'weights'}: done")


def say_how_it_ended(state: RunState | None, how: str, processes: Processes, done: str = "") -> None:
    """End the command with the code of the signal that stopped the last training, if any, and say how to go on."""
    if state is not None and state.stop_signal is not None:
        if processes.is_main:
            saved = "the state is saved" if state.step else "no step was made"
            note(f"stopped by {signal.Signals(state.stop_signal).name}; {saved}, {how}")
        raise typer.Exit(STOPPED if state.stop_signal == signal.SIGUSR1 else 128 + state.stop_signal)
    if done and processes.is_main:
        print(done)


def going_on(recipe: Recipe, folder: Path, init: Path | None, settings: Sequence[str]) -> Recipe:
    """Take target and noise schedule from what the training goes on from, unless they are set by hand."""
    from dataclasses import replace

    from dualspec.training.run import with_stored_schedule

    if any(setting.strip().startswith("task.variant.schedule") for setting in settings):
        return recipe
    task = with_stored_schedule(recipe.task, folder, init)
    if task != recipe.task:
        note(f"task.variant.schedule is that of {init or folder}, not of the recipe")
    return replace(recipe, task=task)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    *,
    data: Path,
    heads: list[HrirSet],
    vae_folders: dict[str, Path],
    max_clips: int | None = None,
    pairs: Path | None = None,
    resume: bool,
    init: Path | None,
    export_dtype: torch.dtype,
    snapshot: bool = False,
) -> RunState:
    """Run the training with a bar on a terminal; return its last state."""
    from dualspec.training.run import build_task
    from dualspec.training.run import train as run_training

    with progress_bar(recipe.name, 1.0, as_share=True, hidden=not processes.is_main) as show:
        return run_training(
            recipe.task,
            recipe.loop,
            folder,
            make_task=lambda own: build_task(
                recipe.task,
                data,
                heads,
                device=own.device,
                num_bank_samples=recipe.num_bank_samples,
                vae_folders=vae_folders,
                max_clips=max_clips,
                pairs=pairs,
                held_out=recipe.loop.held_out,
                latents_folder=folder / "latents",
            ),
            processes=processes,
            resume=resume,
            init=init,
            export_dtype=export_dtype,
            snapshot=snapshot,
            report=lambda line: print(line, flush=True),
            on_progress=show,
        )


def resolve_recipe(name: str, settings: Sequence[str], max_minutes: float | None = None) -> Recipe:
    """Return a recipe with some fields set."""
    from dualspec.config import override
    from dualspec.recipes import get_recipe

    changes = [*settings, *([f"loop.max_minutes={max_minutes!r}"] if max_minutes is not None else [])]
    if any(change.partition("=")[0].strip() == "name" for change in changes):
        raise ValueError("name must stay that of the recipe, got another by --set; choose the folder by --runs")
    return override(get_recipe(name), changes)


def _starting_weights(init: Path, recipe: Recipe, heads: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    """Return the weights to start from and, where `init` is a whole model, the folders of its parts."""
    from dualspec.model_folder import HEAD_NAME, INDEX_NAME, embedded_bundle, read_index

    model = embedded_bundle() if str(init) == "default" else init
    if not (model / INDEX_NAME).is_file():
        return init, {}
    parts = {part: model / part for part in read_index(model)}
    part = "denoiser" if recipe.task.kind == "diffusion" else recipe.name.split("/")[1]
    if part not in parts:
        refuse(f"--init must have the part that {recipe.name} trains, got {', '.join(parts)}; name another model")
    if (model / HEAD_NAME).is_file():
        from dualspec.config import load_json
        from dualspec.files import sha256_of
        from dualspec.hearing.proof import HeadCues

        own = load_json(HeadCues, model / HEAD_NAME)
        if own.sha256 not in {sha256_of(Path(name)) for name in heads if name != "analytic"}:
            note(
                f"note: {model.name} was trained with the head {own.name!r} ({own.licence}), this run renders with "
                f"{', '.join(heads) or 'a computed sphere'}; --hrir takes the file of a head"
            )
    return parts[part], parts


def _vae_folders(
    recipe: Recipe, runs: Path, named: Sequence[str], of_model: dict[str, Path] | None = None
) -> dict[str, Path]:
    """Return the folder of every VAE that a variant needs: the one named, that of a model, that of an earlier run."""
    from dualspec.recipes import vae_recipe_name
    from dualspec.training.run import needed_vaes

    parts = needed_vaes(recipe.task)
    folders = {part: runs / vae_recipe_name(recipe.name, part) / "weights" for part in parts}
    folders |= {part: folder for part, folder in (of_model or {}).items() if part in folders}
    for part, folder in read_pairs("--vae", named):
        if part not in folders:
            refuse(f"--vae must name one of {', '.join(parts) or 'no parts'}, got {part!r}; {recipe.name} has no other")
        folders[part] = Path(folder)
    return folders


def read_pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read NAME=VALUE texts."""
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            refuse(f"{option} must be written as NAME=FOLDER, got {text!r}; correct it")
        pairs.append((name.strip(), value))
    return pairs


def read_heads(names: Sequence[str]) -> list[HrirSet]:
    """Read heads at 16 kHz: SOFA files, or "analytic" for the computed sphere, which is also the default."""
    return [head_at(None if name == "analytic" else Path(name), 16_000) for name in names or ("analytic",)]


def head_at(sofa: Path | None, sample_rate: int) -> HrirSet:
    """Read a head at a sample rate; the computed sphere where no file is named."""
    from dualspec.audio.hrir import load_sofa, spherical_head

    return spherical_head(sample_rate=sample_rate) if sofa is None else load_sofa(sofa, sample_rate=sample_rate)

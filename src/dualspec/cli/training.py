"""`dualspec train`: a data set to weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import STOPPED, note, refuse, usage

if TYPE_CHECKING:
    import torch

    from dualspec.audio.hrir import HrirSet
    from dualspec.recipes import Recipe
    from dualspec.training.loop import RunState
    from dualspec.training.processes import Processes


HeadsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HEAD",
        help="Head: SOFA file, fabian or analytic (a sphere); repeatable.  [default: that of --init, or analytic]",
    ),
]


def train(
    recipe: Annotated[str, typer.Argument(help="Such as mini/stft_vae; `dualspec show` lists them.")],
    data: Annotated[
        Path, typer.Option(help="What `dualspec prepare` wrote, or clips of your own in folders named by their label.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; this one goes to RUNS/RECIPE.")] = Path("runs"),
    vae: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=FOLDER", help="Weights of a VAE, or a model; default: embedded.  [default: of --init or RUNS]"
        ),
    ] = None,
    hrir: HeadsOption = None,
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
    hrir = heads_to_train_with(hrir or (), init, folder if resume else None)
    init, parts = (None, {}) if init is None else _starting_weights(init, chosen)
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
            heads=hrir,
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
    heads: Sequence[str],
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

    sets, facts = read_heads(heads), [head_facts(name) for name in heads or ("analytic",)]
    with progress_bar(recipe.name, 1.0, as_share=True, hidden=not processes.is_main) as show:
        return run_training(
            recipe.task,
            recipe.loop,
            folder,
            make_task=lambda own: build_task(
                recipe.task,
                data,
                sets,
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
            heads=facts,
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


def _starting_weights(init: Path, recipe: Recipe) -> tuple[Path, dict[str, Path]]:
    """Return the weights to start from and, where `init` is a whole model, the folders of its parts."""
    from dualspec.bundle import INDEX_NAME, read_index
    from dualspec.cli.models import base_folder

    model = base_folder(init)
    if not (model / INDEX_NAME).is_file():
        return init, {}
    parts = {part: model / part for part in read_index(model)}
    part = "denoiser" if recipe.task.kind == "diffusion" else recipe.name.split("/")[1]
    if part not in parts:
        refuse(f"--init must have the part that {recipe.name} trains, got {', '.join(parts)}; name another model")
    return parts[part], parts


def heads_to_train_with(said: Sequence[str], init: Path | None, run: Path | None = None) -> list[str]:
    """Return the heads that a training renders with: those of the command, else of the run or of what it starts from.

    A head of what it starts from is taken where it is embedded here; where it is not, a line says so.

    Args:
        said: heads of the command.
        init: model or weights to start from.
        run: folder of the run that goes on.
    """
    from dualspec.bundle import HEADS
    from dualspec.cli.models import base_folder

    if run is not None and (known := known_heads(run)):
        before, now = [head["sha256"] for head in known], [head_facts(name)["sha256"] for name in said]
        if said and now != before:
            refuse(
                f"--hrir must be that of the run, got others than {', '.join(h['name'] for h in known)}; leave it out"
            )
        return list(said) or [head["given"] for head in known]
    origin = base_folder(init) if init is not None else None
    known = known_heads(origin) if origin is not None else []
    if origin is None or not known or (trained := known[0])["sha256"] is None:
        return list(said)
    own = [name for name, source in HEADS.items() if trained["sha256"] in (source, head_facts(name)["sha256"])]
    if not said and own and len(known) == 1:
        note(
            f"note: directions are rendered with the head {own[0]!r}, as {origin.name} was trained; --hrir takes others"
        )
        return own
    if trained["sha256"] not in [sha for name in said for sha in (head_facts(name)["sha256"], HEADS.get(name))]:
        note(
            f"note: {origin.name} was trained with the head {trained['name']!r}, this run renders with "
            f"{', '.join(said) or 'a computed sphere'}; --hrir takes the file of a head"
        )
    return list(said)


def known_heads(folder: Path) -> list[dict[str, Any]]:
    """Return what a model, its weights or its run say of the heads that directions were rendered with."""
    from dualspec.bundle import read_head
    from dualspec.files import read_json
    from dualspec.training.weights_folder import CONFIG_NAME, HEADS_NAME, read_notes

    if (folder / HEADS_NAME).is_file():
        return read_json(folder / HEADS_NAME)
    if (head := read_head(folder)) is not None:
        return [{"name": head.name, "sha256": head.sha256}]
    return read_notes(folder).get("heads", []) if (folder / CONFIG_NAME).is_file() else []


def head_facts(given: str) -> dict[str, Any]:
    """Return what a run says of a head: how it was named, its name, and the SHA-256 of its file, if it has one."""
    from dualspec.bundle import head_file
    from dualspec.files import sha256_of

    if given == "analytic":
        return {"given": given, "name": "spherical_head", "sha256": None}
    return {"given": given, "name": head_file(given).stem, "sha256": sha256_of(head_file(given))}


def _vae_folders(
    recipe: Recipe, runs: Path, named: Sequence[str], of_model: dict[str, Path] | None = None
) -> dict[str, Path]:
    """Return the folder of every VAE that a variant needs: the one named, that of a model, that of an earlier run."""
    from dualspec.bundle import part_folder
    from dualspec.recipes import vae_recipe_name
    from dualspec.training.run import needed_vaes

    parts = needed_vaes(recipe.task)
    folders = {part: runs / vae_recipe_name(recipe.name, part) / "weights" for part in parts}
    folders |= {part: folder for part, folder in (of_model or {}).items() if part in folders}
    for part, folder in read_pairs("--vae", named):
        if part not in folders:
            refuse(f"--vae must name one of {', '.join(parts) or 'no parts'}, got {part!r}; {recipe.name} has no other")
        folders[part] = part_folder(part, folder)
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
    """Read heads at 16 kHz: SOFA files, embedded ones by name, "analytic" for the computed sphere, also the default."""
    return [head_at(None if name == "analytic" else Path(name), 16_000) for name in names or ("analytic",)]


def head_at(sofa: Path | None, sample_rate: int) -> HrirSet:
    """Read a head at a sample rate; the computed sphere where no file is named."""
    from dualspec.audio.hrir import load_sofa, spherical_head
    from dualspec.bundle import head_file

    if sofa is None:
        return spherical_head(sample_rate=sample_rate)
    return load_sofa(head_file(sofa), sample_rate=sample_rate)

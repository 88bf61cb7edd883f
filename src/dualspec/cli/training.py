"""`dualspec prepare` and `dualspec train`: recordings to a data set, a data set to weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import print_table, progress_bar
from dualspec.cli.door import STOPPED, note, refuse, usage

if TYPE_CHECKING:
    import torch

    from dualspec.audio.hrir import HrirSet
    from dualspec.data.prepare import PrepareSummary
    from dualspec.recipes import Recipe
    from dualspec.training.processes import Processes

_CORPORA = "arca23k, urbansound8k, esc50, esc10, fsd50k, berklee or folder"


def prepare(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for manifest, rejects, summary and shards.")],
    corpus: Annotated[
        list[str], typer.Option(metavar="NAME=ROOT", help=f"Corpus in its original layout: {_CORPORA}; repeatable.")
    ],
    licence: Annotated[Literal["open", "all"], typer.Option(help="open keeps CC0 and CC-BY recordings only.")] = "all",
    sample_rate: Annotated[int, typer.Option(help="Hz.")] = 16_000,
    min_seconds: Annotated[float, typer.Option(help="Shorter clips are left out.")] = 1.0,
    max_clip_seconds: Annotated[
        float | None, typer.Option(help="Longer clips are cut to their beginning.  [default: kept whole]")
    ] = None,
    max_bad_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of damaged clips that is accepted.")
    ] = 0.01,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    render_to: Annotated[
        Path | None, typer.Option(help="Also write twelve stereo files per clip here, as the paper did.")
    ] = None,
    hrir: Annotated[
        Path | None, typer.Option(help="Head for --render-to (SOFA file).  [default: a computed sphere]")
    ] = None,
) -> None:
    """Turn corpora into a data set: filter, resample, split by source recording.

    Call it again after an interruption: what is done is kept.
    """
    if hrir is not None and render_to is None:
        refuse("--hrir must come with --render-to, got it alone; training takes its own --hrir")
    from dualspec.data.corpora import READERS, CorpusSpec
    from dualspec.data.prepare import prepare as prepare_corpora

    specs = []
    for name, root in read_pairs("--corpus", corpus):
        if name not in READERS:
            refuse(f"--corpus must be one of {', '.join(READERS)}, got {name!r}; use folder for your own clips")
        specs.append(CorpusSpec(name=name, root=Path(root)))
    summary = prepare_corpora(
        specs,
        output,
        sample_rate=sample_rate,
        min_seconds=min_seconds,
        licence=licence,
        max_clip_seconds=max_clip_seconds,
        workers=workers,
        render_to=render_to,
        hrir_set=_head(hrir, sample_rate) if render_to is not None else None,
        max_bad_fraction=max_bad_fraction,
    )
    _print_summary(summary, output)


def train(
    recipe: Annotated[str, typer.Argument(help="Such as mini/stft_vae; `dualspec show` lists them.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote.")],
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
    init: Annotated[Path | None, typer.Option(help="Start from these exported weights.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.  [default: the GPU, if any]")] = None,
    export: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of the exported weights.")] = "fp32",
    max_clips: Annotated[int | None, typer.Option(min=1, help="Use only so many clips.  [default: all]")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeatable to the bit on a GPU too, and slower.")
    ] = False,
) -> None:
    """Train one part; its weights appear in RUNS/RECIPE/weights when it is done.

    Stopped by Ctrl-C, SIGTERM or SIGUSR1 it saves its state first, and --resume goes on from there. Several processes:
    torchrun --nproc-per-node N -m dualspec train ...
    """
    if resume and init is not None:
        refuse("--init must not come with --resume, got both; the run has its own weights by now")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with usage():
        chosen = resolve_recipe(recipe, settings or (), max_minutes)
    folder = runs / chosen.name
    from dualspec.training.run_lock import holds_run

    if holds_run(folder) and not resume:
        refuse(f"run folder must be new, got {folder}, which holds a run; add --resume or take other --runs")
    vae_folders = _vae_folders(chosen, runs, vae or ())
    import torch

    from dualspec.training.processes import Processes

    torch.use_deterministic_algorithms(deterministic)
    with usage():
        processes = Processes.join(device)
    try:
        stop_signal = _train(
            chosen,
            folder,
            processes,
            data=data,
            heads=read_heads(hrir or ()),
            vae_folders=vae_folders,
            max_clips=max_clips,
            resume=resume,
            init=init,
            export_dtype=torch.float16 if export == "fp16" else torch.float32,
        )
    finally:
        processes.leave()
    if stop_signal is not None:
        if processes.is_main:
            note(f"stopped by {signal.Signals(stop_signal).name}; the state is saved, --resume goes on")
        raise typer.Exit(STOPPED if stop_signal == signal.SIGUSR1 else 128 + stop_signal)
    if processes.is_main:
        print(f"{folder / 'weights'}: done")


def _train(
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    *,
    data: Path,
    heads: list[HrirSet],
    vae_folders: dict[str, Path],
    max_clips: int | None,
    resume: bool,
    init: Path | None,
    export_dtype: torch.dtype,
) -> int | None:
    """Run the training with a bar on a terminal; return the signal that stopped it, if any."""
    from dualspec.training.run import build_task
    from dualspec.training.run import train as run_training

    with progress_bar(recipe.name, 1.0, as_share=True, hidden=not processes.is_main) as show:
        state = run_training(
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
                held_out=recipe.loop.held_out,
            ),
            processes=processes,
            resume=resume,
            init=init,
            export_dtype=export_dtype,
            report=lambda line: print(line, flush=True),
            on_progress=show,
        )
    return state.stop_signal


def resolve_recipe(name: str, settings: Sequence[str], max_minutes: float | None = None) -> Recipe:
    """Return a recipe with some fields set."""
    from dualspec.config import override
    from dualspec.recipes import get_recipe

    changes = [*settings, *([f"loop.max_minutes={max_minutes!r}"] if max_minutes is not None else [])]
    if any(change.partition("=")[0].strip() == "name" for change in changes):
        raise ValueError("name must stay that of the recipe, got another by --set; choose the folder by --runs")
    return override(get_recipe(name), changes)


def _vae_folders(recipe: Recipe, runs: Path, named: Sequence[str]) -> dict[str, Path]:
    """Return the folder of every VAE that a variant needs."""
    from dualspec.recipes import vae_recipe_name

    parts = recipe.task.variant.parts if recipe.task.kind == "diffusion" else ()
    folders = {part: runs / vae_recipe_name(recipe.name, part) / "weights" for part in parts}
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
    return [_head(None if name == "analytic" else Path(name), 16_000) for name in names or ("analytic",)]


def _head(sofa: Path | None, sample_rate: int) -> HrirSet:
    from dualspec.audio.hrir import load_sofa, spherical_head

    return spherical_head(sample_rate=sample_rate) if sofa is None else load_sofa(sofa, sample_rate=sample_rate)


def _print_summary(summary: PrepareSummary, output: Path) -> None:
    rows = [
        [corpus, split, licence, str(count)]
        for corpus, splits in sorted(summary.counts.items())
        for split, licences in sorted(splits.items())
        for licence, count in sorted(licences.items())
    ]
    print_table(["corpus", "split", "licence", "clips"], rows)
    rejects = [
        [corpus, reason, str(count)]
        for corpus, reasons in sorted(summary.rejects.items())
        for reason, count in sorted(reasons.items())
    ]
    if rejects:
        print()
        print_table(["corpus", "left out because", "clips"], rejects)
    print()
    print(
        f"{output}: {summary.num_clips} clips of {summary.num_recordings} recordings, "
        f"{summary.duration_s / 3600:.2f} h, {summary.num_duplicates} with the samples of another"
    )

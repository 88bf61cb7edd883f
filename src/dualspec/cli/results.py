"""`dualspec baseline`, `cascade` and `report`: the systems to compare with, and the paper's tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import progress, progress_bar
from dualspec.cli.door import note, refuse, usage
from dualspec.cli.evaluation import read_head

if TYPE_CHECKING:
    from dualspec.evaluation.tables import Result, Shelf, Size, Weights

Table = Literal["table1", "table2", "table3", "fig5", "fig6", "fig7", "events"]
_VARIANTS = ("mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p")
_TIMED_PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"


def baseline(
    name: Annotated[Literal["audioldm", "audioldm2", "tango", "tango2"], typer.Argument(help="Which system.")],
    weights: Annotated[Path, typer.Option(help="Its published weights folder.")],
    manifest: Annotated[Path, typer.Option(help="Prompt list (JSON lines); the LOCATION is left out.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for clips and records.")],
    cascade_head: Annotated[Path | None, typer.Option("--cascade", help="Head (SOFA): also OUTPUT-cascade.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Added to the seeds of the list.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps.  [default: 200]")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, max=20, help="Scale.  [default: the authors']")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the GPU, if any]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Clips denoised at once.")] = 4,
    num_samples: Annotated[int, typer.Option(min=1600, help="Length of a clip, samples at 16 kHz.")] = 81_920,
) -> None:
    """Let a published mono system answer a prompt list; its signal goes to both ears and has no direction."""
    from dualspec.cascade import write_mono
    from dualspec.evaluation.baselines import load_baseline
    from dualspec.generation import OutputOptions
    from dualspec.prompt_lists import read_manifest_prompts
    from dualspec.training.processes import check_device

    rows = [(row, parsed.event) for row, parsed in read_manifest_prompts(manifest, allow_no_direction=True)]
    with usage():
        device = check_device(device)
    model = load_baseline(name, weights, device=device)
    sampling = {
        "sampler": type(model.scheduler).__name__,
        "num_inference_steps": steps or model.num_inference_steps,
        "guidance_scale": model.guidance_scale if guidance is None else guidance,
    }

    def answer(texts: list[str], seeds: list[int]) -> Any:
        return model(texts, seeds=seeds, num_samples=num_samples, num_inference_steps=steps, guidance_scale=guidance)

    clips = write_mono(
        rows,
        answer,
        output,
        sample_rate=model.sample_rate,
        system={"kind": "baseline", "name": name, "sha256": model.sha256, "sampling": sampling},
        seed=seed,
        batch_size=batch_size,
        options=OutputOptions(picture=False),
    )
    done = progress(name, len(rows), clips)
    print(f"{output}: {done} clips of {name}, the same signal at both ears")
    if cascade_head is not None:
        cascade(output, cascade_head, output.with_name(f"{output.name}-cascade"))


def cascade(
    folder: Annotated[Path, typer.Argument(help="Clips of any system, with records or a manifest.")],
    hrir: Annotated[Path, typer.Option(help="Head (SOFA file).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for clips and records.")],
) -> None:
    """Put the mid signal of every clip where its record asks for it, through a head: the cascade to compare with."""
    from dualspec.cascade import cascade as write_cascade
    from dualspec.evaluation.clips import list_clips
    from dualspec.generation import OutputOptions

    clips = list_clips(folder)
    if output.resolve() == folder.resolve():
        refuse(f"--output must be another folder than {folder}, got the same; name a new one")
    written = write_cascade(clips, read_head(hrir), output, options=OutputOptions(picture=False))
    done = progress("cascade", len(clips), written)
    print(f"{output}: {done} clips, their direction is the head's")


def report(
    what: Annotated[Table, typer.Argument(help="Which table or figure.")],
    results: Annotated[
        Path, typer.Argument(help="Folder of results of `dualspec evaluate`; events: of one; fig5: of clips.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Markdown file; figures lie beside it.")],
    weights: Annotated[
        list[Path] | None, typer.Option(help="Folder of weights at hand, beside the embedded model; repeatable.")
    ] = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="table2: time each model at hand, batch 1.")] = True,
    recipes: Annotated[
        bool, typer.Option("--recipes/--no-recipes", help="table2: count the recipes of the paper's sizes (a minute).")
    ] = True,
) -> None:
    """Write a table or figure of the paper from results, its numbers beside ours; events: how well each is made.

    A row of ours stands only where the files of weights that made its clips are at hand; the others say so.
    """
    from dualspec.evaluation.tables import Shelf, read_results, sweep, sweep_table, table_1, table_2, table_3
    from dualspec.files import write_text_atomic

    output.parent.mkdir(parents=True, exist_ok=True)
    if what == "fig5":
        write_text_atomic(output, _spectrograms(results, output))
        print(f"{output}: written")
        return
    if what == "events":
        from dualspec.evaluation.clip_scores import read_clip_scores
        from dualspec.evaluation.tables import event_table

        rows = read_clip_scores(results / "clips.csv")
        write_text_atomic(output, event_table(rows) + "\n")
        print(f"{output}: {len(rows)} clips by event")
        return
    found = read_results(results)
    is_sized = what == "table2"
    shelf = Shelf(results=found, weights=_weights(weights or [], found, sized=is_sized, timed=timed))
    if is_sized and recipes:
        shelf = replace(shelf, paper_sizes=_paper_sizes())
    if what in ("fig6", "fig7"):
        groups = sweep(shelf, what)
        if not groups:
            raise ValueError(
                f"{results} must hold results of one model that differ in one setting, got none whose weights are at "
                "hand; generate and evaluate with several --guidance (fig6) or --steps (fig7)"
            )
        text = sweep_table(groups, what) + "\n" + _curves(groups, what, output)
    else:
        text = {"table1": table_1, "table2": table_2, "table3": table_3}[what](shelf)
    write_text_atomic(output, f"{text}\n\n{_footer(shelf)}\n" if is_sized else f"{text}\n")
    known = sum(shelf.weights_of(result) is not None for result in found)
    print(f"{output}: {what}, {len(found)} results, {known} with their weights at hand")


def _weights(folders: list[Path], results: list[Result], *, sized: bool, timed: bool) -> list[Weights]:
    """Hash the files of weights at hand; of our own models with a result also count and time, if that is wanted."""
    from dualspec.evaluation.tables import Shelf, Size, Weights, hash_weights
    from dualspec.model_folder import INDEX_NAME, embedded_bundle

    found = []
    for folder in [*folders, embedded_bundle()]:
        own = Weights(sha256=hash_weights(folder))
        is_judged = any(
            Shelf(results=[], weights=[own]).weights_of(r) is own for r in Shelf(results=results).of(["model"])
        )
        if sized and is_judged and (folder / INDEX_NAME).is_file():
            from dualspec.accounting import pipeline_compute, pipeline_parameters, pipeline_seconds
            from dualspec.pipeline import DualSpecPipeline

            pipeline = DualSpecPipeline.from_pretrained(folder)
            operations = pipeline_compute(pipeline)
            if timed:
                note(f"timing {folder.name}")
            size = Size(
                parameters=pipeline_parameters(pipeline),
                gflops=operations.per_second(1),
                gflops_full=operations.per_second(),
                seconds=pipeline_seconds(pipeline, _TIMED_PROMPT) if timed else None,
            )
            own = replace(own, size=size)
        found.append(own)
    return found


def _paper_sizes() -> dict[str, Size]:
    from dualspec.accounting import account, recipe_compute
    from dualspec.evaluation.tables import Size
    from dualspec.recipes import get_recipe

    sizes = {}
    with progress_bar("recipes of the paper's sizes", len(_VARIANTS)) as show:
        for place, variant in enumerate(_VARIANTS, start=1):
            recipe = get_recipe(f"paper/{variant}")
            full = recipe_compute(recipe)
            total = account(recipe).total
            sizes[variant] = Size(parameters=total, gflops=full.per_second(1), gflops_full=full.per_second())
            show(place)
    return sizes


def _curves(groups: Any, what: str, output: Path) -> str:
    """Draw FD, MAE and the error of the time difference over the swept setting; return the Markdown that shows them."""
    from dualspec.evaluation.tables import HEADS, SWEEPS
    from dualspec.plots import curves_figure

    lines = []
    for metric in ("fd", "azimuth_mae_deg", "median_itd_error_us"):
        curves = {
            name: [(x, y) for x, result in points if (y := result.value(metric)) is not None]
            for name, points in groups.items()
        }
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            picture = output.with_name(f"{output.stem}-{metric}.png")
            curves_figure(curves, picture, y_label=HEADS[metric], x_label=SWEEPS[what][1])
            lines.append(f"\n![{metric}]({picture.name})")
    return "\n".join(lines)


def _spectrograms(folder: Path, output: Path, num: int = 4) -> str:
    """Draw some clips of a folder, spread over it: both ears, the asked direction on a dial."""
    from dualspec.evaluation.clips import Conversion, list_clips, read_ears
    from dualspec.plots import spectrogram_figure

    clips = list_clips(folder)
    lines = []
    for place in sorted({round(index * (len(clips) - 1) / max(1, num - 1)) for index in range(num)}):
        clip, picture = clips[place], output.with_name(f"{output.stem}-{place}.png")
        ears = read_ears(clip.path, Conversion()).waveform
        title = str(clip.record.get("prompt", clip.name))
        spectrogram_figure(ears, Conversion().sample_rate, picture, title=title, azimuth_deg=clip.azimuth_deg)
        lines.append(f"![{clip.name}]({picture.name})\n\n`{clip.path.name}`: {title}\n")
    return "\n".join(lines)


def _footer(shelf: Shelf) -> str:
    """State the protocol of the sizes and the machine."""
    import os

    import torch

    from dualspec.accounting import Compute

    protocol = " ".join((Compute.__doc__ or "").partition("Protocol:")[2].split())
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return (
        f"GFLOPs/s: for one second of audio, one denoising step, text and decoding included. {protocol} "
        f"Time: seconds for one second of audio, batch 1, all steps, on {machine}, {torch.get_num_threads()} threads."
    )

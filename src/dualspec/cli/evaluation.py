"""`dualspec prompts`, `dualspec roundtrip` and `dualspec evaluate`: from a list of events to figures of direction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import refuse, usage

if TYPE_CHECKING:
    from dualspec.hearing.localizer import Localizer


def prompts(
    events: Annotated[list[str], typer.Argument(help="Events, such as 'dog' 'church bells'.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Text file, one prompt per line.")],
    styles: Annotated[str, typer.Option(help="Location styles, by comma: doa, clock, general.")] = "doa,clock,general",
    seed: Annotated[int, typer.Option(help="Of the wording of general descriptions.")] = 0,
    split: Annotated[Literal["train", "heldout"], typer.Option(help="Wordings seen in training, or not.")] = "train",
) -> None:
    """Write prompts for every event at every one of the 12 azimuths in every style."""
    import torch

    from dualspec.audio.azimuth import sector_grid_deg
    from dualspec.files import write_text_atomic
    from dualspec.text.prompts import prompt_for

    generator = torch.Generator().manual_seed(seed)
    with usage():
        lines = [
            prompt_for(event, azimuth_deg, style.strip(), generator=generator, split=split)  # type: ignore[arg-type]
            for event in events
            for azimuth_deg in sector_grid_deg()
            for style in styles.split(",")
        ]
    write_text_atomic(output, "\n".join(lines) + "\n")
    print(f"{output}: {len(lines)} prompts")


def roundtrip(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for reference/ and estimate/.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote; its test split is used.")],
    hrir: Annotated[Path, typer.Option(help="Head (SOFA file).")],
    model: Annotated[Path | None, typer.Option(help="Model folder.  [default: the embedded one]")] = None,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Recordings.")] = 120,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Also draw the spectrograms.")] = False,
) -> None:
    """Encode and decode true clips without diffusion: the most that a model's parts can give."""
    from dualspec.audio.hrir import load_sofa
    from dualspec.generation import OutputOptions
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.roundtrip import round_trip_clips

    pipeline = DualSpecPipeline.from_pretrained(model)
    head = load_sofa(hrir, sample_rate=pipeline.sample_rate)
    done = 0
    with progress_bar("round trip", num) as show:
        for done in round_trip_clips(
            pipeline, data, head, output, num_clips=num, options=OutputOptions(picture=picture)
        ):
            show(done)
    print(f"{output}: {done} clips as reference and estimate")


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Clips with their JSON records.")],
    reference: Annotated[
        Path | None, typer.Option(help="True clips of the same names; their cues are the target.")
    ] = None,
    hrir: Annotated[Path | None, typer.Option(help="Head (SOFA file) whose cues are the target.")] = None,
    localizer: Annotated[Path | None, typer.Option(help="Weights folder of a localizer: adds ACC and MAE.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write NAME.json and NAME.md.  [default: shown only]")
    ] = None,
) -> None:
    """Measure where clips are heard, against what was asked for."""
    if (reference is None) == (hrir is None):
        refuse("a target must be one of --reference and --hrir, got both or none; name one")
    from dualspec.audio.hrir import load_sofa
    from dualspec.evaluation.report import judge_direction, markdown_table, read_clips
    from dualspec.files import write_text_atomic

    result = judge_direction(
        read_clips(folder),
        hrir_set=load_sofa(hrir) if hrir is not None else None,
        references={clip.name: clip for clip in read_clips(reference)} if reference is not None else None,
        localizer=_load_localizer(localizer) if localizer is not None else None,
    )
    table = markdown_table(result["rows"])
    summary = {key: value for key, value in result.items() if key != "rows"}
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(output.with_suffix(".json"), json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_text_atomic(output.with_suffix(".md"), table + "\n")
    print(json.dumps(summary, indent=2))
    print(table)


def nearest(
    folder: Annotated[Path, typer.Argument(help="Clips with their JSON records.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote: the clips that the model was trained on.")],
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Clips looked at.")] = 10,
) -> None:
    """Find the training clip nearest to each generated one: is the model copying?

    Beside it stand the distances of as many held-out recordings, which cannot be copies.
    """
    import torch

    from dualspec.cli.console import print_table
    from dualspec.data.datasets import load_clips
    from dualspec.evaluation.report import read_clips
    from dualspec.evaluation.signal_metrics import nearest_clips

    clips = read_clips(folder)
    clips = [clips[index] for index in torch.linspace(0, len(clips) - 1, min(num, len(clips))).long().tolist()]
    num_samples = clips[0].waveform.shape[-1]
    bank = load_clips(data, "train", num_samples=num_samples)
    found = nearest_clips(torch.stack([clip.waveform for clip in clips]), bank)
    held_out = load_clips(data, "test", num_samples=num_samples)
    chosen = torch.linspace(0, len(held_out) - 1, min(num, len(held_out))).long()
    true = nearest_clips(held_out.float_waveforms(chosen)[:, None].expand(-1, 2, -1), bank)
    rows = [
        [clip.name, f"{near.distance:.3f}", near.clip_id, near.label] for clip, near in zip(clips, found, strict=True)
    ]
    print_table(["clip", "distance", "nearest training clip", "its label"], rows)
    for name, neighbours in (("generated", found), ("held-out recordings", true)):
        distances = torch.tensor([neighbour.distance for neighbour in neighbours])
        print(f"{name}: median {distances.median():.3f}, least {distances.min():.3f} neper ({len(distances)} clips)")


def _load_localizer(folder: Path) -> Localizer:
    from dualspec.hearing.localizer import Localizer, LocalizerConfig
    from dualspec.training.weights import load_module

    return load_module(folder, {"LocalizerConfig": LocalizerConfig}, Localizer)[0]

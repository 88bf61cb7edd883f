"""`dualspec scene`: several sounds over time, from one file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import print_table, progress_bar
from dualspec.cli.door import note, refuse, usage

if TYPE_CHECKING:
    from dualspec.scenes.score import Plan


def scene(
    file: Annotated[Path | None, typer.Argument(metavar="SCENE.json", help="The scene; see docs/scenes.md.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Sound file (.wav, .flac); with --plan a picture (.png).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Check and draw the scene; make no sound.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of scene files, and end.")] = False,
    model: Annotated[Path | None, typer.Option(help="Model folder.  [default: the embedded model]")] = None,
    sofa: Annotated[
        Path | None,
        typer.Option(help="Head (SOFA) through which moving sounds are heard.  [default: a computed sphere]"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the GPU, if any]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Sounds denoised at once.")] = 8,
    subtype: Annotated[Literal["PCM_16", "PCM_24"], typer.Option(help="Sample format.")] = "PCM_16",
    proof: Annotated[
        bool, typer.Option("--proof/--no-proof", help="Measure where each still sound is heard, into the record.")
    ] = True,
) -> None:
    """Make a scene: each sound with its place or path, onset, length and level, in one two-ear mix.

    Still sounds are the model's own two ears. Moving ones are the model's sound, its mid signal, rendered along their
    path through a head. Beside the sound stand NAME.png, the scene from above, and NAME.json, all that makes it again,
    what came from where, and the proof of direction of every still sound.
    """
    said = SimpleNamespace(**locals())
    from dualspec.scenes.score import plan_scene, read_scene, scene_schema

    if schema:
        print(json.dumps(scene_schema(), indent=2))
        return
    if file is None:
        refuse("SCENE.json must be given, got none; docs/scenes.md has an example")
    suffixes = (".png",) if plan else (".wav", ".flac")
    if (output is None and not plan) or (output is not None and output.suffix.lower() not in suffixes):
        refuse(f"--output must end in {' or '.join(suffixes)}, got {str(output or 'none')!r}; name the file to write")
    if output is not None and output.with_suffix(".json").resolve() == file.resolve():
        refuse(f"--output must have another name than {file}, got {str(output)!r}; its record would replace the scene")
    if output is not None and not plan:
        from dualspec.prompt_lists import check_records

        with usage():
            check_records([output])
    from dualspec.diffusion.variant import VariantConfig
    from dualspec.model_folder import embedded_bundle
    from dualspec.training.weights import read_config

    folder = model if model is not None else embedded_bundle()
    config: VariantConfig = read_config(folder / "denoiser", {"VariantConfig": VariantConfig})
    sound_s = config.num_samples / config.sample_rate
    planned = plan_scene(read_scene(file), sound_s=sound_s, words=config.location_words)
    if sofa is not None and not planned.is_moving:
        note("warning: --sofa has no effect, nothing moves in this scene")
    if plan:
        _print_plan(planned)
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if plan:
        from dualspec.scenes.stage import draw_plan

        draw_plan(planned, output)
        print(f"{output}: the scene from above")
        return
    _make(planned, output, said, folder)


def _make(plan: Plan, output: Path, said: SimpleNamespace, folder: Path) -> None:
    """Draw, mix and write a planned scene, and say what became of it."""
    from dualspec.audio.hrir import spherical_head
    from dualspec.cli.generate import load_head
    from dualspec.files import remove_leftovers
    from dualspec.generation import Head, model_facts
    from dualspec.model_folder import load_judge
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.scenes.stage import mix_scene, write_scene
    from dualspec.training.processes import check_device

    with usage():
        device = check_device(said.device)
    pipeline = DualSpecPipeline.from_pretrained(folder, device=device)
    head = None
    if plan.is_moving:
        rate = pipeline.sample_rate
        head = load_head(said.sofa, rate) or Head(hrir_set=spherical_head(sample_rate=rate), sha256=None)
    judge = load_judge(folder) if said.proof else None
    remove_leftovers(output.parent)
    with progress_bar("denoising", 1) as show:
        mix, record = mix_scene(
            pipeline,
            plan.scene,
            model=model_facts(pipeline, folder),
            head=head,
            judge=judge,
            batch_size=said.batch_size,
            on_step=lambda step, num_steps: show(step / num_steps),
        )
    written = write_scene(output, mix, pipeline.sample_rate, record, plan, subtype=said.subtype)
    for index, event in enumerate(record["events"], start=1):
        heard = [sound["direction"] for sound in event["sounds"] if "direction" in sound]
        words = [f"asked {event['asked_deg']:g}"] if not event["rendered"] else ["moving, rendered"]
        if heard:
            places = ", ".join("nowhere" if one["heard_deg"] is None else f"{one['heard_deg']:g}" for one in heard)
            words.append(f"heard {places}")
        print(
            f"{index} {event['text']}: {event['onset_s']:g} to {event['onset_s'] + event['length_s']:g} s, "
            + ", ".join(words)
        )
    words = [f"{plan.length_s:g} s", f"{len(plan.tracks)} events, {plan.num_sounds} sounds"]
    if head is not None:
        words.append(f"moving sounds through {head.hrir_set.name}")
    if record["gain_db"] < 0:
        words.append(f"turned down by {-record['gain_db']:.1f} dB to stay within full scale")
    print(f"{output}: {', '.join(words)}{', replaced' if written.replaced else ''}")


def _print_plan(plan: Plan) -> None:
    rows = []
    for index, track in enumerate(plan.tracks, start=1):
        points = track.path.waypoints if track.path is not None else ()
        where = " → ".join(
            f"{point.azimuth_deg:g}" for point in (points if len(points) < 5 else (points[0], points[-1]))
        )
        source = "rendered through a head" if points else "the model's own two ears"
        sounds = f"{len(track.seeds)}" if len(track.seeds) == track.num_rounds else f"1 × {track.num_rounds}"
        times = (f"{track.event.onset_s:g}", f"{track.length_s:g}", f"{track.event.level_db:g}")
        rows.append((str(index), track.event.text, where or f"{track.asked_deg:g}", *times, sounds, source))
    print_table(("", "sound", "azimuth", "onset s", "length s", "level dB", "drawn", "source"), rows)
    print(f"{plan.length_s:g} s, {plan.num_sounds} sounds to draw")

"""`dualspec generate`: words to sound files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import note, refuse, usage

if TYPE_CHECKING:
    from dualspec.generation import Head, WrittenClip
    from dualspec.text.prompts import ParsedPrompt


def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(help='Such as "EVENT: Dog bark & LOCATION: 3 o\'clock direction".')
    ] = None,
    event: Annotated[str | None, typer.Option(help="What sounds; together with --azimuth, in place of PROMPT.")] = None,
    azimuth: Annotated[
        float | None, typer.Option(help="Where, degrees counter-clockwise: 0 front, 90 left, 180 behind, 270 right.")
    ] = None,
    style: Annotated[
        Literal["doa", "clock", "general"], typer.Option(help="How --azimuth is put into words.")
    ] = "clock",
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt per line, in place of PROMPT.")] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Sound file (.wav, .flac) or folder. Files that exist are replaced."),
    ] = Path(),
    num: Annotated[int, typer.Option(min=1, max=10_000, help="Clips per prompt, with seeds counting up.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Seed of the first clip of each prompt.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps.  [default: the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=20, help="Guidance scale; 1 is none.  [default: the model's]")
    ] = None,
    sampler: Annotated[
        Literal["ddpm", "ddim", "dpmpp", "unipc"] | None, typer.Option(help="Sampler.  [default: the model's]")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds.  [default: the model's]")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder.  [default: the embedded model]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the GPU, if any]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Clips denoised at once.")] = 8,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Write spectrograms of both ears.")] = True,
    subtype: Annotated[Literal["PCM_16", "PCM_24"], typer.Option(help="Sample format.")] = "PCM_16",
    sofa: Annotated[
        Path | None,
        typer.Option(help="Also render each clip's mid signal through this head (SOFA), as NAME-rendered."),
    ] = None,
    allow_no_direction: Annotated[
        bool, typer.Option("--allow-no-direction", help="Accept prompts without one.")
    ] = False,
    blank_location: Annotated[
        bool,
        typer.Option("--blank-location", help="Control experiment: the model reads the prompt without its LOCATION."),
    ] = False,
) -> None:
    """Generate two-ear sound from words.

    Beside each sound stand NAME.png, the spectrograms of both ears, and NAME.json, all that makes it again.
    The direction comes out of the model; only files named "-rendered" (--sofa) went through a head.
    """
    chosen = _prompts(prompt, event, azimuth, style, prompts, allow_no_direction)
    if sofa is not None and any(parsed.azimuth is None for _, parsed in chosen):
        refuse("--sofa must have prompts that name a direction, got one without; leave --allow-no-direction out")
    from dualspec.generation import OutputOptions, generate_clips, model_facts, plan_clips
    from dualspec.model_folder import embedded_bundle
    from dualspec.pipeline import DualSpecPipeline

    with usage():
        requests = plan_clips(chosen, output, seed=seed, per_prompt=num, blank=blank_location)
        from dualspec.training.processes import check_device

        device = check_device(device)
    folder = model if model is not None else embedded_bundle()
    pipeline = DualSpecPipeline.from_pretrained(folder, device=device)
    with usage():
        sampling = pipeline.sampling_config(num_inference_steps=steps, guidance_scale=guidance, sampler=sampler)
        pipeline.num_samples(duration)
    head = _head(sofa, pipeline.sample_rate)
    for folder_of_clip in {request.path.parent for request in requests}:
        folder_of_clip.mkdir(parents=True, exist_ok=True)
    num_batches = -(-len(requests) // batch_size)
    done = itertools.count(1)
    with progress_bar("denoising", num_batches * sampling.num_inference_steps) as show:
        for clip in generate_clips(
            pipeline,
            requests,
            model=model_facts(pipeline, folder),
            sampling=sampling,
            options=OutputOptions(subtype=subtype, picture=picture),
            duration_s=duration,
            batch_size=batch_size,
            head=head,
            on_step=lambda step, num_steps, latents: show(next(done)),
        ):
            _report(clip)


def _prompts(
    texts: list[str] | None,
    event: str | None,
    azimuth: float | None,
    style: Any,
    file: Path | None,
    allow_no_direction: bool,
) -> list[tuple[str, ParsedPrompt]]:
    """Collect the prompts from the one place that the command names."""
    sources = [bool(texts), event is not None or azimuth is not None, file is not None]
    if sum(sources) != 1:
        refuse("one of PROMPT, --event with --azimuth, or --prompts must be given, got none or several; choose one")
    from dualspec.generation import check_prompt, read_prompt_file

    if file is not None:
        return read_prompt_file(file, allow_no_direction=allow_no_direction)
    with usage():
        if texts:
            return [(text.strip(), check_prompt(text, allow_no_direction=allow_no_direction)) for text in texts]
        text = _template(event, azimuth, style, allow_no_direction)
        return [(text, check_prompt(text, allow_no_direction=allow_no_direction))]


def _template(event: str | None, azimuth: float | None, style: Any, allow_no_direction: bool) -> str:
    from dualspec.audio.azimuth import azimuth_class, check_azimuth_deg, class_azimuth_deg
    from dualspec.text.prompts import format_prompt, prompt_for

    if event is None:
        refuse("--azimuth must come with --event, got no event; say what sounds")
    if azimuth is None:
        if allow_no_direction:
            return format_prompt(event)
        refuse("--event must come with --azimuth, got no azimuth; say where it sounds, 270 is right")
    azimuth = check_azimuth_deg(azimuth)
    named = float(class_azimuth_deg(int(azimuth_class(azimuth))))
    if style != "doa" and named != azimuth:
        note(f"note: the words name the nearest of 12 directions, {named:g} for {azimuth:g}; --style doa keeps degrees")
    return prompt_for(event, azimuth, style)


def _head(sofa: Path | None, sample_rate: int) -> Head | None:
    if sofa is None:
        return None
    from dualspec.audio.hrir import load_sofa
    from dualspec.generation import Head
    from dualspec.training.weights import sha256_of

    return Head(hrir_set=load_sofa(sofa, sample_rate=sample_rate), sha256=sha256_of(sofa))


def _report(clip: WrittenClip) -> None:
    record = clip.record
    words = [f"{record['num_samples'] / record['sample_rate']:g} s", f"seed {record['seed']}"]
    if record["azimuth"] is not None:
        words.append(f"azimuth {record['azimuth']['azimuth_deg']:g}")
    if record["rendered"]:
        words.append("rendered")
    if record["gain_db"] < 0:
        words.append(f"level lowered by {-record['gain_db']:.1f} dB to stay within full scale")
    if record["peak_db"] is None:
        words.append("silent")
    if clip.replaced:
        words.append("replaced")
    print(f"{clip.path}: {', '.join(words)}")

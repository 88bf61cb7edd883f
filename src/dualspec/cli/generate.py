"""`dualspec generate`: words to sound files."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import note, refuse, usage

if TYPE_CHECKING:
    from dualspec.engine.ears import OnnxJudge
    from dualspec.engine.pipeline import OnnxPipeline
    from dualspec.generation import Head, WrittenClip
    from dualspec.hearing.proof import DirectionJudge
    from dualspec.model_folder import LoadedLocalizer
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.prompt_lists import ClipRequest


LocationStyleOption = Annotated[
    Literal["doa", "clock", "general"], typer.Option(help="How --azimuth is put into words.")
]
LocationWordsOption = Annotated[
    Literal["known", "typed"],
    typer.Option(
        help="known: other words for a direction than those of training are read as DOA and degrees. typed: none "
        "are; with --allow-no-direction also prompts that are refused otherwise."
    ),
]


def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(help='Such as "EVENT: Dog bark & LOCATION: 3 o\'clock direction".')
    ] = None,
    event: Annotated[str | None, typer.Option(help="What sounds; together with --azimuth, in place of PROMPT.")] = None,
    azimuth: Annotated[
        float | None, typer.Option(help="Where, degrees counter-clockwise: 0 front, 90 left, 180 behind, 270 right.")
    ] = None,
    style: LocationStyleOption = "clock",
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt per line, in place of PROMPT.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Prompt list (JSON lines) of a test, in place of PROMPT: names its own files.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Sound file (.wav, .flac) or folder. Files that exist are replaced."),
    ] = Path(),
    num: Annotated[int, typer.Option(min=1, max=10_000, help="Clips per prompt, with seeds counting up.")] = 1,
    best_of: Annotated[
        int, typer.Option(min=1, max=1000, help="Draw so many candidates per clip and keep the best placed.")
    ] = 1,
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
    engine: Annotated[
        Literal["auto", "onnx", "torch"],
        typer.Option(
            help="What computes. onnx starts sooner, on the CPU; auto takes it where it can do what is asked."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Clips denoised at once.")] = 8,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Write spectrograms of both ears.")] = True,
    subtype: Annotated[Literal["PCM_16", "PCM_24"], typer.Option(help="Sample format.")] = "PCM_16",
    sample_rate: Annotated[
        int | None, typer.Option(min=8000, max=192_000, help="Hz of the files, by resampling.  [default: the model's]")
    ] = None,
    loudness: Annotated[
        str | None,
        typer.Option(help="LUFS of the files by one gain, or none: as it comes.  [default: -23; none for --manifest]"),
    ] = None,
    proof: Annotated[
        bool, typer.Option("--proof/--no-proof", help="Measure where each clip is heard, into its JSON.")
    ] = True,
    target_head: Annotated[
        Path | None, typer.Option(help="Head (SOFA) whose cues the proof aims at.  [default: the model's]")
    ] = None,
    sofa: Annotated[
        Path | None,
        typer.Option(help="Also render each clip's mid signal through this head (SOFA), as NAME-rendered."),
    ] = None,
    allow_no_direction: Annotated[
        bool, typer.Option("--allow-no-direction", help="Accept prompts without one.")
    ] = False,
    location_words: LocationWordsOption = "known",
    blank_location: Annotated[
        bool,
        typer.Option("--blank-location", help="Control experiment: the model reads the prompt without its LOCATION."),
    ] = False,
) -> None:
    """Generate two-ear sound from words.

    Files in a folder are named after sound, azimuth and seed. Beside each stand NAME.png, the spectrograms of both
    ears, and NAME.json, all that makes it again and the proof of its direction. The direction comes out of the model;
    only files named "-rendered" (--sofa) went through a head.

    A list (--prompts, --manifest) goes on where it was: clips that stand already, of the same words, seed, settings and
    model, are kept. Several processes share it: torchrun --nproc-per-node N -m dualspec generate --manifest ...
    """
    said = SimpleNamespace(**locals())
    from dualspec.prompt_lists import check_records

    if target_head is not None and not proof:
        refuse("--target-head must come with the proof, got --no-proof; leave one of them out")
    requests = _requests(said)
    if any(request.parsed.azimuth is None for request in requests) and (sofa is not None or best_of > 1):
        words = "--sofa" if sofa is not None else "--best-of"
        refuse(f"{words} must have prompts that name a direction, got one without; leave --allow-no-direction out")
    with usage():
        check_records(path for one in requests for path in ([one.path, one.rendered_path] if sofa else [one.path]))
    _write(said, requests)


def _write(said: SimpleNamespace, requests: list[ClipRequest]) -> None:
    """Generate and write the clips as the command says, a line for each."""
    from dualspec.bundle import embedded_bundle
    from dualspec.files import remove_leftovers
    from dualspec.generation import OutputOptions, generate_clips, model_facts, run_facts, stands, whole_batches

    rank, num_processes = _share()
    folder = said.model if said.model is not None else embedded_bundle()
    pipeline = _pipeline(said, folder)
    with usage():
        sampling = pipeline.sampling_config(said.steps, said.guidance, said.sampler)
        num_samples = pipeline.num_samples(said.duration)
        loudness = _loudness(said)
    judge = _judge(pipeline, folder, said.target_head) if said.proof else None
    head = load_head(said.sofa, pipeline.sample_rate)
    for folder_of_clip in {request.path.parent for request in requests}:
        folder_of_clip.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder_of_clip)
    form = {"subtype": said.subtype, "sample_rate": said.sample_rate, "loudness_lufs": loudness}
    options = OutputOptions(**form, picture=said.picture, judge=judge)
    chooser = _chooser() if said.best_of > 1 else None
    model = model_facts(pipeline, folder)
    in_file = round(num_samples * (said.sample_rate or pipeline.sample_rate) / pipeline.sample_rate)
    facts = run_facts(model, sampling, pipeline.engine) | {"num_samples": in_file}

    def standing(request: ClipRequest) -> bool:
        read_as = pipeline.config.location_words.read(request.prompt, said.location_words)
        return stands(request, facts, read_as=read_as, options=options, head=head, chooser=chooser)

    is_list = said.manifest is not None or said.prompts is not None
    own = whole_batches(requests, said.batch_size)[rank::num_processes]
    missing = [batch for batch in own if not (is_list and all(map(standing, batch)))]
    pending = [clip for batch in missing for clip in batch]
    if len(missing) < len(own):
        print(f"{sum(map(len, own)) - len(pending)} clips stand already and are kept, {len(pending)} are to be made")
    num_batches = -(-sum(request.best_of for request in pending) // said.batch_size)
    done = itertools.count(1)
    with progress_bar("denoising", num_batches * sampling.num_inference_steps, hidden=rank > 0) as show:
        for clip in generate_clips(
            pipeline,
            pending,
            model=model,
            sampling=sampling,
            options=options,
            duration_s=said.duration,
            batch_size=said.batch_size,
            location_words=said.location_words,
            head=head,
            chooser=chooser,
            on_step=lambda step, num_steps, latents: show(next(done)),
        ):
            _report(clip)
    if judge is not None and "warning" in judge.facts:
        print(f"heard by the localizer {judge.facts['name']!r}: {judge.facts['warning']}")


def _loudness(said: SimpleNamespace) -> float | None:
    """Return the loudness to deliver at, LUFS: what one listens to has one, and a test set's level is as it comes."""
    from dualspec.audio.delivery import DELIVERY_LUFS, check_loudness

    if said.loudness is None:
        return None if said.manifest is not None else DELIVERY_LUFS
    if said.loudness.strip().lower() == "none":
        return None
    try:
        target_lufs = float(said.loudness)
    except ValueError:
        raise ValueError(f"loudness must be a number of LUFS or none, got {said.loudness!r:.40}; say -23") from None
    return check_loudness(target_lufs)


def _share() -> tuple[int, int]:
    """Return the number of this process and of all that share the clips, as torchrun says them; 0 of 1 without."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        refuse(f"RANK must be 0 to WORLD_SIZE - 1, got {rank!r:.20} of {size!r:.20}; unset both, or start by torchrun")
    return int(rank), int(size)


def _pipeline(said: SimpleNamespace, folder: Path) -> DualSpecPipeline | OnnxPipeline:
    """Load the model into the engine that the command names or, by itself, into the one that starts sooner."""
    if said.engine != "torch":
        from dualspec.engine.pipeline import OnnxPipeline, obstacle

        wish = _wish_for_torch(said)
        reason = wish or obstacle(folder)
        if reason is None:
            return OnnxPipeline(folder)
        if said.engine == "onnx":
            refuse(f"--engine onnx must be asked for what it can do, got {reason}; say --engine torch")
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.training.processes import check_device

    with usage():
        device = check_device(said.device)
    if device == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', os.environ.get('RANK', '0'))}"
    return DualSpecPipeline.from_pretrained(folder, device=device)


def _wish_for_torch(said: SimpleNamespace) -> str | None:
    """Name what only torch can do among the things that the command asks for; None if there is nothing."""
    wishes = {
        f"--device {said.device}": said.device not in (None, "cpu"),
        "a GPU": said.device is None and said.engine == "auto" and Path("/proc/driver/nvidia/version").exists(),
        "--sofa": said.sofa is not None,
        "--best-of": said.best_of > 1,
        "--target-head": said.target_head is not None,
        f"--sampler {said.sampler}": said.sampler not in (None, "dpmpp"),
    }
    return next((wish for wish, present in wishes.items() if present), None)


def _requests(said: SimpleNamespace) -> list[ClipRequest]:
    """Plan the clips of the one source of prompts that the command names."""
    by_event = said.event is not None or said.azimuth is not None
    if [bool(said.prompt), by_event, said.prompts is not None, said.manifest is not None].count(True) != 1:
        refuse(
            "one of PROMPT, --event with --azimuth, --prompts or --manifest must be given, got none or several; "
            "choose one"
        )
    from dualspec.prompt_lists import check_prompt, plan_clips, read_prompt_file

    if said.manifest is not None:
        return _listed(said)
    taken = {"allow_no_direction": said.allow_no_direction, "as_typed": said.location_words == "typed"}
    if said.prompts is not None:
        chosen = read_prompt_file(said.prompts, **taken)
    texts = [_template(said)] if by_event else said.prompt
    with usage():
        if said.prompts is None:
            chosen = [(text.strip(), check_prompt(text, **taken)) for text in texts]
        seeds = {"seed": said.seed, "per_prompt": said.num, "best_of": said.best_of}
        return plan_clips(chosen, said.output, **seeds, blank=said.blank_location)


def _listed(said: SimpleNamespace) -> list[ClipRequest]:
    """Plan the clips of a prompt list; each row's candidates have seeds of their own."""
    from dualspec.prompt_lists import plan_manifest_clips, read_manifest_prompts

    if said.num > 1 or (said.output.suffix and not said.output.is_dir()):
        refuse(
            "--manifest must come with a folder and one clip per line, got --num or a file; the list names the files"
        )
    rows = read_manifest_prompts(said.manifest, allow_no_direction=said.allow_no_direction)
    requests = plan_manifest_clips(rows, said.output, blank=said.blank_location)
    return [
        replace(request, seed=said.seed + request.seed * said.best_of, best_of=said.best_of) for request in requests
    ]


def _template(said: SimpleNamespace) -> str:
    """Write --event and --azimuth in the words of the model."""
    from dualspec.audio.azimuth import check_azimuth_deg
    from dualspec.bundle import embedded_bundle, trained_words
    from dualspec.text.prompts import format_prompt

    if said.event is None:
        refuse("--azimuth must come with --event, got no event; say what sounds")
    if said.azimuth is None:
        if said.allow_no_direction:
            with usage():
                return format_prompt(said.event)
        refuse("--event must come with --azimuth, got no azimuth; say where it sounds, 270 is right")
    with usage():
        azimuth = check_azimuth_deg(said.azimuth)
    words = trained_words((said.model or embedded_bundle()) / "denoiser")
    named, num_named = words.nearest(azimuth, said.style), len(words.directions(said.style))
    if said.style != "doa" and named != azimuth:
        nearest = f"the nearest of {num_named} directions, {named:g} for {azimuth:g}"
        note(f"note: the words name {nearest}; --style doa keeps trained degrees")
    with usage():
        return words.prompt_for(said.event, azimuth, said.style)


def load_head(sofa: Path | None, sample_rate: int) -> Head | None:
    """Read a head at a model's rate; None where none is named."""
    if sofa is None:
        return None
    from dualspec.audio.hrir import load_sofa
    from dualspec.files import sha256_of
    from dualspec.generation import Head

    return Head(hrir_set=load_sofa(sofa, sample_rate=sample_rate), sha256=sha256_of(sofa))


def _chooser() -> LoadedLocalizer:
    from dualspec.model_folder import load_localizer

    return load_localizer("paper")


def _judge(
    pipeline: DualSpecPipeline | OnnxPipeline, model: Path, target_head: Path | None
) -> DirectionJudge | OnnxJudge:
    if pipeline.engine == "onnx":
        from dualspec.engine.ears import load_onnx_judge

        return load_onnx_judge(model, num_threads=pipeline.num_threads)
    from dualspec.model_folder import load_judge

    if target_head is None:
        return load_judge(model)
    from dualspec.cli.models import read_head_cues

    return load_judge(model, target=read_head_cues(target_head, model / "denoiser"))


def _report(clip: WrittenClip) -> None:
    from dualspec.audio.delivery import loudness_words

    record = clip.record
    words = [f"{record['num_samples'] / record['sample_rate']:g} s", f"seed {record['seed']}"]
    if record["best_of"] > 1:
        words.append(f"best of {record['best_of']} by {record['chooser']['name']}")
    if record["read_as"] != record["prompt"]:
        words.append(f"read as {record['read_as']!r}")
    if record["azimuth"] is not None:
        words.append(f"asked {record['azimuth']['azimuth_deg']:g}")
    direction = record.get("direction", {})
    if direction.get("heard_deg") is not None:
        words.append(f"heard {direction['heard_deg']:g} ({100 * direction['confidence']:.0f} %)")
    if direction.get("front_back_confused"):
        words.append("front and back confused")
    if record["rendered"]:
        words.append("rendered")
    if record["passed_full_scale_db"] > 0:
        words.append(f"passed full scale by {record['passed_full_scale_db']:.1f} dB and was lowered by as much")
    words += [record["bandwidth"]] if "bandwidth" in record else []
    words += [loudness_words(record["loudness"])] if "loudness" in record else []
    if record["peak_db"] is None:
        words.append("silent")
    if clip.replaced:
        words.append("replaced")
    print(f"{clip.path}: {', '.join(words)}")

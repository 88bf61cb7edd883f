"""From prompts to files: a sound, a picture of both ears, and a JSON from which the sound can be made again.

Nothing here reads a head or renders a direction, but for `rerender`, whose results are named and marked "rendered".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dualspec.audio.delivery import deliver
from dualspec.audio.waveform import read_samples, write_waveform
from dualspec.config import to_dict
from dualspec.files import all_or_nothing, read_json, sha256_of, write_text_atomic
from dualspec.hearing.proof import placement_scores
from dualspec.text.encoder_files import embedded_encoder_sha256
from dualspec.training.weights_folder import CONFIG_NAME, read_hashes

if TYPE_CHECKING:
    from dualspec.audio.hrir import HrirSet
    from dualspec.diffusion.sampler import SamplingConfig
    from dualspec.engine.ears import OnnxJudge
    from dualspec.engine.pipeline import OnnxPipeline
    from dualspec.hearing.proof import DirectionJudge
    from dualspec.model_folder import LoadedLocalizer
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.prompt_lists import ClipRequest
    from dualspec.text.location_words import Reading
    from dualspec.text.prompts import ParsedPrompt

Engine = Literal["torch", "onnx"]
FORMAT_VERSION = 1
_LIBRARIES: dict[Engine, tuple[str, ...]] = {
    "torch": ("torch", "diffusers", "transformers", "tokenizers"),
    "onnx": ("onnxruntime", "tokenizers", "numpy"),
}


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How clips are written."""

    subtype: Literal["PCM_16", "PCM_24"] = "PCM_16"  # sample format
    sample_rate: int | None = None  # Hz of the file; the sound's own if None
    loudness_lufs: float | None = None  # of the file, by one gain for both ears; as it comes if None
    picture: bool = True  # write the spectrograms of both ears as PNG
    judge: DirectionJudge | OnnxJudge | None = None  # proves the direction of every sound that came from the model


@dataclass(frozen=True, kw_only=True)
class Head:
    """Another head, through which the model's own mid signal is heard."""

    hrir_set: HrirSet  # at the model's sample rate
    sha256: str | None  # of the file it came from; None for a computed one


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One sound that was drawn for a clip."""

    seed: int  # of noise
    waveform: Any  # (2, S), a tensor or, from the ONNX engine, an array
    gain_db: float  # 0, or the negative gain that kept it within full scale
    read_as: str  # what the model read of the prompt
    score: float | None  # how well it is placed, -1 to 1; None if it is silent or was not scored


@dataclass(frozen=True, kw_only=True)
class WrittenClip:
    """One clip that was made."""

    path: Path  # sound file
    record: dict[str, Any]  # what its JSON holds
    replaced: bool  # there was a file of that name


def generate_clips(
    pipeline: DualSpecPipeline | OnnxPipeline,
    requests: Sequence[ClipRequest],
    *,
    model: dict[str, Any],
    sampling: SamplingConfig,
    options: OutputOptions,
    duration_s: float | None = None,
    batch_size: int = 8,
    location_words: Reading = "known",
    head: Head | None = None,
    chooser: LoadedLocalizer | None = None,
    on_step: Callable[[int, int, Any], None] | None = None,
) -> Iterator[WrittenClip]:
    """Generate clips batch by batch and write each batch when it is done.

    Args:
        pipeline: the model.
        requests: clips and their files.
        model: what `model_facts` says of the pipeline's folder.
        sampling: sampler, steps, guidance.
        options: sample format, picture, judge.
        duration_s: length, seconds; the model's own when None.
        batch_size: sounds denoised at once.
        location_words: `known` says directions in words of training, `typed` leaves every prompt as it is.
        head: also write each clip's mid signal as heard through this head, named "-rendered".
        chooser: the localizer that picks the best placed of a clip's candidates; never the judge.
        on_step: called after every denoising step; may raise to stop.

    Yields:
        What was written; a clip's own sound comes before its rendered one.

    Raises:
        ValueError: candidates cannot be chosen from, or their chooser would also judge them.
    """
    _check_chooser(requests, chooser, options.judge)
    for localizer in filter(None, (getattr(who, "localizer", None) for who in (chooser, options.judge))):
        localizer.to(pipeline.device)
    machine = {"batch_size": batch_size, "device": pipeline.device.type, "num_threads": pipeline.num_threads}
    facts = run_facts(model, sampling, pipeline.engine) | machine

    def on_step_end(_: Any, index: int, timestep: Any, now: dict[str, Any]) -> None:
        if on_step is not None:
            on_step(index + 1, sampling.num_inference_steps, now["latents"])

    settings = {
        "sampler": sampling.sampler,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "audio_length_in_s": duration_s,
        "batch_size": batch_size,
        "callback_on_step_end": on_step_end,
        "location_words": location_words,
    }
    for request, candidate, tried in _draw(pipeline, requests, settings, chooser):
        record = _record(request, candidate, facts)
        if chooser is not None and request.best_of > 1:
            record |= {"candidates": tried, "chooser": chooser.facts}
        yield write_clip(request.path, candidate.waveform, pipeline.sample_rate, record, options)
        if head is not None:
            rendered, facts_of_head = rerender(candidate.waveform, request.parsed, head)
            yield write_clip(request.rendered_path, rendered, pipeline.sample_rate, record | facts_of_head, options)


def whole_batches(requests: Sequence[ClipRequest], batch_size: int) -> list[list[ClipRequest]]:
    """Cut a list of clips where a batch of draws ends; only the last batch may be smaller.

    Processes that share a list share these, and make one anew when a clip of it is missing: so each clip
    has the same batch mates, and the same bytes, however many processes there are and whatever stands already.
    """
    batches: list[list[ClipRequest]] = [[]]
    draws = 0
    for request in requests:
        batches[-1].append(request)
        draws += request.best_of
        if draws % batch_size == 0:
            batches.append([])
    return [batch for batch in batches if batch]


def run_facts(model: dict[str, Any], sampling: SamplingConfig, engine: Engine = "torch") -> dict[str, Any]:
    """Return what all records of a run have in common, up to rounding: model, sampler, engine, versions."""
    return {"sampling": to_dict(sampling), "model": model, "engine": engine, "versions": versions(engine)}


def stands(
    request: ClipRequest,
    facts: dict[str, Any],
    *,
    read_as: str,
    options: OutputOptions,
    head: Head | None = None,
    chooser: LoadedLocalizer | None = None,
) -> bool:
    """Tell whether all files of a clip are there as this request would make them, up to rounding.

    Args:
        request: the clip.
        facts: fields that its record must have: `run_facts`, and `num_samples`.
        read_as: what the model would read of its prompt.
        options: sample format, picture, judge.
        head: of the rendered sound beside it.
        chooser: of the candidates.
    """
    several = chooser is not None and request.best_of > 1
    wanted = facts | _asked(request) | {"subtype": options.subtype}
    wanted |= {"sample_rate": options.sample_rate} if options.sample_rate is not None else {}
    wanted |= {"chooser": chooser.facts} if several and chooser is not None else {}
    for path, source in [(request.path, None), *([(request.rendered_path, head_facts(head))] if head else [])]:
        try:
            record = read_json(path.with_suffix(".json"))
        except (FileNotFoundError, ValueError):
            return False
        wanted |= {"rendered": source is not None} | ({"head": source} if source is not None else {})
        if not isinstance(record, dict) or any(record.get(name) != value for name, value in wanted.items()):
            return False
        read = record.get("read_as", record["prompt"])  # older records are of prompts that were read as typed
        if record.get("loudness", {}).get("target_lufs") != options.loudness_lufs or read != read_as:
            return False
        if (record["candidates"][0]["seed"] if several else record.get("seed")) != request.seed:
            return False
        direction, judge = record.get("direction", {}), options.judge if source is None else None
        if direction.get("localizer") != (judge.facts if judge is not None else None) or (
            judge is not None and direction["target"] != {"name": judge.target.name, "sha256": judge.target.sha256}
        ):
            return False
        files = [path, path.with_suffix(".png")] if options.picture else [path]
        if not all(file.is_file() for file in files) or sha256_of(path) != record.get("sha256"):
            return False
    return True


def _check_chooser(
    requests: Sequence[ClipRequest], chooser: LoadedLocalizer | None, judge: DirectionJudge | OnnxJudge | None
) -> None:
    several = [request for request in requests if request.best_of > 1]
    if several and chooser is None:
        raise ValueError(f"chooser must be given with best_of {several[0].best_of}, got none; load a localizer")
    if any(request.parsed.azimuth is None for request in several):
        raise ValueError("prompts must name a direction where the best placed is kept, got one without; name one")
    if several and chooser is not None and judge is not None and judge.facts["sha256"] == chooser.sha256:
        raise ValueError(f"chooser must be another localizer than the judge, got {chooser.name!r} twice; change one")


def _draw(
    pipeline: DualSpecPipeline | OnnxPipeline,
    requests: Sequence[ClipRequest],
    settings: dict[str, Any],
    chooser: LoadedLocalizer | None,
) -> Iterator[tuple[ClipRequest, Candidate, list[dict[str, Any]]]]:
    """Draw the candidates of all clips batch by batch; yield each clip's best one, and the seeds and scores of all."""
    draws = [(request, request.seed + index) for request in requests for index in range(request.best_of)]
    best: Candidate | None = None
    tried: list[dict[str, Any]] = []
    for start in range(0, len(draws), settings["batch_size"]):
        batch = draws[start : start + settings["batch_size"]]
        output = pipeline([request.prompt for request, _ in batch], seed=[seed for _, seed in batch], **settings)
        results = zip(batch, output.audios, output.gains_db, output.read_as, strict=True)
        for (request, seed), waveform, gain_db, read_as in results:
            score = None
            if chooser is not None and request.best_of > 1 and request.parsed.azimuth is not None:
                asked_deg = request.parsed.azimuth.azimuth_deg
                score = placement_scores(chooser.localizer, waveform[None], output.sample_rate, [asked_deg])[0]
            tried.append({"seed": seed, "score": score})
            candidate = Candidate(seed=seed, waveform=waveform, gain_db=gain_db, read_as=read_as, score=score)
            if best is None or (score is not None and (best.score is None or score > best.score)):
                best = candidate  # a silent one has no score and never wins
            if len(tried) == request.best_of:
                yield request, best, tried
                best, tried = None, []


def rerender(waveform: Any, parsed: ParsedPrompt, head: Head) -> tuple[Any, dict[str, Any]]:
    """Render the mid signal of a generated clip through another head, at the azimuth that its prompt names.

    Args:
        waveform: (2, S) generated clip.
        parsed: the prompt; it must name a direction.
        head: the head.

    Returns:
        (2, S) at the clip's own peak, and what the record says of it. This direction comes from the head, not from
        the model: such files never count as the model's accuracy.
    """
    from dualspec.audio.binaural import spatialize
    from dualspec.synthesis.mid_signal import common_phase_mid

    if parsed.azimuth is None:
        raise ValueError("prompt must name a direction to be rendered through another head, got none; name one")
    peak = float(waveform.abs().max())
    azimuth_deg = parsed.azimuth.azimuth_deg
    rendered = spatialize(
        common_phase_mid(waveform), azimuth_deg, head.hrir_set, method="interpolate", peak=peak if peak > 0 else None
    )
    return rendered, {"rendered": True, "rendered_azimuth_deg": azimuth_deg, "head": head_facts(head)}


def head_facts(head: Head) -> dict[str, Any]:
    """Return what a record says of a head."""
    return {"name": head.hrir_set.name, "licence": head.hrir_set.licence, "sha256": head.sha256}


def write_clip(
    path: Path, waveform: Any, sample_rate: int, record: dict[str, Any], options: OutputOptions
) -> WrittenClip:
    """Write a sound, its picture and its record; all of them appear, or none.

    Args:
        path: sound file; its folder must exist.
        waveform: (2, S) in [-1, 1], a tensor or an array.
        sample_rate: Hz.
        record: what the JSON says beside level, length and hash of the sound file.
        options: format, rate and loudness of the file, picture, judge; what is judged is the file, as it was written.
    """
    file_rate = options.sample_rate or sample_rate
    waveform, facts = deliver(waveform, sample_rate, file_rate, options.loudness_lufs)
    record = record | facts
    replaced = path.exists()
    azimuth_deg = record["azimuth"]["azimuth_deg"] if record["azimuth"] is not None else None
    with all_or_nothing(path.parent) as folder:
        write_waveform(folder / path.name, waveform, file_rate, subtype=options.subtype)
        if options.judge is not None and not record["rendered"]:
            stored, _ = read_samples(folder / path.name)
            record = record | {"direction": options.judge.hear(stored, file_rate, azimuth_deg)}
        if options.picture:
            draw_clip(waveform, file_rate, record, folder / f"{path.stem}.png")
        record = record | {
            "sample_rate": file_rate,
            "num_samples": waveform.shape[-1],
            "subtype": options.subtype,
            "peak_db": peak_db(waveform),
            "sha256": sha256_of(folder / path.name),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        write_text_atomic(folder / f"{path.stem}.json", text + "\n")
    return WrittenClip(path=path, record=record, replaced=replaced)


def draw_clip(waveform: Any, sample_rate: int, record: dict[str, Any], picture: Path) -> None:
    """Draw both ears of a clip (2, S), with the words and directions of its record, into a PNG file."""
    from dualspec.plots import spectrogram_figure

    spectrogram_figure(
        waveform,
        sample_rate,
        picture,
        title=f"{'rendered: ' if record['rendered'] else ''}{record['prompt']} (seed {record['seed']})",
        azimuth_deg=record["azimuth"]["azimuth_deg"] if record["azimuth"] is not None else None,
        heard_deg=record.get("direction", {}).get("heard_deg"),
    )


def model_facts(pipeline: DualSpecPipeline | OnnxPipeline, folder: Path) -> dict[str, Any]:
    """Say exactly which model was loaded from a folder: the SHA-256 of every config and weights file by part."""
    parts = ["denoiser", *pipeline.config.parts, *(["vocoder"] if pipeline.vocoder is not None else [])]
    hashes = {
        part: {CONFIG_NAME: sha256_of(folder / part / CONFIG_NAME), **read_hashes(folder / part)} for part in parts
    }
    encoder = pipeline.config.text_encoder
    is_embedded = encoder.kind == "minilm" and not encoder.name_or_path
    known = embedded_encoder_sha256() if is_embedded else encoder.sha256
    return {
        "variant": pipeline.config.variant,
        "text_encoder": {"kind": encoder.kind, "sha256": known},
        "sha256": hashes,
    }


def versions(engine: Engine = "torch") -> dict[str, str]:
    """Return the versions of what decides about samples."""
    import dualspec

    return {"dualspec": dualspec.__version__, **{name: version(name) for name in _LIBRARIES[engine]}}


def _asked(request: ClipRequest) -> dict[str, Any]:
    """Return what a record says of the request, but for the seed, which may be one of several."""
    parsed = request.parsed
    return {
        "format_version": FORMAT_VERSION,
        "prompt": request.prompt,
        "event": parsed.event,
        "location": parsed.location,
        "azimuth": asdict(parsed.azimuth) if parsed.azimuth is not None else None,
        "location_blanked": request.location_blanked,
        "best_of": request.best_of,
    }


def _record(request: ClipRequest, candidate: Candidate, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        **_asked(request),
        "read_as": candidate.read_as,
        "rendered": False,
        "seed": candidate.seed,
        "gain_db": round(candidate.gain_db, 6) + 0.0,
        "passed_full_scale_db": round(-candidate.gain_db, 1) + 0.0,
        **facts,
    }


def peak_db(waveform: Any) -> float | None:
    """Return the peak of a sound in dB re full scale; None for silence."""
    peak = float(abs(waveform).max())
    return round(20 * math.log10(peak), 3) if peak > 0 else None

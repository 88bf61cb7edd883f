"""From a scene to one two-ear sound: every event is drawn from the model, placed in time, and added.

A still sound keeps the model's own two ears: its direction comes from words alone. A moving one is the model's own
sound, its common-phase mid signal, rendered along its path through a head; the record says which is which.

Level: each event's sound is brought to a peak of 0.5 in the louder ear, then by its `level_db`, with one gain for both
ears; the mix is turned down by one gain only if it would pass full scale.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualspec.audio.movement import render_moving
from dualspec.audio.waveform import crop_or_pad, write_waveform
from dualspec.config import to_dict
from dualspec.files import all_or_nothing, sha256_of, write_text_atomic
from dualspec.generation import FORMAT_VERSION, Head, WrittenClip, head_facts, peak_db, run_facts
from dualspec.hearing.proof import DirectionJudge
from dualspec.pipeline import DualSpecPipeline
from dualspec.scenes.score import CROSS_FADE_S, Plan, Scene, Track, plan_scene
from dualspec.synthesis.mid_signal import common_phase_mid

PEAK = 0.5
"""Of an event's sound in the louder ear at 0 dB, full scale 1."""
LEVEL_RULE = (
    f"each event's peak in the louder ear is {PEAK} at level_db 0, one gain for both ears; the mix is turned down as a "
    "whole only if it would pass full scale (gain_db)"
)
OWN_EARS = "the model's own two ears"
THROUGH_HEAD = "the model's common-phase mid signal, rendered along the path through a head"


def mix_scene(
    pipeline: DualSpecPipeline,
    scene: Scene,
    *,
    model: dict[str, Any],
    head: Head | None = None,
    judge: DirectionJudge | None = None,
    batch_size: int = 8,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Draw all sounds of a scene and mix them.

    Args:
        pipeline: the model.
        scene: what is asked for.
        model: what `model_facts` says of the pipeline's folder.
        head: for what moves, at the model's sample rate.
        judge: proves the direction of every still sound before it is mixed.
        batch_size: sounds denoised at once.
        on_step: called with (steps done, steps in all); may raise to stop.

    Returns:
        Two ears, (2, S) in [-1, 1], and the record of the scene: JSON values.

    Raises:
        ValueError: the scene cannot be made, or something moves and there is no head; the message begins with the
            field.
    """
    plan = plan_scene(scene, sound_s=pipeline.max_duration_s, words=pipeline.config.location_words)
    if head is None and plan.is_moving:
        raise ValueError("head must be given where a sound moves, got none; load one, or compute spherical_head()")
    rate = pipeline.sample_rate
    sampling = pipeline.sampling_config(scene.num_inference_steps, scene.guidance_scale)
    if judge is not None:
        judge.localizer.to(pipeline.device)
    sounds = _draw(pipeline, plan, batch_size, sampling.num_inference_steps, on_step)
    mix, events = torch.zeros(2, round(plan.length_s * rate)), []
    for track, facts in zip(plan.tracks, plan.facts()["events"], strict=True):
        drawn = list(itertools.islice(sounds, len(track.seeds)))
        ears, gain_db = _place(track, [waveform for waveform, _ in drawn], rate, head)
        start = min(round(track.event.onset_s * rate), mix.shape[-1])
        mix[:, start : start + ears.shape[-1]] += ears[:, : mix.shape[-1] - start]
        proofs = [_proof(waveform, rate, track, judge) for waveform, _ in drawn]
        parts = [
            {"seed": seed, "gain_db": gain} | proof
            for seed, (_, gain), proof in zip(track.seeds, drawn, proofs, strict=True)
        ]
        how = {"source": OWN_EARS if track.path is None else THROUGH_HEAD, "level_gain_db": gain_db, "sounds": parts}
        events.append({key: value for key, value in facts.items() if key != "seeds"} | how)
    peak = max(1.0, float(mix.abs().max()))
    record = {
        "format_version": FORMAT_VERSION,
        "kind": "scene",
        "scene": to_dict(scene),
        "rendered": plan.is_moving,
        "head": head_facts(head) if head is not None else None,
        "level_rule": LEVEL_RULE,
        "gain_db": round(-20 * math.log10(peak), 6) + 0.0,
        "events": events,
        **run_facts(model, sampling),
        "batch_size": batch_size,
        "device": pipeline.device.type,
        "num_threads": torch.get_num_threads(),
    }
    return mix / peak, record


def write_scene(
    path: Path,
    waveform: Tensor,
    sample_rate: int,
    record: dict[str, Any],
    plan: Plan,
    *,
    subtype: Literal["PCM_16", "PCM_24"] = "PCM_16",
) -> WrittenClip:
    """Write a mixed scene, its picture from above and its record; all of them appear, or none.

    Args:
        path: sound file; its folder must exist.
        waveform: (2, S) in [-1, 1].
        sample_rate: Hz.
        record: what `mix_scene` says of it.
        plan: of the picture.
        subtype: sample format.
    """
    replaced = path.exists()
    with all_or_nothing(path.parent) as folder:
        write_waveform(folder / path.name, waveform, sample_rate, subtype=subtype)
        draw_plan(plan, folder / f"{path.stem}.png")
        record = record | {
            "sample_rate": sample_rate,
            "num_samples": waveform.shape[-1],
            "subtype": subtype,
            "peak_db": peak_db(waveform),
            "sha256": sha256_of(folder / path.name),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        write_text_atomic(folder / f"{path.stem}.json", text + "\n")
    return WrittenClip(path=path, record=record, replaced=replaced)


def draw_plan(plan: Plan, picture: Path) -> None:
    """Draw a scene from above, and its events over time, into a PNG file."""
    from dualspec.plots import Lane, scene_figure

    lanes = []
    for track in plan.tracks:
        points = [(point.time_s, point.azimuth_deg) for point in track.path.waypoints] if track.path else []
        lanes.append(
            Lane(
                text=track.event.text,
                onset_s=track.event.onset_s,
                length_s=track.length_s,
                points=tuple(points) or ((0.0, track.event.azimuth_deg or 0.0),),
            )
        )
    scene_figure(lanes, plan.length_s, picture, title=plan.scene.title)


def _draw(
    pipeline: DualSpecPipeline,
    plan: Plan,
    batch_size: int,
    num_steps: int,
    on_step: Callable[[int, int], None] | None,
) -> Iterator[tuple[Tensor, float]]:
    """Draw the sounds of all tracks in their order; yield each (2, S) with its gain in dB."""
    draws = [(track.prompt, seed) for track in plan.tracks for seed in track.seeds]
    total, done = num_steps * -(-len(draws) // batch_size), itertools.count(1)
    for start in range(0, len(draws), batch_size):
        prompts, seeds = zip(*draws[start : start + batch_size], strict=True)
        output = pipeline(
            list(prompts),
            seed=list(seeds),
            num_inference_steps=num_steps,
            guidance_scale=plan.scene.guidance_scale,
            batch_size=batch_size,
            callback_on_step_end=lambda *_: on_step(next(done), total) if on_step is not None else None,
        )
        yield from zip(output.audios, output.gains_db, strict=True)


def _place(track: Track, sounds: Sequence[Tensor], rate: int, head: Head | None) -> tuple[Tensor, float]:
    """Join, move, fade and level the sounds (2, S) of a track; return (2, N) and the gain of its level in dB."""
    parts = [sounds[index % len(sounds)] for index in range(track.num_rounds)]
    num_samples = round(track.length_s * rate)
    if track.path is None:
        ears = _join(parts, num_samples, rate)
    else:
        assert head is not None, "the door has checked it"
        mid = _join([common_phase_mid(part)[None] for part in parts], num_samples, rate)[0]
        ears = render_moving(mid, track.path, head.hrir_set)
    envelope = torch.ones(ears.shape[-1])
    rise, fall = (_ramp(round(seconds * rate)) for seconds in (track.event.fade_in_s, track.event.fade_out_s))
    envelope[: len(rise)] *= rise
    envelope[ears.shape[-1] - len(fall) :] *= fall.flip(0)
    ears = ears * envelope
    before = float(ears.abs().max())
    gain = PEAK / before * 10 ** (track.event.level_db / 20) if before > 0 else 1.0
    return ears * gain, round(20 * math.log10(gain), 3)


def _join(parts: Sequence[Tensor], num_samples: int, rate: int) -> Tensor:
    """Lay sounds (C, S) end to end with cross-fades of equal power, and cut them to a length."""
    joined = parts[0]
    overlap = min(round(CROSS_FADE_S * rate), joined.shape[-1] // 4)
    if len(parts) > 1:
        step = joined.shape[-1] - overlap
        joined = joined.new_zeros(len(joined), step * len(parts) + overlap)
        ramp = _ramp(overlap).sqrt()
        for index, part in enumerate(parts):
            faded = part.clone()
            faded[:, :overlap] *= ramp if index > 0 else 1.0
            faded[:, -overlap:] *= ramp.flip(0) if index < len(parts) - 1 else 1.0
            joined[:, index * step : index * step + part.shape[-1]] += faded
    return crop_or_pad(joined, num_samples)


def _ramp(num_samples: int) -> Tensor:
    """Rise from 0 to 1 along a squared sine, (N,)."""
    return torch.sin(math.pi / 2 * (torch.arange(num_samples) + 0.5) / max(num_samples, 1)).square()


def _proof(waveform: Tensor, rate: int, track: Track, judge: DirectionJudge | None) -> dict[str, Any]:
    """Prove where the model's own two ears hear a still sound, as much of it as is used."""
    if judge is None or track.path is not None:
        return {}
    heard = waveform[:, : max(1, round(track.length_s * rate))]
    return {"direction": judge.hear(heard, rate, track.asked_deg)}

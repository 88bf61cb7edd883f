"""A scene as its file says it, and the plan that follows: which sounds are drawn, where and when each is heard.

No model is needed here, only the length of its clips. Limits stand once, in the types: the reader checks by them, and
the published JSON Schema holds them.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dualspec.audio.azimuth import wrap_deg
from dualspec.audio.movement import MAX_TURN_DEG, AzimuthPath, Waypoint
from dualspec.config import from_dict
from dualspec.files import read_json
from dualspec.text.lexicon import LocationStyle
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import format_prompt, parse_prompt

MAX_SCENE_S = 600.0
MAX_EVENTS = 64
MAX_SOUNDS = 256
"""Sounds that one scene may draw from the model."""
CROSS_FADE_S = 0.2
"""Overlap of two rounds of a repeated sound, seconds; a quarter of sounds shorter than 0.8 s."""
SEEDS_PER_EVENT = 1000
_TURNS = {"minimum": -MAX_TURN_DEG, "maximum": MAX_TURN_DEG}
_SEED = {"minimum": 0, "maximum": 2**53 - 1}

Repeat = Literal["same", "anew"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One sound of a scene; it stands still at `azimuth_deg`, goes on to `end_azimuth_deg`, or follows a `path`."""

    text: Annotated[str, {"description": "What sounds, without its place.", "minLength": 1, "maxLength": 400}]
    azimuth_deg: Annotated[
        float | None,
        {"description": "Where it is, or begins; degrees counter-clockwise: 0 front, 90 left, 180 behind."} | _TURNS,
    ] = None
    end_azimuth_deg: Annotated[
        float | None,
        {"description": "Where it ends, as the number stands: 330 to 390 is 60 degrees to the left, through 0."}
        | _TURNS,
    ] = None
    path: Annotated[
        tuple[Waypoint, ...] | None,
        {"description": "Way-points, times from the onset, in place of the azimuths.", "minItems": 2, "maxItems": 1000},
    ] = None
    onset_s: Annotated[
        float, {"description": "When it begins, seconds from the scene's beginning.", "minimum": 0, "maximum": 600}
    ] = 0.0
    length_s: Annotated[
        float | None,
        {"description": "How long it is heard, seconds; the model's own length if null.", "minimum": 0.1}
        | {"maximum": MAX_SCENE_S},
    ] = None
    repeat: Annotated[
        Repeat | None,
        {"description": "How a sound longer than the model's goes on: the same again, or drawn anew each time."},
    ] = None
    level_db: Annotated[
        float, {"description": "Above or below the other sounds, decibels.", "minimum": -60, "maximum": 20}
    ] = 0.0
    fade_in_s: Annotated[float, {"description": "Seconds.", "minimum": 0, "maximum": 60}] = 0.01
    fade_out_s: Annotated[float, {"description": "Seconds.", "minimum": 0, "maximum": 60}] = 0.01
    location_style: Annotated[
        LocationStyle | None,
        {"description": "Wording of a still sound's place for the model, clock if null; doa keeps single degrees."},
    ] = None
    seed: Annotated[
        int | None,
        {"description": "Of the first sound; null is the scene's seed + 1000 times the event's number."} | _SEED,
    ] = None

    def __post_init__(self) -> None:
        """Check the ranges, the words, and that there is one way of saying where.

        Raises:
            ValueError: the message begins with the field.
        """
        check_ranges(self)
        try:
            parse_prompt(format_prompt(self.text, "DOA 0"))
        except ValueError as error:
            raise ValueError(f"text {str(error).partition(' ')[2]}") from error
        if (self.path is None) == (self.azimuth_deg is None):
            raise ValueError(
                f"azimuth_deg must be given, or path in its place, got {'none' if self.path is None else 'both'}; "
                "say where the sound is"
            )
        if self.path is not None and self.end_azimuth_deg is not None:
            raise ValueError("end_azimuth_deg must be left out where there is a path, got both; choose one")
        if self.location_style is not None and self.is_moving:
            raise ValueError("location_style must be left out where a sound moves, got it; no words place it then")

    @property
    def is_moving(self) -> bool:
        """Whether a head renders its way."""
        return self.path is not None or self.end_azimuth_deg is not None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Several sounds over time."""

    events: Annotated[
        tuple[Event, ...], {"description": "The sounds, in any order.", "minItems": 1, "maxItems": MAX_EVENTS}
    ]
    title: Annotated[str, {"description": "Words above the picture.", "maxLength": 200}] = ""
    duration_s: Annotated[
        float | None,
        {"description": "Whole length, seconds; to the end of the last sound if null.", "minimum": 0.1}
        | {"maximum": MAX_SCENE_S},
    ] = None
    seed: Annotated[int, {"description": "From which the seeds of events without one follow."} | _SEED] = 0
    num_inference_steps: Annotated[
        int | None, {"description": "Denoising steps; the model's own if null.", "minimum": 1, "maximum": 1000}
    ] = None
    guidance_scale: Annotated[
        float | None, {"description": "1 is none; the model's own if null.", "minimum": 0, "maximum": 20}
    ] = None
    format_version: Annotated[Literal[1], {"description": "Of this format."}] = 1

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: the message begins with the field.
        """
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Track:
    """What becomes of one event."""

    event: Event
    prompt: str  # what the model reads
    asked_deg: float  # azimuth in the prompt, [0, 360)
    path: AzimuthPath | None  # of a sound that a head renders; None where the model's own two ears are kept
    length_s: float  # as it is heard
    seeds: tuple[int, ...]  # of the sounds that are drawn
    num_rounds: int  # sounds that follow each other

    @property
    def end_s(self) -> float:
        """When it is over, seconds from the scene's beginning."""
        return self.event.onset_s + self.length_s


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A scene that can be made."""

    scene: Scene
    tracks: tuple[Track, ...]
    length_s: float

    @property
    def num_sounds(self) -> int:
        """Sounds that the model draws."""
        return sum(len(track.seeds) for track in self.tracks)

    @property
    def is_moving(self) -> bool:
        """Whether anything moves, and so needs a head."""
        return any(track.path is not None for track in self.tracks)

    def facts(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        events = [
            {
                "text": track.event.text,
                "prompt": track.prompt,
                "asked_deg": track.asked_deg,
                "rendered": track.path is not None,
                "path": None if track.path is None else [asdict(point) for point in track.path.waypoints],
                "onset_s": track.event.onset_s,
                "length_s": track.length_s,
                "seeds": list(track.seeds),
                "num_rounds": track.num_rounds,
            }
            for track in self.tracks
        ]
        return {"length_s": self.length_s, "num_sounds": self.num_sounds, "events": events}


def read_scene(path: str | os.PathLike[str]) -> Scene:
    """Read a scene file, strictly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no scene; the message names the file and the field, such as `events[2].path[1].azimuth_deg`.
    """
    try:
        return scene_from(read_json(path))
    except ValueError as error:
        name = os.fspath(path)
        raise ValueError(str(error) if name in str(error) else f"{name}: {error}") from error


def scene_from(data: Any) -> Scene:
    """Build a scene from JSON values, strictly.

    Raises:
        ValueError: it is no scene; the message begins with the field.
    """
    events = data.get("events") if isinstance(data, dict) else None
    if isinstance(events, list) and len(events) > MAX_EVENTS:  # before each of them is read
        raise ValueError(f"events must be 1 to {MAX_EVENTS} items, got {len(events)}; choose within")
    try:
        return from_dict(Scene, data, where="scene")
    except ValueError as error:
        raise ValueError(str(error).removeprefix("scene.")) from error


def plan_scene(scene: Scene, *, sound_s: float, words: LocationWords | None = None) -> Plan:
    """Work out which sounds a scene draws, and what becomes of them.

    Args:
        scene: what is asked for.
        sound_s: length of the model's own clips, seconds.
        words: for directions, that the model was trained on; None: those of 12 directions.

    Raises:
        ValueError: it cannot be made; the message begins with the field.
    """
    tracks = []
    for index, event in enumerate(scene.events):
        try:
            tracks.append(_track(event, scene.seed + SEEDS_PER_EVENT * index, sound_s, words or LocationWords()))
        except ValueError as error:
            raise ValueError(f"events[{index}].{error}") from error
    ends = [track.end_s for track in tracks]
    length_s = max(ends) if scene.duration_s is None else scene.duration_s
    for index, end_s in enumerate(ends):
        if end_s > min(length_s, MAX_SCENE_S) + 1e-9:
            raise ValueError(
                f"events[{index}].length_s must end within the scene's {min(length_s, MAX_SCENE_S):g} s, got an end at "
                f"{end_s:g} s; shorten it, or begin earlier"
            )
    plan = Plan(scene=scene, tracks=tuple(tracks), length_s=length_s)
    if plan.num_sounds > MAX_SOUNDS:
        raise ValueError(
            f"events must draw at most {MAX_SOUNDS} sounds, got {plan.num_sounds}; repeat the same one more often"
        )
    return plan


def _track(event: Event, seed: int, sound_s: float, words: LocationWords) -> Track:
    length_s = sound_s if event.length_s is None else event.length_s
    if length_s > sound_s + 1e-9 and event.repeat is None:
        raise ValueError(
            f"length_s must be at most {sound_s:g}, the length of the model's own sounds, got {length_s:g}; shorten "
            'it, or say how it goes on: "repeat": "same", or "anew" for a new sound each time'
        )
    if event.fade_in_s + event.fade_out_s > length_s:
        limit = f"the sound's {length_s:g} s, got {event.fade_in_s + event.fade_out_s:g}"
        raise ValueError(f"fade_out_s must end with fade_in_s within {limit}; shorten the fades")
    path = _path(event, length_s)
    # The model is asked for a moving sound in front, where both ears hear the same: its place is taken away again.
    asked_deg = 0.0 if event.is_moving else wrap_deg(event.azimuth_deg or 0.0)
    prompt = words.prompt_for(event.text, asked_deg, event.location_style or "clock")
    named = parse_prompt(prompt).azimuth
    assert named is not None, "we wrote the place ourselves"
    num_rounds = 1
    if length_s > sound_s + 1e-9:
        overlap_s = min(CROSS_FADE_S, sound_s / 4)
        num_rounds = math.ceil((length_s - overlap_s) / (sound_s - overlap_s) - 1e-9)
    first = seed if event.seed is None else event.seed
    return Track(
        event=event,
        prompt=prompt,
        asked_deg=named.azimuth_deg,
        path=path,
        length_s=length_s,
        seeds=tuple(first + index for index in range(num_rounds if event.repeat == "anew" else 1)),
        num_rounds=num_rounds,
    )


def _path(event: Event, length_s: float) -> AzimuthPath | None:
    """Return the way of a moving sound, or None for one that stands still."""
    if event.path is None:
        if event.azimuth_deg is None or event.end_azimuth_deg is None:
            return None
        ends = ((0.0, event.azimuth_deg), (length_s, event.end_azimuth_deg))
        points = tuple(Waypoint(time_s=time_s, azimuth_deg=azimuth_deg) for time_s, azimuth_deg in ends)
    else:
        points = event.path
    try:
        path = AzimuthPath(waypoints=points)
    except ValueError as error:
        words = str(error).replace("waypoints", "path", 1)
        raise ValueError(words if event.path else words.replace("path[1].", "end_", 1)) from error
    if points[-1].time_s > length_s + 1e-9:
        raise ValueError(
            f"path[{len(points) - 1}].time_s must be within the sound's {length_s:g} s, got {points[-1].time_s:g}; "
            "count from its onset"
        )
    return path


def check_ranges(config: Any) -> None:
    """Hold the fields of a dataclass against the limits in their types.

    Raises:
        ValueError: the message begins with the field.
    """
    for name, rules in _limits(config.__class__).items():
        value = getattr(config, name)
        size, unit = (len(value), "Length" if isinstance(value, str) else "Items") if _is_sized(value) else (value, "")
        low, high = rules.get(f"min{unit or 'imum'}"), rules.get(f"max{unit or 'imum'}")
        if value is None or (low is None and high is None):
            continue
        if not (low is None or size >= low) or not (high is None or size <= high):
            what = {"": "", "Length": " characters", "Items": " items"}[unit]
            span = f"at most {high}" if low is None else f"{low} to {high}"
            raise ValueError(f"{name} must be {span}{what}, got {size}; choose within")


@cache
def _limits(cls: type) -> dict[str, dict[str, Any]]:
    """Return what the types of a dataclass say beside the type; reading them takes far longer than a check by them."""
    return {name: _rules(hint) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _is_sized(value: Any) -> bool:
    return isinstance(value, (str, tuple))


def _rules(hint: Any) -> dict[str, Any]:
    """Return what a type's annotation adds to it."""
    return hint.__metadata__[0] if get_origin(hint) is Annotated else {}


_PLACES: Sequence[dict[str, Any]] = (
    {"required": ["azimuth_deg"], "properties": {"azimuth_deg": {"type": "number"}, "path": {"type": "null"}}},
    {
        "required": ["path"],
        "properties": {"path": {"type": "array"}, "azimuth_deg": {"type": "null"}, "end_azimuth_deg": {"type": "null"}},
    },
)


def scene_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scene file, made from the types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dualspec scene"} | _schema(Scene)


def _schema(hint: Any) -> dict[str, Any]:
    origin, words = get_origin(hint), {float: "number", int: "integer", str: "string", type(None): "null"}
    if origin is Annotated:
        return _narrowed(_schema(get_args(hint)[0]), _rules(hint))
    if is_dataclass(hint):
        hints, keys = get_type_hints(hint, include_extras=True), fields(hint)
        properties = {key.name: _schema(hints[key.name]) for key in keys}
        for key in keys:
            if key.default is not MISSING:
                properties[key.name]["default"] = key.default
        required = [key.name for key in keys if key.default is MISSING]
        whole = {"type": "object", "description": (hint.__doc__ or "").partition("\n")[0], "properties": properties}
        places = {"oneOf": list(_PLACES)} if hint is Event else {}
        return whole | {"required": required, "additionalProperties": False} | places
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(arm) for arm in get_args(hint)]}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(hint)[0])}
    return {"enum": list(get_args(hint))} if origin is Literal else {"type": words[hint]}


def _narrowed(schema: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """Add limits to the arm that is no null, and the description to the whole."""
    limits = {name: rule for name, rule in rules.items() if name != "description"}
    whole = {name: rule for name, rule in rules.items() if name == "description"}
    if "anyOf" in schema:
        return whole | {"anyOf": [arm if arm == {"type": "null"} else arm | limits for arm in schema["anyOf"]]}
    return whole | schema | limits

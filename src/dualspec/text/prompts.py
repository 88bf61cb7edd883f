"""The prompt template of the paper, `EVENT: ... & LOCATION: ...`, written and read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from dualspec.audio.azimuth import NUM_SECTORS, azimuth_class, check_azimuth_deg, sector_grid_deg
from dualspec.text.lexicon import (
    HOUR_WORDS,
    LOCATION_STYLES,
    Lexicon,
    LexiconSplit,
    LocationStyle,
    general_phrases,
    num_directions,
)
from dualspec.text.location_parser import (
    MAX_PROMPT_CHARS,
    ParsedAzimuth,
    clean_text,
    find_location,
    read_template_location,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_PROMPT_CHARS",
    "ParsedPrompt",
    "blank_location",
    "closed_prompts",
    "describe_azimuth",
    "draw_location_style",
    "format_prompt",
    "parse_prompt",
    "prompt_for",
]

_EVENT_TAG = re.compile(r"\bevent\s*:", re.IGNORECASE)
_LOCATION_TAG = re.compile(r"(?:&\s*)?\blocation\s*:", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ParsedPrompt:
    """A prompt taken apart into what sounds and from where."""

    event: str
    """Words of the sound event; never empty."""
    location: str | None
    """Words of the direction as the prompt has them; None when the prompt has none."""
    azimuth: ParsedAzimuth | None
    """Direction understood from `location`; None when there is none or its words are unknown."""


@lru_cache(maxsize=1 << 16)
def format_prompt(event: str, location: str | None = None) -> str:
    """Fill the prompt template.

    Args:
        event: Class label or words; underscores become spaces and the first letter a capital.
        location: Words of the direction; None leaves the LOCATION part out.

    Returns:
        For example `EVENT: Dog bark & LOCATION: 3 o'clock direction`.

    Raises:
        ValueError: If the event has no words or itself holds a template tag.

    Paper: section V-C, Fig. 4.
    """
    words = " ".join(event.replace("_", " ").split())
    if not words:
        raise ValueError(f"event must be words, got {event!r}; give a class label such as 'dog_bark'")
    if _EVENT_TAG.search(words) or _LOCATION_TAG.search(words):
        raise ValueError(f"event must be free of 'EVENT:' and 'LOCATION:', got {event!r}; give the words alone")
    capital = words[0].upper()
    if len(capital) == 1:  # not the letters that grow, such as sharp s
        words = unicodedata.normalize("NFC", capital + words[1:])
    prompt = f"EVENT: {words}"
    if location is None:
        return prompt
    if not location.strip() or _EVENT_TAG.search(location) or _LOCATION_TAG.search(location):
        raise ValueError(f"location must be words without 'EVENT:' and 'LOCATION:', got {location!r}; say 'DOA 90'")
    return f"{prompt} & LOCATION: {location.strip()}"


def describe_azimuth(
    azimuth_deg: float,
    style: LocationStyle,
    *,
    generator: torch.Generator | None = None,
    lexicon: Lexicon = "distinct",
    split: LexiconSplit = "train",
    num_azimuths: int = NUM_SECTORS,
) -> str:
    """Put an azimuth into words.

    `doa` keeps whole degrees; `clock` and `general` name the nearest of the directions that they have words for on the
    grid (`num_directions`): half hours only where the grid holds them.

    Args:
        azimuth_deg: Azimuth in [0, 360), degrees counter-clockwise, 90 = left.
        style: `doa`, `clock` or `general`.
        generator: Draws among the synonyms of `general`; None takes the canonical one.
        lexicon: Table of synonyms for `general`.
        split: Which part of that table: `train`, `heldout` or `all`.
        num_azimuths: Directions of the grid, evenly spaced from 0.

    Returns:
        For example `DOA 270`, `3 o'clock direction`, `half past two direction`, `directly to the right`.

    Raises:
        ValueError: If the azimuth is out of range, or style, lexicon or split are unknown.

    Paper: section V-C, Fig. 4.
    """
    azimuth, num_named = check_azimuth_deg(azimuth_deg), num_directions(style, num_azimuths)
    if style == "doa":
        return f"DOA {round(azimuth) % 360}"
    named_deg = sector_grid_deg(num_named)[azimuth_class(azimuth, num_named)]
    if style == "clock":
        return _clock_words(named_deg)
    phrases = general_phrases(azimuth_class(named_deg), lexicon=lexicon, split=split)
    if generator is None:
        return phrases[0]
    return phrases[_draw(len(phrases), generator)]


def _clock_words(azimuth_deg: float) -> str:
    """Say a multiple of 15 degrees as an hour or half hour of the clock."""
    hour, half = divmod(round((360.0 - azimuth_deg) / 15.0), 2)
    return f"half past {HOUR_WORDS[hour - 1]} direction" if half else f"{hour} o'clock direction"


def draw_location_style(
    generator: torch.Generator, styles: Sequence[LocationStyle] = LOCATION_STYLES, weights: Sequence[int] | None = None
) -> LocationStyle:
    """Draw the location style of one training prompt.

    Args:
        generator: Draws.
        styles: To choose from.
        weights: How likely each is, as whole numbers; None: all equally.

    Paper: section V-C ("each prompt randomly adopted one of three location descriptors").
    """
    weights = (1,) * len(styles) if weights is None else weights
    tickets = [style for style, weight in zip(styles, weights, strict=True) for _ in range(weight)]
    return tickets[_draw(len(tickets), generator)]


def prompt_for(
    event: str,
    azimuth_deg: float,
    style: LocationStyle,
    *,
    generator: torch.Generator | None = None,
    lexicon: Lexicon = "distinct",
    split: LexiconSplit = "train",
    num_azimuths: int = NUM_SECTORS,
) -> str:
    """Write the prompt for an event at an azimuth; arguments as in `format_prompt` and `describe_azimuth`.

    Paper: section V-C, Fig. 4.
    """
    location = describe_azimuth(
        azimuth_deg, style, generator=generator, lexicon=lexicon, split=split, num_azimuths=num_azimuths
    )
    return format_prompt(event, location)


def closed_prompts(
    events: Iterable[str],
    styles: Sequence[LocationStyle] = LOCATION_STYLES,
    *,
    lexicon: Lexicon = "distinct",
    split: LexiconSplit = "train",
    num_azimuths: int = NUM_SECTORS,
) -> list[str]:
    """List every prompt that `prompt_for` can write for the events on an even grid, without repeats.

    Encoding the list once spares the text encoder during training. Order: event, direction, style, phrase.

    Args:
        events: Class labels.
        styles: Location styles to include.
        lexicon: Table of synonyms for `general`.
        split: Which part of that table.
        num_azimuths: Directions of the grid, evenly spaced from 0.

    Returns:
        Prompts in a fixed order.
    """
    locations: list[str] = []
    for azimuth in sector_grid_deg(num_azimuths):
        for style in styles:
            if style == "general":
                sector = azimuth_class(azimuth)
                if sector * 360.0 / NUM_SECTORS == azimuth:
                    locations.extend(general_phrases(sector, lexicon=lexicon, split=split))
            else:
                locations.append(describe_azimuth(azimuth, style, num_azimuths=num_azimuths))
    return list(dict.fromkeys(format_prompt(event, location) for event in events for location in locations))


def parse_prompt(text: str) -> ParsedPrompt:
    """Take a prompt apart, be it the template or free words ("a dog barking behind me to the left").

    A `location` with `azimuth` None says that the prompt names a place that is not understood.

    Args:
        text: Prompt of at most `MAX_PROMPT_CHARS` characters.

    Returns:
        Event, location words and azimuth.

    Raises:
        ValueError: If the text is empty, too long or has no event, repeats a template tag, names an impossible
            direction ("DOA 720", "13 o'clock"), more than one, or one that cannot be read with certainty, or has a
            direction in its event beside its location, or other words in its location beside a direction.
    """
    parsed = _take_apart(text)
    if parsed.location is None:
        return parsed
    try:
        found = find_location(parsed.event)
    except ValueError as error:
        raise ValueError(
            f"event must be free of directions beside its location, got {parsed.event[:80]!r}; {error}"
        ) from error
    if found is not None:
        raise ValueError(
            f"event must be free of directions beside its location, got {found.words[:80]!r}; leave it out, as in "
            f"{found.rest[:80]!r}"
        )
    return parsed


def blank_location(text: str) -> str:
    """Write the prompt again without any direction, for mono baselines and for blind tests of a localizer.

    Args:
        text: Prompt, template or free words.

    Returns:
        For example `EVENT: Dog bark`.

    Raises:
        ValueError: As `parse_prompt`.
    """
    event = _take_apart(text).event
    while (found := find_location(event)) is not None:
        event = _checked_event(found.rest)
    return format_prompt(event)


def _take_apart(text: str) -> ParsedPrompt:
    """Read a prompt as `parse_prompt`, whatever directions its event holds beside the location."""
    words = clean_text(text)
    event_tags = list(_EVENT_TAG.finditer(words))
    location_tags = list(_LOCATION_TAG.finditer(words))
    for name, tags in (("EVENT:", event_tags), ("LOCATION:", location_tags)):
        if len(tags) > 1:
            raise ValueError(f"prompt must have {name!r} at most once, got {len(tags)}; write one event per prompt")
    if event_tags and words[: event_tags[0].start()].strip(" ,;"):
        raise ValueError(f"prompt must begin with 'EVENT:', got {words[:40]!r}; write EVENT: ... & LOCATION: ...")
    head = words[event_tags[0].end() :] if event_tags else words
    if not location_tags:
        return _parse_free_text(head.strip())
    event, _, location = _LOCATION_TAG.sub("\n", head, count=1).partition("\n")
    location = location.strip()
    if not location:
        return _parse_free_text(_checked_event(event))
    event = _checked_event(event)
    return ParsedPrompt(event=event, location=location, azimuth=read_template_location(location, event))


def _draw(num_choices: int, generator: torch.Generator) -> int:
    """Draw one of `num_choices` with equal chance."""
    import torch

    return int(torch.randint(num_choices, (1,), generator=generator, device=generator.device).item())


def _parse_free_text(words: str) -> ParsedPrompt:
    """Read free words: the direction is cut out of them and the rest is the event."""
    found = find_location(words)
    if found is None:
        return ParsedPrompt(event=_checked_event(words), location=None, azimuth=None)
    return ParsedPrompt(event=_checked_event(found.rest), location=found.words, azimuth=found.azimuth)


def _checked_event(event: str) -> str:
    """Trim the event and refuse one without a letter or digit."""
    event = event.strip(" ,;&")
    if not any(char.isalnum() for char in event):
        raise ValueError(f"prompt must name a sound event, got {event!r}; write for example 'EVENT: Dog bark'")
    return event

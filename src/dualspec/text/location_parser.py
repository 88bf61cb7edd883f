"""Read a direction out of words: DOA numbers, clock hours, degrees, or a listener's description."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dualspec.audio.azimuth import circular_error_deg
from dualspec.text.degree_words import find_degrees
from dualspec.text.direction_words import (
    LISTENER,
    NOT_A_SIDE_AFTER,
    PREPOSITIONS,
    REGEX_FLAGS,
    SEVERAL,
    Match,
    ParsedAzimuth,
    Token,
    sum_directions,
    tokenize,
)
from dualspec.text.lexicon import HOUR_WORDS
from dualspec.text.unclear_words import check_context, check_rest

MAX_PROMPT_CHARS = 500
"""Longest prompt in characters."""

_HOUR = rf"(?<![\w.:+-])(\d{{1,3}}|{'|'.join(HOUR_WORDS)})"
_OCLOCK = r"\s?o\s?'?\s?clock(?:s\b|\b)"
_DAYTIME = r"(?!\s*(?:[ap]\.?\s?m\b|in the (?:morning|afternoon|evening)|at night))"
_LEAD = r"(?:\b(?:at|from|in|on|toward|towards)\s+)?(?:\b(?:the|my|your|our)\s+)?(?:\bdirection\s+of\s+)?"
_TAIL = r"(?:\s+(?:direction|position))?"

_HALF_PAST = re.compile(rf"{_LEAD}\bhalf[\s-]past\s+{_HOUR}\b(?:{_OCLOCK})?{_DAYTIME}{_TAIL}", REGEX_FLAGS)
_BETWEEN = re.compile(
    rf"{_LEAD}((?:\b(?:half\s?way|midway)\s+)?\bbetween\s+)?{_HOUR}(?:{_OCLOCK})?\s+(and|to|or)\s+"
    rf"{_HOUR}{_OCLOCK}{_DAYTIME}{_TAIL}",
    REGEX_FLAGS,
)
_COLON = re.compile(
    rf"{_LEAD}{_HOUR}[:.](\d\d)(?![:.]?\d)(?!\s*(?:°|deg))(?:({_OCLOCK})|\b){_DAYTIME}{_TAIL}", REGEX_FLAGS
)
_THIRTY = re.compile(rf"{_LEAD}{_HOUR}[\s-]thirty\b(?:{_OCLOCK})?{_DAYTIME}{_TAIL}", REGEX_FLAGS)
_ON_THE_HOUR = re.compile(rf"{_LEAD}{_HOUR}{_OCLOCK}{_DAYTIME}{_TAIL}", REGEX_FLAGS)
_MY_SIX = re.compile(rf"\b(?:at|on|from)\s+(?:my|your|our)\s+{_HOUR}(?=\s*(?:[,.;!?]|$))", REGEX_FLAGS)

_IDIOMS = re.compile(
    r"\b(?:back[\s-]and[\s-]forth|back[\s-]to[\s-]back|all right|(?:looking|look|fast)[\s-]forward|"
    r"(?:go|goes|going|went)\s+ahead|middle of|right[\s-]handed|left[\s-]handed|left\s?overs?)\b",
    REGEX_FLAGS,
)
_CLAUSE_ENDS = frozenset(",.;:!?()[]")
_CONNECTIVES = frozenset({
    "and", "while", "as", "with", "then", "when", "where", "in", "at", "on", "from", "to", "near", "during", "there",
    "is", "are", "comes", "come", "but", "or", "for", "by", "under", "inside", "outside", "after", "before", "until",
})  # fmt: skip
_DETERMINERS = frozenset({"a", "an", "the", "some", "my", "his", "her", "their", "this", "that", "two", "three", "one"})
# Nouns that turn "the left ..." into a thing instead of a direction.
_THINGS = frozenset({
    "foot", "feet", "leg", "arm", "turn", "wing", "door", "doors", "wheel", "lane", "track", "person", "people",
    "place", "time", "moment", "thing", "note", "key", "button", "pedal", "click", "answer", "window", "row", "seat",
    "hook", "yard", "gate", "desk", "page", "panel", "bank", "brain", "shoe", "boot", "indicator", "blinker", "mouse",
    "engine", "words", "word", "tone", "pitch", "choice", "tool", "size", "eye", "hander", "fielder",
})  # fmt: skip
# "in the back left corner of the room": the room is around the listener.
_SCENES = frozenset({"room", "hall", "scene", "space", "field", "image", "mix", "soundstage"})
# Words that led into a direction and mean nothing without it.
_LEAD_WORDS = frozenset({
    "coming", "comes", "come", "located", "positioned", "placed", "situated", "heard", "somewhere", "sounding",
    "panned", "and", "is", "are", "from",
})  # fmt: skip
_AFTER_PHRASES = ("there is ", "there are ", "there's ", "is ", "are ", "comes ", "come ", "i hear ", "we hear ",
                  "you hear ")  # fmt: skip
_PUNCTUATION = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2032": "'", "\u00b4": "'", "`": "'",
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00ba": "\u00b0",
    "\u02da": "\u00b0", "\u2070": "\u00b0", "\u1d52": "\u00b0", "\u2218": "\u00b0",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FoundLocation:
    """A direction found in free words, and the words around it."""

    words: str
    """The words of the direction."""
    rest: str
    """The text without them."""
    azimuth: ParsedAzimuth
    """What they mean."""


def clean_text(text: str) -> str:
    """Check a prompt at the door and make its marks and white space plain.

    Args:
        text: Prompt.

    Returns:
        The text in Unicode form NFKC, without control characters, with single spaces and ASCII quotes and dashes.

    Raises:
        ValueError: If it is not a str, longer than `MAX_PROMPT_CHARS`, holds a lone surrogate or has no characters.
    """
    if not isinstance(text, str):
        raise ValueError(f"prompt must be str, got {type(text).__name__}; pass words")
    if len(text) > MAX_PROMPT_CHARS:
        raise ValueError(f"prompt must be at most {MAX_PROMPT_CHARS} characters, got {len(text)}; shorten it")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("prompt must be valid Unicode, got a lone surrogate; remove it")
    text = unicodedata.normalize("NFKC", text.translate(_PUNCTUATION)).translate(_PUNCTUATION)
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf" or char in "\u200c\u200d")
    text = " ".join(text.split())
    if not text:
        raise ValueError("prompt must have words, got empty text; say for example 'a dog barking on the left'")
    if len(text) > MAX_PROMPT_CHARS:
        raise ValueError(f"prompt must be at most {MAX_PROMPT_CHARS} characters in NFKC form, got {len(text)}; cut it")
    return text


def parse_location(text: str) -> ParsedAzimuth | None:
    """Read the direction in a text that names a place, with or without an event beside it.

    Clock hours and half hours follow azimuth = (360 - 30 h) mod 360; plain degrees count counter-clockwise, degrees
    with a side from the front to that side.

    Args:
        text: For example `DOA 270`, `3 o'clock`, `half past ten`, `30 degrees to the right`, `behind me to the left`.

    Returns:
        The direction, or None when the words name none.

    Raises:
        ValueError: If the text is empty or too long, names an impossible direction or more than one, or cannot be read
            with certainty.
    """
    return _read_location(clean_text(text))[0]


def read_template_location(words: str, event: str) -> ParsedAzimuth | None:
    """Read a LOCATION as `parse_location`, and refuse words in it that belong neither to its direction nor to EVENT."""
    azimuth, numbers = _read_location(words)
    if azimuth is not None:
        check_rest(words, numbers, event)
    return azimuth


def _read_location(words: str) -> tuple[ParsedAzimuth | None, Sequence[Match]]:
    """Read a place; returns its direction and the numbers that were read in it."""
    numbers = list(_find_numbers(words, is_location=True))
    matches = _in_order([*numbers, *_find_phrases(_blank(words, numbers))])
    check_context(words, matches)
    if len(matches) == len(numbers):
        summed = sum_directions(tokenize(_blank(words, numbers)))
        if summed is not None:
            matches.append(Match(0, len(words), _general(summed)))
    return (_choose(matches).azimuth if matches else None), numbers


def find_location(words: str) -> FoundLocation | None:
    """Find the direction in free words and cut it out of them.

    Only words that place a sound around the listener count: "a dog behind me" does, "the back door" does not.

    Args:
        words: Text that went through `clean_text`.

    Returns:
        The direction and the words without it, or None when the text names no direction.

    Raises:
        ValueError: If the text names an impossible direction or more than one, or one that cannot be read with
            certainty.
    """
    numbers = list(_find_numbers(words, is_location=False))
    matches = _in_order([*numbers, *_find_phrases(_blank(words, numbers))])
    if not matches:
        return None
    check_context(words, matches)
    rest = ""
    position = 0
    for match in matches:
        rest = _join(rest, words[position : match.start])
        position = match.end
    named = ", ".join(words[match.start : match.end].strip(" ,;") for match in matches)
    return FoundLocation(words=named, rest=_join(rest, words[position:]), azimuth=_choose(matches).azimuth)


def _in_order(matches: Sequence[Match]) -> list[Match]:
    return sorted(matches, key=lambda match: match.start)


def _find_numbers(words: str, *, is_location: bool) -> Iterator[Match]:
    """Find degrees and clock hours; of overlapping ones the first kind in this order."""
    taken: list[tuple[int, int]] = []
    for match in find_degrees(words, is_location=is_location):
        taken.append((match.start, match.end))
        yield match
    for pattern, read in (
        (_HALF_PAST, _read_half_past), (_BETWEEN, _read_between), (_COLON, _read_colon), (_THIRTY, _read_half_past),
        (_ON_THE_HOUR, _read_hour), (_MY_SIX, _read_hour),
    ):  # fmt: skip
        for found in pattern.finditer(words):
            if any(found.start() < end and start < found.end() for start, end in taken):
                continue
            azimuth = read(found, is_location)
            if azimuth is not None:
                taken.append(found.span())
                yield Match(*found.span(), azimuth)


def _read_hour(match: re.Match[str], is_location: bool) -> ParsedAzimuth:
    return _clock(_hour(match[1]))


def _read_half_past(match: re.Match[str], is_location: bool) -> ParsedAzimuth:
    return _clock(_hour(match[1]) + 0.5)


def _read_between(match: re.Match[str], is_location: bool) -> ParsedAzimuth:
    first, second = _hour(match[2]), _hour(match[4])
    moves = match[1] is None and (match[3].lower() == "and" or match[0].lower().startswith("from"))
    if moves or (second - first) % 12 != 1:
        raise ValueError(
            f"location must name one direction, got {match[0].strip()!r}; say 'between' neighbouring hours, or one "
            f"hour; {SEVERAL}"
        )
    return _clock(first + 0.5)


def _read_colon(match: re.Match[str], is_location: bool) -> ParsedAzimuth | None:
    has_clock = match[3] is not None
    if not (is_location or has_clock) and (match[2] not in ("00", "30") or not match[1].isdecimal()):
        return None
    if not (is_location or has_clock) and ("." in match[0] or not 1 <= int(match[1]) <= 12):
        return None
    if match[2] not in ("00", "30"):
        raise ValueError(f"clock minutes must be 00 or 30, got {match[2]!r}; say for example 10:30")
    return _clock(_hour(match[1]) + int(match[2]) / 60)


def _hour(word: str) -> int:
    """Read an hour of the clock, in digits or letters."""
    hour = int(word) if word.isdecimal() else HOUR_WORDS.index(word.lower()) + 1
    if not 1 <= hour <= 12:
        raise ValueError(f"clock hour must be 1 to 12, got {word}; 12 is front, 3 right, 9 left")
    return hour


def _clock(hour: float) -> ParsedAzimuth:
    return ParsedAzimuth(azimuth_deg=(360.0 - 30.0 * hour) % 360.0, spread_deg=0.0, style="clock")


def _general(summed: tuple[float, float]) -> ParsedAzimuth:
    return ParsedAzimuth(azimuth_deg=summed[0], spread_deg=summed[1], style="general")


def _blank(words: str, matches: Sequence[Match]) -> str:
    """Put a stop of the same length in the place of what is already understood."""
    for match in matches:
        words = words[: match.start] + ";" * (match.end - match.start) + words[match.end :]
    return _IDIOMS.sub(lambda idiom: "x" * len(idiom[0]), words)


def _choose(matches: Sequence[Match]) -> Match:
    """Take the most exact of directions that agree within 45 degrees, or refuse."""
    best = min(matches, key=lambda match: match.azimuth.spread_deg)
    for match in matches:
        if circular_error_deg(best.azimuth.azimuth_deg, match.azimuth.azimuth_deg) > 45.0:
            got = " and ".join(f"{match.azimuth.azimuth_deg:g}" for match in matches)
            raise ValueError(
                f"prompt must name one direction, got {got[:80]} degrees; write one event and one direction per "
                f"prompt, {SEVERAL}"
            )
    return best


def _find_phrases(words: str) -> Iterator[Match]:
    """Find the runs of direction words that place a sound around the listener."""
    tokens = tokenize(words)
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and tokens[end].joins:
            end += 1
        if end == start:
            start += 1
            continue
        first, last = _trim(tokens, start, end)
        if first < last and _places_sound(tokens, first, last):
            summed = sum_directions(tokens[first:last])
            if summed is not None:
                yield Match(tokens[first].start, tokens[last - 1].end, _general(summed))
        start = max(end, last)


def _trim(tokens: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """Cut joining words off both ends of a run, but for a leading preposition."""
    while end > start and not tokens[end - 1].ends_direction:
        end -= 1
    tail = [token.word for token in tokens[end : end + 3]]
    if len(tail) == 3 and tail[:2] == ["of", "the"] and tail[2] in _SCENES:
        end += 3
    sides = [index for index in range(start, end) if tokens[index].side is not None]
    if not sides:
        return start, start
    while start < sides[0] and not (tokens[start].weight is not None or tokens[start].word in PREPOSITIONS):
        if tokens[start].word in ("the", "my", "your", "our", "a", "far", "very", "all"):
            break
        start += 1
    return start, end


def _places_sound(tokens: Sequence[Token], first: int, last: int) -> bool:
    """Decide whether a run of direction words is a place around the listener or part of a thing's name."""
    run = tokens[first:last]
    before = tokens[first - 1].word if first else ""
    after = tokens[last].word if last < len(tokens) else ""
    sides = [token for token in run if token.side is not None]
    has_listener = any(token.word in LISTENER for token in run)
    at_end = not after or after in _CLAUSE_ENDS or after in _CONNECTIVES
    if after == "of" or after in _THINGS or after == "-":
        return False
    last_word = run[-1].word
    if last_word == "behind" and not at_end:
        return False
    if run[-1].side in ("front", "back") and not at_end and after not in _DETERMINERS and last_word != "ahead":
        return False
    if has_listener or any(token.word in ("behind", "ahead") for token in run):
        return True
    if run[0].word in PREPOSITIONS or any(token.word in ("my", "your", "our") for token in run):
        return True
    if len(sides) > 1 or any(token.weight is not None for token in run):
        return at_end or after in _DETERMINERS
    opens = not before or before in _CLAUSE_ENDS
    if opens and at_end:
        return True
    is_bare_side = sides[0].side in ("left", "right") or sides[0].word in ("head-on", "head on")
    return is_bare_side and at_end and before not in NOT_A_SIDE_AFTER


def _join(head: str, tail: str) -> str:
    """Join the words around a cut, without the joints that led into it."""
    head = head.rstrip(" ,;:&([-")
    while head and head.rsplit(" ", 1)[-1].lower() in _LEAD_WORDS:
        head = head[: -len(head.rsplit(" ", 1)[-1])].rstrip(" ,;:&([-")
    tail = tail.lstrip(" ,;:&)]-")
    if head:
        return f"{head} {tail}".rstrip()
    for phrase in _AFTER_PHRASES:
        if tail.lower().startswith(phrase):
            return tail[len(phrase) :]
    return tail

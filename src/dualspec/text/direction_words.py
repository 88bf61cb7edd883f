"""Words for directions as a listener says them ("behind me, slightly to the left") and what angle they add up to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dualspec.audio.azimuth import circular_error_deg, wrap_deg
from dualspec.text.lexicon import LocationStyle

Side = Literal["front", "back", "left", "right"]
Weight = Literal["slight", "plain", "exact", "most"]

SIDE_AZIMUTH_DEG: dict[str, float] = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
_LATERAL = ("left", "right")
_RANK = {"slight": 1, "plain": 2, "exact": 2, "most": 3}

SEVERAL = "several or moving directions are for `dualspec scene`"
"""Where to go with more than one direction."""
REGEX_FLAGS = re.IGNORECASE | re.ASCII
"""Of every pattern for directions."""
SIDE_WORDS: dict[str, Side] = {
    **dict.fromkeys(("front", "ahead", "forward", "forwards", "frontal", "frontwards", "head-on", "head on"), "front"),
    **dict.fromkeys(("center", "centre", "middle", "infront"), "front"),
    **dict.fromkeys(("behind", "back", "rear", "backward", "backwards", "rearward", "rearwards"), "back"),
    **dict.fromkeys(("left", "leftward", "leftwards", "lefthand", "leftmost", "lefthandside"), "left"),
    **dict.fromkeys(("right", "rightward", "rightwards", "righthand", "rightmost", "righthandside"), "right"),
    # Slips of the keys that are no other word.
    "fornt": "front", "frotn": "front", "behing": "back", "behnid": "back", "behidn": "back", "beihnd": "back",
    "lfet": "left", "letf": "left", "leftt": "left", "rigth": "right", "rihgt": "right", "rgiht": "right",
}  # fmt: skip
WEIGHT_WORDS: dict[str, Weight] = {
    **dict.fromkeys(
        ("slightly", "slight", "bit", "little", "touch", "tad", "hair", "somewhat", "barely", "marginally", "just"),
        "slight",
    ),
    **dict.fromkeys(("mostly", "mainly", "largely", "primarily", "chiefly", "almost", "nearly", "more"), "most"),
    **dict.fromkeys(
        ("directly", "straight", "exactly", "dead", "due", "immediately", "squarely", "precisely", "hard", "fully"),
        "exact",
    ),
}  # fmt: skip
LISTENER = frozenset({"me", "us", "you", "listener", "listeners", "listener's", "myself", "yourself"})
PREPOSITIONS = frozenset({"to", "on", "at", "from", "in", "toward", "towards", "over", "into", "off", "by"})
NOT_A_SIDE_AFTER = frozenset({
    "he", "she", "they", "it", "i", "we", "who", "was", "were", "has", "have", "had", "is", "are", "been", "be",
    "being", "just", "turn", "turns", "turning", "that's", "it's", "not", "nothing", "anything", "everyone",
    "everybody",
})  # fmt: skip
"""A bare "left" or "right" behind one of these is no side."""
# Words that may close a direction ("the left side", "my right ear") ...
_CLOSERS = LISTENER | {
    "side", "hand", "handed", "ear", "ears", "direction", "shoulder", "head", "speaker", "channel", "corner", "area",
    "quadrant", "angle", "lean", "position",
}  # fmt: skip
# ... and words that only join its parts.
_JOINTS = PREPOSITIONS | {
    "the", "my", "your", "our", "of", "and", "a", "an", "with", "but", "than", "far", "very", "all", "way", "moving",
    "located", "positioned", "placed", "situated", "somewhere", "also", "is", ",", "-", "/", "(", ")", "&",
}  # fmt: skip
_BEFORE_NOUN = frozenset({"the", "my", "your", "our", "to", "far", "his", "her", "its", "their"})
# "right" that means "exactly" (before a direction) or nothing at all (before these words).
_RIGHT_EXACT = frozenset({"behind", "ahead", "at"})
_RIGHT_IDLE = frozenset({
    "now", "away", "after", "before", "here", "there", "next", "beside", "near", "above", "on", "through", "into",
    "past", "over", "up", "down", "outside", "inside", "by", "under", "below", "along", "around", "about",
    "across", "against",
})  # fmt: skip

# "just" weighs these; elsewhere it is idle ("just behind me") or a verb follows it ("the bus just left").
_JUST_SLIGHTLY = (["left", "of"], ["right", "of"], ["to", "the"], ["to", "my"], ["to", "your"])

_TOKEN = re.compile(r"head[- ]on\b|\w+(?:'\w+)*|[^\s\w]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ParsedAzimuth:
    """A direction understood from words."""

    azimuth_deg: float
    """Azimuth in [0, 360), degrees counter-clockwise, 90 = left."""
    spread_deg: float
    """Half width of what the words leave open, degrees; 0 for numbers and clock hours."""
    style: LocationStyle
    """Kind of the words."""


@dataclass(frozen=True)
class Match:
    """One direction with its place in the text."""

    start: int
    end: int
    azimuth: ParsedAzimuth


@dataclass(frozen=True)
class Token:
    """One word or mark of a text, with the part it plays in a direction."""

    word: str
    start: int
    end: int
    side: Side | None = None
    weight: Weight | None = None

    @property
    def names_direction(self) -> bool:
        """Whether the word says or weighs a side."""
        return self.side is not None or self.weight is not None

    @property
    def joins(self) -> bool:
        """Whether the word may stand between two parts of a direction."""
        return self.names_direction or self.word in _CLOSERS or self.word in _JOINTS

    @property
    def ends_direction(self) -> bool:
        """Whether a direction may end with this word."""
        return self.names_direction or self.word in _CLOSERS


@dataclass(frozen=True)
class _Part:
    """One side with its weight, in the order of the text."""

    side: Side
    weight: Weight


def tokenize(text: str) -> list[Token]:
    """Split a text into words and marks, each with the side or weight it may mean."""
    spans = [(match.group().lower(), match.start(), match.end()) for match in _TOKEN.finditer(text.replace("_", " "))]
    words = [word for word, _, _ in spans]
    tokens = []
    for index, (word, start, end) in enumerate(spans):
        side, weight = _meaning(words, index)
        tokens.append(Token(word, start, end, side, weight))
    return tokens


def _meaning(words: Sequence[str], index: int) -> tuple[Side | None, Weight | None]:
    """Say which side or weight a word means where it stands."""
    word = words[index]
    before = words[index - 1] if index else ""
    after = words[index + 1] if index + 1 < len(words) else ""
    if word == "right":
        return _meaning_of_right(words, index)
    if word == "head" and before == "straight":
        return "front", None
    if word == "before" and after in LISTENER:
        return "front", None
    if word == "shoulder" and before in ("left", "right", "my", "your") and "over" in words[max(0, index - 3) : index]:
        return "back", None
    if word == "just" and words[index + 1 : index + 3] not in _JUST_SLIGHTLY:
        return None, None
    return SIDE_WORDS.get(word), WEIGHT_WORDS.get(word)


def _meaning_of_right(words: Sequence[str], index: int) -> tuple[Side | None, Weight | None]:
    """Tell the side "right" from the "right" of "right behind me" and "right now"."""
    before = words[index - 1] if index else ""
    after = words[index + 1] if index + 1 < len(words) else ""
    is_side = before in _BEFORE_NOUN or before in WEIGHT_WORDS or before in SIDE_WORDS
    if is_side:
        return "right", None
    if after in _RIGHT_EXACT or words[index + 1 : index + 3] == ["in", "front"]:
        return None, "exact"
    if after in _RIGHT_IDLE:
        return None, None
    return "right", None


def sum_directions(tokens: Sequence[Token]) -> tuple[float, float] | None:
    """Add up the sides that a phrase names into one angle.

    Two plain sides give the diagonal; a slight one pulls 30 degrees off the other's axis; a slight one after a diagonal
    moves it by 15 degrees ("right rear, slightly toward the back" is 210).

    Args:
        tokens: Phrase of one direction.

    Returns:
        Azimuth and half width of what the words leave open, both in degrees; None when no side is named.

    Raises:
        ValueError: If the phrase names opposite sides.
    """
    parts = _weigh_parts(tokens)
    main, pulls = _split_pulls(parts)
    lateral = [part for part in main if part.side in _LATERAL]
    depth = [part for part in main if part.side not in _LATERAL]
    for axis in (lateral, depth):
        sides = list(dict.fromkeys(part.side for part in axis))
        if len(sides) > 1:
            raise ValueError(
                f"location must name one direction, got {' and '.join(sides)}; name one of them, {SEVERAL}"
            )
    if not main:
        return None
    if not lateral or not depth:
        return _single_axis(main)
    azimuth, spread = _two_axes(lateral, depth)
    for pull in pulls:
        target = SIDE_AZIMUTH_DEG[pull.side]
        azimuth = min(
            (wrap_deg(azimuth + 15.0), wrap_deg(azimuth - 15.0)), key=lambda angle: circular_error_deg(target, angle)
        )
    return azimuth, spread


def _weigh_parts(tokens: Sequence[Token]) -> list[_Part]:
    """Give each named side the weight word before it, or one left over after the last."""
    parts: list[_Part] = []
    weight: Weight | None = None
    for index, token in enumerate(tokens):
        if token.weight is not None and (weight is None or _RANK[token.weight] != 2):
            weight = token.weight
        if token.side is None:
            continue
        of_front = [later.word for later in tokens[index + 1 : index + 2]] == ["of"] and any(
            later.side == "front" for later in tokens[index + 2 : index + 5]
        )
        if weight is None and token.side in _LATERAL and of_front:
            weight = "slight"
        parts.append(_Part(token.side, weight or "plain"))
        weight = None
    if weight == "slight" and parts and parts[-1].weight == "plain":
        parts[-1] = _Part(parts[-1].side, "slight")
    return parts


def _split_pulls(parts: list[_Part]) -> tuple[list[_Part], list[_Part]]:
    """Part the slight sides that follow a complete diagonal from the rest."""
    for index in range(len(parts)):
        strong = [part for part in parts[:index] if part.weight != "slight"]
        if {part.side in _LATERAL for part in strong} == {True, False}:
            later = parts[index:]
            pulls = [part for part in later if part.weight == "slight"]
            return parts[:index] + [part for part in later if part.weight != "slight"], pulls
    return parts, []


def _single_axis(parts: list[_Part]) -> tuple[float, float]:
    """Place a direction that names only left or right, or only front or back."""
    azimuth = SIDE_AZIMUTH_DEG[parts[0].side]
    if parts[0].side in _LATERAL and all(part.weight == "slight" for part in parts):
        return (30.0, 15.0) if parts[0].side == "left" else (330.0, 15.0)
    return azimuth, 7.5 if any(part.weight == "exact" for part in parts) else 30.0


def _two_axes(lateral: list[_Part], depth: list[_Part]) -> tuple[float, float]:
    """Place a direction between left or right and front or back."""
    lateral_rank = max(_RANK[part.weight] for part in lateral)
    depth_rank = max(_RANK[part.weight] for part in depth)
    off_median = 45.0 if lateral_rank == depth_rank else 60.0 if lateral_rank > depth_rank else 30.0
    azimuth = off_median if depth[0].side == "front" else 180.0 - off_median
    return wrap_deg(azimuth if lateral[0].side == "left" else -azimuth), 15.0

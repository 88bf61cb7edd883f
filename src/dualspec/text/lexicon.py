"""The words for directions: three location styles, four lexicons of general descriptions of the 12 azimuth sectors.

The paper gives one example of a general description and its demo page about a dozen, some of which serve two
neighbouring sectors. `distinct` is our own table in which every phrase belongs to exactly one sector, `wide` the same
with the words that people type most, `rich` holds `wide` and half as many again; `paper_like` keeps the ambiguous
wording for the ablation.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from dualspec.audio.azimuth import NUM_SECTORS

LocationStyle = Literal["doa", "clock", "general"]
Lexicon = Literal["distinct", "wide", "rich", "paper_like"]
LexiconSplit = Literal["train", "heldout", "all"]

LOCATION_STYLES: tuple[LocationStyle, ...] = get_args(LocationStyle)
HOUR_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_FINEST_GRIDS: dict[LocationStyle, int] = {"clock": 24, "general": NUM_SECTORS}

# One phrase per template and sector. The first is the canonical one: it is what a prompt without a generator says.
_FRONT_TRAIN = ("straight ahead", "directly in front", "dead ahead", "exactly in front")
_FRONT_HELDOUT = ("head-on", "front and center")
_BACK_TRAIN = ("directly behind", "straight behind", "exactly at the back", "directly at the rear")
_BACK_HELDOUT = ("due rear", "from the very back")
_SIDE_TRAIN = ("directly to the {side}", "straight {side}", "hard {side}", "exactly at the {side} side")
_SIDE_HELDOUT = ("due {side}", "at the {side} ear")

# 30 degrees off the median plane.
_NEAR_FRONT_TRAIN = (
    "ahead, slightly to the {side}",
    "mostly in front, a little {side}",
    "slightly {side} of straight ahead",
    "front, with a slight angle to the {side}",
)
_NEAR_FRONT_HELDOUT = ("nearly straight ahead, a touch {side}", "forward and a bit to the {side}")
_NEAR_BACK_TRAIN = (
    "behind, slightly to the {side}",
    "mostly at the back, a little {side}",
    "slightly {side} of directly behind",
    "rear, with a slight angle to the {side}",
)
_NEAR_BACK_HELDOUT = ("nearly straight behind, a touch {side}", "backward and a bit to the {side}")

# 30 degrees off the interaural axis.
_SIDE_FRONT_TRAIN = (
    "{side}, slightly toward the front",
    "mostly {side}, a little ahead",
    "slightly in front of the {side} side",
    "{side}, with a slight angle to the front",
)
_SIDE_FRONT_HELDOUT = ("nearly straight {side}, a touch forward", "{side} and a bit to the front")
_SIDE_BACK_TRAIN = (
    "{side}, slightly toward the back",
    "mostly {side}, a little behind",
    "slightly behind the {side} side",
    "{side}, with a slight angle to the rear",
)
_SIDE_BACK_HELDOUT = ("nearly straight {side}, a touch backward", "{side} and a bit to the rear")


def _ring(
    front: tuple[str, ...],
    near_front: tuple[str, ...],
    side_front: tuple[str, ...],
    side: tuple[str, ...],
    side_back: tuple[str, ...],
    near_back: tuple[str, ...],
    back: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Fill the 12 sectors counter-clockwise from the templates of one half circle (the other half mirrors it)."""
    half = (near_front, side_front, side, side_back, near_back)
    left = [tuple(phrase.format(side="left") for phrase in phrases) for phrases in half]
    right = [tuple(phrase.format(side="right") for phrase in phrases) for phrases in half]
    return (front, *left, back, *reversed(right))


_DISTINCT: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": _ring(
        _FRONT_TRAIN, _NEAR_FRONT_TRAIN, _SIDE_FRONT_TRAIN, _SIDE_TRAIN, _SIDE_BACK_TRAIN, _NEAR_BACK_TRAIN, _BACK_TRAIN
    ),
    "heldout": _ring(
        _FRONT_HELDOUT,
        _NEAR_FRONT_HELDOUT,
        _SIDE_FRONT_HELDOUT,
        _SIDE_HELDOUT,
        _SIDE_BACK_HELDOUT,
        _NEAR_BACK_HELDOUT,
        _BACK_HELDOUT,
    ),
}

# More words for the same sectors, of which `wide` trains as well; what is held out stays out of both.
_MORE = _ring(
    front=(
        "in front of me",
        "right in front of you",
        "from the front",
        "ahead of the listener",
        "straight in front of me",
    ),
    near_front=(
        "in front, slightly {side}",
        "ahead and slightly to the {side}",
        "in front of me, a little to the {side}",
        "mainly ahead, somewhat to the {side}",
        "just {side} of center",
        "almost ahead, slightly {side}",
        "in front of you, slightly to your {side}",
    ),
    side_front=(
        "on the {side}, slightly ahead",
        "mainly to the {side}, somewhat in front",
        "on my {side}, a little in front of me",
        "to the {side} and slightly ahead",
        "almost {side}, slightly forward",
        "to your {side}, slightly in front of you",
    ),
    side=("on my {side}", "to your {side}", "from the {side}", "on the {side} side", "to the {side} of the listener"),
    side_back=(
        "on the {side}, slightly behind",
        "mainly to the {side}, somewhat behind",
        "on my {side}, a little behind me",
        "to the {side} and slightly back",
        "almost {side}, slightly to the rear",
        "to your {side}, slightly behind you",
    ),
    near_back=(
        "behind, slightly {side}",
        "behind me and slightly to the {side}",
        "behind me, a little to the {side}",
        "mainly behind, somewhat to the {side}",
        "almost behind, slightly {side}",
        "behind you, slightly to your {side}",
    ),
    back=("behind me", "right behind you", "from behind", "at the rear", "straight behind me"),
)

# What `rich` trains beside `wide`.
_STILL_MORE = _ring(
    front=(
        "directly ahead",
        "right ahead",
        "ahead of me",
        "in front of the listener",
        "right in front of me",
        "straight in front of you",
    ),
    near_front=(
        "in front of me and slightly to the {side}",
        "ahead of me, a little {side}",
        "slightly to the {side} of center",
        "a little {side} of straight ahead",
        "mostly ahead, slightly to the {side}",
        "almost straight ahead, slightly to the {side}",
        "in front of the listener, slightly to the {side}",
    ),
    side_front=(
        "to my {side} and slightly in front",
        "on the {side}, a little forward",
        "mostly to the {side}, slightly in front",
        "on your {side}, a little ahead of you",
        "almost directly {side}, slightly ahead",
        "to the {side} of the listener, slightly in front",
    ),
    side=("to the {side}", "on the {side}", "to my {side}", "on your {side}", "off to the {side}", "from my {side}"),
    side_back=(
        "to my {side} and slightly behind",
        "on the {side}, a little behind",
        "mostly to the {side}, slightly behind",
        "on your {side}, a little behind you",
        "almost directly {side}, slightly behind",
        "to the {side} of the listener, slightly behind",
    ),
    near_back=(
        "behind you and slightly to the {side}",
        "behind me, slightly {side}",
        "at the back, slightly to the {side}",
        "a little {side} of directly behind",
        "mostly behind, slightly to the {side}",
        "almost straight behind, slightly to the {side}",
        "behind the listener, slightly to the {side}",
    ),
    back=(
        "right behind me",
        "behind you",
        "at my back",
        "behind the listener",
        "directly behind me",
        "straight behind you",
    ),
)

_TRAINED = {
    "distinct": (_DISTINCT["train"],),
    "wide": (_DISTINCT["train"], _MORE),
    "rich": (_DISTINCT["train"], _MORE, _STILL_MORE),
}

# Wordings of the paper's Fig. 4 and of its demo page, mirrored to the other side. Read by a listener, "left front" and
# "front left" are one and the same direction: that is the point of this table.
_PAPER_LIKE = _ring(
    front=("straight ahead", "straight head", "in front"),
    near_front=("forward {side}, slight angle", "{side} front", "front, slightly to the {side}"),
    side_front=("toward the front {side}", "to the {side} front, slightly moving back", "front {side}"),
    side=("to the {side}", "on the {side} side", "{side}"),
    side_back=("rear {side}", "toward the rear {side}", "{side}, slightly to the rear"),
    near_back=("{side} rear", "rear, slightly to the {side}", "positioned to the rear on the {side} side",
               "{side} rear, slightly toward the back"),
    back=("directly behind", "behind", "at the rear"),
)  # fmt: skip


def num_directions(style: LocationStyle, num_azimuths: int = NUM_SECTORS) -> int:
    """Count the directions of an even grid for which a location style has words of their own.

    `doa` numbers all of them; the clock has 24, in steps of half an hour; the general descriptions are of 12 sectors.
    Those of a style that lie on the grid are evenly spaced as well, from the front.

    Args:
        style: `doa`, `clock` or `general`.
        num_azimuths: Directions of the grid, from 0.

    Returns:
        For example 72, 24 and 12 of 72 azimuths; 12, 12 and 12 of 12; 36, 12 and 12 of 36.

    Raises:
        ValueError: If the style is unknown.
    """
    if style not in LOCATION_STYLES:
        raise ValueError(f"style must be one of {', '.join(LOCATION_STYLES)}, got {style!r}; say 'clock'")
    return math.gcd(num_azimuths, _FINEST_GRIDS.get(style, num_azimuths))


def location_weights(num_azimuths: int = NUM_SECTORS) -> list[tuple[int, ...]]:
    """Say how often each style names each direction of an even grid when all styles are equally frequent.

    Within a style its directions are equally likely, so a direction that every style can name comes more often than one
    that only degrees can.

    Args:
        num_azimuths: Directions of the grid, from 0.

    Returns:
        (num_azimuths, 3) whole numbers, in proportion to the probability of the pair of direction and style, styles in
        the order of `LOCATION_STYLES`; 0 where the style has no words for the direction.

    Paper: section V-C, whose 12 directions can all be named in every style.
    """
    counts = [num_directions(style, num_azimuths) for style in LOCATION_STYLES]
    common = math.lcm(*counts)
    return [
        tuple(common // count if index * count % num_azimuths == 0 else 0 for count in counts)
        for index in range(num_azimuths)
    ]


def general_phrases(sector: int, *, lexicon: Lexicon = "distinct", split: LexiconSplit = "train") -> tuple[str, ...]:
    """List the general descriptions of one azimuth sector, the canonical one first.

    Args:
        sector: Azimuth class 0 to 11, counter-clockwise in steps of 30 degrees from the front.
        lexicon: `distinct` (no phrase serves two sectors), `wide` (the same and more of them), `rich` (still more) or
            `paper_like` (the paper's ambiguous wording).
        split: `train`, `heldout` (paraphrases that training never shows) or `all`.

    Returns:
        Phrases without the sound event, lower case.

    Raises:
        ValueError: If the lexicon or the split is unknown, or the lexicon has no held-out phrases.

    Paper: section V-C, Fig. 4 (General Description).
    """
    if split not in get_args(LexiconSplit):
        raise ValueError(f"split must be one of {', '.join(get_args(LexiconSplit))}, got {split!r}; say 'train'")
    if lexicon == "paper_like":
        if split == "heldout":
            raise ValueError(
                "split must be 'train' or 'all' for lexicon 'paper_like', got 'heldout'; "
                "only the other lexicons hold phrases back"
            )
        return _PAPER_LIKE[sector]
    if lexicon not in get_args(Lexicon):
        raise ValueError(f"lexicon must be one of {', '.join(get_args(Lexicon))}, got {lexicon!r}; say 'distinct'")
    trained = tuple(phrase for table in _TRAINED[lexicon] for phrase in table[sector])
    heldout = _DISTINCT["heldout"][sector]
    return {"train": trained, "heldout": heldout, "all": trained + heldout}[split]

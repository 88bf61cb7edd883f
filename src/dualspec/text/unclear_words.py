"""Words beside a direction that change what it means: they are refused, with what to write instead."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from dualspec.audio.azimuth import circular_error_deg
from dualspec.text.degree_words import NUMBER_WORDS, unread_degrees
from dualspec.text.direction_words import REGEX_FLAGS, SEVERAL, SIDE_WORDS, Match, tokenize

_WINDOW = 60  # characters on either side of a direction that are looked at
_SIDE = rf"(?:{'|'.join(sorted(SIDE_WORDS, key=len, reverse=True))})"
_OWN = r"(?:(?:the|my|your|our) )?"
_ME = r"(?: (?:me|us|you|my head|your head|the listener))?"
_SMALL_WORDS = (
    r"(?:(?:quite|exactly|coming|heard|located|placed|from|on|to|at|in|the|my|your|really|directly|even|so|necessarily|"
    r"just|it|is|be|a|sound|sounds|appear|appearing|playing) ){0,4}"
)

_FROM_TO = re.compile(
    rf"\bfrom {_OWN}{_SIDE}(?: side)? ?(?:-|to|towards?|into|through|past|via|\u2192|->|>)+ ?{_OWN}(?:in )?{_SIDE}\b"
    rf"|\b(?:left|right)(?: side)?[ -]to[ -](?:left|right|front|back|rear|cent(?:er|re)|middle|behind)\b"
    rf"|\bfront[ -]to[ -](?:back|rear)\b|\b(?:back|rear)[ -]to[ -]front\b"
    rf"|\b{_SIDE} ?(?:\u2192|->|=>|>) ?{_OWN}{_SIDE}\b|\b{_SIDE},? (?:and )?then\b",
    REGEX_FLAGS,
)
_FROM_BEHIND_TO_A_SIDE = re.compile(r"from behind (?:to|towards?) (?:the|my|your|our) (?:left|right)$", REGEX_FLAGS)
_MOVING_INSIDE = re.compile(r"(?<!slightly )\bmoving\b", REGEX_FLAGS)
_AROUND = re.compile(
    r"\b(?:circl|orbit|rotat|revolv|spinn)(?:e|es|s|ing) (?:around |round |about )?(?:me|us|you|my head|the listener)\b"
    r"|\b(?:side to side|one side to (?:the|an)other)\b",
    REGEX_FLAGS,
)
_MOVES = (
    r"\b(?:mov(?:e|es|ed|ing)|pan(?:s|ning)|travel(?:s|l?ed|l?ing)|sweep(?:s|ing)|swept|drift(?:s|ed|ing)|"
    r"shift(?:s|ing)|cross(?:es|ing)|head(?:s|ed|ing)|fad(?:es|ing)|veer(?:s|ing)?|swerv(?:es|ing)|rotat(?:es|ing)|steer(?:s|ing))"
)
_GOES = (
    r"\b(?:walk(?:s|ing)|driv(?:es|ing)|fl(?:ies|ying)|go(?:es|ing)|went|rid(?:es|ing)|gallop(?:s|ing)|"
    r"slid(?:es|ing)|roll(?:s|ing)|rush(?:es|ing)|speed(?:s|ing)|rac(?:es|ing))"
)
_BY_THE_WAY = r" (?:\w+ly |away |off |over |around |round |past |all the way |back |further ){0,2}$"
_MOVES_BEFORE, _GOES_BEFORE = (re.compile(verb + _BY_THE_WAY, REGEX_FLAGS) for verb in (_MOVES, _GOES))
_BARE_SIDE = r"(?:left|right(?! (?:behind|ahead|in front|at)\b))(?:wards?)?\b"
_GOAL = re.compile(rf"(?:to|towards?|into|over to) |{_BARE_SIDE}", REGEX_FLAGS)
_GOAL_OF_ANY = re.compile(rf"to (?!my|your|our)|towards? |into |{_BARE_SIDE}", REGEX_FLAGS)

_NEGATED = re.compile(
    rf"(?:\b(?:not|never|except(?: for)?|excluding|instead of|rather than|anywhere but|everywhere but|"
    rf"opposite(?: of| to)?|away from|no longer|neither|nor|unlike|other than|avoid(?:ing)?|(?:is|are|was|were)n't)"
    rf" {_SMALL_WORDS}|n't (?:come|hear|be|want|place|put|sound)\b[^@]*|\b(?:no|without any) \w+ )$",
    REGEX_FLAGS,
)
_AWAY = re.compile(r"\b(?:away|far) $", REGEX_FLAGS)
_EITHER = re.compile(r"\b(?:either|neither|both) (?:\w+ )?$", REGEX_FLAGS)
_OR_NEXT = re.compile(r" ?,? ?(?:or|nor|/|and/or) (?:else |maybe |perhaps )?@", REGEX_FLAGS)
_THEN_NEXT = re.compile(
    r" ?,? ?(?:(?:and )?then|\u2192|-+>|=>|>|until|and ends?|and (?:moves?|goes)|to|towards?|into|through|past|via)"
    r"(?: \w+){0,2} ?@",
    REGEX_FLAGS,
)
_HEIGHT_OF_SIDE = re.compile(r"\b(?:upper|lower|top|bottom|higher)[ -]$", REGEX_FLAGS)
_HEIGHT_OF_LEFT = re.compile(r"\b(?:up|down|high|low|above|below|overhead|upwards?|downwards?)[ -]$", REGEX_FLAGS)
_HEIGHT_AND = re.compile(
    rf"\b(?:up|down|upwards?|downwards?|high|low|above|below|overhead|beneath){_ME},? (?:and|but) (?:slightly )?$",
    REGEX_FLAGS,
)
_HEIGHT_AFTER = re.compile(
    r"[ ,-]{1,2}(?:and |but )?(?:(?:slightly|a bit|a little|very) )?"
    r"(?:up(?:wards?)?|down(?:wards?)?|above|below|overhead|high(?:er)?(?: up)?|low(?:er)?|elevated|upper)"
    r"(?=$| ?[,.;!?)\]]| (?:me|us|you|my|the listener)\b)|[ ,]{1,2}(?:at )?(?:an? )?elevat(?:ion|ed)\b",
    REGEX_FLAGS,
)
_ELEVATION = re.compile(r"\b(?:elevation|altitude|inclination)\b ?(?:angle )?(?:of|is|=|:|at)? ?[+-]?\d", REGEX_FLAGS)
_PART_BEFORE = re.compile(
    r"\b(?:half|half-?way|midway|(?:one |a |three )?quarters?|(?:a |one )third|an? eighth)"
    r"(?: (?:of )?(?:an? )?(?:turn|circle|way|rotation))?(?: to| of)? ?-?$",
    REGEX_FLAGS,
)
_OFFSET_BEFORE = re.compile(
    rf"(?:\b(?:quarters?|minutes?|half|\d+|{NUMBER_WORDS}) (?:to|past|after|before|till|of)|"
    rf"\b(?:minus|negative|between|past|after|before|until|till)) (?:the )?$",
    REGEX_FLAGS,
)
_SIDE_OF_BEFORE = re.compile(rf"\b(?:{_SIDE}|(?:counter|anti)?-?clockwise) (?:of|from|off) (?:the )?$", REGEX_FLAGS)
_OFFSET_AFTER = re.compile(
    r" (?:thirty|fifteen|forty[ -]five|and (?:a|an|one) (?:half|quarter)|(?:plus|minus)\b)|"
    r" ?(?:to|-|\u2192|->|until|through)+ ?(?:\d+|[a-z]+) ?o ?'? ?clock",
    REGEX_FLAGS,
)
_BARE_NUMBER_BEFORE = re.compile(rf"(?<![\w.:])(?:\d{{1,3}}|(?!one ){NUMBER_WORDS}) ,?$", REGEX_FLAGS)
_BARE_NUMBER_AFTER = re.compile(r"[ ,:(=]{0,3}(?:(?:at|by) )?[-+]?\d{1,3}(?:\.\d+)?\)?(?=$| ?[,.;!?)])", REGEX_FLAGS)
_OTHER_UNIT_BEFORE = re.compile(
    r"(?:%|\b(?:percent|per cent|rad|radians?|gradians?|gon|mils?)|"
    rf"(?:\d|\b{NUMBER_WORDS}) (?:hours?|turns?|clicks?|steps?))"
    r"(?: (?:off|over|panned|pan))?[ ,]{1,2}$",
    REGEX_FLAGS,
)
_UNREAD_NUMBER = re.compile(r"\b(?:doa|azimuth)\b ?(?:of|is|=|:|at)? ?[+-]?\d", REGEX_FLAGS)
_ONE_AND_OTHER = re.compile(
    r"\b(?:one|two|three|some|half|first)\b[^@]*(?:@|\b(?:left|right|front|back|behind|ahead)\b)[^@]*"
    r"\b(?:one|another|others?|some|half|second)\b[^@]*@",
    REGEX_FLAGS,
)
_LINK_WORDS = frozenset({
    "and", "is", "at", "about", "around", "exactly", "precisely", "approximately", "roughly", "i", "e", "ie", "that",
    "namely", "so", "coming", "from", "it's", "as", "there", "sound", "azimuth", "doa",
})  # fmt: skip

# What may stand in LOCATION beside the words of a direction.
_FILLERS = frozenset({
    "about", "around", "approximately", "approx", "roughly", "circa", "ca", "some", "quite", "really", "purely", "only",
    "completely", "entirely", "totally", "absolutely", "clearly", "extreme", "extremely", "absolute", "relative",
    "pure", "it", "it's", "its", "be", "are", "was", "should", "that", "this", "there", "here", "where", "which", "as",
    "seen", "now", "panned",
    "sound", "sounds", "source", "noise", "audio", "event", "signal", "heard", "hear", "coming", "comes", "come",
    "arriving", "sounding", "playing", "appears", "i", "am", "he", "his", "her", "their", "person", "person's", "user",
    "user's", "observer", "own", "body", "out", "over", "ish", "pan", "stereo", "headphone", "earphone",
    "headphones", "region", "zone", "part", "sector", "section", "hemisphere", "flank", "end", "edge", "field",
    "room", "hall", "scene", "space", "image", "mix", "soundstage", "please", "between", "midway", "halfway", "azimuth",
    "location", "place", "near", "clock", "ahead", "face", "still", "static", "stationary", "fixed", "for", "bearing",
    "immediate", "full", "exact", "sharp", "microphone", "mic", "camera", "viewer", "player", "wearer",
})  # fmt: skip
_HARMLESS = re.compile(
    r"\b(?:(?:close|next|near) to (?=(?:the |my |your )?(?:left|right) ear)|or so\b|i\.? ?e\b|"
    r"(?:same|ear|head|eye)[ -](?:level|height)\b)|"
    r"(?<=\bleft )(?:half|third|quarter)\b|(?<=\bright )(?:half|third|quarter)\b|(?<=\brear )quarter$|\bright now\b",
    REGEX_FLAGS,
)
_MARKS = frozenset(".;:!?[]{}=~'\"*|+<>@#_\u2022\u00b7\u2026\u200c\u200d")


def check_context(words: str, matches: Sequence[Match]) -> None:
    """Refuse directions that the words around them change, and several of them.

    Args:
        words: Text that went through `clean_text`.
        matches: The directions that were found in it, in the order of the text.

    Raises:
        ValueError: If the text moves, negates, lifts, halves or doubles a direction, or holds degrees that nobody read.
    """
    moving = _FROM_TO.search(_mark(words, [match for match in matches if match.azimuth.style != "general"])[0])
    if moving is not None and not _FROM_BEHIND_TO_A_SIDE.match(moving[0]):
        raise _one_direction(moving[0])
    if not matches:
        return
    marked, places = _mark(words, matches)
    if found := _AROUND.search(words):
        raise _one_direction(found[0])
    if found := _ONE_AND_OTHER.search(marked):
        raise _one_direction(words)
    for match, place in zip(matches, places, strict=True):
        said = words[match.start : match.end]
        _check_beside(said, match, marked[max(0, place - _WINDOW) : place], marked[place + 1 : place + 1 + _WINDOW])
    _check_several(words, matches)
    rest = marked.replace("@", ";")
    if (degrees := unread_degrees(rest)) is not None or (number := _UNREAD_NUMBER.search(rest)) is not None:
        got = degrees if degrees is not None else number[0] if number is not None else ""
        raise ValueError(
            f"location must hold degrees that belong to one side, got {got!r} apart from it; write for example "
            "'30 degrees to the right' or 'DOA 330'"
        )


def check_rest(words: str, matches: Sequence[Match], event: str) -> None:
    """Refuse what stands in a LOCATION beside its direction, which would be lost.

    Args:
        words: The LOCATION, which went through `clean_text`.
        matches: Numbers that were read in it.
        event: The EVENT; what it says may be said again.

    Raises:
        ValueError: If there are other words.
    """
    blank = _HARMLESS.sub(lambda found: ";" * len(found[0]), words)
    known = _FILLERS | _MARKS | {token.word for token in tokenize(event)}
    for match in matches:
        blank = blank[: match.start] + ";" * (match.end - match.start) + blank[match.end :]
    tokens = tokenize(blank)
    left = [index for index, token in enumerate(tokens) if not token.joins and token.word not in known]
    if left:
        first = left[0] - 1 if left[0] and tokens[left[0] - 1].word in ("far", "very", "all") else left[0]
        got = words[tokens[first].start : tokens[left[-1]].end]
        raise ValueError(
            f"location must be one direction around the listener and nothing else, got also {got[:80]!r}; leave that "
            "out, or write it into EVENT"
        )


def _mark(words: str, matches: Sequence[Match]) -> tuple[str, list[int]]:
    """Put one mark in the place of each direction; returns the text and the places of the marks."""
    marked, places, position = "", [], 0
    for match in matches:
        marked += words[position : match.start].replace("@", "#")
        places.append(len(marked))
        marked += "@"
        position = match.end
    return marked + words[position:].replace("@", "#"), places


def _check_beside(said: str, match: Match, before: str, after: str) -> None:
    """Refuse a direction that its neighbours change."""
    is_clock, is_general = match.azimuth.style == "clock", match.azimuth.style == "general"
    before, after = _with_edges(said, before, after)
    said = said.strip(" ,;-")
    is_bare = re.match(rf"{_SIDE}\b", said, REGEX_FLAGS) is not None
    if _NEGATED.search(before) or (_AWAY.search(before) and said.lower().startswith("from ")):
        raise ValueError(
            f"location must say where the sound is, got {_said(before, said)!r}, where it is not; write for example "
            f"'on the right', and use `dualspec scene` for several directions"
        )
    goes = (_MOVES_BEFORE.search(before) and _GOAL.match(said)) or (
        _GOES_BEFORE.search(before) and _GOAL_OF_ANY.match(said)
    )
    if is_general and (goes or _MOVING_INSIDE.search(said)):
        raise _one_direction(_said(before, said))
    if _EITHER.search(before) or _OR_NEXT.match(after) or _THEN_NEXT.match(after):
        raise _one_direction(_said(before, said) + after[:30])
    is_raised = (is_bare and _HEIGHT_OF_SIDE.search(before)) or (
        re.match(_BARE_SIDE, said, REGEX_FLAGS) and _HEIGHT_OF_LEFT.search(before)
    )
    if is_raised or any(pattern.search(before) for pattern in (_HEIGHT_AND, _ELEVATION)) or _HEIGHT_AFTER.match(after):
        raise ValueError(
            f"location must be at the height of the ears, got {(_said(before, said) + after)[:80]!r}; leave the height "
            "out, as the model knows none"
        )
    is_offset = (is_clock and (_OFFSET_BEFORE.search(before) or _OFFSET_AFTER.match(after))) or (
        not is_general and _SIDE_OF_BEFORE.search(before)
    )
    if is_offset:
        raise ValueError(
            f"location must be a full or half hour of the clock, got {(_said(before, said) + after)[:80]!r}; write for "
            "example 'half past two direction' or 'DOA 285'"
        )
    is_part = _PART_BEFORE.search(before) is not None and is_general
    number = (_BARE_NUMBER_BEFORE.search(before) and said.lower().startswith("to ")) or (
        _BARE_NUMBER_AFTER.match(after) is not None
    )
    if is_general and (is_part or number or _OTHER_UNIT_BEFORE.search(before)):
        raise ValueError(
            f"location must count in degrees, got {(_said(before, said) + after)[:80]!r}; write for example "
            "'30 degrees to the right' or 'DOA 330'"
        )


def _with_edges(said: str, before: str, after: str) -> tuple[str, str]:
    """Give the space and marks at the ends of a direction back to the text around it."""
    head = said[: len(said) - len(said.lstrip(" ,;"))]
    tail = said[len(said.rstrip(" ,;-")) :]
    return before + head, tail + after


def _check_several(words: str, matches: Sequence[Match]) -> None:
    """Refuse two directions of two sounds, however near they are to each other."""
    for first, second in itertools.pairwise(matches):
        apart = circular_error_deg(first.azimuth.azimuth_deg, second.azimuth.azimuth_deg)
        if apart < 1e-6:
            continue
        is_same_kind = first.azimuth.style == second.azimuth.style != "general"
        if is_same_kind or (_has_content(words[: first.start]) and _has_content(words[first.end : second.start])):
            raise _one_direction(words[first.start : second.end])


def _has_content(text: str) -> bool:
    return any(
        not token.joins and token.word[0].isalnum() and token.word not in _LINK_WORDS for token in tokenize(text)
    )


def _said(before: str, said: str) -> str:
    """Show a direction with the last words before it."""
    link = "" if before.endswith("-") else " "
    return f"{' '.join(before.split()[-4:])}{link}{said}".replace("@", "\u2026").strip()


def _one_direction(got: str) -> ValueError:
    return ValueError(f"location must name one direction that stays, got {got[:80].replace('@', '...')!r}; {SEVERAL}")

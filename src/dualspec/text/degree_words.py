"""Degrees in words: numbers in digits or letters, with a sign, a side, a sense of rotation or nothing beside them.

Plain degrees count counter-clockwise from the front, as `DOA` does. Degrees with a side count from the front to that
side, "clockwise" and a compass bearing the other way round; "of behind" and the like move the start to the back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dualspec.audio.azimuth import wrap_deg
from dualspec.text.direction_words import (
    NOT_A_SIDE_AFTER,
    REGEX_FLAGS,
    SEVERAL,
    SIDE_WORDS,
    WEIGHT_WORDS,
    Match,
    ParsedAzimuth,
)

_TEENS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[ -]?(?:{'|'.join(_TEENS[1:10])}))?|{'|'.join(sorted(_TEENS, key=len)[::-1])})"
NUMBER_WORDS = rf"(?:(?:an?|one|two|three)[ -]hundred(?:[ -](?:and[ -])?{_SMALL})?|{_SMALL})\b"
_NUMBER = rf"(?:\d{{1,12}}(?:\.\d{{0,12}})?|{NUMBER_WORDS})"
_SIGN = r"(?:[+-] ?|\b(?:minus|negative|plus|positive) )"
_UNIT = r"[ -]?(?:°|deg(?:r+e+s*|s)?\b(?:\.(?= ))?)"
_HEAT = (
    r"(?! ?(?:[cfk](?!\w|\.\w)|(?:celsius|fahrenheit|kelvin|centigrade)\b)|"
    r" (?:outside|below (?:zero|freezing)|hot|cold)\b)"
)
_HEATED = re.compile(r"\b(?:pre)?(?:heated|cooled|warmed|temperature|temp)(?: \w+)? $", REGEX_FLAGS)

_DEGREES = re.compile(
    rf"(?:\b(?P<key>doa|azimuth(?:al)?(?: angle)?|(?<!ball )(?<!wheel )(?<!roller )(?:(?:compass|relative) )?bearing)\b"
    rf"(?: angle)?(?P<link> ?(?:of|is|=|:|at)?) ?(?P<sign>{_SIGN})?(?P<number>{_NUMBER})"
    rf"(?:(?P<unit>{_UNIT}){_HEAT}|(?!\w|\.?\d| ?°))"
    rf"|(?<![\w.])(?P<sign2>{_SIGN})?(?P<number2>{_NUMBER})(?P<unit2>{_UNIT}){_HEAT})",
    REGEX_FLAGS,
)
_UNREAD = re.compile(  # the second is a slip of the keys after a number, such as "dgrees"
    rf"(?:°|(?<![a-z])deg(?:r+e+s*|s)?\b){_HEAT}|"
    r"(?<=\d) (?!deg(?:r+e+s*)?\b)d(?=[a-z]*g)(?=[a-z]*(?:ee|gr|rg|eg))[a-z]{3,7}s\b",
    REGEX_FLAGS,
)

_NAME = re.compile(  # "90 degree turn", "third degree burn"
    r"[ -]?degree (?!(?:angle|azimuth|direction|position|in|on|at|to|towards?|from|off|of|left|right|behind|ahead|"
    r"front|back|rear|up|down|above|below|and|or|clock|c?cw|anti|counter|north|south|east|west)\b)[a-z]",
    REGEX_FLAGS,
)

_WHOSE = r"(?:the|my|your|our|his|her|their|listener's) "
_SIDE = (
    r"(?P<side>left|right|(?:counter|anti)[ -]?clock[ -]?wise|clock[ -]?wise|c\.?c\.?w\b|a\.?c\.?w\b|c\.?w\b|"
    r"(?-i:[LR])(?![\w']))"
)
_SIDE_TAIL = r"(?:wards?|hand(?:ed|side)?|most)?\b\.?(?:[ -]?hand(?:ed)?\b)?(?: ?(?:side|ear|direction)\b)?"
_FROM = (
    r"(?:(?:(?:of|from|off)[ -](?:(?:the|my|your|dead|straight|directly|exactly|due|very) )*"
    r"(?P<start{0}>(?:cent(?:er|re)(?:[ -]?line)?|front|ahead|forward|axis|me\b|us\b|you\b|listener\b|12 o'?clock)|"
    r"(?:behind|back|rear)(?: me| you| us)?))(?: of (?:me|us|you|the listener))?\b)"
)
_SIDE_AFTER = re.compile(
    rf"(?P<join>[ ,;:(\[-]{{0,3}}(?:(?:angle|azimuth|off|out|away|over|round|around|turned|rotated)\b ?){{0,2}})"
    rf"(?:{_FROM.format(1)}[ ,;:(-]{{0,3}})?(?:(?:to|towards?|on|at|in) )?(?:{_WHOSE})?{_SIDE}{_SIDE_TAIL}[)\]]?"
    rf"(?: ?{_FROM.format(2)})?",
    REGEX_FLAGS,
)
_SIDE_BEFORE = re.compile(
    rf"(?<![\w'-])(?P<bare>(?:(?:off |over |out )?(?:to|towards?|on|at|in|from|by) )?(?:{_WHOSE})?(?:far )?)"
    rf"{_SIDE}{_SIDE_TAIL}(?: ?{_FROM.format(1)})?(?P<join>[ ,;:=(\[-]{{0,3}})$",
    REGEX_FLAGS,
)
_IDLE_RIGHT = re.compile(r" right (?:now|away|after|before|here|there|next|beside|near)\b", REGEX_FLAGS)
_LEAD = re.compile(
    r"(?:\b(?:at|from|in|on|towards?|by|an?|the|angle|direction|of|about|around|approximately|approx|roughly|circa|ca|"
    r"nearly|almost|exactly|precisely|some|turned|rotated|is|=)\b\.? ?)+$|[~=] ?$",
    REGEX_FLAGS,
)
_OWN_LEAD = re.compile(
    r"(?:\b(?:at|from|in|on|towards?|an?|the|angle|direction|of|about|around|approximately|approx|roughly|circa|ca|"
    r"nearly|almost|exactly|precisely)\b\.? ?)+$|[~=] ?$",
    REGEX_FLAGS,
)
_STRONG_LEAD = re.compile(r"\b(?:at|from|angle|direction)(?: an?)?(?: angle)?(?: of)? $", REGEX_FLAGS)
_APPROX = re.compile(
    r"(?:\b(?:about|around|approximately|approx\.?|roughly|circa|ca\.?|nearly|almost|exactly|precisely|some) |~ ?)$",
    REGEX_FLAGS,
)

_PARTNER = rf"[+-]?{_NUMBER}"
_OTHER_BEFORE = re.compile(
    r"(?<![:.\d])\d{1,3}°?, ?$|\d ?[-/~+*^\u00b1\u2044:.] ?$|\d,$|\d $|[\u00b1<>^*\u2044/] ?[+-]?$|\+ ?/? ?-? ?$|"
    rf"\b(?:point|than|between|within|up to|at (?:least|most)|under|over|below|above) $|"
    rf"(?:\d|\b{NUMBER_WORDS})(?:{_UNIT})? ?(?:to|and|or|until|through|point|[-/&\u2192])? ?$",
    REGEX_FLAGS,
)
_OTHER_AFTER = re.compile(
    rf",?\d|'|, ?{_PARTNER}(?:{_UNIT}| ?(?:[.;!?)]|$))|"
    rf"(?: ?\.{{2,}} ?| ?[/~&>\u2192\u00b1+-]+ ?| (?:to|and|or|until|till|through|thru|then)(?: to)? ){_PARTNER}"
    rf"(?:{_UNIT}| ?(?:[,.;!?)]|$)| ?o ?'? ?clock)| ?[/\u00b1\u2044*^] ?\d",
    REGEX_FLAGS,
)
_OTHER_START = re.compile(
    r"[ ,]{0,2}(?:(?:to|towards?) )?(?:the )?(?:[lrnsew]\b|[lr]t\b|(?:true|magnetic|starboard|port|rad|radians?|up|"
    r"down|upwards?|downwards?|above|below|high|low|elevation|elevated|past|before|of|off|from|"
    r"(?:north|south)(?:[ -]?(?:east|west))?|east|west)\b(?! wind))",
    REGEX_FLAGS,
)
_HEIGHT = re.compile(r"up|down|above|below|high|low|elevat", REGEX_FLAGS)
_FOREIGN = re.compile(
    r"\b(?:rechts|links|rechter|linker|droite|gauche|derecha|izquierda|destra|sinistra|direita|esquerda|h\u00f6ger|"
    r"v\u00e4nster|prawo|lewo|prawej|lewej|sa\u011f|sol|\u0441\u043f\u0440\u0430\u0432\u0430|\u0441\u043b\u0435\u0432"
    r"\u0430)\b|[\u5de6\u53f3]",
    re.IGNORECASE,
)


def find_degrees(words: str, *, is_location: bool) -> Iterator[Match]:
    """Find degrees that say a direction.

    Args:
        words: Text that went through `clean_text`.
        is_location: The text names a place; else plain degrees need a word such as "at" before them.

    Raises:
        ValueError: If degrees are off the circle, or what they count from cannot be read with certainty.
    """
    position = 0
    while (found := _DEGREES.search(words, position)) is not None:
        match = _read(words, found, position, is_location)
        position = found.end()
        if match is not None:
            yield match
            position = max(position, match.end)


def unread_degrees(words: str) -> str | None:
    """Return the first degrees in words of which nothing was read, with the word before them; None without any."""
    for found in _UNREAD.finditer(words):
        head = words[max(0, found.start() - 40) : found.start()]
        if not (_HEATED.search(head[: head.rstrip().rfind(" ") + 1]) or _NAME.match(words, found.start())):
            return f"{' '.join(head.split()[-1:])}{' ' * head.endswith(' ')}{found[0]}"
    return None


def _read(words: str, found: re.Match[str], floor: int, is_location: bool) -> Match | None:
    """Read one number of degrees with the words around it; None where it says no direction."""
    start, end = found.span()
    if _HEATED.search(words[max(0, start - 40) : start]) or (
        found["unit2"] is not None and _NAME.match(words, found.start("unit2"))
    ):
        return None
    key = (found["key"] or "").lower()
    if "bearing" in key and not (is_location or found["unit"] or re.fullmatch(r"\d{3}", found["number"])):
        return None  # "a man bearing two gifts"
    sign = (found["sign"] or found["sign2"] or "").strip().lower()
    is_spaced = (found["sign"] or found["sign2"] or "") in ("- ", "+ ")
    degrees = _number(found["number"] or found["number2"])
    head = words[floor:start][-60:]
    lead = _LEAD.search(head)
    before = _side_before(head, lead.start() if lead else len(head)) if not key else None
    after = _SIDE_AFTER.match(words, end)
    if after is not None and _IDLE_RIGHT.match(words, end):
        after = None
    if is_spaced and not key and (before or after):  # a dash between words
        sign, is_spaced = "", False
    negative = sign in ("-", "minus", "negative")
    if before is None and after is None:
        has_lead = bool(key) or is_location or _STRONG_LEAD.search(_APPROX.sub("", head)) is not None
        if not has_lead or (is_spaced and not key and words[:start].strip() and lead is None):
            return None
    _check_alone(words, found, end if after is None else after.end())
    if is_spaced and key and not found["link"].strip():
        raise ValueError(f"location must have its sign at the number, got {found[0]!r}; write 'DOA -30' or 'DOA 30'")
    signed = -degrees if negative else degrees
    if before is None and after is None:
        azimuth = _plain(signed, found[0], key)
    else:
        azimuth = _beside(signed, words, found, before, after, key)
    if before is not None:
        start = start - len(head) + before.start()
    elif (own_lead := _OWN_LEAD.search(head)) is not None:
        start = start - len(head) + own_lead.start()
    stop = end if after is None else after.end()
    return Match(start, stop, ParsedAzimuth(azimuth_deg=azimuth, spread_deg=0.0, style="doa"))


def _number(text: str) -> float:
    """Read a number in digits or English words."""
    if text[0].isdecimal():
        return float(text)
    total = 0
    for word in re.findall(r"[a-z]+", re.sub(rf"({'|'.join(_TENS)})(?=[a-z])", r"\1 ", text.lower())):
        if word == "hundred":
            total = max(total, 1) * 100
        elif word in _TENS:
            total += 20 + 10 * _TENS.index(word)
        elif word in _TEENS:
            total += _TEENS.index(word)
    return float(total)


def _side_before(head: str, stop: int) -> re.Match[str] | None:
    """Find a side at the end of what stands before a number and its lead."""
    found = _SIDE_BEFORE.search(head[:stop])
    if found is None:
        return None
    before = re.findall(r"[\w']+", head[: found.start()].lower())
    while before and before[-1] in ("and", "me", "us", "you", "to", "the", "my"):
        before.pop()
    if before and (before[-1] in SIDE_WORDS or before[-1] in WEIGHT_WORDS):
        return None  # part of a diagonal
    is_alone = not (found["bare"] or found["join"].strip() or found["start1"])
    is_idle = is_alone and found["side"].lower() == "right" and stop < len(head)  # "right at 30 degrees"
    if not found["bare"] and (is_idle or (before and before[-1] in NOT_A_SIDE_AFTER)):
        return None
    return found


def _check_alone(words: str, found: re.Match[str], end: int) -> None:
    """Refuse ranges, tolerances and numbers that are only partly read."""
    start = found.start() if found["key"] else found.start("number2")
    head = words[max(0, start - 24) : found.start()] if not found["key"] else ""
    sign_before = words[found.start() : start]
    tail = found.end()
    is_range = _OTHER_AFTER.match(words, tail) or _OTHER_AFTER.match(words, end)
    if _OTHER_BEFORE.search(_APPROX.sub("", head)) or is_range or (sign_before.strip() and head.endswith(("/", "+"))):
        got = " ".join([*words[:start].split()[-2:], *words[start:].split()[:6]])
        raise ValueError(
            f"location must name one number of degrees, got {got[:80]!r}; write for example 'DOA 30'; {SEVERAL}"
        )
    odd = _OTHER_START.match(words, end) or _FOREIGN.search(words, max(0, start - 40), end + 40)
    if odd is None and found["key"] and "bearing" in found["key"].lower():
        odd = re.search(r"\b(?:true|magnetic) $", words[: found.start()], REGEX_FLAGS)
    if odd is not None and _HEIGHT.search(odd[0]):
        raise ValueError(
            f"location must be at the height of the ears, got {words[start : odd.end()]!r}; leave the height out, "
            "as the model knows none"
        )
    if odd is not None:
        raise ValueError(
            f"location must count degrees from the front or back of the listener, got {found[0].strip()!r} beside "
            f"{odd[0].strip(' ,')!r}; write for example '30 degrees to the right'"
        )


def _plain(degrees: float, words: str, key: str) -> float:
    """Bring a written azimuth or bearing into [0, 360), or refuse it."""
    if not -180.0 <= degrees < 360.0:
        raise ValueError(f"azimuth must be -180 to 359 degrees, got {words.strip()!r}; 0 is front, 90 left, 270 right")
    return wrap_deg(-degrees if "bearing" in key else degrees)


def _beside(
    degrees: float,
    words: str,
    found: re.Match[str],
    before: re.Match[str] | None,
    after: re.Match[str] | None,
    key: str,
) -> float:
    """Count degrees to the side, or in the sense of rotation, that stands beside them."""
    beside = [side for side in (before, after) if side is not None]
    names = {_side_name(side["side"]) for side in beside}
    if len(names) > 1:
        got = " and ".join(sorted(names))
        raise ValueError(f"location must name one direction, got {got}; name one of them, {SEVERAL}")
    (side,) = names
    starts = [side[group] for side in beside for group in side.re.groupindex if group.startswith("start")]
    is_back = any(start and start.lower().startswith(("behind", "back", "rear")) for start in starts)
    origin = 180.0 if is_back else 0.0
    got = words[found.start() : after.end() if after else found.end()].strip()
    if "clockwise" in side:
        if not 0.0 <= degrees < 360.0:
            raise ValueError(
                f"location must have 0 to 359 degrees clockwise, got {got!r}; say for example '30 degrees clockwise'"
            )
        return wrap_deg(origin - degrees if side == "clockwise" else origin + degrees)
    is_apart = after is None or bool(after["join"].strip(" -"))
    is_on_side = (0.0 < wrap_deg(degrees) < 180.0) == (side == "left") and wrap_deg(degrees) % 180.0 != 0.0
    is_doa = key == "doa" or (bool(key) and "bearing" not in key and is_apart)
    if is_doa or (is_apart and not 0.0 <= degrees <= 180.0):
        if is_back or not is_on_side or not -180.0 <= degrees < 360.0:
            raise ValueError(
                f"location must have an azimuth on the {side} beside that word, got {got!r}; DOA 90 is left, 270 "
                f"right, and '30 degrees to the {side}' counts from the front"
            )
        return wrap_deg(degrees)
    if not 0.0 <= degrees <= 180.0:
        raise ValueError(
            f"degrees to a side must be 0 to 180, got {degrees:g}; say for example '30 degrees to the left'"
        )
    return wrap_deg(origin + degrees if (side == "left") != is_back else origin - degrees)


def _side_name(word: str) -> str:
    """Return left, right, clockwise or counterclockwise for the word as it was written."""
    plain = re.sub("[ .-]", "", word.lower())
    if plain in ("l", "r"):
        return {"l": "left", "r": "right"}[plain]
    if plain in ("left", "right"):
        return plain
    return "clockwise" if plain in ("cw", "clockwise") else "counterclockwise"

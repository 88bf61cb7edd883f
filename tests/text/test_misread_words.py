"""Wordings that were, or could be, misread: each has its right value here, or is refused in one line.

The tables are made by hand, the combinations by rule: sides mirror, and what a LOCATION says a free sentence says too.
"""

from __future__ import annotations

import pytest

from dualspec.text.location_parser import find_location
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import blank_location, parse_prompt

TEMPLATE, FREE = "EVENT: Dog bark & LOCATION: {}", "dog bark {}"
NUMBERS = {"30": 30, "thirty": 30, "45": 45, "22.5": 22.5, "one hundred and twenty": 120}
SIDES = {"left": 1, "right": -1}

# {n} degrees with a {side}: counted from the front to that side.
BESIDE = [
    "{n} degrees to the {side}", "{n} degrees, to the {side}", "{n} degrees ({side})", "{n}° {side}", "{n}° ({side})",
    "to the {side} by {n} degrees", "{side}: {n} degrees", "{side}, {n} degrees", "{side} {n} degrees",
    "{side} ({n} degrees)", "{n} degrees {side}wards", "{n} degrees {side}ward", "{n} degrees - {side}",
    "{n}-degree angle to the {side}", "at a {n}-degree angle to the {side}", "at an angle of {n} degrees to the {side}",
    "on the {side} at {n} degrees", "to my {side} at an angle of {n} degrees", "{n} degrees on my {side}",
    "{n} degrees on the {side} side", "{n} degrees to my {side}-hand side", "{n} degrees off center to the {side}",
    "{n} degrees off-axis to the {side}", "{n} degrees {side} of center", "{n} degrees to the {side} of straight ahead",
    "{n} degrees from the front to the {side}", "{side} of center by {n} degrees", "about {n} degrees to the {side}",
    "roughly {n} degrees toward the {side}", "{n} deg {side}", "{n} deg. to the {side}", "{n} degress to the {side}",
    "{n} degrees {S}", "{n}° {S}", "{S} {n} degrees", "{n} degrees away to the {side}",
    "azimuth {n} degrees to the {side}",
    "bearing {n} degrees to the {side}", "far {side}, {n} degrees",
]  # fmt: skip
FROM_BEHIND = [
    "{n} degrees to the {side} of directly behind", "{n} degrees {side} of behind",
    "{n} degrees from the back to the {side}"
]  # fmt: skip
# Numbers with a sense of rotation or a sign: the function gives the azimuth.
CLOCKWISE = [
    "{n} degrees cw", "{n}° CW", "{n} degrees c.w.", "{n} degrees clockwise", "{n} degrees clock-wise",
    "cw {n} degrees",
    "clockwise by {n} degrees", "{n} degrees clockwise from the front", "DOA {n} clockwise", "azimuth {n} cw",
    "{n} degrees, clockwise", "bearing {n} degrees", "compass bearing of {n} degrees", "on a bearing of {n}°",
    "relative bearing {n} degrees",
]  # fmt: skip
COUNTER = [
    "{n} degrees ccw",
    "{n}° CCW",
    "{n} degrees anti-clockwise",
    "{n} degrees counter clockwise",
    "ccw {n} degrees",
]
NEGATIVE = ["at -{n} degrees", "at - {n} degrees", "at minus {n} degrees", "at −{n}°", "DOA -{n}", "DOA: - {n}",
            "azimuth minus {n} degrees", "azimuth = -{n}", "at negative {n} degrees"]  # fmt: skip
PLAIN = {
    "DOA ninety": 90, "azimuth of ninety degrees": 90, "at two hundred and seventy degrees": 270, "DOA=45°": 45,
    "at about 45 degrees": 45, "at 300 degrees": 300, "bearing 090": 270, "bearing: 270": 90, "bearing 45° left": 45,
    "to the right at 300 degrees": 300, "right, 270°": 270, "right (DOA 270)": 270, "DOA 330, on the right": 330,
    "270 degrees clockwise": 90, "at 30⁰ to the right": 330, "at 30˚ left": 30,
    "infront of me": 0, "infront of me, to the left": 45, "behing me to the left": 135, "on the rigth": 270,
    "from behind me to the left": 135, "between 9 and 10 o'clock": 75, "panned hard left": 90, "rightwards": 270,
}  # fmt: skip
ONLY_LOCATION = {
    "at 30 degrees right now": 30, "- 30 degrees": 330, "minus thirty degrees": 330, "-30°": 330, "thirty": None,
    "behind me, 150 degrees": 150,
    "right - 30 degrees": 330, "left - 30 degrees": 30, "right -30 degrees": 330, "right, please": 270,
    "close to my right ear": 270, "left at ear level": 90, "the dog bark is on my left": 90, "3 o'clock or so": 270,
    "far away": None, "upper": None, "north": None, "90": None, "gauche": None, "quarter past 9": None,
    "port side": None,
}  # fmt: skip

# Refused by template and in free words alike, with words that the message must hold.
REFUSED = {
    "scene": [
        "one left one right", "one on the left, one on the right", "left and right", "from left to right",
        "left to right", "left-to-right", "from my left to my right", "from behind to in front", "from left to front",
        "from the left to the back", "from 9 o'clock to 3 o'clock", "from 9 o'clock to 10 o'clock", "left, then right",
        "moving to the left", "moving left", "drifting toward my right", "panning right", "walking to the left",
        "driving left", "circling around me on the left", "at 9 and 10 o'clock", "at 9 o'clock then 10 o'clock",
        "left or right", "on the left or behind me", "left or front left", "20 degrees left, 30 degrees right",
        "at 0 degrees then at 30 degrees", "at 9 o'clock, at 10 o'clock",
        "starting on the left and ending in front left",
        "not on the left", "never on my left", "anywhere but behind me", "everywhere except on my left",
        "opposite the left", "away from my left", "isn't on the left", "rather than on the right", "not far behind me",
        "DOA 30 to 60", "DOA 30-60", "DOA 30, 60", "DOA 30/60", "DOA 30±5", "from 0 to 30 degrees to the left",
        "20 or 30 degrees left", "20-30 degrees to the left", "±30 degrees to the left", "30,5 degrees to the left",
        "between 30 and 60 degrees to the left", "more than 30 degrees left", "30½ degrees to the left",
        "two seventy degrees to the right", "30°15' to the left",
    ],
    "ears": [
        "upper left", "top-left corner", "lower right", "bottom left", "above left", "up and to the right",
        "slightly above and to the left", "left and up", "to the right, above", "at 3 o'clock high",
        "elevation 30, azimuth 90", "azimuth 90 elevation 30", "azimuth 90, elevation 10 degrees",
    ],
    "half hours": [
        "at a quarter past three o'clock", "quarter to three o'clock", "five past 3 o'clock",
        "ten minutes to 3 o'clock",
        "just past 3 o'clock", "3 o'clock and a half", "slightly left of 12 o'clock", "right of 3 o'clock",
        "minus 3 o'clock",
    ],
    "degrees": [
        "30 to the right", "left, 90.", "right: 30", "on the left at 90", "1.57 radians to the left", "50% left",
        "100% to the right", "a quarter turn to the left", "half left", "halfway to the right", "a few degrees left",
        "30 degrees up to the left", "30 degrees off the nose to the right", "30 dgrees to the right",
        "30 degrees from the right door, on the left", "DOA - 30", "DOA 30 R", "DOA 30 to the right",
        "at 90 degrees east",
        "azimuth 30, on the right", "at 30° N", "at 30° to starboard", "at 30° rechts", "at 30° 右",
        "360 degrees clockwise",
        "90 degrees clockwise from the left", "30 degrees to the right of the piano", "true bearing 90 degrees",
        "bearing 090 magnetic", "minus 30 degrees to the right", "270 degrees to the left", "left -30 degrees",
        "some degrees to the left", "two steps to the left",
    ],
}  # fmt: skip
# In a LOCATION nothing is dropped in silence; in free words it stays with the event.
KEPT = [
    "left, far away", "left, in the distance", "left, close", "2 meters to the left", "left, in the kitchen",
    "stage left", "house right", "left wall of the kitchen", "right door", "at 3 o'clock upstairs",
    "left, 2 meters away",
    "behind the house", "to the left of the piano", "to the left of the stage", "left, north", "left gauche",
]  # fmt: skip
# Directions in an event: EVENT (or --event, scene, page, HTTP) beside a LOCATION.
IN_EVENT = [
    "rain behind me", "rain on my left", "rain at 3 o'clock", "rain 30 degrees to the right", "rain DOA 90",
    "rain, far left", "rain from left to right", "rain moving left", "rain not on the left", "rain bearing 090",
    "rain on the left and thunder on the right", "left", "rain in my right ear", "rain upper left", "rain 13 o'clock",
]  # fmt: skip
# Words that look like directions and are none: they stay, alone and beside one.
THINGS = [
    "right-handed guitar", "fast forward tape",
    "90 degree turn squeal", "third degree burn victim", "oven heated to 200 degrees", "a man bearing two gifts",
    "ball bearing rattle", "back to back gunshots", "mouse click", "footsteps upstairs", "a plane overhead",
    "a dog not too loud", "two dogs", "engine number 3", "a bird high up in a tree", "someone running",
    "car backing up",
    "a car driving slowly", "water boiling at 100 degrees celsius", "a dog that doesn't stop barking", "a north wind",
    "thunder far away", "a child on the upper floor", "a bell ringing for 30 seconds", "20 people clapping",
]  # fmt: skip


def read() -> list[tuple[str, float | None]]:
    """List what is read: wordings for a place, in a LOCATION and in free words, with the right azimuth."""
    wordings: list[tuple[str, float | None]] = []
    for written, degrees in NUMBERS.items():
        for side, sign in SIDES.items():
            words = {"n": written, "side": side, "S": side[0].upper()}
            wordings += [(form.format(**words), sign * degrees) for form in BESIDE]
            wordings += [(form.format(**words), 180 - sign * degrees) for form in FROM_BEHIND]
        for forms, sign in ((CLOCKWISE, -1), (COUNTER, 1)):
            wordings += [(form.format(n=written), sign * degrees) for form in forms]
        if written.isdecimal():
            wordings += [(form.format(n=written), -degrees) for form in NEGATIVE]
    both = [*wordings, *PLAIN.items()]
    asked = [(frame.format(words), value) for frame in (TEMPLATE, FREE) for words, value in both]
    return asked + [(TEMPLATE.format(words), value) for words, value in ONLY_LOCATION.items()]


READ = [(prompt, None if azimuth is None else azimuth % 360) for prompt, azimuth in read()]
REFUSALS = [
    (frame.format(text), hint) for hint, texts in REFUSED.items() for text in texts for frame in (TEMPLATE, FREE)
]


def test_the_list_is_long_and_says_each_thing_once() -> None:
    prompts = [prompt for prompt, _ in READ + REFUSALS]
    assert len(prompts) == len(set(prompts)) >= 1200


def test_each_wording_has_its_right_value() -> None:
    wrong = {}
    for prompt, azimuth in READ:
        try:
            parsed = parse_prompt(prompt)
        except ValueError as error:
            wrong[prompt] = str(error)
            continue
        if (parsed.azimuth.azimuth_deg if parsed.azimuth else None) != azimuth or parsed.event.lower() != "dog bark":
            wrong[prompt] = str(parsed)
    assert wrong == {}


@pytest.mark.parametrize("hint", REFUSED)
def test_what_is_uncertain_is_refused_in_one_line_that_helps(hint: str) -> None:
    for prompt, expected in REFUSALS:
        if expected == hint:
            with pytest.raises(ValueError, match=" must ") as caught:
                print(prompt, parse_prompt(prompt))
            said = str(caught.value)
            assert "\n" not in said and len(said) < 400, prompt
            assert ";" in said, (prompt, said)  # what to write instead
            if hint == "scene":
                assert "`dualspec scene`" in said or "DOA" in said, (prompt, said)


@pytest.mark.parametrize("words", KEPT)
def test_nothing_is_dropped_in_silence(words: str) -> None:
    with pytest.raises(ValueError, match="location must be"):
        parse_prompt(TEMPLATE.format(words))
    free = parse_prompt(FREE.format(words))
    said = set(free.event.split()) | set((free.location or "").replace(",", "").split())
    assert set(words.replace(",", "").split()) <= said | {"in", "at", "to", "on"}


@pytest.mark.parametrize("event", IN_EVENT)
def test_a_direction_in_the_event_beside_a_location_is_refused(event: str) -> None:
    for place in ("12 o'clock direction", "DOA 90", "directly to the right", "nowhere"):
        with pytest.raises(ValueError, match="event must be free of directions beside its location"):
            parse_prompt(f"EVENT: {event} & LOCATION: {place}")
    with pytest.raises(ValueError, match="must"):
        LocationWords().read(f"EVENT: {event} & LOCATION: DOA 90")


@pytest.mark.parametrize("event", THINGS)
def test_things_beside_a_direction_are_left_alone(event: str) -> None:
    assert parse_prompt(event).azimuth is None
    assert find_location(event) is None
    for place, azimuth in (("on my left", 90), ("directly behind", 180), ("DOA 45", 45), ("3 o'clock direction", 270)):
        assert parse_prompt(f"EVENT: {event} & LOCATION: {place}").azimuth.azimuth_deg == azimuth  # type: ignore[union-attr]
    for free in (f"{event}, on my left", f"{event} on my left", f"on my left, {event}"):
        parsed = parse_prompt(free)
        assert parsed.azimuth is not None and (parsed.event, parsed.azimuth.azimuth_deg) == (event, 90)


def test_the_event_may_be_blanked_whatever_it_says() -> None:
    assert blank_location("EVENT: rain behind me & LOCATION: 12 o'clock direction") == "EVENT: Rain"


def test_the_model_never_reads_a_refused_direction_unless_it_is_told_to() -> None:
    words = LocationWords(num_azimuths=72)
    for prompt, _ in REFUSALS:
        with pytest.raises(ValueError, match="location_words='typed' lets the model read it"):
            words.read(prompt)
        assert words.read(prompt, "typed") == prompt

"""Directions in natural words: what is understood, what is left alone, what is refused."""

import contextlib
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualspec.text.direction_words import sum_directions, tokenize
from dualspec.text.location_parser import find_location, parse_location
from dualspec.text.prompts import blank_location, parse_prompt

# (prompt, azimuth in degrees, event that is left; None where its wording does not matter)
PLACED = [
    ("a dog barking behind me to the left", 135, "a dog barking"),
    ("a dog barking on my left", 90, "a dog barking"),
    ("dog barking to my right", 270, "dog barking"),
    ("A dog barks behind me.", 180, None),
    ("Behind me, a dog barks", 180, "a dog barks"),
    ("behind me a dog barks", 180, "a dog barks"),
    ("on my left a bird sings", 90, "a bird sings"),
    ("To the right is a siren", 270, "a siren"),
    ("To my left there is a siren wailing", 90, "a siren wailing"),
    ("rain falling in front of me", 0, "rain falling"),
    ("rain right in front of me", 0, "rain"),
    ("a car horn right behind me", 180, "a car horn"),
    ("a car horn at the right behind me", 225, "a car horn"),
    ("thunder, front left", 45, "thunder"),
    ("thunder front right", 315, "thunder"),
    ("thunder from the front right", 315, "thunder"),
    ("footsteps coming from behind", 180, "footsteps"),
    ("footsteps coming from the rear left corner", 135, "footsteps"),
    ("church bells at 3 o'clock", 270, "church bells"),
    ("church bells at 3 o’clock", 270, "church bells"),
    ("church bells at three oclock", 270, "church bells"),
    ("church bells at half past ten", 45, "church bells"),
    ("helicopter at 10:30", 45, "helicopter"),
    ("helicopter at ten thirty", 45, "helicopter"),
    ("helicopter at my six", 180, "helicopter"),
    ("enemy on your six!", 180, None),
    ("helicopter between 10 and 11 o'clock", 45, "helicopter"),
    ("dog bark DOA 90", 90, "dog bark"),
    ("dog bark, DOA: -90", 270, "dog bark"),
    ("dog bark at 45 degrees", 45, "dog bark"),
    ("dog bark at 45 degrees to the right", 315, "dog bark"),
    ("dog bark 30° left", 30, "dog bark"),
    ("dog bark 30 degrees to the right of straight ahead", 330, "dog bark"),
    ("dog bark 30 degrees clockwise", 330, "dog bark"),
    ("dog bark 30 degrees counter-clockwise", 30, "dog bark"),
    ("azimuth 270 engine idling", 270, "engine idling"),
    ("engine idling, azimuth of 270 degrees", 270, "engine idling"),
    ("birds slightly to the left", 30, "birds"),
    ("birds a little to the right", 330, "birds"),
    ("birds a bit behind me to the right", 240, "birds"),
    ("birds behind me, a bit to the right", 210, "birds"),
    ("birds mostly to the left but slightly ahead", 60, "birds"),
    ("birds ahead and to the left", 45, "birds"),
    ("birds straight ahead", 0, "birds"),
    ("birds dead ahead", 0, "birds"),
    ("birds directly to the left of me", 90, "birds"),
    ("birds to the left of the listener", 90, "birds"),
    ("birds over my left shoulder", 135, "birds"),
    ("someone whispering over my shoulder", 180, "someone whispering"),
    ("whispering in my right ear", 270, "whispering"),
    ("a guitar in the left channel", 90, "a guitar"),
    ("a guitar on the left-hand side", 90, "a guitar"),
    ("a guitar on the left hand side of me", 90, "a guitar"),
    ("front-left: a guitar", 45, "a guitar"),
    ("a guitar (left)", 90, "a guitar"),
    ("[left] a guitar", 90, None),
    ("left: a guitar", 90, "a guitar"),
    ("a guitar, left", 90, "a guitar"),
    ("a guitar left", 90, "a guitar"),
    ("a violin at the back", 180, "a violin"),
    ("a violin in the back of the room", 180, "a violin"),
    ("a violin playing behind me and to my right", 225, "a violin playing"),
    ("A violin is playing on the right side.", 270, None),
    ("a violin just left of center", 30, "a violin"),
    ("a violin in the center", 0, "a violin"),
    ("a violin at 9 o'clock, on my left", 90, "a violin"),
    ("a violin at nine o'clock direction", 90, "a violin"),
    ("a violin in the 2 o'clock direction", 300, "a violin"),
    ("a violin from the direction of 2 o'clock", 300, "a violin"),
    ("a dog barking on the right loudly", 270, None),
    ("a baby crying to the rear", 180, "a baby crying"),
    ("a baby crying backward left", 135, "a baby crying"),
    ("a dog growls ahead of me", 0, "a dog growls"),
    ("a siren far to the left", 90, "a siren"),
    ("a siren in the distance on the far right", 270, "a siren in the distance"),
    ("walk and footsteps right rear, slightly toward the back", 210, "walk and footsteps"),
    ("I hear a cat behind me on the right", 225, "a cat"),
    ("There is a dog barking to my left", 90, None),
    ("a dog barking from my 3 o'clock", 270, "a dog barking"),
    ("a gunshot 60 degrees left of me", 60, "a gunshot"),
    ("a gunshot at an angle of 60 degrees", 60, "a gunshot"),
    ("gunshot at azimuth 60", 60, "gunshot"),
    ("gunshot from 300°", 300, "gunshot"),
    ("a dog barking by my left side", 90, "a dog barking"),
    ("a dog barking at my left-hand side", 90, "a dog barking"),
    ("a dog barking from the back right", 225, "a dog barking"),
    ("a dog barking in the back left corner of the room", 135, "a dog barking"),
    ("a dog barking left rear", 135, "a dog barking"),
    ("a dog barking somewhere behind", 180, "a dog barking"),
    ("a dog barking immediately to my right", 270, "a dog barking"),
    ("a dog barks in front and slightly to the right of me", 330, "a dog barks"),
    ("a dog barks in front, slightly right", 330, "a dog barks"),
    ("a dog barks slightly right of center", 330, "a dog barks"),
    ("a dog barks to the front", 0, "a dog barks"),
    ("a motorbike passes behind", 180, None),
    ("Someone is knocking at 6 o’clock", 180, None),
    ("a train horn on the left, far away", 90, None),
    ("a train horn on the left in the distance", 90, "a train horn in the distance"),
    ("a train horn directly behind us", 180, "a train horn"),
    ("a drum, 7:30", 135, "a drum"),
    ("a drum at half-past 7", 135, "a drum"),
    ("a phone ringing back left", 135, "a phone ringing"),
    ("a phone ringing behind left", 135, "a phone ringing"),
    ("a phone ringing behind, right", 225, "a phone ringing"),
    ("a phone ringing right behind", 180, "a phone ringing"),
    ("a phone ringing right", 270, "a phone ringing"),
    ("a dog, azimuth 30 degrees to the right", 330, "a dog"),
    ("a dog DOA 22.5", 22.5, "a dog"),
    ("a dog at 45.50 degrees", 45.5, "a dog"),
    ("a dog (behind me) barks", 180, "a dog barks"),
    ("a dog barking [front right]", 315, "a dog barking"),
    ("a dog barking – left", 90, "a dog barking"),
    ("dog barking—behind me", 180, "dog barking"),
    ("dog barking: 4 o'clock", 240, "dog barking"),
    ("BEHIND ME: SIREN", 180, "SIREN"),
    ("a siren wails straight in front of me, slightly to the right", 330, "a siren wails"),
    ("water drips at the left back corner", 135, "water drips"),
    ("a loud siren behind me, on the left", 135, "a loud siren"),
    ("a loud siren on the left, behind me", 135, "a loud siren"),
    ("a loud siren on the left but slightly behind me", 120, "a loud siren"),
    ("a loud siren almost directly behind me, a tad to the left", 150, "a loud siren"),
    ("someone clapping close to my right ear", 270, "someone clapping close"),
    ("a saxophone more to the left than ahead", 60, "a saxophone"),
    ("the sound of a saxophone from behind", 180, "the sound of a saxophone"),
    ("saxophone playing from the left hand side, slightly in front", 60, "saxophone playing"),
    ("a saxophone on stage left", 90, None),
    ("a woman speaks, directly in front of the listener", 0, "a woman speaks"),
    ("a woman speaks and a dog barks on the left", 90, "a woman speaks and a dog barks"),
    ("dog barks 3 o clock", 270, "dog barks"),
    ("at 12:00 a bell rings", 0, "a bell rings"),
    ("dog at 0 degrees", 0, "dog"),
    ("dog at 359 degrees", 359, "dog"),
]

# Direction words that place nothing around the listener.
UNPLACED = [
    "a bell rings at 3 o'clock in the afternoon",
    "a train arriving at 10:45",
    "a train arriving at 10:30 pm",
    "water boiling at 100 degrees celsius",
    "oven heated to 200 degrees",
    "front door slamming",
    "the back door creaks",
    "knocking on the back door",
    "a hammer on the left foot",
    "swinging back and forth",
    "a car backing up",
    "truck reversing beeps",
    "left turn signal clicking",
    "footsteps coming back",
    "a bus that just left",
    "the crowd has left",
    "a dog barking behind the house",
    "children playing in front of the school",
    "a man singing to the left of the stage",
    "fast forward tape noise",
    "all right everybody clap",
    "clock ticking",
    "alarm clock",
    "a right hook punch",
    "all around me rain falls",
    "rain overhead",
    "an explosion in the middle of the city",
    "a siren ahead of the car",
    "a dog right now",
    "gunshot to the northwest",
    "the left engine sputters",
    "sıx o'clock dog",
    "a dog barking 30 degrees",
    "someone clapping to the side",
    "rear right engine",
    "turn left",
    "a clock strikes twelve",
    "16:30 train",
    "ratio 3:2 dog",
]

REFUSED = [
    "13 o'clock bell",
    "dog bark DOA 720",
    "dog bark DOA 360",
    "a cat on the left and a dog on the right",
    "a car passing from left to right",
    "left",
    "behind me",
    "&",
    "a dog barks left, cat meows right",
    "a dog barks at 3 o'clock and a cat at 9 o'clock",
    "dog at -181 degrees",
]

# fmt: off
WORDS = [
    "left", "right", "behind", "front", "ahead", "back", "rear", "slightly", "mostly", "directly", "just", "of", "the",
    "my", "me", "and", "with", "at", "to", "on", "from", "3 o'clock", "half past ten", "DOA", "90", "degrees", "10:30",
    "between", "clockwise", "azimuth", "thirty", "minus", "cw", "bearing", "not", "upper", "one",
    "moving", "R", "over", "shoulder", "center", ",", "(", ")", "&", ":", ";", "-", "+", ".", "°",
    "EVENT:", "LOCATION:", "a", "dog", "bark", "door", "13", "720", "\u2019", "\u202e", "\x00", "\u0130", "\u0661",
]
HOURS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
# fmt: on


@pytest.mark.parametrize(("text", "azimuth", "event"), PLACED)
def test_natural_wordings_are_understood(text, azimuth, event):
    parsed = parse_prompt(text)
    assert parsed.azimuth is not None
    assert parsed.azimuth.azimuth_deg == azimuth
    assert parse_location(text) == parsed.azimuth
    if event is not None:
        assert parsed.event == event


@pytest.mark.parametrize("text", UNPLACED)
def test_things_and_idioms_are_not_directions(text):
    parsed = parse_prompt(text)
    assert (parsed.event, parsed.location, parsed.azimuth) == (text, None, None)


@pytest.mark.parametrize("text", REFUSED)
def test_impossible_and_contradictory_directions_are_refused(text):
    with pytest.raises(ValueError, match=r" must "):
        parse_prompt(text)


@pytest.mark.parametrize("text", [text for text, _, _ in PLACED])
def test_blanked_wordings_carry_no_direction(text):
    assert find_location(blank_location(text)) is None


@pytest.mark.parametrize("degrees", [-180, -90.5, -1, 0, 22.5, 90, 359])
def test_doa_numbers_are_taken_as_they_are(degrees):
    for text in (f"DOA {degrees}", f"doa: {degrees}", f"azimuth {degrees} degrees", f"{degrees}°"):
        parsed = parse_location(text)
        assert (parsed.azimuth_deg, parsed.spread_deg, parsed.style) == (degrees % 360, 0, "doa")


@pytest.mark.parametrize("text", ["DOA 360", "DOA 720", "DOA -181", "DOA 123456789012", "400 degrees"])
def test_azimuths_off_the_circle_are_refused(text):
    with pytest.raises(ValueError, match="azimuth must be -180 to 359 degrees"):
        parse_location(text)


@pytest.mark.parametrize("hour", range(1, 13))
def test_hours_and_half_hours_follow_the_clock_face(hour):
    word = HOURS[hour - 1]
    whole = (360 - 30 * hour) % 360
    for text in (f"{hour} o'clock", f"{word} o'clock", f"{hour}:00", f"{hour} oclock direction", f"at my {word}"):
        assert parse_location(text).azimuth_deg == whole, text
    for text in (f"{hour}:30", f"half past {hour}", f"half past {word}", f"{word} thirty", f"{hour}:30 o'clock"):
        assert parse_location(text).azimuth_deg == (whole - 15) % 360, text
    following = hour % 12 + 1
    half_hour = (
        f"half past {word} direction", f"in the half past {hour} direction", f"half past {word} o'clock",
        f"half-past {hour} o'clock direction", f"{hour}:30 direction", f"{hour}.30 o'clock",
        f"between {hour} and {following} o'clock", f"halfway between {hour} and {following} o'clock",
        f"half way between {word} and {HOURS[following - 1]} o'clock",
        f"midway between {hour} o'clock and {following} o'clock",
    )  # fmt: skip
    for text in half_hour:
        assert parse_location(text).azimuth_deg == (whole - 15) % 360, text
        free = parse_prompt(f"a dog barking {text}" if " direction" not in text else f"a dog barking, {text}")
        assert (free.event, free.azimuth.azimuth_deg) == ("a dog barking", (whole - 15) % 360), text


@pytest.mark.parametrize(
    "text", ["0 o'clock", "13 o'clock", "99 o'clock", "14:30", "half past 13", "3 and 9 o'clock", "3:15"]
)
def test_hours_off_the_clock_face_are_refused(text):
    with pytest.raises(ValueError, match=r"clock (hour|minutes) must|name one direction"):
        parse_location(text)


@pytest.mark.parametrize("text", ["above me", "somewhere nice", "north", "270", "10", "xyz", "&", "\U0001f415"])
def test_unknown_words_give_none(text):
    assert parse_location(text) is None


def test_the_words_say_how_exact_they_are():
    spreads = [parse_location(text).spread_deg for text in ("9 o'clock", "directly left", "left, a bit behind", "left")]
    assert spreads == sorted(spreads)
    assert spreads[0] == 0
    assert spreads[-1] == 30


def test_the_most_exact_of_agreeing_directions_wins():
    parsed = parse_prompt("a cat to my left, at 10 o'clock")
    assert (parsed.azimuth.azimuth_deg, parsed.azimuth.style, parsed.event) == (60, "clock", "a cat")
    assert parsed.location == "to my left, at 10 o'clock"


@pytest.mark.parametrize(
    "phrase", ["behind me to the {}", "{}, slightly ahead", "30 degrees to the {}", "far {}", "front {}"]
)
def test_left_and_right_mirror(phrase):
    left, right = (parse_location(phrase.format(side)).azimuth_deg for side in ("left", "right"))
    assert (left + right) % 360 == 0
    assert 0 < left < 180


def test_a_phrase_without_a_side_sums_to_none():
    assert sum_directions(tokenize("slightly toward the moon")) is None
    with pytest.raises(ValueError, match="location must name one direction, got front and back"):
        sum_directions(tokenize("in front and behind"))


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=600), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)))
def test_any_text_is_parsed_or_refused_in_one_line(text):
    for call in (parse_prompt, parse_location, blank_location):
        try:
            result = call(text)
        except ValueError as error:
            assert " must " in str(error)
            assert "\n" not in str(error)
        else:
            if call is blank_location:
                assert find_location(result) is None
                assert blank_location(result) == result
            elif call is parse_location and result is not None:
                assert 0 <= result.azimuth_deg < 360


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), st.sampled_from([" ", ", ", " & LOCATION: "]))
def test_parsed_prompts_can_be_written_again(text, link):
    try:
        parsed = parse_prompt(f"a dog barking{link}{text}")
    except ValueError:
        return
    assert parsed.event
    assert (parsed.azimuth is None) or parsed.location


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer (coverage) slows every line")
def test_a_prompt_of_full_length_takes_at_most_5_ms():
    rng = random.Random(0)
    units = [
        "left ",
        "left of ",
        "(",
        "-",
        "9",
        "1:",
        "1.",
        "3 ",
        "at ",
        "my ",
        "over my ",
        "3 to ",
        "doa ",
        "half past ",
        "not ",
        "thirty ",
        "bearing ",
        "up and ",
        "from left ",
    ]
    texts = [(unit * 500)[:500] for unit in units] + [f"dog {unit * 500}"[:490] + " left" for unit in units]
    texts += [" ".join(rng.choice(WORDS) for _ in range(150))[:500] for _ in range(60)]

    def seconds(text):
        start = time.process_time()
        with contextlib.suppress(ValueError):
            parse_prompt(text)
        return time.process_time() - start

    # The least of five runs: this is about the work, not about a busy machine.
    assert max(min(seconds(text) for _ in range(5)) for text in texts) <= 0.005

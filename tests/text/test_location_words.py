"""What the model reads of a prompt: its own words stay, other words become words of the same direction."""

from __future__ import annotations

import pytest

from dualspec.audio.azimuth import azimuth_class, circular_error_deg, sector_grid_deg
from dualspec.text.lexicon import LOCATION_STYLES, Lexicon, LocationStyle, general_phrases
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import closed_prompts, describe_azimuth, format_prompt, parse_prompt

WORDS = LocationWords()


def direction(prompt: str) -> float:
    azimuth = parse_prompt(prompt).azimuth
    assert azimuth is not None
    return azimuth.azimuth_deg


def test_every_prompt_of_training_stays_as_it_is() -> None:
    prompts = closed_prompts(["dog bark", "rain"])
    assert len(prompts) == 2 * 12 * (1 + 1 + 4)
    assert [WORDS.read(prompt) for prompt in prompts] == prompts


@pytest.mark.parametrize("sector", range(12))
def test_other_words_become_words_of_the_same_direction(sector: int) -> None:
    for phrase in general_phrases(sector, split="heldout"):
        read = WORDS.read(format_prompt("dog bark", phrase))
        assert read == f"EVENT: Dog bark & LOCATION: DOA {30 * sector}"


@pytest.mark.parametrize("num_azimuths", [12, 16, 72, 360])
def test_degrees_become_the_nearest_ones_of_training(num_azimuths: int) -> None:
    words, trained = LocationWords(num_azimuths=num_azimuths), sector_grid_deg(num_azimuths)
    own = {describe_azimuth(azimuth, "doa") for azimuth in trained}
    for degrees in range(360):
        prompt = f"EVENT: Rain & LOCATION: DOA {degrees}"
        read = words.read(prompt)
        assert parse_prompt(read).location in own
        assert circular_error_deg(direction(read), degrees) <= 180 / num_azimuths + 0.5  # whole degrees are said
        assert (read == prompt) == (f"DOA {degrees}" in own)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a dog barking over my left shoulder", "EVENT: A dog barking & LOCATION: DOA 150"),
        ("dog bark at 3 o'clock", "EVENT: Dog bark & LOCATION: DOA 270"),
        ("church bells, directly behind", "EVENT: Church bells & LOCATION: directly behind"),
        ("EVENT: Rain & LOCATION: DOA 030", "EVENT: Rain & LOCATION: DOA 30"),
        ("EVENT: Rain & LOCATION: DOA 359", "EVENT: Rain & LOCATION: DOA 0"),
        ("event: rain & location: 3 o'clock direction", "event: rain & location: 3 o'clock direction"),
    ],
)
def test_free_words_become_the_template(prompt: str, read: str) -> None:
    assert WORDS.read(prompt) == read
    assert WORDS.read(prompt, "typed") == prompt
    assert WORDS.read(read) == read


@pytest.mark.parametrize("lexicon", ["distinct", "wide", "rich"])
def test_a_model_of_72_azimuths_knows_its_own_words(lexicon: Lexicon) -> None:
    words = LocationWords(num_azimuths=72, lexicon=lexicon)
    prompts = closed_prompts(["dog bark"], lexicon=lexicon, num_azimuths=72)
    assert [words.read(prompt) for prompt in prompts] == prompts
    assert {direction(prompt) for prompt in prompts} == set(sector_grid_deg(72))


@pytest.mark.parametrize(
    ("location", "fine", "coarse"),
    [
        ("DOA 25", "DOA 25", "DOA 30"),
        ("DOA 22", "DOA 20", "DOA 30"),
        ("DOA 358", "DOA 0", "DOA 0"),
        ("half past two direction", "half past two direction", "DOA 300"),
        ("3 o'clock direction", "3 o'clock direction", "3 o'clock direction"),
        ("half past 2", "DOA 285", "DOA 300"),
        ("2:30 o'clock", "DOA 285", "DOA 300"),
        ("halfway between 2 and 3 o'clock", "DOA 285", "DOA 300"),
        ("over my left shoulder", "DOA 135", "DOA 150"),
        ("to the left", "DOA 90", "DOA 90"),
        ("directly to the left", "directly to the left", "directly to the left"),
    ],
)
def test_what_is_read_depends_on_the_directions_of_training(location: str, fine: str, coarse: str) -> None:
    prompt = f"EVENT: Rain & LOCATION: {location}"
    assert LocationWords(num_azimuths=72).read(prompt) == f"EVENT: Rain & LOCATION: {fine}"
    assert WORDS.read(prompt) == f"EVENT: Rain & LOCATION: {coarse}"


@pytest.mark.parametrize(
    ("num_azimuths", "style", "azimuth", "named"),
    [
        (12, "clock", 45.0, "10 o'clock direction"),
        (72, "clock", 45.0, "half past ten direction"),
        (36, "clock", 50.0, "10 o'clock direction"),
        (72, "doa", 45.0, "DOA 45"),
        (72, "general", 45.0, "left, slightly toward the front"),
    ],
)
def test_an_azimuth_is_said_in_the_words_of_the_model(
    num_azimuths: int, style: LocationStyle, azimuth: float, named: str
) -> None:
    words = LocationWords(num_azimuths=num_azimuths)
    prompt = words.prompt_for("dog bark", azimuth, style)
    assert prompt == f"EVENT: Dog bark & LOCATION: {named}" and words.describe(azimuth, style) == named
    assert direction(prompt) == words.nearest(azimuth, style)


@pytest.mark.parametrize(
    "prompt",
    ["EVENT: Rain", "EVENT: Rain & LOCATION: everywhere", "a bus just left"],
)
def test_what_names_no_direction_or_none_that_is_understood_stays(prompt: str) -> None:
    assert WORDS.read(prompt) == prompt


@pytest.mark.parametrize(
    "prompt", ["EVENT: Rain & LOCATION: DOA 720", "a dog, not on the left", "EVENT: Rain behind me & LOCATION: DOA 0"]
)
def test_what_is_refused_reaches_the_model_only_as_typed(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"must .*; location_words='typed' lets the model read it as it is"):
        WORDS.read(prompt)
    assert WORDS.read(prompt, "typed") == prompt


def test_the_table_of_training_decides() -> None:
    prompt = "EVENT: Rain & LOCATION: left front"
    assert LocationWords(lexicon="paper_like").read(prompt) == prompt
    assert azimuth_class(direction(WORDS.read(prompt))) in (1, 2)
    wider = "EVENT: Rain & LOCATION: on my left"
    assert LocationWords(lexicon="wide").read(wider) == wider
    assert WORDS.read(wider) == "EVENT: Rain & LOCATION: DOA 90"
    assert len(LOCATION_STYLES) == 3  # another style would need a rule of its own


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_azimuths must be 1 to 360, got 720"):
        LocationWords(num_azimuths=720)
    with pytest.raises(ValueError, match="location_words must be known or typed, got 'spoken'"):
        WORDS.read("rain", "spoken")  # type: ignore[arg-type]

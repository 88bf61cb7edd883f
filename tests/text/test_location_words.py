"""What the model reads of a prompt: its own words stay, other words become words of the same direction."""

from __future__ import annotations

import pytest

from dualspec.audio.azimuth import azimuth_class, circular_error_deg, sector_grid_deg
from dualspec.text.lexicon import LOCATION_STYLES, general_phrases
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


@pytest.mark.parametrize(
    "prompt",
    ["EVENT: Rain", "EVENT: Rain & LOCATION: everywhere", "EVENT: Rain & LOCATION: DOA 720", "a bus just left"],
)
def test_what_names_no_direction_or_none_that_is_understood_stays(prompt: str) -> None:
    assert WORDS.read(prompt) == prompt


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

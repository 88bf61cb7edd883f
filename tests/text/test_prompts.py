"""The template and the words for the 12 sectors: what is written is read back."""

import csv

import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.text.direction_words import SIDE_AZIMUTH_DEG
from dualspec.text.lexicon import LOCATION_STYLES, general_phrases, location_weights, num_directions
from dualspec.text.location_parser import parse_location
from dualspec.text.prompts import (
    MAX_PROMPT_CHARS,
    blank_location,
    closed_prompts,
    describe_azimuth,
    draw_location_style,
    format_prompt,
    parse_prompt,
    prompt_for,
)

SECTORS = range(12)
# Clock hour of each sector on the paper's demo page (12->0, 10->60, 8->120, 7->150, 6->180, 5->210, 3->270, 2->300).
DEMO_HOURS = {0: 12, 60: 10, 120: 8, 150: 7, 180: 6, 210: 5, 270: 3, 300: 2}


def test_format_prompt_fills_the_papers_template():
    assert format_prompt("dog_bark", "3 o'clock direction") == "EVENT: Dog bark & LOCATION: 3 o'clock direction"
    assert format_prompt("Waves_and_surf", "DOA 180") == "EVENT: Waves and surf & LOCATION: DOA 180"
    assert format_prompt("organ") == "EVENT: Organ"


@pytest.mark.parametrize(
    ("event", "location"),
    [
        ("", "DOA 0"),
        (" _ ", None),
        ("EVENT: dog", None),
        ("dog & LOCATION: left", None),
        ("dog", " "),
        ("dog", "event: x"),
    ],
)
def test_format_prompt_refuses_what_it_could_not_read_back(event, location):
    with pytest.raises(ValueError, match=r"(event|location) must be"):
        format_prompt(event, location)


@pytest.mark.parametrize(("azimuth", "hour"), DEMO_HOURS.items())
def test_clock_hours_are_those_of_the_demo_page(azimuth, hour):
    assert describe_azimuth(azimuth, "clock") == f"{hour} o'clock direction"
    assert parse_location(f"{hour} o'clock").azimuth_deg == azimuth


@pytest.mark.parametrize("lexicon", ["distinct", "wide", "rich"])
@pytest.mark.parametrize("split", ["train", "heldout", "all"])
@pytest.mark.parametrize("sector", SECTORS)
def test_every_phrase_reads_back_as_its_sector(sector, split, lexicon):
    phrases = general_phrases(sector, split=split, lexicon=lexicon)
    more = {"distinct": 0, "wide": 5, "rich": 8}[lexicon] if split != "heldout" else 0
    assert len(phrases) >= {"train": 4, "heldout": 2, "all": 6}[split] + more
    for phrase in phrases:
        assert parse_location(phrase).azimuth_deg == 30 * sector
        template = parse_prompt(format_prompt("dog", phrase))
        assert (template.event, template.location, template.azimuth.azimuth_deg) == ("Dog", phrase, 30 * sector)
        free = parse_prompt(f"a dog barking {phrase}")
        assert (free.event, free.azimuth.azimuth_deg, free.azimuth.style) == ("a dog barking", 30 * sector, "general")


@pytest.mark.parametrize("style", LOCATION_STYLES)
@pytest.mark.parametrize("azimuth", range(0, 360, 30))
def test_prompt_for_reads_back(azimuth, style):
    parsed = parse_prompt(prompt_for("car_horn", azimuth, style))
    assert (parsed.event, parsed.azimuth.azimuth_deg, parsed.azimuth.style) == ("Car horn", azimuth, style)


@pytest.mark.parametrize("lexicon", ["distinct", "wide", "rich"])
def test_no_phrase_serves_two_sectors_and_heldout_is_held_out(lexicon):
    def listed(split, lexicon=lexicon):
        return [phrase for sector in SECTORS for phrase in general_phrases(sector, split=split, lexicon=lexicon)]

    assert len(listed("all")) == len(set(listed("all")))
    assert not set(listed("train")) & set(listed("heldout"))
    assert {*listed("train"), *listed("heldout")} == set(listed("all"))
    assert listed("heldout") == listed("heldout", "distinct")
    assert set(listed("train", "distinct")) <= set(listed("train"))


@pytest.mark.parametrize("sector", SECTORS)
def test_rich_holds_wide_and_at_least_30_percent_more(sector):
    wide, rich = (general_phrases(sector, lexicon=lexicon) for lexicon in ("wide", "rich"))
    assert rich[: len(wide)] == wide and len(rich) >= 1.3 * len(wide)
    assert len(set(rich)) == len(rich)


def test_left_and_right_are_worded_alike():
    swap = str.maketrans({"\0": "right"})
    for sector in range(1, 6):
        mirrored = general_phrases(12 - sector, split="all", lexicon="rich")
        phrases = general_phrases(sector, split="all", lexicon="rich")
        assert tuple(phrase.replace("left", "\0").translate(swap) for phrase in phrases) == mirrored


def test_the_paper_like_lexicon_is_ambiguous_within_30_degrees():
    off = []
    for sector in SECTORS:
        for phrase in general_phrases(sector, lexicon="paper_like"):
            error = abs((parse_location(phrase).azimuth_deg - 30 * sector + 180) % 360 - 180)
            assert error <= 15, phrase
            off.append(error)
    assert sum(error > 0 for error in off) >= 12
    assert "right rear" in general_phrases(7, lexicon="paper_like")
    assert "rear right" in general_phrases(8, lexicon="paper_like")
    with pytest.raises(ValueError, match="split must be 'train' or 'all'"):
        general_phrases(0, lexicon="paper_like", split="heldout")


def test_draws_are_the_generators_alone():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return [describe_azimuth(150, "general", generator=generator) for _ in range(40)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert set(draw(1)) == set(general_phrases(5))
    assert describe_azimuth(150, "general") == general_phrases(5)[0]
    generator = torch.Generator().manual_seed(0)
    assert {draw_location_style(generator) for _ in range(40)} == set(LOCATION_STYLES)


@pytest.mark.parametrize(("azimuth", "words"), [(44, "DOA 44"), (0.4, "DOA 0"), (359.7, "DOA 0")])
def test_doa_keeps_whole_degrees(azimuth, words):
    assert describe_azimuth(azimuth, "doa") == words


def test_each_direction_of_72_reads_back_in_the_styles_that_can_name_it():
    named = {style: sector_grid_deg(num_directions(style, 72)) for style in LOCATION_STYLES}
    assert {style: len(azimuths) for style, azimuths in named.items()} == {"doa": 72, "clock": 24, "general": 12}
    for style, azimuths in named.items():
        words = [describe_azimuth(azimuth, style, num_azimuths=72) for azimuth in azimuths]
        assert len(set(words)) == len(words)
        for azimuth, location in zip(azimuths, words, strict=True):
            parsed = parse_prompt(format_prompt("dog", location))
            assert (parsed.azimuth.azimuth_deg, parsed.azimuth.style) == (azimuth, style)
            free = parse_prompt(f"a dog barking {location}")
            assert (free.event, free.azimuth.azimuth_deg) == ("a dog barking", azimuth)
    assert describe_azimuth(285, "clock", num_azimuths=72) == "half past two direction"
    assert describe_azimuth(345, "clock", num_azimuths=72) == "half past twelve direction"
    assert describe_azimuth(283, "clock", num_azimuths=72) == "half past two direction"
    assert describe_azimuth(25, "general", num_azimuths=72) == general_phrases(1)[0]


@pytest.mark.parametrize("num_azimuths", [1, 7, 12, 16, 24, 36, 72, 360])
def test_styles_are_equally_frequent_and_so_are_the_directions_of_each(num_azimuths):
    weights = location_weights(num_azimuths)
    assert len(weights) == num_azimuths
    for index, style in enumerate(LOCATION_STYLES):
        own = [row[index] for row in weights]
        spoken = sector_grid_deg(num_directions(style, num_azimuths))
        assert sum(own) == sum(row[0] for row in weights), "a third of all"
        assert set(own) - {0} == {max(own)}, "its directions are equally likely"
        grid = sector_grid_deg(num_azimuths)
        assert tuple(azimuth for azimuth, weight in zip(grid, own, strict=True) if weight) == spoken
    assert num_azimuths != 12 or weights == [(1, 1, 1)] * 12


def test_clock_and_general_name_the_nearest_sector():
    assert describe_azimuth(44, "clock") == "11 o'clock direction"
    assert describe_azimuth(350, "general") == "straight ahead"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((360, "doa"), "azimuth_deg must be"),
        ((-30, "doa"), "azimuth_deg must be"),
        ((float("nan"), "doa"), "azimuth_deg must be"),
        ((0, "compass"), "style must be one of doa, clock, general, got 'compass'"),
    ],
)
def test_describe_azimuth_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        describe_azimuth(*arguments)


@pytest.mark.parametrize(("option", "match"), [({"lexicon": "x"}, "lexicon must"), ({"split": "x"}, "split must")])
def test_describe_azimuth_refuses_unknown_tables(option, match):
    with pytest.raises(ValueError, match=match):
        describe_azimuth(0, "general", **option)


def test_closed_prompts_hold_everything_that_prompt_for_writes():
    prompts = closed_prompts(["dog", "dog", "cat_meow"])
    assert len(prompts) == len(set(prompts)) == 2 * 12 * (1 + 1 + 4)
    generator = torch.Generator().manual_seed(3)
    drawn = {
        prompt_for("cat_meow", azimuth, draw_location_style(generator), generator=generator)
        for azimuth in range(0, 360, 30)
        for _ in range(8)
    }
    assert drawn <= set(prompts)
    fine = closed_prompts(["dog"], lexicon="rich", num_azimuths=72)
    assert len(fine) == 72 + 24 + sum(len(general_phrases(sector, lexicon="rich")) for sector in SECTORS)
    assert closed_prompts(["dog"], ["clock"])[:2] == [prompt_for("dog", 0, "clock"), prompt_for("dog", 30, "clock")]


@pytest.mark.parametrize(
    ("text", "event", "azimuth"),
    [
        ("EVENT: Waves and surf & LOCATION: DOA 180", "Waves and surf", 180),
        ("EVENT: Organ & LOCATION: 12 o' clock direction", "Organ", 0),
        ("EVENT: Walk and footsteps & LOCATION: Right rear, slightly toward the back", "Walk and footsteps", 210),
        ("event:dog&location:left", "dog", 90),
        ("EVENT: Back door & LOCATION: left", "Back door", 90),
        ("EVENT: Chirp & tweet & LOCATION: left", "Chirp & tweet", 90),
        ("dog & LOCATION: left", "dog", 90),
        ("EVENT: a dog on my left", "a dog", 90),
        ("EVENT: Clock alarm", "Clock alarm", None),
        ("EVENT: Dog & LOCATION: somewhere nice", "Dog", None),
        ("EVENT: Dog & LOCATION:", "Dog", None),
    ],
)
def test_parse_prompt_reads_the_template(text, event, azimuth):
    parsed = parse_prompt(text)
    assert parsed.event == event
    assert (parsed.azimuth.azimuth_deg if parsed.azimuth else None) == azimuth


def test_unknown_location_words_are_kept_apart_from_no_location():
    assert parse_prompt("EVENT: Dog & LOCATION: somewhere nice").location == "somewhere nice"
    assert parse_prompt("EVENT: Dog").location is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "prompt must have words"),
        (" \n\t", "prompt must have words"),
        ("&", "prompt must name a sound event"),
        ("left", "prompt must name a sound event"),
        ("EVENT: & LOCATION: left", "prompt must name a sound event"),
        ("LOCATION: left", "prompt must name a sound event"),
        ("EVENT: dog EVENT: cat", "'EVENT:' at most once, got 2"),
        ("EVENT: dog LOCATION: left & LOCATION: right", "'LOCATION:' at most once, got 2"),
        ("LOCATION: left & EVENT: dog", "prompt must begin with 'EVENT:'"),
        ("EVENT: dog & LOCATION: DOA 720", "azimuth must be -180 to 359 degrees, got 'DOA 720'"),
        ("EVENT: dog & LOCATION: 13 o'clock", "clock hour must be 1 to 12, got 13"),
        ("EVENT: dog & LOCATION: left and right", "location must name one direction, got left and right"),
        ("x" * (MAX_PROMPT_CHARS + 1), "at most 500 characters, got 501"),
        ("x" * 1_000_000, "at most 500 characters, got 1000000"),
        ("\ufdfa" * 100, "at most 500 characters in NFKC form"),
        ("dog \ud800 bark", "lone surrogate"),
        (None, "prompt must be str, got NoneType"),
        (b"dog", "prompt must be str, got bytes"),
    ],
)
def test_parse_prompt_refuses_in_one_line(text, match):
    with pytest.raises(ValueError, match=match) as caught:
        parse_prompt(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("EVENT: Dog bark & LOCATION: DOA 270", "EVENT: Dog bark"),
        ("EVENT: Dog bark", "EVENT: Dog bark"),
        ("EVENT: dog behind me & LOCATION: left", "EVENT: Dog"),
        ("a dog barking behind me to the left", "EVENT: A dog barking"),
        ("\u03b0 sound on my left", "EVENT: \u03b0 sound"),  # its capital is three characters
        ("\u0131\u0307 sound on my left", "EVENT: \u0130 sound"),  # its capital joins the dot above
    ],
)
def test_blank_location_leaves_no_direction(text, blank):
    assert blank_location(text) == blank
    assert blank_location(blank) == blank


@pytest.mark.parametrize("style", LOCATION_STYLES)
def test_blanked_prompts_of_all_sectors_are_equal(style):
    blanks = {
        blank_location(format_prompt("frog", phrase))
        for sector in SECTORS
        for phrase in (*general_phrases(sector, split="all"), describe_azimuth(30 * sector, style))
    }
    assert blanks == {"EVENT: Frog"}


def test_real_labels_survive_the_template_and_name_no_direction(shared_data):
    with (shared_data / "berklee" / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    with (shared_data / "esc50" / "meta" / "esc50.csv").open(newline="", encoding="utf-8") as file:
        labels |= {row["category"] for row in csv.DictReader(file)}
    for label in labels:
        prompt = prompt_for(label, 240, "general")
        parsed = parse_prompt(prompt)
        assert parsed.azimuth.azimuth_deg == 240
        assert format_prompt(parsed.event) == blank_location(prompt) == format_prompt(label)
        assert parse_prompt(label.replace("_", " ")).azimuth is None


def test_sides_are_those_of_the_convention():
    assert SIDE_AZIMUTH_DEG == {"front": 0, "left": 90, "back": 180, "right": 270}

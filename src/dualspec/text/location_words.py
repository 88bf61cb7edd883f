"""Saying a prompt's direction in words that the model was trained on: other words are placed wrongly now and then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dualspec.audio.azimuth import NUM_SECTORS, azimuth_class, sector_grid_deg
from dualspec.text.lexicon import Lexicon, LocationStyle, general_phrases, num_directions
from dualspec.text.prompts import ParsedPrompt, describe_azimuth, format_prompt, parse_prompt, prompt_for

Reading = Literal["known", "typed"]
"""`known`: the model reads directions in words it was trained on; `typed`: it reads every prompt as it was written."""

_DOA = re.compile(r"DOA (\d{1,3})")


@dataclass(frozen=True, kw_only=True)
class LocationWords:
    """The words for directions that a denoiser has learned: `DOA` in some degrees, the clock, general descriptions."""

    num_azimuths: int = NUM_SECTORS
    """Directions of training, evenly spaced from 0: the degrees that `DOA` was followed by.

    The clock and the general descriptions name those of them that they have words for (`lexicon.num_directions`).
    """
    lexicon: Lexicon = "distinct"
    """Table of the general descriptions."""

    def __post_init__(self) -> None:
        """Refuse directions that have no whole degrees of their own."""
        if not 1 <= self.num_azimuths <= 360:
            raise ValueError(f"num_azimuths must be 1 to 360, got {self.num_azimuths}; the usual ones are 12 and 72")

    def directions(self, style: LocationStyle) -> tuple[float, ...]:
        """Return the azimuths, degrees, that a style named in training."""
        return sector_grid_deg(num_directions(style, self.num_azimuths))

    def nearest(self, azimuth_deg: float, style: LocationStyle) -> float:
        """Return the azimuth nearest to this one, degrees, that a style named in training."""
        return self.directions(style)[azimuth_class(azimuth_deg, num_directions(style, self.num_azimuths))]

    def describe(self, azimuth_deg: float, style: LocationStyle) -> str:
        """Put an azimuth into words; `doa` keeps whole degrees, the others name the nearest direction of training."""
        return describe_azimuth(azimuth_deg, style, num_azimuths=self.num_azimuths)

    def prompt_for(self, event: str, azimuth_deg: float, style: LocationStyle) -> str:
        """Write the prompt for an event at an azimuth in the words of `describe`."""
        return prompt_for(event, azimuth_deg, style, num_azimuths=self.num_azimuths)

    def read(self, prompt: str, reading: Reading = "known") -> str:
        """Return what the model reads of a prompt.

        Words stay as they are where they are the model's own or name no direction. Else the sound stays, and the
        direction becomes `DOA` with the nearest degrees that were trained. A direction that cannot be read with
        certainty is refused: it would be heard somewhere, and nobody could say that it is wrong.

        Args:
            prompt: such as "a dog barking over my left shoulder".
            reading: `known`, or `typed` for no change.

        Returns:
            For example "EVENT: A dog barking & LOCATION: DOA 120".

        Raises:
            ValueError: the reading is neither of the two, or `parse_prompt` refuses the prompt.

        Paper: section V-C has the words of training; reading others by their sense is ours.
        """
        if reading == "typed":
            return prompt
        if reading != "known":
            raise ValueError(f"location_words must be known or typed, got {reading!r}; say 'known'")
        try:
            parsed = parse_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"{error}; location_words='typed' lets the model read it as it is") from error
        if parsed.azimuth is None or parsed.location is None or self._is_own(prompt, parsed, parsed.location):
            return prompt
        known = self._knows(parsed.location)
        return format_prompt(parsed.event, parsed.location if known else self._doa(parsed.azimuth.azimuth_deg))

    def _is_own(self, prompt: str, parsed: ParsedPrompt, location: str) -> bool:
        """Tell whether a prompt is the template, case apart, with words of training."""
        return self._knows(location) and prompt.casefold() == format_prompt(parsed.event, location).casefold()

    def _knows(self, location: str) -> bool:
        if found := _DOA.fullmatch(location):
            return location == self._doa(float(found[1]) % 360.0)
        if any(location == self.describe(azimuth, "clock") for azimuth in self.directions("clock")):
            return True
        sectors = map(azimuth_class, self.directions("general"))
        return any(location in general_phrases(sector, lexicon=self.lexicon, split="train") for sector in sectors)

    def _doa(self, azimuth_deg: float) -> str:
        return self.describe(self.nearest(azimuth_deg, "doa"), "doa")

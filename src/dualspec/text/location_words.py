"""Saying a prompt's direction in words that the model was trained on: other words are placed wrongly now and then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dualspec.audio.azimuth import NUM_SECTORS, azimuth_class, sector_grid_deg
from dualspec.text.lexicon import Lexicon, general_phrases
from dualspec.text.prompts import ParsedPrompt, describe_azimuth, format_prompt, parse_prompt

Reading = Literal["known", "typed"]
"""`known`: the model reads directions in words it was trained on; `typed`: it reads every prompt as it was written."""

_CLOCK = re.compile(r"(?:1[0-2]|[1-9]) o'clock direction")
_DOA = re.compile(r"DOA (\d{1,3})")


@dataclass(frozen=True, kw_only=True)
class LocationWords:
    """The words for directions that a denoiser has learned: `DOA` in some degrees, the clock, general descriptions."""

    num_azimuths: int = NUM_SECTORS
    """Directions of training, evenly spaced from 0: the degrees that `DOA` was followed by."""
    lexicon: Lexicon = "distinct"
    """Table of the general descriptions."""

    def __post_init__(self) -> None:
        """Refuse directions that have no whole degrees of their own."""
        if not 1 <= self.num_azimuths <= 360:
            raise ValueError(f"num_azimuths must be 1 to 360, got {self.num_azimuths}; the usual ones are 12")

    def read(self, prompt: str, reading: Reading = "known") -> str:
        """Return what the model reads of a prompt.

        Words stay as they are where they are the model's own, name no direction or cannot be understood. Else the sound
        stays, and the direction becomes `DOA` with the nearest degrees that were trained.

        Args:
            prompt: such as "a dog barking over my left shoulder".
            reading: `known`, or `typed` for no change.

        Returns:
            For example "EVENT: A dog barking & LOCATION: DOA 120".

        Raises:
            ValueError: the reading is neither of the two.

        Paper: section V-C has the words of training; reading others by their sense is ours.
        """
        if reading == "typed":
            return prompt
        if reading != "known":
            raise ValueError(f"location_words must be known or typed, got {reading!r}; say 'known'")
        try:
            parsed = parse_prompt(prompt)
            if parsed.azimuth is None or parsed.location is None or self._is_own(prompt, parsed, parsed.location):
                return prompt
        except ValueError:  # no such direction, or too many: the model may make of it what it can
            return prompt
        known = self._knows(parsed.location)
        return format_prompt(parsed.event, parsed.location if known else self._doa(parsed.azimuth.azimuth_deg))

    def _is_own(self, prompt: str, parsed: ParsedPrompt, location: str) -> bool:
        """Tell whether a prompt is the template, case apart, with words of training."""
        return self._knows(location) and prompt.casefold() == format_prompt(parsed.event, location).casefold()

    def _knows(self, location: str) -> bool:
        if found := _DOA.fullmatch(location):
            return location == self._doa(float(found[1]) % 360.0)
        if _CLOCK.fullmatch(location):
            return True
        sectors = range(NUM_SECTORS)
        return any(location in general_phrases(sector, lexicon=self.lexicon, split="train") for sector in sectors)

    def _doa(self, azimuth_deg: float) -> str:
        return describe_azimuth(
            sector_grid_deg(self.num_azimuths)[azimuth_class(azimuth_deg, self.num_azimuths)], "doa"
        )

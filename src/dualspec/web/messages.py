"""What clients send and get: the schemas that OpenAPI shows, strict on the way in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from dualspec.audio.audio_file import MIN_SAMPLE_RATE
from dualspec.audio.delivery import DELIVERY_LUFS, MAX_LUFS, MIN_LUFS
from dualspec.scenes.score import scene_schema
from dualspec.text.lexicon import LocationStyle
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import MAX_PROMPT_CHARS, ParsedPrompt, format_prompt, parse_prompt
from dualspec.web.settings import MAX_CLIPS, MAX_SEED

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Words = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
SceneBody = Annotated[dict[str, Any], WithJsonSchema({k: v for k, v in scene_schema().items() if k != "$schema"})]
Degrees = Annotated[float, Field(ge=0, lt=360, allow_inf_nan=False)]

_EITHER: Any = [
    {"required": ["azimuth_deg"], "properties": {"azimuth_deg": {"type": "number"}, "location": {"type": "null"}}},
    {"required": ["location"], "properties": {"location": {"type": "string"}, "azimuth_deg": {"type": "null"}}},
]


class Order(BaseModel):
    """What to generate, and where it is heard: one of `azimuth_deg` and `location`; null is the model's own choice."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra={"oneOf": _EITHER})

    event: Words = Field(description="What sounds.", examples=["dog bark"])
    azimuth_deg: Degrees | None = Field(None, description="Counter-clockwise: 0 front, 90 left, 270 right.")
    location_style: LocationStyle = Field("clock", description="Wording of azimuth_deg; only doa keeps single degrees.")
    location: Words | None = Field(None, description="Own words such as 'behind me, to the left'.", examples=[None])
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Of the first clip; the next ones count up.")
    num_clips: int = Field(1, ge=1, le=MAX_CLIPS, description="Variants, each with its own seed.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.")
    guidance_scale: float | None = Field(None, ge=0, le=20, allow_inf_nan=False, description="1 is none.")
    sampler: Literal["ddpm", "ddim", "dpmpp", "unipc"] | None = None
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS, allow_inf_nan=False)] | None = Field(
        DELIVERY_LUFS, description="Of the files, by one gain for both ears; null is the level as it comes."
    )

    def prompt(self, words: LocationWords | None = None) -> tuple[str, ParsedPrompt]:
        """Write the sentence for the model, and read back where it places the sound.

        Args:
            words: for directions, that the model was trained on; None: those of 12 directions.

        Raises:
            ValueError: the words cannot be used; the message begins with the field.
        """
        if self.location is None and self.azimuth_deg is not None:
            text = (words or LocationWords()).prompt_for(self.event, self.azimuth_deg, self.location_style)
        elif self.location is None or self.azimuth_deg is not None:
            raise ValueError("azimuth_deg or location must be given, got both or none; choose one of them")
        elif "location_style" in self.model_fields_set:
            raise ValueError("location_style must come with azimuth_deg, got location; leave one of them out")
        else:
            text = format_prompt(self.event, self.location)
        parsed = parse_prompt(text)
        if parsed.azimuth is None:
            hint = "say '3 o'clock', 'DOA 90' or 'behind me, slightly to the left'"
            raise ValueError(f"location must name a direction, got {self.location!r:.80}; {hint}")
        return text, parsed


class FileForm(BaseModel):
    """What a file is like that is fetched; left out: as it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["wav", "flac"] = Field("wav", description="Container.")
    sample_rate: int | None = Field(None, ge=MIN_SAMPLE_RATE, le=192_000, description="Hz, by resampling.")
    subtype: Literal["PCM_16", "PCM_24"] | None = Field(None, description="Sample format.")
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS, allow_inf_nan=False)] | None = Field(
        None, description="By one gain for both ears."
    )

    @property
    def is_as_made(self) -> bool:
        """Whether nothing is asked for."""
        return not self.model_fields_set


class Job(BaseModel):
    """Where a job stands."""

    id: str
    state: JobState
    order: Order | SceneBody = Field(description="What was asked for: clips, or a scene.")
    queue_position: int | None = Field(description="1 is the next; null when the job does not wait.")
    step: int
    num_steps: int = Field(description="0 until the job runs.")
    clips: list[dict[str, Any]] = Field(
        description="The finished ones: file name, and what their records say in short."
    )
    error: str | None
    expires_in_s: float | None = Field(description="Until the results are deleted; null while the job is not over.")


class Refusal(BaseModel):
    """Why a request was not served, in one line."""

    error: str
    field: str | None = None

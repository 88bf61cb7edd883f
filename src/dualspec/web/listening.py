"""The blind listening test as a page: no name and no direction of a clip leaves the server before the last answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Response
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

import dualspec
from dualspec.audio.waveform import read_waveform, write_waveform
from dualspec.evaluation.listening import ListeningTest, summarise
from dualspec.web.frame import add_page, add_refusals
from dualspec.web.guard import Guard
from dualspec.web.messages import Degrees, Refusal
from dualspec.web.settings import Settings

Listener = Annotated[str, InPath(pattern=r"^\w[\w .-]{0,39}$", description="Name or number of a listener.")]
Trial = Annotated[int, InPath(ge=1, le=100_000)]
_SHARED = ("dial.js", "sound.js", "server.js", "style.css", "icon.svg")
_BINARY: Any = {"content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}
_REFUSALS: dict[int | str, Any] = {code: {"model": Refusal} for code in (400, 401, 403, 408, 409, 413, 422, 500)}


class Heard(BaseModel):
    """Where a clip was heard."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    azimuth_deg: Degrees = Field(description="Counter-clockwise: 0 front, 90 left, 270 right.")
    num_plays: int = Field(ge=1, le=1_000)
    response_s: float = Field(ge=0, le=86_400, allow_inf_nan=False, description="From the first play to the answer.")
    headphones: Literal["passed", "failed", "skipped"] = Field(description="What the check of left and right gave.")


class Standing(BaseModel):
    """How far a listener is."""

    listener: str
    trial: int = Field(description="The next; beyond num_trials when all clips are answered.")
    num_trials: int
    result: dict[str, float] | None = Field(description="What the answers amount to, after the last of them.")
    points: list[list[float]] = Field(description="Directions asked and answered, after the last answer.")


def create_listening_app(test: ListeningTest, settings: Settings) -> FastAPI:
    """Build the service of a listening test; its routes run in threads."""
    app = FastAPI(title="dualspec listen", version=dualspec.__version__, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(Guard, settings=settings, is_draining=lambda: False)
    add_refusals(app)

    @app.get("/api/listeners/{listener}", responses=_REFUSALS)
    def standing(listener: Listener) -> Standing:
        """Say how far a listener is."""
        answers = test.answers(listener)
        is_over = len(answers) >= test.num_trials
        return Standing(
            listener=listener,
            trial=len(answers) + 1,
            num_trials=test.num_trials,
            result=summarise(answers) if is_over else None,
            points=[[answer.asked_deg, answer.answered_deg] for answer in answers] if is_over else [],
        )

    @app.get(
        "/api/listeners/{listener}/trials/{trial}/audio",
        response_class=Response,
        responses={**_REFUSALS, 200: _BINARY},
    )
    def audio(listener: Listener, trial: Trial) -> Response:
        """Fetch the sound of a listener's next trial: WAV, two channels, written anew so that nothing else is in it."""
        content = _in_turn(lambda: _as_wav(test.clip(listener, trial).path))
        return Response(content, headers={"cache-control": "no-store"}, media_type="audio/wav")

    @app.post("/api/listeners/{listener}/trials/{trial}", responses=_REFUSALS)
    def answer(listener: Listener, trial: Trial, heard: Heard) -> Standing:
        """Answer a listener's next trial; the answer is on the disk when the next trial is told."""
        facts = heard.model_dump(exclude={"azimuth_deg"}) | {"response_s": round(heard.response_s, 2)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        _in_turn(lambda: test.answer(listener, trial, heard.azimuth_deg, answered_at=now, **facts))
        return standing(listener)

    own = resources.files("dualspec.web") / "listening_page"
    page = {file.name: file.read_bytes() for file in own.iterdir()}
    shared = resources.files("dualspec.web") / "page"
    add_page(app, page | {name: (shared / name).read_bytes() for name in _SHARED})
    return app


def _in_turn(work: Callable[[], Any]) -> Any:
    """Do something that only a listener's next trial allows.

    Raises:
        HTTPException: it is another trial's turn (409).
    """
    try:
        return work()
    except LookupError as error:
        raise HTTPException(409, str(error.args[0])) from error


def _as_wav(path: Path) -> bytes:
    waveform, sample_rate = read_waveform(path)
    with TemporaryDirectory(prefix="dualspec-listen-") as folder:
        target = Path(folder) / "clip.wav"
        write_waveform(target, waveform, sample_rate, subtype="PCM_24", clip="scale")
        return target.read_bytes()

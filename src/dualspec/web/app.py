"""The routes: thin doors to jobs, uploads and lists. OpenAPI at /openapi.json, the page at /."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import dualspec
from dualspec.audio.delivery import MAX_LUFS, MIN_LUFS
from dualspec.generation import WrittenClip
from dualspec.scenes.score import Scene, scene_from
from dualspec.web.frame import StrictRoute, add_page, add_refusals, attachment, printable, ranged
from dualspec.web.guard import Guard
from dualspec.web.jobs import JobBook, QueueFull, Task
from dualspec.web.messages import Degrees, FileForm, Job, Order, Refusal, SceneBody
from dualspec.web.settings import MAX_CLIPS, MAX_UPLOAD_BYTES, MAX_UPLOAD_S, Settings
from dualspec.web.studio import Studio

_Result = TypeVar("_Result")
_POLL_S, _PING_S = 0.1, 15.0
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS: dict[int | str, Any] = {code: {"model": Refusal} for code in (400, 401, 403, 404, 408, 413, 422, 500, 503)}
_WAV: dict[int | str, Any] = {200: {"content": {"audio/wav": _BINARY}}}
_FILE = {"content": {"audio/wav": _BINARY, "audio/flac": _BINARY}}
_SOUND: dict[int | str, Any] = {200: _FILE, 206: _FILE, 416: {"model": Refusal}}
_ZIP: dict[int | str, Any] = {200: {"content": {"application/zip": _BINARY}}}
_PNG: dict[int | str, Any] = {200: {"content": {"image/png": _BINARY}}}
_SSE: dict[int | str, Any] = {200: {"content": {"text/event-stream": {}}, "description": "A Job at every change"}}
_RECORDING = {
    "description": f"A whole audio file, at most {MAX_UPLOAD_BYTES} bytes and {MAX_UPLOAD_S:g} s.",
    "required": True,
    "content": {"application/octet-stream": _BINARY},
}


class Service:
    """What the routes share: the studio, the jobs, and one lane for the short work beside them."""

    def __init__(self, studio: Studio, settings: Settings, root: Path) -> None:
        """Start the worker."""
        self.studio, self.settings, self.root = studio, settings, root
        self.jobs = JobBook(self._make, root, settings)
        self._lane, self._uploads = asyncio.Semaphore(), 0

    def _make(self, order: Order | Scene, folder: Path, on_step: Callable[[int, int], None]) -> Iterator[WrittenClip]:
        if isinstance(order, Scene):
            return self.studio.scene(order, folder, on_step)
        return self.studio.clips(order, folder, on_step)

    async def aside(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Do short work beside the worker of the jobs, one thing at a time."""
        async with self._lane:
            return await run_in_threadpool(work, *arguments)

    async def with_upload(self, request: Request, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Do something with the body of a request as a file, which is then deleted.

        Raises:
            HTTPException: too many uploads are at work (503), or the recording cannot be used (422).
        """
        if self._uploads >= self.settings.uploads:
            words = f"uploads must be at most {self.settings.uploads} at a time, got one more; try again later"
            raise HTTPException(503, words, {"retry-after": "5"})
        self._uploads += 1
        path = self.root / f"upload-{secrets.token_hex(16)}"
        try:
            with path.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            return await self.aside(work, path, *arguments)
        except ValueError as error:
            raise HTTPException(422, printable(str(error).replace(str(path), "recording"))[:390]) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "body must arrive whole, got the end of the connection") from error
        finally:
            self._uploads -= 1
            path.unlink(missing_ok=True)

    def submit(self, order: Order | Scene) -> Task:
        """Take a job.

        Raises:
            HTTPException: it cannot be carried out (422), or not now (503).
        """
        try:
            if isinstance(order, Scene):
                self.studio.plan(order)
            else:
                order.prompt()
                self.studio.sampling(order)
            return self.jobs.submit(order)
        except ValueError as error:
            raise HTTPException(422, _plain(error)) from error
        except QueueFull as full:
            raise HTTPException(503, full.args[0], {"retry-after": str(full.args[1])}) from full


def _service(request: Request) -> Service:
    return request.app.state.service


def _task(request: Request, job_id: str) -> Task:
    task = _service(request).jobs.find(job_id)
    if task is None:
        minutes = _service(request).settings.keep_s / 60
        raise HTTPException(404, f"job must exist, got none of that id; results are kept for {minutes:g} minutes")
    return task


def _clip(task: Annotated[Task, Depends(_task)], clip: int) -> WrittenClip:
    if clip >= len(task.clips):
        raise HTTPException(404, f"clip must be done, got {len(task.clips)} so far; {task.error or 'follow the job'}")
    return task.clips[clip]


def _scene(scene: SceneBody) -> Scene:
    try:
        return scene_from(scene)
    except ValueError as error:
        raise HTTPException(422, _plain(error)) from error


def _plain(error: ValueError) -> str:
    return printable(str(error))[:390]


def _created(service: Service, order: Order | Scene, response: Response) -> Job:
    task = service.submit(order)
    response.headers["location"] = f"/api/jobs/{task.id}"
    return service.jobs.describe(task)


AnyService = Annotated[Service, Depends(_service)]
AnyTask = Annotated[Task, Depends(_task)]
AnyScene = Annotated[Scene, Depends(_scene)]
AnyClip = Annotated[WrittenClip, Depends(_clip)]
AnyForm = Annotated[FileForm, Query()]
api = APIRouter(responses=_REFUSALS, route_class=StrictRoute)


@api.get("/healthz")
async def healthz(service: AnyService) -> JSONResponse:
    """Say whether the service takes jobs, whether one runs, and how many wait."""
    jobs, is_draining = service.jobs, service.jobs.draining
    status = "draining" if is_draining else "ok"
    health = {"status": status, "running": jobs.running is not None, "waiting": jobs.waiting}
    return JSONResponse(health, 503 if is_draining else 200)


@api.get("/api/info")
async def info(service: AnyService) -> dict[str, Any]:
    """Describe the model, its defaults, the limits, and how its directions are called."""
    limits = service.settings
    sizes = {"max_clips": MAX_CLIPS, "queue": limits.queue_size, "deadline_s": limits.deadline_s}
    return service.studio.about() | sizes | {"keep_s": limits.keep_s}


@api.get("/api/events")
async def events(service: AnyService) -> list[str]:
    """List the sounds that the model was trained on, the commonest first; other words are allowed."""
    return service.studio.events


@api.get("/api/variants")
async def variants(service: AnyService) -> list[dict[str, Any]]:
    """List the five systems of the paper, and which of them is loaded here."""
    return service.studio.variants


@api.get("/api/heads")
async def heads(service: AnyService) -> list[dict[str, Any]]:
    """List the heads through which recordings can be rendered."""
    return service.studio.heads


@api.post("/api/jobs", status_code=202)
async def create_job(service: AnyService, order: Order, response: Response) -> Job:
    """Ask for clips. Follow the job, or ask for it now and then: one that nobody asks for is cancelled."""
    return _created(service, order, response)


@api.post("/api/scenes", status_code=202)
async def create_scene(service: AnyService, scene: AnyScene, response: Response) -> Job:
    """Ask for a scene: a job like the others, whose clip 0 is the mix and whose picture shows it from above."""
    return _created(service, scene, response)


@api.post("/api/scenes/plan")
async def plan(service: AnyService, scene: AnyScene) -> dict[str, Any]:
    """Check a scene, and say what would be made of it; no sound is made."""
    try:
        return service.studio.plan(scene).facts()
    except ValueError as error:
        raise HTTPException(422, _plain(error)) from error


@api.get("/api/jobs/{job_id}")
async def job(service: AnyService, task: AnyTask) -> Job:
    """Say where a job stands."""
    return service.jobs.describe(task)


@api.delete("/api/jobs/{job_id}")
async def cancel_job(service: AnyService, task: AnyTask) -> Job:
    """Cancel a job after the present denoising step; finished clips stay."""
    service.jobs.cancel(task)
    return service.jobs.describe(task)


@api.get("/api/jobs/{job_id}/events", response_class=StreamingResponse, responses=_SSE)
async def follow_job(service: AnyService, task: AnyTask) -> StreamingResponse:
    """Follow a job by server-sent events until it is over."""

    async def stream() -> AsyncIterator[str]:
        with task.followed():
            told, silent_s, is_over = "", 0.0, False
            while not is_over:
                is_over = task.over is not None
                now = service.jobs.describe(task).model_dump_json(exclude={"expires_in_s"} if not is_over else set())
                silent_s += _POLL_S
                if now != told or silent_s > _PING_S:
                    yield f"data: {now}\n\n"
                    told, silent_s = now, 0.0
                await asyncio.sleep(_POLL_S)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


@api.get("/api/jobs/{job_id}/clips/{clip:int}/audio", response_class=Response, responses=_SOUND)
async def audio(service: AnyService, clip: AnyClip, form: AnyForm, request: Request) -> Response:
    """Fetch a clip, two channels, left first: as it was made, 24-bit WAV, or in another form. A range is answered."""
    content, words = await service.aside(service.studio.export, clip, form)
    headers = attachment(f"{clip.path.stem}.{form.format}") | ({"x-loudness": words} if words else {})
    return ranged(content, request, headers, f"audio/{form.format}")


@api.get("/api/jobs/{job_id}/zip", response_class=Response, responses=_ZIP)
async def archive(service: AnyService, task: AnyTask, form: AnyForm) -> Response:
    """Fetch all finished clips of a job and their records as one ZIP file."""
    if not task.clips:
        raise HTTPException(404, f"clips must be done, got none so far; {task.error or 'follow the job'}")
    content = await service.aside(service.studio.archive, list(task.clips), form)
    return Response(content, 200, attachment(f"{task.clips[0].path.stem}.zip"), "application/zip")


@api.get("/api/jobs/{job_id}/clips/{clip:int}/record")
async def record(clip: AnyClip) -> dict[str, Any]:
    """Fetch what makes a clip again, and the proof of its direction."""
    return clip.record


@api.get("/api/jobs/{job_id}/clips/{clip:int}/picture", response_class=Response, responses=_PNG)
async def picture(service: AnyService, clip: AnyClip) -> Response:
    """Fetch the spectrograms of both ears, with the direction asked for and the one that is heard."""
    return Response(await service.aside(service.studio.picture, clip), media_type="image/png")


@api.post("/api/generate", response_class=Response, responses={**_WAV, 504: {"model": Refusal}})
async def generate(service: AnyService, order: Order, request: Request) -> Response:
    """Generate one clip and wait for it; whoever hangs up cancels it. Content-Location names it for its record."""
    if order.num_clips != 1:
        raise HTTPException(422, f"num_clips must be 1 here, got {order.num_clips}; POST /api/jobs takes more")
    task = service.submit(order)
    with task.followed():
        while task.over is None:
            await asyncio.sleep(_POLL_S)
            if await request.is_disconnected():
                service.jobs.cancel(task, "the client hung up")
    if task.error is not None:
        raise HTTPException(task.status, task.error)
    made = task.clips[0]
    headers = attachment(made.path.name) | {"content-location": f"/api/jobs/{task.id}/clips/0/audio"}
    return Response(made.path.read_bytes(), 200, headers, "audio/wav")


@api.post("/api/localize", openapi_extra={"requestBody": _RECORDING})
async def localize(service: AnyService, request: Request) -> dict[str, Any]:
    """Say from where an uploaded two-channel recording is heard."""
    return await service.with_upload(request, service.studio.localize)


@api.post("/api/spatialize", openapi_extra={"requestBody": _RECORDING}, response_class=Response, responses=_WAV)
async def spatialize(
    service: AnyService,
    request: Request,
    azimuth_deg: Degrees | None = None,
    path: Annotated[str | None, Query(max_length=1000, description="Seconds:degrees, such as 0:270,2.5:90.")] = None,
    loudness_lufs: Annotated[float | None, Query(ge=MIN_LUFS, le=MAX_LUFS, description="By one gain.")] = None,
    head: Annotated[str, Query(max_length=200)] = "sphere",
) -> Response:
    """Render an uploaded recording through one of /api/heads: the classic way, no model. X-Loudness says the result."""
    where = azimuth_deg if path is None else path
    if where is None or (azimuth_deg is not None and path is not None):
        raise HTTPException(422, "azimuth_deg or path must be given, got both or none; choose one of them")
    content, words = await service.with_upload(request, service.studio.spatialize, where, head, loudness_lufs)
    return Response(content, headers={"x-loudness": words} if words else None, media_type="audio/wav")


def create_app(studio: Studio, settings: Settings, root: Path) -> FastAPI:
    """Build the service.

    Args:
        studio: the model and its company.
        settings: limits.
        root: an empty folder for results and uploads.
    """
    service = Service(studio, settings, root)

    async def sweep() -> None:
        while True:
            service.jobs.sweep()
            await asyncio.sleep(1.0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(sweep())
        yield
        sweeper.cancel()
        service.jobs.close()

    # The usual pages for reading OpenAPI load scripts from other hosts: both are off.
    app = FastAPI(title="dualspec", version=dualspec.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.state.service = service
    app.add_middleware(Guard, settings=settings, is_draining=lambda: service.jobs.draining)
    add_refusals(app)
    app.add_exception_handler(FileNotFoundError, _say_it_has_expired)
    app.include_router(api)
    add_page(app, {file.name: file.read_bytes() for file in (resources.files("dualspec.web") / "page").iterdir()})
    return app


async def _say_it_has_expired(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "clip must exist, got none; it has just expired", "field": None}, 404)

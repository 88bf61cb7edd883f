"""What frames every app of ours: how refusals are told, and the page that stands beside the routes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_RULES = {
    "missing": "must be given",
    "json_invalid": "must be JSON",
    "extra_forbidden": "must be left out, there is no such field",
    "model_attributes_type": "must be a JSON object, sent as application/json",
}


def add_refusals(app: FastAPI) -> None:
    """Let an app tell every refusal in one line that begins with the field."""
    app.add_exception_handler(RequestValidationError, _say_what_is_wrong)
    app.add_exception_handler(HTTPException, _say_in_one_line)
    app.add_exception_handler(Exception, _say_it_is_a_bug)


def add_page(app: FastAPI, page: Mapping[str, bytes]) -> None:
    """Serve files by their names, index.html at the root too; to be added after all routes."""

    @app.get("/{name}", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def asset(name: str = "index.html") -> Response:
        if name not in page:
            raise HTTPException(404, "page must be one of ours, got another; / is the page, /openapi.json the API")
        return Response(page[name], headers={"cache-control": "no-cache"}, media_type=_MEDIA[Path(name).suffix])


async def _say_what_is_wrong(request: Request, error: Any) -> JSONResponse:
    """Name the field and the rule; what was sent is shown in ASCII and cut short."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = "body" if first["type"] == "json_invalid" else ascii(".".join(place) or "body").strip("'")[:80]
    rule = _RULES.get(first["type"], first["msg"].replace("Input should", "must"))
    got = "" if first["type"] in ("missing", "json_invalid") else f", got {first.get('input')!a:.60}"
    return JSONResponse({"error": f"{field} {rule}{got}", "field": field}, 422)


async def _say_in_one_line(request: Request, error: Any) -> JSONResponse:
    line = " ".join(str(error.detail).split()).replace("There was an error parsing the body", "body must be JSON")
    field = line.partition(" ")[0] if error.status_code in (400, 422) else None
    return JSONResponse({"error": line, "field": field}, error.status_code, error.headers)


async def _say_it_is_a_bug(request: Request, error: Exception) -> JSONResponse:
    words = f"an error in dualspec ({type(error).__name__}); the server's log has the trace"
    return JSONResponse({"error": words, "field": None}, 500)

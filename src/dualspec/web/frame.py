"""What frames every app of ours: how bodies are read, how refusals are told, and the page beside the routes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from dualspec.web.guard import HEADERS

_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_RULES = {
    "missing": "must be given",
    "json_invalid": "must be JSON",
    "extra_forbidden": "must be left out, there is no such field",
    "model_attributes_type": "must be a JSON object, sent as application/json",
    "dict_type": "must be a JSON object",
    "string_type": "must be text",
    "string_unicode": "must be valid text",
    "string_too_short": "must have at least {min_length} character",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be written otherwise, see /openapi.json",
}


class StrictRoute(APIRoute):
    """A route whose JSON bodies name each field once and hold no control characters."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Read bodies strictly, and go on as usual."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=_checked)


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        HTTPException: a field stands twice, or a text holds control characters.
    """
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise HTTPException(422, f"{printable(name)[:80]} must be given once, got it twice; leave one out")
        texts = [text for text in (name, value, *(value if isinstance(value, list) else ())) if isinstance(text, str)]
        if any(ord(letter) < 32 and letter not in "\t\n\r" for text in texts for letter in text):
            raise HTTPException(422, f"{printable(name)[:80]} must hold no control characters, got some; remove them")
        result[name] = value
    return result


def printable(text: str) -> str:
    """Write out what cannot be seen, such as control characters and marks of direction, as its code."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def attachment(name: str) -> dict[str, str]:
    """Return the header by which a browser saves an answer under a name of any letters (RFC 6266)."""
    plain = name.encode("ascii", "replace").decode().replace("?", "-").replace('"', "-")
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"}


def ranged(content: bytes, request: Request, headers: dict[str, str], media_type: str) -> Response:
    """Answer with all bytes, or with the one range of them that is asked for (RFC 9110, section 14).

    Raises:
        HTTPException: the range lies behind the end (416).
    """
    headers = headers | {"accept-ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", request.headers.get("range", "").replace(" ", ""))
    first, last = asked.groups() if asked is not None and "if-range" not in request.headers else ("", "")
    size = len(content)
    if not (first or last) or (first and last and int(last) < int(first)):
        return Response(content, 200, headers, media_type)
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= end:
        words = f"range must begin within the {size} bytes, got {asked[0] if asked else ''}; ask for fewer"
        raise HTTPException(416, words, {"content-range": f"bytes */{size}"})
    headers |= {"content-range": f"bytes {begin}-{end - 1}/{size}"}
    return Response(content[begin:end], 206, headers, media_type)


def add_refusals(app: FastAPI) -> None:
    """Let an app read bodies strictly, and tell every refusal in one line that begins with the field."""
    app.router.route_class = StrictRoute
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
    """Name the field and the rule; what was sent is shown in print and cut short."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = "body" if first["type"] == "json_invalid" else printable(".".join(place) or "body")[:80]
    limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in first.get("ctx", {}).items()}
    rule = _RULES.get(first["type"], "").format(**limits) or first["msg"].replace("Input should", "must")
    got = "" if first["type"] in ("missing", "json_invalid") else f", got {first.get('input')!r:.60}"
    return JSONResponse({"error": f"{field} {rule}{got}", "field": field}, 422)


async def _say_in_one_line(request: Request, error: Any) -> JSONResponse:
    line = " ".join(str(error.detail).split()).replace("There was an error parsing the body", "body must be JSON")
    field = line.partition(" ")[0] if error.status_code in (400, 422) else None
    return JSONResponse({"error": line, "field": field}, error.status_code, error.headers)


async def _say_it_is_a_bug(request: Request, error: Exception) -> JSONResponse:
    words = f"an error in dualspec ({type(error).__name__}); the server's log has the trace"
    return JSONResponse({"error": words, "field": None}, 500, HEADERS)  # it goes past what sets them else

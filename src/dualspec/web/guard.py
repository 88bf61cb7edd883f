"""What stands before every route: names, origins, tokens, numbers, sizes and times of requests, headers of answers."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dualspec.web.settings import MAX_ACTIVE, MAX_ACTIVE_PER_ADDRESS, MAX_JSON_BYTES, MAX_UPLOAD_BYTES, Settings

_UPLOADS = ("/api/localize", "/api/spatialize")
_PROTECTED = ("/api/", "/openapi.json")  # the page itself and /healthz hold no secret
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses a request by its head, limits its body, and sets the headers of the answer."""

    def __init__(self, app: ASGIApp, settings: Settings, is_draining: Callable[[], bool]) -> None:
        """Keep the app, the limits, and how to tell that nothing new is taken."""
        self._app, self._settings, self._is_draining = app, settings, is_draining
        self._active: Counter[str] = Counter()  # requests at work, by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or refuse it; HEAD is answered as GET is, without the body."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_head, is_over = scope["method"] == "HEAD", False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            elif is_head:
                message = {"type": "http.response.body", "body": b""}
            if not is_over:
                is_over = is_head and message["type"] == "http.response.body"
                await send(message)

        scope = {**scope, "method": "GET"} if is_head else scope
        limit = MAX_UPLOAD_BYTES if scope["path"] in _UPLOADS else MAX_JSON_BYTES
        address = (scope.get("client") or ("",))[0]
        app: ASGIApp = self._app
        self._active[address] += 1
        try:
            self._check(scope, Headers(scope=scope), limit, self._active[address])
        except HTTPException as refusal:
            app = JSONResponse({"error": refusal.detail, "field": None}, refusal.status_code, refusal.headers)
        try:
            await app(scope, _limited(receive, limit, self._settings.body_s), send_with_headers)
        finally:
            self._active[address] -= 1
            self._active += Counter()  # forgets addresses that have none

    def _check(self, scope: Scope, headers: Headers, limit: int, active: int) -> None:
        is_crowded = self._active.total() > MAX_ACTIVE or active > MAX_ACTIVE_PER_ADDRESS
        if is_crowded and scope["path"] != "/healthz":
            words = f"requests must be at most {MAX_ACTIVE_PER_ADDRESS} at a time, got more; try again later"
            raise HTTPException(503, words, {"retry-after": "5"})
        host = headers.get("host", "")
        if not self._settings.allows_host(host):
            raise HTTPException(400, f"Host must name this service, got {host!r:.80}; see --allow-host")
        if "origin" in headers and not self._is_own_page(headers["origin"], host):
            raise HTTPException(403, "Origin must be this service's own page, got another site's")
        if self._settings.token is not None and scope["path"].startswith(_PROTECTED):
            sent = headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(sent, f"Bearer {self._settings.token}".encode()):
                words = "token must be sent as 'Authorization: Bearer …', got none or another"
                raise HTTPException(401, words, {"www-authenticate": "Bearer"})
        if int(headers.get("content-length", "0")[:20]) > limit:
            raise HTTPException(413, _too_large(limit))
        if self._is_draining() and scope["method"] == "POST":
            raise HTTPException(503, "the server is stopping; try again later", {"retry-after": "10"})

    def _is_own_page(self, origin: str, host: str) -> bool:
        try:
            site = urlsplit(origin)
        except ValueError:
            return False
        return site.netloc == host or site.hostname in self._settings.allowed_hosts


def _limited(receive: Receive, limit: int, seconds: float) -> Receive:
    """Count the bytes of a body as they come; too many, or too slow, end the request."""
    count, is_complete = 0, False
    end = asyncio.get_running_loop().time() + seconds

    async def counted() -> Message:
        nonlocal count, is_complete
        try:
            async with asyncio.timeout_at(None if is_complete else end):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"body must arrive within {seconds:g} s, got no end of it") from error
        count += len(message.get("body", b""))
        if count > limit:
            raise HTTPException(413, _too_large(limit))
        is_complete = not message.get("more_body", False)
        return message

    return counted


def _too_large(limit: int) -> str:
    return f"body must be at most {limit} bytes, got more"

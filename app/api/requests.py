"""What every request has: an id, a line in the log, a place in the counts."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Set
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import Metrics
from app.logs import REQUEST_ID, request_id, traceparent

log = logging.getLogger("starboard.access")

SANE = re.compile(r"[\w.:-]{1,64}", re.ASCII)
# The pages under /docs have scripts and a worker in them. Nothing is loaded from elsewhere, and
# nothing of ours is framed.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
MAX_PATH = 256  # of a line of the log
_SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Observed:
    """Gives each request its id, the client's own if that is short and plain, and returns it as
    `x-request-id`, with `SECURITY_HEADERS`. The query is not logged: clients put keys there."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        id_ = given if SANE.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        request_id.set(id_)  # each request is served in a context of its own
        traceparent.set(headers.get("traceparent"))
        started, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID.encode(), id_.encode()),
                    *_missing({name.lower() for name, _ in message["headers"]}),
                ]
            await send(message)

        self.metrics.requests_in_progress.inc()
        try:
            await self.app(scope, receive, observed)
        finally:
            self.metrics.requests_in_progress.dec()
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        path = scope["path"][:MAX_PATH]
        self.metrics.request(method, _route(scope), status)
        log.info(
            "%s %s %d in %.3f s",
            method,
            path,
            status,
            took_s,
            extra={
                "method": method,
                "path": path,
                "status": status,
                "duration_s": round(took_s, 6),
            },
        )


def _missing(names: Set[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that every reply has, but for those that it has already: the page has a stricter
    policy, and the files under /docs may be kept, by their `etag`."""
    missing = [(name, value) for name, value in _SECURITY if name not in names]
    if names.isdisjoint((b"etag", b"cache-control")):
        missing.append((b"cache-control", b"no-store"))
    return missing


def _route(scope: dict[str, Any] | Scope) -> str:
    """The path as the route has it, `/answers/{id}`: one label for all answers, and for all paths
    that lead nowhere."""
    return getattr(scope.get("route"), "path", "none")

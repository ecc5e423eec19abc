"""Limits on what a client may send: how much, and in which form."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.connections import ClientGoneError
from app.api.problems import Problem, problem_response
from app.errors import InvalidRequestError, MediaTypeError

MAX_HEADER_BYTES = 32 * 1024
MAX_DEPTH = 64


class Limits:
    """Answers 413 to a body over `max_body_bytes`, whether or not it said its length; 431 to a URL
    and headers over `MAX_HEADER_BYTES`; 400 to a body of two lengths, of which a proxy may have
    believed the other."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if problem := self._problem(scope):
            await _refuse(problem, scope, receive, send)
            return
        size, refused = 0, False

        async def limited() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_bytes:
                refused = True
                await _refuse(self._too_large, scope, receive, send)
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self.app(scope, limited, unless_refused)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        url = len(scope["path"]) + len(scope["query_string"])
        if url + sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            detail = f"the URL and the headers are over {MAX_HEADER_BYTES:,} bytes"
            return Problem(title="Request Header Fields Too Large", status=431, detail=detail)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers and "content-length" in headers:
            detail = "send either content-length or transfer-encoding"
            return Problem(title="Bad Request", status=400, detail=detail)
        if length.isdigit() and int(length) > self.max_body_bytes:
            return self._too_large
        return None

    @property
    def _too_large(self) -> Problem:
        detail = f"the body is over {self.max_body_bytes:,} bytes"
        return Problem(title="Content Too Large", status=413, detail=detail)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    # What is still to come on the connection may not be what its client takes it for.
    headers = {"Connection": "close"} if problem.status == 400 else None  # noqa: PLR2004
    await problem_response(problem, headers)(scope, receive, send)


class JsonRoute(APIRoute):
    """A route that takes a body only as `strict_json`, sent as what it is.

    Raises `MediaTypeError` or `InvalidRequestError`. That a body must be declared as JSON keeps out
    forms of foreign web pages as well: browsers ask before they send JSON, and are told no.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def strict(request: Request) -> Response:
            request = _JsonRequest(request.scope, request.receive)
            try:
                if await request.body():
                    _check_media_type(request.headers)
                    await request.json()
            except ClientDisconnect as error:
                raise ClientGoneError from error
            return await handle(request)

        return strict


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = strict_json(await self.body())
        return self._json


def _check_media_type(headers: Mapping[str, str]) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")):
        raise MediaTypeError("send the body as JSON, with content-type: application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise MediaTypeError("send the body as it is, without a content-encoding")


def strict_json(body: bytes) -> object:
    """The value of a JSON text in UTF-8 (RFC 8259), with a byte order mark or without.

    Raises `InvalidRequestError` for the field `body` if it is none, and for what would be read
    differently by another parser or could not be stored: names given twice, NaN and Infinity,
    half surrogate pairs, nesting over `MAX_DEPTH`.
    """
    try:
        text = body.decode("utf-8-sig")
        value: object = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
        if text.count("{") + text.count("[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
            raise RecursionError
        if "\\u" in text:  # nothing else makes half a pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _invalid(f"the body is nested deeper than {MAX_DEPTH} levels") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise _invalid("the body holds one half of a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        raise _invalid(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # Python's limit on the digits of a whole number
        raise _invalid("a number in the body has too many digits") from error
    return value


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _invalid("an object in the body has the same name twice")
    return found


def _no_number(constant: str) -> None:
    raise _invalid(f"the body is not JSON: {constant} is no number")


def _deeper(value: object, levels: int) -> bool:
    """Whether containers are nested in more than so many levels."""
    level = _containers([value])
    for _ in range(levels):
        level = _containers(
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        )
    return bool(level)


def _containers(nodes: Iterable[object]) -> list[dict[str, object] | list[object]]:
    return [node for node in nodes if isinstance(node, dict | list)]


def _invalid(detail: str) -> InvalidRequestError:
    return InvalidRequestError("body", detail)

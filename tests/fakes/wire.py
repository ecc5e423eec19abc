"""What a fake records of a request, and how a reply is put onto the wire.

A `Reply` says what to answer; its `send` says how: whole, gzipped, cut, dripped, reset, late or
far too long. A fault is a function that picks or alters a reply, so the two multiply freely.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

UPSTREAM_CANARY: Final = "upstream-canary-5f1c0e"
"""Stands in every error text a fake sends. It must never reach our own output."""

HUGE_BYTES: Final = 64 * 2**20
"""Length of the `flood` body: eight times what an adapter reads at the most."""

BOMB_BYTES: Final = 10 * 2**20
"""Length of the `bomb` body once unpacked: more than that, and quickly packed."""

HANG_S: Final = 30.0
DRIP_S: Final = 0.1

Json = dict[str, Any]
Sender = Callable[[web.Request, "Reply"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it arrived. `json` is None unless the body was a JSON object."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    json: Json | None
    params: Mapping[str, str] = field(default_factory=dict)
    """Named parts of the path, such as the model in Gemini's."""

    @property
    def sent(self) -> Json:
        """The JSON object sent, or an empty one."""
        return self.json or {}

    @property
    def streams(self) -> bool:
        return self.sent.get("stream") is True


def record(request: web.Request, body: bytes) -> Recorded:
    """What arrived, with the body parsed if it can be."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    return Recorded(
        method=request.method,
        path=request.path,
        query=dict(request.query),
        headers=request.headers,
        body=body,
        json=parsed if isinstance(parsed, dict) else None,
    )


async def whole(request: web.Request, reply: Reply) -> web.StreamResponse:
    """The reply as it should be."""
    return web.Response(body=reply.payload, status=reply.status, headers=reply.all_headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. `body` is sent as it is if bytes or text, else as JSON."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    send: Sender = whole

    @property
    def payload(self) -> bytes:
        match self.body:
            case bytes():
                return self.body
            case str():
                return self.body.encode()
            case _:
                return json.dumps(self.body, ensure_ascii=False).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        return {"Content-Type": self.content_type, **self.headers}


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def html(status: int, title: str, text: str) -> Reply:
    """The page a load balancer answers with instead of the API behind it."""
    page = f"<html><head><title>{status} {title}</title></head><body><h1>{title}</h1>{text}</body>"
    return Reply(page, status=status, content_type="text/html")


def event_stream(chunks: Iterable[str]) -> Reply:
    """Server-sent events, each of `chunks` being one event without its closing blank line."""
    return Reply("".join(f"{chunk}\n\n" for chunk in chunks), content_type="text/event-stream")


def pieces(text: str) -> list[str]:
    """`text` cut into the deltas of a stream: after each blank."""
    *words, last = text.split(" ")
    return [*(f"{word} " for word in words), last]


def tokens(text: str) -> int:
    """Roughly what a tokenizer would count: four characters a token, at least one."""
    return max(1, len(text) // 4)


async def gzipped(request: web.Request, reply: Reply) -> web.StreamResponse:
    headers = {**reply.all_headers, "Content-Encoding": "gzip"}
    return web.Response(body=gzip.compress(reply.payload), status=reply.status, headers=headers)


async def bomb(request: web.Request, reply: Reply) -> web.StreamResponse:
    """A small packed body that unpacks to `BOMB_BYTES` and the reply."""
    before, filler, after = _padding(reply)
    headers = {**reply.all_headers, "Content-Encoding": "gzip"}
    body = gzip.compress(before + filler * BOMB_BYTES + after, compresslevel=1)
    return web.Response(body=body, status=reply.status, headers=headers)


async def cut(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Complete HTTP, incomplete content: the last third of the body is missing."""
    body = reply.payload[: len(reply.payload) * 2 // 3]
    return web.Response(body=body, status=reply.status, headers=reply.all_headers)


async def drip(request: web.Request, reply: Reply) -> web.StreamResponse:
    """A byte at a time, never the last one: each read succeeds, the whole never comes."""
    response = await _started(request, reply)
    for byte in itertools.chain(reply.payload[:-1], itertools.repeat(ord(" "))):
        await response.write(bytes([byte]))
        await asyncio.sleep(DRIP_S)
    return response


async def reset(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Promise the whole body, send half of it, then reset the connection (RST, not FIN)."""
    response = await _started(request, reply, content_length=len(reply.payload))
    await response.write(reply.payload[: len(reply.payload) // 2])
    await asyncio.sleep(0.01)  # lets the half arrive: a reset discards what is unread
    _abort(request)
    return response


async def disconnect(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Reset the connection before a single byte of the reply."""
    _abort(request)
    return web.Response()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


async def hang(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Not even headers for `HANG_S` seconds."""
    await asyncio.sleep(HANG_S)
    return await whole(request, reply)


async def flood(request: web.Request, reply: Reply) -> web.StreamResponse:
    """`HUGE_BYTES` of an unknown field (in valid JSON), then the rest of the reply."""
    before, filler, after = _padding(reply)
    response = await _started(request, reply)
    await response.write(before)
    for _ in range(HUGE_BYTES // 2**20):
        await response.write(filler * 2**20)
    await response.write(after)
    return response


def _padding(reply: Reply) -> tuple[bytes, bytes, bytes]:
    if isinstance(reply.body, dict):
        return b'{"padding": "', b"x", b'", ' + reply.payload[1:]
    if reply.content_type == "text/event-stream":
        return b": ", b"x", b"\n\n" + reply.payload
    return b"", b" ", reply.payload


async def _started(
    request: web.Request, reply: Reply, content_length: int | None = None
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.all_headers)
    response.content_length = content_length
    await response.prepare(request)
    return response

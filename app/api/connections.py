"""A run goes on for as long as its client stays: as one JSON reply, or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from app.domain import Answer, Completed, Event, Failed, Listener, Scored, Selected, Started
from app.errors import RequestError

log = logging.getLogger("starboard")

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it
KEEP_ALIVE = format_sse_event(comment="the board is at work")

Step = Started | Completed | Failed | Scored | Answer | Exception | None
"""What there is to tell of a run; None is silence. The last one is the answer or an exception."""


class ClientGoneError(Exception):
    """The client left; the work it waited for has been cancelled."""


async def on_client_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client leaves.

    Raises `ClientGoneError` if it did. The body has been read, so the next ASGI message can only be
    the disconnect.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def follow(
    run: Callable[[Listener], Coroutine[Any, Any, Answer]], keep_alive_s: float
) -> AsyncGenerator[Step]:
    """Start a run that reports to a listener, and tell its steps as they come, with a None after
    every `keep_alive_s` seconds of silence. Closing the generator cancels the run.

    Raises what keeps the run from starting: that still has a status of its own.
    """
    steps = _steps(run, keep_alive_s)
    first = await anext(steps)
    if isinstance(first, Exception):
        await steps.aclose()
        raise first
    return _chained(first, steps)


async def _chained(first: Step, rest: AsyncGenerator[Step]) -> AsyncGenerator[Step]:
    async with aclosing(rest):
        yield first
        async for step in rest:
            yield step


async def _steps(
    run: Callable[[Listener], Coroutine[Any, Any, Answer]], keep_alive_s: float
) -> AsyncGenerator[Step]:
    told: asyncio.Queue[Step] = asyncio.Queue()
    running = asyncio.ensure_future(_tell(run, told))
    try:
        step: Step = None
        while not isinstance(step, Answer | Exception):
            try:
                step = await asyncio.wait_for(told.get(), keep_alive_s)
            except TimeoutError:
                step = None
            yield step
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _tell(
    run: Callable[[Listener], Coroutine[Any, Any, Answer]], told: asyncio.Queue[Step]
) -> None:
    def listen(event: Event) -> None:
        if not isinstance(event, Selected):  # the run may still find the selection too thin
            told.put_nowait(event)

    try:
        told.put_nowait(await run(listen))
    except RequestError as error:
        told.put_nowait(error)
    except Exception as error:  # the status has been sent, so nobody above can report it
        log.exception("a run failed")
        told.put_nowait(error)


class EventStream(StreamingResponse):
    """Server-sent events. When the client leaves, the generator that makes them is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):
            with suppress(ClientGoneError):
                await while_connected(Request(scope, receive), self.stream_response(send))

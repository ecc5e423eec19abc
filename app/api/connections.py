"""A run goes on for as long as its client stays: as one JSON reply, or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class LiveRun:
    """A run under way in a task of its own, with the steps it has told and not yet shown."""

    first: Step
    told: asyncio.Queue[Step]
    running: asyncio.Task[None]
    keep_alive_s: float

    async def steps(self) -> AsyncIterator[Step]:
        """The steps as they come, with a None after every `keep_alive_s` seconds of silence."""
        step = self.first
        yield step
        while not isinstance(step, Answer | Exception):
            try:
                # Not `wait_for`: under Python 3.11 it forgets a cancellation that meets a result.
                async with asyncio.timeout(self.keep_alive_s):
                    step = await self.told.get()
            except TimeoutError:
                step = None
            yield step

    async def stop(self) -> None:
        """Cancel what is left of the run, and wait until it is stored."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


async def follow(
    request: Request, run: Callable[[Listener], Coroutine[Any, Any, Answer]], keep_alive_s: float
) -> LiveRun:
    """Start a run that reports to a listener. Raises what keeps it from starting: before the first
    step an error still has an HTTP status of its own. Raises `ClientGoneError` if the client left
    before that; whatever is raised, the run is over."""
    told: asyncio.Queue[Step] = asyncio.Queue()
    running = asyncio.ensure_future(_tell(run, told))
    try:
        first = await while_connected(request, told.get())
        if isinstance(first, Exception):
            raise first
    except BaseException:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise
    return LiveRun(first, told, running, keep_alive_s)


async def _tell(
    run: Callable[[Listener], Coroutine[Any, Any, Answer]], told: asyncio.Queue[Step]
) -> None:
    def listen(event: Event) -> None:
        if not isinstance(event, Selected):  # the run may still find that too few replied
            told.put_nowait(event)

    try:
        told.put_nowait(await run(listen))
    except RequestError as error:
        told.put_nowait(error)
    except Exception as error:  # once the status has been sent, nobody above can report it
        log.exception("a run failed")
        told.put_nowait(error)


class EventStream(StreamingResponse):
    """Server-sent events drawn from a run, which is stopped when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, run: LiveRun, events: AsyncIterable[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGoneError):
                await while_connected(Request(scope, receive), self.stream_response(send))
        finally:
            await self.run.stop()

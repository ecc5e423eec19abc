"""The base of all fake servers: start, stop, record, count, fail on demand."""

from __future__ import annotations

import asyncio
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import TracebackType
from typing import ClassVar, Self

from aiohttp import web

from .faults import COMMON, Call, Fault
from .wire import UPSTREAM_CANARY, Recorded, Reply, record

_STOP_S = 0.01  # aiohttp takes 0 for "wait for ever"


@dataclass(frozen=True, slots=True)
class Route:
    """What a path (a regular expression) answers. Only `generates` routes take every fault."""

    method: str
    pattern: str
    answer: Callable[[Recorded], Reply]
    generates: bool = False


class FakeServer(ABC):
    """A remote API on 127.0.0.1, in the running event loop.

    `requests` holds what arrived, `in_progress` counts the handlers at work and `cancelled`
    those whose client went away before the reply was complete: what a cancelled call must show.
    `faults_met` counts the calls that a fault hit.
    """

    FAULTS: ClassVar[tuple[Fault, ...]] = COMMON
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = ()
    """For requests with streaming on; FAULTS hold for those without."""

    default_reply: ClassVar[str] = "Paris is the capital of France."
    reply_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, api_key: str | None = "test-key-0123456789", delay_s: float = 0.0) -> None:
        """`api_key` None asks for none, as servers on one's own machine do."""
        self.api_key = api_key
        self.base_url = ""
        self.models: tuple[str, ...] = self.default_models()
        self._initial_delay_s = delay_s
        self.in_progress = 0
        self._stopping = False
        self.reset()

    def reset(self) -> None:
        """As at the start: no faults, the default reply, nothing recorded."""
        self.reply: str | Callable[[Recorded], str] = self.default_reply
        self.delay_s = self._initial_delay_s
        self.requests: list[Recorded] = []
        self.cancelled = 0
        self.faults_met = 0
        self._always: Callable[[], Fault | None] | None = None
        self._once: list[Fault] = []

    # What each API says for itself

    @abstractmethod
    def default_models(self) -> tuple[str, ...]:
        """The models on offer; `models` may be replaced."""

    @abstractmethod
    def routes(self) -> tuple[Route, ...]: ...

    @abstractmethod
    def key_of(self, request: Recorded) -> str | None:
        """The key the request carries."""

    @abstractmethod
    def error_body(self, status: int, message: str) -> object:
        """This API's body for an error."""

    @abstractmethod
    def text_reply(self, request: Recorded, text: str) -> Reply:
        """A healthy reply with the given text."""

    def refusal(self, request: Recorded) -> Reply | None:
        """This API's error for a request it does not take, or None."""
        return None

    def denial(self, request: Recorded) -> Reply:
        """The answer to a wrong or missing key."""
        return self.error(request, 401)

    def no_route(self, request: Recorded) -> Reply:
        """The answer to a wrong path."""
        return self.error(request, 404, f"Invalid URL ({request.method} {request.path})")

    # Faults

    def fail(self, name: str) -> None:
        """The fault hits every call from now on."""
        fault = self._fault(name)
        self._always = lambda: fault

    def fail_sometimes(self, share: float, faults: Sequence[Fault], chance: random.Random) -> None:
        """One of the faults, drawn by `chance`, hits that share of the calls from now on."""
        self._always = lambda: chance.choice(faults) if chance.random() < share else None

    def recover(self) -> None:
        """No fault hits from now on."""
        self._always = None

    def fail_once(self, name: str) -> None:
        """The fault hits the next call only; several queue up."""
        self._once.append(self._fault(name))

    def _fault(self, name: str) -> Fault:
        known = {fault.name: fault for fault in (*self.FAULTS, *self.STREAM_FAULTS)}
        if name not in known:
            raise ValueError(f"no fault {name!r}; there are {', '.join(known)}")
        return known[name]

    def _next_fault(self, generates: bool) -> Fault | None:
        fault = self._once[0] if self._once else self._always and self._always()
        if fault is None or not (generates or fault.everywhere):
            return None
        if self._once:
            self._once.pop(0)
        return fault

    # Replies

    def reply_text(self, request: Recorded) -> str:
        return self.reply(request) if callable(self.reply) else self.reply

    def generate(self, request: Recorded) -> Reply:
        """The healthy reply to a generating call."""
        return self.text_reply(request, self.reply_text(request))

    def respond(self, request: Recorded) -> Reply:
        """The healthy reply to any call."""
        route = self._route(request)
        return self.no_route(request) if route is None else route.answer(request)

    def error(
        self,
        request: Recorded,
        status: int,
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """This API's error. Its text leaks the key, as careless proxies do."""
        text = f"{message or _phrase(status)} {self.leak(request)}"
        return Reply(self.error_body(status, text), status=status, headers=headers or {})

    def leak(self, request: Recorded) -> str:
        return f"{UPSTREAM_CANARY} (key {self.key_of(request)})"

    def _answer(self, request: Recorded) -> Reply:
        route = self._route(request)
        if route is None:
            return self.no_route(request)
        if self.api_key is not None and self.key_of(request) != self.api_key:
            return self.denial(request)
        if route.generates and (refusal := self.refusal(request)):
            return refusal
        fault = self._next_fault(route.generates)
        made = fault and fault.make(Call(request, self))
        self.faults_met += made is not None
        return made or route.answer(request)

    def _route(self, request: Recorded) -> Route | None:
        for route in self.routes():
            if route.method == request.method and re.fullmatch(route.pattern, request.path):
                return route
        return None

    def _with_params(self, request: Recorded) -> Recorded:
        route = self._route(request)
        match = route and re.fullmatch(route.pattern, request.path)
        return replace(request, params=match.groupdict()) if match else request

    # The server

    @property
    def open_connections(self) -> int:
        """TCP connections, idle ones in a client's pool included."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_STOP_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.base_url = f"http://{host}:{port}"
        self._stopping = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        recorded = self._with_params(record(request, await request.read()))
        self.requests.append(recorded)
        self.in_progress += 1
        try:
            await asyncio.sleep(self.delay_s)
            reply = self._answer(recorded)
            headers = {**self.reply_headers, **reply.headers}
            return await reply.send(request, replace(reply, headers=headers))
        except asyncio.CancelledError:
            self.cancelled += not self._stopping
            raise
        except ConnectionError:  # the client left while a body was being written
            self.cancelled += not self._stopping
            return web.Response()
        finally:
            self.in_progress -= 1


def _phrase(status: int) -> str:
    return "Overloaded" if status == 529 else HTTPStatus(status).phrase

"""The rows of the fault tables, and the faults that every API shares (wires.md 3g, "All").

A row says what an adapter must make of the fault: `kind` is the failure it must report, or None
if it must succeed. To add a fault, write a function from `Call` to `Reply` and a row naming it:

    def teapot(call: Call) -> Reply:
        return call.error(418)

    Fault("teapot_418", "refused_request", teapot)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from app.domain import FailureKind, FinishReason

from .wire import (
    Recorded,
    Reply,
    Sender,
    bomb,
    cut,
    disconnect,
    drip,
    flood,
    gzipped,
    hang,
    html,
    reset,
)

if TYPE_CHECKING:
    from .server import FakeServer

RETRYABLE: Final[frozenset[FailureKind]] = frozenset(
    {"timeout", "rate_limited", "overloaded", "unavailable"}
)
"""Written out again, not imported from `app.errors`: this is what that one is checked against."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that passed the key check and the validation, and the fake that is to answer."""

    request: Recorded
    fake: FakeServer

    def normal(self) -> Reply:
        """The reply of a healthy server."""
        return self.fake.respond(self.request)

    def text(self, text: str) -> Reply:
        """A healthy reply with the given text."""
        return self.fake.text_reply(self.request, text)

    def error(self, status: int, message: str = "", **headers: str) -> Reply:
        """This API's error; an underscore in a header's name stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.fake.error(self.request, status, message, named)

    @property
    def leak(self) -> str:
        """The canary and the caller's key, for bodies that are not this API's errors."""
        return self.fake.leak(self.request)


Make = Callable[[Call], Reply | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: what the fake does, and what the adapter must make of it.

    `make` returns None where the fault does not apply, and the reply is then normal. `finish` is
    the finish reason of a success that has a particular one, `retry_after_s` the delay that the
    reply asks for. A fault hits the generating calls; with `everywhere` the model list too.
    """

    name: str
    kind: FailureKind | None
    make: Make
    finish: FinishReason | None = None
    retry_after_s: float | None = None
    everywhere: bool = False

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE

    def __str__(self) -> str:
        return self.name


def sent_by(sender: Sender) -> Make:
    """The normal reply, put onto the wire in another way. It carries the canary."""

    def make(call: Call) -> Reply:
        reply = call.normal()
        if isinstance(reply.body, dict):
            reply = replace(reply, body={"debug": call.leak, **reply.body})
        return replace(reply, send=sender)

    return make


def status(code: int, message: str = "", **headers: str) -> Make:
    """This API's error for the status, with extra headers."""
    return lambda call: call.error(code, message, **headers)


def body(content: str) -> Make:
    """200 with a body that is not what was asked for."""
    return lambda _: Reply(content)


def date_in_two_seconds(call: Call) -> Reply:
    when = datetime.now(UTC) + timedelta(seconds=2)
    return call.error(429, Retry_After=format_datetime(when, usegmt=True))


def not_an_object(call: Call) -> Reply:
    return Reply([call.leak])


def error_with_200(call: Call) -> Reply:
    return replace(call.error(500), status=200)


def bad_gateway(call: Call) -> Reply:
    return html(502, "Bad Gateway", call.leak)


def empty_text(call: Call) -> Reply:
    return call.text("")


COMMON: Final = (
    Fault("truncated_json", "bad_reply", sent_by(cut), everywhere=True),
    Fault("slow_drip", "timeout", sent_by(drip), everywhere=True),
    Fault("reset_mid_body", "unavailable", sent_by(reset), everywhere=True),
    Fault("reset_before_reply", "unavailable", sent_by(disconnect), everywhere=True),
    Fault("html_502", "unavailable", bad_gateway, everywhere=True),
    Fault("gzip", None, sent_by(gzipped), everywhere=True),
    Fault("huge_body", "bad_reply", sent_by(flood), everywhere=True),
    Fault("gzip_bomb", "bad_reply", sent_by(bomb), everywhere=True),
    Fault("hang", "timeout", sent_by(hang), everywhere=True),
    Fault("unauthorized_401", "auth", status(401), everywhere=True),
    Fault("forbidden_403", "auth", status(403), everywhere=True),
    Fault("model_not_found_404", "refused_request", status(404)),
    Fault("request_timeout_408", "timeout", status(408), everywhere=True),
    Fault("rate_limited_429", "rate_limited", status(429), everywhere=True),
    Fault(
        "rate_limited_429_seconds",
        "rate_limited",
        status(429, Retry_After="1"),
        retry_after_s=1,
        everywhere=True,
    ),
    Fault(
        "rate_limited_429_date",
        "rate_limited",
        date_in_two_seconds,
        retry_after_s=2,
        everywhere=True,
    ),
    Fault("server_error_500", "unavailable", status(500), everywhere=True),
    Fault("unavailable_503", "overloaded", status(503), everywhere=True),
    Fault("gateway_timeout_504", "timeout", status(504), everywhere=True),
    Fault("empty_body", "bad_reply", body(""), everywhere=True),
    Fault("not_an_object", "bad_reply", not_an_object, everywhere=True),
    Fault("error_with_200", "bad_reply", error_with_200, everywhere=True),
    Fault("empty_text", "bad_reply", empty_text),
)

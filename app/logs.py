"""The log: one line for each record, as text or JSON, without prompts and secrets.

Nobody who sends a request can write a line of it, control a terminal by it or read a key in it:
control characters are escaped, and of an exception that is not ours only its class and its place
in the code are told, for its message may quote a prompt, a reply or a key.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from app.errors import StarboardError

LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The caller's place in its trace, as it came: W3C's header of that name."""

REQUEST_ID = "x-request-id"
"""The header in which a client may give the id, and finds it."""

FIELDS = ("method", "path", "status", "duration_s")
"""What a record may carry besides its message."""

_BEARER = re.compile(r"(?i)\b(bearer|x-api-key:?|api[_-]?key=|key=)\s*[\w.~+/=-]{6,}")
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:sk-|nvapi-|AIza)[\w-]{12,}")
_REDACTED = "[redacted]"


def log_at(level: str, form: LogFormat = "text", secrets: Iterable[str] = ()) -> None:
    """Our own log and uvicorn's at that level. The packages below us log only what goes wrong: at
    lower levels several of them write out prompts and replies."""
    import stamina

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(secrets) if form == "json" else TextFormatter(secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("starboard", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    stamina.instrumentation.set_on_retry_hooks([])


class _Formatter(logging.Formatter):
    """What both formats leave out. `secrets` are replaced wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = tuple(sorted({s for s in secrets if s}, key=len, reverse=True))

    def redacted(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, _REDACTED)
        return _TOKEN.sub(_REDACTED, _BEARER.sub(rf"\1 {_REDACTED}", text))

    def message(self, record: logging.LogRecord) -> str:
        return self.redacted(record.getMessage())

    def error(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info or record.exc_info[1] is None:
            return None
        return self.redacted(_told(record.exc_info[1], record.exc_info[2]))


class TextFormatter(_Formatter):
    """A line for a person; a stack, if there is one, stands indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        id_ = request_id.get()
        asked = f" [{id_}]" if id_ else ""
        head = f"{self.formatTime(record)} {record.levelname} {record.name}{asked}: "
        line = head + escaped(self.message(record))
        error = self.error(record)
        return f"{line}\n{error}" if error else line


class JsonFormatter(_Formatter):
    """An object on a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
            "request_id": request_id.get(),
            **{name: self._field(record, name) for name in FIELDS if hasattr(record, name)},
            "error": self.error(record),
        }
        return json.dumps({name: value for name, value in entry.items() if value is not None})

    def _field(self, record: logging.LogRecord, name: str) -> object:
        value: object = getattr(record, name)
        return self.redacted(value) if isinstance(value, str) else value


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would act on or that would turn
    the direction of what follows."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _told(error: BaseException, stack: TracebackType | None) -> str:
    name = type(error).__name__
    said = f"{name}: {escaped(str(error))}" if isinstance(error, StarboardError) else name
    return "".join(traceback.format_tb(stack)) + f"  {said}"

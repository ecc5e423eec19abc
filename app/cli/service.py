"""`starboard serve`, `migrate`, `ask`, `score`, `models`."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import AsJson, err, settings
from app.logs import log_at

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve together.")] = None,
) -> None:
    """Serve the HTTP API (Swagger UI at /docs)."""
    import uvicorn

    given = settings(host=host, port=port, workers=workers)
    _log(given)
    if given.auth == "off" and not given.on_loopback:
        err.print(f"[yellow]{given.host} is reachable by others, and no key is asked for.")
    # Uvicorn hands the signal on once it has stopped, and to have stopped is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.environ["STARBOARD_HOST"] = given.host  # `app` reads the settings anew, in each worker
    shared = given.workers > 1 or given.metrics_dir
    with _figures_of_all(given.metrics_dir) if shared else nullcontext():
        uvicorn.run(
            "app.cli.service:app",
            factory=True,
            host=given.host,
            port=given.port,
            workers=given.workers,
            http="h11",  # the others are less strict about what a request may look like
            log_config=None,
            access_log=False,  # ours has the request's id, and no query
            server_header=False,
            # Answers under way are finished before the process ends.
            timeout_graceful_shutdown=int(given.deadline_s) + 5,
        )


def migrate() -> None:
    """Bring the database to this version's schema, and end. `serve` does so too when it starts."""
    from app.store import AnswerStore

    async def open_and_close(url: str) -> None:
        async with AnswerStore.open(url):
            pass

    asyncio.run(open_and_close(settings().database_url))


M_ARENA_MAX = -8  # malloc.h
# How many objects may come before the youngest are looked through for garbage.
NEW_OBJECTS = 10_000


def app() -> FastAPI:
    """The app of one process that serves."""
    from app.api import create_app

    _share_one_heap()
    given = settings()
    _log(given)
    return create_app(given, opened=_leave_alone)


def _share_one_heap() -> None:
    """By itself glibc gives threads heaps of their own, and in each of them holes remain."""
    with suppress(AttributeError, OSError):  # other C libraries have no such thing
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _leave_alone() -> None:
    """What is there by now, mostly modules, is there until the end, and one answer makes as many
    objects as Python by itself lets come before it looks for garbage among them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)


def ask(
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads it from standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="Ask only this member; may be repeated.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature, 0-2.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put one prompt to the board and show the best reply with every score."""
    from app.api.documents import AnswerRequest
    from app.cli import board

    request = AnswerRequest.model_validate(
        {
            "prompt": sys.stdin.read() if prompt == "-" else prompt,
            "system": system,
            "members": member or None,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "deadline_s": deadline,
        }
    )
    document = asyncio.run(board.ask(request, quiet=as_json))
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
    else:
        board.show(document)


def score(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    replies: Annotated[list[str], typer.Argument(help="Replies to it.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score replies that came from elsewhere."""
    from app.api.documents import ScoreRequest
    from app.cli import board

    document = asyncio.run(board.score(ScoreRequest(prompt=prompt, system=system, replies=replies)))
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
    else:
        board.show_scores(replies, document)


def models(as_json: AsJson = False) -> None:
    """Show who sits on the board, who does not and why, and each member's win rate.

    Win rates are read from the database, which is made or migrated as by `serve`.
    """
    from app.cli import board

    asyncio.run(board.show_models(as_json=as_json))


@contextmanager
def _figures_of_all(given: Path | None) -> Iterator[None]:
    """A folder in which workers keep the figures of /metrics for each other: the operator's,
    without what processes of before left in it, or one of its own."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        for left in given.glob("*.db"):
            left.unlink()
        yield
        return
    with tempfile.TemporaryDirectory(prefix="starboard-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _log(given: Settings) -> None:
    log_at(given.log_level, given.log_format, given.secrets)
    logging.getLogger("uvicorn.error").addFilter(_no_traceback)


def _no_traceback(record: logging.LogRecord) -> bool:
    """The lifespan has logged why it failed. What uvicorn would print under it, stack and text as
    one message, may quote a prompt or a key."""
    return "Traceback (most recent call last)" not in record.getMessage()

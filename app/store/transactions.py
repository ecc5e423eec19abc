"""How the store's tables are read and written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import StoreError

log = logging.getLogger("starboard")

T = TypeVar("T")

# How long to wait for a database that is gone, and how often to look. A restart takes seconds; who
# waits longer had better be told.
PATIENCE_S = 5.0
AGAIN_S = 0.2
# PostgreSQL is shutting down, or not up yet.
NOT_NOW = ("57P01", "57P02", "57P03")

# SQLite lets whoever comes at the right moment write next: of many that wait, some wait for ever.
# Behind a lock a process's own writers take their turns. Whoever does not get his in time fails:
# where another process has the database, each of those before him waits as long as SQLite does.
TURN_S = 5.0
_turns: WeakKeyDictionary[AsyncEngine, asyncio.Lock] = WeakKeyDictionary()


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read by with one statement. Raises `StoreError`."""
    with store_failures():
        async with engine.connect() as connection:
            yield connection


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read by whose statements all see the tables as they are at the first.
    Raises `StoreError`."""
    with store_failures():
        async with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                await connection.exec_driver_sql("BEGIN")
            else:
                await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction whose reads are not overtaken: on PostgreSQL of the rows that it selects with
    FOR UPDATE, on SQLite of all, for there one writes at a time. Raises `StoreError`."""
    with store_failures():
        if engine.dialect.name != "sqlite":
            async with engine.begin() as connection:
                yield connection
            return
        async with _turn(engine), engine.begin() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


@asynccontextmanager
async def _turn(engine: AsyncEngine) -> AsyncIterator[None]:
    lock = _turns.setdefault(engine, asyncio.Lock())
    try:
        async with asyncio.timeout(TURN_S):
            await lock.acquire()
    except TimeoutError as error:
        raise StoreError("too many wait to write to the database") from error
    try:
        yield
    finally:
        lock.release()


async def patiently(work: Callable[[bool], Awaitable[T]]) -> T:
    """The work, tried again for `PATIENCE_S` seconds while it is the connection that fails.

    For what must not be lost: answers that are paid for, and what they cost. A connection may be
    lost after the commit, so the work is told whether it is done again, and must then do no harm.
    """
    again = False
    patient = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await work(again)
        except StoreError as error:
            if not error.lost or asyncio.get_running_loop().time() >= patient:
                raise
        again = True
        await asyncio.sleep(AGAIN_S)


@contextmanager
def store_failures() -> Iterator[None]:
    """What a database or its driver raises leaves as `StoreError`."""
    try:
        yield
    except (SQLAlchemyError, OSError, UnicodeEncodeError, OverflowError) as error:
        # Not its text: a driver may quote the values it was given.
        log.error("the database failed: %s", type(getattr(error, "orig", None) or error).__name__)
        said = f"the database failed: {type(error).__name__}"
        raise StoreError(said, lost=_lost(error)) from error


def _lost(error: Exception) -> bool:
    """Whether it was the connection that failed, and not what was to be done with it."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in NOT_NOW
    return isinstance(error, OSError)


def utc_now() -> datetime:
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """A stored time in UTC: SQLite drops the zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)

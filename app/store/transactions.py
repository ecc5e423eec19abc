"""How the store's tables are read and written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import StoreError

log = logging.getLogger("starboard")

# SQLite lets whoever comes at the right moment write next: of many that wait, some wait for ever.
# Behind a lock a process's own writers take their turns.
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
        async with _turns.setdefault(engine, asyncio.Lock()), engine.begin() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


@contextmanager
def store_failures() -> Iterator[None]:
    """What a database or its driver raises leaves as `StoreError`."""
    try:
        yield
    except (SQLAlchemyError, OSError, UnicodeEncodeError, OverflowError) as error:
        # Not its text: a driver may quote the values it was given.
        log.error("the database failed: %s", type(getattr(error, "orig", None) or error).__name__)
        raise StoreError(f"the database failed: {type(error).__name__}") from error


def utc_now() -> datetime:
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """A stored time in UTC: SQLite drops the zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)

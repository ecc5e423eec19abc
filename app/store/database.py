"""`Database`: how the store's tables are read and written, alike on SQLite and PostgreSQL.

The work of a transaction is a plain function of a connection. On SQLite it is done in one of the
store's threads: the way into a thread and back costs more than a statement does there, so there is
one for each transaction, not for each statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal, Protocol, TypeVar

from pydantic_core import to_json
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.errors import StoreError

log = logging.getLogger("starboard")

T = TypeVar("T")
Work = Callable[[Connection], T]
Dialect = Literal["sqlite", "postgresql"]

# What people write, and what earlier versions asked for.
DRIVERS = {"sqlite+aiosqlite": "sqlite", "postgresql": "postgresql+asyncpg"}
# How long to wait for a database that is gone, and how often to look. A restart takes seconds; who
# waits longer had better be told.
PATIENCE_S = 5.0
AGAIN_S = 0.2
# PostgreSQL is shutting down, or not up yet.
NOT_NOW = ("57P01", "57P02", "57P03")
# How long SQLite waits for another process's transaction.
BUSY_MS = 5_000
# Who waits longer for a thread fails: where another process has the database, each transaction
# before its own waits as long as SQLite does.
TURN_S = 5.0
# So many threads read SQLite at a time.
READERS = 8


class Database(Protocol):
    """Transactions on one database. `read`, `snapshot` and `write` raise `StoreError`."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def url(self) -> URL: ...

    def opened(self, set_up: Work[None]) -> AbstractAsyncContextManager[None]:
        """Open for as long as the context is, once `set_up` has been done; raises what the driver
        raises."""
        ...

    async def read(self, work: Work[T]) -> T:
        """What the work reads by one statement."""
        ...

    async def snapshot(self, work: Work[T]) -> T:
        """What the work reads by statements that all see the tables as they are at the first."""
        ...

    async def write(self, work: Work[T]) -> T:
        """The work as a transaction whose reads are not overtaken: on PostgreSQL of the rows that
        it selects with FOR UPDATE, on SQLite of all, for there one writes at a time. Whoever waits
        `TURN_S` seconds for that fails."""
        ...


@dataclass(frozen=True)
class PostgreSQL:
    engine: AsyncEngine
    dialect: Dialect = "postgresql"

    @property
    def url(self) -> URL:
        return self.engine.url

    @asynccontextmanager
    async def opened(self, set_up: Work[None]) -> AsyncIterator[None]:
        try:
            async with self.engine.connect() as connection:
                await connection.run_sync(set_up)
            yield
        finally:
            await self.engine.dispose()

    async def read(self, work: Work[T]) -> T:
        with store_failures():
            async with self.engine.connect() as connection:
                return await connection.run_sync(work)

    async def snapshot(self, work: Work[T]) -> T:
        with store_failures():
            async with self.engine.connect() as connection:
                await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                return await connection.run_sync(work)

    async def write(self, work: Work[T]) -> T:
        with store_failures():
            async with self.engine.begin() as connection:
                return await connection.run_sync(work)


@dataclass(frozen=True)
class SQLite:
    """Who is cancelled while a thread does the work does not stop it: it is done to its end.

    One thread writes. SQLite lets whoever comes at the right moment write next, so of many that
    wait some wait for ever; here a process's own writers take their turns.
    """

    engine: Engine
    readers: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    dialect: Dialect = "sqlite"

    @property
    def url(self) -> URL:
        return self.engine.url

    @asynccontextmanager
    async def opened(self, set_up: Work[None]) -> AsyncIterator[None]:
        try:
            await self._in(self.writer, None, set_up)
            yield
        finally:
            for threads in (self.readers, self.writer):
                await asyncio.to_thread(threads.shutdown)
            self.engine.dispose()

    async def read(self, work: Work[T]) -> T:
        with store_failures():
            return await self._in(self.readers, None, work)

    async def snapshot(self, work: Work[T]) -> T:
        with store_failures():
            return await self._in(self.readers, "BEGIN", work)

    async def write(self, work: Work[T]) -> T:
        with store_failures():
            return await self._in(self.writer, "BEGIN IMMEDIATE", work)

    async def _in(
        self,
        threads: ThreadPoolExecutor,
        begin: str | None,
        work: Work[T],
    ) -> T:
        last = monotonic() + TURN_S

        def transaction() -> T:
            if monotonic() > last:
                raise StoreError("too many wait for the database", lost=True)
            with self.engine.connect() as connection:
                if begin:
                    connection.exec_driver_sql(begin)
                result = work(connection)
                connection.commit()
                return result

        try:
            done = asyncio.get_running_loop().run_in_executor(threads, transaction)
        except RuntimeError as error:
            raise StoreError("the database is closed") from error
        return await done


def database_of(url: URL) -> Database:
    """The database of that URL. Raises what SQLAlchemy raises if there is no driver for it, and
    `ValueError` for one in memory."""
    url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() != "sqlite":
        return PostgreSQL(create_async_engine(url, pool_pre_ping=True, json_serializer=_json))
    if url.database in (None, "", ":memory:"):
        raise ValueError("every thread would have a database of its own")
    engine = create_engine(url, pool_size=READERS + 1, json_serializer=_json)
    event.listen(engine, "connect", _set_up_sqlite)
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
    return SQLite(engine, readers, ThreadPoolExecutor(1, thread_name_prefix="store-write"))


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


def _set_up_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        # A returned answer outlives a power cut, not only a crash of ours.
        "synchronous = FULL",
        f"busy_timeout = {BUSY_MS}",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _json(value: object) -> str:
    """JSON of what is stored, dataclasses as objects."""
    return to_json(value).decode()


def utc_now() -> datetime:
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """A stored time in UTC: SQLite drops the zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)

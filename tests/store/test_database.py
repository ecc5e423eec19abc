"""What becomes of transactions whose callers leave, that wait, or come too late; on SQLite, where
they are done in threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Connection, make_url, text

from app.errors import StoreError
from app.store import AnswerStore
from app.store.bookings import open_bookings
from app.store.database import Database, database_of
from app.store.keys import Keys


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    def table(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE done (number INTEGER)"))
        connection.commit()

    database = database_of(make_url(url))
    async with database.opened(table):
        yield database


class Held:
    """The work of a transaction that goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.begun.set()
        assert self.let.wait(60)
        connection.execute(text("INSERT INTO done VALUES (1)"))


def two(connection: Connection) -> None:
    connection.execute(text("INSERT INTO done VALUES (2)"))


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT number FROM done ORDER BY number")).scalars())


async def test_who_is_cancelled_before_his_turn_is_left_out(database_url: str) -> None:
    held = Held()
    async with opened(database_url) as database:
        first = asyncio.create_task(database.write(held))
        await asyncio.to_thread(held.begun.wait)
        second = asyncio.create_task(database.write(two))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        held.let.set()
        await first
        assert await database.read(numbers) == [1]


async def test_who_is_cancelled_after_that_is_done_to_the_end(database_url: str) -> None:
    held = Held()
    async with opened(database_url) as database:
        writing = asyncio.create_task(database.write(held))
        await asyncio.to_thread(held.begun.wait)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        held.let.set()
        await database.write(two)
        assert await database.read(numbers) == [1, 2]


async def test_to_close_waits_for_what_is_under_way(database_url: str) -> None:
    held = Held()
    async with opened(database_url) as database:
        writing = asyncio.create_task(database.write(held))
        await asyncio.to_thread(held.begun.wait)
        asyncio.get_running_loop().call_later(0.2, held.let.set)
    await writing
    with sqlite3.connect(make_url(database_url).database or "") as connection:
        assert connection.execute("SELECT number FROM done").fetchall() == [(1,)]


async def test_what_comes_after_that_is_an_error_of_the_store(database_url: str) -> None:
    async with opened(database_url) as database:
        pass
    with pytest.raises(StoreError, match="closed"):
        await database.write(two)


async def test_a_failure_leaves_nothing_behind(database_url: str) -> None:
    def broken(connection: Connection) -> None:
        two(connection)
        connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    async with opened(database_url) as database:
        with pytest.raises(StoreError):
            await database.write(broken)
        assert await database.read(numbers) == []


async def test_what_runs_cost_is_booked_behind_a_lock_that_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it longer than its turn takes, and nothing is lost."""
    monkeypatch.setattr("app.store.database.TURN_S", 0.1)
    monkeypatch.setattr("app.store.database.PATIENCE_S", 0.1)
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.1)
    async with AnswerStore.open(database_url) as store:
        keys = Keys(store.database)
        key, _ = await keys.create("k", ["answer"], budget=100)
        leases = [await keys.admit(key.id, 10, 60) for _ in range(6)]
        other = sqlite3.connect(make_url(database_url).database or "", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with open_bookings(keys) as bookings:
            booking = [asyncio.create_task(bookings.book(lease, 10)) for lease in leases]
            await asyncio.sleep(0.5)
            other.execute("ROLLBACK")
            other.close()
            await asyncio.gather(*booking)
            async with asyncio.timeout(60):
                while (await keys.all())[0].spent < 60:
                    await asyncio.sleep(0.05)
        assert (await keys.all())[0].spent == 60

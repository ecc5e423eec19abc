"""What a run cost is booked once, also if the database fails meanwhile; on real SQLite and on real
PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, text

from app.errors import LimitError
from app.store import AnswerStore, schema
from app.store.bookings import Bookings, open_bookings
from app.store.keys import Keys, Lease

Away = Callable[[bool], Awaitable[None]]

NEVER_S = 3600.0


@pytest.fixture
def keys(store: AnswerStore) -> Keys:
    return Keys(store.database)


@pytest.fixture
def away(store: AnswerStore) -> Away:
    """Takes the table of leases away, and puts it back: what needs it fails."""

    async def move(gone: bool) -> None:
        names = ("leases", "elsewhere") if gone else ("elsewhere", "leases")
        moved = text("ALTER TABLE {} RENAME TO {}".format(*names))
        await store.database.write(lambda connection: connection.execute(moved).rowcount)

    return move


async def admitted(keys: Keys, *reserves: int, budget: int = 100) -> list[Lease]:
    key, _ = await keys.create("k", ["answer"], budget=budget)
    return [await keys.admit(key.id, reserve, 3600) for reserve in reserves]


async def spent(keys: Keys) -> int:
    (key,) = await keys.all()
    return key.spent


async def until_nothing_is_held(keys: Keys) -> None:
    held = select(schema.leases)
    async with asyncio.timeout(60):
        while await keys.database.read(lambda connection: connection.execute(held).first()):
            await asyncio.sleep(0.02)


def told(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    """The leases of which the log says that."""
    return re.findall(rf"nano-dollars of (\S+) {what}", caplog.text)


async def test_what_the_database_refused_is_booked_once_when_it_is_back(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.02)
    caplog.set_level("INFO", "starboard")
    leases = await admitted(keys, 30, 30, 30)
    async with open_bookings(keys) as bookings:
        await away(True)
        for lease in leases:
            await bookings.book(lease, 25)
        async with asyncio.timeout(60):
            while caplog.text.count("the database failed") < 3 + 2:  # tried again, more than once
                await asyncio.sleep(0.02)
        await away(False)
        assert await spent(keys) == 0
        await until_nothing_is_held(keys)
        assert await spent(keys) == 75
        await bookings.book(leases[0], 25)
        assert await spent(keys) == 75
    ids = [lease.id for lease in leases]
    assert told(caplog, "will be booked later") == ids
    assert sorted(told(caplog, "are booked after all")) == sorted(ids)
    assert told(caplog, "are not known to be booked") == []


async def test_what_is_late_counts_against_the_budget_and_is_booked_at_the_end(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.bookings.SOONEST_S", NEVER_S)
    (lease,) = await admitted(keys, 60)
    async with open_bookings(keys) as bookings:
        await away(True)
        await bookings.book(lease, 50)
        await away(False)
        with pytest.raises(LimitError):
            await keys.admit(lease.key_id, 41, 60)
        assert await spent(keys) == 0
    assert await spent(keys) == 50
    await keys.admit(lease.key_id, 50, 60)
    assert told(caplog, "are not known to be booked") == []


async def test_what_is_not_booked_by_the_end_is_told(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, last = await admitted(keys, 30, 30, 30)
    async with open_bookings(keys) as bookings:
        await away(True)
        await bookings.book(one, 10)
        await bookings.book(two, 20)
        assert told(caplog, "are not known to be booked") == []
    assert sorted(told(caplog, "are not known to be booked")) == sorted([one.id, two.id])
    await bookings.book(last, 30)  # of a run that ends after all
    assert told(caplog, "are not known to be booked")[-1] == last.id
    assert re.findall(r"(\d+) nano-dollars of \S+ are not", caplog.text).count("30") == 1
    await away(False)
    assert await spent(keys) == 0


async def test_the_end_does_not_wait_for_a_database_that_hangs(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.bookings.LAST_S", 0.1)
    leases = await admitted(keys, 30, 30)
    bookings = await late(keys, monkeypatch, *leases)

    async def hangs(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Keys, "settle", hangs)
    async with asyncio.timeout(30):
        await bookings.close()
    assert told(caplog, "are not known to be booked") == [lease.id for lease in leases]


async def test_one_that_always_fails_does_not_keep_the_others_and_is_given_up(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.02)
    monkeypatch.setattr("app.store.bookings.GIVEN_UP_S", 0.0)
    given_up, wrong, *good = await admitted(keys, 10, 10, 20, 30)
    async with open_bookings(keys) as bookings:
        await bookings.book(given_up, 2**63)  # more than the column holds
        monkeypatch.setattr("app.store.bookings.GIVEN_UP_S", NEVER_S)
        await bookings.book(wrong, 2**63)
        await away(True)
        for lease in good:
            await bookings.book(lease, lease.reserved)
        await away(False)
        async with asyncio.timeout(60):
            while await spent(keys) != 50:
                await asyncio.sleep(0.02)
        assert told(caplog, "are not known to be booked") == [given_up.id]
    assert told(caplog, "are not known to be booked") == [given_up.id, wrong.id]


async def test_the_cost_of_a_key_that_is_gone_does_not_keep_the_others(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a database that was put back to what it had been before."""
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.02)
    (lost,), (good,) = await admitted(keys, 10), await admitted(keys, 20)
    async with open_bookings(keys) as bookings:
        await away(True)
        for lease in (lost, good):
            await bookings.book(lease, lease.reserved)
        gone = delete(schema.keys).where(schema.keys.c.id == lost.key_id)
        await keys.database.write(lambda connection: connection.execute(gone).rowcount)
        await away(False)
        async with asyncio.timeout(60):
            while await spent(keys) != 20:
                await asyncio.sleep(0.02)
    assert told(caplog, "are not known to be booked") == [lost.id]


async def test_a_try_that_hangs_is_given_up(
    keys: Keys, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.02)
    monkeypatch.setattr("app.store.bookings.TRY_S", 1.0)
    (lease,) = await admitted(keys, 60)
    hung, settle = asyncio.Event(), Keys.settle

    async def hangs_once(*values: Any) -> None:
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        await settle(*values)

    async with open_bookings(keys) as bookings:
        await away(True)
        await bookings.book(lease, 50)
        monkeypatch.setattr(Keys, "settle", hangs_once)
        async with asyncio.timeout(60):
            await hung.wait()
        await away(False)
        await until_nothing_is_held(keys)
    assert hung.is_set()
    assert await spent(keys) == 50


async def test_what_was_heard_by_the_database_alone_is_booked_once(
    keys: Keys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever booked was cancelled before the database said so."""
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 0.02)
    caplog.set_level("INFO", "starboard")
    (lease,) = await admitted(keys, 60)
    async with open_bookings(keys) as bookings:
        with monkeypatch.context() as patch:
            heard, settle = asyncio.Event(), Keys.settle

            async def hangs(*values: Any) -> None:
                await settle(*values)
                heard.set()
                await asyncio.Event().wait()

            patch.setattr(Keys, "settle", hangs)
            booking = asyncio.create_task(bookings.book(lease, 50))
            async with asyncio.timeout(60):
                await heard.wait()
            booking.cancel()
            await asyncio.gather(booking, return_exceptions=True)
            assert booking.cancelled()
        async with asyncio.timeout(60):
            while not told(caplog, "are booked after all"):
                await asyncio.sleep(0.02)
    assert await spent(keys) == 50


async def late(keys: Keys, monkeypatch: pytest.MonkeyPatch, *leases: Lease) -> Bookings:
    """Bookings with these put off, and nothing under way."""
    bookings = Bookings(keys)

    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(Keys, "settle", cancelled)
        for lease in leases:
            await asyncio.gather(bookings.book(lease, 1), return_exceptions=True)
    return bookings

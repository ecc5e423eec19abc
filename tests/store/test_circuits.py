"""Open circuits in the database, and two apps that share it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from app.api import create_app
from app.circuits import PERIOD_S
from app.domain import OpenCircuit
from app.store import AnswerStore, schema
from app.store.circuits import Circuits
from tests.conftest import settings
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.serving import serve


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, database_url: str) -> str:
    if request.param == "sqlite":
        return database_url
    return str(request.getfixturevalue("fresh_postgres_url"))


@pytest.fixture
async def circuits(empty_url: str) -> AsyncIterator[Circuits]:
    async with AnswerStore.open(empty_url) as store:
        yield Circuits(store.database)


async def test_open_circuits_are_there_until_they_are_closed(circuits: Circuits) -> None:
    await circuits.put("a", OpenCircuit(5, 60))
    await circuits.put("a", OpenCircuit(6, 30))
    await circuits.put("b", OpenCircuit(1, 0))
    await circuits.put("c", OpenCircuit(1, 60))
    found = await circuits.all(["a", "b", "x"])
    assert found.keys() == {"a", "b"}
    assert found["a"].failed == 6
    assert 10 < found["a"].wait_s <= 30
    assert found["b"] == OpenCircuit(1, 0.0)
    await circuits.put("a", None)
    await circuits.put("x", None)
    assert (await circuits.all(["a", "b"])).keys() == {"b"}


async def test_of_many_who_ask_at_once_one_may_probe(circuits: Circuits) -> None:
    await circuits.put("a", OpenCircuit(5, 0))
    waits = await asyncio.gather(*(circuits.claim("a", 60) for _ in range(8)))
    assert sorted(waits)[0] == 0
    assert all(30 < wait <= 60 for wait in sorted(waits)[1:])
    assert (await circuits.all(["a"]))["a"].failed == 5


async def test_nobody_probes_early_and_a_closed_circuit_keeps_nobody(circuits: Circuits) -> None:
    await circuits.put("a", OpenCircuit(5, 60))
    assert 30 < await circuits.claim("a", 1) <= 60
    assert await circuits.claim("b", 60) == 0
    stored = select(schema.circuits.c.member)
    assert await circuits.database.read(lambda c: c.execute(stored).scalars().all()) == ["a"]


@dataclass(frozen=True)
class Pair:
    """Two apps on one database, whose one member is at the host."""

    one: httpx2.AsyncClient
    two: httpx2.AsyncClient
    host: OpenAICompatibleFake

    @property
    def calls(self) -> int:
        return sum(request.method == "POST" for request in self.host.requests)


@pytest.fixture
async def pair(empty_url: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(OpenAICompatibleFake(api_key=None))
        ours = settings(
            database_url=empty_url,
            board=("m",),
            members={
                "m": {
                    "provider": "openai_compatible",
                    "base_url": f"{host.base_url}/v1",
                    "model": "gpt-4.1-mini",
                }
            },
            breaker={"failures": 2, "cool_down_s": 600},
            scorer="embedded",
        )
        one, two = [await stack.enter_async_context(serve(create_app(ours))) for _ in range(2)]
        yield Pair(one, two, host)


async def ask(client: httpx2.AsyncClient) -> int:
    return (await client.post("/answer", json={"prompt": "Which?"})).status_code


async def circuit(client: httpx2.AsyncClient) -> str:
    members = (await client.get("/models")).json()["members"]
    return str(next(seat["gate"]["circuit"] for seat in members if seat["name"] == "m"))


async def states_told(client: httpx2.AsyncClient) -> set[str]:
    """The states of /metrics that hold for the process."""
    lines = (await client.get("/metrics")).text.splitlines()
    told = [line.split() for line in lines if line.startswith("starboard_member_circuits{")]
    return {re.sub('.*state="(.*)".*', r"\1", name) for name, value in told if float(value)}


async def until(true: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():
            await asyncio.sleep(0.02)


async def test_two_apps_have_one_circuit(pair: Pair, circuits: Circuits) -> None:
    one, two, host = pair.one, pair.two, pair.host
    host.fail("server_error_500")
    assert await ask(one) == 502
    assert pair.calls == 2  # the retry counts

    async def is_open() -> bool:
        return await circuit(two) == "open"

    await until(is_open)
    assert await states_told(two) == {"open"}
    refusal = await two.post("/answer", json={"prompt": "Which?"})
    assert "not called, its last 2 calls failed" in refusal.text
    assert pair.calls == 2

    # The cool-down over, one call of all is let through, and fails.
    await circuits.put("m", OpenCircuit(2, 0))
    await asyncio.sleep(3 * PERIOD_S)
    host.delay_s = 5.0
    asked = [asyncio.create_task(ask(client)) for client in (one, two) * 4]
    async with asyncio.timeout(30):
        while pair.calls == 2:
            await asyncio.sleep(0.01)

    async def one_probes() -> bool:  # once the other has been told that it may not
        told = [await states_told(one), await states_told(two)]
        return sorted(told, key=str) == [{"half_open"}, {"open"}]

    await until(one_probes)
    assert set(await asyncio.gather(*asked)) == {502}
    assert pair.calls == 3

    # Once one is answered, both call it again.
    await circuits.put("m", OpenCircuit(3, 0))
    host.reset()

    async def answered() -> bool:
        return await ask(one) == 200

    async def is_closed() -> bool:
        return await circuit(two) == "closed"

    await until(answered)
    assert pair.calls == 1
    await until(is_closed)
    assert await states_told(one) == await states_told(two) == {"closed"}
    assert await ask(two) == 200
    assert pair.calls == 2

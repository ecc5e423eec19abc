"""Two real server processes on one PostgreSQL: limits, budgets and idempotency hold exactly under
64 clients, a member's circuit is one, and what a killed process held is free when its lease ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from app.domain import NANO, OpenCircuit
from app.store import AnswerStore
from app.store.circuits import Circuits
from app.store.keys import ApiKey, Keys
from app.store.schema import keys as keys_table
from app.store.schema import leases
from tests.fakes.openai_compatible import OpenAICompatibleFake

CLIENTS = 64
PROMPT = {"prompt": "Which?", "max_tokens": 100}
BOARD = """
board = ["paid", "free"]
self_check = false
max_tokens = 100
[members.paid]
provider = "openai_compatible"
base_url = "{host}/v1"
model = "gpt-4.1-mini"
[members.free]
provider = "scripted"
reply = "first"
[breaker]
cool_down_s = 600
[prices."gpt-4.1-mini"]
input_per_million = 1.0
output_per_million = 10.0
[scorer]
kind = "embedded"
"""


@dataclass(frozen=True)
class Replicas:
    processes: list[subprocess.Popen[bytes]]
    clients: list[httpx2.AsyncClient]
    keys: Keys
    host: OpenAICompatibleFake

    async def key(self, **limits: Any) -> tuple[ApiKey, dict[str, str]]:
        key, secret = await self.keys.create("k", ["answer", "read"], **limits)
        return key, {"authorization": f"Bearer {secret}"}

    async def all_at_once(
        self, headers: dict[str, str], requests: int = CLIENTS, **body: object
    ) -> list[httpx2.Response]:
        """So many clients, who go to one process and the other by turns."""
        turns = cycle(self.clients)
        sent = (
            next(turns).post("/answer", json={**PROMPT, **body}, headers=headers)
            for _ in range(requests)
        )
        return list(await asyncio.gather(*sent))

    async def committed(self, key: ApiKey) -> tuple[int, int]:
        """What the key has spent, and what runs hold of it."""
        its = (leases.c.key_id == key.id) & (leases.c.expires > func.now())
        held = select(func.coalesce(func.sum(leases.c.reserved), 0)).where(its).scalar_subquery()
        both = select(keys_table.c.spent, held).where(keys_table.c.id == key.id)
        row = await self.keys.database.read(lambda connection: connection.execute(both).one())
        return row.spent, int(row[1])


@pytest.fixture
async def replicas(fresh_postgres_url: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    async with (
        OpenAICompatibleFake(api_key=None) as host,
        AnswerStore.open(fresh_postgres_url) as store,
    ):
        (tmp_path / "starboard.toml").write_text(BOARD.format(host=host.base_url))
        with ExitStack() as stack:
            started = [serving(stack, fresh_postgres_url, tmp_path, n) for n in range(2)]
            urls = [await listening(log) for _, log in started]
            async with opened(urls) as clients:
                keys = Keys(store.database)
                yield Replicas([process for process, _ in started], clients, keys, host)


def serving(
    stack: ExitStack, url: str, folder: Path, number: int
) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"{number}.log"
    stderr = stack.enter_context(log.open("wb"))
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
    environment = {**os.environ, "STARBOARD_DATABASE_URL": url}
    process = stack.enter_context(subprocess.Popen(command, stderr=stderr, env=environment))
    stack.callback(process.kill)
    return process, log


async def listening(log: Path) -> str:
    async with asyncio.timeout(60):
        while (url := url_in(log)) is None:
            await asyncio.sleep(0.05)
    return url


def url_in(log: Path) -> str | None:
    _, _, said = log.read_text().partition("running on ")
    return said.split()[0] if said else None


@asynccontextmanager
async def opened(urls: list[str]) -> AsyncIterator[list[httpx2.AsyncClient]]:
    # Connections are not used again: uvicorn may close an idle one just as a request is sent.
    limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=0)
    one, two = (httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) for url in urls)
    async with one, two:
        yield [one, two]


def statuses(responses: list[httpx2.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


async def test_a_budget_is_never_passed_and_every_cent_is_booked(replicas: Replicas) -> None:
    [one] = await replicas.all_at_once((await replicas.key())[1], 1)
    cost = round(one.json()["cost_usd"] * NANO)
    replicas.host.delay_s = 0.05
    budget = 20 * cost + 250_000  # the most that a run of 20 tokens may cost, and some
    key, headers = await replicas.key(budget=budget)
    seen: list[int] = []
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            seen.append(sum(await replicas.committed(key)))
            await asyncio.sleep(0.005)

    watching = asyncio.ensure_future(watch())
    answered: list[httpx2.Response] = []
    async with asyncio.timeout(120):
        while True:
            responses = await replicas.all_at_once(headers, max_tokens=20)
            assert set(statuses(responses)) <= {200, 402, 429}
            answered += [r for r in responses if r.status_code == 200]
            if statuses(responses)[402] == CLIENTS:
                break
    over.set()
    await watching
    spent, held = await replicas.committed(key)
    assert spent == sum(round(r.json()["cost_usd"] * NANO) for r in answered)
    assert spent == cost * len(answered) <= budget
    assert held == 0
    assert len(answered) > 20
    assert len(replicas.host.requests) == 1 + len(answered)
    assert max(seen) <= budget
    assert len(seen) > 20


async def test_rate_and_concurrency_are_those_of_all_processes_together(
    replicas: Replicas,
) -> None:
    _, headers = await replicas.key(per_minute=20)
    minute = time.time() // 60
    responses = await replicas.all_at_once(headers)
    minutes = 1 + int(time.time() // 60 - minute)
    assert set(statuses(responses)) == {200, 429}
    assert 20 <= statuses(responses)[200] <= 20 * minutes
    _, headers = await replicas.key(concurrency=5)
    replicas.host.requests.clear()
    replicas.host.delay_s = 3
    sent = asyncio.ensure_future(replicas.all_at_once(headers))
    at_a_time = 0
    while not sent.done():
        at_a_time = max(at_a_time, replicas.host.in_progress)
        await asyncio.sleep(0.005)
    assert at_a_time == 5
    assert set(statuses(await sent)) == {200, 429}
    assert statuses(await sent)[200] == len(replicas.host.requests)


async def test_one_fan_out_for_an_idempotency_key(replicas: Replicas) -> None:
    replicas.host.delay_s = 0.5
    key, headers = await replicas.key(budget=NANO)
    for number in range(3):
        named = {**headers, "idempotency-key": f"order-{number}"}
        responses = await replicas.all_at_once(named)
        assert statuses(responses) == {200: CLIENTS}
        assert len({response.text for response in responses}) == 1
        assert len(replicas.host.requests) == number + 1
    spent, held = await replicas.committed(key)
    assert (spent, held) == (3 * round(responses[0].json()["cost_usd"] * NANO), 0)


async def test_what_a_killed_process_held_is_free_when_its_lease_ends(replicas: Replicas) -> None:
    killed, other = replicas.processes[0], replicas.clients[1]
    key, headers = await replicas.key(concurrency=2)
    returned = [r.json()["id"] for r in await replicas.all_at_once(headers, 1)]
    replicas.host.delay_s = 30
    body, named = {**PROMPT, "deadline_s": 5}, {**headers, "idempotency-key": "k"}
    before = time.monotonic()
    hanging = [
        asyncio.ensure_future(replicas.clients[0].post("/answer", json=body, headers=named_so))
        for named_so in (headers, named)
    ]
    await until(lambda: replicas.host.in_progress == 2)
    killed.kill()
    killed.wait()
    assert all(isinstance(e, httpx2.HTTPError) for e in await gathered(hanging))
    replicas.host.delay_s = 0
    refused = await other.post("/answer", json=body, headers=headers)
    assert refused.status_code == 429
    while (r := await other.post("/answer", json=body, headers=named)).status_code != 200:
        assert r.status_code in (409, 429)
        assert time.monotonic() - before < 60
    assert time.monotonic() - before > 14  # five seconds' run, and ten of grace
    both = [await other.post("/answer", json=body, headers=headers) for _ in range(2)]
    assert statuses(both) == {200: 2}
    for id_ in returned:
        assert (await other.get(f"/answers/{id_}", headers=headers)).json()["id"] == id_
    assert (await replicas.committed(key))[1] == 0


@pytest.mark.parametrize("number", [0, 1])
async def test_killing_either_under_load_loses_no_returned_answer_and_no_room_in_the_budget(
    replicas: Replicas, number: int
) -> None:
    key, headers = await replicas.key(budget=10 * NANO)
    replicas.host.delay_s = 0.2
    returned: dict[str, str] = {}
    spent_on_returned = 0
    over = asyncio.Event()

    async def client(to: httpx2.AsyncClient) -> None:
        nonlocal spent_on_returned
        while not over.is_set():
            try:
                reply = await to.post("/answer", json={**PROMPT, "deadline_s": 5}, headers=headers)
            except httpx2.HTTPError:  # its server was killed
                return
            assert reply.status_code == 200, reply.text
            returned[reply.json()["id"]] = reply.text
            spent_on_returned += round(reply.json()["cost_usd"] * NANO)

    async with asyncio.TaskGroup() as clients:
        for turn in range(CLIENTS):
            clients.create_task(client(replicas.clients[turn % 2]))
        await until(lambda: len(returned) > CLIENTS)
        replicas.processes[number].kill()
        replicas.processes[number].wait()
        killed_at, before = time.monotonic(), len(returned)
        await until(lambda: len(returned) > before + CLIENTS)
        over.set()
    other = replicas.clients[1 - number]
    for id_, text in returned.items():
        assert (await other.get(f"/answers/{id_}", headers=headers)).text == text
    held = 1
    while held:
        spent, held = await replicas.committed(key)
        assert spent_on_returned <= spent <= 10 * NANO
        assert time.monotonic() - killed_at < 60  # five seconds' run, and ten of grace
        await asyncio.sleep(0.2)


async def test_a_circuit_is_that_of_both_processes_also_if_the_one_that_probes_is_killed(
    replicas: Replicas,
) -> None:
    killed, (first, second), host = replicas.processes[0], replicas.clients, replicas.host
    circuits = Circuits(replicas.keys.database)
    _, headers = await replicas.key()

    async def ask(client: httpx2.AsyncClient) -> httpx2.Response:
        body = {**PROMPT, "members": ["paid"]}
        return await client.post("/answer", json=body, headers=headers)

    async def is_open(client: httpx2.AsyncClient) -> bool:
        told = (await client.get("/metrics")).text
        return 'starboard_member_circuits{member="paid",state="open"} 1.0' in told

    host.fail("server_error_500")
    while not await is_open(first):
        assert (await ask(first)).status_code == 502
    calls = len(host.requests)
    assert calls == 5
    async with asyncio.timeout(60):
        while not await is_open(second):
            await asyncio.sleep(0.05)
    assert "not called, its last 5 calls failed" in (await ask(second)).text
    assert len(host.requests) == calls
    host.reset()
    host.delay_s = 60
    await circuits.put("paid", OpenCircuit(5, 0))  # the cool-down is over
    async with asyncio.timeout(60):
        while not host.in_progress:
            probe = asyncio.ensure_future(ask(first))
            await asyncio.wait({probe}, timeout=1)
    killed.kill()
    killed.wait()
    assert isinstance((await gathered([probe]))[0], httpx2.HTTPError)
    host.delay_s = 0
    assert "not called" in (await ask(second)).text
    assert 0 < (await circuits.all(["paid"]))["paid"].wait_s <= 600
    await circuits.put("paid", OpenCircuit(5, 0))
    async with asyncio.timeout(60):
        while (await ask(second)).status_code != 200:
            await asyncio.sleep(0.1)
    assert not await is_open(second)


async def gathered(tasks: Sequence[asyncio.Future[httpx2.Response]]) -> list[object]:
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)

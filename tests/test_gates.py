from __future__ import annotations

import asyncio

import pytest

from app.api import create_app
from app.domain import Answer, Failure
from app.errors import NoCandidateError, UpstreamError
from app.gates import Gate
from app.metering import Meter, Price, Tariff
from app.providers.scripted import ScriptedProvider
from tests.conftest import settings
from tests.fakes.mistral import MistralFake
from tests.samples import plan_of, prompt
from tests.serving import serve
from tests.test_ensemble import Troubled, board, failure, overloaded


async def fail(gate: Gate, kind: str = "overloaded") -> None:
    with pytest.raises(UpstreamError):
        async with gate.passage():
            raise UpstreamError(kind, "as told")  # type: ignore[arg-type]


async def succeed(gate: Gate) -> None:
    async with gate.passage():
        pass


def state(gate: Gate) -> str:
    """Asked anew each time, which a type checker does not expect of a property."""
    return gate.circuit


async def refused(gate: Gate) -> bool:
    try:
        await succeed(gate)
    except UpstreamError as error:
        return error.kind == "unavailable" and "not called" in error.message
    return False


async def test_failures_in_a_row_open_the_circuit_and_a_probe_closes_it() -> None:
    gate = Gate("m", opens_after=2, cool_down_s=0.05)
    await fail(gate)
    await succeed(gate)
    await fail(gate)
    assert state(gate) == "closed"
    await fail(gate)
    assert state(gate) == "open"
    assert await refused(gate)
    await asyncio.sleep(0.06)
    async with gate.passage():
        assert state(gate) == "half_open"
        assert await refused(gate)  # one probe at a time
    assert state(gate) == "closed"
    assert not await refused(gate)


async def test_a_failed_probe_opens_it_anew_and_a_cancelled_one_decides_nothing() -> None:
    gate = Gate("m", opens_after=3, cool_down_s=0.05)
    for _ in range(3):
        await fail(gate)
    await asyncio.sleep(0.06)
    await fail(gate)
    assert await refused(gate)
    await asyncio.sleep(0.06)
    with pytest.raises(asyncio.CancelledError):
        async with gate.passage():
            raise asyncio.CancelledError
    assert state(gate) == "open"
    assert not await refused(gate)
    assert state(gate) == "closed"


@pytest.mark.parametrize("kind", ["auth", "refused_request", "bad_reply", "content_filter"])
async def test_what_no_retry_would_mend_opens_nothing(kind: str) -> None:
    gate = Gate("m", opens_after=1)
    await fail(gate, kind)
    assert state(gate) == "closed"


async def test_no_more_calls_at_one_time_than_allowed() -> None:
    gate = Gate("m", max_concurrency=2)
    most = 0

    async def call() -> None:
        nonlocal most
        async with gate.passage():
            most = max(most, gate.in_progress)
            await asyncio.sleep(0.01)

    calls = [asyncio.create_task(call()) for _ in range(6)]
    await asyncio.sleep(0)
    assert (gate.in_progress, gate.waiting) == (2, 4)
    calls[-1].cancel()  # who waits may leave
    await asyncio.gather(*calls, return_exceptions=True)
    assert (most, gate.in_progress, gate.waiting) == (2, 0, 0)


async def test_who_waited_is_refused_if_the_circuit_opened_meanwhile() -> None:
    gate = Gate("m", opens_after=1, max_concurrency=1)
    release = asyncio.Event()

    async def fail_later() -> None:
        async with gate.passage():
            await release.wait()
            raise overloaded()

    first = asyncio.create_task(fail_later())
    await asyncio.sleep(0)
    second = asyncio.create_task(refused(gate))
    await asyncio.sleep(0)
    assert gate.waiting == 1
    release.set()
    await asyncio.gather(first, return_exceptions=True)
    assert await second


async def test_an_open_circuit_costs_the_board_no_call_and_no_wait(at_once: None) -> None:
    bad = Troubled("bad", [overloaded() for _ in range(9)])
    gates = {"bad": Gate("bad", opens_after=2, cool_down_s=60)}
    ensemble = board(bad, ScriptedProvider("good", "g", "good"), gates=gates)
    first = await ensemble.answer(prompt(), plan_of("bad", "good"))
    assert failure(first, "bad").kind == "overloaded"
    assert bad.calls == 2  # the retry counts
    second = await ensemble.answer(prompt(), plan_of("bad", "good"))
    assert failure(second, "bad") == Failure(
        "unavailable", "bad: not called, its last 2 calls failed; tried again in 60 s", True
    )
    assert bad.calls == 2
    assert second.winner is not None


async def test_a_call_that_the_budget_does_not_cover_says_nothing_of_the_member() -> None:
    gate = Gate("m", opens_after=1, cool_down_s=0)
    await fail(gate)
    member = Troubled("m", [])
    ensemble = board(member, gates={"m": gate}, tariff=Tariff({"m": Price(1, 1)}))
    with pytest.raises(NoCandidateError):
        await ensemble.answer(prompt(), plan_of("m"), meter=Meter(limit=0))
    assert (member.calls, state(gate)) == (0, "open")


async def test_a_member_that_hangs_opens_the_circuit_a_short_deadline_does_not(
    at_once: None,
) -> None:
    for timeout_s, deadline_s, circuit in ((0.05, 5.0, "open"), (5.0, 0.05, "closed")):
        gates = {"slow": Gate("slow", opens_after=1)}
        slow = ScriptedProvider("slow", "s", "slow", delay_s=9)
        members = (slow, ScriptedProvider("good", "g", "good"))
        ensemble = board(*members, gates=gates, timeout_s=timeout_s)
        answer = await ensemble.answer(prompt(), plan_of("slow", "good", deadline_s=deadline_s))
        assert failure(answer, "slow").kind in ("timeout", "unavailable")
        assert state(gates["slow"]) == circuit


async def test_who_waits_for_a_place_waits_no_longer_than_the_deadline() -> None:
    gates = {"one": Gate("one", max_concurrency=1)}
    members = (
        ScriptedProvider("one", "o", "one", delay_s=0.3),
        ScriptedProvider("good", "g", "good"),
    )
    ensemble = board(*members, gates=gates)

    async def ask(deadline_s: float) -> Answer:
        return await ensemble.answer(prompt(), plan_of("one", "good", deadline_s=deadline_s))

    first, second = await asyncio.gather(ask(5), ask(0.1))
    assert not first.missing
    assert failure(second, "one").message == "one: not done before the deadline of 0.1 s"
    assert not (await ask(5)).missing


async def test_models_show_the_gate_of_who_sits(database_url: str) -> None:
    async with MistralFake() as mistral:
        mistral.fail("server_error_500")
        ours = settings(
            database_url=database_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            members={"mistral": {"provider": "mistral", "max_concurrency": 3}},
            breaker={"failures": 2},
            scorer="embedded",
        )
        async with serve(create_app(ours)) as client:
            assert (await client.post("/answer", json={"prompt": "Which?"})).status_code == 502
            seats = (await client.get("/models")).json()["members"]
            gates = {seat["name"]: seat["gate"] for seat in seats}
    assert gates["mistral"] == {
        "circuit": "open",
        "in_progress": 0,
        "waiting": 0,
        "max_concurrency": 3,
    }
    assert gates["claude"] is None

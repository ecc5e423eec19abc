from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.calls import calls_of
from app.domain import NOTHING, Completion, Message, Plan, Prompt, Usage
from app.errors import BudgetError, UncoveredError, UpstreamError
from app.fusion import fusion_prompt
from app.metering import FREE, Charge, Meter, Price, ScorerPrice, Tariff, prompt_tokens

CENT = Price(0.01, 0.02)  # 10 and 20 nano-dollars a token
DONE = Completion("x", "stop", "m", Usage(3, 1))
PROMPT = Prompt((Message("user", "é" * 5),), max_tokens=10)


def charge(price: Price | None = CENT) -> Charge:
    return Charge("a", price, Usage(10, 10))


async def done() -> Completion:
    return DONE


async def told_nothing() -> Completion:
    return Completion("x", "stop", "m")


@pytest.mark.parametrize(
    ("price", "usage", "nano"),
    [
        (CENT, Usage(3, 1), 50),
        (Price(0.1, 0.0), Usage(3, 0), 300),
        (Price(0.0001, 0.0), Usage(1, 0), 1),
        (Price(3, 15), Usage(1_000_000, 1_000_000), 18_000_000_000),
        (FREE, Usage(9, 9), 0),
    ],
)
def test_prices_are_whole_nano_dollars_rounded_up(price: Price, usage: Usage, nano: int) -> None:
    assert price.of(usage) == nano


def test_a_prompt_has_no_more_tokens_than_bytes() -> None:
    assert prompt_tokens(PROMPT) == 10 + 16


async def test_a_call_is_booked_by_its_tokens_or_at_its_most() -> None:
    meter = Meter()
    await meter.call(charge(), done)
    assert (meter.spent, meter.cost_usd) == (50, 50e-9)
    await meter.call(charge(), told_nothing)
    assert (meter.spent, meter.cost_usd) == (350, None)


@pytest.mark.parametrize(
    ("usage", "nano", "cost_usd"), [(NOTHING, 0, 0), (Usage(3, 1), 50, 50e-9), (None, 300, None)]
)
async def test_a_failure_costs_what_it_says_or_the_most_it_can(
    usage: Usage | None, nano: int, cost_usd: float | None
) -> None:
    async def failing() -> Completion:
        raise UpstreamError("unavailable", "a: no", usage=usage)

    meter = Meter()
    with pytest.raises(UpstreamError):
        await meter.call(charge(), failing)
    assert (meter.spent, meter.cost_usd) == (nano, cost_usd)


async def test_what_is_not_let_through_costs_nothing() -> None:
    @asynccontextmanager
    async def shut() -> AsyncIterator[None]:
        await asyncio.sleep(9)
        yield

    meter = Meter(limit=300)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await meter.call(charge(), done, shut)
    assert (meter.spent, meter.cost_usd) == (0, 0)
    await meter.call(charge(), done)  # and holds nothing


async def test_what_is_not_covered_does_not_come_to_the_passage() -> None:
    passed: list[str] = []

    @asynccontextmanager
    async def passage() -> AsyncIterator[None]:
        passed.append("in")
        yield

    with pytest.raises(UncoveredError):
        await Meter(limit=299).call(charge(), done, passage)
    assert passed == []
    await Meter(limit=300).call(charge(), done, passage)
    assert passed == ["in"]


async def test_a_cancelled_call_counts_as_the_most_it_could_cost() -> None:
    meter = Meter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await meter.call(charge(), lambda: asyncio.sleep(9, DONE))
    assert meter.spent == 300


async def test_calls_at_a_time_do_not_pass_the_limit_together() -> None:
    meter, go = Meter(limit=699), asyncio.Event()

    async def when_told() -> Completion:
        await go.wait()
        return DONE

    calls = [asyncio.ensure_future(meter.call(charge(), when_told)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:2] == [DONE, DONE]
    assert isinstance(outcomes[2], UpstreamError)
    assert (outcomes[2].kind, meter.spent) == ("refused_request", 100)
    await meter.call(charge(), done)  # there is room again


async def test_an_unknown_price_is_never_taken_for_nothing() -> None:
    meter = Meter()
    await meter.call(charge(None), done)
    assert meter.cost_usd is None
    with pytest.raises(UpstreamError):
        await Meter(limit=10**9).call(charge(None), done)
    free = Meter(limit=0)
    await free.call(charge(FREE), told_nothing)
    assert free.cost_usd == 0


async def test_the_most_it_can_have_cost_is_known_if_every_price_is() -> None:
    meter = Meter()
    await meter.call(charge(), done)
    assert meter.cost_bound_usd == meter.cost_usd == 50e-9
    await meter.call(charge(), told_nothing)
    assert meter.cost_bound_usd == 350e-9
    assert meter.cost_usd is None
    await meter.call(charge(None), done)
    assert meter.cost_bound_usd is None


async def test_who_listens_is_told_of_every_call_and_of_none_that_was_not_made() -> None:
    told: list[tuple[str, int | None]] = []

    def booked(charge: Charge, cost: int | None) -> None:
        told.append((charge.name, cost))

    meter = Meter()
    for price, call in ((CENT, done), (CENT, told_nothing), (None, done), (FREE, told_nothing)):
        await meter.call(charge(price), call, booked=booked)
    with pytest.raises(UpstreamError):
        await Meter(limit=0).call(charge(), done, booked=booked)
    assert told == [("a", 50), ("a", None), ("a", None), ("a", 0)]


@pytest.mark.parametrize(
    ("plan", "nano"),
    [
        (Plan(("a",)), 26 * 10 + 10 * 20),
        (Plan(("a", "free"), samples=3), 3 * 460),
        (Plan(("free",), reserves=("a",)), 460),
        (Plan(("a",), hedge_s=1.0), 2 * 460),
        (Plan(("a", "free"), strategy="single", samples=3), 460),
        (Plan(("a",), strategy="cascade", samples=3), 3 * 460),
        (Plan(("a", "free"), strategy="cascade", order=("free",), reserves=("a",)), 0),
    ],
)
def test_a_quote_counts_every_call_of_a_plan(plan: Plan, nano: int) -> None:
    assert Tariff({"a": CENT, "free": FREE}).quote(PROMPT, plan, []) == nano


def test_a_quote_of_a_fusion_reads_what_the_aggregator_reads() -> None:
    plan = Plan(("free",), strategy="fuse", top_k=2, aggregator="a")
    read = prompt_tokens(fusion_prompt(PROMPT, ["x" * 80] * 2))
    assert Tariff({"a": CENT, "free": FREE}).quote(PROMPT, plan, []) == read * 10 + 10 * 20


def test_a_quote_counts_every_scorer_of_every_reply() -> None:
    judge = ScorerPrice(CENT, 100, 50, factor=2)
    tariff = Tariff({"free": FREE}, {"judge": judge, "own": ScorerPrice(FREE)})
    plan = Plan(("free",), samples=2)
    scores = tariff.quote_scores(PROMPT, ["x" * 80], ["judge"])
    assert scores == (2 * (26 + 80 + 16) + 100) * 10 + 50 * 20
    assert tariff.quote(PROMPT, plan, ["judge", "own"]) == 2 * scores


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        (Plan(("a", "b"), samples=3, reserves=("c", "d")), 8),
        (Plan(("a", "b"), samples=3, reserves=("c",), strategy="single"), 3),
        (Plan(("a", "b"), samples=3, reserves=("c",), strategy="cascade"), 6),
        (Plan(("a", "b"), samples=3, strategy="cascade", order=("b",)), 3),
        (Plan(("a", "b"), samples=3, strategy="fuse"), 7),
        (Plan(("a", "b"), samples=3, strategy="fuse", hedge_s=1.0), 14),
    ],
)
def test_the_most_calls_of_a_plan(plan: Plan, most: int) -> None:
    assert calls_of(plan).most == most


def test_a_quote_needs_every_price() -> None:
    tariff = Tariff({"a": CENT, "b": None})
    with pytest.raises(BudgetError, match="the price of b is not known"):
        tariff.quote(PROMPT, Plan(("a", "b")), [])
    with pytest.raises(BudgetError, match="the price of nvidia is not known"):
        tariff.quote(PROMPT, Plan(("a",)), ["nvidia"])

"""API keys and their limits, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.domain import Selection
from app.errors import BudgetError, IdempotencyError, LimitError, UnauthorizedError
from app.store import AnswerStore, schema
from app.store.idempotency import Idempotency
from app.store.keys import Keys
from tests.samples import answer

NOON = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def passes(self, **time: float) -> None:
        self.time += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(store: AnswerStore, clock: Clock) -> Keys:
    return Keys(store.database, clock)


async def test_a_secret_finds_its_key_and_is_not_kept(keys: Keys) -> None:
    made, secret = await keys.create("ci", ["read", "answer"], expires=NOON + timedelta(days=1))
    assert await keys.of(secret) == made
    assert await keys.all() == [made]
    assert (made.scopes, made.prefix) == (("answer", "read"), secret[:12])
    assert len(secret) == len("sk-sb-") + 43
    row = await keys.database.read(lambda c: c.execute(select(schema.keys)).one())
    assert secret not in str(row)


async def test_keys_that_are_not_good_are_refused(keys: Keys, clock: Clock) -> None:
    until = NOON + timedelta(hours=1)
    _, expiring = await keys.create("expiring", ["answer"], expires=until)
    made, revoked = await keys.create("revoked", ["answer"])
    assert await keys.revoke("nobody") is None
    assert await keys.revoke(made.prefix) == replace(made, revoked=NOON)
    await keys.of(expiring)
    clock.passes(hours=1)
    for secret in (expiring, revoked, "sk-sb-", ""):
        with pytest.raises(UnauthorizedError):
            await keys.of(secret)
    with pytest.raises(UnauthorizedError):
        await keys.admit(made.id, 0, 60)
    assert await keys.any()


async def test_admin_may_everything(keys: Keys) -> None:
    admin, _ = await keys.create("a", ["admin"])
    reader, _ = await keys.create("r", ["read"])
    assert admin.may("answer")
    assert admin.may("admin")
    assert reader.may("read")
    assert not reader.may("answer")


async def test_clocks_apart_at_the_edge_of_a_minute_and_a_month_count_nothing_twice(
    keys: Keys, clock: Clock
) -> None:
    made, _ = await keys.create("ci", ["answer"], per_minute=2, budget=100, period="month")
    clock.time = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    ahead = Keys(keys.database, lambda: clock() + timedelta(seconds=2))
    admitted = 0
    for number in range(20):
        one = ahead if number % 2 else keys
        with suppress(LimitError, BudgetError):
            await one.settle(await one.admit(made.id, 60, 60), 60)
            admitted += 1
    # Two in the minute and the month that end, and, of another, what its budget has room for.
    assert admitted <= 2 + 1
    assert (await ahead.all())[0].spent <= 100


async def test_a_run_is_booked_once(keys: Keys, clock: Clock) -> None:
    made, _ = await keys.create("ci", ["answer"], budget=100)
    lease = await keys.admit(made.id, 60, 60)
    clock.passes(seconds=61)  # it has expired, and another is admitted meanwhile
    await keys.admit(made.id, 100, 60)
    await keys.settle(lease, 40)
    await keys.settle(lease, 40)
    assert (await keys.all())[0].spent == 40


async def test_leases_of_killed_processes_are_dropped_in_time(keys: Keys, clock: Clock) -> None:
    made, _ = await keys.create("ci", ["answer"], budget=100)
    await keys.admit(made.id, 60, 60)
    for hours, left in ((23, 1), (2, 0)):
        clock.passes(hours=hours)
        await keys.forget()
        held = await keys.database.read(lambda c: c.execute(select(schema.leases)).all())
        assert len(held) == left


async def test_the_rate_is_by_the_minute(keys: Keys, clock: Clock) -> None:
    key, _ = await keys.create("k", ["answer"], per_minute=2)
    for _ in range(2):
        await keys.admit(key.id, 0, 60)
    with pytest.raises(LimitError) as refused:
        await keys.admit(key.id, 0, 60)
    assert refused.value.retry_after_s == 30
    clock.passes(seconds=30)
    await keys.admit(key.id, 0, 60)


async def test_concurrency_counts_leases_until_they_end_or_expire(keys: Keys, clock: Clock) -> None:
    key, _ = await keys.create("k", ["answer"], concurrency=2)
    first = await keys.admit(key.id, 0, 60)
    await keys.admit(key.id, 0, 20)
    with pytest.raises(LimitError, match="2 requests at a time"):
        await keys.admit(key.id, 0, 60)
    await keys.settle(first, 0)
    await keys.admit(key.id, 0, 60)
    with pytest.raises(LimitError):
        await keys.admit(key.id, 0, 60)
    clock.passes(seconds=20)
    await keys.admit(key.id, 0, 60)


async def test_a_budget_has_room_for_what_is_reserved_or_spent(keys: Keys, clock: Clock) -> None:
    key, _ = await keys.create("k", ["answer"], budget=100)
    first = await keys.admit(key.id, 60, 60)
    with pytest.raises(LimitError, match="other runs hold"):
        await keys.admit(key.id, 60, 60)
    await keys.settle(first, 30)
    second = await keys.admit(key.id, 70, 60)
    with pytest.raises(BudgetError, match=r"7\.1e-08 USD, and 7e-08 are left"):
        await keys.admit(key.id, 71, 60)
    clock.passes(seconds=60)  # its process was killed
    third = await keys.admit(key.id, 70, 60)
    await keys.settle(third, 70)
    assert (await keys.all())[0].spent == 100
    await keys.settle(second, 1)  # or was not, and is late: what is spent is spent
    assert (await keys.all())[0].spent == 101


async def test_a_monthly_budget_is_whole_again_in_the_next_month(keys: Keys, clock: Clock) -> None:
    key, _ = await keys.create("k", ["answer"], budget=100, period="month")
    first = await keys.admit(key.id, 100, 10**6)
    clock.passes(hours=12)
    with pytest.raises(LimitError):
        await keys.admit(key.id, 1, 60)
    await keys.settle(first, 90)  # booked in the month in which it ended
    second = await keys.admit(key.id, 10, 60)
    await keys.settle(second, 10)
    with pytest.raises(BudgetError):
        await keys.admit(key.id, 1, 60)
    clock.passes(days=28)
    assert (await keys.all())[0].spent == 0
    await keys.admit(key.id, 100, 60)


async def test_many_at_once_are_held_to_the_limits_exactly(keys: Keys) -> None:
    key, _ = await keys.create("k", ["answer"], budget=100, per_minute=40)

    async def run() -> str:
        try:
            lease = await keys.admit(key.id, 10, 60)
        except (LimitError, BudgetError) as error:
            return type(error).__name__
        await keys.settle(lease, 9)
        return "ran"

    said = await asyncio.gather(*(run() for _ in range(64)))
    spent = (await keys.all())[0].spent
    assert spent == 9 * said.count("ran") <= 100
    assert 1 <= said.count("ran") <= 11


@pytest.fixture
async def idempotency(store: AnswerStore, clock: Clock) -> Idempotency:
    await store.save(answer("ans_1"))
    return Idempotency(store.database, clock)


async def test_one_of_many_claims_is_the_owner(idempotency: Idempotency) -> None:
    claims = await asyncio.gather(
        *(idempotency.claim("", "k", "d", 60, "ans_9") for _ in range(32))
    )
    [owned] = [claim for claim in claims if claim.owner]
    await idempotency.finish(owned, "ans_1")
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).answer_id == "ans_1"


async def test_a_key_is_for_one_request_of_one_scope(idempotency: Idempotency) -> None:
    await idempotency.claim("one", "k", "d", 60, "ans_9")
    with pytest.raises(IdempotencyError):
        await idempotency.claim("one", "k", "other", 60, "ans_9")
    assert (await idempotency.claim("two", "k", "other", 60, "ans_9")).owner


async def test_a_claim_that_came_to_nothing_can_be_made_again(
    idempotency: Idempotency, clock: Clock
) -> None:
    failed = await idempotency.claim("", "k", "d", 60, "ans_9")
    waiting = await idempotency.claim("", "k", "d", 60, "ans_9")
    assert await idempotency.look(waiting) == waiting
    await idempotency.finish(failed, None)
    assert await idempotency.look(waiting) is None
    killed = await idempotency.claim("", "k", "d", 60, "ans_9")
    clock.passes(seconds=60)
    assert await idempotency.look(waiting) is None
    taken_over = await idempotency.claim("", "k", "d", 60, "ans_9")
    assert taken_over.owner
    await idempotency.finish(killed, "ans_late")  # no longer its to finish
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).answer_id is None
    await idempotency.finish(taken_over, "ans_1")
    assert (await idempotency.look(waiting) or waiting).answer_id == "ans_1"


async def test_an_answer_that_was_stored_before_its_process_was_killed_is_found(
    store: AnswerStore, idempotency: Idempotency, clock: Clock
) -> None:
    await idempotency.claim("", "k", "d", 60, "ans_1")
    clock.passes(seconds=60)
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).answer_id == "ans_1"


async def test_a_client_that_left_once_its_answer_was_stored_is_given_it_next_time(
    idempotency: Idempotency,
) -> None:
    await idempotency.finish(await idempotency.claim("", "k", "d", 60, "ans_1"), None)
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).answer_id == "ans_1"


async def test_a_stored_run_that_chose_nothing_is_run_again(
    store: AnswerStore, idempotency: Idempotency
) -> None:
    failed = replace(answer("ans_2"), selection=Selection(None, (), "best_of_n", "abandoned"))
    await store.save(failed)
    await idempotency.finish(await idempotency.claim("", "k", "d", 60, "ans_2"), None)
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).owner


async def test_a_record_is_kept_for_a_day(idempotency: Idempotency, clock: Clock) -> None:
    await idempotency.finish(await idempotency.claim("", "k", "d", 60, "ans_9"), "ans_1")
    clock.passes(hours=23, minutes=59)
    assert (await idempotency.claim("", "k", "d", 60, "ans_9")).answer_id == "ans_1"
    clock.passes(minutes=1)
    assert (await idempotency.claim("", "k", "other", 60, "ans_9")).owner
    clock.passes(hours=24)
    await idempotency.forget()
    every = select(schema.idempotency)
    assert await idempotency.database.read(lambda c: c.execute(every).all()) == []


async def test_an_answer_that_is_erased_frees_its_key(
    store: AnswerStore, idempotency: Idempotency
) -> None:
    await store.save(answer("ans_2"))
    for name, id_ in (("k", "ans_1"), ("other", "ans_2")):
        await idempotency.finish(await idempotency.claim("", name, "d", 60, "ans_9"), id_)
    await store.erase("ans_1")
    assert (await idempotency.claim("", "k", "another", 60, "ans_9")).owner
    assert (await idempotency.claim("", "other", "d", 60, "ans_9")).answer_id == "ans_2"

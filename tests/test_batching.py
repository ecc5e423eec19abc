"""Micro-batching, with a model that is a plain function."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batching import MicroBatcher, _Waiting, bucketed
from app.errors import UpstreamError

FULLNESS = 0.8


@dataclass
class Model:
    """Doubles numbers, in batches that it notes. Stands still while `gate` is closed."""

    batches: list[list[int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.gate.wait(5)
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        return [2 * item for item in items]


@asynccontextmanager
async def batcher(
    run: Callable[[Sequence[int]], list[int]], batch_tokens: int = 100, queue_limit: int = 100
) -> AsyncIterator[MicroBatcher[int, int]]:
    made = MicroBatcher(
        "test", run, batch_tokens=batch_tokens, fullness=FULLNESS, queue_limit=queue_limit
    )
    try:
        yield made
    finally:
        await made.close()


async def busy(model: Model, made: MicroBatcher[int, int]) -> asyncio.Task[int]:
    """A first item that the model is at work on, so that what follows queues up."""
    first = asyncio.create_task(made.submit(0, 1))
    await asyncio.sleep(0.01)
    assert (made.waiting, model.batches) == (0, [])
    return first


async def test_an_idle_model_starts_at_once() -> None:
    model = Model()
    model.gate.set()
    async with batcher(model) as made:
        await made.submit(1, 1)
        started = time.perf_counter()
        assert [await made.submit(n, 10) for n in range(20)] == [2 * n for n in range(20)]
        assert time.perf_counter() - started < 2
    assert [len(batch) for batch in model.batches] == [1] * 21


async def test_what_arrives_together_runs_together_in_one_thread() -> None:
    model = Model()
    model.gate.set()
    async with batcher(model, batch_tokens=1000) as made:
        results = await asyncio.gather(*(made.submit(n, 10) for n in range(64)))
    assert results == [2 * n for n in range(64)]
    assert model.batches == [list(range(64))]
    assert len(model.threads) == 1
    assert threading.current_thread().name not in model.threads


async def test_what_arrives_while_the_model_is_busy_is_the_next_batch() -> None:
    model = Model()
    async with batcher(model) as made:
        first = await busy(model, made)
        rest = [asyncio.create_task(made.submit(n, 10)) for n in (1, 2, 3)]
        await asyncio.sleep(0.01)
        model.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]
    assert model.batches == [[0], [1, 2, 3]]


async def test_items_of_similar_length_share_a_batch() -> None:
    model = Model()
    async with batcher(model, batch_tokens=90) as made:
        first = await busy(model, made)
        sizes = {1: 30, 2: 9, 3: 29, 4: 10, 5: 28, 6: 500}
        rest = [asyncio.create_task(made.submit(n, size)) for n, size in sizes.items()]
        await asyncio.sleep(0.01)
        model.gate.set()
        await asyncio.gather(first, *rest)
    assert model.batches == [[0], [2, 4], [5, 3, 1], [6]]


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 600))
def test_bucketing_loses_nothing_and_keeps_to_the_budget(sizes: list[int], budget: int) -> None:
    loop = asyncio.new_event_loop()
    items: list[_Waiting[int, int]] = [
        _Waiting(n, size, loop.create_future()) for n, size in enumerate(sizes)
    ]
    loop.close()
    batches = bucketed(items, budget, FULLNESS)
    assert sorted(one.item for batch in batches for one in batch) == list(range(len(sizes)))
    for batch in batches:
        longest = max(one.tokens for one in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert sum(one.tokens for one in batch) >= FULLNESS * longest * len(batch)


async def test_a_full_queue_turns_the_next_away() -> None:
    model = Model()
    async with batcher(model, queue_limit=3) as made:
        first = await busy(model, made)
        waiting = [asyncio.create_task(made.submit(n, 1)) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(UpstreamError) as caught:
            await made.submit(9, 1)
        assert (caught.value.kind, caught.value.retryable) == ("overloaded", True)
        model.gate.set()
        assert await asyncio.gather(first, *waiting) == [0, 0, 2, 4]
        assert await made.submit(9, 1) == 18


async def test_the_bound_holds_while_a_round_is_worked_off() -> None:
    model = Model()
    async with batcher(model, batch_tokens=1, queue_limit=3) as made:
        first = await busy(model, made)
        waiting = [asyncio.create_task(made.submit(n, 1)) for n in range(3)]
        await asyncio.sleep(0.01)
        model.gate.set()
        await first
        model.gate.clear()
        await asyncio.sleep(0.01)  # at most one of the three has begun
        extra = [asyncio.create_task(made.submit(n, 1)) for n in range(9)]
        await asyncio.sleep(0.01)
        assert made.waiting <= 3
        model.gate.set()
        outcomes = await asyncio.gather(*waiting, *extra, return_exceptions=True)
    assert any(isinstance(outcome, UpstreamError) for outcome in outcomes)


async def test_a_cancelled_request_is_never_run() -> None:
    model = Model()
    async with batcher(model, queue_limit=2) as made:
        first = await busy(model, made)
        gone, stays = (asyncio.create_task(made.submit(n, 1)) for n in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert made.waiting == 1  # its place is free again
        third = asyncio.create_task(made.submit(3, 1))
        await asyncio.sleep(0.01)
        model.gate.set()
        assert list(await asyncio.gather(first, stays, third)) == [0, 4, 6]
    assert model.batches == [[0], [2, 3]]


async def test_a_request_cancelled_while_it_runs_harms_no_other() -> None:
    model = Model()
    async with batcher(model) as made:
        first = await busy(model, made)
        first.cancel()
        second = asyncio.create_task(made.submit(2, 1))
        await asyncio.sleep(0.01)
        model.gate.set()
        assert await second == 4


async def test_an_error_reaches_its_batch_and_no_other() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ZeroDivisionError
        return [0 for _ in items]

    async with batcher(run) as made:
        outcomes = await asyncio.gather(
            *(made.submit(n, 1) for n in (13, 14)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2
        assert await made.submit(1, 1) == 0


async def test_a_model_that_answers_too_few_fails_all() -> None:
    async with batcher(lambda _: [1]) as made:
        outcomes = await asyncio.gather(
            *(made.submit(n, 1) for n in range(3)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3


async def test_closing_fails_what_waits_and_lets_the_batch_end() -> None:
    model = Model()
    async with batcher(model) as made:
        first = await busy(model, made)
        waiting = asyncio.create_task(made.submit(1, 1))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(made.close())
        with pytest.raises(UpstreamError, match="closed"):
            await waiting
        model.gate.set()
        await closing
        assert await first == 0
        with pytest.raises(UpstreamError) as caught:
            await made.submit(2, 1)
        assert caught.value.kind == "unavailable"
    assert model.batches == [[0]]
    assert not any(thread.name.startswith("test_") for thread in threading.enumerate())

"""Group commit, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from app.errors import StoreError
from app.store.groups import MOST, Groups


class Recorder:
    """Stores when it is let, and refuses the items named."""

    def __init__(self, *refused: int) -> None:
        self.free = asyncio.Event()
        self.groups: list[list[int]] = []
        self.refused = refused
        self.error: Exception = IntegrityError("INSERT", None, ValueError())

    async def store(self, group: Sequence[int]) -> None:
        self.groups.append(list(group))
        await self.free.wait()
        if any(item in self.refused for item in group):
            raise StoreError("the database failed") from self.error


async def started(groups: Groups[int], items: range) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(groups.add(item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_is_the_next_group() -> None:
    recorder = Recorder()
    groups = Groups(recorder.store)
    first = await started(groups, range(1))
    rest = await started(groups, range(1, 4))
    recorder.free.set()
    await asyncio.gather(*first, *rest)
    assert recorder.groups == [[0], [1, 2, 3]]


async def test_a_group_has_a_limit() -> None:
    recorder = Recorder()
    recorder.free.set()
    groups = Groups(recorder.store)
    await asyncio.gather(*(groups.add(item) for item in range(MOST + 1)))
    assert [len(group) for group in recorder.groups] == [MOST, 1]


async def test_whoever_is_cancelled_before_its_group_begins_is_left_out() -> None:
    recorder = Recorder()
    groups = Groups(recorder.store)
    first = await started(groups, range(1))
    gone, stays = await started(groups, range(1, 3))
    gone.cancel()
    await asyncio.sleep(0)
    recorder.free.set()
    await asyncio.gather(*first, stays)
    assert recorder.groups == [[0], [2]]
    assert gone.cancelled()


async def test_the_one_that_is_refused_is_told_and_no_other() -> None:
    recorder = Recorder(1)
    recorder.free.set()
    groups = Groups(recorder.store)
    told = await asyncio.gather(*(groups.add(n) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [type(None), StoreError, type(None)]
    assert recorder.groups == [[0, 1, 2], [0], [1], [2]]


async def test_an_error_of_any_kind_is_that_of_one() -> None:
    recorder = Recorder(1)
    recorder.error = ValueError("no number is free")
    recorder.free.set()
    groups = Groups(recorder.store)
    told = await asyncio.gather(*(groups.add(n) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [type(None), StoreError, type(None)]


async def test_whoever_goes_while_its_group_is_refused_is_not_tried_alone() -> None:
    seen: list[list[int]] = []
    tasks: list[asyncio.Task[None]] = []

    async def store(group: Sequence[int]) -> None:
        seen.append(list(group))
        if len(group) > 1:
            tasks[1].cancel()
            await asyncio.sleep(0)
            raise StoreError("one was refused")

    groups = Groups(store)
    tasks += [asyncio.create_task(groups.add(item)) for item in range(2)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == [[0, 1], [0]]


async def test_a_group_is_stored_in_no_request_s_context() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    async def store(_: Sequence[int]) -> None:
        seen.append(request.get())

    request.set("req_1")
    await Groups(store).add(1)
    assert seen == ["none"]


async def test_a_database_out_of_order_is_not_asked_again_for_each() -> None:
    recorder = Recorder(1)
    recorder.error = OperationalError("INSERT", None, ValueError())
    recorder.free.set()
    groups = Groups(recorder.store)
    told = await asyncio.gather(*(groups.add(n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(one, StoreError) for one in told)
    assert recorder.groups == [[0, 1, 2]]


async def test_the_next_is_stored_after_a_failure() -> None:
    recorder = Recorder(1)
    recorder.free.set()
    groups = Groups(recorder.store)
    with pytest.raises(StoreError):
        await groups.add(1)
    await groups.add(2)


async def test_to_close_waits_for_what_is_under_way() -> None:
    recorder = Recorder()
    groups = Groups(recorder.store)
    (storing,) = await started(groups, range(1))
    closing = asyncio.create_task(groups.close())
    await asyncio.sleep(0)
    assert not closing.done()
    recorder.free.set()
    await closing
    assert storing.done()
    await Groups(recorder.store).close()

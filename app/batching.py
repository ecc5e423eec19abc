"""Micro-batching: requests that arrive while the model is busy are run together when it is free.

Nothing waits for company: an idle model starts at once, and a batch is whatever has queued up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.domain import NOTHING
from app.errors import UpstreamError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    tokens: int
    result: asyncio.Future[Result]


class MicroBatcher(Generic[Item, Result]):
    """Runs items of concurrent callers in batches, in one thread of its own.

    `run` maps items to as many results, in order. A batch holds items of similar length and at
    most `batch_tokens` tokens with padding (one item may exceed that alone), of which at least the
    share `fullness` is not padding. What is waiting is sorted by length and run as one round, so
    nothing starves; later arrivals are the next round. At most `queue_limit` items wait.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        batch_tokens: int,
        fullness: float,
        queue_limit: int,
    ) -> None:
        self._name = name
        self.run = run
        self._batch_tokens = batch_tokens
        self._fullness = fullness
        self._queue_limit = queue_limit
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._arrived: list[_Waiting[Item, Result]] = []
        self._round: deque[list[_Waiting[Item, Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items whose batch has not begun."""
        queued = [*self._arrived, *(one for batch in self._round for one in batch)]
        return sum(not one.result.done() for one in queued)

    async def submit(self, item: Item, tokens: int) -> Result:
        """The result for one item of `tokens` tokens.

        Raises `UpstreamError`, "overloaded" if the queue is full and "unavailable" after
        `close()`, and whatever `run` raised for the batch. An item whose caller is cancelled is
        dropped if its batch has not begun.
        """
        if self._closed:
            raise UpstreamError("unavailable", f"{self._name}: closed")
        if self.waiting >= self._queue_limit:
            message = f"{self._name}: {self._queue_limit} are waiting"
            raise UpstreamError("overloaded", message, usage=NOTHING)
        loop = asyncio.get_running_loop()
        one: _Waiting[Item, Result] = _Waiting(item, tokens, loop.create_future())
        self._arrived.append(one)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await one.result

    async def close(self) -> None:
        """Fail what waits, let the batch in progress end, and stop the thread."""
        self._closed = True
        for one in (*self._arrived, *(one for batch in self._round for one in batch)):
            if not one.result.done():
                one.result.set_exception(UpstreamError("unavailable", f"{self._name}: closed"))
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while self._arrived or self._round:
            if not self._round:
                self._round.extend(bucketed(self._arrived, self._batch_tokens, self._fullness))
                self._arrived = []
            batch = [one for one in self._round.popleft() if not one.result.done()]
            if batch:
                await self._run_batch(batch)

    async def _run_batch(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        items = [one.item for one in batch]
        try:
            results = await loop.run_in_executor(self._thread, self.run, items)
            answered = list(zip(batch, results, strict=True))
        except Exception as error:  # of any kind: it belongs to the callers, not to the worker
            for one in batch:
                if not one.result.done():
                    one.result.set_exception(error)
            return
        for one, result in answered:
            if not one.result.done():
                one.result.set_result(result)


def bucketed(
    items: Sequence[_Waiting[Item, Result]], batch_tokens: int, fullness: float
) -> list[list[_Waiting[Item, Result]]]:
    """The items in batches of similar length, shortest first."""
    batches: list[list[_Waiting[Item, Result]]] = []
    real = 0
    for one in sorted(items, key=lambda one: one.tokens):
        if batches:
            padded = one.tokens * (len(batches[-1]) + 1)
            if padded <= batch_tokens and real + one.tokens >= fullness * padded:
                batches[-1].append(one)
                real += one.tokens
                continue
        batches.append([one])
        real = one.tokens
    return batches

"""Group commit: what is to be stored while a transaction is under way is stored by the next one,
all of it together, for a commit costs the same whatever it commits (DeWitt et al.,
"Implementation techniques for main memory database systems", SIGMOD 1984)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import OperationalError

from app.errors import StoreError

Item = TypeVar("Item")

MOST = 64


class Groups(Generic[Item]):
    """Stores items of concurrent callers in groups of up to `MOST`, one group after the other.

    `store` takes a group in one transaction. Nothing waits for company: an item that comes when
    nothing is under way is a group of its own.
    """

    def __init__(self, store: Callable[[Sequence[Item]], Awaitable[None]]) -> None:
        self._store = store
        self._waiting: list[tuple[Item, asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> None:
        """Returns when the item is stored; raises what `store` raised for it.

        An item whose caller is cancelled is left out if its group has not begun.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, stored))
        if self._worker is None or self._worker.done():
            # Not in the context of whoever came first: the log would name one request for all.
            self._worker = asyncio.create_task(self._work(), context=contextvars.Context())
        await stored

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._worker is not None:
            await asyncio.shield(self._worker)

    async def _work(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            await self._store_group(group)

    async def _store_group(self, group: Sequence[tuple[Item, asyncio.Future[None]]]) -> None:
        group = [one for one in group if not one[1].done()]  # its caller is gone
        if not group:
            return
        try:
            await self._store([item for item, _ in group])
        except Exception as error:  # of any kind: it belongs to the callers, not to the worker
            if len(group) > 1 and _of_one(error):
                for one in group:
                    await self._store_group([one])
                return
            for _, stored in group:
                if not stored.done():
                    stored.set_exception(error)
            return
        for _, stored in group:
            if not stored.done():
                stored.set_result(None)


def _of_one(error: Exception) -> bool:
    """Whether it was one of the items that was refused, and not the database out of order."""
    out_of_reach = isinstance(error, StoreError) and error.lost
    return not (out_of_reach or isinstance(error.__cause__, OperationalError))

"""`Bookings`: what runs cost is booked on their keys, also if the database is away when they end.

No answer waits longer for that than `patiently` does. What cannot be booked is kept in memory and
tried again in the background; meanwhile its lease holds the money, until it expires. `Keys.settle`
books once for each lease, however often it is asked to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from app.background import background
from app.errors import RequestError, StoreError
from app.store.database import patiently
from app.store.keys import Keys, Lease

log = logging.getLogger("starboard")

# The wait before what is late is tried again: twice as long each time.
SOONEST_S, LATEST_S = 0.5, 5.0
# What is late for longer is given up, well before `Keys.forget` drops its lease: from then on
# `settle` could not tell it from one that is booked.
GIVEN_UP_S = 43_200.0
# How long one try may take: a connection may hang, and on SQLite it may wait for another process.
TRY_S = 15.0
# How long the end of the process waits for what is still late: longer than SQLite does for another
# process.
LAST_S = 6.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What the run of a lease spent, in nano-dollars; `until` is when to give it up, by the clock
    of the event loop."""

    lease: Lease
    spent: int
    until: float

    def __str__(self) -> str:
        return f"{self.lease.key_id}: {self.spent} nano-dollars of {self.lease.id}"


@dataclass(eq=False)
class Bookings:
    """What is late is tried one at a time, and none after one that failed: each may have to wait
    for the database as long as the first."""

    keys: Keys
    _late: deque[Cost] = field(default_factory=deque, init=False)
    _some: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _closed: bool = field(default=False, init=False)

    async def book(self, lease: Lease, spent: int) -> None:
        """End the lease and book what its run spent; later, if the database fails."""
        cost = Cost(lease, spent, asyncio.get_running_loop().time() + GIVEN_UP_S)
        try:
            await patiently(lambda _: self.keys.settle(lease, spent))
        except StoreError:
            self._put_off(cost)
        except RequestError as error:
            _give_up(cost, error)
        except asyncio.CancelledError:  # nobody knows whether the database has heard it
            self._put_off(cost)
            raise

    def _put_off(self, cost: Cost) -> None:
        if self._closed:
            _give_up(cost)
            return
        log.warning("%s will be booked later", cost)
        self._late.append(cost)
        self._some.set()

    async def keep(self) -> None:
        """Book what is late until cancelled."""
        wait_s = SOONEST_S
        while True:
            await self._some.wait()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LATEST_S)
            while self._late and await self._book_first():
                pass
            if not self._late:
                self._some.clear()
                wait_s = SOONEST_S

    async def _book_first(self) -> bool:
        """Whether the database answered; if not it is the last from now on, unless it is given up:
        one that always fails must not keep the others."""
        cost = self._late[0]
        try:
            async with asyncio.timeout(TRY_S):
                await self.keys.settle(cost.lease, cost.spent)
        except (StoreError, TimeoutError):
            self._late.popleft()
            if asyncio.get_running_loop().time() < cost.until:
                self._late.append(cost)
            else:
                _give_up(cost)
            return False
        except RequestError as error:
            self._late.popleft()
            _give_up(cost, error)
            return True
        self._late.popleft()
        log.info("%s are booked after all", cost)
        return True

    async def close(self) -> None:
        """Try all that is late once more, and say what is not known to be booked by then."""
        self._closed = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    for _ in range(len(self._late)):
                        await self._book_first()
        finally:
            for cost in self._late:
                _give_up(cost)


@asynccontextmanager
async def open_bookings(keys: Keys) -> AsyncIterator[Bookings]:
    bookings = Bookings(keys)
    try:
        async with background(bookings.keep, "booking what is late"):
            yield bookings
    finally:
        await bookings.close()


def _give_up(cost: Cost, error: RequestError | None = None) -> None:
    # A try that was cut short may still be heard.
    log.error("%s are not known to be booked: %s", cost, error or "the database failed")

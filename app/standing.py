"""A member's standing: the prior that evidence must overcome, for replies too close to call.

By default that is the operator's board order. With `standing = "wins"` it is the order of win
rates, if every member of the run has competed in enough answers; one that has not would be placed
by chance, so board order then goes for all, and the selection says so. Equal rates keep board
order. Reserves and fusions come after the members, as they do in board order.

Win rates are observed, not tried: a member that a strategy asks only of the hard prompts, or
against strong rivals, has a lower one for it. They belong to a member's name, whatever model is
behind it: a new model wants a new name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from app.domain import Plan, WinRate
from app.errors import StoreError

log = logging.getLogger("starboard")

KEEP_S = 60.0
LIMIT_S = 10.0
UNREAD = "win rates could not be read"
NEVER = WinRate(0.0, 0)


class Record(Protocol):
    """Where win rates are read; raises `StoreError` if they cannot be."""

    async def win_rates(self, members: Sequence[str]) -> Mapping[str, WinRate]: ...


@dataclass(eq=False)
class Standing:
    """Win rates of the seated members, read in the background and at most once in `KEEP_S`.

    No answer waits for them: whoever asks while they are read anew gets those of before.
    `rates` has every member, or is None as long as they are not known.
    """

    record: Record
    members: tuple[str, ...]
    by_wins: bool = False
    minimum: int = 50
    rates: Mapping[str, WinRate] | None = None
    _read_at: float | None = field(default=None, init=False)
    _reading: asyncio.Task[None] | None = field(default=None, init=False)

    def settle(self, plan: Plan) -> Plan:
        """The plan with the order in which its ties go."""
        if not self.by_wins:
            return plan
        self._refresh()
        return _settled(plan, self.rates, self.minimum)

    async def known(self) -> Mapping[str, WinRate] | None:
        """The win rates, waited for if they have to be read; None if they cannot be."""
        self._refresh()
        if self._reading:
            await asyncio.wait({self._reading})
        return self.rates

    def _refresh(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._reading and not self._reading.done():
            return
        if self._read_at is None or now - self._read_at >= KEEP_S:
            self._read_at = now
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                found = await self.record.win_rates(self.members)
            self.rates = {member: found.get(member, NEVER) for member in self.members}
        except (StoreError, TimeoutError):
            self.rates = None
            log.warning("%s%s", UNREAD, "; ties go by board order" if self.by_wins else "")

    async def close(self) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


@asynccontextmanager
async def open_standing(
    record: Record, members: Sequence[str], *, by_wins: bool, minimum: int
) -> AsyncIterator[Standing]:
    """The members' standing, with the win rates already read if ties go by them."""
    standing = Standing(record, tuple(members), by_wins, minimum)
    try:
        if by_wins:
            await standing.known()
        yield standing
    finally:
        await standing.close()


def _settled(plan: Plan, rates: Mapping[str, WinRate] | None, minimum: int) -> Plan:
    if rates is None:
        return replace(plan, no_standing=UNREAD)
    asked = {member: rates[member] for member in plan.members}
    fewest, rate = min(asked.items(), key=lambda item: item[1].competed)
    if rate.competed < minimum:
        why = f"{fewest} has competed in {rate.competed} of the {minimum} answers it takes"
        return replace(plan, no_standing=why)
    order = sorted(asked, key=lambda member: asked[member].share, reverse=True)
    return replace(plan, standing=tuple(order), win_rates=asked)

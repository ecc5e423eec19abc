"""One circuit for each member, whichever process calls it: what the gates of one process find is
written where the others read it.

No call waits for that. Changes are written, and the circuits of all read, in the background; only
a probe is asked for where all can see it, once in a cool-down. If that place fails, each process
goes by its own findings until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from app.domain import OpenCircuit
from app.errors import StoreError
from app.gates import Gate

log = logging.getLogger("starboard")

PERIOD_S = 1.0
PERIOD_LOST_S = 5.0
LIMIT_S = 5.0
CLAIM_LIMIT_S = 1.0


class Record(Protocol):
    """Where open circuits are written down, by member. Waits are counted by a clock of its own.
    Every method raises `StoreError`."""

    async def all(self, members: Sequence[str]) -> Mapping[str, OpenCircuit]:
        """Those of these members that are open."""

    async def put(self, member: str, opening: OpenCircuit | None) -> None:
        """Open the circuit for `wait_s` from now, or close it."""

    async def claim(self, member: str, for_s: float) -> float:
        """Keep others from probing for so many seconds; the wait if one of them already does."""


@dataclass(eq=False)
class SharedCircuits:
    """The circuits of this process's gates, kept in step with those of the others."""

    record: Record
    gates: Mapping[str, Gate]
    _changed: set[str] = field(default_factory=set, init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _lost: bool = field(default=False, init=False)

    def tell(self, gate: Gate) -> None:
        self._changed.add(gate.name)
        self._wake.set()

    async def claim(self, gate: Gate) -> float:
        try:
            async with asyncio.timeout(CLAIM_LIMIT_S):
                return await self.record.claim(gate.name, gate.cool_down_s)
        except (StoreError, TimeoutError):
            return 0.0

    async def keep(self) -> None:
        """Stay in step until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_LOST_S if self._lost else PERIOD_S):
                    await self._wake.wait()
            await self.sync()

    async def sync(self) -> None:
        """Write what has changed here, then hear what holds for all."""
        self._wake.clear()
        writing, self._changed = self._changed, set()
        try:
            async with asyncio.timeout(LIMIT_S):
                for name in writing:
                    await self.record.put(name, self.gates[name].opening)
                found = await self.record.all(tuple(self.gates))
        except (StoreError, TimeoutError):
            self._changed |= writing
            if not self._lost:
                log.warning("circuits are not shared: this process goes by its own")
            self._lost = True
            return
        if self._lost:
            log.info("circuits are shared again")
        self._lost = False
        for name, gate in self.gates.items():
            if name not in self._changed:  # in the meantime
                gate.hear(found.get(name))


@asynccontextmanager
async def open_circuits(record: Record, gates: Iterable[Gate]) -> AsyncIterator[None]:
    """Share the gates' circuits by the record. What is open already holds from the start."""
    shared = SharedCircuits(record, {gate.name: gate for gate in gates if gate.opens_after})
    await shared.sync()
    for gate in shared.gates.values():
        gate.others = shared
    keeping = asyncio.create_task(shared.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

"""The gate before each member: a circuit breaker, and a limit on calls at one time.

A member that keeps failing is not called for a while, so that nobody waits for what will not
come and a host in trouble is left alone; then one call is let through to see.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from app.domain import OpenCircuit
from app.errors import UpstreamError

Circuit = Literal["closed", "open", "half_open"]
CIRCUITS: tuple[Circuit, ...] = ("closed", "open", "half_open")


class Others(Protocol):
    """The gates before the same members in other processes."""

    def tell(self, gate: Gate) -> None:
        """Note that the gate's circuit has opened, closed, or waits for another moment."""

    async def claim(self, gate: Gate) -> float:
        """Ask for the one probe of all processes. Seconds to wait if another has it, else 0."""


@dataclass(eq=False)
class Gate:
    """Lets calls to one member through, or refuses them at once.

    It opens the circuit after `opens_after` retryable failures in a row, 0 for never; after
    `cool_down_s` the next call is a probe, "half_open" while it lasts, and its result closes the
    circuit or opens it anew. Any other failure is a reply too, and closes it. At most
    `max_concurrency` calls are let through at one time; the others wait, as long as their callers
    do.

    With `others` the circuit is that of all processes: they are told of every change, and one of
    them probes.
    """

    name: str
    opens_after: int = 5
    cool_down_s: float = 15.0
    max_concurrency: int | None = None
    others: Others | None = field(default=None, init=False)
    waiting: int = field(default=0, init=False)
    in_progress: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _probe_from: float | None = field(default=None, init=False)
    _probing: bool = field(default=False, init=False)
    _places: asyncio.Semaphore | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.max_concurrency) if self.max_concurrency else None

    @property
    def circuit(self) -> Circuit:
        """Open until a probe is let through, however long ago the cool-down ended."""
        if self._probe_from is None:
            return "closed"
        return "half_open" if self._probing else "open"

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Around one call. Raises `UpstreamError` without making it while the circuit is open.

        A call that is cancelled says nothing of the member: a client left, or the run's deadline
        came before the limit of one call.
        """
        self._refuse_if_open()
        if self._places:
            self.waiting += 1
            try:
                await self._places.acquire()
            finally:
                self.waiting -= 1
        self.in_progress += 1
        probe = False
        try:
            self._refuse_if_open()  # it may have opened in the meantime
            probe = self._probing = self._probe_from is not None
            if probe and self.others:
                await self._claim_probe(self.others)
            with self._noted(probe):
                yield
        finally:
            self.in_progress -= 1
            if self._places:
                self._places.release()
            if probe:
                self._probing = False

    @property
    def opening(self) -> OpenCircuit | None:
        """What the other processes are to know of the circuit; None while it is closed."""
        if self._probe_from is None:
            return None
        return OpenCircuit(self._failed, max(0.0, self._probe_from - _now()))

    def hear(self, opening: OpenCircuit | None) -> None:
        """Open or close the circuit as the other processes say."""
        if opening is not None:
            self._failed = opening.failed
            # Whatever happened to the clock they go by.
            self._probe_from = _now() + min(opening.wait_s, self.cool_down_s)
        elif self._probe_from is not None:
            self._failed, self._probe_from = 0, None

    def _refuse_if_open(self) -> None:
        if self._probe_from is None:
            return
        wait_s = self._probe_from - _now()
        if wait_s > 0 or self._probing:
            self._refuse(wait_s)

    def _refuse(self, wait_s: float) -> None:
        again = f"tried again in {wait_s:.0f} s" if wait_s > 0 else "being tried again"
        raise UpstreamError(
            "unavailable",
            f"{self.name}: not called, its last {self._failed} calls failed; {again}",
            retry_after_s=math.inf,  # no retry of the same run would get through
        )

    async def _claim_probe(self, others: Others) -> None:
        wait_s = await others.claim(self)
        if wait_s > 0:
            self._probe_from = _now() + wait_s
            self._refuse(wait_s)

    @contextmanager
    def _noted(self, probe: bool) -> Iterator[None]:
        try:
            yield
        except UpstreamError as error:
            self._note(failed=error.retryable)
            raise
        except asyncio.CancelledError:
            if probe and self._probe_from is not None:
                self._change(_now())  # nothing is known: the next call may try
            raise
        else:
            self._note(failed=False)

    def _note(self, *, failed: bool) -> None:
        self._failed = self._failed + 1 if failed else 0
        open_ = self._probe_from is not None
        if failed and (open_ or 0 < self.opens_after <= self._failed):
            self._change(_now() + self.cool_down_s)
        elif open_:
            self._change(None)

    def _change(self, probe_from: float | None) -> None:
        self._probe_from = probe_from
        if self.others:
            self.others.tell(self)


def _now() -> float:
    return asyncio.get_running_loop().time()

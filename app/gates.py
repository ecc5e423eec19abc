"""The gate before each member: a circuit breaker, and a limit on calls at one time.

A member that keeps failing is not called for a while, so that nobody waits for what will not
come and a host in trouble is left alone; then one call is let through to see.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from app.errors import UpstreamError

Circuit = Literal["closed", "open", "half_open"]
CIRCUITS: tuple[Circuit, ...] = ("closed", "open", "half_open")


@dataclass(eq=False)
class Gate:
    """Lets calls to one member through, or refuses them at once.

    It opens the circuit after `opens_after` retryable failures in a row, 0 for never; after
    `cool_down_s` the next call is a probe, "half_open" while it lasts, and its result closes the
    circuit or opens it anew. Any other failure is a reply too, and closes it. At most
    `max_concurrency` calls are let through at one time; the others wait, as long as their callers
    do.
    """

    name: str
    opens_after: int = 5
    cool_down_s: float = 15.0
    max_concurrency: int | None = None
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
        async with self._place():
            self._refuse_if_open()  # it may have opened in the meantime
            probe = self._probing = self._probe_from is not None
            try:
                yield
            except UpstreamError as error:
                self._note(failed=error.retryable)
                raise
            else:
                self._note(failed=False)
            finally:
                if probe:
                    self._probing = False

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._places:
            self.waiting += 1
            try:
                await self._places.acquire()
            finally:
                self.waiting -= 1
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1
            if self._places:
                self._places.release()

    def _refuse_if_open(self) -> None:
        if self._probe_from is None:
            return
        wait_s = self._probe_from - _now()
        if wait_s > 0 or self._probing:
            again = f"tried again in {wait_s:.0f} s" if wait_s > 0 else "being tried again"
            raise UpstreamError(
                "unavailable",
                f"{self.name}: not called, its last {self._failed} calls failed; {again}",
                retry_after_s=math.inf,  # no retry of the same run would get through
            )

    def _note(self, *, failed: bool) -> None:
        self._failed = self._failed + 1 if failed else 0
        opens = 0 < self.opens_after <= self._failed
        self._probe_from = _now() + self.cool_down_s if opens else None


def _now() -> float:
    return asyncio.get_running_loop().time()

"""Whether what the service depends on can be used now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from app.errors import RequestError, UpstreamError

LIMIT_S = 3.0
# Probes come from several places every few seconds.
STORE_KEEP_S = 5.0
# Each process asks every vendor; whether that counts among what a key may is not known.
UPSTREAM_KEEP_S = 30.0

Ping = Callable[[], Awaitable[None]]


@dataclass
class Pings:
    """Pings by name of dependency, asked together and remembered for `keep_s` seconds."""

    pings: Mapping[str, Ping]
    keep_s: float
    _faults: Mapping[str, str | None] = field(default_factory=dict)
    _asked: float | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def faults(self) -> Mapping[str, str | None]:
        """By dependency: None if it can be used, else what is wrong with it."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._asked is None or now - self._asked > self.keep_s:
                found = await asyncio.gather(*(_fault(n, p) for n, p in self.pings.items()))
                self._faults, self._asked = dict(zip(self.pings, found, strict=True)), now
            return self._faults


@dataclass(frozen=True)
class Dependencies:
    """What the service depends on, by kind; scorers and members by their names."""

    store: Pings
    scorers: Pings
    members: Pings


async def _fault(name: str, ping: Ping) -> str | None:
    try:
        async with asyncio.timeout(LIMIT_S):
            await ping()
    except TimeoutError:
        return f"{name}: no reply in {LIMIT_S:g} s"
    except UpstreamError as error:
        return error.message
    except RequestError as error:
        return error.detail
    except Exception as error:  # whatever a vendor's package raises, readiness must be told
        return f"{name}: {type(error).__name__}"
    return None

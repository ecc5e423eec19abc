"""Work that goes on beside the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

log = logging.getLogger("starboard")


@asynccontextmanager
async def background(work: Callable[[], Awaitable[None]], name: str) -> AsyncIterator[None]:
    """The work goes on while the context is open, and is cancelled at its end. If it fails, the
    log says so at once, and nothing else ends with it."""
    task = asyncio.create_task(_logged(work, name))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _logged(work: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await work()
    except Exception:
        log.exception("%s failed", name)

"""How long answers are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from app.errors import StoreError
from app.store import AnswerStore, Filter

log = logging.getLogger("starboard")

EVERY_S = 86_400.0


@asynccontextmanager
async def keeping(store: AnswerStore, days: float | None) -> AsyncIterator[None]:
    """Answers older than that are erased in the background, at once and then daily; None keeps
    them all. What fails is tried again the next day."""
    erasing = asyncio.create_task(_erase_daily(store, timedelta(days=days))) if days else None
    try:
        yield
    finally:
        if erasing:
            erasing.cancel()
            await asyncio.gather(erasing, return_exceptions=True)


async def _erase_daily(store: AnswerStore, age: timedelta) -> None:
    while True:
        try:
            if erased := await store.erase_all(Filter(until=datetime.now(UTC) - age)):
                log.info("retention: %d answers erased that were older than %s", erased, age)
        except StoreError as error:
            log.warning("retention: %s; old answers are still there", error.detail)
        await asyncio.sleep(EVERY_S)

"""What is dropped in time: old answers, and records of runs that are long over."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from app.errors import StoreError
from app.store import AnswerStore, Filter
from app.store.idempotency import Idempotency
from app.store.keys import Keys

log = logging.getLogger("starboard")

EVERY_S = 86_400.0


async def drop_daily(
    store: AnswerStore, keys: Keys, idempotency: Idempotency, days: float | None
) -> None:
    """Drops, at once and then daily, what has had its time: answers older than `days` (None keeps
    them all), leases of killed processes, records of Idempotency-Keys. Does not end. What fails is
    tried again the next day. Every process does it; what one has dropped is gone."""
    while True:
        try:
            await keys.forget()
            await idempotency.forget()
            if days is not None:
                age = timedelta(days=days)
                if erased := await store.erase_all(Filter(until=datetime.now(UTC) - age)):
                    log.info("retention: %d answers erased that were older than %s", erased, age)
        except StoreError as error:
            log.warning("retention: %s; what is old is still there", error.detail)
        await asyncio.sleep(EVERY_S)

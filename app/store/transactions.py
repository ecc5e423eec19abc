"""How the store's tables are read, and written after a look at them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.store.answers import store_failures


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read by. Raises `StoreError`."""
    with store_failures():
        async with engine.connect() as connection:
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction whose reads are not overtaken: on PostgreSQL of the rows that it selects with
    FOR UPDATE, on SQLite of all, for there one writes at a time. Raises `StoreError`."""
    with store_failures():
        async with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def utc_now() -> datetime:
    return datetime.now(UTC)


def aware(moment: datetime) -> datetime:
    """A stored time in UTC: SQLite drops the zone."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)

"""A run that is followed ends with whoever follows it."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import Request
from starlette.types import Message

from app.api.connections import follow
from app.domain import Answer, Listener


async def test_a_run_is_over_when_its_follower_is_cancelled() -> None:
    """As uvicorn cancels what has not ended when it shuts down."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def run(_: Listener) -> Answer:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    async def nothing() -> Message:
        return await asyncio.Future()

    following = asyncio.ensure_future(follow(Request({"type": "http"}, nothing), run, 5.0))
    await begun.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert ended.is_set()

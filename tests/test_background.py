from __future__ import annotations

import asyncio

import pytest

from app.api import create_app
from app.background import background
from app.scorers.ladder import Ladder
from app.settings import Settings
from tests.serving import serve


async def test_work_that_fails_is_told_and_nothing_else_ends_with_it(
    scripted: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Ladder, "check", broken)
    async with serve(create_app(scripted.model_copy(update={"self_check": True}))) as client:
        assert (await client.post("/answer", json={"prompt": "Which?"})).status_code == 200
    (told,) = [one for one in caplog.records if one.exc_info]
    assert told.getMessage() == "the scorers' self-check failed"


async def test_work_ends_with_its_context() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with background(work, "work"):
        await began.wait()
        assert not cancelled.is_set()
    assert cancelled.is_set()
    async with background(work, "work that has not begun yet"):
        pass

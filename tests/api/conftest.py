"""Fixtures shared by the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.api import create_app
from app.settings import Settings
from tests.serving import serve


@pytest.fixture
async def client(scripted: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(create_app(scripted)) as client:
        yield client

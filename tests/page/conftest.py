"""The page in a real browser, which asks the real app, which asks fakes.

One browser serves all tests, in the event loop of the session; each test has a profile of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from app.api import create_app
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.server import FakeServer
from tests.serving import serve, three_vendors

LIMIT_MS = 60_000

LONG = (
    "Air molecules scatter **short wavelengths** most (Rayleigh scattering).\n\n"
    "| colour | nm |\n|---|---|\n| blue | 450 |\n\n```python\nprint(1 / 450**4)\n```"
)
SHORT = "Blue light is scattered most by air."
POOR = "It reflects the sea."


def five(*values: float) -> dict[str, float]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return dict(zip(names, values, strict=True))


SCORES = {
    LONG: five(3.6, 3.6, 3.8, 2.5, 2.5),
    SHORT: five(3.0, 3.4, 3.7, 1.0, 0.5),
    POOR: five(1.5, 0.6, 3.0, 0.6, 1.0),
}


@dataclass
class Visit:
    """A page, all that it has asked for, and what went wrong in it."""

    page: Page
    origin: str
    urls: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def strangers(self) -> list[str]:
        """What was asked of anybody but the app."""
        ours = (f"{self.origin}/", f"blob:{self.origin}/")
        return [url for url in self.urls if not url.startswith(ours)]

    def forgive(self, part: str) -> None:
        """Errors that the test was about."""
        assert any(part in one for one in self.errors), self.errors
        self.errors = [one for one in self.errors if part not in one]


@dataclass
class Board:
    """The app with its fakes: three members, and a reward model that knows their replies."""

    client: httpx2.AsyncClient
    claude: FakeServer
    gemma: FakeServer
    mistral: FakeServer
    nvidia: NvidiaFake

    @property
    def origin(self) -> str:
        return str(self.client.base_url).rstrip("/")

    async def ask(self, prompt: str = "Why is the sky blue?", **body: Any) -> dict[str, Any]:
        response = await self.client.post("/answer", json={"prompt": prompt} | body)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


Visiting = Callable[..., AbstractAsyncContextManager[Visit]]
Boards = Callable[..., AbstractAsyncContextManager[Board]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium of the system, else the one that `playwright install chromium` brought."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=alone
        )
        yield browser
        await browser.close()


@pytest.fixture
def visiting(browser: Browser) -> Visiting:
    @asynccontextmanager
    async def visit(origin: str, path: str = "/", **options: Any) -> AsyncIterator[Visit]:
        """A profile of its own. At its end nothing may have gone wrong, and nobody but the app
        have been asked for anything."""
        context = await browser.new_context(base_url=origin, locale="en-GB", **options)
        context.set_default_timeout(LIMIT_MS)
        visit = Visit(await context.new_page(), origin)

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visit.errors.append(message.text)

        def on_request(request: Request) -> None:
            visit.urls.append(request.url)

        context.on("request", on_request)
        context.on("response", lambda response: visit.answered.append(response.url))
        context.on("console", on_console)
        context.on("weberror", lambda error: visit.errors.append(str(error.error)))
        try:
            await visit.page.goto(path)
            yield visit
        finally:
            await context.close()
        assert visit.errors == []
        assert visit.strangers() == []

    return visit


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    @asynccontextmanager
    async def open_board(**values: Any) -> AsyncIterator[Board]:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            claude, gemma = await enter(AnthropicFake()), await enter(GoogleFake())
            mistral, nvidia = await enter(MistralFake()), await enter(NvidiaFake())
            claude.reply, gemma.reply, mistral.reply = LONG, SHORT, POOR
            nvidia.scores = lambda reply: SCORES.get(reply, five(2, 2, 2, 2, 2))
            database = f"sqlite:///{tmp_path}/page.db"
            more = {"scorer": {"kind": "nvidia"}} | values
            ours = three_vendors(claude, gemma, mistral, nvidia, database, **more)
            client = await stack.enter_async_context(serve(create_app(ours)))
            yield Board(client, claude, gemma, mistral, nvidia)

    return open_board


@pytest_asyncio.fixture(loop_scope="session")
async def board(boards: Boards) -> AsyncIterator[Board]:
    async with boards() as opened:
        yield opened

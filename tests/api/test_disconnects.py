"""A client that leaves: every connection upstream is closed, and what had come is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest

from app.api import create_app
from app.domain import Answer, Completion, Failure
from app.settings import Settings
from app.store import AnswerStore
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.server import FakeServer
from tests.serving import serve

CLOSED_WITHIN_S = 0.25
CHAT: dict[str, object] = {
    "model": "starboard",
    "messages": [{"role": "user", "content": "Which?"}],
}

Fakes = tuple[AnthropicFake, GoogleFake, MistralFake, NvidiaFake]
Ask = Callable[[httpx2.AsyncClient], Awaitable[None]]


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    async with (
        AnthropicFake() as claude,
        GoogleFake() as gemma,
        MistralFake() as mistral,
        NvidiaFake() as nvidia,
    ):
        yield claude, gemma, mistral, nvidia


@pytest.fixture
def board(fakes: Fakes, database_url: str) -> Settings:
    claude, gemma, mistral, nvidia = fakes
    return settings(
        database_url=database_url,
        ANTHROPIC_API_KEY=claude.api_key,
        ANTHROPIC_BASE_URL=claude.base_url,
        GEMINI_API_KEY=gemma.api_key,
        GOOGLE_GEMINI_BASE_URL=gemma.base_url,
        MISTRAL_API_KEY=mistral.api_key,
        MISTRAL_BASE_URL=mistral.base_url,
        NVIDIA_API_KEY=nvidia.api_key,
        NVIDIA_BASE_URL=nvidia.base_url,
    )


def posting(path: str, body: dict[str, object]) -> Ask:
    async def ask(client: httpx2.AsyncClient) -> None:
        await client.post(path, json=body)

    return ask


def streaming(path: str, body: dict[str, object]) -> Ask:
    async def ask(client: httpx2.AsyncClient) -> None:
        async with client.stream("POST", path, json=body | {"stream": True}) as response:
            await response.aread()

    return ask


ROUTES = {
    "answer": posting("/answer", {"prompt": "Which?"}),
    "events": streaming("/answer", {"prompt": "Which?"}),
    "openai": posting("/v1/chat/completions", CHAT),
    "openai-stream": streaming("/v1/chat/completions", CHAT),
}


@pytest.mark.parametrize("ask", ROUTES.values(), ids=ROUTES.keys())
async def test_every_call_upstream_ends_with_its_client(
    ask: Ask, fakes: Fakes, board: Settings
) -> None:
    """Claude's reply is being scored, Gemma and Mistral have not replied."""
    _, *silent = fakes
    for fake in silent:
        fake.delay_s = 30
    async with serve(create_app(board)) as client:
        asking = asyncio.ensure_future(ask(client))
        await until(lambda: all(fake.in_progress for fake in silent), 30)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: all(ended(fake) for fake in silent), CLOSED_WITHIN_S)
    abandoned = await only_answer(board)
    assert (abandoned.winner, abandoned.quality) == (None, "degraded")
    outcomes = {c.candidate.member: c.candidate.outcome for c in abandoned.candidates}
    paid, *unknown = (outcomes[name] for name in ("claude", "gemma", "mistral"))
    assert isinstance(paid, Completion)
    assert paid.usage is not None
    assert [o.kind for o in unknown if isinstance(o, Failure)] == ["cancelled", "cancelled"]


async def test_an_answer_to_a_client_that_stays_cancels_nothing(
    fakes: Fakes, board: Settings
) -> None:
    async with serve(create_app(board)) as client:
        for ask in ROUTES.values():
            await ask(client)
    assert [fake.cancelled for fake in fakes] == [0, 0, 0, 0]


def ended(fake: FakeServer) -> bool:
    return fake.cancelled == 1 and fake.in_progress == fake.open_connections == 0


async def until(reached: Callable[[], bool], limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while not reached():
            await asyncio.sleep(0.005)


async def only_answer(board: Settings) -> Answer:
    async with AnswerStore.open(board.database_url) as store:
        (answer,) = [answer async for answer in store.answers()]
    return answer

"""A client that leaves: every connection upstream is closed, what had come is stored, and what it
cost is booked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from app.api import create_app
from app.domain import NANO, Answer, Completion, Failure
from app.settings import Settings
from app.store import AnswerStore, schema
from app.store.idempotency import Claim, Idempotency
from app.store.keys import Keys, Lease
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.server import FakeServer
from tests.serving import serve, three_vendors, until

CLOSED_WITHIN_S = 0.25
MEMBER_PRICE = {"input_per_million": 1.0, "output_per_million": 10.0}
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
    return three_vendors(
        *fakes,
        database_url,
        prices={
            **dict.fromkeys(("claude", "gemma", "mistral"), MEMBER_PRICE),
            "nvidia": {"input_per_million": 0.1, "output_per_million": 0.0},
        },
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
        await until(lambda: all(fake.in_progress for fake in silent))
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


async def test_scoring_ends_with_its_client(fakes: Fakes, board: Settings) -> None:
    *_, nvidia = fakes
    nvidia.delay_s = 30
    async with serve(create_app(board)) as client, keys_of(board) as keys:
        _, secret = await keys.create("k", ["score"], budget=NANO)
        client.headers["authorization"] = f"Bearer {secret}"
        ask = posting("/score", {"prompt": "Which?", "replies": ["this", "that"]})
        asking = asyncio.ensure_future(ask(client))
        await until(lambda: nvidia.in_progress == 2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: nvidia.in_progress == nvidia.open_connections == 0)
        await until_free(keys)
        (key,) = await keys.all()
    assert nvidia.cancelled == 2
    # What was cut off may have been billed: prompt, reply and template at 100 nano-dollars a token.
    assert key.spent == 2 * (len("Which?") + 16 + len("this") + 16) * 100


@pytest.mark.parametrize("ask", ROUTES.values(), ids=ROUTES.keys())
async def test_what_was_spent_until_the_client_left_is_booked_and_stored(
    ask: Ask, fakes: Fakes, board: Settings
) -> None:
    """Claude's reply at its price, and the calls cut off at the most they can have cost. What else
    was reserved is given back."""
    _, *silent = fakes
    for fake in silent:
        fake.delay_s = 30
    async with serve(create_app(board)) as client, keys_of(board) as keys:
        key, secret = await keys.create("k", ["answer"], budget=NANO)
        client.headers["authorization"] = f"Bearer {secret}"
        asking = asyncio.ensure_future(ask(client))
        await until(lambda: all(fake.in_progress for fake in silent))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until_free(keys)
        (spent,) = [key.spent for key in await keys.all()]
    abandoned = await only_answer(board)
    paid, *cut_off = (one.candidate for one in abandoned.candidates)
    assert isinstance(paid.outcome, Completion)
    assert paid.outcome.usage is not None
    usage = paid.outcome.usage
    reply = usage.input_tokens * 1_000 + usage.output_tokens * 10_000
    prompt = len("Which?") + 16
    call = prompt * 1_000 + board.max_tokens * 10_000
    score = (prompt + len(paid.outcome.text.encode()) + 16) * 100
    assert spent == reply + 2 * call + score < NANO
    assert paid.cost_usd == reply / NANO
    assert [one.cost_usd for one in cut_off] == [None, None]
    assert (abandoned.cost_usd, abandoned.cost_bound_usd) == (None, spent / NANO)
    assert abandoned.key_id == key.id


@pytest.mark.parametrize("ask", ROUTES.values(), ids=ROUTES.keys())
async def test_who_leaves_while_being_let_in_leaves_nothing_reserved(
    ask: Ask, fakes: Fakes, board: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has taken the lease, and the client leaves before it says so."""
    taken, gone = asyncio.Event(), asyncio.Event()
    admit = Keys.admit

    async def late(keys: Keys, *values: Any) -> Lease:
        lease = await admit(keys, *values)
        taken.set()
        await gone.wait()
        return lease

    for fake in fakes:
        fake.delay_s = 30
    async with serve(create_app(board)) as client, keys_of(board) as keys:
        _, secret = await keys.create("k", ["answer"], budget=NANO, concurrency=1)
        client.headers["authorization"] = f"Bearer {secret}"
        with monkeypatch.context() as patch:
            patch.setattr(Keys, "admit", late)
            asking = asyncio.ensure_future(ask(client))
            await asyncio.wait_for(taken.wait(), 30)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(0.2)  # the server hears of it
            gone.set()
            await until_free(keys)
        (key,) = await keys.all()
    assert key.spent == 0
    assert [fake.requests for fake in fakes] == [[]] * 4


@pytest.mark.parametrize("path", ["/answer", "/v1/chat/completions"])
async def test_who_leaves_while_claiming_an_idempotency_key_leaves_it_free(
    path: str, fakes: Fakes, board: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = CHAT if path.startswith("/v1") else {"prompt": "Which?"}
    taken, gone = asyncio.Event(), asyncio.Event()
    claim = Idempotency.claim

    async def late(idempotency: Idempotency, *values: Any) -> Claim:
        claimed = await claim(idempotency, *values)
        taken.set()
        await gone.wait()
        return claimed

    async with serve(create_app(board)) as client:
        client.headers["idempotency-key"] = "order-1"
        with monkeypatch.context() as patch:
            patch.setattr(Idempotency, "claim", late)
            asking = asyncio.ensure_future(client.post(path, json=body))
            await asyncio.wait_for(taken.wait(), 30)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(0.2)  # the server hears of it
            gone.set()
        assert fakes[0].requests == []
        async with asyncio.timeout(30):  # a claim that is left behind is held for 70 s
            while (await client.post(path, json=body)).status_code != 200:
                pass


async def test_an_answer_to_a_client_that_stays_cancels_nothing(
    fakes: Fakes, board: Settings
) -> None:
    async with serve(create_app(board)) as client:
        for ask in ROUTES.values():
            await ask(client)
    assert [fake.cancelled for fake in fakes] == [0, 0, 0, 0]


def ended(fake: FakeServer) -> bool:
    return fake.cancelled == 1 and fake.in_progress == fake.open_connections == 0


@asynccontextmanager
async def keys_of(board: Settings) -> AsyncIterator[Keys]:
    async with AnswerStore.open(board.database_url) as store:
        yield Keys(store.database)


async def until_free(keys: Keys) -> None:
    """Wait until nothing is reserved any more; a lease that is left behind lasts for 70 s."""
    held = select(schema.leases)
    async with asyncio.timeout(30):
        while await keys.database.read(lambda connection: connection.execute(held).first()):
            await asyncio.sleep(0.02)


async def only_answer(board: Settings) -> Answer:
    async with AnswerStore.open(board.database_url) as store:
        (answer,) = [answer async for answer in store.answers()]
    return answer

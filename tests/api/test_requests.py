"""`GET /answers/{id}/request`: the body that asks what was asked, in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from app.api import create_app
from app.domain import Message, Prompt, StrategyName
from app.settings import Settings
from app.store import AnswerStore
from tests import samples
from tests.serving import serve

EVERYTHING = {
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Which"}, {"type": "text", "text": "?"}],
        },
    ],
    "members": ["c", "a"],
    "max_tokens": 77,
    "temperature": 0.25,
    "deadline_s": 12.5,
    "weights": {"verbosity": -1},
    "plan": {
        "strategy": "cascade",
        "samples": 2,
        "threshold": 2.5,
        "order": ["c", "a"],
        "top_k": 2,
        "aggregator": "a",
        "floor": 0.5,
        "reserves": ["b"],
        "quorum": 1,
        "on_partial": "accept",
        "length_control": False,
        "hedge_s": 3,
    },
    "tags": {"user": "u1"},
}


@pytest.fixture
async def client(scripted: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(create_app(scripted)) as client:
        yield client


async def asked(client: httpx2.AsyncClient, body: dict[str, Any]) -> str:
    response = await client.post("/answer", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def request_of(client: httpx2.AsyncClient, answer_id: str) -> dict[str, Any]:
    response = await client.get(f"/answers/{answer_id}/request")
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.parametrize("body", [{"prompt": "Which?"}, EVERYTHING])
async def test_asked_again_it_is_the_same_request(
    scripted: Settings, client: httpx2.AsyncClient, body: dict[str, Any]
) -> None:
    first = await asked(client, body)
    request = await request_of(client, first)
    second = await asked(client, request)
    assert await request_of(client, second) == request
    async with AnswerStore.open(scripted.database_url) as store:
        before, after = await store.get(first), await store.get(second)
    assert (after.prompt, after.plan, after.tags) == (before.prompt, before.plan, before.tags)


async def test_it_names_everything_that_was_said(client: httpx2.AsyncClient) -> None:
    request = await request_of(client, await asked(client, EVERYTHING))
    assert request["plan"] == EVERYTHING["plan"]
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [one["content"] for one in request["messages"][1:]] == ["One?", "1", "Which?"]
    assert request["weights"]["verbosity"] == -1
    assert (request["members"], request["max_tokens"]) == (["a", "c"], 77)  # in board order
    assert (request["temperature"], request["deadline_s"]) == (0.25, 12.5)
    assert request["tags"] == {"user": "u1"}
    assert {"prompt", "system", "stream"}.isdisjoint(request)


async def test_a_blank_system_text_can_be_asked_again(client: httpx2.AsyncClient) -> None:
    request = await request_of(client, await asked(client, {"prompt": "Which?", "system": "  "}))
    assert request["messages"] == [{"role": "user", "content": "Which?"}]
    await asked(client, request)


@pytest.mark.parametrize("strategy", ["majority_vote", "fuse", "single"])
async def test_any_stored_answer_has_a_request(
    scripted: Settings, client: httpx2.AsyncClient, strategy: StrategyName
) -> None:
    """Also one that other members, a standing and another board had part in."""
    made = samples.answer()
    async with AnswerStore.open(scripted.database_url) as store:
        await store.save(
            replace(
                made,
                plan=replace(made.plan, strategy=strategy),
                prompt=Prompt((Message("user", "Why?"),), 64),
            )
        )
    request = await request_of(client, made.id)
    assert request["members"] == ["claude", "b", "c", "gemma"]
    assert request["plan"]["strategy"] == strategy
    known = {field.name for field in dataclasses.fields(made.plan)}
    assert request["plan"].keys() <= known


async def test_no_answer_has_no_request(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/answers/ans_none/request")).status_code == 404

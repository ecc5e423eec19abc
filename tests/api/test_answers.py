from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app.api import create_app
from app.settings import Settings
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.serving import only_mistral, serve, three_vendors

SCORES = {
    "helpfulness": 3.0,
    "correctness": 3.0,
    "coherence": 3.5,
    "complexity": 1.5,
    "verbosity": 1.0,
}


async def ask(client: httpx2.AsyncClient, **body: object) -> dict[str, Any]:
    response = await client.post("/answer", json={"prompt": "Which?"} | body)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_the_best_reply_comes_back_with_its_evidence(client: httpx2.AsyncClient) -> None:
    document = await ask(client, tags={"user": "u1"})
    assert (document["answer"], document["member"], document["reward"]) == ("second", "b", 3.0)
    assert [(c["member"], c["rank"]) for c in document["candidates"]] == [
        ("a", 3),
        ("b", 1),
        ("c", 2),
    ]
    assert document["decision"]["margin"] == 1.0
    assert document["decision"]["weights"]["correctness"] == 0.74
    assert (document["quality"], document["missing"]) == ("full", [])
    assert document["cost_usd"] == 0  # canned replies are known to be free
    assert document["tags"] == {"user": "u1"}
    assert document["created"].endswith("Z")


async def test_the_answer_can_be_fetched_again(client: httpx2.AsyncClient) -> None:
    document = await ask(client)
    assert (await client.get(f"/answers/{document['id']}")).json() == document


async def test_members_can_be_chosen_and_keep_board_order(client: httpx2.AsyncClient) -> None:
    document = await ask(client, members=["c", "a"])
    assert [c["member"] for c in document["candidates"]] == ["a", "c"]
    assert document["answer"] == "third"


async def test_messages_stand_in_for_a_prompt(client: httpx2.AsyncClient) -> None:
    parts = [{"type": "text", "text": "Which"}, {"type": "text", "text": "?"}]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": parts},
    ]
    assert (await ask(client, prompt=None, messages=turns))["answer"] == "second"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "body"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "nul \0"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]}, "messages"),
        ({"prompt": "a", "members": []}, "members"),
        ({"prompt": "a", "members": ["a", "a"]}, "members"),
        ({"prompt": "a", "members": ["nobody"]}, "members"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "temperature": 3}, "temperature"),
        ({"prompt": "a", "deadline_s": 0}, "deadline_s"),
        ({"prompt": "a", "weights": {"helpfulness": "much"}}, "weights.helpfulness"),
        ({"prompt": "a", "weights": {"wit": 1}}, "weights.wit"),
        ({"prompt": "a", "weights": {"helpfulness": 1e308}}, "weights.helpfulness"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "text": "a"}]}]},
            "messages.0.content.0.type",
        ),
        ({"prompt": "a", "plan": {"strategy": "guess"}}, "plan.strategy"),
        ({"prompt": "a", "plan": {"samples": 17}}, "plan.samples"),
        ({"prompt": "a", "plan": {"strategy": "cascade"}}, "plan.threshold"),
        ({"prompt": "a", "plan": {"order": ["z"]}}, "plan.order"),
        ({"prompt": "a", "plan": {"reserves": ["z"]}}, "plan.reserves"),
        ({"prompt": "a", "plan": {"aggregator": "z"}}, "plan.aggregator"),
        ({"prompt": "a", "plan": {"quorum": 4}}, "plan.quorum"),
        ({"prompt": "a", "plan": {"quorum": 4, "reserves": ["a"]}}, "plan.quorum"),
        ({"prompt": "a", "plan": {"quorum": 2, "strategy": "single"}}, "plan.quorum"),
        (
            {"prompt": "a", "plan": {"quorum": 2, "strategy": "cascade", "threshold": 1}},
            "plan.quorum",
        ),
        ({"prompt": "a", "plan": {"on_partial": "panic"}}, "plan.on_partial"),
        ({"prompt": "a", "plan": {"hedge_s": 0}}, "plan.hedge_s"),
        ({"prompt": "a", "colour": "blue"}, "colour"),
        ({"prompt": "a", "tags": {"k": "v" * 513}}, "tags.k"),
        ({"prompt": "a", "tags": {"k" * 65: "v"}}, f"tags.{'k' * 65}.[key]"),
        ({"prompt": "a", "tags": {"user:id": "7"}}, "tags.user:id.[key]"),
        ({"prompt": "a", "tags": {"user=id": "7"}}, "tags.user=id.[key]"),
    ],
)
async def test_a_request_that_is_wrong_names_its_field(
    client: httpx2.AsyncClient, body: dict[str, object], field: str
) -> None:
    response = await client.post("/answer", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert [error["field"] for error in problem["errors"]] == [field]
    assert problem["detail"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"prompt": "a\\ud800"}', b"[]", b'{"prompt":"a","temperature":NaN}'],
)
async def test_a_body_that_is_no_request_is_a_problem(
    client: httpx2.AsyncClient, content: bytes
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/answer", content=content, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_body_over_the_limit_is_refused(scripted: Settings) -> None:
    small = scripted.model_copy(update={"max_body_bytes": 2000})

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    async with serve(create_app(small)) as client:
        said = await client.post("/answer", json={"prompt": "x" * 3000})
        unsaid = await client.post("/answer", content=drip())
    for response in (said, unsaid):
        assert response.status_code == 413
        assert response.json()["detail"] == "the body is over 2,000 bytes"


async def test_what_is_not_there_is_a_problem(client: httpx2.AsyncClient) -> None:
    for response in (await client.get("/answers/ans_none"), await client.get("/nowhere")):
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
    wrong_method = await client.get("/answer")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    of_two_routes = await client.put("/answers/ans_none")
    assert (of_two_routes.status_code, of_two_routes.headers["allow"]) == (405, "DELETE, GET")


async def test_a_store_that_is_gone_is_a_503(scripted: Settings) -> None:
    def drop() -> None:
        file = scripted.database_url.removeprefix("sqlite:///")
        with sqlite3.connect(file) as database:
            database.execute("DROP TABLE candidates")
        database.close()

    async with serve(create_app(scripted)) as client:
        await asyncio.to_thread(drop)  # the service may be writing, and needs the loop to end it
        response = await client.post("/answer", json={"prompt": "a"})
    assert (response.status_code, response.json()["title"]) == (503, "The store does not answer")


async def test_nobody_seated_is_a_503_that_says_what_to_set(database_url: str) -> None:
    empty = settings(database_url=database_url, board=["claude"])
    async with serve(create_app(empty)) as client:
        response = await client.post("/answer", json={"prompt": "a"})
        ready = await client.get("/readyz")
    assert response.status_code == 503
    assert "starboard models" in response.json()["detail"]
    assert (ready.status_code, ready.json()["status"]) == (503, "unready")


async def test_every_member_failing_is_a_502_with_their_failures(database_url: str) -> None:
    async with MistralFake() as fake:
        fake.fail("unauthorized_401")
        async with serve(create_app(only_mistral(fake, database_url))) as client:
            response = await client.post("/answer", json={"prompt": "a"})
            problem = response.json()
            stored = (await client.get(f"/answers/{problem['answer_id']}")).json()
    assert response.status_code == 502
    assert problem["type"] == "urn:starboard:problem:no-candidate"
    assert problem["members"] == [
        {
            "member": "mistral",
            "failure": {"kind": "auth", "message": "mistral: 401", "retryable": False},
        }
    ]
    assert (stored["answer"], stored["candidates"][0]["failure"]["kind"]) == (None, "auth")


async def test_the_deadline_with_nothing_to_show_is_a_504(database_url: str) -> None:
    async with MistralFake() as fake:
        fake.fail("hang")
        async with serve(create_app(only_mistral(fake, database_url))) as client:
            response = await client.post("/answer", json={"prompt": "a", "deadline_s": 0.3})
    assert response.status_code == 504
    assert response.json()["members"][0]["failure"]["kind"] == "timeout"


async def test_three_vendors_and_their_scores_take_two_calls_not_six(database_url: str) -> None:
    """400 ms for each call upstream: members and scores overlap, so about 0.8 s in all."""
    slow = 0.4
    async with (
        AnthropicFake(delay_s=slow) as claude,
        GoogleFake(delay_s=slow) as gemma,
        MistralFake(delay_s=slow) as mistral,
        NvidiaFake(delay_s=slow) as nvidia,
    ):
        gemma.reply = "The better one."
        nvidia.scores = lambda text: SCORES | {"correctness": 4.0 if "better" in text else 2.0}
        app = create_app(three_vendors(claude, gemma, mistral, nvidia, database_url))
        async with serve(app) as client:
            runs = [await ask(client) for _ in range(4)]
    document = runs[-1]
    assert [c["member"] for c in document["candidates"]] == ["claude", "mistral", "gemma"]
    assert document["member"] == "gemma"
    assert document["scores"] == SCORES | {"correctness": 4.0}
    assert document["scorer"]["model"] == "nvidia/nemotron-4-340b-reward"
    # The best of four: the first opens connections, and the machine may be busy.
    assert 0.8 <= min(run["timings"]["total_s"] for run in runs) < 1.1


async def test_the_fakes_saw_the_prompt_that_was_sent(database_url: str) -> None:
    async with (
        MistralFake() as fake,
        serve(create_app(only_mistral(fake, database_url))) as client,
    ):
        await ask(client, system="Be brief.", temperature=0.5, max_tokens=9)
    assert json.loads(fake.requests[-1].body) == {
        "model": "mistral-large-latest",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Which?"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
    }

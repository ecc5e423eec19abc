"""Feedback, listing, export and erasing through the whole service, on real SQLite."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from app import retention
from app.api import create_app
from app.settings import Settings
from app.store import AnswerStore
from tests.samples import competition, failed, scored
from tests.serving import serve

RATINGS = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 0, "verbosity": 1}


async def ask(client: httpx2.AsyncClient, prompt: str = "Which?", **body: object) -> dict[str, Any]:
    response = await client.post("/answer", json={"prompt": prompt} | body)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def listed(client: httpx2.AsyncClient, **query: Any) -> list[str]:
    response = await client.get("/answers", params=query)
    assert response.status_code == 200, response.text
    return [one["prompt"] for one in response.json()["answers"]]


async def test_feedback_is_kept_with_its_answer(client: httpx2.AsyncClient) -> None:
    document = await ask(client)
    url = f"/answers/{document['id']}/feedback"
    assert (await client.get(url)).json() == {"feedback": []}
    better = document["candidates"][0]["id"]
    given = {"better": better, "ratings": RATINGS, "corrected": "So.", "comment": "Hm."}
    response = await client.post(url, json=given)
    assert response.status_code == 201
    first = response.json()
    assert first == {"id": first["id"], "created": first["created"], "thumb": None} | given
    assert first["created"].endswith("Z")
    second = (await client.post(url, json={"thumb": "down"})).json()
    assert (await client.get(url)).json() == {"feedback": [first, second]}
    assert (await client.get(f"/answers/{document['id']}")).json() == document


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"thumb": None}, "body"),
        ({"better": "cand_none"}, "better"),
        ({"thumb": "sideways"}, "thumb"),
        ({"ratings": RATINGS | {"verbosity": 5}}, "ratings.verbosity"),
        ({"ratings": RATINGS | {"verbosity": 0.5}}, "ratings.verbosity"),
        ({"ratings": {"helpfulness": 4}}, "ratings.correctness"),
        ({"corrected": " "}, "corrected"),
        ({"corrected": "a" * 100_001}, "corrected"),
        ({"comment": "a" * 4001}, "comment"),
        ({"comment": "nul \0"}, "comment"),
        ({"stars": 5}, "stars"),
    ],
)
async def test_feedback_that_is_wrong_names_its_field(
    client: httpx2.AsyncClient, body: dict[str, object], field: str
) -> None:
    url = f"/answers/{(await ask(client))['id']}/feedback"
    response = await client.post(url, json=body)
    assert response.status_code == 422
    assert field in [error["field"] for error in response.json()["errors"]]
    assert (await client.get(url)).json() == {"feedback": []}


async def test_feedback_must_fit_its_answer(scripted: Settings) -> None:
    """The chosen reply is not better than itself, a failure has no reply, and where nothing was
    chosen there is nothing to rate."""
    async with serve(create_app(scripted)) as client:
        document = await ask(client)
        chosen = next(c["id"] for c in document["candidates"] if c["rank"] == 1)
        lost = competition(1, scored("a", 1.0), failed("b"))  # it names no winner of its own
        async with AnswerStore.open(scripted.database_url) as store:
            await store.save(lost)
        for answer, body in (
            (document["id"], {"better": chosen}),
            ("comp_1", {"better": "comp_1_1"}),
            ("comp_1", {"thumb": "up"}),
            ("comp_1", {"ratings": RATINGS}),
            ("comp_1", {"corrected": "So."}),
        ):
            response = await client.post(f"/answers/{answer}/feedback", json=body)
            assert (response.status_code, [e["field"] for e in response.json()["errors"]]) == (
                422,
                list(body),
            )
        response = await client.post("/answers/comp_1/feedback", json={"better": "comp_1_0"})
        assert response.status_code == 201


async def test_an_answer_takes_so_much_feedback(client: httpx2.AsyncClient) -> None:
    url = f"/answers/{(await ask(client))['id']}/feedback"
    statuses = [(await client.post(url, json={"comment": "Hm."})).status_code for _ in range(65)]
    assert statuses == [201] * 64 + [409]
    assert len((await client.get(url)).json()["feedback"]) == 64


@pytest.mark.parametrize("answer_id", ["ans_none", "%00"])
async def test_feedback_on_no_answer_is_not_found(
    client: httpx2.AsyncClient, answer_id: str
) -> None:
    url = f"/answers/{answer_id}/feedback"
    assert (await client.post(url, json={"thumb": "up"})).status_code == 404
    assert (await client.get(url)).status_code == 404
    assert (await client.delete(f"/answers/{answer_id}")).status_code == 404


async def test_answers_are_listed_page_by_page(client: httpx2.AsyncClient) -> None:
    asked = [await ask(client, f"Question {n}?", tags={"user": "u:1"}) for n in range(3)]
    first = (await client.get("/answers", params={"limit": 2})).json()
    assert first["answers"][0] == {
        "id": asked[2]["id"],
        "created": asked[2]["created"],
        "prompt": "Question 2?",
        "answer": "second",
        "member": "b",
        "model": "scripted",
        "reward": 3.0,
        "scorer": "scripted",
        "strategy": "best_of_n",
        "quality": "full",
        "tags": {"user": "u:1"},
        "key": None,
        "feedback": 0,
    }
    rest = (await client.get("/answers", params={"limit": 2, "cursor": first["next"]})).json()
    assert [one["prompt"] for one in rest["answers"]] == ["Question 0?"]
    assert rest["next"] is None


async def test_a_long_text_is_cut_in_the_list(client: httpx2.AsyncClient) -> None:
    await ask(client, "x" * 1000)
    assert await listed(client) == ["x" * 300]


async def test_the_list_can_be_searched_and_filtered(client: httpx2.AsyncClient) -> None:
    before = datetime.now(UTC)
    await ask(client, "Is the sky blue?", tags={"user": "u:1"})
    sea = await ask(client, "Is the sea blue?", members=["a"], plan={"strategy": "single"})
    await client.post(f"/answers/{sea['id']}/feedback", json={"thumb": "up"})
    both = ["Is the sea blue?", "Is the sky blue?"]
    later = datetime.now(UTC) + timedelta(hours=1)
    for query, expected in (
        ({}, both),
        ({"q": "blue"}, both),
        ({"q": '"sea blue"'}, both[:1]),
        ({"q": "second"}, both[1:]),
        ({"member": "a"}, both[:1]),
        ({"strategy": "single"}, both[:1]),
        ({"quality": "full"}, both),
        ({"quality": "degraded"}, []),
        ({"tag": "user:u:1"}, both[1:]),
        ({"tag": "user:u"}, []),
        ({"feedback": True}, both[:1]),
        ({"feedback": False}, both[1:]),
        ({"since": before.isoformat(), "until": later.isoformat()}, both),
        ({"until": before.isoformat()}, []),
        ({"q": "blue", "member": "a", "feedback": True, "since": before.isoformat()}, both[:1]),
    ):
        assert await listed(client, **query) == expected, query


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"q": "?"}, "q"),
        ({"q": "a" * 1001}, "q"),
        ({"member": "nul \0"}, "member"),
        ({"quality": "poor"}, "quality"),
        ({"tag": "user"}, "tag.0"),
        ({"tag": "user=u1:a"}, "tag.0"),
        ({"tag": "user:\0"}, "tag.0"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-22T13:05:00"}, "since"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"colour": "blue"}, "colour"),
    ],
)
async def test_a_query_that_is_wrong_names_its_field(
    client: httpx2.AsyncClient, query: dict[str, Any], field: str
) -> None:
    response = await client.get("/answers", params=query)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_answers_are_erased_by_id_or_tag(client: httpx2.AsyncClient) -> None:
    asked = [await ask(client, f"Question {n}?", tags={"user": f"u{n % 2}"}) for n in range(4)]
    response = await client.delete(f"/answers/{asked[0]['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"/answers/{asked[0]['id']}")).status_code == 404
    assert (await client.delete("/answers", params={"tag": "user:u1"})).json() == {"erased": 2}
    assert await listed(client) == ["Question 2?"]
    none = await client.delete("/answers", params={"tag": ["user:u0", "user:u1"]})
    assert none.json() == {"erased": 0}
    for query in ({}, {"tag": "user"}, {"key": "\0"}, {"key": ""}, {"tag": "a:b", "keys": "key_1"}):
        assert (await client.delete("/answers", params=query)).status_code == 422
    assert await listed(client) == ["Question 2?"]


async def exported(client: httpx2.AsyncClient, shape: str) -> list[dict[str, Any]]:
    response = await client.get("/export", params={"format": shape})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_answers_are_exported_as_json_lines(client: httpx2.AsyncClient) -> None:
    document = await ask(client, "Which? 蓝\n")
    assert await exported(client, "preference") == []  # a scripted scorer cannot rank
    better = document["candidates"][2]["id"]
    await client.post(f"/answers/{document['id']}/feedback", json={"better": better})
    await client.post(f"/answers/{document['id']}/feedback", json={"ratings": RATINGS})
    (row,) = await exported(client, "preference")
    assert row["prompt"] == [{"role": "user", "content": "Which? 蓝\n"}]
    assert [row[of][0]["content"] for of in ("chosen", "rejected")] == ["third", "second"]
    assert [row["completion"] for row in await exported(client, "sft")] == [row["chosen"]]
    (labelled,) = await exported(client, "helpsteer")
    assert RATINGS.items() <= labelled.items()
    assert (await client.get("/export", params={"format": "xml"})).status_code == 422


async def test_only_members_that_may_train_are_exported(scripted: Settings) -> None:
    spec = scripted.members["b"].model_copy(update={"trainable": False})
    ours = scripted.model_copy(update={"members": {**scripted.members, "b": spec}})
    async with serve(create_app(ours)) as client:
        await ask(client)
        await ask(client, members=["a", "c"])
        (row,) = await exported(client, "sft")
        assert json.loads(row["provenance"])["member"] == "c"


async def test_old_answers_are_erased_at_the_start_and_daily(
    scripted: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "EVERY_S", 0.1)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    old = replace(competition(1, scored("a", 1.0)), created=yesterday)
    async with AnswerStore.open(scripted.database_url) as store:
        await store.save(old)
        async with serve(create_app(scripted)) as client:
            await ask(client, "kept")
        assert len([one async for one in store.answers()]) == 2
        ours = scripted.model_copy(update={"retention_days": 1e-3})
        with caplog.at_level(logging.INFO, "starboard"):
            async with serve(create_app(ours)) as client:
                await until(client, ["kept"])
                await store.save(old)
                await until(client, ["kept"])
    assert "1 answers erased" in caplog.text


async def until(client: httpx2.AsyncClient, expected: list[str]) -> None:
    async with asyncio.timeout(10):
        while await listed(client) != expected:
            await asyncio.sleep(0.02)

"""API keys on the routes: who may, how much, and one run for each Idempotency-Key."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import httpx2
import pytest
from fastapi import FastAPI

from app.api import create_app
from app.domain import NANO, Scope
from app.errors import ConfigurationError
from app.metering import Price
from app.settings import Settings
from app.store import AnswerStore
from app.store.idempotency import Claim, Idempotency
from app.store.keys import ApiKey, Keys, Lease
from app.wiring import open_services
from tests.conftest import settings
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.serving import serve, until

PROMPT = {"prompt": "Which?", "max_tokens": 100}
CHAT = {"model": "starboard", "messages": [{"role": "user", "content": "Which?"}]}
BODIES = {
    "/answer": PROMPT,
    "/score": {"prompt": "Which?", "replies": ["first"]},
    "/v1/chat/completions": CHAT,
    "/answers/{id}/feedback": {"thumb": "up"},
}
# Nano-dollars of one call to `paid`: the prompt at a token a byte, its template, and 100 tokens.
MOST = (len("Which?") + 16) * 1000 + 100 * 10_000


@pytest.fixture
async def keys(scripted: Settings) -> AsyncIterator[Keys]:
    async with AnswerStore.open(scripted.database_url) as store:
        yield Keys(store.database)


@pytest.fixture
async def host() -> AsyncIterator[OpenAICompatibleFake]:
    async with OpenAICompatibleFake(api_key=None) as fake:
        yield fake


def paid(host: OpenAICompatibleFake, url: str, **more: Any) -> Settings:
    """A board of one member who costs money, and its replies too few tokens to name."""
    member = {
        "provider": "openai_compatible",
        "base_url": f"{host.base_url}/v1",
        "model": "gpt-4.1-mini",
    }
    return settings(
        **{
            "database_url": url,
            "board": ("paid",),
            "members": {"paid": member},
            "prices": {"gpt-4.1-mini": {"input_per_million": 1.0, "output_per_million": 10.0}},
            "scorer": {"kind": "embedded"},
            **more,
        }
    )


async def made(keys: Keys, *scopes: Scope, **limits: Any) -> tuple[ApiKey, dict[str, str]]:
    key, secret = await keys.create("k", scopes or ("answer", "read"), **limits)
    return key, {"authorization": f"Bearer {secret}"}


async def spent(keys: Keys) -> int:
    return (await keys.all())[0].spent


async def test_no_key_is_asked_for_on_loopback_until_there_is_one(
    client: httpx2.AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.security.LOOK_AGAIN_S", 0.0)
    assert (await client.post("/answer", json=PROMPT)).status_code == 200
    any_key = {"authorization": "Bearer of-nobody"}  # clients that must send something
    assert (await client.get("/models", headers=any_key)).status_code == 200
    key, good = await made(keys)
    refused = await client.post("/answer", json=PROMPT)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:starboard:problem:unauthorized"
    assert (await client.post("/answer", json=PROMPT, headers=good)).status_code == 200
    x_api_key = {"x-api-key": good["authorization"].removeprefix("Bearer ")}
    assert (await client.post("/answer", json=PROMPT, headers=x_api_key)).status_code == 200
    await keys.revoke(key.id)
    assert (await client.post("/answer", json=PROMPT, headers=good)).status_code == 401
    assert (await client.get("/healthz")).status_code == 200


async def test_whoever_sends_no_key_may_be_let_in_for_a_second_after_the_first_is_made(
    client: httpx2.AsyncClient, keys: Keys
) -> None:
    assert (await client.get("/models")).status_code == 200
    _, good = await made(keys)
    assert (await client.post("/answer", json=PROMPT, headers=good)).status_code == 200
    assert (await client.get("/models")).status_code == 401  # it was looked up for the one before


async def test_the_first_key_is_looked_for_once_a_second(
    client: httpx2.AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("app.store.keys.monotonic", lambda: clock)
    assert (await client.get("/models")).status_code == 200
    await made(keys)
    assert (await client.get("/models")).status_code == 200
    clock += 1.0
    assert (await client.get("/models")).status_code == 401


ROUTES: Mapping[tuple[str, str], Scope] = {
    ("POST", "/answer"): "answer",
    ("GET", "/answers"): "read",
    ("DELETE", "/answers"): "admin",
    ("GET", "/answers/{id}"): "read",
    ("DELETE", "/answers/{id}"): "admin",
    ("POST", "/answers/{id}/feedback"): "answer",
    ("GET", "/answers/{id}/feedback"): "read",
    ("GET", "/answers/{id}/request"): "read",
    ("GET", "/export"): "admin",
    ("GET", "/models"): "read",
    ("GET", "/runs"): "admin",
    ("GET", "/runs/{name}"): "admin",
    ("POST", "/score"): "score",
    ("GET", "/statistics"): "read",
    ("POST", "/v1/chat/completions"): "answer",
    ("GET", "/v1/models"): "read",
    ("GET", "/v1/models/{model}"): "read",
}


async def test_every_route_asks_for_its_scope(
    client: httpx2.AsyncClient, keys: Keys, scripted: Settings
) -> None:
    """Every one of the OpenAPI document that asks for a key at all."""
    document = create_app(scripted).openapi()
    guarded = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "security" in operation
    }
    assert guarded == ROUTES.keys()
    callers = {scope: (await made(keys, scope))[1] for scope in get_args(Scope)}
    for (method, path), needed in ROUTES.items():
        url = path.format(id="ans_none", model="a", name="none")
        for scope, headers in callers.items():
            response = await client.request(method, url, headers=headers, json=BODIES.get(path))
            if scope in (needed, "admin"):
                assert response.status_code not in (401, 403), (path, scope, response.text)
            else:
                assert response.status_code == 403, (path, scope, response.text)
                assert f"scope {needed}" in response.text


def test_no_route_is_open_by_oversight(scripted: Settings) -> None:
    document = create_app(scripted).openapi()
    open_paths = {
        path
        for path, methods in document["paths"].items()
        if not all("security" in operation for operation in methods.values())
    }
    assert open_paths == {"/healthz", "/readyz", "/metrics"}


async def started(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        pass


async def test_a_service_that_others_reach_starts_with_a_key_or_plain_words(
    scripted: Settings, keys: Keys
) -> None:
    public = scripted.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
    with pytest.raises(ConfigurationError, match="STARBOARD_AUTH=off"):
        await started(create_app(public))
    off = create_app(public.model_copy(update={"auth": "off"}))
    await made(keys)
    await started(create_app(public))
    async with serve(off) as client:
        assert (await client.post("/answer", json=PROMPT)).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_loopback(host: str) -> None:
    assert settings(host=host).on_loopback
    assert not settings(host="10.0.0.1").on_loopback


async def test_the_rate_is_held_and_says_when(
    client: httpx2.AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At twenty seconds past, by a clock that stands."""
    moment, admit = datetime(2030, 1, 1, 12, 0, 20, tzinfo=UTC), Keys.admit

    async def admit_then(keys: Keys, *values: Any) -> Lease:
        return await admit(replace(keys, now=lambda: moment), *values)

    monkeypatch.setattr(Keys, "admit", admit_then)
    _, headers = await made(keys, per_minute=1)
    assert (await client.post("/answer", json=PROMPT, headers=headers)).status_code == 200
    for path in ("/answer", "/v1/chat/completions"):
        refused = await client.post(path, json=BODIES[path], headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")


async def test_scoring_has_the_limits_of_its_key(client: httpx2.AsyncClient, keys: Keys) -> None:
    _, headers = await made(keys, "score", per_minute=0)
    refused = await client.post("/score", json=BODIES["/score"], headers=headers)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_concurrency_is_held_and_given_back_when_a_client_leaves(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    host.delay_s = 30
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, concurrency=1)
        hanging = asyncio.ensure_future(client.post("/answer", json=PROMPT, headers=headers))
        await until(lambda: host.in_progress == 1)
        refused = await client.post("/answer", json=PROMPT, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        hanging.cancel()
        host.delay_s = 0

        async def answered() -> bool:
            response = await client.post("/answer", json=PROMPT, headers=headers)
            return response.status_code == 200

        await until_true(answered)
        # The call that was given up may have been billed in full.
        assert await spent(keys) > 100 * 10_000


async def test_what_a_run_cost_is_told_and_booked(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        document = (await client.post("/answer", json=PROMPT, headers=headers)).json()
        usage = document["candidates"][0]["usage"]
        cost = usage["input_tokens"] * 1000 + usage["output_tokens"] * 10_000
        assert document["cost_usd"] == document["candidates"][0]["cost_usd"] == cost / NANO > 0
        assert await spent(keys) == cost
        again = await client.get(f"/answers/{document['id']}", headers=headers)
        assert again.json() == document


@pytest.mark.parametrize(
    ("fault", "nano"),
    [
        ("reset_mid_body", MOST),
        ("reset_before_reply", MOST),
        ("truncated_json", MOST),
        ("html_502", MOST),
        ("server_error_500", MOST),
        ("gateway_timeout_504", MOST),
        ("unauthorized_401", 0),
        ("rate_limited_429", 0),
        ("unavailable_503", 0),
    ],
)
async def test_what_a_failure_may_have_cost_is_booked_and_told_as_unknown(
    host: OpenAICompatibleFake, database_url: str, fault: str, nano: int, at_once: None
) -> None:
    host.fail(fault)
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        failed = await client.post("/answer", json=PROMPT, headers=headers)
        assert failed.status_code == 502
        (listed,) = (await client.get("/answers", headers=headers)).json()["answers"]
        stored = await client.get(f"/answers/{listed['id']}", headers=headers)
        assert stored.json()["cost_usd"] == (None if nano else 0)
        assert await spent(keys) == nano


async def test_a_request_that_cannot_be_is_not_held_against_its_key(
    client: httpx2.AsyncClient, keys: Keys
) -> None:
    _, headers = await made(keys, per_minute=1)
    for wrong in ({"members": ["nobody"]}, {"plan": {"strategy": "cascade"}}):
        refused = await client.post("/answer", json={**PROMPT, **wrong}, headers=headers)
        assert refused.status_code == 422
    assert (await client.post("/answer", json=PROMPT, headers=headers)).status_code == 200


async def test_a_budget_that_does_not_cover_a_run_refuses_it_unasked(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=999_999)  # 100 tokens cost 1,000,000
        refused = await client.post("/answer", json=PROMPT, headers=headers)
        assert refused.status_code == 402
        assert "are left" in refused.json()["detail"]
        assert host.requests == []
        assert await spent(keys) == 0


async def test_a_fusion_is_within_the_quote_of_its_run(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    """A budget of exactly the quote; one nano-dollar less is refused unasked."""
    body = {**PROMPT, "max_tokens": 10, "plan": {"strategy": "fuse", "samples": 2, "top_k": 2}}
    host.reply = lambda request: "x" * 40  # ten tokens, by how the host counts them
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=1)
        told = (await client.post("/answer", json=body, headers=headers)).json()["detail"]
        quote = round(float(re.findall(r"[0-9.]+", told)[0]) * NANO)
        _, poor = await made(keys, budget=quote - 1)
        assert (await client.post("/answer", json=body, headers=poor)).status_code == 402
        assert host.requests == []
        _, enough = await made(keys, budget=quote)
        document = (await client.post("/answer", json=body, headers=enough)).json()
    replied = [(c["member"], c["failure"]) for c in document["candidates"]]
    assert replied == [("paid", None), ("paid", None), ("paid (fusion)", None)]


async def test_a_reply_that_costs_more_than_was_quoted_leaves_no_room_for_the_next(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    """As of a vendor that does not keep to `max_tokens`: what is reserved holds all the same."""
    host.reply = lambda request: "x" * 80
    body = {**PROMPT, "max_tokens": 10, "plan": {"strategy": "fuse", "samples": 2, "top_k": 2}}
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        document = (await client.post("/answer", json=body, headers=headers)).json()
        assert len(host.requests) == 2
        *_, fused = document["candidates"]
        assert fused["failure"]["kind"] == "refused_request"
        assert "does not cover it" in fused["failure"]["message"]
        assert document["answer"] == "x" * 80
        assert await spent(keys) == round(document["cost_usd"] * NANO)


async def test_a_price_that_is_not_known_is_null_and_no_budget_covers_it(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    async with serve_paid(host, database_url, prices={}) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        refused = await client.post("/answer", json=PROMPT, headers=headers)
        assert refused.status_code == 402
        assert "the price of paid is not known" in refused.json()["detail"]
        assert host.requests == []
        _, free = await made(keys)
        document = (await client.post("/answer", json=PROMPT, headers=free)).json()
        assert document["cost_usd"] is None
        assert document["candidates"][0]["cost_usd"] is None


async def test_a_judge_is_paid_too(host: OpenAICompatibleFake, database_url: str) -> None:
    grades = '{"helpfulness":3,"correctness":3,"coherence":3,"complexity":1,"verbosity":1}'
    host.reply = lambda request: grades
    judge = {"kind": "judge", "member": "paid"}
    async with serve_paid(host, database_url, scorer=judge) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        document = (await client.post("/answer", json=PROMPT, headers=headers)).json()
        assert len(host.requests) == 2
        own = document["candidates"][0]["cost_usd"]
        assert document["cost_usd"] > own > 0
        assert await spent(keys) == round(document["cost_usd"] * NANO)


async def test_a_reward_model_is_paid_by_its_tokens(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    prices = {
        "paid": {"input_per_million": 0, "output_per_million": 0},
        "nvidia": {"input_per_million": 1, "output_per_million": 10},
    }
    async with NvidiaFake() as nvidia:
        board = {
            "scorer": {"kind": "nvidia"},
            "NVIDIA_API_KEY": nvidia.api_key,
            "NVIDIA_BASE_URL": nvidia.base_url,
            "prices": prices,
        }
        async with serve_paid(host, database_url, **board) as (client, keys):
            _, headers = await made(keys, budget=NANO)
            document = (await client.post("/answer", json=PROMPT, headers=headers)).json()
            cost = await spent(keys)
        told = nvidia.respond(nvidia.requests[-1]).body
    assert isinstance(told, dict)
    usage = told["usage"]
    assert cost == usage["prompt_tokens"] * 1000 + usage["completion_tokens"] * 10_000 > 0
    assert document["cost_usd"] == cost / NANO


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("ends", [False, True], ids=["runs on", "ends"])
async def test_what_a_run_cost_is_booked_once_the_lock_of_another_process_is_gone(
    host: OpenAICompatibleFake,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    leaves: bool,
    ends: bool,
) -> None:
    """Also if its client left, and also if that is when the service ends."""
    for module in ("database", "answers"):
        monkeypatch.setattr(f"app.store.{module}.BUSY_MS", 50)
    monkeypatch.setattr("app.store.bookings.SOONEST_S", 3600 if ends else 0.1)
    other = sqlite3.connect(database_url.partition(":///")[2], isolation_level=None)
    async with serve_paid(host, database_url) as (client, keys):
        _, headers = await made(keys, budget=NANO)
        assert (await client.post("/answer", json=PROMPT, headers=headers)).status_code == 200
        cost = await spent(keys)
        both = cost + (MOST if leaves else cost)
        host.delay_s = 30 if leaves else 5
        named = {**headers, "idempotency-key": "order-1"}
        asking = asyncio.ensure_future(client.post("/answer", json=PROMPT, headers=named))
        await until(lambda: host.in_progress == 1)
        other.execute("BEGIN IMMEDIATE")
        if leaves:
            asking.cancel()
        else:
            assert (await asking).status_code == 503  # it cannot be stored
        await until(lambda: "an Idempotency-Key is not released" in caplog.text)
        assert caplog.text.count("will be booked later") == 1
        assert await spent(keys) == cost
        other.execute("ROLLBACK")
        other.close()
        async with asyncio.timeout(60):
            while not ends and await spent(keys) == cost:
                await asyncio.sleep(0.05)
    async with AnswerStore.open(database_url) as store:
        assert await spent(Keys(store.database)) == both
    assert "are not known to be booked" not in caplog.text


async def test_one_answer_for_an_idempotency_key(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    host.delay_s = 0.5
    async with serve_paid(host, database_url) as (client, keys):
        _, one = await made(keys)
        _, two = await made(keys)
        named = {**one, "idempotency-key": "order-1"}
        sent = (client.post("/answer", json=PROMPT, headers=named) for _ in range(16))
        ids = {response.json()["id"] for response in await asyncio.gather(*sent)}
        assert (len(ids), len(host.requests)) == (1, 1)
        other = await client.post("/answer", json={"prompt": "Who?"}, headers=named)
        assert other.status_code == 422
        assert other.json()["type"] == "urn:starboard:problem:idempotency"
        theirs = await client.post(
            "/answer", json=PROMPT, headers={**two, "idempotency-key": "order-1"}
        )
        assert theirs.json()["id"] not in ids


async def test_a_request_still_under_way_is_waited_for_until_the_deadline(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    host.delay_s = 30
    async with serve_paid(host, database_url) as (client, _):
        body, named = {**PROMPT, "deadline_s": 0.5}, {"idempotency-key": "k"}
        first = asyncio.ensure_future(client.post("/answer", json=body, headers=named))
        await until(lambda: host.in_progress == 1)
        waiting = await client.post("/answer", json=body, headers=named)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (409, "1")
        assert (await first).status_code == 504
        host.delay_s = 0  # what failed may be tried again under its key
        assert (await client.post("/answer", json=body, headers=named)).status_code == 200


async def test_who_waits_for_anothers_run_looks_ever_less_often(
    host: OpenAICompatibleFake, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = Idempotency.look

    async def counted(idempotency: Idempotency, claim: Claim) -> Claim | None:
        nonlocal looks
        looks += 1
        return await look(idempotency, claim)

    monkeypatch.setattr(Idempotency, "look", counted)
    host.delay_s = 30
    async with serve_paid(host, database_url) as (client, _):
        body, named = {**PROMPT, "deadline_s": 3}, {"idempotency-key": "k"}
        first = asyncio.ensure_future(client.post("/answer", json=body, headers=named))
        await until(lambda: host.in_progress == 1)
        assert (await client.post("/answer", json=body, headers=named)).status_code == 409
        await first
    assert 3 <= looks <= 7  # at 0, 0.05, 0.15, 0.35, 0.75, 1.55 and 2.55 s


async def test_answers_of_every_route_are_listed_and_erased_by_the_key_that_asked(
    client: httpx2.AsyncClient, keys: Keys
) -> None:
    """Also those of a key that was revoked; another key's stay."""
    await client.post("/answer", json=PROMPT)  # while none is asked for
    (one, ours), (two, theirs) = [await made(keys, "answer", "read") for _ in range(2)]
    _, admin = await made(keys, "admin")
    asked = (("/answer", PROMPT), ("/v1/chat/completions", CHAT))
    for path, body in asked:
        for more in ({}, {"stream": True}):
            response = await client.post(path, json={**body, **more}, headers=ours)
            assert response.status_code == 200
    nobody = {"prompt": "Which?", "plan": {"floor": 9}}
    assert (await client.post("/answer", json=nobody, headers=theirs)).json()["key"] == two.id

    async def listed(**query: str) -> list[str | None]:
        response = await client.get("/answers", params=query, headers=admin)
        return [answer["key"] for answer in response.json()["answers"]]

    assert await listed() == [two.id, *[one.id] * 4, None]
    assert await listed(key=one.id) == await listed(key=one.id, q="second") == [one.id] * 4
    exported = await client.get("/export", params={"format": "sft", "key": one.id}, headers=admin)
    assert len(exported.text.splitlines()) == 4
    await keys.revoke(one.id)
    its = {"key": one.id}
    assert (await client.delete("/answers", params=its, headers=theirs)).status_code == 403
    erased = await client.delete("/answers", params=its, headers=admin)
    assert erased.json() == {"erased": 4}
    assert await listed() == [two.id, None]


async def test_without_admin_a_key_lists_its_own_answers_and_reads_any_by_its_id(
    client: httpx2.AsyncClient, keys: Keys
) -> None:
    await client.post("/answer", json=PROMPT)  # while none is asked for
    (one, ours), (two, theirs) = [await made(keys, "answer", "read") for _ in range(2)]
    _, admin = await made(keys, "admin")
    mine = (await client.post("/answer", json=PROMPT, headers=ours)).json()
    other = (await client.post("/answer", json=PROMPT, headers=theirs)).json()
    for document in (mine, other):
        url = f"/answers/{document['id']}/feedback"
        said = await client.post(url, json={"thumb": "up"}, headers=theirs)
        assert said.status_code == 201
    for query in ({}, {"q": "second"}, {"feedback": True}, {"key": one.id}):
        response = await client.get("/answers", params=query, headers=ours)
        assert [answer["id"] for answer in response.json()["answers"]] == [mine["id"]], query
    everybodys = await client.get("/answers", params={"q": "second"}, headers=admin)
    assert [answer["key"] for answer in everybodys.json()["answers"]] == [two.id, one.id, None]
    refused = await client.get("/answers", params={"key": two.id}, headers=ours)
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:starboard:problem:forbidden")
    by_id = await client.get(f"/answers/{other['id']}", headers=ours)
    assert by_id.json() == other


async def test_what_is_erased_may_be_asked_again_under_its_idempotency_key(
    client: httpx2.AsyncClient, keys: Keys
) -> None:
    key, headers = await made(keys, "admin")
    named = {**headers, "idempotency-key": "order-1"}
    first = (await client.post("/answer", json=PROMPT, headers=named)).json()["id"]
    await client.delete("/answers", params={"key": key.id}, headers=headers)
    again = await client.post("/answer", json=PROMPT, headers=named)
    assert again.status_code == 200
    assert again.json()["id"] != first


async def test_a_board_that_asks_itself_stops(scripted: Settings) -> None:
    async with serve(create_app(scripted)) as client:
        for hop, status in {"2": 200, "3": 508, "x": 422, "-1": 422}.items():
            headers = {"x-starboard-hop": hop}
            response = await client.post("/answer", json=PROMPT, headers=headers)
            assert response.status_code == status


async def test_members_that_may_be_boards_are_told_the_hop(
    host: OpenAICompatibleFake, database_url: str
) -> None:
    async with serve_paid(host, database_url) as (client, _):
        for sent, told in {None: "1", "1": "2"}.items():
            headers = {"x-starboard-hop": sent} if sent else {}
            await client.post("/answer", json=PROMPT, headers=headers)
            assert host.requests[-1].headers["x-starboard-hop"] == told


async def test_a_run_may_ask_for_so_many_replies(scripted: Settings) -> None:
    capped = scripted.model_copy(update={"max_calls": 6})
    async with serve(create_app(capped)) as client:
        for samples, status in {2: 200, 3: 422}.items():
            body = {**PROMPT, "plan": {"samples": samples}}
            assert (await client.post("/answer", json=body)).status_code == status


async def test_the_tariff_is_by_member_then_by_model(scripted: Settings) -> None:
    prices = {
        "a": {"input_per_million": 1, "output_per_million": 2},
        "scripted": {"input_per_million": 3, "output_per_million": 4},
    }
    priced = settings(**{**scripted.model_dump(exclude_unset=True), "prices": prices})
    async with open_services(priced) as services:
        members = services.ensemble.tariff.members
        assert [members["a"], members["b"]] == [Price(1, 2), Price(3, 4)]


@asynccontextmanager
async def serve_paid(
    host: OpenAICompatibleFake, url: str, **more: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Keys]]:
    async with (
        serve(create_app(paid(host, url, **more))) as client,
        AnswerStore.open(url) as store,
    ):
        yield client, Keys(store.database)


async def until_true(true: Any) -> None:
    async with asyncio.timeout(10):
        while not await true():
            await asyncio.sleep(0.05)

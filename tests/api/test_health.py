from __future__ import annotations

import re

import httpx2
import pytest

from app.api import create_app
from app.errors import ConfigurationError, StoreError
from app.settings import Settings
from app.store import AnswerStore
from tests.conftest import settings
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.serving import serve


async def test_alive_and_ready(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    names = [check["name"] for check in ready.json()["checks"]]
    assert names == ["store", "scorer scripted", "member a", "member b", "member c"]


async def test_readiness_pings_what_it_depends_on(database_url: str) -> None:
    async with MistralFake() as mistral, NvidiaFake() as nvidia:
        nvidia.models = ("nvidia/another",)
        ours = settings(
            database_url=database_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            NVIDIA_API_KEY=nvidia.api_key,
            NVIDIA_BASE_URL=nvidia.base_url,
        )
        async with serve(create_app(ours)) as client:
            ready = (await client.get("/readyz")).json()
            asked = [len(fake.requests) for fake in (mistral, nvidia)]
            await client.get("/readyz")
            await client.get("/models")
            # Mistral is asked as a member and as the judge.
            assert [len(fake.requests) for fake in (mistral, nvidia)] == asked == [2, 1]
    assert ready["status"] == "degraded"
    faults = {check["name"]: check["message"] for check in ready["checks"]}
    assert faults["scorer nvidia"] == "nvidia: there is no model nvidia/nemotron-4-340b-reward"
    assert faults["scorer judge:mistral"] is faults["member mistral"] is None


async def test_members_that_all_fail_take_no_replica_out_of_service(database_url: str) -> None:
    """Every replica would be out at once, with it what is stored; and nobody would say why."""
    async with MistralFake() as mistral:
        mistral.fail("unauthorized_401")
        ours = settings(
            database_url=database_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            scorer="embedded",
        )
        async with serve(create_app(ours)) as client:
            ready = await client.get("/readyz")
            answer = await client.post("/answer", json={"prompt": "Which?"})
            seats = (await client.get("/models")).json()["members"]
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert [c["name"] for c in ready.json()["checks"] if not c["healthy"]] == ["member mistral"]
    assert (answer.status_code, "mistral" in answer.text) == (502, True)
    healthy = {seat["name"]: seat["healthy"] for seat in seats}
    assert (healthy["mistral"], healthy["claude"]) == (False, None)


async def test_without_its_store_a_replica_is_out_of_service(
    scripted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: AnswerStore) -> None:
        raise StoreError("the database does not answer")

    monkeypatch.setattr(AnswerStore, "ping", gone)
    async with serve(create_app(scripted)) as client:
        ready = await client.get("/readyz")
        alive = await client.get("/healthz")
    assert (ready.status_code, ready.json()["status"], alive.status_code) == (503, "unready", 200)
    assert ready.json()["checks"][0] == {
        "name": "store",
        "healthy": False,
        "message": "the database does not answer",
    }


async def test_models_say_who_does_not_sit_and_why(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/models")).json()
    seats = {seat["name"]: seat for seat in document["members"]}
    assert seats["a"]["seated"]
    assert seats["claude"]["why_not"] == "not named in board"
    assert seats["smollm2"]["terms"] == "Apache-2.0"
    assert (seats["smollm2"]["trainable"], seats["claude"]["trainable"]) == (True, False)
    assert document["scorer"]["name"] == "scripted"


async def test_the_documentation_loads_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/")
        assert (await client.get(asset)).status_code == 200


async def test_the_examples_of_the_documentation_run_as_they_stand(
    client: httpx2.AsyncClient,
) -> None:
    openapi = (await client.get("/openapi.json")).json()
    body = openapi["paths"]["/answer"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) >= 2
    for example in body["examples"].values():
        assert (await client.post("/answer", json=example["value"])).status_code == 200


async def test_start_up_fails_with_what_to_set(database_url: str) -> None:
    app = create_app(settings(database_url=database_url, scorer="nvidia"))
    with pytest.raises(ConfigurationError, match="NVIDIA_API_KEY"):
        async with app.router.lifespan_context(app):
            pass

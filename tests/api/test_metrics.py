from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api import create_app
from app.gates import CIRCUITS
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.serving import only_mistral, serve

Figures = dict[tuple[str, tuple[str, ...]], float]


async def scrape(client: httpx2.AsyncClient) -> Figures:
    """By name and label values, in the order of the labels' names."""
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.text)
    return {
        (sample.name.removeprefix("starboard_"), _values(sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }


def _values(labels: dict[str, str]) -> tuple[str, ...]:
    return tuple(value for _, value in sorted(labels.items()))


async def test_a_run_is_counted_by_member_stage_and_scorer(client: httpx2.AsyncClient) -> None:
    for members in (["a", "b", "c"], ["a", "c"]):
        body = {"prompt": "Which?", "members": members}
        assert (await client.post("/answer", json=body)).status_code == 200
    found = await scrape(client)
    assert found["runs_total", ("full",)] == 2
    assert found["runs_in_progress", ()] == 0
    assert found["member_replies_total", ("a", "completed")] == 2
    assert found["member_replies_total", ("b", "completed")] == 1
    assert found["member_seconds_count", ("a",)] == 2
    assert found["member_wins_total", ("b",)] == found["member_wins_total", ("c",)] == 1
    rewards = [found["reward_bucket", (upto, "scripted")] for upto in ("0.0", "1.0", "2.0", "3.0")]
    assert rewards == [0, 2, 4, 5]
    assert found["scorer_runs_total", ("scored", "scripted")] == 2
    for stage in ("fan_out", "scoring", "overhead"):
        assert found["stage_seconds_count", (stage,)] == 2
    assert 0 < found["run_seconds_sum", ()] < 10
    assert found["http_requests_total", ("POST", "/answer", "200")] == 2


async def test_unfinished_tasks_are_counted(client: httpx2.AsyncClient) -> None:
    """The test's own are in the same loop."""

    async def tasks() -> float:
        return (await scrape(client))["asyncio_tasks", ()]

    await tasks()  # the connection is there
    before = await tasks()
    waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in range(7)]
    assert await tasks() == before + 7
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await tasks() == before


async def test_routes_are_labels_and_ids_and_wrong_paths_are_not(
    client: httpx2.AsyncClient,
) -> None:
    for path in ("/answers/ans_1", "/answers/ans_2", "/nowhere/1", "/nowhere/2"):
        assert (await client.get(path)).status_code == 404
    await client.request("BREW", "/answer")
    found = await scrape(client)
    assert found["http_requests_total", ("GET", "/answers/{id}", "404")] == 2
    assert found["http_requests_total", ("GET", "none", "404")] == 2
    assert {labels[0] for name, labels in found if name == "http_requests_total"} <= {
        "GET",
        "other",
    }


async def test_failures_tokens_and_the_circuit_are_told(database_url: str) -> None:
    async with MistralFake() as mistral:
        ours = only_mistral(
            mistral,
            database_url,
            breaker={"failures": 2},
        )
        async with serve(create_app(ours)) as client:
            assert (await ask(client)).status_code == 200
            mistral.fail("unavailable_503")
            for _ in range(2):
                assert (await ask(client)).status_code == 502
            found = await scrape(client)
    assert found["member_replies_total", ("mistral", "overloaded")] == 1
    assert found["member_replies_total", ("mistral", "unavailable")] == 1
    assert found["member_tokens_total", ("output", "mistral")] > 0
    assert found["runs_total", ("failed",)] == 2
    assert [found["member_circuits", ("mistral", state)] for state in CIRCUITS] == [0, 1, 0]
    assert found["member_calls_in_progress", ("mistral",)] == 0


async def test_what_is_known_of_costs_is_summed_and_what_is_not_is_counted(
    database_url: str, at_once: None
) -> None:
    """A member with a price, one without, and a scorer without."""
    price = {"input_per_million": 1.0, "output_per_million": 10.0}
    async with MistralFake() as mistral, NvidiaFake() as nvidia, AnthropicFake() as claude:
        ours = settings(
            database_url=database_url,
            ANTHROPIC_API_KEY=claude.api_key,
            ANTHROPIC_BASE_URL=claude.base_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            NVIDIA_API_KEY=nvidia.api_key,
            NVIDIA_BASE_URL=nvidia.base_url,
            prices={"mistral": price},
            scorer="nvidia",
        )
        async with serve(create_app(ours)) as client:
            costs = {c["member"]: c["cost_usd"] for c in (await ask(client)).json()["candidates"]}
            mistral.fail("unavailable_503")  # nothing is billed, and there is no doubt of it
            await ask(client)
            replies = {"prompt": "Which?", "replies": ["this", "that"]}
            assert (await client.post("/score", json=replies)).status_code == 200
            found = await scrape(client)
    assert found["member_cost_usd_total", ("mistral",)] == pytest.approx(costs["mistral"])
    assert found["member_cost_unknown_total", ("mistral",)] == 0
    assert costs["claude"] is None
    assert ("member_cost_usd_total", ("claude",)) not in found
    assert found["member_cost_unknown_total", ("claude",)] == 2
    assert ("scorer_cost_usd_total", ("nvidia",)) not in found
    assert found["scorer_cost_unknown_total", ("nvidia",)] == 2 + 1 + 2


async def test_what_a_judge_costs_is_a_scorers_cost(database_url: str) -> None:
    grades = '{"helpfulness":3,"correctness":3,"coherence":3,"complexity":1,"verbosity":1}'
    async with MistralFake() as mistral:
        mistral.reply = lambda request: grades
        ours = only_mistral(
            mistral,
            database_url,
            prices={"mistral": {"input_per_million": 1.0, "output_per_million": 10.0}},
            scorer={"kind": "judge", "member": "mistral"},
        )
        async with serve(create_app(ours)) as client:
            document = (await ask(client)).json()
            found = await scrape(client)
    own, scorer = document["candidates"][0]["cost_usd"], document["scorer"]["name"]
    assert found["member_cost_usd_total", ("mistral",)] == pytest.approx(own)
    assert found["scorer_cost_usd_total", (scorer,)] == pytest.approx(document["cost_usd"] - own)
    assert found["scorer_cost_unknown_total", (scorer,)] == 0


async def test_what_a_client_left_is_counted_as_cancelled(database_url: str) -> None:
    async with MistralFake(delay_s=30) as mistral:
        ours = only_mistral(
            mistral,
            database_url,
        )
        async with serve(create_app(ours)) as client:
            with pytest.raises(httpx2.TimeoutException):
                await client.post("/answer", json={"prompt": "Which?"}, timeout=0.5)
            found: Figures = {}
            # The run is counted a moment before its request; the one left is the scrape itself.
            async with asyncio.timeout(30):
                while ("runs_total", ("cancelled",)) not in found or found[
                    "http_requests_in_progress", ()
                ] > 1:
                    found = await scrape(client)
    assert found["runs_in_progress", ()] == 0
    assert found["http_requests_in_progress", ()] == 1
    assert found["member_cost_unknown_total", ("mistral",)] == 1


async def ask(client: httpx2.AsyncClient) -> Any:
    return await client.post("/answer", json={"prompt": "Which?"})

"""Every fault of every upstream, through the whole service with the vendors' own packages.

Five members and the reward model are real adapters talking HTTP to the fakes; one upstream at a
time misbehaves. The matrix is printed at the end of the test run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import stamina

from app.api import create_app
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.faults import Fault
from tests.fakes.google import UNSEEN_BY_GOOGLE_GENERATIVEAI, GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.server import FakeServer
from tests.fakes.wire import UPSTREAM_CANARY
from tests.matrix import report
from tests.serving import serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT_S, DEADLINE_S = 1.2, 1.8
# What the event loop may take on top, on a busy machine.
SLACK_S = 1.2

FAKES: Mapping[str, type[FakeServer]] = {
    "claude": AnthropicFake,
    "mistral": MistralFake,
    "gemma": GoogleFake,
    "gemma-legacy": GoogleFake,
    "vllm": OpenAICompatibleFake,
}
# What the package google-generativeai gives its adapter no way to meet: it has no notion of
# thoughts, and reads a body of any size (only the deadline bounds that).
BEYOND: Mapping[str, tuple[str, ...]] = {
    "gemma-legacy": (*UNSEEN_BY_GOOGLE_GENERATIVEAI, "huge_body", "gzip_bomb")
}
CASES = [
    pytest.param(member, fault, id=f"{member}-{fault}")
    for member, fake in FAKES.items()
    for fault in fake.FAULTS
    if fault.name not in BEYOND.get(member, ())
]


@dataclass(frozen=True)
class Service:
    client: httpx2.AsyncClient
    members: Mapping[str, FakeServer]
    nvidia: NvidiaFake

    async def answer(self) -> tuple[httpx2.Response, float]:
        started = time.monotonic()
        response = await self.client.post(
            "/answer",
            json={
                "prompt": "What is the capital of France?",
                "system": "Be brief.",
                "temperature": 0.5,
            },
        )
        return response, time.monotonic() - started

    def healthy(self) -> None:
        for fake in (*self.members.values(), self.nvidia):
            fake.reset()
        for name, fake in self.members.items():
            fake.reply = f"Paris, says {name}."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        members = {
            name: await stack.enter_async_context(fake(api_key=f"sk-of-{name}-0123456789"))
            for name, fake in FAKES.items()
        }
        # One process has one Google key.
        members["gemma-legacy"].api_key = members["gemma"].api_key
        nvidia = await stack.enter_async_context(NvidiaFake())
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("VLLM_KEY", members["vllm"].api_key or "")
        stack.enter_context(stamina.set_testing(True, attempts=2, cap=True))
        app = create_app(
            settings(
                database_url=f"sqlite:///{tmp_path_factory.mktemp('db')}/a.db",
                timeout_s=TIMEOUT_S,
                deadline_s=DEADLINE_S,
                ANTHROPIC_API_KEY=members["claude"].api_key,
                GEMINI_API_KEY=members["gemma"].api_key,
                MISTRAL_API_KEY=members["mistral"].api_key,
                NVIDIA_API_KEY=nvidia.api_key,
                NVIDIA_BASE_URL=nvidia.base_url,
                board=list(FAKES),
                members=_rows(members),
                scorer={"kind": "nvidia", "requests_per_minute": 100_000},
                breaker={"failures": 0},  # every fault is to be met, however many came before
            )
        )
        client = await stack.enter_async_context(serve(app))
        yield Service(client, members, nvidia)


def _rows(members: Mapping[str, FakeServer]) -> Mapping[str, Mapping[str, object]]:
    url = {name: fake.base_url for name, fake in members.items()}
    return {
        "claude": {"model": "claude-sonnet-4-6", "base_url": url["claude"]},
        "mistral": {"base_url": url["mistral"]},
        "gemma": {"base_url": url["gemma"]},
        "gemma-legacy": {"provider": "google_generativeai", "base_url": url["gemma-legacy"]},
        "vllm": {
            "provider": "openai_compatible",
            "model": members["vllm"].models[0],
            "base_url": f"{url['vllm']}/v1",
            "api_key_env": "VLLM_KEY",
        },
    }


def _candidate(document: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(c for c in document["candidates"] if c["member"] == member)
    return found


def _leaks(service: Service, text: str) -> list[str]:
    keys = [fake.api_key for fake in (*service.members.values(), service.nvidia)]
    return [secret for secret in (UPSTREAM_CANARY, *keys) if secret and secret in text]


async def test_with_no_fault_all_answer_and_are_scored(service: Service) -> None:
    service.healthy()
    document = (await service.answer())[0].json()
    assert (document["quality"], document["missing"]) == ("full", [])
    assert [c["text"] for c in document["candidates"]] == [f"Paris, says {name}." for name in FAKES]
    assert all(c["scores"]["coherence"] for c in document["candidates"])
    # What sent the requests: the vendors' own packages.
    sent = {name: fake.requests[-1].headers for name, fake in service.members.items()}
    assert "anthropic" in sent["claude"]["user-agent"].lower()
    assert "google-genai-sdk" in sent["gemma"]["x-goog-api-client"]
    assert "genai-py" in sent["gemma-legacy"]["x-goog-api-client"]


@pytest.mark.parametrize(("member", "fault"), CASES)
async def test_a_faulty_member(
    service: Service, member: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "starboard")
    service.healthy()
    service.members[member].fail(fault.name)
    response, took = await service.answer()
    assert response.status_code == 200, response.text
    document = response.json()
    candidate = _candidate(document, member)
    failure = candidate["failure"]
    report("member", member, fault.name, failure["kind"] if failure else candidate["finish_reason"])

    assert took < DEADLINE_S + SLACK_S
    assert _leaks(service, response.text + caplog.text) == []
    others = {f"Paris, says {name}." for name in FAKES if name != member}
    if fault.kind is None:
        assert failure is None
        assert fault.finish in (None, candidate["finish_reason"])
    else:
        assert (failure["kind"], failure["retryable"]) == (fault.kind, fault.retryable)
        assert document["quality"] == "degraded"
        assert document["missing"] == [member]
        assert ("retry after" in failure["message"]) == (fault.retry_after_s is not None)
    if fault.kind is not None or fault.finish in ("refusal", "content_filter"):
        assert document["answer"] in others


@pytest.mark.parametrize("fault", NvidiaFake.FAULTS, ids=str)
async def test_a_faulty_scorer(service: Service, fault: Fault) -> None:
    service.healthy()
    service.nvidia.fail(fault.name)
    response, took = await service.answer()
    assert response.status_code == 200, response.text
    document = response.json()
    failures = [c["score_failure"] for c in document["candidates"]]
    report("scorer", "nvidia", fault.name, failures[0]["kind"] if failures[0] else "scored")

    assert took < DEADLINE_S + SLACK_S
    assert _leaks(service, response.text) == []
    assert document["answer"] == "Paris, says claude."  # first in board order, or tied
    if fault.kind is None:
        assert failures == [None] * len(FAKES)
        assert all(c["reward"] is not None for c in document["candidates"])
    else:
        assert {f["kind"] for f in failures} == {fault.kind}
        assert {f["retryable"] for f in failures} == {fault.retryable}
        assert document["missing"] == ["nvidia"]
        assert document["decision"]["reason"].startswith("no reply could be scored")
        assert [c["reward"] for c in document["candidates"]] == [None] * len(FAKES)


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        ("claude", "overloaded_529"),
        ("gemma", "quota_429_retry_1s"),
        ("gemma", "quota_429_retry_55s"),
        ("mistral", "rate_limited_429_date"),
        ("vllm", "rate_limited_429_seconds"),
    ],
)
async def test_with_real_waits_nothing_goes_past_the_deadline(
    service: Service, member: str, fault: str
) -> None:
    service.healthy()
    service.members[member].fail(fault)
    with stamina.set_testing(False):
        response, took = await service.answer()
    document = response.json()
    assert took < DEADLINE_S + SLACK_S / 2
    # The failure is the upstream's own, not a timeout of ours.
    assert _candidate(document, member)["failure"]["kind"] in ("overloaded", "rate_limited")


async def test_a_connection_that_is_refused(service: Service) -> None:
    service.healthy()
    gone = service.members["mistral"]
    base_url = gone.base_url
    assert base_url
    await gone.__aexit__(None, None, None)
    document = (await service.answer())[0].json()
    assert _candidate(document, "mistral")["failure"]["kind"] == "unavailable"
    report("member", "mistral", "connection_refused", "unavailable")

"""A host as a sampler, against the fake of OpenAI's API over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from app.domain import Completion, Failure, FailureKind, Message, Prompt
from app.errors import ConfigurationError, UpstreamError
from app.providers.http import Http
from app.providers.openai_compatible import OpenAICompatibleProvider
from app.retries import Retries
from app.star.hosts import HostSampler, refuse_outage
from app.star.sampling import Outcome, Shards
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.wire import Recorded

SOON = Retries(attempts=3, backoff_s=(0.001, 0.002), longest_wait_s=2.0)


@pytest.fixture
async def host() -> AsyncIterator[OpenAICompatibleFake]:
    async with OpenAICompatibleFake() as fake:
        fake.reply = asked
        yield fake


def asked(request: Recorded) -> str:
    return f"to {request.sent['messages'][-1]['content']}"


def sampler(host: OpenAICompatibleFake, http: Http, **options: object) -> HostSampler:
    provider = OpenAICompatibleProvider(
        "qwen", host.models[0], f"{host.base_url}/v1", host.api_key, http
    )
    return HostSampler(provider, **{"retries": SOON, **options})  # type: ignore[arg-type]


def shards(*sizes: int) -> Shards:
    return {
        number: [
            Prompt((Message("user", f"{number}.{place}"),), max_tokens=9) for place in range(size)
        ]
        for number, size in enumerate(sizes)
    }


async def collected(sampler: HostSampler, asked_for: Shards) -> dict[int, list[Outcome]]:
    found: dict[int, list[Outcome]] = {}
    async for number, outcomes in sampler.sample(asked_for):
        assert number not in found
        found[number] = outcomes
    return found


def texts(outcomes: list[Outcome]) -> list[str]:
    return [one.text if isinstance(one, Completion) else one.kind for one in outcomes]


async def test_every_shard_comes_back_whole_and_in_order(
    host: OpenAICompatibleFake, http: Http
) -> None:
    found = await collected(sampler(host, http), shards(3, 0, 40, 1))
    assert sorted(found) == [0, 1, 2, 3]
    for number, outcomes in found.items():
        size = (3, 0, 40, 1)[number]
        assert texts(outcomes) == [f"to {number}.{place}" for place in range(size)]
    assert {request.sent["max_tokens"] for request in host.requests} == {9}


@dataclass
class Uneven:
    """Replies to "0.…" last, and counts how many it is asked at a time."""

    name: str = "uneven"
    model: str = "uneven"
    at_once: int = 0
    most: int = 0
    log: list[str] = field(default_factory=list)

    async def complete(self, prompt: Prompt) -> Completion:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        said = prompt.messages[-1].content
        try:
            await asyncio.sleep(0.2 if said == "0.0" else 0.005)
        finally:
            self.at_once -= 1
        return Completion(said, "stop", self.model)

    async def ping(self) -> None: ...


async def test_a_slow_prompt_holds_up_its_own_shard_alone() -> None:
    order = [number async for number, _ in HostSampler(Uneven()).sample(shards(2, 2, 2))]
    assert order[-1] == 0
    assert sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("most", [1, 4])
async def test_so_many_are_under_way_at_a_time_over_all_shards(most: int) -> None:
    provider = Uneven()
    found = await collected(HostSampler(provider, concurrency=most), shards(*[2] * 6))
    assert provider.most == most
    assert [len(found[number]) for number in range(6)] == [2] * 6


@pytest.mark.parametrize(
    "fault", ["rate_limited_429", "reset_mid_body", "reset_before_reply", "html_502"]
)
async def test_what_passes_is_tried_again(
    host: OpenAICompatibleFake, http: Http, fault: str
) -> None:
    for _ in range(2):
        host.fail_once(fault)
    found = await collected(sampler(host, http, concurrency=1), shards(2))
    assert texts(found[0]) == ["to 0.0", "to 0.1"]
    assert len(host.requests) == 4


async def test_the_wait_that_a_host_asks_for_is_waited(
    host: OpenAICompatibleFake, http: Http
) -> None:
    host.fail_once("rate_limited_429_seconds")
    began = time.monotonic()
    found = await collected(sampler(host, http), shards(1))
    assert texts(found[0]) == ["to 0.0"]
    assert time.monotonic() - began >= 1


async def test_a_failure_stands_in_its_place(
    host: OpenAICompatibleFake, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    host.fail_once("context_length_400")
    with caplog.at_level(logging.WARNING, "starboard"):
        found = await collected(sampler(host, http, concurrency=1), shards(3))
    assert texts(found[0]) == ["refused_request", "to 0.1", "to 0.2"]
    assert len(host.requests) == 3  # it was not tried again
    assert "qwen failed: refused_request" in caplog.text


async def test_a_host_that_gives_up_on_one_prompt_costs_that_prompt(
    host: OpenAICompatibleFake, http: Http
) -> None:
    for _ in range(SOON.attempts):
        host.fail_once("unavailable_503")
    found = await collected(sampler(host, http, concurrency=1), shards(2))
    assert found[0][0] == Failure("overloaded", "qwen: 503", retryable=True)
    assert texts(found[0])[1] == "to 0.1"
    assert len(host.requests) == SOON.attempts + 1


async def test_an_attempt_has_a_limit(host: OpenAICompatibleFake, http: Http) -> None:
    host.fail_once("hang")
    found = await collected(sampler(host, http, concurrency=1, timeout_s=0.3), shards(1))
    assert texts(found[0]) == ["to 0.0"]
    assert len(host.requests) == 2


@pytest.mark.parametrize("fault", ["unauthorized_401", "unavailable_503"])
async def test_a_host_that_answers_nothing_stops_the_run(
    host: OpenAICompatibleFake, http: Http, fault: str
) -> None:
    host.fail(fault)
    with pytest.raises(ConfigurationError, match="qwen answered 0 of 4 prompts") as refused:
        await collected(sampler(host, http), shards(4, 4, 4))
    assert "the same command again" in str(refused.value)
    assert str(host.api_key) not in str(refused.value)
    await nothing_runs(host)


async def test_a_shard_of_refused_prompts_does_not(host: OpenAICompatibleFake, http: Http) -> None:
    host.fail("context_length_400")
    found = await collected(sampler(host, http), shards(2))
    assert texts(found[0]) == ["refused_request"] * 2


@dataclass
class Broken(Uneven):
    async def complete(self, prompt: Prompt) -> Completion:
        if prompt.messages[-1].content == "0.1":
            raise KeyError("a secret")
        return await super().complete(prompt)


async def test_what_a_vendors_package_raises_is_a_failure_too() -> None:
    found = await collected(HostSampler(Broken()), shards(3))
    assert found[0][1] == Failure("internal", "uneven: KeyError")
    assert texts(found[0]) == ["0.0", "internal", "0.2"]


async def test_cancelling_leaves_nothing_running(host: OpenAICompatibleFake, http: Http) -> None:
    host.delay_s = 30.0
    before = asyncio.all_tasks()
    run = asyncio.create_task(collected(sampler(host, http, concurrency=5), shards(8, 8)))
    while host.in_progress < 5:
        await asyncio.sleep(0.01)
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    assert run.cancelled()
    await nothing_runs(host)
    assert host.cancelled == 5
    assert len(host.requests) == 5
    assert {t for t in asyncio.all_tasks() - before if "work" in repr(t.get_coro())} == set()


async def test_leaving_early_cancels_the_rest(host: OpenAICompatibleFake, http: Http) -> None:
    def answer(request: Recorded) -> str:
        host.delay_s = 30.0
        return asked(request)

    host.reply = answer
    sampling = sampler(host, http, concurrency=1).sample(shards(1, 5))
    async with contextlib.aclosing(sampling) as found:
        async for number, _ in found:
            assert number == 0
            break
    await nothing_runs(host)
    assert len(host.requests) <= 2


async def nothing_runs(host: OpenAICompatibleFake) -> None:
    async with asyncio.timeout(5):
        while host.in_progress:
            await asyncio.sleep(0.01)


async def test_backoff_doubles_and_a_longer_wait_is_not_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def fails() -> str:
        raise UpstreamError("overloaded", "503")

    async def asks_too_much() -> str:
        raise UpstreamError("rate_limited", "429", retry_after_s=60)

    monkeypatch.setattr("asyncio.sleep", sleep)
    patient = Retries(attempts=5, backoff_s=(1.0, 1.5), longest_wait_s=60.0)
    assert await patient.outcome("host", fails) == Failure("overloaded", "503", retryable=True)
    assert len(waits) == 4
    for doubled, wait in zip((1, 2, 4, 8), waits, strict=True):
        assert doubled <= wait <= 1.5 * doubled
    waits.clear()
    await patient.outcome("host", asks_too_much)
    assert waits == []


@pytest.mark.parametrize(
    "kinds", [["bad_reply"], ["unavailable", None], ["unavailable", "unavailable"]]
)
async def test_what_an_attempt_held_is_freed_without_the_collector(
    kinds: list[FailureKind | None],
) -> None:
    class Held:
        pass

    held: list[weakref.ref[Held]] = []
    told = iter(kinds)

    async def attempt() -> str:
        here = Held()
        held.append(weakref.ref(here))
        if kind := next(told):
            raise UpstreamError(kind, "no")
        return "yes"

    gc.disable()
    try:
        await Retries(2, SOON.backoff_s, SOON.longest_wait_s).outcome("host", attempt)
    finally:
        gc.enable()
    assert [one() for one in held] == [None] * len(kinds)


async def test_an_outage_is_no_wrong_answer(host: OpenAICompatibleFake, http: Http) -> None:
    """A shard with a single reply that an outage lost is not measured by."""
    host.fail_once("unavailable_503")
    once = sampler(host, http, concurrency=1, retries=Retries(1, (0.001, 0.002), 0.01))
    found = (await collected(once, shards(3)))[0]
    assert [isinstance(one, Failure) for one in found] == [True, False, False]
    with pytest.raises(ConfigurationError, match="qwen answered 2 of 3 prompts"):
        refuse_outage("qwen", found)
    refuse_outage("qwen", found[1:])
    refuse_outage("qwen", [Failure("content_filter", "said nothing")])

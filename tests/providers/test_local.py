"""The member `local`, with tiny language models; at the end, through the whole service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from app.api import create_app
from app.domain import Message, Prompt
from app.errors import ConfigurationError, UpstreamError
from app.generation import Encoded, LanguageModel, Outcome
from app.providers import Provider
from app.providers.local import LocalProvider, open_local
from app.settings import Settings
from app.star.member import member_row
from app.wiring import open_services
from tests.causal import CONTEXT, save_base, teach
from tests.conftest import settings
from tests.serving import serve

REPLY = "Paris."


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("local") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return teach(base, base.parent / "run" / "adapter", REPLY)


@asynccontextmanager
async def opened(
    base: Path, adapter: Path | None = None, **options: Any
) -> AsyncIterator[LocalProvider]:
    async with open_local(
        "mine", str(base), adapter, **{"model": "tiny", "device": "cpu", **options}
    ) as provider:
        yield provider


def asked(text: str = "Which?", max_tokens: int = 20, temperature: float | None = None) -> Prompt:
    return Prompt((Message("user", text),), max_tokens, temperature)


def watched(provider: LocalProvider) -> list[list[int]]:
    """The longest reply allowed to each prompt, batch by batch."""
    batches: list[list[int]] = []
    run = provider.batcher.run

    def note(batch: Sequence[Encoded]) -> Sequence[Outcome]:
        batches.append([one.max_tokens for one in batch])
        return run(batch)

    provider.batcher.run = note
    return batches


async def until_decoding(batches: list[list[int]]) -> None:
    while not batches:
        await asyncio.sleep(0.001)


async def test_it_replies_with_what_the_adapter_learned(base: Path, adapter: Path) -> None:
    async with opened(base, adapter) as local:
        provider: Provider = local
        await provider.ping()
        done = await provider.complete(asked())
    assert (done.text, done.finish_reason, done.model) == (REPLY, "stop", "tiny")
    assert done.usage is not None
    assert done.usage.output_tokens == len(REPLY) + 1


async def test_prompts_that_arrive_together_are_decoded_together(base: Path, adapter: Path) -> None:
    async with opened(base, adapter) as provider:
        batches = watched(provider)
        first = asyncio.create_task(provider.complete(asked(max_tokens=60)))
        await until_decoding(batches)
        questions = ("Which?", "Why is the sky blue?", "Name a city.")
        replies = await asyncio.gather(*(provider.complete(asked(q)) for q in questions))
        await first
    assert [reply.text for reply in replies] == [REPLY] * 3
    assert batches[0] == [60]
    assert [limit for batch in batches[1:] for limit in batch] == [20] * 3


async def test_the_event_loop_goes_on(base: Path) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    async with opened(base) as provider:
        beating = asyncio.create_task(beat())
        started = time.monotonic()
        await provider.complete(asked(max_tokens=200))
        took = time.monotonic() - started
        beating.cancel()
    assert beats > took / 0.005 / 20  # a blocked loop would have none


async def test_the_queue_is_bounded(base: Path) -> None:
    async with opened(base, queue_limit=2) as provider:
        batches = watched(provider)
        first = asyncio.create_task(provider.complete(asked(max_tokens=200)))
        await until_decoding(batches)
        rest = [asyncio.create_task(provider.complete(asked())) for _ in range(3)]
        done = await asyncio.gather(first, *rest, return_exceptions=True)
    refused = [one for one in done if isinstance(one, UpstreamError)]
    assert [(one.kind, one.retryable) for one in refused] == [("overloaded", True)]


async def test_a_cancelled_prompt_that_has_not_begun_is_not_run(base: Path) -> None:
    async with opened(base) as provider:
        batches = watched(provider)
        first = asyncio.create_task(provider.complete(asked(max_tokens=100)))
        await until_decoding(batches)
        second = asyncio.create_task(provider.complete(asked(max_tokens=7)))
        while not provider.batcher.waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        await first
        await provider.complete(asked(max_tokens=9))
    assert batches == [[100], [9]]


async def test_decoding_for_nobody_stops(base: Path) -> None:
    async with opened(base) as provider:
        batches = watched(provider)
        steps: list[float] = []
        hook = provider.language_model.network.register_forward_hook(
            lambda *_: steps.append(time.monotonic())
        )
        going = asyncio.create_task(provider.complete(asked(max_tokens=230)))
        await until_decoding(batches)
        while not steps:
            await asyncio.sleep(0.001)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        await provider.complete(asked(max_tokens=1))
        hook.remove()
    assert len(steps) < 100  # 231 if the first had been decoded to its end


async def test_a_prompt_over_the_context_is_refused(base: Path) -> None:
    async with opened(base) as provider:
        with pytest.raises(UpstreamError, match=r"has 306 tokens.* in 256") as caught:
            await provider.complete(asked("x" * 302))
    assert (caught.value.kind, caught.value.retryable) == ("refused_request", False)


async def test_a_reply_ends_where_the_context_does(base: Path) -> None:
    async with opened(base, context_tokens=64) as provider:
        done = await provider.complete(asked("x" * 40, max_tokens=100))
    assert done.finish_reason == "length"
    assert done.usage is not None
    assert done.usage.input_tokens + done.usage.output_tokens == 64


async def test_more_context_than_the_model_has_is_refused_at_the_start(base: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"a context of {CONTEXT} tokens at most"):
        async with opened(base, context_tokens=CONTEXT + 1):
            pass


async def test_the_prompt_s_temperature_wins_over_the_seat_s(base: Path) -> None:
    async with opened(base, temperature=1.5) as warm, opened(base) as cold:
        expected = (await cold.complete(asked())).text
        assert (await warm.complete(asked(temperature=0.0))).text == expected
        assert (await warm.complete(asked())).text != expected


async def test_what_fails_inside_is_attributed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(base) as provider:
        for error, kind in (
            (torch.OutOfMemoryError("secret"), "overloaded"),
            (ValueError("secret"), "internal"),
        ):

            def fail(*_: Any, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(LanguageModel, "completions", fail)
            with pytest.raises(UpstreamError) as caught:
                await provider.complete(asked())
            assert caught.value.kind == kind
            assert "secret" not in caught.value.message


async def test_a_reply_without_text_is_a_failure(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(base) as provider:
        monkeypatch.setattr(
            LanguageModel, "completions", lambda self, asked: [self._outcome(asked[0], [2])]
        )
        with pytest.raises(UpstreamError, match="empty reply") as caught:
            await provider.complete(asked())
    assert caught.value.kind == "bad_reply"


async def test_a_service_does_not_start_without_the_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no adapter"):
        async with open_services(
            settings(
                database_url=f"sqlite:///{tmp_path}/a.db",
                board=("mine",),
                members={
                    "mine": {
                        "provider": "local",
                        "model": str(save_base(tmp_path / "base")),
                        "adapter": str(tmp_path),
                    }
                },
                scorer="embedded",
            )
        ):
            pass


@pytest.fixture
def beside_a_canned_member(base: Path, adapter: Path) -> None:
    Path("starboard.toml").write_text(
        'board = ["mine", "canned"]\nself_check = false\n'
        'database_url = "sqlite:///answers.db"\n'
        f'[scorer]\nkind = "scripted"\nrewards = {{ "{REPLY}" = 3.0, "No idea." = 1.0 }}\n'
        '[members.canned]\nprovider = "scripted"\nreply = "No idea."\n'
        + member_row("mine", str(base), adapter)
    )


@pytest.mark.usefixtures("beside_a_canned_member")
async def test_an_adapter_takes_its_seat_by_one_row(base: Path) -> None:
    """The loop is closed: what was trained replies through POST /answer, and wins."""
    async with serve(create_app(Settings())) as client:
        models = (await client.get("/models")).json()["members"]
        response = await client.post("/answer", json={"prompt": "Name a city."})
    assert response.status_code == 200, response.text
    document = response.json()
    assert (document["answer"], document["member"], document["reward"]) == (REPLY, "mine", 3.0)
    (mine,) = (one for one in document["candidates"] if one["member"] == "mine")
    assert mine["model"] == f"{base} + run/adapter"[:200]
    assert (mine["failure"], mine["finish_reason"]) == (None, "stop")
    seats = {seat["name"]: seat for seat in models}
    assert seats["mine"]["seated"]
    assert seats["mine"]["model"] == f"{base} + run/adapter"

from __future__ import annotations

import asyncio

import pytest

from app.domain import NOTHING, Attributes, Completion, Message, Prompt, ScalarReward
from app.errors import UpstreamError
from app.providers.http import Http
from app.scorers.nvidia import (
    ASCII_PER_TOKEN,
    CONTEXT_TOKENS,
    NvidiaScorer,
    RateLimit,
    conversation,
)
from tests.fakes.nvidia import DEFAULT_REWARD, DEFAULT_SCORES, NvidiaFake, Shape
from tests.samples import prompt

BUDGET = CONTEXT_TOKENS * ASCII_PER_TOKEN
REPLY = Completion("Paris.", "stop", "m")


def scorer(fake: NvidiaFake, http: Http, calls: int = 1000) -> NvidiaScorer:
    url = f"{fake.base_url}/v1"
    return NvidiaScorer(fake.models[0], url, fake.api_key, 0.1, RateLimit(calls), http)


@pytest.mark.parametrize(
    ("shape", "outcome"),
    [
        ("hosted", Attributes(**DEFAULT_SCORES)),
        ("self_hosted", Attributes(**DEFAULT_SCORES)),
        ("scalar", ScalarReward(DEFAULT_REWARD)),
    ],
)
async def test_the_three_shapes(
    shape: Shape, outcome: Attributes | ScalarReward, http: Http
) -> None:
    async with NvidiaFake(shape=shape) as fake:
        score = await scorer(fake, http).score(prompt(), REPLY)
    assert (score.outcome, score.note) == (outcome, None)
    assert score.usage is not None
    assert score.usage.input_tokens > 1 == score.usage.output_tokens


async def test_system_text_goes_into_the_first_user_turn(http: Http) -> None:
    async with NvidiaFake() as fake:
        await scorer(fake, http).score(prompt("Capital?", system="Be brief."), REPLY)
    assert fake.requests[-1].sent["messages"] == [
        {"role": "user", "content": "Be brief.\n\nCapital?"},
        {"role": "assistant", "content": "Paris."},
    ]


async def test_a_system_text_alone_is_not_taken_for_a_cut(http: Http) -> None:
    async with NvidiaFake() as fake:
        score = await scorer(fake, http).score(prompt(system="Be brief."), REPLY)
    assert score.note is None


@pytest.mark.parametrize(
    ("asked", "reply"),
    [("q" * 10 * BUDGET, "r"), ("q", "r" * 10 * BUDGET), ("q" * BUDGET, "r" * BUDGET)],
)
async def test_what_is_too_long_is_cut_and_that_is_reported(
    asked: str, reply: str, http: Http
) -> None:
    async with NvidiaFake() as fake:
        score = await scorer(fake, http).score(prompt(asked), Completion(reply, "stop", "m"))
    sent = fake.requests[-1].sent["messages"]
    characters = sum(len(turn["content"]) for turn in sent)
    assert characters <= BUDGET
    assert sent[-1]["content"].startswith("r")
    assert score.note is not None
    assert "4,096 tokens" in score.note


@pytest.mark.parametrize("tail", ["", "ä"])
@pytest.mark.parametrize("asked", ["q", "q" * 10 * BUDGET])
def test_a_reply_is_cut_at_the_same_place_whatever_comes_after_it(asked: str, tail: str) -> None:
    reply = "r" * BUDGET + tail
    *_, last, cut = conversation(prompt(asked + tail), Completion(reply, "stop", "m"))[0]
    assert cut["content"] == "r" * (BUDGET * 3 // 4)
    left = BUDGET // 4 - (2 if tail else 0)  # "ä" may be a token of its own
    assert len(last["content"]) == min(len(asked + tail), left)


async def test_the_oldest_turns_go_first(http: Http) -> None:
    talk = Prompt(
        (
            Message("user", "old " * BUDGET),
            Message("assistant", "said"),
            Message("user", "new"),
        )
    )
    async with NvidiaFake() as fake:
        score = await scorer(fake, http).score(talk, REPLY)
    assert fake.requests[-1].sent["messages"][0] == {"role": "user", "content": "new"}
    assert score.note is not None


async def test_calls_queue_for_their_turn() -> None:
    limit = RateLimit(2, period_s=0.2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    at = []
    for _ in range(5):
        await limit.turn("nvidia")
        at.append(loop.time() - started)
    assert at[1] < 0.1
    assert at[2] >= 0.2
    assert at[4] >= 0.4
    # The turns given out; when a busy machine wakes their callers is another matter.
    turns = list(limit._starts)
    apart = [later - earlier for earlier, later in zip(turns, turns[2:], strict=False)]
    assert min(apart) >= 0.2 - 1e-6  # differences of large clock readings are rounded


async def test_a_queue_that_is_too_long_is_not_joined() -> None:
    limit = RateLimit(1, period_s=60)
    await limit.turn("nvidia")
    with pytest.raises(UpstreamError) as caught:
        await limit.turn("nvidia")
    assert (caught.value.kind, caught.value.usage) == ("rate_limited", NOTHING)
    assert caught.value.retry_after_s == pytest.approx(60, abs=1)


async def test_a_turn_that_nobody_waits_for_is_given_back() -> None:
    limit = RateLimit(1, period_s=0.2)
    await limit.turn("nvidia")
    waiting = asyncio.ensure_future(limit.turn("nvidia"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    started = asyncio.get_running_loop().time()
    await limit.turn("nvidia")
    assert asyncio.get_running_loop().time() - started < 0.3

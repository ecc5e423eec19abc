"""NVIDIA's reward models, hosted or as a NIM of one's own, over HTTP.

Shapes: docs.nvidia.com/nim, "Reward model", and the hosted API, whose `message` is a list and
whose logprobs hold the scores. Nemotron-4-340B-Reward reports five attributes; the Llama-3.x
Nemotron reward models report one scalar, comparable only within one prompt.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain import (
    ATTRIBUTES,
    NOTHING,
    Attributes,
    Completion,
    Prompt,
    ScalarReward,
    Score,
    ScorerInfo,
)
from app.errors import UpstreamError
from app.providers.http import Http, bearer_headers, get_json, post_json, told_usage

BASE_URL = "https://integrate.api.nvidia.com/v1"
NAME = "nvidia"
CONTEXT_TOKENS = 4096
ASCII_PER_TOKEN = 3
ROUNDING = 1e-6  # the sum of many thirds is not exact
MAX_WAIT_S = 30.0
# The most it writes. The hosted models count one token; their text would be some forty.
OUTPUT_TOKENS = 64


@dataclass(frozen=True)
class RateLimit:
    """At most `calls` starts in any `period_s` seconds; callers queue in order.

    A caller that would wait over `MAX_WAIT_S` is turned away, or a burst would book slots that
    nobody is left to use.
    """

    calls: int
    period_s: float = 60.0
    _starts: deque[float] = field(default_factory=deque)

    async def turn(self, name: str) -> None:
        """Wait for a free slot, or raise `UpstreamError` (rate_limited)."""
        now = asyncio.get_running_loop().time()
        while self._starts and self._starts[0] <= now - self.period_s:
            self._starts.popleft()
        full = len(self._starts) >= self.calls
        start = max(now, self._starts[-self.calls] + self.period_s) if full else now
        if start - now > MAX_WAIT_S:
            message = f"{name}: {self.calls} calls in {self.period_s:g} s are used up"
            raise UpstreamError("rate_limited", message, retry_after_s=start - now, usage=NOTHING)
        self._starts.append(start)
        if start == now:
            return
        try:
            await asyncio.sleep(start - now)
        except asyncio.CancelledError:
            self._starts.remove(start)
            raise


@dataclass(frozen=True)
class NvidiaScorer:
    """A reward model at `base_url`, which includes the version."""

    model: str
    base_url: str
    api_key: str | None
    resolution: float
    rate_limit: RateLimit
    http: Http

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(NAME, self.model, "helpsteer", self.resolution)

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        messages, note = conversation(prompt, completion)
        await self.rate_limit.turn(NAME)
        reply = await post_json(
            self.http,
            NAME,
            f"{self.base_url}/chat/completions",
            {"model": self.model, "messages": messages},
            headers=bearer_headers(self.api_key),
        )
        return Score(parse(reply), note, usage=told_usage(reply))

    async def ping(self) -> None:
        """The list of models costs nothing; a model that has been retired is not in it."""
        headers = bearer_headers(self.api_key)
        reply = await get_json(self.http, NAME, f"{self.base_url}/models", headers=headers)
        match reply:
            case {"data": list(rows)} if not any(_is_model(row, self.model) for row in rows):
                raise UpstreamError("refused_request", f"{NAME}: there is no model {self.model}")


def conversation(
    prompt: Prompt, completion: Completion
) -> tuple[list[Mapping[str, str]], str | None]:
    """What is scored: alternating turns, the reply last, system text in the first user turn.

    Fitted to the model's context: the tail of a long reply goes, then the oldest turns, then the
    head of the last user turn. The note says that something was left out.
    """
    all_turns = prompt.turns_with_system_folded
    reply = _head(completion.text, CONTEXT_TOKENS * 3 // 4)
    left = CONTEXT_TOKENS - _tokens(reply)
    turns = list(all_turns)
    while len(turns) > 1 and sum(_tokens(turn.content) for turn in turns) > left:
        del turns[:2]
    earlier, last = turns[:-1], turns[-1]
    asked = _head(last.content[::-1], left - sum(_tokens(t.content) for t in earlier))[::-1]
    cut = (len(turns), asked, reply) != (len(all_turns), last.content, completion.text)
    messages: list[Mapping[str, str]] = [
        *({"role": turn.role, "content": turn.content} for turn in earlier),
        {"role": "user", "content": asked},
        {"role": "assistant", "content": reply},
    ]
    note = f"scored a part: the text is longer than {CONTEXT_TOKENS:,} tokens" if cut else None
    return messages, note


def _tokens(text: str) -> float:
    """Tokens a text may have at the most, roughly: its own tokenizer is out of our reach.

    English has about four characters a token, other scripts down to one.
    """
    plain = len(text.encode("ascii", "ignore"))
    return plain / ASCII_PER_TOKEN + (len(text) - plain)


def _head(text: str, tokens: float) -> str:
    """As much of a text from its beginning as has no more than so many tokens."""
    if _tokens(text) <= tokens + ROUNDING:
        return text
    if text.isascii():
        return text[: max(0, math.floor((tokens + ROUNDING) * ASCII_PER_TOKEN))]
    for end, character in enumerate(text):
        tokens -= 1 / ASCII_PER_TOKEN if character.isascii() else 1
        if tokens < -ROUNDING:
            return text[:end]
    return text


def parse(reply: object) -> Attributes | ScalarReward:
    """The scores in a reply of any of the three shapes; raises `UpstreamError` if there are none.

    A missing, non-finite or unreadable number is an error: nothing stands in for it.
    """
    match reply:
        case {"choices": [{"logprobs": {"content": [_, *_] as tokens}}, *_]}:
            values = _from_logprobs(tokens)
            if set(ATTRIBUTES) <= values.keys():
                return _attributes(values)
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return _from_content(text)
        case {"choices": [{"message": [{"content": str(text)}, *_]}, *_]}:
            return _from_content(text)
    raise UpstreamError("bad_reply", f"{NAME}: the reply has no scores")


def _from_content(text: str) -> Attributes | ScalarReward:
    values = {
        name.strip(): _finite(number)
        for name, separator, number in (pair.partition(":") for pair in text.split(","))
        if separator
    }
    if values.keys() == {"reward"}:
        return ScalarReward(values["reward"])
    return _attributes(values)


def _from_logprobs(tokens: list[object]) -> dict[str, float]:
    """The hosted shape: each attribute's score stands where a log-probability would."""
    values = {}
    for token in tokens:
        match token:
            case {"token": str(name), "logprob": float() | int() as number}:
                values[name] = _finite(number)
    return values


def _attributes(values: Mapping[str, float]) -> Attributes:
    missing = [name for name in ATTRIBUTES if name not in values]
    if missing:
        raise UpstreamError("bad_reply", f"{NAME}: no score for {', '.join(missing)}")
    return Attributes(**{name: values[name] for name in ATTRIBUTES})


def _finite(number: str | float) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UpstreamError("bad_reply", f"{NAME}: a score is not a number")
    return value


def _is_model(row: object, model: str) -> bool:
    match row:
        case {"id": str(name)}:
            return name == model
    return False

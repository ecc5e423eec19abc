"""The fakes against the official packages that will call them, and against a bare client.

What adapters make of each fault is the contract suite's matter; here the fakes must be what they
say they are.
"""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from .anthropic import AnthropicFake
from .faults import Fault
from .google import GoogleFake
from .mistral import MistralFake
from .nvidia import NvidiaFake, rate_limited_bare
from .openai_compatible import OpenAICompatibleFake
from .pooling import SglangFake, TeiFake, VllmFake
from .server import FakeServer
from .wire import HUGE_BYTES, UPSTREAM_CANARY, Json

# google-genai derives a class from aiohttp's session, which aiohttp warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

ASKED = "What is the capital of France?"
TEXT = FakeServer.default_reply
REWARD_MODEL = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
USER = {"role": "user", "content": ASKED}
ASSISTANT = {"role": "assistant", "content": TEXT}


# A bare client: one well-formed request for each fake


@dataclass(frozen=True)
class Example:
    """A request that the healthy fake answers."""

    fake: type[FakeServer]
    path: str
    body: Json
    header: str

    def headers(self, key: str | None) -> dict[str, str]:
        value = f"Bearer {key}" if self.header == "Authorization" else str(key)
        return {self.header: value, "anthropic-version": "2026-10-21"}


def chat(model: str, *messages: Json) -> Json:
    return {"model": model, "messages": [USER, *messages]}


EXAMPLES = (
    Example(
        AnthropicFake,
        "/v1/messages",
        {**chat("claude-sonnet-5-5"), "max_tokens": 64},
        "x-api-key",
    ),
    Example(
        GoogleFake,
        "/v1beta/models/gemma-3-27b-it:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": ASKED}]}]},
        "x-goog-api-key",
    ),
    Example(OpenAICompatibleFake, "/v1/chat/completions", chat("gpt-4.1-mini"), "Authorization"),
    Example(MistralFake, "/v1/chat/completions", chat("mistral-large-latest"), "Authorization"),
    Example(
        NvidiaFake,
        "/v1/chat/completions",
        chat("nvidia/nemotron-4-340b-reward", ASSISTANT),
        "Authorization",
    ),
    Example(
        VllmFake,
        "/classify",
        {**chat(REWARD_MODEL, ASSISTANT), "use_activation": False},
        "Authorization",
    ),
    Example(TeiFake, "/predict", {"inputs": [ASKED, TEXT], "raw_scores": True}, "Authorization"),
    Example(
        SglangFake, "/classify", {"model": REWARD_MODEL, "input_ids": [1, 2, 3]}, "Authorization"
    ),
)
SCORERS = (NvidiaFake, VllmFake, TeiFake, SglangFake)
OTHERWISE_TESTED = {"slow_drip", "hang", "reset_mid_body", "reset_before_reply", "huge_body"}
CASES = [
    pytest.param(example, fault, id=f"{example.fake.__name__}-{fault}")
    for example in EXAMPLES
    for fault in example.fake.FAULTS
    if fault.name not in OTHERWISE_TESTED
]
each_fake = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.fake.__name__)


@dataclass(frozen=True)
class Got:
    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def post(
    fake: FakeServer, example: Example, timeout_s: float = 20.0, key: str | None = None, **more: Any
) -> Got:
    body = {**example.body, **more}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout_s)) as session,
        session.post(
            fake.base_url + example.path, json=body, headers=example.headers(key or fake.api_key)
        ) as response,
    ):
        return Got(response.status, response.headers, await response.read())


@each_fake
async def test_healthy_call_is_recorded_and_answered(example: Example) -> None:
    async with example.fake() as fake:
        got = await post(fake, example)
    assert got.status == 200
    assert [(r.method, r.path, r.json) for r in fake.requests] == [
        ("POST", example.path, example.body)
    ]
    assert fake.key_of(fake.requests[0]) == fake.api_key
    assert UPSTREAM_CANARY not in got.text


@each_fake
async def test_reply_is_a_function_of_the_request(example: Example) -> None:
    async with example.fake() as fake:
        fake.reply = lambda request: f"{request.path} was asked"
        got = await post(fake, example)
    assert (f"{example.path} was asked" in got.text) == (example.fake not in SCORERS)


@each_fake
async def test_wrong_key_and_wrong_path_are_refused(example: Example) -> None:
    async with example.fake() as fake:
        wrong_key = await post(fake, example, key="wrong")
        async with aiohttp.ClientSession() as session:
            wrong_path = await session.get(f"{fake.base_url}/v9/nothing")
            text = await wrong_path.text()
    expected = 400 if example.fake is GoogleFake else 401
    assert (wrong_key.status, wrong_path.status) == (expected, 404)
    assert UPSTREAM_CANARY in text


@pytest.mark.parametrize(("example", "fault"), CASES)
async def test_fault_shows_its_status_and_leaks_the_canary(example: Example, fault: Fault) -> None:
    async with example.fake() as fake:
        fake.fail_once(fault.name)
        got = await post(fake, example)
        healthy = await post(fake, example)
    digits = [int(part) for part in fault.name.split("_") if part.isdigit() and len(part) == 3]
    assert got.status == (digits[0] if digits and fault.kind else 200)
    assert healthy.status == 200
    if got.status >= 400 and fault.make is not rate_limited_bare:
        assert UPSTREAM_CANARY in got.text
        assert str(fake.api_key) in got.text


@each_fake
async def test_slow_drip_and_hang_outlast_the_client_and_are_counted(example: Example) -> None:
    async with example.fake() as fake:
        for name in ("slow_drip", "hang"):
            fake.fail(name)
            with pytest.raises(TimeoutError):
                await post(fake, example, timeout_s=0.15)
        await until(lambda: fake.in_progress == 0)
        assert (fake.cancelled, fake.open_connections) == (2, 0)


@each_fake
async def test_resets_break_the_connection(example: Example) -> None:
    async with example.fake() as fake:
        fake.fail("reset_mid_body")
        with pytest.raises(aiohttp.ClientPayloadError):
            await post(fake, example)
        fake.fail("reset_before_reply")
        with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            await post(fake, example)
        await until(lambda: fake.in_progress == 0)
        assert fake.cancelled == 0


async def test_huge_body_is_valid_json_and_a_reader_may_leave() -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("huge_body")
        got = await post(fake, EXAMPLES[2], timeout_s=30)
        assert len(got.body) > HUGE_BYTES
        assert got.text.endswith('"system_fingerprint": null}')
        async with aiohttp.ClientSession() as session:
            url, headers = fake.base_url + EXAMPLES[2].path, EXAMPLES[2].headers(fake.api_key)
            response = await session.post(url, json=EXAMPLES[2].body, headers=headers)
            await response.content.read(2**20)
            response.close()
            await until(lambda: fake.cancelled == 1)


async def test_stopping_does_not_wait_for_hanging_handlers() -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("hang")
        calls = [asyncio.create_task(post(fake, EXAMPLES[2], 30)) for _ in range(20)]
        await until(lambda: fake.in_progress == 20)
        started = time.perf_counter()
    assert time.perf_counter() - started < 10  # each call would wait 30
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)
    assert (fake.in_progress, fake.cancelled) == (0, 0)


async def test_faults_queue_and_reset() -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("server_error_500")
        fake.fail_once("rate_limited_429_seconds")
        fake.fail_once("rate_limited_429_date")
        first = await post(fake, EXAMPLES[2])
        second = await post(fake, EXAMPLES[2])
        statuses = [first.status, second.status, (await post(fake, EXAMPLES[2])).status]
        fake.reset()
        assert (await post(fake, EXAMPLES[2])).status == 200
        with pytest.raises(ValueError, match="there are truncated_json"):
            fake.fail("nonsense")
    assert statuses == [429, 429, 500]
    assert first.headers["Retry-After"] == "1"
    assert parsedate_to_datetime(second.headers["Retry-After"]).tzinfo is not None
    assert len(fake.requests) == 1


async def test_a_share_of_the_calls_meets_a_fault() -> None:
    async with OpenAICompatibleFake() as fake:
        faults = [one for one in fake.FAULTS if one.name in ("server_error_500", "unavailable_503")]
        fake.fail_sometimes(0.5, faults, random.Random(1))
        statuses = Counter([(await post(fake, EXAMPLES[2])).status for _ in range(40)])
        assert set(statuses) == {200, 500, 503}
        assert fake.faults_met == 40 - statuses[200]
        fake.recover()
        assert (await post(fake, EXAMPLES[2])).status == 200


async def test_delay_comes_before_every_reply() -> None:
    async with OpenAICompatibleFake(delay_s=1) as fake:
        started = time.perf_counter()
        await asyncio.gather(*(post(fake, EXAMPLES[2]) for _ in range(20)))
        assert 1 <= time.perf_counter() - started < 10  # and not one after the other


async def test_a_server_without_keys_asks_for_none() -> None:
    async with (
        OpenAICompatibleFake(api_key=None) as fake,
        aiohttp.ClientSession() as session,
        session.get(f"{fake.base_url}/v1/models") as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.fake.__name__)
def test_fault_names_are_unique(example: Example) -> None:
    names = [fault.name for fault in (*example.fake.FAULTS, *example.fake.STREAM_FAULTS)]
    assert len(names) == len(set(names))


async def until(condition: Callable[[], bool], limit_s: float = 2.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


# What each API refuses, in its own way


@pytest.mark.parametrize(
    ("index", "change", "status", "words"),
    [
        (0, {"temperature": 1.0}, 400, "temperature: Extra inputs are not permitted"),
        (0, {"messages": []}, 400, "at least one message"),
        (0, {"messages": [{"role": "system", "content": "x"}]}, 400, "Unexpected role"),
        (0, {"model": "claude-2"}, 404, "not_found_error"),
        (1, {"systemInstruction": {"parts": []}}, 400, "Developer instruction is not enabled"),
        (1, {"system_instruction": {"parts": []}}, 400, "Developer instruction is not enabled"),
        (1, {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, 400, "valid role"),
        (1, {"generationConfig": {"max_tokens": 5}}, 400, "Unknown name"),
        (2, {"messages": [{"role": "bot", "content": "x"}]}, 400, "Invalid value"),
        (2, {"model": "gpt-0"}, 404, "does not exist"),
        (3, {"stream_options": {"include_usage": True}}, 422, '"include_usage"'),
        (3, {"messages": [USER, ASSISTANT]}, 400, '"3230"'),
        (3, {"model": "nonsense"}, 400, '"1500"'),
        (4, {"temperature": 0.5}, 422, "Extra inputs"),
        (4, {"messages": [USER]}, 422, "last message"),
        (4, {"messages": [USER, USER]}, 422, "must alternate"),
        (4, {"messages": [{"role": "system", "content": "x"}, USER]}, 422, "must alternate"),
        (4, {"messages": [{"role": "user", "content": "x" * 17_000}, ASSISTANT]}, 400, "4096"),
        (5, {"model": "another"}, 404, "does not exist"),
        (6, {"inputs": ["a", "b", "c"]}, 422, "a pair of strings"),
        (7, {"text": "as well"}, 400, "Either text or input_ids"),
    ],
)
async def test_malformed_request_is_refused(
    index: int, change: Json, status: int, words: str
) -> None:
    async with EXAMPLES[index].fake() as fake:
        got = await post(fake, EXAMPLES[index], **change)
    assert got.status == status
    assert words in got.text


async def test_anthropic_takes_temperature_under_the_old_version_from_old_models() -> None:
    async with AnthropicFake() as fake:
        client = anthropic.AsyncAnthropic(
            api_key=fake.api_key, base_url=fake.base_url, max_retries=0
        )
        async with client:
            old = {"extra_headers": {"anthropic-version": "2023-06-01"}}
            warm = {"extra_body": {"temperature": 0.5}}
            reply = await ask_claude(client, model="claude-sonnet-4-6", **old, **warm)
            assert reply.stop_reason == "end_turn"
            with pytest.raises(anthropic.BadRequestError, match="deprecated for this model"):
                await ask_claude(client, model="claude-opus-5", **old, **warm)


@pytest.mark.parametrize("shape", ["hosted", "self_hosted", "scalar"])
async def test_nvidia_scores_decide_which_reply_wins(shape: Any) -> None:
    async with NvidiaFake(shape=shape) as fake:
        fake.scores = lambda reply: {"helpfulness": 4.0 if "Paris" in reply else 0.5}
        fake.reward = lambda reply: -3.28 if "Paris" in reply else -18.25
        got = await post(fake, EXAMPLES[4])
    expected = "reward:-3.28" if shape == "scalar" else "helpfulness:4.0"
    assert expected in got.text
    assert ('"message": [' in got.text) == ('"model": null' in got.text) == (shape == "hosted")


@pytest.mark.parametrize(
    ("index", "off"), [(5, {"use_activation": None}), (6, {"raw_scores": False})]
)
async def test_outputs_are_squashed_unless_raw_ones_are_asked_for(index: int, off: Json) -> None:
    async with EXAMPLES[index].fake() as fake:
        raw = await post(fake, EXAMPLES[index])
        squashed = await post(fake, EXAMPLES[index], **off)
    assert "3.7" in raw.text
    assert "3.7" not in squashed.text


# anthropic


@pytest.fixture(params=["httpx2", "aiohttp"])
def claude_client(request: pytest.FixtureRequest) -> Callable[[FakeServer], Any]:
    def make(fake: FakeServer) -> anthropic.AsyncAnthropic:
        http = anthropic.DefaultAioHttpClient() if request.param == "aiohttp" else None
        return anthropic.AsyncAnthropic(
            api_key=fake.api_key,
            base_url=fake.base_url,
            max_retries=0,
            timeout=0.5,
            http_client=http,
        )

    return make


async def ask_claude(client: anthropic.AsyncAnthropic, **extra: Any) -> Any:
    request = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [USER], **extra}
    return await client.messages.create(**request)


async def test_anthropic_sdk_in_the_normal_case(claude_client: Callable[..., Any]) -> None:
    async with AnthropicFake() as fake, claude_client(fake) as client:
        reply = await ask_claude(client)
        async with client.messages.stream(
            model="claude-opus-5", max_tokens=64, messages=[USER]
        ) as stream:
            streamed = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
        models = await client.models.list()
        model = await client.models.retrieve("claude-opus-5")
    assert [block.text for block in reply.content] == [TEXT]
    assert (streamed, final.stop_reason) == (TEXT, "end_turn")
    assert final.usage.output_tokens == reply.usage.output_tokens
    assert model in models.data


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("unauthorized_401", anthropic.AuthenticationError),
        ("overloaded_529", anthropic.OverloadedError),
        ("rate_limited_429_seconds", anthropic.RateLimitError),
        ("html_502", anthropic.InternalServerError),
        ("hang", anthropic.APITimeoutError),
        ("reset_mid_body", anthropic.APIConnectionError),
        ("reset_before_reply", anthropic.APIConnectionError),
        ("truncated_json", ValueError),
        ("empty_body", ValueError),
    ],
)
async def test_anthropic_sdk_raises(
    claude_client: Callable[..., Any], fault: str, error: type[Exception]
) -> None:
    async with AnthropicFake() as fake, claude_client(fake) as client:
        fake.fail(fault)
        with pytest.raises(error):
            await ask_claude(client)
    assert len(fake.requests) == 1


async def test_anthropic_sdk_meets_an_error_event(claude_client: Callable[..., Any]) -> None:
    async with AnthropicFake() as fake, claude_client(fake) as client:
        fake.fail("event_error")
        stream = await ask_claude(client, stream=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            _ = [event async for event in stream]
        fake.fail("event_error_unasked")
        unasked = await ask_claude(client)
    assert (caught.value.status_code, caught.value.type) == (200, "overloaded_error")
    assert isinstance(unasked, str)


@pytest.mark.parametrize(
    ("fault", "types", "reason"),
    [
        ("gzip", ["text"], "end_turn"),
        ("refusal_empty", [], "refusal"),
        ("refusal_with_text", ["text"], "refusal"),
        ("thinking_first", ["thinking", "text"], "end_turn"),
        ("thinking_only", ["thinking"], "max_tokens"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_anthropic_sdk_understands(
    claude_client: Callable[..., Any], fault: str, types: list[str], reason: str, streams: bool
) -> None:
    async with AnthropicFake() as fake, claude_client(fake) as client:
        fake.fail(fault)
        if streams:
            async with client.messages.stream(
                model="claude-opus-5", max_tokens=64, messages=[USER]
            ) as stream:
                reply = await stream.get_final_message()
        else:
            reply = await ask_claude(client)
    assert [block.type for block in reply.content] == types
    assert reply.stop_reason == reason


# google-genai and google-generativeai


Gemma = Callable[[FakeServer], AbstractAsyncContextManager[Any]]


@pytest.fixture(params=["httpx2", "aiohttp"])
def gemma(request: pytest.FixtureRequest) -> Gemma:
    @asynccontextmanager
    async def open_client(fake: FakeServer) -> AsyncIterator[Any]:
        options = genai_types.HttpOptions(
            base_url=fake.base_url,
            api_version="v1beta",
            timeout=500,
            retry_options=genai_types.HttpRetryOptions(attempts=1),
        )
        async with httpx2.AsyncClient() as http:
            if request.param == "httpx2":
                options.httpx_async_client = http
            async with genai.Client(api_key=fake.api_key, http_options=options).aio as client:
                yield client

    return open_client


async def test_google_genai_in_the_normal_case(gemma: Gemma) -> None:
    async with GoogleFake() as fake, gemma(fake) as client:
        reply = await client.models.generate_content(model="gemma-3-27b-it", contents=ASKED)
        stream = await client.models.generate_content_stream(model="gemma-4-31b-it", contents=ASKED)
        chunks = [chunk async for chunk in stream]
        model = await client.models.get(model="gemma-3-27b-it")
    assert reply.text == TEXT
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason is genai_types.FinishReason.STOP
    assert model.name == "models/gemma-3-27b-it"


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("quota_429_retry_55s", genai_errors.ClientError, 429),
        ("api_key_invalid_400", genai_errors.ClientError, 400),
        ("unavailable_503", genai_errors.ServerError, 503),
        ("html_502", genai_errors.ServerError, 502),
        ("hang", (TimeoutError, httpx2.ReadTimeout), None),
        ("truncated_json", ValueError, None),
        ("reset_mid_body", (aiohttp.ClientPayloadError, httpx2.ReadError), None),
        (
            "reset_before_reply",
            (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, httpx2.ReadError),
            None,
        ),
    ],
)
async def test_google_genai_raises(gemma: Gemma, fault: str, error: Any, code: int | None) -> None:
    async with GoogleFake() as fake, gemma(fake) as client:
        fake.fail(fault)
        with pytest.raises(error) as caught:
            await client.models.generate_content(model="gemma-4-31b-it", contents=ASKED)
    assert getattr(caught.value, "code", None) == code
    assert len(fake.requests) == 1


async def test_google_genai_finds_the_retry_delay_and_the_system_trap(gemma: Gemma) -> None:
    async with GoogleFake() as fake, gemma(fake) as client:
        empty = genai_types.GenerateContentConfig(system_instruction="")
        with pytest.raises(genai_errors.ClientError, match="Developer instruction"):
            await client.models.generate_content(
                model="gemma-3-27b-it", contents=ASKED, config=empty
            )
        fake.fail("quota_429_retry_1s")
        with pytest.raises(genai_errors.ClientError) as caught:
            await client.models.generate_content(model="gemma-3-27b-it", contents=ASKED)
    assert caught.value.details["error"]["details"][-1]["retryDelay"] == "1s"


async def test_google_genai_sees_what_was_held_back(gemma: Gemma) -> None:
    async with GoogleFake() as fake, gemma(fake) as client:
        replies = {}
        for name in ("safety_no_content", "prompt_blocked", "thought_parts"):
            fake.fail(name)
            replies[name] = await client.models.generate_content(
                model="gemma-4-31b-it", contents=ASKED
            )
    assert replies["safety_no_content"].text is None
    assert replies["prompt_blocked"].candidates is None
    assert replies["prompt_blocked"].prompt_feedback is not None
    assert replies["thought_parts"].text == TEXT


Old = Callable[[Callable[[Any], Any]], Awaitable[Any]]


def old_google(fake: FakeServer, model: str = "gemma-4-31b-it") -> Old:
    """Runs a call of google-generativeai's blocking REST client in a thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarning: support has ended
        old = pytest.importorskip("google.generativeai")
    old.configure(
        api_key=fake.api_key, transport="rest", client_options={"api_endpoint": fake.base_url}
    )
    blocks = {"HARASSMENT": "BLOCK_NONE"}
    generator = old.GenerativeModel(model, safety_settings=blocks)
    return lambda call: asyncio.to_thread(call, generator)


ONCE = {"retry": None, "timeout": 0.5}


async def test_google_generativeai_in_the_normal_case() -> None:
    async with GoogleFake() as fake:
        run = old_google(fake)
        reply = await run(lambda model: model.generate_content(ASKED, request_options=ONCE))
        streamed = await run(
            lambda model: [
                chunk.text
                for chunk in model.generate_content(ASKED, stream=True, request_options=ONCE)
            ]
        )
    assert (reply.text, "".join(streamed)) == (TEXT, TEXT)
    assert reply.candidates[0].finish_reason.name == "STOP"
    sent = fake.requests[0]
    assert sent.query["$alt"] == "json;enum-encoding=int"
    assert sent.sent["safetySettings"] == [{"category": 7, "threshold": 4}]


def raised(model: Any) -> str | None:
    """The class of what the package raises: half a dozen packages' worth of them."""
    try:
        model.generate_content(ASKED, request_options=ONCE)
    except Exception as error:
        return type(error).__name__
    return None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited_429", "TooManyRequests"),
        ("html_502", "BadGateway"),
        ("unauthorized_401", "Unauthorized"),
        ("hang", "ReadTimeout"),
        ("truncated_json", "ParseError"),
        ("reset_mid_body", "ChunkedEncodingError"),
        ("reset_before_reply", "ConnectionError"),
    ],
)
async def test_google_generativeai_raises(fault: str, error: str) -> None:
    async with GoogleFake() as fake:
        run = old_google(fake)
        fake.fail(fault)
        outcome = await run(raised)
    assert outcome == error


async def test_google_generativeai_reads_numbered_enums() -> None:
    async with GoogleFake() as fake:
        run = old_google(fake)
        fake.fail("safety_no_content")
        held = await run(lambda model: model.generate_content(ASKED, request_options=ONCE))
        fake.fail("prompt_blocked")
        blocked = await run(lambda model: model.generate_content(ASKED, request_options=ONCE))
    assert held.candidates[0].finish_reason.name == "SAFETY"
    assert held.candidates[0].safety_ratings[0].category.name == "HARM_CATEGORY_HARASSMENT"
    assert blocked.prompt_feedback.block_reason.name == "PROHIBITED_CONTENT"


# Streams of the OpenAI shape


async def test_usage_in_a_stream_comes_only_when_asked_for_and_unasked_from_mistral() -> None:
    async with OpenAICompatibleFake() as host, MistralFake() as mistral:
        plain = await post(host, EXAMPLES[2], stream=True)
        asked = await post(host, EXAMPLES[2], stream=True, stream_options={"include_usage": True})
        unasked = await post(mistral, EXAMPLES[3], stream=True)
    assert '"usage"' not in plain.text
    assert '"choices": [], "usage": {' in asked.text
    assert '"finish_reason": "stop"}], ' in unasked.text
    assert '"usage": {' in unasked.text
    for got in (plain, asked, unasked):
        assert got.headers["Content-Type"] == "text/event-stream"
        assert got.text.endswith("data: [DONE]\n\n")

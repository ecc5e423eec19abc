"""`llm` and `litellm` against the service, unchanged but for base URL and key.

They run as processes of their own, from the environment that `scripts/install-clients` makes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import create_app
from app.store import AnswerStore
from app.store.keys import Keys
from tests.conftest import settings
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.serving import serve

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv-clients" / "bin"
TURNS = [{"role": "user", "content": "Which?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
REPLIES = [("starboard", "second"), ("starboard/single", "first"), ("host", "third")]
UNKNOWN_KEY = "this API key is not known, was revoked, or has expired"


@dataclass
class Exchange:
    """What a client sent, and what the service said, byte by byte."""

    sent: bytes = b""
    said: bytes = b""

    @property
    def request(self) -> Any:
        return json.loads(self.sent)

    @property
    def comments(self) -> int:
        return self.said.count(b": the board is at work\n")

    @property
    def chunks(self) -> list[Any]:
        """Those of a stream, which must have ended as streams do."""
        *chunks, done = [line for line in self.said.splitlines() if line.startswith(b"data: ")]
        assert done == b"data: [DONE]"
        return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


@dataclass(frozen=True)
class Recorder:
    app: ASGIApp
    exchanges: list[Exchange]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange()
        if scope["type"] == "http":
            self.exchanges.append(exchange)

        async def hear() -> Message:
            message = await receive()
            exchange.sent += message.get("body", b"")
            return message

        async def say(message: Message) -> None:
            exchange.said += message.get("body", b"")
            await send(message)

        await self.app(scope, hear, say)


@dataclass(frozen=True)
class Service:
    base_url: str
    key: str
    host: OpenAICompatibleFake
    exchanges: list[Exchange]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A board that asks for a key, is silent for a while, and knows the usage of one member."""
    exchanges: list[Exchange] = []
    async with OpenAICompatibleFake(api_key=None) as host:
        host.reply, host.delay_s = "third", 0.5
        app = create_app(
            settings(
                database_url=database_url,
                board=("a", "b", "host"),
                members={
                    "a": {"provider": "scripted", "reply": "first", "delay_s": 0.5},
                    "b": {"provider": "scripted", "reply": "second"},
                    "host": {
                        "provider": "openai_compatible",
                        "base_url": f"{host.base_url}/v1",
                        "model": "gpt-4.1-mini",
                    },
                },
                scorer={
                    "kind": "scripted",
                    "rewards": {"first": 1.0, "second": 3.0, "third": 2.0},
                },
                keep_alive_s=0.1,
            )
        )
        app.add_middleware(Recorder, exchanges=exchanges)
        async with serve(app) as served, AnswerStore.open(database_url) as store:
            _, key = await Keys(store.database).create("clients", ("answer", "read"))
            yield Service(f"{served.base_url}/v1", key, host, exchanges)


async def test_openai_sends_its_key(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=service.key) as client:
        assert [model.id async for model in client.models.list()][-1] == "host"
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError, match=UNKNOWN_KEY):
            await client.models.list()


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    assert (PROGRAMS.parent / "installed").exists(), (
        "scripts/install-clients installs what these tests run"
    )


# litellm


@dataclass(frozen=True)
class LiteLLM:
    process: subprocess.Popen[str]

    async def call(self, service: Service, **more: Any) -> Any:
        """What came of one call; see tests/clients/litellm_calls.py."""
        where = {"api_base": service.base_url, "api_key": service.key}
        call = {"model": "openai/starboard", "messages": TURNS, **where, **more}
        return await asyncio.to_thread(self._answer, json.dumps(call))

    def _answer(self, line: str) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def litellm() -> Iterator[LiteLLM]:
    """One process for all calls: the import alone takes seconds."""
    with subprocess.Popen(
        [PROGRAMS / "python", ROOT / "tests/clients/litellm_calls.py"],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # or it fetches prices
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield LiteLLM(process)


@pytest.mark.parametrize(("model", "said"), REPLIES)
async def test_litellm_completes(service: Service, litellm: LiteLLM, model: str, said: str) -> None:
    reply = (await litellm.call(service, model=f"openai/{model}"))["reply"]
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (said, "stop")
    assert (reply["model"], reply["id"]) == (model, reply["starboard"]["id"])
    told = json.loads(service.exchanges[-1].said)["usage"] or {}
    assert {name: reply["usage"][name] for name in told} == told
    assert bool(told) is (model != "starboard/single")


@pytest.mark.parametrize(("model", "said"), REPLIES)
async def test_litellm_streams(service: Service, litellm: LiteLLM, model: str, said: str) -> None:
    chunks = (await litellm.call(service, model=f"openai/{model}", stream=True))["chunks"]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"]["content"] or "" for choice in choices) == said
    assert choices[-1]["finish_reason"] == "stop"
    assert chunks[-1]["starboard"]["quality"] == "full"
    exchange = service.exchanges[-1]
    assert exchange.comments > 0
    assert all("usage" not in chunk for chunk in exchange.chunks)


async def test_litellm_is_told_the_usage_it_asks_for(service: Service, litellm: LiteLLM) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = (await litellm.call(service, **asked))["chunks"]
    *before, last = service.exchanges[-1].chunks
    assert [chunk["usage"] for chunk in before] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0
    assert chunks[-1]["usage"].items() >= last["usage"].items()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"api_key": "wrong"}, ("AuthenticationError", 401, UNKNOWN_KEY)),
        ({"model": "openai/gpt-5"}, ("NotFoundError", 404, "there is no model gpt-5; there are")),
        ({"n": 2}, ("BadRequestError", 400, "n is not supported here with this value")),
        ({"tools": [TOOL]}, ("BadRequestError", 400, "tools is not supported here")),
    ],
)
async def test_litellm_says_what_is_wrong(
    service: Service,
    litellm: LiteLLM,
    stream: bool,
    asked: dict[str, Any],
    error: tuple[str, int, str],
) -> None:
    outcome = await litellm.call(service, stream=stream, **asked)
    *kind, told = error
    assert [outcome["error"], outcome["status"]] == kind
    assert told in outcome["message"]
    assert len(service.exchanges) == 1  # such an error is not tried again


async def test_litellm_hears_of_a_failure_within_a_stream(
    service: Service, litellm: LiteLLM
) -> None:
    service.host.fail("unauthorized_401")
    outcome = await litellm.call(service, model="openai/host", stream=True)
    assert "host: 401" in outcome["message"]


# llm


@dataclass(frozen=True)
class LLM:
    user_path: Path

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code, the standard output and the standard error of `llm` with the arguments."""
        process = await asyncio.create_subprocess_exec(
            PROGRAMS / "llm",
            *arguments,
            env=os.environ | {"LLM_USER_PATH": str(self.user_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode().strip(), errors.decode().strip()


@pytest.fixture
def llm(service: Service, tmp_path: Path) -> LLM:
    """With the settings of docs/api.md, and tools allowed."""
    user_path = tmp_path / "llm"
    user_path.mkdir()
    models = [
        {
            "model_id": name,
            "model_name": name,
            "api_base": service.base_url,
            "api_key_name": "starboard",
            "supports_tools": True,
        }
        for name in [*dict(REPLIES), "gpt-5"]
    ]
    (user_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    (user_path / "keys.json").write_text(json.dumps({"starboard": service.key}))
    return LLM(user_path)


@pytest.mark.parametrize(("model", "said"), REPLIES)
async def test_llm_streams_and_counts(service: Service, llm: LLM, model: str, said: str) -> None:
    code, output, errors = await llm("-m", model, "--usage", "Which?")
    assert (code, output) == (0, said)
    (exchange,) = service.exchanges
    assert (exchange.request["model"], exchange.request["stream"]) == (model, True)
    assert exchange.comments > 0
    *_, finish, last = exchange.chunks
    assert finish["choices"][0]["finish_reason"] == "stop"
    usage = last["usage"]
    assert (usage is None) is (model == "starboard/single")
    counted = usage and f" {usage['prompt_tokens']} input, {usage['completion_tokens']} output"
    assert errors == f"Token usage:{counted or ''}"


@pytest.mark.parametrize(("model", "said"), [REPLIES[0], REPLIES[2]])
async def test_llm_waits_for_the_whole_reply(
    service: Service, llm: LLM, model: str, said: str
) -> None:
    assert await llm("-m", model, "--no-stream", "Which?") == (0, said, "")
    (exchange,) = service.exchanges
    assert json.loads(exchange.said)["object"] == "chat.completion"


async def test_llm_goes_on_with_a_conversation(service: Service, llm: LLM) -> None:
    await llm("-m", "starboard", "Which?")
    assert await llm("--continue", "And then?") == (0, "second", "")
    turns = service.exchanges[-1].request["messages"]
    assert [turn["content"] for turn in turns] == ["Which?", "second", "And then?"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "starboard", "--key", "wrong"], f"401 - {UNKNOWN_KEY}"),
        (["-m", "gpt-5"], "404 - there is no model gpt-5; there are starboard, "),
        (["-m", "starboard", "-T", "llm_version"], "400 - tools is not supported here"),
        (["-m", "starboard", "-o", "json_object", "1"], "400 - response_format is not supported"),
    ],
)
async def test_llm_says_what_is_wrong(
    service: Service, llm: LLM, arguments: list[str], told: str
) -> None:
    code, output, errors = await llm(*arguments, "Which?")
    assert (code, output) == (1, "")
    assert errors.startswith("Error: ")
    assert told in errors
    assert len(service.exchanges) == 1


async def test_llm_hears_of_a_failure_within_a_stream(service: Service, llm: LLM) -> None:
    service.host.fail("unauthorized_401")
    code, output, errors = await llm("-m", "host", "Which?")
    assert (code, output) == (1, "")
    assert "host: 401" in errors

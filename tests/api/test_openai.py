"""The official client against the service, unchanged but for base URL and key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionUserMessageParam

from app.api import create_app
from app.settings import Settings
from app.store import AnswerStore
from app.store.keys import Keys
from tests.fakes.mistral import MistralFake
from tests.serving import only_mistral, serve

TURN: ChatCompletionUserMessageParam = {"role": "user", "content": "Which?"}
ASKED: dict[str, Any] = {"model": "starboard", "messages": [TURN]}


def client_of(served: httpx2.AsyncClient, api_key: str = "any") -> openai.AsyncOpenAI:
    """As it comes: it asks twice more what it takes for a passing failure."""
    return openai.AsyncOpenAI(base_url=f"{served.base_url}/v1", api_key=api_key)


@pytest.fixture
async def served(scripted: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(create_app(scripted)) as served:
        yield served


@pytest.fixture
async def client(served: httpx2.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(served) as client:
        yield client


@pytest.fixture
async def mistral() -> AsyncIterator[MistralFake]:
    async with MistralFake() as fake:
        yield fake


@pytest.fixture
async def remote(mistral: MistralFake, database_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """A board of one remote member, whose usage is known."""
    given = only_mistral(mistral, database_url)
    async with serve(create_app(given)) as served, client_of(served) as client:
        yield client


def evidence(reply: Any) -> dict[str, Any]:
    found: dict[str, Any] = reply.model_extra["starboard"]
    return found


async def test_the_board_replies_with_its_evidence(
    client: openai.AsyncOpenAI, served: httpx2.AsyncClient
) -> None:
    reply = await client.chat.completions.create(
        model="starboard", messages=[TURN], user="u1", metadata={"team": "red" * 170}
    )
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("second", "stop")
    assert (reply.model, reply.usage) == ("starboard", None)
    assert "system_fingerprint" in reply.model_fields_set
    ours = evidence(reply)
    assert (ours["member"], ours["reward"], ours["decision"]["margin"]) == ("b", 3.0, 1.0)
    assert "answer" not in ours
    assert all("text" not in candidate for candidate in ours["candidates"])
    stored = (await served.get(f"/answers/{reply.id}")).json()
    assert (stored["answer"], stored["tags"]) == ("second", {"user": "u1", "team": "red" * 170})


async def test_user_and_metadata_are_16_tags_together(served: httpx2.AsyncClient) -> None:
    metadata = {str(number): "" for number in range(16)}
    body = {"model": "starboard", "messages": [TURN], "metadata": metadata}
    assert (await served.post("/v1/chat/completions", json=body)).status_code == 200
    refused = await served.post("/v1/chat/completions", json=body | {"user": "u1"})
    assert refused.status_code == 400, refused.text
    assert "16 tags together" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "said", "asked"),
    [
        ("starboard", "second", ["a", "b", "c"]),
        ("starboard/best_of_n", "second", ["a", "b", "c"]),
        ("starboard/single", "first", ["a"]),
        ("c", "third", ["c"]),
    ],
)
async def test_a_model_is_a_strategy_or_a_member(
    client: openai.AsyncOpenAI, model: str, said: str, asked: list[str]
) -> None:
    reply = await client.chat.completions.create(model=model, messages=[TURN])
    assert (reply.model, reply.choices[0].message.content) == (model, said)
    assert [c["member"] for c in evidence(reply)["candidates"]] == asked


async def test_what_openai_has_no_word_for_is_one_key(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="starboard/cascade",
        messages=[TURN],
        extra_body={"starboard": {"members": ["a", "c"], "plan": {"threshold": 1.5}}},
    )
    assert reply.choices[0].message.content == "third"
    assert evidence(reply)["decision"]["not_called"] == ["a"]


async def test_nothing_chosen_is_no_content(client: openai.AsyncOpenAI) -> None:
    floor = {"starboard": {"plan": {"floor": 9}}}
    reply = await client.chat.completions.create(
        model="starboard", messages=[TURN], extra_body=floor
    )
    assert reply.choices[0].message.content is None
    assert evidence(reply)["decision"]["reason"].startswith("abstained")


async def test_the_prompt_and_the_usage_are_passed_on(
    remote: openai.AsyncOpenAI, mistral: MistralFake
) -> None:
    reply = await remote.chat.completions.create(
        model="mistral",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Which?"}]},
        ],
        max_completion_tokens=9,
        temperature=0.5,
    )
    assert json.loads(mistral.requests[-1].body) == {
        "model": "mistral-large-latest",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Which?"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
    }
    usage = reply.usage
    assert usage is not None
    told = evidence(reply)["usage"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        told["input_tokens"],
        told["output_tokens"],
    )
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


async def streamed(client: openai.AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model="starboard", messages=[TURN], stream=True, **more
    )
    return [chunk async for chunk in stream]


async def test_a_stream_is_role_text_and_finish(
    client: openai.AsyncOpenAI, served: httpx2.AsyncClient
) -> None:
    chunks = await streamed(client)
    role, text, finish = (chunk.choices[0] for chunk in chunks)
    assert (role.delta.role, role.delta.content) == ("assistant", "")
    assert (text.delta.content, finish.finish_reason) == ("second", "stop")
    (id_,) = {chunk.id for chunk in chunks}
    assert {chunk.model for chunk in chunks} == {"starboard"}
    assert evidence(chunks[-1])["member"] == "b"
    assert (await served.get(f"/answers/{id_}")).json()["answer"] == "second"


async def test_usage_is_the_last_chunk_if_asked_for(remote: openai.AsyncOpenAI) -> None:
    plain = await streamed(remote)
    counted = await streamed(remote, stream_options={"include_usage": True})
    assert all("usage" not in chunk.model_fields_set for chunk in plain)
    assert all(chunk.usage is None for chunk in counted[:-1])
    assert all("usage" in chunk.model_fields_set for chunk in counted)
    assert all("system_fingerprint" in chunk.model_fields_set for chunk in plain + counted)
    assert len(counted) == len(plain) + 1
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.total_tokens > 0


@pytest.mark.parametrize(("keep_alive_s", "least", "most"), [(0.1, 3, 1000), (60.0, 0, 0)])
async def test_a_silent_board_keeps_the_stream_alive(
    mistral: MistralFake, database_url: str, keep_alive_s: float, least: int, most: int
) -> None:
    """By comments while nothing happens; what happens before there is a reply is none."""
    mistral.delay_s = 0.5
    given = only_mistral(mistral, database_url).model_copy(update={"keep_alive_s": keep_alive_s})
    async with (
        serve(create_app(given)) as served,
        client_of(served) as remote,
        remote.chat.completions.with_streaming_response.create(
            model="starboard", messages=[TURN], stream=True
        ) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines() if line]
    kinds = ["comment" if line.startswith(":") else "chunk" for line in lines]
    assert kinds[0] == "chunk"  # the role, before anybody has replied
    assert least <= kinds.count("comment") <= most
    assert lines[-1] == "data: [DONE]"


async def test_the_models_are_listed(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names[0] == "starboard"
    assert {"starboard/best_of_n", "starboard/fuse"} < set(names)
    assert names[-3:] == ["a", "b", "c"]
    assert (await client.models.retrieve("starboard/fuse")).id == "starboard/fuse"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["\n"]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "7"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "7"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"model": "starboard/cascade"}, "plan.threshold"),
        ({"extra_body": {"starboard": {"colour": "blue"}}}, "starboard.colour"),
        ({"stream": True, "n": 2}, "n"),
        ({"stream": True, "model": "starboard/cascade"}, "plan.threshold"),
    ],
)
async def test_what_is_not_supported_is_a_400_that_names_it(
    client: openai.AsyncOpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**(ASKED | more))
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


async def test_what_does_no_harm_is_accepted_and_named(client: openai.AsyncOpenAI) -> None:
    harmless = {"n": 1, "stop": [], "tool_choice": "auto", "logprobs": False, "tools": None}
    turn: Any = {**TURN, "name": "Ann", "reasoning": "none"}
    reply = await client.chat.completions.create(
        model="starboard",
        messages=[turn],
        top_p=0.9,
        seed=7,
        extra_body=harmless | {"colour": "blue"},
    )
    assert evidence(reply)["dropped_parameters"] == ["colour", "seed", "top_p"]


async def test_an_unknown_model_is_a_404(client: openai.AsyncOpenAI) -> None:
    for name in ("gpt-5", "starboard/guess", "a/fuse"):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model=name, messages=[TURN])
        assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-5")


async def test_a_board_that_fails_is_a_502_that_says_who(
    remote: openai.AsyncOpenAI, mistral: MistralFake
) -> None:
    mistral.fail("unauthorized_401")
    with pytest.raises(openai.InternalServerError) as caught:
        await remote.chat.completions.create(model="starboard", messages=[TURN])
    assert (caught.value.status_code, caught.value.code) == (502, "no_candidate")
    assert len(mistral.requests) == 1
    assert "(mistral: 401; stored as ans_" in caught.value.message


async def test_a_deadline_is_not_waited_for_again(
    remote: openai.AsyncOpenAI, mistral: MistralFake
) -> None:
    mistral.delay_s = 30
    with pytest.raises(openai.InternalServerError) as caught:
        await remote.chat.completions.create(**ASKED, extra_body={"starboard": {"deadline_s": 2}})
    assert caught.value.status_code == 504
    assert len(mistral.requests) == 1


async def test_what_will_not_be_otherwise_is_not_asked_again(
    mistral: MistralFake, database_url: str
) -> None:
    given = only_mistral(mistral, database_url)
    async with serve(create_app(given)) as served:
        loop = await served.post(
            "/v1/chat/completions", json=ASKED, headers={"x-starboard-hop": "3"}
        )
        elsewhere = await served.post(
            "/answer", json={"prompt": "Which?"}, headers={"x-starboard-hop": "3"}
        )
        wrong = await served.post("/v1/chat/completions", json={})
        async with AnswerStore.open(database_url) as store:
            _, secret = await Keys(store.database).create("k", ["answer"], budget=1)
        async with client_of(served, secret) as poor:
            with pytest.raises(openai.APIStatusError) as caught:
                await poor.chat.completions.create(**ASKED)
    assert (loop.status_code, loop.headers["x-should-retry"]) == (508, "false")
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "x-should-retry" not in wrong.headers | elsewhere.headers
    assert mistral.requests == []


async def test_a_board_that_fails_in_a_stream_is_its_last_event(
    remote: openai.AsyncOpenAI, mistral: MistralFake
) -> None:
    mistral.fail("unauthorized_401")
    with pytest.raises(openai.APIError, match="mistral: 401") as caught:
        await streamed(remote)
    assert caught.value.code == "no_candidate"


async def test_every_error_under_v1_has_the_shape_of_openai(scripted: Settings) -> None:
    """Whatever of the service it is that refuses."""
    small = scripted.model_copy(update={"max_body_bytes": 2000})
    path = "/v1/chat/completions"
    async with serve(create_app(small)) as served:
        told = [
            (404, await served.get("/v1/nothing")),
            (405, await served.get(path)),
            (
                400,
                await served.post(path, content=b"{", headers={"content-type": "application/json"}),
            ),
            (415, await served.post(path, content=b"{")),
            (413, await served.post(path, json=ASKED | {"user": "x" * 3000})),
        ]
        elsewhere = await served.get("/v2/nothing")
    for status, response in told:
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert response.json().keys() == {"error"}
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert told[1][1].headers["allow"] == "POST"
    assert elsewhere.headers["content-type"] == "application/problem+json"

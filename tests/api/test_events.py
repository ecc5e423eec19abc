from __future__ import annotations

import json
from typing import Any

import httpx2

from app.api import create_app
from tests.fakes.mistral import MistralFake
from tests.serving import only_mistral, serve

Event = tuple[str, str, Any]  # id, event, data


async def events(client: httpx2.AsyncClient, **body: object) -> list[Event]:
    asked = {"prompt": "Which?", "stream": True} | body
    async with client.stream("POST", "/answer", json=asked) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        return parsed((await response.aread()).decode())


def parsed(text: str) -> list[Event]:
    """The events of a stream, without its comments."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if not block.startswith(":"):
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append((lines["id"], lines["event"], json.loads(lines["data"])))
    return found


async def test_a_run_is_told_as_it_comes(client: httpx2.AsyncClient) -> None:
    told = await events(client)
    names = [event for _, event, _ in told]
    assert names[:3] == ["started"] * 3
    assert sorted(names[3:-1]) == ["completed"] * 3 + ["scored"] * 3
    assert names[-1] == "selected"
    answer_id = told[0][2]["answer_id"]
    assert [id_ for id_, _, _ in told] == [f"{answer_id}:{n}" for n in range(len(told))]
    rewards = {data["member"]: data["reward"] for _, event, data in told if event == "scored"}
    assert rewards == {"a": 1.0, "b": 3.0, "c": 2.0}
    answer = told[-1][2]
    assert (answer["id"], answer["answer"]) == (answer_id, "second")
    assert (await client.get(f"/answers/{answer_id}")).json() == answer


async def test_what_keeps_a_run_from_starting_has_a_status(client: httpx2.AsyncClient) -> None:
    response = await client.post("/answer", json={"prompt": "a", "stream": True, "members": ["z"]})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "members")


async def test_an_error_after_the_start_is_an_event(database_url: str) -> None:
    async with MistralFake() as fake:
        fake.fail("unauthorized_401")
        async with serve(create_app(only_mistral(fake, database_url))) as client:
            told = await events(client)
            stored = (await client.get(f"/answers/{told[0][2]['answer_id']}")).json()
    assert [event for _, event, _ in told] == ["started", "failed", "error"]
    assert told[1][2]["failure"]["kind"] == "auth"
    problem = told[-1][2]
    assert (problem["status"], problem["answer_id"]) == (502, stored["id"])


async def test_a_silent_board_keeps_the_connection_alive(database_url: str) -> None:
    async with MistralFake(delay_s=0.5) as fake:
        eager = only_mistral(fake, database_url).model_copy(update={"keep_alive_s": 0.1})
        async with (
            serve(create_app(eager)) as client,
            client.stream("POST", "/answer", json={"prompt": "a", "stream": True}) as response,
        ):
            text = (await response.aread()).decode()
    assert text.count(": the board is at work\n\n") >= 2
    assert parsed(text)[-1][1] == "selected"

from __future__ import annotations

import httpx2
import pytest

from app.api import create_app
from tests.conftest import settings
from tests.fakes.nvidia import DEFAULT_SCORES, NvidiaFake
from tests.serving import serve


async def test_replies_are_scored_in_their_order(client: httpx2.AsyncClient) -> None:
    body = {"prompt": "Which?", "replies": ["third", "first", "second"]}
    document = (await client.post("/score", json=body)).json()
    assert [row["reward"] for row in document["scores"]] == [2.0, 1.0, 3.0]
    assert [row["scores"] for row in document["scores"]] == [None] * 3
    assert document["scorer"]["name"] == "scripted"
    assert "comparable within one prompt only" in document["scorer"]["note"]


async def test_an_empty_reply_is_a_failure_of_its_own(client: httpx2.AsyncClient) -> None:
    body = {"prompt": "Which?", "replies": ["first", " "]}
    response = await client.post("/score", json=body)
    assert response.status_code == 200
    first, empty = response.json()["scores"]
    assert (first["reward"], first["failure"]) == (1.0, None)
    assert (empty["reward"], empty["failure"]["kind"]) == (None, "bad_reply")


async def test_five_attributes_and_weights(database_url: str) -> None:
    async with NvidiaFake() as nvidia:
        ours = settings(
            database_url=database_url,
            NVIDIA_API_KEY=nvidia.api_key,
            NVIDIA_BASE_URL=nvidia.base_url,
            self_check=False,
        )
        async with serve(create_app(ours)) as client:
            weights = dict.fromkeys(DEFAULT_SCORES, 0.0) | {"verbosity": 2.0}
            body = {"prompt": "Which?", "replies": ["one"], "weights": weights}
            row = (await client.post("/score", json=body)).json()["scores"][0]
    assert row["scores"] == DEFAULT_SCORES
    assert row["reward"] == 2 * DEFAULT_SCORES["verbosity"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "a", "replies": []}, "replies"),
        ({"prompt": " ", "replies": ["a"]}, "prompt"),
        ({"prompt": "a", "replies": ["a\0"]}, "replies.0"),
        ({"prompt": "a", "replies": ["a"] * 65}, "replies"),
    ],
)
async def test_a_request_that_is_wrong_names_its_field(
    client: httpx2.AsyncClient, body: dict[str, object], field: str
) -> None:
    response = await client.post("/score", json=body)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]

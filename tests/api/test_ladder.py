"""The ladder and the judge through the whole service, with fakes for every remote model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api import create_app
from app.errors import ConfigurationError
from app.scorers.self_check import PAIRS
from app.settings import Settings
from tests.conftest import settings
from tests.fakes.google import GoogleFake
from tests.fakes.gullible import HONEST, obey, verdict
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.wire import Recorded
from tests.scorers.test_judge import canaries
from tests.serving import serve

GOOD, BAD = verdict(4, 4, 4, 2, 1), verdict(1, 1, 3, 1, 1)


def asks_for_a_verdict(request: Recorded) -> bool:
    return "You grade one reply" in request.sent["messages"][0]["content"]


def judging(reply: str, liked: str) -> Any:
    """A model that replies to prompts, and as judge likes replies with a certain word."""

    def answer(request: Recorded) -> str:
        if not asks_for_a_verdict(request):
            return reply
        told = request.sent["messages"][1]["content"].split("<<<REPLY")[1]
        return GOOD if liked in told else BAD

    return answer


@asynccontextmanager
async def refereed(
    database_url: str, fake: OpenAICompatibleFake, **values: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """Two canned members, and a host of one's own that judges without a seat."""
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("REFEREE_KEY", fake.api_key or "")
        ours = settings(
            **{
                "database_url": database_url,
                "board": ["a", "b"],
                "members": members(fake),
                "scorer": [{"kind": "judge", "member": "referee"}, {"kind": "embedded"}],
                **values,
            }
        )
        yield await stack.enter_async_context(serve(create_app(ours)))


def members(fake: OpenAICompatibleFake, a: str = "It scatters.") -> dict[str, Any]:
    return {
        "a": {"provider": "scripted", "reply": a},
        "b": {"provider": "scripted", "reply": "Rayleigh scattering makes the sky look blue."},
        "referee": {
            "provider": "openai_compatible",
            "base_url": f"{fake.base_url}/v1",
            "model": fake.models[0],
            "api_key_env": "REFEREE_KEY",
        },
    }


async def ask(client: httpx2.AsyncClient, **body: object) -> dict[str, Any]:
    response = await client.post("/answer", json={"prompt": "Why is the sky blue?"} | body)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def steps(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["name"], step["outcome"]) for step in document["scorer"]["ladder"]]


async def test_with_vendors_and_no_reward_model_the_first_of_them_judges(
    database_url: str,
) -> None:
    async with MistralFake() as mistral, GoogleFake() as gemma:
        mistral.reply = judging("It is reflected from the sea.", liked="Rayleigh")
        gemma.reply = "Rayleigh scattering."
        ours = settings(
            database_url=database_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            GEMINI_API_KEY=gemma.api_key,
            GOOGLE_GEMINI_BASE_URL=gemma.base_url,
        )
        async with serve(create_app(ours)) as client:
            document = await ask(client)
            stored = (await client.get(f"/answers/{document['id']}")).json()
    assert (document["member"], document["answer"]) == ("gemma", "Rayleigh scattering.")
    assert document["scores"]["correctness"] == 4.0
    scorer = document["scorer"]
    assert (scorer["name"], scorer["scale"]) == ("judge:mistral", "helpsteer")
    assert (scorer["model"], scorer["resolution"]) == ("mistral-large-latest", 0.75)
    assert "a model's verdict" in scorer["note"]
    assert steps(document) == [("judge:mistral", "scored"), ("embedded", "not_asked")]
    notes = {c["member"]: c["score_note"] for c in document["candidates"]}
    assert notes == {"mistral": "judged by its own family", "gemma": None}
    assert (document["quality"], document["missing"]) == ("full", [])
    assert stored == document
    judged = [request for request in mistral.requests if asks_for_a_verdict(request)]
    assert (len(mistral.requests), len(judged)) == (3, 2)
    assert all(request.sent["temperature"] == 0.0 for request in judged)


async def test_with_a_reward_model_the_judge_is_its_stand_in(database_url: str) -> None:
    async with MistralFake() as mistral, NvidiaFake() as nvidia:
        mistral.reply = judging("Rayleigh.", liked="Rayleigh")
        nvidia.fail("unauthorized_401")
        ours = settings(
            database_url=database_url,
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            NVIDIA_API_KEY=nvidia.api_key,
            NVIDIA_BASE_URL=nvidia.base_url,
        )
        async with serve(create_app(ours)) as client:
            document = await ask(client)
    assert document["scorer"]["ladder"] == [
        {"name": "nvidia", "outcome": "failed", "reason": "nvidia: 401"},
        {"name": "judge:mistral", "outcome": "scored", "reason": None},
        {"name": "embedded", "outcome": "not_asked", "reason": None},
    ]
    assert document["scorer"]["note"].startswith("in place of nvidia; a model's verdict")
    assert (document["quality"], document["missing"]) == ("degraded", ["nvidia"])


@pytest.mark.parametrize("spoilt", ["A fine reply!", GOOD[:-2], GOOD + GOOD])
async def test_a_judge_that_makes_no_sense_gives_way(database_url: str, spoilt: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.reply = lambda request: spoilt if "It scatters" in str(request.sent) else GOOD
        async with refereed(database_url, fake) as client:
            document = await ask(client)
    assert steps(document) == [("judge:referee", "partial"), ("embedded", "scored")]
    assert document["scorer"]["name"] == "embedded"
    assert document["missing"] == ["judge:referee"]
    assert [c["score_failure"] for c in document["candidates"]] == [None, None]


async def test_a_judge_alone_leaves_unscored_what_it_cannot_judge(database_url: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.reply = lambda request: "Hm." if "It scatters" in str(request.sent) else BAD
        alone = [{"kind": "judge", "member": "referee"}]
        async with refereed(database_url, fake, scorer=alone) as client:
            document = await ask(client)
    first = document["candidates"][0]
    assert (first["scores"], first["reward"], first["rank"]) == (None, None, None)
    assert first["score_failure"] == {
        "kind": "bad_reply",
        "message": "judge:referee: the verdict is not one JSON object",
        "retryable": False,
    }
    assert (document["member"], document["missing"]) == ("b", ["judge:referee"])


async def test_a_judge_may_leave_its_own_family_to_the_next(database_url: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.reply = GOOD
        board = members(fake)
        board["a"]["model"] = "gpt-5"
        ladder = [
            {"kind": "judge", "member": "referee", "exclude_own_family": True},
            {"kind": "embedded"},
        ]
        async with refereed(database_url, fake, members=board, scorer=ladder) as client:
            both = await ask(client)
            other = await ask(client, members=["b"])
    assert both["scorer"]["name"] == "embedded"
    assert "does not score its own family" in both["scorer"]["ladder"][0]["reason"]
    assert other["scorer"]["name"] == "judge:referee"


async def test_no_canary_buys_a_verdict_through_the_service(database_url: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.reply = obey
        for language, name, text in canaries():
            if language != "en" or not text.strip():
                continue
            async with refereed(database_url, fake, members=members(fake, a=text)) as client:
                document = await ask(client)
            scores = [list(c["scores"].values()) for c in document["candidates"]]
            assert scores == [list(HONEST), list(HONEST)], name


async def checks(client: httpx2.AsyncClient) -> dict[str, str | None]:
    ready = (await client.get("/readyz")).json()
    return {check["name"]: check["message"] for check in ready["checks"]}


async def test_a_judge_that_fails_its_self_check_is_off_and_readyz_says_so(
    database_url: str,
) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.reply = GOOD  # for every reply: all pairs tie
        async with refereed(database_url, fake, self_check=True) as client:
            async with asyncio.timeout(10):
                while (await checks(client))["scorer judge:referee"] is None:
                    await asyncio.sleep(0.02)
            found = await checks(client)
            status = (await client.get("/readyz")).json()["status"]
            ladder = (await client.get("/models")).json()["scorer"]
            asked = len(fake.requests)
            document = await ask(client)
            assert len(fake.requests) == asked
    told = "self-check: 0 of 7 obvious pairs in order"
    assert found["scorer judge:referee"] == f"off: {told}"
    assert found["scorer embedded"] is None
    assert status == "degraded"
    assert ladder["name"] == "embedded"
    assert ladder["ladder"][0] == {"name": "judge:referee", "outcome": "off", "reason": told}
    assert steps(document) == [("judge:referee", "off"), ("embedded", "scored")]
    assert document["missing"] == ["judge:referee"]


async def test_a_judge_that_passes_costs_two_calls_a_pair_once(database_url: str) -> None:
    good = {reply for _, reply, _ in PAIRS}
    async with OpenAICompatibleFake() as fake:
        fake.reply = lambda r: (
            GOOD if any(g in r.sent["messages"][1]["content"] for g in good) else BAD
        )
        async with refereed(database_url, fake, self_check=True) as client:
            async with asyncio.timeout(10):
                while len(fake.requests) < 2 * len(PAIRS):
                    await asyncio.sleep(0.02)
            assert (await checks(client))["scorer judge:referee"] is None
            generated = [r for r in fake.requests if r.method == "POST"]
            assert len(generated) == 2 * len(PAIRS)
            assert (await ask(client))["scorer"]["name"] == "judge:referee"


async def test_a_judge_out_of_reach_stays_on_the_ladder(database_url: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("unauthorized_401")
        async with refereed(database_url, fake, self_check=True) as client:
            async with asyncio.timeout(10):
                while not fake.requests:
                    await asyncio.sleep(0.02)
            assert (await checks(client))["scorer judge:referee"] == "referee: 401"
            fake.reset()
            fake.reply = GOOD
            assert (await ask(client))["scorer"]["name"] == "judge:referee"


async def test_leaving_ends_a_self_check(database_url: str) -> None:
    async with OpenAICompatibleFake() as fake:
        fake.fail("hang")
        async with refereed(database_url, fake, self_check=True) as client:
            await client.get("/healthz")
            async with asyncio.timeout(10):
                while not fake.in_progress:
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            while fake.in_progress:
                await asyncio.sleep(0.02)


@pytest.fixture
def calibration() -> str:
    """The name of a file with a map for the scripted scorer."""
    fitted = {
        "model": "scripted",
        "data": "pairs",
        "n": 10,
        "date": "2026-11-22",
        "resolution": 0.2,
        "maps": {"reward": [[0, 0], [10, 4]]},
    }
    Path("map.json").write_text(json.dumps(fitted))
    return "map.json"


async def test_a_calibrated_scorer_says_by_what(database_url: str, calibration: str) -> None:
    ours = settings(
        database_url=database_url,
        board=["a"],
        members={"a": {"provider": "scripted", "reply": "x"}},
        scorer={"kind": "scripted", "rewards": {"x": 5.0}, "calibration": calibration},
    )
    async with serve(create_app(ours)) as client:
        document = await ask(client)
    assert (document["reward"], document["scorer"]["scale"]) == (2.0, "calibrated")
    assert "calibrated on pairs (n = 10, 2026-11-22)" in document["scorer"]["note"]


REFEREE = {"provider": "openai_compatible", "base_url": "http://h/v1", "model": "m"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"scorer": "judge"}, "the scorer judge needs a vendor's key, or a `member`"),
        ({"scorer": {"kind": "judge", "member": "claude"}}, "set ANTHROPIC_API_KEY"),
        (
            {"members": {"r": REFEREE}, "scorer": [{"kind": "judge", "member": "r"}] * 2},
            "the ladder has judge:r more than once",
        ),
        ({"scorer": {"kind": "embedded", "calibration": "none.json"}}, "none.json"),
    ],
)
async def test_a_ladder_that_cannot_be_built_says_what_to_set(
    database_url: str, values: dict[str, Any], told: str
) -> None:
    app = create_app(settings(database_url=database_url, **values))
    with pytest.raises(ConfigurationError, match=told):
        async with app.router.lifespan_context(app):
            pass


def test_what_settings_take_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARBOARD_SELF_CHECK", "false")
    kinds: Sequence[str] = [spec.kind for spec in Settings(scorer="nvidia,embedded").ladder]  # type: ignore[arg-type]
    assert (kinds, Settings().self_check) == (["nvidia", "embedded"], False)

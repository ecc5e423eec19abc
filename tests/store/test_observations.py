"""What is counted of stored answers, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.api import create_app
from app.domain import Answer, Attributes, Feedback, Score, Weights
from app.store import AnswerStore, observations
from app.store.observations import SeenCandidate, newest_since
from tests.conftest import settings
from tests.samples import competition, failed, scored
from tests.serving import serve

START = datetime(2026, 11, 22, 13, 5, tzinfo=UTC)
FIVE = Attributes(1, 1, 1, 1, 1)


def asked(number: int, **values: Any) -> Answer:
    made = competition(number, scored("a", 2.0), failed("b"), minute=number)
    won = replace(made.selection, winner=f"comp_{number}_0")
    return replace(made, **{"selection": won, "quality": "full", **values})


async def agreed(store: AnswerStore, *said: dict[str, Any]) -> bool | None:
    await store.save(asked(1))
    for number, one in enumerate(said):
        at = START + timedelta(days=1, minutes=number)
        await store.add_feedback("comp_1", Feedback(f"fb_{number}", at, **one))
    [seen] = await newest_since(store, START, 10)
    return seen.agreed


async def test_an_answer_is_seen_as_it_was(store: AnswerStore) -> None:
    costly = asked(1, quality="degraded")
    first, *rest = costly.candidates
    first = replace(
        first, candidate=replace(first.candidate, cost_usd=0.25), score=Score(FIVE), reward=-7.0
    )
    await store.save(replace(costly, candidates=(first, *rest)))
    [seen] = await newest_since(store, START, 10)
    assert (seen.created, seen.degraded, seen.scorer) == (
        START + timedelta(minutes=1),
        True,
        "judge:x",
    )
    assert (seen.model, seen.scale) == ("m", "scalar")
    assert sorted(seen.candidates, key=lambda one: one.member) == [
        SeenCandidate("a", 0.1, 0.25, Weights().reward(FIVE), None),  # not that of the request
        SeenCandidate("b", 0.1, None, None, "rate_limited"),
    ]


@pytest.mark.parametrize("page", [2, 200])
async def test_pages_hold_every_answer_once(
    store: AnswerStore, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "PAGE", page)
    for number in range(5):
        await store.save(asked(number))
    await store.save(replace(asked(9), created=START + timedelta(minutes=3)))  # of one moment
    since = START + timedelta(minutes=1)
    found = [
        (one.created - START) // timedelta(minutes=1)
        for one in await newest_since(store, since, 99)
    ]
    assert found == [4, 3, 3, 2, 1]
    assert len(await newest_since(store, since, 3)) == 3
    assert await newest_since(store, START + timedelta(days=1), 99) == []


UP, DOWN = {"thumb": "up"}, {"thumb": "down"}
BETTER, CORRECTED = {"better": "comp_1_1"}, {"corrected": "So."}
NO_VERDICT: list[dict[str, Any]] = [{"comment": "Hm."}, {"ratings": FIVE}]


@pytest.mark.parametrize(
    ("said", "agrees"),
    [
        ([], None),
        (NO_VERDICT, None),
        ([UP], True),
        ([DOWN], False),
        ([BETTER], False),
        ([CORRECTED], False),
        ([UP | CORRECTED], False),
        ([DOWN, UP], True),
        ([UP, DOWN], False),
        ([UP, BETTER, *NO_VERDICT], False),
        ([BETTER, UP, *NO_VERDICT], True),
    ],
)
async def test_the_last_judgement_counts(
    store: AnswerStore, said: list[dict[str, Any]], agrees: bool | None
) -> None:
    assert await agreed(store, *said) is agrees


async def test_the_route_counts_what_was_asked(store: AnswerStore) -> None:
    """Of this app, and on this database, what came of two runs and what people said of them."""
    await store.save(asked(1, created=datetime.now(UTC) - timedelta(days=40)))
    url = store.database.url.render_as_string(hide_password=False)
    ours = settings(
        database_url=url,
        board=("a", "b"),
        members={name: {"provider": "scripted", "reply": name} for name in "ab"},
        scorer={"kind": "scripted", "rewards": {"a": 1.0, "b": 3.0}},
    )
    async with serve(create_app(ours)) as client:
        for thumb in ("up", "down"):
            answer = (await client.post("/answer", json={"prompt": "Which?"})).json()
            await client.post(f"/answers/{answer['id']}/feedback", json={"thumb": thumb})
        found = (await client.get("/statistics")).json()
        wider = (await client.get("/statistics", params={"days": 60})).json()
        wrong = await client.get("/statistics", params={"days": 0})
    assert (found["answers"], wider["answers"], wrong.status_code) == (2, 3, 422)
    assert found["agreement"] == [
        {
            "scorer": "scripted",
            "n": 2,
            "share": 0.5,
            "low": pytest.approx(0.0945, abs=1e-3),
            "high": pytest.approx(0.9055, abs=1e-3),
        }
    ]
    assert (found["reward_scorer"], found["reward_bins"]) == (None, [])  # one scalar for each
    a, b = found["members"]
    assert (a["name"], a["replies"], a["cost_usd"], a["rewards"]) == ("a", 2, 0.0, [])
    assert (b["name"], b["replies"]) == ("b", 2)
    assert sum(day["answers"] for day in found["days"]) == 2

"""Ties by standing, through the whole service on real SQLite."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy import text

from app.api import create_app
from app.settings import Settings
from app.store import AnswerStore
from tests.conftest import settings
from tests.samples import competition, scored
from tests.serving import serve


def tied(database_url: str, **values: object) -> Settings:
    """A board of two whose replies are too close to call, and one that is plainly worse."""
    replies = {"a": "first", "b": "second", "c": "third"}
    rewards = {"first": 3.0, "second": 2.95, "third": 0.0}
    rows = {name: {"provider": "scripted", "reply": reply} for name, reply in replies.items()}
    return settings(
        database_url=database_url,
        board=tuple(rows),
        members=rows,
        scorer={"kind": "scripted", "rewards": rewards},
        **values,
    )


async def b_wins(url: str, times: int, *, scorer: str = "judge:x") -> None:
    """Answers in which b had the highest reward and c, which is worse today, came close."""
    entries = (scored("a", 0.0), scored("b", 2.0), scored("c", 1.0))
    async with AnswerStore.open(url) as store:
        for n in range(times):
            await store.save(competition(n, *entries, scorer=scorer))


async def winner(ours: Settings) -> tuple[str, str, str]:
    async with serve(create_app(ours)) as client:
        document = (await client.post("/answer", json={"prompt": "Which?"})).json()
        again = (await client.get(f"/answers/{document['id']}")).json()
    assert again == document
    decision = document["decision"]
    return document["member"], decision["tie_break"], decision["reason"]


async def test_standing_changes_which_of_two_tied_replies_wins(database_url: str) -> None:
    await b_wins(database_url, 50)
    what = "2 within the resolution of 0.1"
    assert await winner(tied(database_url)) == (
        "a",
        f"board order: {what}",
        "too close to call among 2: first of them in board order",
    )
    assert await winner(tied(database_url, standing="wins")) == (
        "b",
        f"standing: b won 100.0% of 50, a won 0.0% of 50; {what}",
        "too close to call among 2: first of them by standing",
    )


async def test_too_few_answers_leave_ties_to_board_order(database_url: str) -> None:
    await b_wins(database_url, 2)
    member, tie_break, _ = await winner(tied(database_url, standing="wins"))
    assert (member, tie_break) == (
        "a",
        "board order: 2 within the resolution of 0.1"
        " (a has competed in 2 of the 50 answers it takes)",
    )
    assert (await winner(tied(database_url, standing="wins", standing_min=2)))[0] == "b"


async def test_answers_of_a_scorer_that_cannot_rank_give_no_standing(database_url: str) -> None:
    await b_wins(database_url, 60, scorer="embedded")
    member, tie_break, _ = await winner(tied(database_url, standing="wins"))
    assert member == "a"
    assert "a has competed in 0 of the 50 answers" in tie_break


async def test_win_rates_that_cannot_be_read_fail_no_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await b_wins(database_url, 50)
    broken = text("SELECT member, 1, 1.0 FROM nowhere")
    monkeypatch.setattr("app.store.answers._win_rates", lambda _: broken)
    with caplog.at_level(logging.WARNING, "starboard"):
        member, tie_break, _ = await winner(tied(database_url, standing="wins"))
    assert (member, tie_break) == (
        "a",
        "board order: 2 within the resolution of 0.1 (win rates could not be read)",
    )
    assert "win rates could not be read; ties go by board order" in caplog.text


async def test_models_show_win_rates_and_what_they_are_taken_over(database_url: str) -> None:
    await b_wins(database_url, 50)
    async with serve(create_app(tied(database_url))) as client:
        members = (await client.get("/models")).json()["members"]
    rates = {seat["name"]: (seat["win_rate"], seat["competed"]) for seat in members}
    assert rates["a"] == rates["c"] == (0.0, 50)
    assert rates["b"] == (1.0, 50)
    assert rates["claude"] == (None, None)
    async with serve(create_app(tied(database_url, standing_min=51))) as client:
        members = (await client.get("/models")).json()["members"]
    assert [(seat["win_rate"], seat["competed"]) for seat in members[:2]] == [(None, 50)] * 2


async def test_the_service_ends_with_a_reading_under_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object) -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    monkeypatch.setattr(AnswerStore, "win_rates", slow)
    app = create_app(tied(database_url))
    before = asyncio.all_tasks()
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        asking = asyncio.create_task(state["services"].standing.known())
        await asyncio.sleep(0.05)
    assert await asyncio.wait_for(asking, 5) is None
    assert asyncio.all_tasks() <= before

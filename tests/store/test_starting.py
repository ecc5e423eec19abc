"""Several processes, and databases that are in the way."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import text

from app.ensemble import Ensemble
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.providers.scripted import ScriptedProvider
from app.scorers.ladder import Ladder
from app.scorers.scripted import ScriptedScorer
from app.store import AnswerStore
from app.store.database import PostgreSQL
from app.store.keys import Keys
from tests.samples import answer, plan_of, prompt

OPEN = """
import asyncio, sys
from app.store import AnswerStore
async def main():
    async with AnswerStore.open(sys.argv[1]):
        pass
asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, database_url: str) -> str:
    if request.param == "sqlite":
        return database_url
    return str(request.getfixturevalue("fresh_postgres_url"))


def test_processes_that_start_at_once_on_an_empty_database_all_start(empty_url: str) -> None:
    command = [sys.executable, "-c", OPEN, empty_url]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, said


async def test_a_database_of_a_later_version_is_refused(empty_url: str) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    async with AnswerStore.open(empty_url) as store:
        await store.database.write(lambda connection: connection.execute(newer).rowcount)
    with pytest.raises(ConfigurationError, match="9999"):
        async with AnswerStore.open(empty_url):
            pass


async def test_a_locked_database_does_not_hold_an_answer_for_ever(
    fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ensemble.STORE_GRACE_S", 0.3)
    async with AnswerStore.open(fresh_postgres_url) as store:
        assert isinstance(store.database, PostgreSQL)
        members = {"a": ScriptedProvider("a", "a", "a")}
        ensemble = Ensemble(members, Ladder.of(ScriptedScorer({"a": 1.0})), store)
        async with store.database.engine.begin() as lock, asyncio.timeout(20):
            await lock.execute(text("LOCK TABLE answers IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(StoreError, match="in time"):
                await ensemble.answer(prompt(), plan_of("a", deadline_s=0.3))


async def test_behind_a_lock_of_another_process_nobody_waits_for_those_before_him(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.TURN_S", 0.3)
    for module in ("database", "answers"):
        monkeypatch.setattr(f"app.store.{module}.BUSY_MS", 300)
    async with AnswerStore.open(database_url) as store:
        other = sqlite3.connect(database_url.partition(":///")[2], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(30):  # one after the other they would take a minute
            saving = [store.save(answer(f"ans_{number}")) for number in range(200)]
            making = [Keys(store.database).create("k", ["answer"]) for _ in range(200)]
            outcomes = await asyncio.gather(*saving, *making, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreError}
        other.execute("ROLLBACK")
        other.close()
        await store.save(answer())
        assert [stored.id async for stored in store.answers()] == [answer().id]


@pytest.mark.parametrize(
    "url", ["mysql://me@127.0.0.1/db", "postgresql+none://h/x", "pg://h:port/x"]
)
async def test_the_usual_mistakes_in_a_url_are_answered_with_its_form(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        async with AnswerStore.open(url):
            pass


async def test_a_driver_that_is_not_installed_is_named_by_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigurationError, match="the extra `postgres`"):
        async with AnswerStore.open("postgresql://me@127.0.0.1/db"):
            pass


async def test_what_a_database_cannot_take_is_an_error_of_the_store(
    fresh_postgres_url: str,
) -> None:
    async with AnswerStore.open(fresh_postgres_url) as store:
        with pytest.raises(StoreError):
            await store.save(answer("ans_" + "x" * 100))
        with pytest.raises(AnswerNotFoundError):
            await store.get("\0")

"""The store, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, text

from app.domain import ScorerInfo
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.store import AnswerStore, schema
from tests.samples import answer


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AnswerStore]:
    url = database_url
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    async with AnswerStore.open(url) as opened:
        yield opened
        async with opened.engine.begin() as connection:
            await connection.execute(schema.candidates.delete())
            await connection.execute(schema.answers.delete())


async def test_an_answer_comes_back_as_it_was_saved(store: AnswerStore) -> None:
    saved = answer()
    await store.save(saved)
    assert await store.get(saved.id) == saved


async def test_an_answer_from_before_there_were_ladders_comes_back(store: AnswerStore) -> None:
    await store.save(answer())
    scorer = {"name": "n", "model": "m", "scale": "helpsteer", "resolution": 0.1, "note": None}
    async with store.engine.begin() as connection:
        await connection.execute(schema.answers.update().values(scorer=scorer))
    assert (await store.get(answer().id)).scorer == ScorerInfo("n", "m", "helpsteer", 0.1)


async def test_an_unknown_id_is_an_error_of_the_request(store: AnswerStore) -> None:
    with pytest.raises(AnswerNotFoundError, match="ans_none"):
        await store.get("ans_none")


async def test_concurrent_saves_are_all_kept(store: AnswerStore) -> None:
    await asyncio.gather(*(store.save(answer(f"ans_{n}")) for n in range(40)))
    for n in range(40):
        assert (await store.get(f"ans_{n}")).id == f"ans_{n}"


async def test_a_saved_answer_cannot_be_overwritten(store: AnswerStore) -> None:
    await store.save(answer())
    with pytest.raises(StoreError, match="IntegrityError"):
        await store.save(answer())


async def test_the_migrations_make_the_schema(store: AnswerStore) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, schema.metadata))

    async with store.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_ping(store: AnswerStore) -> None:
    await store.ping()


async def test_answers_outlive_the_process(database_url: str) -> None:
    async with AnswerStore.open(database_url) as store:
        await store.save(answer())
    async with AnswerStore.open(database_url) as store:
        assert await store.get("ans_1") == answer()


async def test_sqlite_writes_ahead_and_syncs(database_url: str) -> None:
    async with AnswerStore.open(database_url) as store, store.engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2  # FULL


@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite:////nowhere/answers.db", "nonsense", "sqlite+nodriver:///x.db"]
)
async def test_a_database_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with AnswerStore.open(url):
            pass


async def test_the_password_is_not_shown() -> None:
    url = "postgresql+asyncpg://me:hunter2@127.0.0.1:1/db"
    with pytest.raises(ConfigurationError) as caught:
        async with AnswerStore.open(url):
            pass
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_a_lost_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    async with AnswerStore.open(f"sqlite+aiosqlite:///{tmp_path}/a.db") as store:
        async with store.engine.begin() as connection:
            await connection.execute(text("DROP TABLE candidates"))
        with pytest.raises(StoreError):
            await store.save(answer())
        async with store.engine.connect() as connection:  # nothing of it was kept
            kept = await connection.execute(select(func.count()).select_from(schema.answers))
            assert kept.scalar() == 0

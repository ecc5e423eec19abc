"""`AnswerStore`: save and get answers, on SQLite or any database SQLAlchemy speaks async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.domain import Answer
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.store import rows, schema

MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True)
class AnswerStore:
    """Answers with all their candidates and scores. Make one with `AnswerStore.open`."""

    engine: AsyncEngine

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[AnswerStore]:
        """Connect and migrate forwards. `url` is SQLAlchemy's, with an async driver.

        Raises `ConfigurationError` if the database cannot be opened.
        """
        try:
            engine = create_async_engine(make_url(url), pool_pre_ping=not url.startswith("sqlite"))
        except (ArgumentError, ModuleNotFoundError) as error:
            raise ConfigurationError(f"STARBOARD_DATABASE_URL: {error}") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        try:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(_migrate)
            except (SQLAlchemyError, OSError) as error:
                shown = engine.url.render_as_string(hide_password=True)
                raise ConfigurationError(f"cannot open the database {shown}") from error
            yield cls(engine)
        finally:
            await engine.dispose()

    async def save(self, answer: Answer) -> None:
        """Keep an answer. It is on disk when this returns."""
        with _failures():
            async with self.engine.begin() as connection:
                await connection.execute(insert(schema.answers), rows.answer_row(answer))
                await connection.execute(insert(schema.candidates), rows.candidate_rows(answer))

    async def get(self, answer_id: str) -> Answer:
        """The answer of that id; raises `AnswerNotFoundError`."""
        answers, candidates = schema.answers, schema.candidates
        one = select(answers).where(answers.c.id == answer_id)
        its = select(candidates).where(candidates.c.answer_id == answer_id)
        with _failures():
            async with self.engine.connect() as connection:
                row = (await connection.execute(one)).mappings().one_or_none()
                ordered = await connection.execute(its.order_by(candidates.c.position))
                candidate_rows = ordered.mappings().all()
        if row is None:
            raise AnswerNotFoundError(f"there is no answer {answer_id}")
        return rows.answer_from(row, candidate_rows)

    async def ping(self) -> None:
        """Raises `StoreError` if the database does not answer."""
        with _failures():
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the database failed: {type(error).__name__}") from error


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _set_up_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        # A returned answer outlives a power cut, not only a crash of ours.
        "synchronous = FULL",
        "busy_timeout = 5000",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()

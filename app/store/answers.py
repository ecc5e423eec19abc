"""`AnswerStore`: save and get answers, on SQLite or any database SQLAlchemy speaks async."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    BindParameter,
    Connection,
    Select,
    bindparam,
    case,
    event,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.domain import CANNOT_RANK, WITHHELD, Answer, WinRate
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.store import rows, schema

log = logging.getLogger("starboard")

MIGRATIONS = Path(__file__).with_name("migrations")
URLS = "it must look like sqlite+aiosqlite:///answers.db or postgresql+asyncpg://user@host/name"
ID = re.compile(r"[\w-]{1,40}")
# Any fixed number: it stands for "migrations of Starboard" among PostgreSQL's advisory locks.
MIGRATION_LOCK = 7_827_225
# Win rates are taken over so many of the newest answers: what a member did long ago says little
# of what stands behind its name today, and the query's cost has a bound.
NEWEST = 10_000
# So many answers are read at a time.
PAGE = 200


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
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigurationError(f"STARBOARD_DATABASE_URL is not usable; {URLS}") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        try:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(_migrate)
            except (SQLAlchemyError, CommandError, OSError) as error:
                shown = engine.url.render_as_string(hide_password=True)
                why = _first_line(error)
                raise ConfigurationError(f"cannot open the database {shown}: {why}") from error
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
        if not ID.fullmatch(answer_id):
            raise AnswerNotFoundError("there is no answer of that id")
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

    async def answers(self) -> AsyncIterator[Answer]:
        """All answers, oldest first, without holding the database while one is looked at.

        One that is stored meanwhile may be missed, if its run had begun before the last one read.
        """
        last: rows.Row | None = None
        while page := await self._page_after(last):
            for row, candidate_rows in page:
                yield rows.answer_from(row, candidate_rows)
            last, _ = page[-1]

    async def _page_after(self, last: rows.Row | None) -> list[tuple[rows.Row, list[rows.Row]]]:
        answers, candidates = schema.answers, schema.candidates
        key = tuple_(answers.c.created, answers.c.id)
        page = select(answers).order_by(answers.c.created, answers.c.id).limit(PAGE)
        if last:
            page = page.where(key > (last["created"], last["id"]))
        its: dict[str, list[rows.Row]] = defaultdict(list)
        with _failures():
            async with self.engine.connect() as connection:
                found = (await connection.execute(page)).mappings().all()
                ids = [row["id"] for row in found]
                of_these = select(candidates).where(candidates.c.answer_id.in_(ids))
                ordered = await connection.execute(of_these.order_by(candidates.c.position))
                for row in ordered.mappings():
                    its[row["answer_id"]].append(row)
        return [(row, its[row["id"]]) for row in found]

    async def win_rates(self, members: Sequence[str]) -> dict[str, WinRate]:
        """How often each of these members' replies had the highest reward; whoever has not
        competed is left out.

        Counted are the newest `NEWEST` answers, if a scorer that can rank scored them and at
        least two of the members have a reward there for a reply that was not withheld. Of several
        samples a member's best counts. Members with the same highest reward share the win, so
        that the shares of one answer add up to one. By reward, not by who was selected: ties
        went by standing, which must not feed on itself.
        """
        with _failures():
            async with self.engine.connect() as connection:
                found = (await connection.execute(_win_rates(members))).all()
        return {member: WinRate(wins / competed, competed) for member, competed, wins in found}

    async def ping(self) -> None:
        """Raises `StoreError` if the database does not answer."""
        with _failures():
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))


def _win_rates(members: Sequence[str]) -> Select[str, int, float]:
    """Member, answers competed in, answers won."""
    answers, candidates = schema.answers, schema.candidates
    newest = (
        select(answers.c.id, answers.c.scorer["name"].as_string().label("scorer"))
        .order_by(answers.c.created.desc())
        .limit(bindparam(None, NEWEST, literal_execute=True))
        .subquery()
    )
    best = (
        select(
            candidates.c.answer_id,
            candidates.c.member,
            func.max(candidates.c.reward).label("reward"),
        )
        .join(newest, newest.c.id == candidates.c.answer_id)
        .where(
            newest.c.scorer.not_in(_written_out(CANNOT_RANK)),
            candidates.c.member.in_(members),
            candidates.c.reward.is_not(None),
            candidates.c.finish_reason.not_in(_written_out(WITHHELD)),
        )
        .group_by(candidates.c.answer_id, candidates.c.member)
        .subquery()
    )
    placed = select(
        best.c.member,
        best.c.reward,
        func.max(best.c.reward).over(partition_by=best.c.answer_id).label("highest"),
        func.count().over(partition_by=best.c.answer_id).label("competitors"),
        func.count().over(partition_by=(best.c.answer_id, best.c.reward)).label("equals"),
    ).subquery()
    won = case((placed.c.reward == placed.c.highest, literal(1.0) / placed.c.equals), else_=0.0)
    return (
        select(placed.c.member, func.count(), func.sum(won))
        .where(placed.c.competitors > 1)
        .group_by(placed.c.member)
    )


def _written_out(values: Sequence[str]) -> BindParameter[Sequence[str]]:
    """Values that are written into the statement.

    PostgreSQL plans a statement anew without its parameters once it has run five times. Not
    knowing these, it took hardly any reply to be left, and chose a plan that ran for minutes
    where the other takes half a second.
    """
    return bindparam(None, values, expanding=True, literal_execute=True)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
        # Not its text: a driver may quote the values it was given.
        log.error("the database failed: %s", type(getattr(error, "orig", None) or error).__name__)
        raise StoreError(f"the database failed: {type(error).__name__}") from error


def _first_line(error: Exception) -> str:
    """What the driver says went wrong: SQLAlchemy's own text goes on with statement and values."""
    said = str(getattr(error, "orig", None) or error).splitlines()
    return said[0] if said else type(error).__name__


def _migrate(connection: Connection) -> None:
    """Bring the schema up to date; of several processes starting at once, one after the other."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
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

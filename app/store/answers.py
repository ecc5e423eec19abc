"""`AnswerStore`: save, find and erase answers, on SQLite or PostgreSQL."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
    Table,
    bindparam,
    case,
    delete,
    event,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.domain import CANNOT_RANK, WITHHELD, Answer, Feedback, WinRate
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.store import rows, schema
from app.store.search import Filter, cursor_of, document_of, indexed, new_number, newest, number_at

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
        """Keep an answer. It is on disk, and found by its words, when this returns."""
        number = new_number(answer.created)
        words = indexed(self.engine.dialect.name, number, document_of(answer))
        with store_failures():
            async with self.engine.begin() as connection:
                await connection.execute(insert(schema.answers), rows.answer_row(answer))
                await connection.execute(insert(schema.candidates), rows.candidate_rows(answer))
                await connection.execute(insert(schema.listing), rows.listing_row(answer, number))
                if tags := rows.tag_rows(answer, number):
                    await connection.execute(insert(schema.tags), tags)
                await connection.execute(words)

    async def get(self, answer_id: str) -> Answer:
        """The answer of that id; raises `AnswerNotFoundError`."""
        one = select(schema.answers).where(schema.answers.c.id == _checked(answer_id))
        with store_failures():
            async with self.engine.connect() as connection:
                found = await _read(connection, one)
        if not found:
            raise AnswerNotFoundError(f"there is no answer {answer_id}")
        return found[0]

    async def answers(self, key_id: str | None = None) -> AsyncIterator[Answer]:
        """All answers, or those of one API key, oldest first, without holding the database while
        one is looked at.

        One that is stored meanwhile may be missed, if its run had begun before the last one read.
        """
        key = tuple_(schema.answers.c.created, schema.answers.c.id)
        first = select(schema.answers).order_by(*key).limit(PAGE)
        if key_id is not None:
            first = first.where(schema.answers.c.key_id == key_id)
        page = await self._page(first)
        while page:
            for answer in page:
                yield answer
            page = await self._page(first.where(key > (page[-1].created, page[-1].id)))

    async def _page(self, wanted: Select[*tuple[Any, ...]]) -> list[Answer]:
        with store_failures():
            async with self.engine.connect() as connection:
                return await _read(connection, wanted)

    async def newest(
        self, wanted: Filter, *, limit: int, cursor: str | None = None
    ) -> tuple[list[Answer], str | None]:
        """A page of the answers wanted, newest first, and the cursor of the next, None at the end.

        Raises `InvalidRequestError` if the cursor is none of ours, or `q` has no words.
        """
        below = number_at(cursor) if cursor is not None else None
        page = newest(wanted, self.engine.dialect.name, below=below, limit=limit + 1)
        with store_failures():
            async with self.engine.connect() as connection:
                if self.engine.dialect.name != "sqlite":
                    # How often a word stands there decides between two ways to look for it: a
                    # plan made without the word may be the wrong one.
                    await connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
                numbers = {row.answer_id: row.number for row in await connection.execute(page)}
                ids = list(numbers)[:limit]
                these = select(schema.answers).where(schema.answers.c.id.in_(ids))
                found = {answer.id: answer for answer in await _read(connection, these)}
        more = len(numbers) > limit
        # One that was erased a moment ago is listed no more.
        return [found[id_] for id_ in ids if id_ in found], (
            cursor_of(numbers[ids[-1]]) if more else None
        )

    async def add_feedback(self, answer_id: str, said: Feedback) -> None:
        """Keep what a person said of a stored answer."""
        of_it = schema.listing.c.answer_id == answer_id
        with store_failures():
            async with self.engine.begin() as connection:
                row = rows.feedback_row(answer_id, said)
                await connection.execute(insert(schema.feedback), row)
                marked = update(schema.listing).where(of_it).values(has_feedback=True)
                await connection.execute(marked)

    async def erase(self, answer_id: str) -> None:
        """Delete an answer with all that belongs to it; raises `AnswerNotFoundError`."""
        if not await self._erase([_checked(answer_id)]):
            raise AnswerNotFoundError(f"there is no answer {answer_id}")

    async def erase_all(self, wanted: Filter) -> int:
        """Delete the answers wanted with all that belongs to them; how many there were.

        A few at a time, so that answers can be stored meanwhile. A failure on the way leaves some
        of them; the same call again goes on.
        """
        page = newest(wanted, self.engine.dialect.name, below=None, limit=PAGE)
        erased = 0
        while True:
            with store_failures():
                async with self.engine.connect() as connection:
                    ids = [row.answer_id for row in await connection.execute(page)]
            if not ids:
                return erased
            erased += await self._erase(ids)

    async def _erase(self, ids: Sequence[str]) -> int:
        """The rows of other tables, and those of the full-text index, go with the answers'."""
        with store_failures():
            async with self.engine.begin() as connection:
                gone = delete(schema.answers).where(schema.answers.c.id.in_(ids))
                return (await connection.execute(gone)).rowcount

    async def win_rates(self, members: Sequence[str]) -> dict[str, WinRate]:
        """How often each of these members' replies had the highest reward; whoever has not
        competed is left out.

        Counted are the newest `NEWEST` answers, if a scorer that can rank scored them and at
        least two of the members have a reward there for a reply that was not withheld. Of several
        samples a member's best counts. Members with the same highest reward share the win, so
        that the shares of one answer add up to one. By reward, not by who was selected: ties
        went by standing, which must not feed on itself.
        """
        with store_failures():
            async with self.engine.connect() as connection:
                found = (await connection.execute(_win_rates(members))).all()
        return {member: WinRate(wins / competed, competed) for member, competed, wins in found}

    async def ping(self) -> None:
        """Raises `StoreError` if the database does not answer."""
        with store_failures():
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))


def _checked(answer_id: str) -> str:
    """The id, if it can be one: a database may refuse to look for what it cannot hold."""
    if not ID.fullmatch(answer_id):
        raise AnswerNotFoundError("there is no answer of that id")
    return answer_id


async def _read(connection: AsyncConnection, wanted: Select[*tuple[Any, ...]]) -> list[Answer]:
    """Whole answers from a selection of their rows, in its order."""
    found = (await connection.execute(wanted)).mappings().all()
    ids = [row["id"] for row in found]
    candidates = await _its(connection, schema.candidates, ids, "position")
    feedback = await _its(connection, schema.feedback, ids, "created", "id")
    return [rows.answer_from(row, candidates[row["id"]], feedback[row["id"]]) for row in found]


async def _its(
    connection: AsyncConnection, table: Table, ids: Sequence[str], *order: str
) -> Mapping[str, list[rows.Row]]:
    """A table's rows by the answer they belong to."""
    of_these = select(table).where(table.c.answer_id.in_(ids))
    its: dict[str, list[rows.Row]] = defaultdict(list)
    for row in (
        await connection.execute(of_these.order_by(*(table.c[name] for name in order)))
    ).mappings():
        its[row["answer_id"]].append(row)
    return its


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
def store_failures() -> Iterator[None]:
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

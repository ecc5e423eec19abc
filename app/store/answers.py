"""`AnswerStore`: save, find and erase answers, on SQLite or PostgreSQL."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Select,
    Table,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from app.domain import CANNOT_RANK, SHOWN, WITHHELD, Answer, Feedback, Summary, WinRate
from app.errors import AnswerNotFoundError, ConfigurationError, FeedbackError, StoreError
from app.store import rows, schema
from app.store.database import BUSY_MS, Database, database_of, patiently
from app.store.groups import Groups
from app.store.search import (
    WORDS,
    Filter,
    Phrase,
    add_words,
    cursor_of,
    document_of,
    new_number,
    newest,
    number_at,
)

log = logging.getLogger("starboard")

MIGRATIONS = Path(__file__).with_name("migrations")
URLS = "it must look like sqlite:///answers.db or postgresql://user@host/name"
ID = re.compile(r"[\w-]{1,40}")
# Any fixed number: it stands for "migrations of Starboard" among PostgreSQL's advisory locks.
MIGRATION_LOCK = 7_827_225
# Win rates are taken over so many of the newest answers: what a member did long ago says little
# of what stands behind its name today, and the query's cost has a bound.
NEWEST = 10_000
# So many answers are read at a time.
PAGE = 200
# How long SQLite waits for another process's migration.
MIGRATION_MS = 3_600_000
# So much is said of one answer, for all of it is read with the answer.
MOST_FEEDBACK = 64
# So many numbers are drawn for an answer until one is free.
DRAWS = 5
_INSERT = {table: insert(table) for table in (schema.answers, schema.candidates, schema.tags)}
_LISTED = {
    name: dialect.insert(schema.listing).on_conflict_do_nothing(
        index_elements=[schema.listing.c.number]
    )
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}


@dataclass(frozen=True)
class AnswerStore:
    """Answers with all their candidates and scores. Make one with `AnswerStore.open`."""

    database: Database
    _save: Callable[[tuple[Answer, Phrase]], Awaitable[None]]

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[AnswerStore]:
        """Connect and migrate forwards. `url` is SQLAlchemy's.

        Raises `ConfigurationError` if the database cannot be opened.
        """
        try:
            database = database_of(make_url(url))
        except (SQLAlchemyError, ImportError, ValueError) as error:
            lacks_driver = isinstance(error, ImportError) and error.name == "asyncpg"
            why = "PostgreSQL needs the extra `postgres`" if lacks_driver else URLS
            raise ConfigurationError(f"STARBOARD_DATABASE_URL is not usable; {why}") from error
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(database.opened(_set_up))
            except (SQLAlchemyError, CommandError, OSError) as error:
                shown = database.url.render_as_string(hide_password=True)
                why = _first_line(error)
                raise ConfigurationError(f"cannot open the database {shown}: {why}") from error
            if database.dialect != "sqlite":  # where many write at a time
                yield cls(database, lambda one: _save(database, [one]))
                return
            groups = Groups(partial(_save, database))
            stack.push_async_callback(groups.close)
            yield cls(database, groups.add)

    async def save(self, answer: Answer) -> None:
        """Keep an answer. It is on disk, and found by its words, when this returns.

        A connection that is lost is waited for, for `PATIENCE_S` seconds: the replies are paid for.
        """
        await self._save((answer, document_of(answer)))

    async def get(self, answer_id: str) -> Answer:
        """The answer of that id; raises `AnswerNotFoundError`."""
        one = select(schema.answers).where(schema.answers.c.id == _checked(answer_id))
        found = await self._page(one)
        if not found:
            raise AnswerNotFoundError(f"there is no answer {answer_id}")
        return found[0]

    async def find(self, ids: Sequence[str]) -> list[Answer]:
        """The answers of these ids that are stored, in any order."""
        found: list[Answer] = []
        for start in range(0, len(ids), PAGE):
            page = schema.answers.c.id.in_(ids[start : start + PAGE])
            found += await self._page(select(schema.answers).where(page))
        return found

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
        return await self.database.snapshot(lambda connection: _read(connection, wanted))

    async def newest(
        self, wanted: Filter, *, limit: int, cursor: str | None = None
    ) -> tuple[list[Summary], str | None]:
        """A page of the answers wanted, newest first, and the cursor of the next, None at the end.

        Raises `InvalidRequestError` if the cursor is none of ours, or `q` has no words.
        """
        below = number_at(cursor) if cursor is not None else None
        dialect = self.database.dialect
        page = newest(wanted, dialect, below=below, limit=limit + 1)

        def read(connection: Connection) -> tuple[dict[str, int], dict[str, Summary]]:
            if dialect != "sqlite":
                # How often a word stands there decides between two ways to look for it: a plan
                # made without the word may be the wrong one.
                connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
            numbers = {row.answer_id: row.number for row in connection.execute(page)}
            these = _summaries(dialect).where(schema.answers.c.id.in_(list(numbers)[:limit]))
            found = connection.execute(these).mappings()
            return numbers, {row["id"]: rows.summary_from(row) for row in found}

        numbers, found = await self.database.snapshot(read)
        ids = list(numbers)[:limit]
        more = len(numbers) > limit
        return [found[id_] for id_ in ids], cursor_of(numbers[ids[-1]]) if more else None

    async def add_feedback(self, answer_id: str, said: Feedback) -> None:
        """Keep what a person said of a stored answer; raises `AnswerNotFoundError`, or
        `FeedbackError` if `MOST_FEEDBACK` was said of it already."""
        of_it = schema.listing.c.answer_id == answer_id
        marked = update(schema.listing).where(of_it).values(has_feedback=True)
        its = schema.feedback.c.answer_id == answer_id
        there = select(func.count()).select_from(schema.feedback).where(its)

        def add(connection: Connection) -> None:
            if not connection.execute(marked).rowcount:
                raise AnswerNotFoundError(f"there is no answer {answer_id}")
            if connection.execute(there).scalar_one() >= MOST_FEEDBACK:
                raise FeedbackError(f"it was given {MOST_FEEDBACK} times")
            connection.execute(insert(schema.feedback), rows.feedback_row(answer_id, said))

        await self.database.write(add)

    async def erase(self, answer_id: str) -> None:
        """Delete an answer with all that belongs to it; raises `AnswerNotFoundError`."""
        if not await self._erase([_checked(answer_id)]):
            raise AnswerNotFoundError(f"there is no answer {answer_id}")

    async def erase_all(self, wanted: Filter) -> int:
        """Delete the answers wanted with all that belongs to them; how many there were.

        A few at a time, so that answers can be stored meanwhile. A failure on the way leaves some
        of them; the same call again goes on.
        """
        page = newest(wanted, self.database.dialect, below=None, limit=PAGE)

        def read(connection: Connection) -> list[str]:
            return [row.answer_id for row in connection.execute(page)]

        erased = 0
        while ids := await self.database.read(read):
            erased += await self._erase(ids)
        return erased

    async def _erase(self, ids: Sequence[str]) -> int:
        """The rows of other tables, and those of the full-text index, go with the answers'."""
        gone = delete(schema.answers).where(schema.answers.c.id.in_(ids))
        return await self.database.write(lambda connection: connection.execute(gone).rowcount)

    async def win_rates(self, members: Sequence[str]) -> dict[str, WinRate]:
        """How often each of these members' replies had the highest reward; whoever has not
        competed is left out.

        Counted are the newest `NEWEST` answers, if a scorer that can rank scored them and at
        least two of the members have a reward there for a reply that was not withheld. Of several
        samples a member's best counts. Members with the same highest reward share the win, so
        that the shares of one answer add up to one. By reward, not by who was selected: ties
        went by standing, which must not feed on itself.
        """
        rates = _win_rates(members)
        found = await self.database.read(lambda connection: connection.execute(rates).all())
        return {member: WinRate(wins / competed, competed) for member, competed, wins in found}

    async def ping(self) -> None:
        """Raises `StoreError` if the database does not answer."""
        await self.database.read(lambda connection: connection.execute(text("SELECT 1")).all())


def _checked(answer_id: str) -> str:
    """The id, if it can be one: a database may refuse to look for what it cannot hold."""
    if not ID.fullmatch(answer_id):
        raise AnswerNotFoundError("there is no answer of that id")
    return answer_id


async def _save(database: Database, group: Sequence[tuple[Answer, Phrase]]) -> None:
    await patiently(lambda again: database.write(partial(_insert, group=group, again=again)))


def _insert(connection: Connection, *, group: Sequence[tuple[Answer, Phrase]], again: bool) -> None:
    if again:  # the connection may have been lost after the commit
        ids = [answer.id for answer, _ in group]
        there = select(schema.answers.c.id).where(schema.answers.c.id.in_(ids))
        stored = set(connection.execute(there).scalars())
        group = [one for one in group if one[0].id not in stored]
    answers = [answer for answer, _ in group]
    _insert_all(connection, schema.answers, [rows.answer_row(answer) for answer in answers])
    candidates = [row for answer in answers for row in rows.candidate_rows(answer)]
    _insert_all(connection, schema.candidates, candidates)
    add_words(connection, [(_list(connection, answer), words) for answer, words in group])


def _insert_all(connection: Connection, table: Table, these: Sequence[rows.Row]) -> None:
    if these:
        connection.execute(_INSERT[table], these)


def _list(connection: Connection, answer: Answer) -> int:
    """Put an answer that is stored into the listing, with its tags; the number it has there."""
    if_free = _LISTED[connection.dialect.name]
    for _ in range(DRAWS):
        number = new_number(answer.created)
        if connection.execute(if_free, rows.listing_row(answer, number)).rowcount:
            _insert_all(connection, schema.tags, rows.tag_rows(answer, number))
            return number
    raise StoreError("no number is free for the answer's time")


def _index_missing(connection: Connection) -> None:
    """List what is not listed, and index what has no words in the index: the answers from before
    there was either, or from before words were cut out as they are now.

    Not a part of the migrations, for it goes by the tables and the code of today.
    """
    answers, listing = schema.answers, schema.listing
    unlisted = select(answers).outerjoin(listing, listing.c.answer_id == answers.c.id)
    unlisted = unlisted.where(listing.c.number.is_(None)).order_by(answers.c.id).limit(PAGE)
    last = ""
    while found := _read(connection, unlisted.where(answers.c.id > last)):
        last = found[-1].id
        for answer in found:
            _list(connection, answer)
    indexed_as = WORDS.c.rowid if connection.dialect.name == "sqlite" else WORDS.c.number
    unindexed = select(listing.c.number, listing.c.answer_id)
    unindexed = unindexed.outerjoin(WORDS, indexed_as == listing.c.number)
    unindexed = unindexed.where(indexed_as.is_(None)).order_by(listing.c.number).limit(PAGE)
    below = -1
    while page := connection.execute(unindexed.where(listing.c.number > below)).all():
        below = page[-1].number
        numbers = {row.answer_id: row.number for row in page}
        found = _read(connection, select(answers).where(answers.c.id.in_(list(numbers))))
        add_words(connection, [(numbers[one.id], document_of(one)) for one in found])


def _read(connection: Connection, wanted: Select[*tuple[Any, ...]]) -> list[Answer]:
    """Whole answers from a selection of their rows, in its order."""
    found = connection.execute(wanted).mappings().all()
    ids = [row["id"] for row in found]
    candidates = _its(connection, schema.candidates, ids, "position")
    feedback = _its(connection, schema.feedback, ids, "created", "id")
    return [rows.answer_from(row, candidates[row["id"]], feedback[row["id"]]) for row in found]


def _its(
    connection: Connection, table: Table, ids: Sequence[str], *order: str
) -> Mapping[str, list[rows.Row]]:
    """A table's rows by the answer they belong to."""
    of_these = select(table).where(table.c.answer_id.in_(ids))
    its: dict[str, list[rows.Row]] = defaultdict(list)
    for row in connection.execute(of_these.order_by(*(table.c[name] for name in order))).mappings():
        its[row["answer_id"]].append(row)
    return its


def _summaries(dialect: str) -> Select[*tuple[Any, ...]]:
    """The columns of a `Summary`. Long texts are cut by the database, and not read."""
    answers, candidates, said = schema.answers, schema.candidates, schema.feedback
    turn = column("value", JSON)
    each = (
        func.json_each(answers.c.messages).table_valued("key", turn)
        if dialect == "sqlite"
        else func.json_array_elements(answers.c.messages)
        .table_valued(turn, with_ordinality="key")
        .render_derived()
    )
    asked = (
        select(func.substr(each.c.value["content"].as_string(), 1, SHOWN))
        .where(each.c.value["role"].as_string() == "user")
        .order_by(each.c.key.desc())
        .limit(1)
        .scalar_subquery()
    )
    counted = select(func.count()).where(said.c.answer_id == answers.c.id).scalar_subquery()
    won = candidates.c.id == answers.c.selection["winner"].as_string()
    return select(
        answers.c.id,
        answers.c.created,
        asked.label("prompt"),
        func.substr(candidates.c.text, 1, SHOWN).label("reply"),
        candidates.c.member,
        candidates.c.model,
        candidates.c.reward,
        answers.c.scorer["name"].as_string().label("scorer"),
        answers.c.selection["strategy"].as_string().label("strategy"),
        answers.c.quality,
        answers.c.tags,
        answers.c.key_id,
        counted.label("feedback"),
    ).outerjoin(candidates, won & (candidates.c.answer_id == answers.c.id))


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


def _first_line(error: Exception) -> str:
    """What the driver says went wrong: SQLAlchemy's own text goes on with statement and values."""
    said = str(getattr(error, "orig", None) or error).splitlines()
    return said[0] if said else type(error).__name__


def _set_up(connection: Connection) -> None:
    if _migrate(connection):
        _index_missing(connection)
        connection.commit()


def _migrate(connection: Connection) -> bool:
    """Bring the schema up to date, under a lock that lasts until the transaction ends: of several
    processes starting at once, one after the other. False if it was up to date."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() == newest:
        return False
    log.info("bringing the database up to date, or waiting for another process that does")
    connection.rollback()  # what was read began a transaction
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {MIGRATION_MS}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")
    else:
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True

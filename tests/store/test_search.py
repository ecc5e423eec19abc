"""Listing, searching, feedback and erasing, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, select, text

from app.domain import Answer, Attributes, Feedback
from app.errors import AnswerNotFoundError, InvalidRequestError, StoreError
from app.store import AnswerStore, Filter, schema
from app.store import answers as answers_module
from app.store.idempotency import Idempotency
from app.store.search import LAST, cursor_of, number_at, words_of
from tests.samples import answer, competition, prompt, scored

START = datetime(2026, 11, 22, 13, 5, tzinfo=UTC)
EVERYTHING = ("answers", "candidates", "listing", "tags", "feedback", "words")


def asked(
    number: int,
    question: str = "Why?",
    reply: str = "Because.",
    *,
    member: str = "a",
    strategy: str = "best_of_n",
    **values: Any,
) -> Answer:
    """An answer of that minute, won by that member with that reply."""
    one = competition(number, scored(member, 2.0, text=reply), scored("z", 1.0), minute=number)
    selection = replace(one.selection, winner=f"comp_{number}_0", strategy=strategy)
    defaults: dict[str, Any] = {
        "prompt": prompt(question),
        "selection": selection,
        "quality": "full",
        "tags": {},
        "key_id": None,
    }
    return replace(one, **(defaults | values))


def said(number: int = 1, **values: Any) -> Feedback:
    moment = START + timedelta(days=1, minutes=number)
    return Feedback(f"fb_{number}", moment, **({"thumb": "up"} | values))


async def found(store: AnswerStore, **wanted: Any) -> list[int]:
    """Numbers of the answers found."""
    page, _ = await store.newest(Filter(**wanted), limit=50)
    return [int(one.id.removeprefix("comp_")) for one in page]


async def save(store: AnswerStore, *answers: Answer) -> None:
    for one in answers:
        await store.save(one)


async def count(store: AnswerStore) -> dict[str, int]:
    async with store.engine.connect() as connection:
        rows = {
            name: await connection.execute(text(f"SELECT count(*) FROM {name}"))  # noqa: S608
            for name in EVERYTHING
        }
    return {name: counted for name, row in rows.items() if (counted := row.scalar_one())}


async def test_answers_are_listed_newest_first_whole_and_in_pages(store: AnswerStore) -> None:
    saved = [asked(n) for n in range(5)]
    await save(store, *(saved[n] for n in (3, 0, 4, 1, 2)))
    seen: list[Answer] = []
    cursor, pages = None, 0
    while cursor or not pages:
        page, cursor = await store.newest(Filter(), limit=2, cursor=cursor)
        seen, pages = seen + page, pages + 1
        await store.save(asked(10 + pages))  # what is stored meanwhile moves nothing
    assert (seen, pages) == (saved[::-1], 3)


async def test_a_page_that_is_full_and_the_last_has_no_next(store: AnswerStore) -> None:
    await save(store, asked(1), asked(2))
    assert (await store.newest(Filter(), limit=2))[1] is None
    assert (await store.newest(Filter(), limit=1))[1] is not None


async def test_answers_of_one_moment_are_all_listed(store: AnswerStore) -> None:
    await save(store, *(replace(asked(n), created=START) for n in range(9)))
    first, cursor = await store.newest(Filter(), limit=5)
    rest, end = await store.newest(Filter(), limit=5, cursor=cursor)
    assert len({one.id for one in first + rest}) == 9
    assert end is None


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"member": "b"}, [1]),
        ({"member": "z"}, []),
        ({"strategy": "fuse"}, [2]),
        ({"quality": "degraded"}, [3]),
        ({"quality": "degraded", "member": "b"}, []),
        ({"tags": [("user", "u1")]}, [4, 3]),
        ({"tags": [("user", "u1"), ("app", "x")]}, [4]),
        ({"tags": [("user", "u1"), ("user", "u2")]}, []),
        ({"tags": [("u1", "user")]}, []),
        ({"key_id": "key_2"}, [2, 1]),
        ({"key_id": "key_2", "member": "b"}, [1]),
        ({"key_id": "key_2", "q": "why", "strategy": "fuse"}, [2]),
        ({"key_id": "key_2", "tags": [("user", "u1")]}, []),
        ({"key_id": "key_none"}, []),
        ({"feedback": True}, [3]),
        ({"feedback": False}, [4, 2, 1, 0]),
        ({"since": START + timedelta(minutes=3)}, [4, 3]),
        ({"until": START + timedelta(minutes=1)}, [0]),
        ({"since": START + timedelta(minutes=1), "until": START + timedelta(minutes=3)}, [2, 1]),
        ({"since": datetime(9999, 1, 1, tzinfo=UTC)}, []),
        ({"until": datetime(1, 1, 2, tzinfo=UTC)}, []),
        ({"q": "why", "tags": [("user", "u1")], "since": START + timedelta(minutes=4)}, [4]),
        ({"q": "why", "tags": [("user", "u1")], "feedback": True}, [3]),
    ],
)
async def test_filters(store: AnswerStore, wanted: dict[str, Any], numbers: list[int]) -> None:
    await save(
        store,
        asked(0),
        asked(1, member="b", key_id="key_2"),
        asked(2, strategy="fuse", key_id="key_2"),
        asked(3, quality="degraded", tags={"user": "u1"}),
        asked(4, tags={"user": "u1", "app": "x"}),
    )
    await store.add_feedback("comp_3", said())
    assert await found(store, **wanted) == numbers


@pytest.mark.parametrize(
    ("q", "numbers"),
    [
        ("SKY blue", [1, 0]),
        ('"sky blue"', [0]),
        ("blue-sky", [1]),
        ("light", [0]),  # in the reply that was chosen
        ("reply", []),  # in the one that was not
        ("brief", [3]),  # in the system text
        ("café", [2]),
        ("CAFE\u0301", [2]),  # one spelling, composed differently
        ("cafe", []),
        ("don't", [2]),
        ("3.14", [2]),
        ("a_b@example.org", [2]),
        ("天空", [4]),
        ("空天", []),
        ("' OR \"", [2]),
        ("NOT sky", []),
        ("sk*", []),
        ("sky AND(", [0]),
    ],
)
async def test_words_are_found_alike_on_every_database(
    store: AnswerStore, q: str, numbers: list[int]
) -> None:
    await save(
        store,
        asked(0, "Why is the Sky blue, and the sea?", "Light scatters."),
        asked(1, "Is blue sky rare?", "No."),
        asked(2, "Or the café: I don't know 3.14", "a_b@example.org"),
        asked(3, prompt=prompt("Why?", "Be brief.")),
        asked(4, "为什么天空是蓝色的?"),
    )
    assert await found(store, q=q) == numbers


@pytest.mark.parametrize("q", ["", "  ", '""', "?!", "'"])
async def test_a_search_for_no_word_is_refused(store: AnswerStore, q: str) -> None:
    with pytest.raises(InvalidRequestError, match="no word"):
        await found(store, q=q)


async def test_a_text_of_any_length_is_stored_and_found_by_its_ends(store: AnswerStore) -> None:
    many = " ".join(f"word{n}" for n in range(200_000))
    await save(store, asked(1, f"{many} last", f"first {many}"), asked(2, "x" * 5000, "y" * 99_999))
    assert await found(store, q="first last") == [1]


@pytest.mark.parametrize("number", [0, 1, 2**40, LAST])
def test_a_cursor_stands_for_a_number(number: int) -> None:
    assert number_at(cursor_of(number)) == number


@pytest.mark.parametrize(
    "cursor", ["", "x", "ä", "A" * 400, "__________8", "AAAAAAAAAAE=", "AAAAAAAAAAF"]
)
async def test_a_cursor_that_is_none_is_refused(store: AnswerStore, cursor: str) -> None:
    with pytest.raises(InvalidRequestError, match="next"):
        await store.newest(Filter(), limit=1, cursor=cursor)


def test_words() -> None:
    assert words_of("It's ½ of 天空 & Straße_2") == (
        *("it", "s", "1", "2", "of", "天", "空", "strasse", "2"),
    )


async def test_feedback_comes_back_with_its_answer_oldest_first(store: AnswerStore) -> None:
    await save(store, asked(1), asked(2))
    rated = said(
        2, better="comp_1_1", ratings=Attributes(4, 3, 2, 1, 0), corrected="So.", comment="No."
    )
    await store.add_feedback("comp_1", rated)
    await store.add_feedback("comp_1", said(1, thumb="down"))
    assert (await store.get("comp_1")).feedback == (said(1, thumb="down"), rated)
    assert (await store.get("comp_2")).feedback == ()


async def test_feedback_on_no_answer_is_an_error(store: AnswerStore) -> None:
    with pytest.raises(StoreError):
        await store.add_feedback("comp_1", said())
    assert await count(store) == {}


async def test_erasing_leaves_nothing_of_an_answer_and_all_of_others(store: AnswerStore) -> None:
    await save(store, asked(1, "secret", tags={"user": "v"}))
    await store.add_feedback("comp_1", said(1))
    before = await count(store)
    await store.save(asked(2, "secret", tags={"user": "u"}))
    await store.add_feedback("comp_2", said(2))
    assert set(await count(store)) == set(EVERYTHING)
    await store.erase("comp_2")
    assert await count(store) == before
    assert await found(store, q="secret") == [1]
    for unknown in ("comp_2", "\0"):
        with pytest.raises(AnswerNotFoundError):
            await store.erase(unknown)


async def test_erasing_by_tag_or_age(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several pages, the last one full."""
    monkeypatch.setattr(answers_module, "PAGE", 2)
    await save(store, *(asked(n, tags={"user": f"u{n % 2}"}) for n in range(8)))
    assert await store.erase_all(Filter(tags=[("user", "u1")])) == 4
    assert await store.erase_all(Filter(tags=[("user", "u1")])) == 0
    assert await store.erase_all(Filter(until=START + timedelta(minutes=4))) == 2
    assert await found(store) == [6, 4]


async def test_erasing_by_key_leaves_nothing_of_its_answers_and_all_of_others(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PAGE", 2)
    keys = (None, "key_1", "key_2", "key_1", "key_1")
    for number, key_id in enumerate(keys):
        await store.save(asked(number, "secret", tags={"user": "u"}, key_id=key_id))
        await store.add_feedback(f"comp_{number}", said(number))
    before = await count(store)
    assert await store.erase_all(Filter(key_id="key_1")) == 3
    assert await store.erase_all(Filter(key_id="key_1")) == 0
    assert await count(store) == {name: rows * 2 // 5 for name, rows in before.items()}
    assert await found(store, q="secret") == [2, 0]


async def test_the_answers_of_one_key_are_read_oldest_first(store: AnswerStore) -> None:
    keys = ("key_1", "key_2", "key_1", None)
    await save(store, *(asked(n, key_id=key_id) for n, key_id in enumerate(keys)))
    assert [one.id async for one in store.answers("key_1")] == ["comp_0", "comp_2"]


def set_back(connection: Connection, revision: str) -> None:
    """Make the database what it was under that revision, with the rows it has."""
    kept = {
        t: connection.execute(select(t)).mappings().all() for t in schema.metadata.sorted_tables
    }
    connection.exec_driver_sql("DROP TABLE words")
    schema.metadata.drop_all(connection)
    command.stamp(alembic(connection), "base")
    command.upgrade(alembic(connection), revision)
    there = inspect(connection)
    for table, rows in kept.items():
        if there.has_table(table.name) and rows:
            columns = {column["name"] for column in there.get_columns(table.name)}
            old = [{n: v for n, v in row.items() if n in columns} for row in rows]
            connection.execute(table.insert(), old)


def alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(answers_module.MIGRATIONS))
    config.attributes["connection"] = connection
    return config


async def test_answers_from_before_their_keys_were_kept_have_none(store: AnswerStore) -> None:
    old = replace(answer("comp_1"), key_id=None, cost_bound_usd=None)
    await save(store, old)
    idempotency = Idempotency(store.engine)
    await idempotency.finish(await idempotency.claim("key_1", "kept", "d", 60), "comp_1")

    def migrate(connection: Connection) -> None:
        set_back(connection, "0005")
        kept = connection.execute(select(schema.idempotency)).mappings().one()
        erased = {**kept, "key": "erased", "answer_id": "ans_erased"}  # it used to stay behind
        connection.execute(schema.idempotency.insert(), erased)
        command.upgrade(alembic(connection), "head")

    async with store.engine.begin() as connection:
        await connection.run_sync(migrate)
    assert await store.get("comp_1") == old
    await store.save(asked(2, key_id="key_1"))
    assert await found(store, key_id="key_1") == [2]
    assert (await idempotency.claim("key_1", "kept", "d", 60)).answer_id == "comp_1"
    assert (await idempotency.claim("key_1", "erased", "d", 60)).owner
    await store.erase("comp_1")
    assert (await idempotency.claim("key_1", "kept", "d", 60)).owner


async def test_answers_from_before_there_was_a_listing_are_found(
    store: AnswerStore,
) -> None:
    saved = [
        asked(1, "Why is the sky blue?", "Light.", tags={"user": "u1"}),
        replace(asked(2), selection=replace(asked(2).selection, winner=None)),
        replace(answer(), id="comp_3", key_id=None, cost_bound_usd=None),
    ]
    await save(store, *saved)

    def migrate(connection: Connection) -> None:
        set_back(connection, "0004")
        command.upgrade(alembic(connection), "head")

    async with store.engine.begin() as connection:
        await connection.run_sync(migrate)
    assert await found(store, since=START + timedelta(minutes=1)) == [2, 1]
    assert await found(store, q="sky light", tags=[("user", "u1")], member="a") == [1]
    page, _ = await store.newest(Filter(member="claude", since=START), limit=5)
    assert page == [saved[2]]

"""Listing, searching, feedback and erasing, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, inspect, make_url, select, text

from app.domain import SHOWN, Answer, Attributes, Feedback, Message, Prompt, Summary
from app.errors import AnswerNotFoundError, FeedbackError, InvalidRequestError, StoreError
from app.store import AnswerStore, Filter, schema
from app.store import answers as answers_module
from app.store.idempotency import Idempotency
from app.store.search import CHARACTERS, LAST, cursor_of, newest, number_at, words_of
from tests.samples import answer, competition, prompt, scored

START = datetime(2026, 11, 22, 13, 5, tzinfo=UTC)
ON_STORAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
# Of a key and of a value, at most (app/api/documents.py).
TAG_CHARACTERS = (64, 512)
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
    def counted(connection: Connection) -> dict[str, int]:
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()  # noqa: S608
            for name in EVERYTHING
        }

    rows = await store.database.snapshot(counted)
    return {name: number for name, number in rows.items() if number}


async def test_answers_are_listed_newest_first_and_in_pages(store: AnswerStore) -> None:
    saved = [asked(n) for n in range(5)]
    await save(store, *(saved[n] for n in (3, 0, 4, 1, 2)))
    seen: list[str] = []
    cursor, pages = None, 0
    while cursor or not pages:
        page, cursor = await store.newest(Filter(), limit=2, cursor=cursor)
        seen, pages = [*seen, *(one.id for one in page)], pages + 1
        await store.save(asked(10 + pages))  # what is stored meanwhile moves nothing
    assert (seen, pages) == ([one.id for one in saved[::-1]], 3)


async def test_a_list_has_the_beginnings_of_texts_and_a_count_of_feedback(
    store: AnswerStore,
) -> None:
    long, tags = "蓝\U0001f535" * 200, {"user": "ä:=", "": ""}
    turns = (
        Message("user", "Hello?"),
        Message("assistant", "Hello."),
        Message("user", "Which?"),
        Message("user", f'"{long}'),  # neighbours are one turn to members
        Message("system", "Be brief."),
    )
    one = replace(asked(1, reply=long, tags=tags, key_id="key_1"), prompt=Prompt(turns))
    nothing = replace(asked(2), selection=replace(asked(2).selection, winner=None))
    await save(store, one, nothing)
    for n in range(3):
        await store.add_feedback("comp_1", said(n, comment="long" * 1000))
    page, _ = await store.newest(Filter(), limit=2)
    listed = Summary(
        id="comp_1",
        created=one.created,
        prompt=f'"{long}'[:SHOWN],
        reply=long[:SHOWN],
        member="a",
        model="model-a",
        reward=2.0,
        scorer="judge:x",
        strategy="best_of_n",
        quality="full",
        tags=tags,
        key_id="key_1",
        feedback=3,
    )
    unknown: dict[str, Any] = dict.fromkeys(("reply", "member", "model", "reward", "key_id"))
    lost = replace(
        listed, id="comp_2", created=nothing.created, prompt="Why?", tags={}, feedback=0, **unknown
    )
    assert page == [lost, listed]


async def test_an_answer_takes_so_much_feedback(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "MOST_FEEDBACK", 2)
    await save(store, asked(1), asked(2))
    for n in range(2):
        await store.add_feedback("comp_1", said(n))
    with pytest.raises(FeedbackError, match="2 times"):
        await store.add_feedback("comp_1", said(3))
    await store.add_feedback("comp_2", said(3))
    assert (await count(store))["feedback"] == 3


async def test_the_longest_tags_are_kept_and_found(store: AnswerStore) -> None:
    """Of letters of four bytes each, which do not pack; B-trees of PostgreSQL are narrow."""
    draw = random.Random(0)
    longest = TAG_CHARACTERS
    key, value = ("".join(chr(draw.randrange(0x20000, 0x2A000)) for _ in range(n)) for n in longest)
    await save(store, asked(1, tags={key: value}))
    assert await found(store, tags=[(key, value)]) == [1]


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
        ({"tags": [("user", "u1")], "member": "a"}, [4, 3]),
        ({"tags": [("user", "u1")], "member": "b"}, []),
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
        ("々𠀁", [5]),  # beyond the first 65,536 characters
        ("𠀁𠀀", []),
        ("काल", [5]),
        ("कील", []),
        ("ẹ́kọ́", [5]),
        ("ẹkọ", []),
        ("istanbul", []),
        ("İSTANBUL", [5]),
        ("𞤀𞤣𞤤𞤢𞤥", [5]),  # Adlam, which younger versions of Unicode have
        ("𞤀𞤣", []),
        ("ශ්රී", [5]),  # written with a joiner
        ("co-operate", []),
        ("cooperate", [5]),  # written with a soft hyphen
        ("น้ำ", [5]),  # Thai, within a sentence
        ("นำ", []),
        ("가" * 700, [6]),
        ("가" * 699, []),
        (f"blue {'가' * 701}", []),
        ('"bottom up"', []),  # over the seams of two turns, and of prompt and reply
        ('"down strange"', []),
        ('"strange charm"', [7]),
        ("bottom strange", [7]),
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
        asked(5, "人々𠀀々𠀁 काल ẹ́kọ́ İstanbul", "𞤀𞤣𞤤𞤢𞤥 ශ්\u200dරී co\u00adoperate เขาดื่มน้ำทุกวัน"),
        asked(6, "Blue: " + "가" * 700),
        asked(7, "Up down", "Strange charm", prompt=prompt("Up, down", "Top, bottom")),
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


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_any_text(text: str) -> None:
    assert words_of(f"ä {text}") == ("ä", *words_of(text))


@pytest.mark.parametrize(
    "accents",
    [
        "\u0301" * CHARACTERS + "\u0323" * CHARACTERS,
        "\u0301\uff9e" * CHARACTERS,  # the second becomes one
        "\u0301\u200d\u0323" * CHARACTERS,  # with joiners between
    ],
)
def test_words_of_nothing_but_accents_take_no_time(accents: str) -> None:
    """Putting so many in order takes some tens of seconds of the processor's time."""
    began = time.process_time()
    (word,) = words_of(f"e{accents}")
    assert time.process_time() - began < 5
    assert len(word) <= 31


async def test_an_answer_whose_number_is_taken_gets_another(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = (
        replace(asked(n), created=START, tags={"user": f"u{n}"}) for n in range(1, 4)
    )
    drawn = iter([7, 7, 7, 6])
    monkeypatch.setattr("app.store.search.secrets.randbits", lambda _: next(drawn))
    await save(store, one, other)
    assert await found(store, q="why") == [1, 2]
    assert await found(store, q="why", tags=[("user", "u2")]) == [2]
    monkeypatch.setattr("app.store.search.secrets.randbits", lambda _: 7)
    with pytest.raises(StoreError, match="number"):
        await store.save(third)
    with pytest.raises(AnswerNotFoundError):
        await store.get("comp_3")


@pytest.mark.parametrize("order", [("user", "app"), ("app", "user")])
async def test_of_two_tags_the_rarer_is_walked_in_either_order(
    database_url: str, order: tuple[str, str]
) -> None:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    tags = {"user": "u1", "app": "x"}
    wanted = Filter(tags=[(key, tags[key]) for key in order])
    page = newest(wanted, "sqlite", below=None, limit=20)

    def walk(connection: Connection) -> int:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(step, 1)
        return len(connection.execute(page).all())

    async with AnswerStore.open(database_url) as store:
        await save(store, *(asked(n, tags={"app": "x"}) for n in range(200)), asked(200, tags=tags))
        assert await store.database.read(walk) == 1
    assert 0 < steps < 1000  # of SQLite's machine, which takes ten to walk over an answer


async def test_feedback_comes_back_with_its_answer_oldest_first(store: AnswerStore) -> None:
    await save(store, asked(1), asked(2))
    rated = said(
        2, better="comp_1_1", ratings=Attributes(4, 3, 2, 1, 0), corrected="So.", comment="No."
    )
    await store.add_feedback("comp_1", rated)
    await store.add_feedback("comp_1", said(1, thumb="down"))
    assert (await store.get("comp_1")).feedback == (said(1, thumb="down"), rated)
    assert (await store.get("comp_2")).feedback == ()


async def test_feedback_on_no_answer_finds_none(store: AnswerStore) -> None:
    with pytest.raises(AnswerNotFoundError):
        await store.add_feedback("comp_1", said())


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
    idempotency = Idempotency(store.database)
    await idempotency.finish(await idempotency.claim("key_1", "kept", "d", 60, "ans_9"), "comp_1")

    def migrate(connection: Connection) -> None:
        set_back(connection, "0005")
        connection.exec_driver_sql(  # it used to stay behind
            "INSERT INTO idempotency (scope, key, digest, owner, expires, answer_id, created)"
            " SELECT scope, 'erased', digest, owner, expires, 'ans_erased', created"
            " FROM idempotency"
        )
        command.upgrade(alembic(connection), "head")

    await store.database.write(migrate)
    assert await store.get("comp_1") == old
    await store.save(asked(2, key_id="key_1"))
    assert await found(store, key_id="key_1") == [2]
    assert (await idempotency.claim("key_1", "kept", "d", 60, "ans_9")).answer_id == "comp_1"
    assert (await idempotency.claim("key_1", "erased", "d", 60, "ans_9")).owner
    await store.erase("comp_1")
    assert (await idempotency.claim("key_1", "kept", "d", 60, "ans_9")).owner


async def test_what_the_page_on_storage_says_takes_erased_words_out_of_the_file(
    database_url: str,
) -> None:
    (statements,) = re.findall(r"```sql\n(.*?)```", ON_STORAGE, re.DOTALL)
    file = Path(make_url(database_url).database or "")
    async with AnswerStore.open(database_url) as store:
        await save(store, asked(1, "Unmistakable?"), asked(2))
        await store.erase("comp_1")
        assert b"unmistakable" in _bytes_of(file)
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            for statement in statements.split(";")[:-1]:
                connection.execute(statement)
        assert b"nmistakable" not in _bytes_of(file)
        assert await found(store, q="why") == [2]


def _bytes_of(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))


@asynccontextmanager
async def opened_again(store: AnswerStore) -> AsyncIterator[AnswerStore]:
    url = store.database.url.render_as_string(hide_password=False)
    async with AnswerStore.open(url) as again:
        yield again


async def test_answers_from_before_there_was_a_listing_are_found(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PAGE", 2)
    saved = [
        asked(1, "Why is the sky blue?", "Light.", tags={"user": "u1"}),
        replace(asked(2), selection=replace(asked(2).selection, winner=None)),
        replace(answer(), id="comp_3", key_id=None, cost_bound_usd=None),
    ]
    await save(store, *saved)
    await store.database.write(lambda connection: set_back(connection, "0004"))
    async with opened_again(store) as again:
        assert await found(again, since=START + timedelta(minutes=1)) == [2, 1]
        assert await found(again, q="sky light", tags=[("user", "u1")], member="a") == [1]
        assert await found(again, member="claude", since=START) == [3]
        assert await again.get("comp_3") == saved[2]


async def test_an_index_whose_words_were_cut_out_otherwise_is_built_anew(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers that there were, so that a cursor goes on where it was."""
    monkeypatch.setattr(answers_module, "PAGE", 2)
    await save(store, *(asked(n, "Was ist काल?", tags={"user": f"u{n}"}) for n in range(5)))
    await store.add_feedback("comp_1", said())
    _, cursor = await store.newest(Filter(), limit=3)

    def as_it_was(connection: Connection) -> None:
        set_back(connection, "0005")
        place, cut = "number", "'क':1 'ल':2"
        if connection.dialect.name == "sqlite":
            place, cut = "rowid", "क ल"
        numbers = connection.execute(select(schema.listing.c.number)).scalars().all()
        for number in numbers:
            old = f"INSERT INTO words ({place}, document) VALUES ({number}, $${cut}$$)"  # noqa: S608
            connection.exec_driver_sql(old.replace("$$", "'") if place == "rowid" else old)

    await store.database.write(as_it_was)
    async with opened_again(store) as again:
        assert await found(again, q="काल", tags=[("user", "u3")]) == [3]
        assert await found(again, q="ल") == []
        assert await found(again, feedback=True) == [1]
        page, _ = await again.newest(Filter(q="ist"), limit=5, cursor=cursor)
        assert [one.id for one in page] == ["comp_1", "comp_0"]
        await again.erase("comp_1")
        assert (await count(again))["words"] == 4


def test_migrations_do_not_go_by_code_that_may_change() -> None:
    for path in answers_module.MIGRATIONS.glob("versions/*.py"):
        assert not re.search(r"^\s*(from|import) app\b", path.read_text(), re.MULTILINE), path

"""The store, on real SQLite and on real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event, func, select, text

from app.domain import CANNOT_RANK, WITHHELD, Answer, Plan, ScorerInfo, WinRate
from app.errors import AnswerNotFoundError, ConfigurationError, StoreError
from app.store import AnswerStore, schema
from app.store import answers as answers_module
from tests.samples import answer, competition, failed, scored


async def test_an_answer_comes_back_as_it_was_saved(store: AnswerStore) -> None:
    saved = answer()
    await store.save(saved)
    assert await store.get(saved.id) == saved


async def test_answers_are_found_by_many_ids(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PAGE", 3)
    saved = [answer(f"ans_{number}") for number in range(8)]
    for one in saved:
        await store.save(one)
    ids = [one.id for one in saved[::2]] + [f"ans_{number}" for number in range(50, 60)]
    assert sorted(await store.find(ids), key=lambda one: one.id) == saved[::2]
    assert await store.find([]) == []


async def test_an_answer_from_before_there_were_ladders_comes_back(store: AnswerStore) -> None:
    await store.save(answer())
    scorer = {"name": "n", "model": "m", "scale": "helpsteer", "resolution": 0.1, "note": None}
    older = schema.answers.update().values(scorer=scorer)
    await store.database.write(lambda connection: connection.execute(older).rowcount)
    assert (await store.get(answer().id)).scorer == ScorerInfo("n", "m", "helpsteer", 0.1)


async def test_a_plan_from_before_there_were_standings_comes_back(store: AnswerStore) -> None:
    await store.save(answer())
    new = {"standing", "win_rates", "no_standing"}
    plan = {name: value for name, value in asdict(Plan(("a",))).items() if name not in new}
    older = schema.answers.update().values(plan=plan)
    await store.database.write(lambda connection: connection.execute(older).rowcount)
    assert (await store.get(answer().id)).plan == Plan(("a",))


async def rates(
    store: AnswerStore, *competitions: Answer, members: str = "abc"
) -> dict[str, WinRate]:
    for one in competitions:
        await store.save(one)
    return await store.win_rates(tuple(members))


async def test_the_highest_reward_wins_and_equals_share(store: AnswerStore) -> None:
    found = await rates(
        store,
        competition(1, scored("a", 1.0), scored("b", 2.0), scored("c", -3.0)),
        competition(2, scored("a", -1.0), scored("b", -2.0)),
        competition(3, scored("a", 5.0), scored("b", 5.0)),
    )
    assert found == {"a": WinRate(0.5, 3), "b": WinRate(0.5, 3), "c": WinRate(0.0, 1)}


async def test_the_highest_reward_wins_whoever_was_selected(store: AnswerStore) -> None:
    one = competition(1, scored("a", 1.0), scored("b", 1.05))
    tied = replace(one, selection=replace(one.selection, winner="comp_1_0"))
    assert await rates(store, tied) == {"a": WinRate(0.0, 1), "b": WinRate(1.0, 1)}


async def test_a_competition_takes_two_rewards_of_honest_replies(store: AnswerStore) -> None:
    refusal = scored("b", 9.0, finish_reason="refusal")
    filtered = scored("b", 9.0, finish_reason="content_filter")
    found = await rates(
        store,
        competition(1, scored("a", 1.0), failed("b")),
        competition(2, scored("a", 1.0), scored("b", None)),
        competition(3, scored("a", 1.0), refusal),
        competition(4, scored("a", 1.0), filtered, scored("c", 0.5)),
    )
    assert found == {"a": WinRate(1.0, 1), "c": WinRate(0.0, 1)}


async def test_only_these_members_compete_each_with_its_best_sample(store: AnswerStore) -> None:
    found = await rates(
        store,
        competition(1, scored("a", 1.0), scored("b", 0.0), scored("b", 3.0), scored("a", 2.0)),
        competition(2, scored("a", 1.0), scored("b", 0.0), scored("a (fusion)", 3.0)),
        competition(3, scored("a", 1.0), scored("gone", 0.0)),
    )
    assert found == {"a": WinRate(0.5, 2), "b": WinRate(0.5, 2)}


async def test_scorers_that_cannot_rank_do_not_count(store: AnswerStore) -> None:
    entries = (scored("a", 1.0), scored("b", 2.0))
    weak = [competition(n, *entries, scorer=name) for n, name in enumerate(CANNOT_RANK)]
    assert await rates(store, *weak) == {}
    assert await rates(store, competition(9, *entries, scorer="nvidia")) == {
        "a": WinRate(0.0, 1),
        "b": WinRate(1.0, 1),
    }


async def test_only_the_newest_answers_count(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "NEWEST", 2)
    for_a, for_b = (scored("a", 1.0), scored("b", 0.0)), (scored("a", 0.0), scored("b", 1.0))
    found = await rates(
        store,
        competition(1, *for_b, minute=3),
        competition(2, *for_a, minute=1),  # too old
        competition(3, *for_b, minute=2),
    )
    assert found == {"a": WinRate(0.0, 2), "b": WinRate(1.0, 2)}


async def test_nobody_has_a_win_rate_in_an_empty_store(store: AnswerStore) -> None:
    assert await rates(store) == {}
    assert await rates(store, members="") == {}


async def test_the_constants_of_win_rates_are_no_parameters(store: AnswerStore) -> None:
    """PostgreSQL's plan without them ran for minutes; at this size no plan is slow."""
    sent: list[str] = []

    def remember(*call: Any) -> None:
        sent.append(repr(call[3]))

    event.listen(Engine, "before_cursor_execute", remember)
    await store.win_rates(("a", "b"))
    event.remove(Engine, "before_cursor_execute", remember)
    (parameters,) = sent
    assert "'a'" in parameters
    for constant in (*CANNOT_RANK, *WITHHELD, str(answers_module.NEWEST)):
        assert constant not in parameters


async def test_all_answers_come_oldest_first(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several pages, the last one full, with answers of one moment on both sides of a page."""
    monkeypatch.setattr(answers_module, "PAGE", 2)
    saved = [competition(n, scored("a", n), failed("b"), minute=n // 3) for n in range(6)]
    for one in (4, 1, 5, 0, 3, 2):
        await store.save(saved[one])
    assert [one async for one in store.answers()] == saved


async def test_the_database_is_free_while_an_answer_is_looked_at(store: AnswerStore) -> None:
    await store.save(answer("ans_1"))
    later = replace(answer("ans_2"), created=answer().created + timedelta(hours=1))
    seen: list[Answer] = []
    async for one in store.answers():
        if not seen:
            await store.save(later)
        seen.append(one)
    assert seen == [answer("ans_1"), later]


async def test_an_empty_store_has_no_answers(store: AnswerStore) -> None:
    assert [one async for one in store.answers()] == []


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
    def known(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        return "words" not in str(parents.get("table_name") or name)  # the full-text index

    def differences(connection: Connection) -> list[object]:
        opts = {"compare_type": True, "include_name": known}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, schema.metadata))

    assert await store.database.read(differences) == []


async def test_ping(store: AnswerStore) -> None:
    await store.ping()


async def test_answers_outlive_the_process(database_url: str) -> None:
    async with AnswerStore.open(database_url) as store:
        await store.save(answer())
    async with AnswerStore.open(database_url) as store:
        assert await store.get("ans_1") == answer()


async def test_sqlite_writes_ahead_and_syncs(database_url: str) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = "journal_mode", "synchronous"
        return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    async with AnswerStore.open(database_url) as store:
        assert await store.database.read(pragmas) == ["wal", 2]  # FULL


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/answers.db", "nonsense", "sqlite+nodriver:///x.db", "sqlite://"]
)
async def test_a_database_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with AnswerStore.open(url):
            pass


async def test_a_url_with_the_driver_of_earlier_versions_is_taken(database_url: str) -> None:
    async with AnswerStore.open(database_url) as store:
        await store.save(answer())
    earlier = database_url.replace("sqlite:", "sqlite+aiosqlite:")
    async with AnswerStore.open(earlier) as store:
        assert await store.get(answer().id) == answer()


async def test_answers_that_wait_are_stored_together_on_sqlite(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    insert = answers_module._insert

    def counted(*args: Any, group: Any, again: bool) -> None:
        sizes.append(len(group))
        insert(*args, group=group, again=again)

    monkeypatch.setattr(answers_module, "_insert", counted)
    async with AnswerStore.open(database_url) as store:
        await asyncio.gather(*(store.save(answer(f"ans_{n}")) for n in range(5)))
    assert sum(sizes) == 5
    assert len(sizes) < 5


async def test_an_answer_that_is_refused_takes_no_other_with_it(store: AnswerStore) -> None:
    await store.save(answer("ans_2"))
    saves = (store.save(answer(f"ans_{n}")) for n in range(5))
    told = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(one) for one in told] == [type(None)] * 2 + [StoreError] + [type(None)] * 2
    assert len([one async for one in store.answers()]) == 5


async def test_the_password_is_not_shown() -> None:
    url = "postgresql+asyncpg://me:hunter2@127.0.0.1:1/db"
    with pytest.raises(ConfigurationError) as caught:
        async with AnswerStore.open(url):
            pass
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_a_lost_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    async with AnswerStore.open(f"sqlite:///{tmp_path}/a.db") as store:
        drop = text("DROP TABLE candidates")
        await store.database.write(lambda connection: connection.execute(drop).rowcount)
        with pytest.raises(StoreError):
            await store.save(answer())
        kept = select(func.count()).select_from(schema.answers)
        assert await store.database.read(lambda c: c.execute(kept).scalar()) == 0

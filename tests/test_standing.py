from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from app import standing as standing_module
from app.domain import Plan, WinRate
from app.errors import StoreError
from app.standing import Standing, open_standing

AB = ("a", "b")
PLAN = Plan(AB)
B_AHEAD = {"a": WinRate(0.25, 60), "b": WinRate(0.75, 60)}


@dataclass
class Record:
    """Win rates from a list, one for each time they are read; a None is a store that fails."""

    answers: list[Mapping[str, WinRate] | None] = field(default_factory=lambda: [B_AHEAD])
    delay_s: float = 0.0
    reads: int = 0

    async def win_rates(self, members: Sequence[str]) -> Mapping[str, WinRate]:
        self.reads += 1
        await asyncio.sleep(self.delay_s)
        found = self.answers[min(self.reads, len(self.answers)) - 1]
        if found is None:
            raise StoreError("the database failed")
        return {member: rate for member, rate in found.items() if member in members}


async def settled(
    rates: Mapping[str, WinRate] | None, plan: Plan = PLAN, minimum: int = 50
) -> Plan:
    async with open_standing(Record([rates]), AB, by_wins=True, minimum=minimum) as standing:
        return standing.settle(plan)


async def test_ties_go_by_win_rate() -> None:
    plan = await settled(B_AHEAD)
    assert (plan.standing, plan.win_rates, plan.no_standing) == (("b", "a"), B_AHEAD, None)


async def test_without_the_setting_nothing_is_read() -> None:
    record = Record()
    async with open_standing(record, AB, by_wins=False, minimum=50) as standing:
        assert standing.settle(PLAN) == PLAN
        assert record.reads == 0
        assert await standing.known() == B_AHEAD


async def test_equal_rates_keep_board_order() -> None:
    even = {"a": WinRate(0.5, 60), "b": WinRate(0.5, 60)}
    assert (await settled(even)).standing == ("a", "b")
    assert (await settled(even, Plan(("b", "a")))).standing == ("b", "a")


async def test_one_member_with_too_few_answers_leaves_all_to_board_order() -> None:
    plan = await settled({"a": WinRate(0.5, 50), "b": WinRate(0.5, 49)})
    assert (plan.standing, plan.win_rates) == ((), {})
    assert plan.no_standing == "b has competed in 49 of the 50 answers it takes"
    plan = await settled({"a": WinRate(0.5, 50)})
    assert plan.no_standing == "b has competed in 0 of the 50 answers it takes"


async def test_only_members_of_the_run_need_enough_answers() -> None:
    assert (await settled({"a": WinRate(0.5, 50)}, Plan(("a",)))).standing == ("a",)


async def test_a_store_that_fails_leaves_ties_to_board_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "starboard"):
        plan = await settled(None)
    assert (plan.standing, plan.no_standing) == ((), "win rates could not be read")
    assert "win rates could not be read; ties go by board order" in caplog.text


async def test_a_store_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "LIMIT_S", 0.02)
    async with open_standing(Record(delay_s=60), AB, by_wins=True, minimum=50) as standing:
        assert standing.settle(PLAN).no_standing == "win rates could not be read"


async def test_win_rates_are_read_once_while_they_keep() -> None:
    record = Record()
    async with open_standing(record, AB, by_wins=True, minimum=50) as standing:
        for _ in range(20):
            standing.settle(PLAN)
            await standing.known()
    assert record.reads == 1


async def test_old_win_rates_serve_while_new_ones_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_ahead = {"a": WinRate(0.75, 60), "b": WinRate(0.25, 60)}
    record = Record([B_AHEAD, a_ahead, None, a_ahead])
    async with open_standing(record, AB, by_wins=True, minimum=50) as standing:
        monkeypatch.setattr(standing_module, "KEEP_S", 0.0)
        assert standing.settle(PLAN).standing == ("b", "a")
        assert record.reads == 1  # the second reading has not begun: nobody waited for it
        monkeypatch.setattr(standing_module, "KEEP_S", 60.0)
        await standing.known()
        assert standing.settle(PLAN).standing == ("a", "b")
        monkeypatch.setattr(standing_module, "KEEP_S", 0.0)
        assert await standing.known() is None  # the store fails, and comes back
        assert await standing.known() == a_ahead


async def test_nothing_runs_on_after_the_end() -> None:
    before = asyncio.all_tasks()
    async with open_standing(Record(delay_s=60), AB, by_wins=False, minimum=50) as standing:
        asking = asyncio.create_task(standing.known())
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks() - before) == 2
    assert await asking is None
    assert asyncio.all_tasks() == before


async def test_a_slow_reading_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_module, "KEEP_S", 0.0)
    record = Record(delay_s=0.05)
    standing = Standing(record, AB, by_wins=True)
    for _ in range(5):
        standing.settle(PLAN)
        await asyncio.sleep(0.002)
    assert record.reads == 1
    await standing.close()

"""Circuits shared by several processes, each of which is a `SharedCircuits` here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from app import circuits
from app.circuits import SharedCircuits, open_circuits
from app.domain import OpenCircuit
from app.errors import StoreError
from app.gates import Gate
from tests.test_gates import fail, refused, state, succeed

COOL_DOWN_S = 60.0


@dataclass
class Clock:
    """Stands still until the test lets it go on."""

    time: float = 1000.0

    def __call__(self) -> float:
        return self.time

    def cools_down(self) -> None:
        self.time += COOL_DOWN_S


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gates._now", clock)


@dataclass
class Record:
    """Open circuits, and until when nobody probes, on the test's clock."""

    openings: dict[str, OpenCircuit] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    broken: bool = False
    hangs: bool = False
    calls: list[str] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    read_on: asyncio.Event | None = None

    async def _begin(self, what: str) -> float:
        self.calls.append(what)
        if self.hangs:
            await asyncio.sleep(60)
        if self.broken:
            raise StoreError("the database failed")
        return clock()

    async def all(self, members: Sequence[str]) -> dict[str, OpenCircuit]:
        now = await self._begin("all")
        found = {
            member: OpenCircuit(one.failed, max(0.0, self.due[member] - now))
            for member, one in self.openings.items()
            if member in members
        }
        self.reading.set()
        if self.read_on:
            await self.read_on.wait()
        return found

    async def put(self, member: str, opening: OpenCircuit | None) -> None:
        now = await self._begin("put")
        self.openings.pop(member, None)
        if opening:
            self.openings[member] = opening
            self.due[member] = now + opening.wait_s

    async def claim(self, member: str, for_s: float) -> float:
        now = await self._begin("claim")
        if member not in self.openings:
            return 0.0
        wait_s = max(0.0, self.due[member] - now)
        if not wait_s:
            self.due[member] = now + for_s
        return wait_s


def process(record: Record) -> tuple[Gate, SharedCircuits]:
    """A process's gate, in step only when the test says so."""
    gate = Gate("m", opens_after=2, cool_down_s=COOL_DOWN_S)
    shared = SharedCircuits(record, {"m": gate})
    gate.others = shared
    return gate, shared


async def opened(record: Record) -> tuple[Gate, SharedCircuits, Gate, SharedCircuits]:
    """Two processes; calls of the first failed, and both know."""
    (ours, here), (theirs, there) = process(record), process(record)
    await fail(ours)
    await fail(ours)
    await here.sync()
    await there.sync()
    return ours, here, theirs, there


async def test_what_one_process_finds_opens_and_closes_the_circuit_of_the_other() -> None:
    ours, here, theirs, there = await opened(Record())
    assert (state(ours), state(theirs)) == ("open", "open")
    with pytest.raises(Exception, match="its last 2 calls failed"):
        await succeed(theirs)
    clock.cools_down()
    await succeed(theirs)
    assert (state(ours), state(theirs)) == ("open", "closed")
    await there.sync()
    await here.sync()
    assert state(ours) == "closed"
    await fail(ours)
    assert state(ours) == "closed"  # counted anew


async def test_one_process_probes_and_the_other_waits() -> None:
    record = Record()
    ours, here, theirs, there = await opened(record)
    clock.cools_down()
    async with ours.passage():
        assert state(ours) == "half_open"
        assert await refused(theirs)
        calls = len(record.calls)
        assert await refused(theirs)
        assert len(record.calls) == calls  # it was told how long to wait, and asks no more
        await there.sync()
        assert state(theirs) == "open"
    await here.sync()
    await there.sync()
    assert state(theirs) == "closed"


async def test_a_failed_probe_keeps_both_waiting() -> None:
    ours, here, theirs, there = await opened(Record())
    clock.cools_down()
    await fail(theirs)
    await there.sync()
    await here.sync()
    assert await refused(ours)
    assert await refused(theirs)


async def test_a_probe_that_was_cancelled_leaves_the_next_to_any_process() -> None:
    ours, here, theirs, there = await opened(Record())
    clock.cools_down()
    probe = ours.passage()
    await probe.__aenter__()
    await here.sync()  # hears of its own probe: nobody else may begin one
    gone = asyncio.CancelledError()
    assert not await probe.__aexit__(type(gone), gone, None)
    assert await refused(theirs)
    await here.sync()
    await there.sync()
    assert state(theirs) == "open"
    assert not await refused(theirs)


async def test_a_process_that_dies_while_it_probes_holds_the_others_for_one_cool_down() -> None:
    record = Record()
    theirs = (await opened(record))[2]
    clock.cools_down()
    assert await record.claim("m", COOL_DOWN_S) == 0
    assert await refused(theirs)
    clock.cools_down()
    assert not await refused(theirs)


async def test_calls_of_a_closed_circuit_ask_and_write_nothing() -> None:
    record = Record()
    gate, shared = process(record)
    await succeed(gate)
    await fail(gate)
    await succeed(gate)
    await shared.sync()
    assert record.calls == ["all"]


async def test_what_happens_while_circuits_are_read_is_newer_than_what_was_read() -> None:
    record = Record(read_on=asyncio.Event())
    gate, shared = process(record)
    reading = asyncio.create_task(shared.sync())
    await record.reading.wait()
    await fail(gate)
    await fail(gate)
    assert record.read_on
    record.read_on.set()
    await reading
    assert state(gate) == "open"
    await shared.sync()
    assert record.openings["m"].failed == 2


@pytest.mark.parametrize("how", ["broken", "hangs"])
async def test_without_a_record_each_process_goes_by_its_own(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(circuits, "LIMIT_S", 0.02)
    monkeypatch.setattr(circuits, "CLAIM_LIMIT_S", 0.02)
    record = Record()
    (ours, here), (theirs, there) = process(record), process(record)
    setattr(record, how, True)
    await fail(ours)
    await fail(ours)
    with caplog.at_level(logging.INFO, "starboard"):
        for _ in range(3):
            await here.sync()
            await there.sync()
    assert caplog.messages == ["circuits are not shared: this process goes by its own"] * 2
    assert (state(ours), state(theirs)) == ("open", "closed")
    assert await refused(ours)
    clock.cools_down()
    await fail(ours)  # the probe
    assert await refused(ours)
    await here.sync()
    monkeypatch.setattr(circuits, "LIMIT_S", 20)
    setattr(record, how, False)  # what was found meanwhile is not lost
    with caplog.at_level(logging.INFO, "starboard"):
        await here.sync()
    await there.sync()
    assert caplog.messages[-1] == "circuits are shared again"
    assert await refused(theirs)


async def test_a_wait_is_never_longer_than_the_cool_down() -> None:
    gate, shared = process(Record({"m": OpenCircuit(2, 0)}, {"m": clock() + 1e9}))
    await shared.sync()
    assert await refused(gate)
    clock.cools_down()
    assert gate.opening == OpenCircuit(2, 0.0)


async def test_in_the_background_a_change_is_written_at_once_and_heard_soon() -> None:
    record = Record()
    ours, theirs, off = (
        Gate(name, opens_after=after, cool_down_s=COOL_DOWN_S)
        for name, after in (("m", 1), ("m", 1), ("off", 0))
    )
    before = asyncio.all_tasks()
    async with open_circuits(record, [ours, off]), open_circuits(record, [theirs]):
        assert off.others is None
        await fail(ours)
        async with asyncio.timeout(20):
            while state(theirs) == "closed":
                await asyncio.sleep(0.01)
        assert await refused(theirs)
        gate = Gate("m", opens_after=1, cool_down_s=COOL_DOWN_S)
        async with open_circuits(record, [gate]):
            assert state(gate) == "open"  # from the start
    assert asyncio.all_tasks() == before

"""What benchmarks/chaos.py does to the service and to what it depends on, and when."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_answers import nonce_in, reply_of
from chaos_rig import Rig

from tests.fakes.faults import Call, Fault, body, sent_by
from tests.fakes.wire import Reply, whole

# What the service may wait for its database beside the run: to store the answer, and to book what
# it cost.
STORE_S = 10.0
# Where another process has SQLite's lock: 5 s to store, and twice 10 s (a turn among the process's
# own writers, then SQLite's patience) to book and to release an Idempotency-Key.
LOCKED_S = 25.0
# What a phase may leave resident; and one with bodies of 8 MiB, many at a time, which the allocator
# keeps for the next ones.
GROWTH_MB, GROWTH_OF_LARGE_MB = 30.0, 400.0

Disturb = Callable[[Rig, float], Awaitable[int]]
"""Does something for so many seconds, and puts it right again; how many faults that were."""


@dataclass(frozen=True)
class Phase:
    """`refusals` are the statuses that may come of it, `grace_s` what the database may take after
    the deadline, `growth_mb` what a process may have resident beyond what it had before. `exact`:
    what was spent is booked to the cent, and nothing is held afterwards."""

    name: str
    disturb: Disturb
    refusals: frozenset[int] = frozenset({502, 504})
    grace_s: float = 0.0
    exact: bool = True
    growth_mb: float = GROWTH_MB
    kills: bool = False
    leaves: bool = False
    faked: bool = False


def overloaded(call: Call) -> Reply:
    return Reply({"error": {"type": "overloaded_error", "message": call.leak}}, status=529)


def other_text(call: Call) -> Reply:
    """The whole of a right reply's text, where no reply belongs."""
    return Reply(reply_of("claude", nonce_in(call.request)), content_type="text/plain")


def own(chance: random.Random) -> dict[str, Fault]:
    """Faults that the fakes do not have, by name."""

    async def late(request: Any, reply: Reply) -> Any:
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        return await whole(request, reply)

    def garbage(_: Call) -> Reply:
        return Reply(chance.randbytes(chance.randint(1, 2000)))

    faults = (
        Fault("late", None, sent_by(late)),
        Fault("overloaded_529", "overloaded", overloaded),
        Fault("garbage", "bad_reply", garbage),
        Fault("plain_text", "bad_reply", other_text),
        Fault("brackets", "bad_reply", body("[" * 100_000)),
    )
    return {fault.name: fault for fault in faults}


def upstream(share: float, *names: str) -> Disturb:
    """These faults hit that share of the calls to members and reward model."""

    async def disturb(rig: Rig, seconds: float) -> int:
        ours = own(rig.chance)
        before = sum(fake.faults_met for fake in rig.fakes.values())
        for fake in rig.fakes.values():
            known = {fault.name: fault for fault in type(fake).FAULTS} | ours
            fake.fail_sometimes(share, [known[name] for name in names], rig.chance)
        await asyncio.sleep(seconds)
        for fake in rig.fakes.values():
            fake.recover()
        return sum(fake.faults_met for fake in rig.fakes.values()) - before

    return disturb


async def nothing(rig: Rig, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 0


async def jump(rig: Rig, seconds: float) -> int:
    """The wall clock jumps forwards and back, by up to more than a year."""
    jumps = (5, -5, 3600, -3600, 86_400, -86_400, 400 * 86_400, 0)
    for off_s in jumps:
        rig.set_clock(off_s)
        await asyncio.sleep(seconds / len(jumps))
    return len(jumps)


async def fill_disk(rig: Rig, seconds: float) -> int:
    """Not a byte more fits beside the database, for some seconds."""
    disk = rig.disk
    assert disk
    return await _by_turns(seconds, lambda: _full(disk))


async def fail_writes(rig: Rig, seconds: float) -> int:
    """The kernel refuses the process every write to a file beyond the first 4 KiB."""

    @contextmanager
    def refused() -> Iterator[None]:
        pid = rig.services[0].process.pid
        most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, most)

    return await _by_turns(seconds, refused)


async def lock(rig: Rig, seconds: float) -> int:
    """Another process has SQLite's writers' lock: for a moment, then for longer than is waited."""
    file = rig.database.partition(":///")[2]

    @contextmanager
    def locked() -> Iterator[None]:
        connection = sqlite3.connect(
            file, isolation_level=None, timeout=60, check_same_thread=False
        )
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    return await _by_turns(seconds, locked, longest_s=20)


async def lose_database(rig: Rig, seconds: float) -> int:
    """PostgreSQL is stopped, and started again."""

    @contextmanager
    def stopped() -> Iterator[None]:
        rig.postgres.stop()
        try:
            yield
        finally:
            rig.postgres.ensure_postgres_running()

    return await _by_turns(seconds, stopped)


async def kill(rig: Rig, seconds: float) -> int:
    """kill -9 of one process after the other, each started again."""
    until, times = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        await asyncio.sleep(2)
        await rig.restart(times % len(rig.services), signal.SIGKILL)
        times += 1
    await asyncio.sleep(1)
    return times


async def _by_turns(seconds: float, fault: Callable[[], Any], longest_s: float = 7) -> int:
    """The fault for 1 s and for `longest_s` by turns, with 2 s without it after each."""
    until, times = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        context = fault()
        await asyncio.to_thread(context.__enter__)
        try:
            await asyncio.sleep((1, longest_s)[times % 2])
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
        times += 1
        await asyncio.sleep(2)
    return times


@contextmanager
def _full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        filler.unlink(missing_ok=True)


UPSTREAM = (
    Phase("latency", upstream(0.5, "late")),
    Phase("resets", upstream(0.4, "reset_before_reply", "reset_mid_body")),
    Phase(
        "truncated, garbage",
        upstream(
            0.4,
            *("truncated_json", "garbage", "plain_text", "brackets", "html_502", "empty_body"),
            *("not_an_object", "error_with_200", "empty_text", "huge_body", "gzip_bomb"),
        ),
        growth_mb=GROWTH_OF_LARGE_MB,
    ),
    Phase("429 storm", upstream(0.8, "rate_limited_429")),
    Phase(
        "429, Retry-After",
        upstream(0.8, "rate_limited_429_seconds", "rate_limited_429_date"),
    ),
    Phase("529", upstream(0.7, "overloaded_529")),
    Phase(
        "5xx",
        upstream(0.6, "server_error_500", "html_502", "unavailable_503", "gateway_timeout_504"),
    ),
    Phase("half-open sockets", upstream(0.2, "hang")),
    Phase("slow drip", upstream(0.2, "slow_drip")),
    Phase("clients leave", nothing, leaves=True, exact=False),
)
CLOCK = Phase("clock jumps", jump, faked=True)
FULL = Phase("full disk", fill_disk, frozenset({502, 503, 504}), STORE_S, exact=False)
SQLITE = (
    *UPSTREAM,
    CLOCK,
    FULL,
    Phase("failed writes", fail_writes, frozenset({502, 503, 504}), STORE_S, exact=False),
    Phase("locked database", lock, frozenset({502, 503, 504}), LOCKED_S, exact=False),
    Phase("killed", kill, grace_s=STORE_S, exact=False, kills=True),
)
EVERYTHING = upstream(
    0.3,
    *("late", "reset_before_reply", "reset_mid_body", "truncated_json", "garbage", "hang"),
    *("rate_limited_429", "overloaded_529", "server_error_500", "slow_drip"),
)
POSTGRESQL = (
    Phase("all of upstream", EVERYTHING),
    Phase("lost database", lose_database, frozenset({502, 503, 504}), STORE_S, exact=False),
    Phase("a replica killed", kill, grace_s=STORE_S, exact=False, kills=True),
)
SCHEDULES: Mapping[str, Sequence[Phase]] = {"sqlite": SQLITE, "postgresql": POSTGRESQL}

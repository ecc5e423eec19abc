"""How soon one process knows of a circuit that another opened or closed, and what that costs.

    python benchmarks/circuits.py [--url postgresql+asyncpg://...] [--times 20]

Two gates of one member, each kept in step by a connection pool of its own, as in two processes.
Without a URL: SQLite, in a folder that is deleted afterwards. A database that is given must be
empty.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable

from app.circuits import PERIOD_S, SharedCircuits, open_circuits
from app.errors import UpstreamError
from app.gates import Gate
from app.store import AnswerStore
from app.store.circuits import Circuits

COOL_DOWN_S = 0.3
SYNCS = 300
MEMBERS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="an empty database; default: SQLite in a new folder")
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{folder}/answers.db"
        asyncio.run(measure(url, given.times))


async def measure(url: str, times: int) -> None:
    async with AnswerStore.open(url) as here, AnswerStore.open(url) as there:
        ours, theirs = Circuits(here.database), Circuits(there.database)
        shared = SharedCircuits(ours, {str(n): Gate(str(n)) for n in range(MEMBERS)})
        await shared.sync()
        began = time.process_time()
        for _ in range(SYNCS):
            await shared.sync()
        spent = (time.process_time() - began) / SYNCS
        print(f"one look at the circuits of {MEMBERS} members: {spent * 1000:.2f} ms of CPU")
        took = [await once(ours, theirs, f"m{n}") for n in range(times)]
        for what, seconds in zip(
            ("opened", "asked to probe", "closed"), zip(*took, strict=True), strict=True
        ):
            middle, most = statistics.median(seconds), max(seconds)
            print(f"{what}: median {middle:.3f} s, at most {most:.3f} s")


async def once(ours: Circuits, theirs: Circuits, member: str) -> tuple[float, float, float]:
    """Seconds until the opened circuit is known elsewhere, a probe is allowed, and the closed one
    is known."""
    one, other = (Gate(member, 1, COOL_DOWN_S) for _ in range(2))
    async with open_circuits(ours, [one]), open_circuits(theirs, [other]):
        await asyncio.sleep(random.uniform(0, PERIOD_S))
        try:
            async with one.passage():
                raise UpstreamError("overloaded", "made up")
        except UpstreamError:
            opened = await until(lambda: other.circuit == "open")
        await until(lambda: one.opening is None or one.opening.wait_s == 0)
        await any_moment()
        asked = time.perf_counter()
        async with one.passage():
            probing = time.perf_counter() - asked
        return opened, probing, await until(lambda: other.circuit == "closed")


async def any_moment() -> None:
    """Of the period in which the processes look."""
    await asyncio.sleep(random.uniform(0, PERIOD_S))


async def until(true: Callable[[], bool]) -> float:
    began = time.perf_counter()
    while not true():  # noqa: ASYNC110 - a gate has no event for it
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""How the cost of an answer grows: with members, with the length of replies, with stored answers.

    python benchmarks/growth.py members [--out docs/benchmarks/growth-members.json]
    python benchmarks/growth.py length [--out docs/benchmarks/growth-length.json]
    python benchmarks/growth.py stored --starts 10 --rounds 8
        [--out docs/benchmarks/growth-stored.json]

- `members`: boards of 1 to 16 members of one OpenAI-compatible host, every reply scored;
- `length`: three vendors' members whose replies have 100 to 30,000 characters. Of a long one the
  reward model is sent no more than it takes (9,216 characters here);
- `stored`: beside 2,000 answers that are stored already and beside 300,000, made up as in
  benchmarks/search.py. What is asked is stored too, so that the smaller database is made anew for
  each start; the larger one is kept.

Every size is a service of its own. They are measured in turn, forwards and backwards, by rounds, so
that whatever else the machine does falls on all; with `--starts` they are started so often, so that
the luck of one process does not decide. benchmarks/report.py makes the tables and the
pictures of docs/benchmarks.md from the files.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from overhead import LIBRARIES, Measured, Service, Starter, running, starboard, take_turns
from report import growth_table
from results import keep, versions
from rich.progress import track
from search import answers, fill

from app.store import AnswerStore

SIZES = {
    "members": (1, 2, 4, 8, 16),
    "length": (100, 1000, 3000, 10_000, 30_000),
    "stored": (2000, 300_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("part", choices=SIZES, help="what grows")
    parser.add_argument("--starts", type=int, default=1, help="of each service")
    parser.add_argument("--rounds", type=int, default=15, help="after each start")
    parser.add_argument("--answers", type=int, default=200, help="in each round, of each size")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args()
    with TemporaryDirectory() as kept:
        turns = (
            measured
            for _ in range(given.starts)
            for measured in after_a_start(
                given.part, Path(kept), given.rounds, given.answers, given.clients
            )
        )
        total = given.starts * given.rounds
        rounds = [
            {name: asdict(one) for name, one in measured.items()}
            for measured in track(turns, "measuring", total=total, transient=True)
        ]
    found = {"answers": given.answers, "clients": given.clients, "rounds": rounds}
    print(growth_table(given.part, found))
    if given.out:
        keep(given.out, found, versions(*LIBRARIES))


def after_a_start(
    part: str, kept: Path, rounds: int, answers: int, clients: int
) -> Iterator[dict[str, Measured]]:
    """The rounds of services of all sizes, started for them."""
    with ExitStack() as stack:
        services: dict[str, Service] = {}
        for size in SIZES[part]:
            options = ("--characters", str(size)) if part == "length" else ()
            starter = {str(size): starter_of(part, size, kept)}
            services |= stack.enter_context(running(starter, *options))[1]
        yield from take_turns(services, rounds, answers, clients)


def starter_of(part: str, size: int, kept: Path) -> Starter:
    def start(folder: Path, upstreams: Mapping[str, str]) -> Service:
        if part == "members":
            board = {f"member-{number}": f"m{number}" for number in range(size)}
            return starboard(folder, upstreams, board)
        if part == "stored":
            database = (kept if size == max(SIZES[part]) else folder) / "stored.db"
            if not database.exists():
                asyncio.run(store(database, size))
            return starboard(folder, upstreams, database=str(database))
        return starboard(folder, upstreams)

    return start


async def store(database: Path, count: int) -> None:
    async with AnswerStore.open(f"sqlite:///{database}") as store:
        await fill(store, answers(random.Random(0)), count)


if __name__ == "__main__":
    main()

"""How long a search over many stored answers takes, and what storing one more costs.

    python benchmarks/search.py [--answers 200000] [--url postgresql+asyncpg://...]

Answers are made up: three members, questions and replies of words drawn as languages draw them
(few words are in most texts, most words in few), ten thousand users as tags, and two tags that all
have; one in a thousand is of another strategy and has another member. They are written in
batches, straight into the tables; what storing costs is measured with `AnswerStore.save`, in turn
beside 1,000 answers in another database and beside all of them, so that whatever else the machine
does slows both alike. Without a URL: SQLite, in a folder that is deleted afterwards. A database
that is given must be empty; the other is made on its server, and dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from rich.progress import track
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain import (
    Answer,
    Attributes,
    Candidate,
    Completion,
    Feedback,
    Message,
    Plan,
    Prompt,
    Score,
    ScoredCandidate,
    ScorerInfo,
    Selection,
    Timings,
    Usage,
)
from app.store import AnswerStore, Filter
from app.store.database import PostgreSQL

MEMBERS = ("claude", "gemma", "mistral")
RARE = "qwen"  # in gemma's place in one answer of 1,000
EVERYBODY = ("app", "chat")
START = datetime(2026, 1, 1, tzinfo=UTC)
APART = timedelta(minutes=2)  # 200,000 answers are some nine months
BATCH = 1000
FEW = 1000
WORDS = 30_000
USERS = 10_000
ASKED = 25  # times each search is asked; of a word or user, each time for another
STORED = 200  # answers whose storing is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--answers", type=int, default=200_000, help="some thousands")
    parser.add_argument("--url", help="an empty database; default: SQLite in a new folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{folder}/answers.db"
        asyncio.run(run(url, given.answers))


async def run(url: str, count: int) -> None:
    draw = random.Random(0)
    made = answers(draw)
    async with AnswerStore.open(url) as store, beside(url) as small:
        if (await store.newest(Filter(), limit=1))[0]:
            raise SystemExit("the database holds answers: name an empty one")
        await fill(small, made, FEW)
        await fill(store, made, count - STORED)
        await settle(store)
        await settle(small)
        few, many, ratio = await storing(small, store, made)
        print(f"{store.database.dialect}, {count:,} answers; first pages of 20, milliseconds")
        print(f"{'':34} median    p95")
        for name, wanted in searches(draw, count):
            times = [await timed(store.newest(wanted(), limit=20)) for _ in range(ASKED)]
            print(f"{name:32} {statistics.median(times):8.1f} {sorted(times)[-2]:6.1f}")
    print(
        f"storing an answer: {few:.2f} ms beside {FEW:,}, {many:.2f} ms beside {count:,}"
        f" (medians of {STORED}, in turn); median ratio of a pair {ratio:.2f}"
    )


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[AnswerStore]:
    """The store of another database of the same kind."""
    here = make_url(url)
    there = here.set(database=f"{here.database}_few")
    if here.get_backend_name() == "sqlite":
        async with AnswerStore.open(str(there)) as store:
            yield store
        return
    engine = create_async_engine(here, isolation_level="AUTOCOMMIT")
    async with engine.connect() as server:
        await server.execute(text(f'CREATE DATABASE "{there.database}"'))
        try:
            async with AnswerStore.open(there.render_as_string(hide_password=False)) as store:
                yield store
        finally:
            await server.execute(text(f'DROP DATABASE "{there.database}"'))
    await engine.dispose()


def searches(draw: random.Random, count: int) -> Iterator[tuple[str, Callable[[], Filter]]]:
    """What is looked for; words by their rank, 0 the most frequent."""

    def words(*ranks: tuple[int, int]) -> str:
        return " ".join(word(draw.randint(*between)) for between in ranks)

    def a_user() -> tuple[str, str]:
        return "user", f"u{draw.randrange(USERS)}"

    middle = START + count // 2 * APART
    yield "newest", Filter
    yield "a frequent word", lambda: Filter(q=words((0, 20)))
    yield "a word now and then", lambda: Filter(q=words((500, 2000)))
    yield "a rare word", lambda: Filter(q=words((20_000, WORDS - 1)))
    yield "a word that is nowhere", lambda: Filter(q=f"nowhere{draw.randrange(10**9)}")
    yield "two frequent words", lambda: Filter(q=words((0, 20), (0, 20)))
    yield "a frequent and a rare word", lambda: Filter(q=words((0, 20), (5000, 20_000)))
    yield "a phrase", lambda: Filter(q=f'"{words((0, 20), (0, 20))}"')
    yield "member", lambda: Filter(member=draw.choice(MEMBERS))
    yield "quality, 1 in 50", lambda: Filter(quality="degraded")
    yield "strategy, 1 in 1,000", lambda: Filter(strategy="fuse")
    yield "with feedback, 1 in 100", lambda: Filter(feedback=True)
    yield "one user", lambda: Filter(tags=[a_user()])
    yield "one user, a frequent word", lambda: Filter(tags=[a_user()], q=words((0, 20)))
    yield "two tags, the rare one first", lambda: Filter(tags=[a_user(), EVERYBODY])
    yield "two tags, the rare one last", lambda: Filter(tags=[EVERYBODY, a_user()])
    yield "two tags, one nowhere", lambda: Filter(tags=[("user", "nobody"), EVERYBODY])
    yield "two frequent tags", lambda: Filter(tags=[EVERYBODY, ("language", "en")])
    yield "one user, member", lambda: Filter(tags=[a_user()], member=draw.choice(MEMBERS))
    yield "rare member, a frequent word", lambda: Filter(member=RARE, q=words((0, 20)))
    yield "rare strategy, a frequent word", lambda: Filter(strategy="fuse", q=words((0, 20)))
    yield "member, a word now and then", lambda: Filter(member="gemma", q=words((500, 2000)))
    yield "feedback, a frequent word", lambda: Filter(feedback=True, q=words((0, 20)))
    yield "the older half", lambda: Filter(until=middle)
    yield "the older half, a frequent word", lambda: Filter(until=middle, q=words((0, 20)))


async def timed(work: Awaitable[object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


async def storing(
    small: AnswerStore, large: AnswerStore, made: Iterator[Answer]
) -> tuple[float, float, float]:
    """Milliseconds to store an answer in either, medians, and the median of large over small."""
    pairs = []
    for number, one in enumerate(itertools.islice(made, STORED)):
        first, second = (small, large) if number % 2 else (large, small)
        times = {first: await timed(first.save(one)), second: await timed(second.save(one))}
        pairs.append((times[small], times[large]))
    few, many = (statistics.median(times) for times in zip(*pairs, strict=True))
    return few, many, statistics.median(large_ms / small_ms for small_ms, large_ms in pairs)


async def fill(store: AnswerStore, made: Iterator[Answer], count: int) -> None:
    """Put answers into the tables, many at a time; one in a hundred gets a thumb."""
    starts = range(0, count, BATCH)
    for _ in track(starts, f"{count:,} answers", transient=True):
        batch = list(itertools.islice(made, BATCH))
        await asyncio.gather(*(store.save(one) for one in batch))
        for one in batch[::100]:
            await store.add_feedback(one.id, Feedback(f"fb_{one.id}", one.created, thumb="up"))


async def settle(store: AnswerStore) -> None:
    """What PostgreSQL's autovacuum does by itself in time."""
    if isinstance(store.database, PostgreSQL):
        async with store.database.engine.connect() as connection:
            outside = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await outside.execute(text("VACUUM ANALYZE"))


def word(rank: int) -> str:
    return f"w{rank}"


def answers(draw: random.Random) -> Iterator[Answer]:
    """Made-up answers without end, two minutes apart."""
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))

    def prose(fewest: int, most: int) -> str:
        ranks = draw.choices(range(WORDS), cum_weights=weights, k=draw.randint(fewest, most))
        return " ".join(map(word, ranks))

    for number in itertools.count():
        yield _answer(number, prose(8, 30), [prose(40, 160) for _ in MEMBERS], draw)


def _answer(number: int, question: str, replies: list[str], draw: random.Random) -> Answer:
    id_ = f"ans_{number}"
    odd = number % 1000 == 7
    members = ("claude", RARE, "mistral") if odd else MEMBERS
    candidates = tuple(
        ScoredCandidate(
            Candidate(f"{id_}_{m}", m, f"{m}-1", Completion(reply, "stop", m, Usage(20, 99)), 1.0),
            Score(Attributes(*(draw.uniform(0, 4) for _ in range(5)))),
            draw.uniform(-1, 6),
        )
        for m, reply in zip(members, replies, strict=True)
    )
    ranking = tuple(c.candidate.id for c in sorted(candidates, key=lambda c: -(c.reward or 0)))
    return Answer(
        id=id_,
        created=START + number * APART,
        prompt=Prompt((Message("user", question),)),
        plan=Plan(members),
        candidates=candidates,
        selection=Selection(
            ranking[0], ranking, "fuse" if odd else "best_of_n", "highest reward of 3"
        ),
        scorer=ScorerInfo("nvidia", "nemotron", "helpsteer", 0.1),
        timings=Timings(1.5, 1.2, 0.3, 0.0),
        quality="degraded" if number % 50 == 0 else "full",
        tags={"user": f"u{draw.randrange(USERS)}", "app": "chat", "language": "en"},
    )


if __name__ == "__main__":
    main()

"""A soak: the service under a steady load of many kinds; is what it takes flat?

    python benchmarks/soak.py [--minutes 20] [--out docs/benchmarks/soak.json] [--picture soak.svg]

`starboard serve`, a process of its own with a new SQLite database, asks the tests' fake vendors,
three members and the reward model, of which each fails one call every `--fault-every` seconds, in
all ways of `upstreams.FAULTS`. A fixed number of clients do what users do, each with a pause after
it: `MIX` has the shares. The service is warmed up and comes to rest; then the minutes are counted,
with a sample every few seconds; then it comes to rest again.

Ends with 1 if it is not flat: if resident memory over the last two thirds may grow by more than
`--limit` MB a minute (the upper end of the slope's 95 % interval), if at rest there are more
asyncio tasks or descriptors than before by over `SPARE`, or if a reply was not as it ought to be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from estimates import drift
from overhead import LIBRARIES, running, starboard
from processes import cpu_s, descriptors, resident_mb, threads
from prometheus_client.parser import text_string_to_metric_families
from report import draw_soak, save, soak_table
from results import keep, versions
from rich.progress import Progress

WORDS = ("sky", "sea", "moon", "rain", "wind", "snow", "fire", "leaf", "stone", "cloud", "glass")
DEADLINE_S = 5  # so that a member that hangs is not waited for longer
SPARE = {"tasks": 0, "descriptors": 4}  # two connections to the database, opened when first needed
REST_S = 30  # longer than connections are kept open without use


@dataclass
class Load:
    """The clients' common state. `took`: seconds of the answers since the last sample; `recent`:
    the latest answers, id and prompt."""

    http: aiohttp.ClientSession
    counts: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    recent: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=100))


@dataclass(frozen=True)
class Sample:
    """Seconds since the load began; what the process has now; CPU seconds and answers so far;
    latency of the answers since the last sample, in seconds."""

    at_s: float
    resident_mb: float
    descriptors: int
    threads: int
    tasks: int
    cpu_s: float
    answers: int
    median_s: float
    p95_s: float
    database_mb: float


class WrongError(Exception):
    """A reply is not as it ought to be."""


async def answer(load: Load, draw: random.Random) -> None:
    body: dict[str, Any] = {**asked(draw), "tags": {"user": f"u{draw.randrange(100)}"}}
    found = json.loads(await sent(load, "POST", "/answer", body))
    if not found["answer"]:
        raise WrongError("no answer")
    load.recent.append((found["id"], body["prompt"]))


async def events(load: Load, draw: random.Random) -> None:
    told = await sent(load, "POST", "/answer", {**asked(draw), "stream": True})
    if b"event: selected" not in told:
        raise WrongError("no event selected")


async def chat(load: Load, draw: random.Random) -> None:
    found = json.loads(await sent(load, "POST", "/v1/chat/completions", turns(draw)))
    if not found["choices"][0]["message"]["content"]:
        raise WrongError("no content")


async def chat_events(load: Load, draw: random.Random) -> None:
    body = {**turns(draw), "stream": True}
    if b"data: [DONE]" not in await sent(load, "POST", "/v1/chat/completions", body):
        raise WrongError("no [DONE]")


async def leave(load: Load, draw: random.Random) -> None:
    """Ask, and close the connection before the answer can be there, or a moment after."""
    with suppress(TimeoutError):
        async with asyncio.timeout(draw.uniform(0, 0.15)):
            await sent(load, "POST", "/answer", {**asked(draw), "stream": draw.random() < 0.5})


async def search(load: Load, draw: random.Random) -> None:
    """By the first words of a prompt that was answered, which no reply has."""
    if load.recent:
        _, prompt = draw.choice(load.recent)
        words = " ".join(prompt.split()[:3]).removesuffix("?")
        query = urlencode({"q": f'"{words}"'})
        said = await sent(load, "GET", f"/answers?{query}")
        prompts = [one["prompt"] for one in json.loads(said)["answers"]]
        if not prompts or any(words not in one for one in prompts):
            raise WrongError(f"found for {words!r}: {prompts[:3]}")


async def feedback(load: Load, draw: random.Random) -> None:
    if load.recent:
        body = {"thumb": draw.choice(("up", "down"))}
        id_, _ = draw.choice(load.recent)
        await sent(load, "POST", f"/answers/{id_}/feedback", body)


Action = Callable[[Load, random.Random], Awaitable[None]]
ANSWERS: tuple[Action, ...] = (answer, events, chat, chat_events)
MIX: dict[Action, int] = {
    answer: 40,
    events: 20,
    chat: 10,
    chat_events: 10,
    search: 8,
    feedback: 7,
    leave: 5,
}


def asked(draw: random.Random) -> dict[str, Any]:
    words = " ".join(draw.choices(WORDS, k=draw.randint(2, 40)))
    return {"prompt": f"Why {words}?", "deadline_s": DEADLINE_S}


def turns(draw: random.Random) -> dict[str, Any]:
    words = " ".join(draw.choices(WORDS, k=draw.randint(2, 40)))
    return {
        "model": "starboard",
        "messages": [{"role": "user", "content": f"Why {words}?"}],
        "starboard": {"deadline_s": DEADLINE_S},
    }


async def sent(load: Load, method: str, path: str, body: object = None) -> bytes:
    async with load.http.request(method, path, json=body) as reply:
        said = await reply.read()
        if reply.status not in (200, 201):
            raise WrongError(f"{reply.status} {said[:200]!r}")
        return said


async def client(load: Load, number: int, pause_s: float) -> None:
    """Until it is cancelled."""
    draw = random.Random(number)
    while True:
        (action,) = draw.choices(list(MIX), list(MIX.values()))
        began = time.perf_counter()
        try:
            await action(load, draw)
        except (WrongError, aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            load.wrong[f"{action.__name__}: {error!r}"] += 1
        load.counts[action.__name__] += 1
        if action in ANSWERS:
            load.took.append(time.perf_counter() - began)
        await asyncio.sleep(draw.expovariate(1 / pause_s))


class Watched:
    """The service's process, and how to take a sample of it."""

    def __init__(self, pid: int, database: Path, load: Load) -> None:
        self.pid, self.database, self.load = pid, database, load
        self.began = time.monotonic()

    async def sample(self) -> Sample:
        took, self.load.took = sorted(self.load.took), []
        files = self.database.parent.glob(f"{self.database.name}*")
        return Sample(
            at_s=time.monotonic() - self.began,
            resident_mb=resident_mb(self.pid),
            descriptors=descriptors(self.pid),
            threads=threads(self.pid),
            tasks=await self.tasks(),
            cpu_s=cpu_s(self.pid),
            answers=sum(self.load.counts[one.__name__] for one in ANSWERS),
            median_s=statistics.median(took) if took else 0.0,
            p95_s=took[int(0.95 * (len(took) - 1))] if took else 0.0,
            database_mb=sum(file.stat().st_size for file in files) / 1e6,
        )

    async def tasks(self) -> int:
        told = (await sent(self.load, "GET", "/metrics")).decode()
        for family in text_string_to_metric_families(told):
            if family.name == "starboard_asyncio_tasks":
                return int(family.samples[0].value)
        raise SystemExit("/metrics does not tell starboard_asyncio_tasks")


async def soak(given: argparse.Namespace, url: str, pid: int, database: Path) -> dict[str, Any]:
    warm_up_s, counted_s = 60 * given.warm_up, 60 * given.minutes
    total_s = warm_up_s + counted_s + 2 * REST_S
    connector = aiohttp.TCPConnector(limit=0)
    with Progress(transient=True) as progress:
        task = progress.add_task("soaking", total=total_s)

        async def wait(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(1, left))
                progress.advance(task, min(1, left))

        async with aiohttp.ClientSession(url, connector=connector) as http:
            load = Load(http)
            watched = Watched(pid, database, load)

            async def under_load(seconds: float, samples: list[Sample]) -> None:
                clients = [
                    asyncio.create_task(client(load, number, given.pause))
                    for number in range(given.clients)
                ]
                until = time.monotonic() + seconds
                while (left := until - time.monotonic()) > 0:
                    await wait(min(given.every, left))
                    samples.append(await watched.sample())
                for one in clients:
                    one.cancel()
                for ended in await asyncio.gather(*clients, return_exceptions=True):
                    if isinstance(ended, Exception):  # its cancellation is none
                        raise ended

            await under_load(warm_up_s, [])
            await wait(REST_S)
            before = await watched.sample()
            samples: list[Sample] = []
            watched.began = time.monotonic()
            load.counts.clear()
            await under_load(counted_s, samples)
            await wait(REST_S)
            after = await watched.sample()
    return {
        "clients": given.clients,
        "pause_s": given.pause,
        "fault_every_s": given.fault_every,
        "counts": dict(load.counts.most_common()),
        "wrong": dict(load.wrong),
        "verdict": verdict(before, samples, after, load.wrong, given.limit),
        "samples": [asdict(one) for one in samples],
    }


def verdict(
    before: Sample, samples: list[Sample], after: Sample, wrong: Counter[str], limit: float
) -> dict[str, Any]:
    """Whether it is flat, and by what; `limit` in MB a minute."""
    later = samples[len(samples) // 3 :]
    memory = drift([one.at_s / 60 for one in later], [one.resident_mb for one in later])
    at_rest = {
        "descriptors": {"before": before.descriptors, "after": after.descriptors},
        "tasks": {"before": before.tasks, "after": after.tasks},
    }
    flat = (
        memory.high <= limit
        and all(one["after"] <= one["before"] + SPARE[what] for what, one in at_rest.items())
        and not wrong
    )
    return {
        "flat": flat,
        "limit_mb_per_minute": limit,
        "memory_mb_per_minute": asdict(memory),
        "at_rest": at_rest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20, help="that are measured")
    parser.add_argument("--warm-up", type=float, default=10, help="minutes before those")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--pause", type=float, default=0.7, help="seconds on average, of a client")
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--fault-every", type=int, default=5, help="seconds")
    parser.add_argument("--limit", type=float, default=0.2, help="MB a minute")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    given = parser.parse_args()
    folders: list[Path] = []

    def start(folder: Path, upstreams: Any) -> Any:
        folders.append(folder)
        return starboard(folder, upstreams, database="soak.db")

    options = ("--delay", "0.05", "--fault-every", str(given.fault_every))
    with running({"starboard": start}, *options) as (_, services):
        service = services["starboard"]
        url = service.url.removesuffix("/answer")
        database = folders[0] / "soak.db"
        found = asyncio.run(soak(given, url, service.process.pid, database))
    print(soak_table(found))
    for what, count in found["wrong"].items():
        print(count, what)
    if given.out:
        keep(given.out, found, versions(*LIBRARIES))
    if given.picture:
        save(draw_soak(found), given.picture)
    sys.exit(not found["verdict"]["flat"])


if __name__ == "__main__":
    main()

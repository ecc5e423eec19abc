"""Ray Data on this machine: rows, errors, and that nothing is left of it however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("ray.data", reason="needs the extra ray")

import psutil

from app import clusters
from app.clusters import Cluster
from app.errors import ConfigurationError

AGENT = "Agent"  # Ray's see in a minute or so that all else was killed
MARK = "STARBOARD_TEST_OF_CLUSTERS"
ITEMS = [{"number": number, "wait_s": 0.2} for number in range(40)]


class Worker:
    """Gives the items back, and says where it is."""

    def __call__(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        time.sleep(float(rows.get("wait_s", [0])[0]))
        return {**rows, "folder": [os.getcwd()]}


class Refusing:
    def __init__(self) -> None:
        raise ConfigurationError("it does not open\nfor want of a key")

    def __call__(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        return rows


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """What all processes inherit that a test starts, however they are related to it."""
    mark = uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("SPT_NOENV", "1")  # processes that name themselves would overwrite it
    return mark


Marked = Callable[[str], list[psutil.Process]]


@pytest.fixture
def marked(mark: str) -> Marked:
    """Those processes, by a part of their command."""

    def found(part: str = "") -> list[psutil.Process]:
        those = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == mark and process.pid != os.getpid()
                alive = process.status() != psutil.STATUS_ZOMBIE
                if ours and alive and part in " ".join(process.cmdline()):
                    those.append(process)
            except psutil.Error:  # it has ended, or is somebody else's
                continue
        return those

    return found


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Processes that drive Ray. Nobody but themselves ends them for taking their time."""
    found: list[Process] = []
    start = asyncio.create_subprocess_exec

    async def seen(*command: str, **named: Any) -> Process:
        found.append(await start(*command, **named))
        return found[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seen)
    monkeypatch.setattr(clusters, "END_S", 600)
    return found


def nothing_is_left(marked: Marked, *, but: str = "nothing") -> bool:
    """After a while at most."""
    until = time.monotonic() + 120
    while {one.pid for one in marked("")} - {one.pid for one in marked(but)}:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


async def asked(items: list[dict[str, Any]], cpus: float = 1) -> list[Mapping[str, Any]]:
    return [row async for row in Cluster(1, cpus).rows(items, Worker, what="the test")]


async def come_to(condition: Callable[[], object], unless: asyncio.Task[Any]) -> None:
    while not condition():
        assert not unless.done()
        await asyncio.sleep(0.02)


async def test_workers_are_in_our_folder_and_take_no_module_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: Marked
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "struct.py").write_text("raise RuntimeError('this is not the one of Python')")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # somebody's cluster, and not asked for
    (row,) = await asked([{"number": 0}])
    assert row["folder"] == str(tmp_path)
    assert nothing_is_left(marked)


async def test_rows_of_megabytes_from_a_worker_that_takes_more_than_one_core() -> None:
    text = "é" * 4_000_000
    async with asyncio.timeout(300):  # where the cores do not do, Ray waits without a word
        (row,) = await asked([{"text": text}], cpus=1.4)
    assert row["text"] == text


async def test_nothing_to_do_starts_nothing(marked: Marked) -> None:
    assert await asked([]) == []
    assert not marked("")


@pytest.mark.parametrize("until", ["it begins", "raylet", "ray::MapWorker", "a row"])
async def test_cancelling_ends_it(marked: Marked, drivers: list[Process], until: str) -> None:
    came = asyncio.Event()

    async def run() -> None:
        async for _ in Cluster(1).rows(ITEMS, Worker, what="the test"):
            came.set()

    running = asyncio.create_task(run())
    come = {"it begins": lambda: drivers, "a row": came.is_set}
    await come_to(come.get(until, lambda: marked(until)), running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert drivers[0].returncode == 0  # it was not killed
    assert nothing_is_left(marked)


async def test_cancelling_again_ends_it_at_once(marked: Marked, drivers: list[Process]) -> None:
    running = asyncio.create_task(asked(ITEMS))
    await come_to(lambda: marked("ray::MapWorker"), running)
    running.cancel()
    await come_to(lambda: drivers[0].stdin and drivers[0].stdin.is_closing(), running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert drivers[0].returncode == -signal.SIGKILL
    assert nothing_is_left(marked, but=AGENT)


async def test_items_that_are_still_being_sent_are_given_up(
    marked: Marked, drivers: list[Process]
) -> None:
    running = asyncio.create_task(asked([{"text": "x" * 100_000_000}]))
    await come_to(lambda: drivers, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert drivers[0].returncode == 0
    assert nothing_is_left(marked)


async def test_a_driver_that_ray_ends_is_told(marked: Marked) -> None:
    running = asyncio.create_task(asked(ITEMS))
    await come_to(lambda: marked("ray::MapWorker"), running)
    (driver,) = marked("import drive")
    driver.kill()
    with pytest.raises(ConfigurationError, match=r"drives Ray for the test ended with code -9"):
        await running
    assert nothing_is_left(marked, but=AGENT)


@pytest.mark.parametrize("until", ["import drive", "raylet", "ray::MapWorker"])
async def test_whoever_asked_is_killed(marked: Marked, until: str) -> None:
    script = (
        "import asyncio; from tests.test_clusters import ITEMS, asked; asyncio.run(asked(ITEMS))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), cwd=Path(__file__).parents[1]
    )
    ended = asyncio.create_task(process.wait())
    await come_to(lambda: marked(until), ended)
    process.kill()
    await ended
    assert nothing_is_left(marked, but=AGENT)


async def test_what_workers_raise_is_told(marked: Marked) -> None:
    told = r"on: app\.errors\.ConfigurationError: it does not open for want of a key$"
    with pytest.raises(ConfigurationError, match=told):
        async for _ in Cluster(1).rows(ITEMS, Refusing, what="the test"):
            pass
    assert nothing_is_left(marked)


async def test_an_address_where_nobody_listens_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"^no Ray cluster answers at {address}"):
            async for _ in Cluster(address=address).rows(ITEMS, Worker, what="the test"):
                pass

"""Work on several machines, or in several processes of one, by Ray Data (extra `ray`).

Each worker is opened once and called with an item at a time, so this package must be on every
machine. When a worker or its machine dies, another one does its item again, as often as it takes:
an item that kills whoever takes it (too little memory, say) is tried for ever, and the progress
stands still.

Ray is driven from a process of its own, by `drive`: when Ray finds its daemons gone, it ends the
process that it runs in without a word (2.60: `QuickExit`), and its threads outlive the work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.model_folders import require

OBJECT_STORE_BYTES = 128 * 2**20
KNOCK_S = 10.0
END_S = 60.0
BEGIN = """
import sys
del sys.path[0]  # the folder of the command
import os, pickle
asked = os.fdopen(os.dup(0), "rb")
sys.path[:] = pickle.load(asked)
from app.clusters import drive
drive(asked)
"""
RAISED = re.compile(r"^[\w.]*(Error|Exception)\b", re.MULTILINE)
LENGTH = Struct("!Q")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """`workers` processes, each with `cpus` cores and `gpus` GPUs.

    `address` is that of a running cluster; None starts one on this machine alone, and ends it with
    the work.
    Ray listens on the network, and whoever it lets in runs what he likes. By its source (2.60) it
    asks for the token in `~/.ray/auth_token`, which it makes, unless RAY_AUTH_MODE says otherwise;
    that a stranger is refused was not tried.
    """

    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    address: str | None = None

    async def rows(
        self, items: Sequence[Row], worker: type, *arguments: object, what: str
    ) -> AsyncGenerator[Row, None]:
        """The rows that `worker(*arguments)` makes of the items, as they come, in any order. It is
        called with one item: a list of length 1 for each of its keys, and returns the like. It must
        be found by its module's name, which `__main__` is not.

        Raises `ConfigurationError` if there is no cluster, or its workers cannot go on: `what`
        says in the message whose they are. To cancel this ends them in the middle of their items,
        within seconds; to cancel it again ends them at once.
        """
        if not items:
            return
        driver = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BEGIN), stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        assert driver.stdin
        assert driver.stdout
        try:
            asked = self, items, worker, arguments
            driver.stdin.write(pickle.dumps(sys.path) + pickle.dumps(asked))
            await driver.stdin.drain()
            while isinstance(said := await _said(driver.stdout), Mapping):
                yield said
            if isinstance(said, ConfigurationError):
                raise said
            if said is not None:
                raise ConfigurationError(f"the workers of {what} cannot go on: {said}")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            ended = f"the process that drives Ray for {what} ended with code {await _end(driver)}"
            raise ConfigurationError(f"{ended}: try the same command again") from error
        finally:
            await _end(driver)


async def _said(rows: asyncio.StreamReader) -> object:
    (length,) = LENGTH.unpack(await rows.readexactly(LENGTH.size))
    return pickle.loads(await rows.readexactly(length))  # noqa: S301 - our own process's


async def _end(driver: Process) -> int | None:
    """The code that it ends with, which it does once it has nobody to serve; else it is killed."""
    assert driver.stdin
    driver.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await driver.communicate()
    except TimeoutError:
        pass
    finally:
        if driver.returncode is None:
            driver.kill()
            await driver.communicate()
    return driver.returncode


def drive(asked: BinaryIO) -> None:
    """Of the process that drives Ray: write the rows of what is asked to standard output, and None;
    or, if they cannot be had, the `ConfigurationError`, or what else to tell the user."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have come ignored
    rows = os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # where Ray may print

    def say(said: object) -> None:
        content = pickle.dumps(said)
        rows.write(LENGTH.pack(len(content)) + content)
        rows.flush()

    try:
        require("work on a cluster", "ray", "ray.data", extra="ray")
        cluster, items, worker, arguments = pickle.load(asked)  # noqa: S301 - our parent's
        connected = threading.Event()
        threading.Thread(target=_follow, args=(asked, connected), daemon=True).start()
        # Ray has its workers look for modules there first, and ours may hold another `app`.
        home = os.getcwd()
        os.chdir(Path(__file__).parent.parent)
        _connect(cluster)
        connected.set()
        for row in _rows(cluster, items, (home, worker, *arguments)):
            say(row)
        say(None)
    except KeyboardInterrupt:  # by `_follow`
        pass
    except Exception as error:  # of any kind: it belongs to the parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(BrokenPipeError):
            say(_told(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        with suppress(BrokenPipeError):
            rows.close()


def _follow(asked: BinaryIO, connected: threading.Event) -> None:
    """Interrupt the main thread once the parent has closed its end, or is gone."""
    asked.read()
    connected.wait(END_S)  # interrupted while it starts, Ray leaves processes behind
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(END_S)
    os._exit(1)


def _told(error: Exception) -> ConfigurationError | str:
    if type(error) is ConfigurationError:  # not Ray's, of a worker's: it has that class too
        return error
    from ray.exceptions import RayError

    told = str(error) if isinstance(error, RayError) else f"{type(error).__name__}: {error}"
    # Ray's own hold a worker's traceback, which ends with the error and what it says.
    return " ".join(told[[0, *(one.start() for one in RAISED.finditer(told))][-1] :].split())


def _connect(cluster: Cluster) -> None:
    """Connect this process; raises `ConfigurationError` if nobody is there."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address:
        _knock(cluster.address)
        ray.init(cluster.address, **quiet)
        return
    ray.init(
        "local",
        num_cpus=max(1, ceil(cluster.workers * cluster.cpus)),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        **quiet,
    )


def _knock(address: str) -> None:
    """Raise `ConfigurationError` if nobody listens there: Ray itself would wait for minutes."""
    at = urlsplit(address if "://" in address else f"ray://{address}")
    if at.hostname is None or at.port is None:
        return  # "auto", or a cluster by its name
    try:
        socket.create_connection((at.hostname, at.port), KNOCK_S).close()
    except OSError as error:
        raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error


class _Worker:
    """A worker in the folder of the command, if it can go there."""

    def __init__(self, home: str, worker: type, *arguments: object) -> None:
        with suppress(OSError):
            os.chdir(home)
        self.worker = worker(*arguments)

    def __call__(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        made: Mapping[str, Any] = self.worker(rows)
        return made


def _rows(cluster: Cluster, items: Sequence[Row], arguments: tuple[object, ...]) -> Iterator[Row]:
    """Those of `_Worker(*arguments)`."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = (
        ray.data.from_items(list(items), override_num_blocks=len(items))
        .map_batches(
            _Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=cluster.workers),
            fn_constructor_args=arguments,
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
        )
        # Not `iter_rows`: it always holds a row back until the next one is there; this only may.
        .iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    for block in blocks:
        yield from block.to_pylist()

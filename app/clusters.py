"""Work on several machines, or in several processes of one, by Ray Data (extra `ray`).

Each worker is opened once and called with an item at a time, so this package must be on every
machine. When a worker or its machine dies, another one does its item again, as often as it takes:
an item that kills whoever takes it (too little memory, say) is tried for ever, and the progress
stands still.

Ray is driven from a process of its own. It ends the one it was started in, without a word, when one
of its threads finds its daemons gone (2.60: `QuickExit`); some outlive the work that began them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.model_folders import require

OBJECT_STORE_BYTES = 128 * 2**20
KNOCK_S = 10.0
END_S = 30.0

Items = Sequence[Mapping[str, Any]]


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
        self, items: Items, worker: type, *arguments: object, what: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The rows that `worker(*arguments)` makes of the items, as they come, in any order. It is
        called with one item: a list of length 1 for each of its keys, and returns the like.

        Raises `ConfigurationError` if there is no cluster, or its workers cannot go on: `what`
        says in the message whose they are. To cancel this ends them in the middle of their items.
        """
        if not items:
            return
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        driver = spawn.Process(target=_drive, args=(theirs,), daemon=True)
        driver.start()
        theirs.close()
        try:
            await asyncio.to_thread(ours.send, (self, items, worker, arguments, what))
            while isinstance(said := await asyncio.to_thread(ours.recv), Mapping):
                yield said
            if said is not None:
                raise ConfigurationError(said)
        except (EOFError, ConnectionError) as error:
            raise ConfigurationError(
                f"the workers of {what} cannot go on: Ray ended the process that it was started in"
            ) from error
        finally:
            await asyncio.to_thread(_end, driver, ours)

    def connect(self) -> None:
        """Connect this process to the cluster; raises `ConfigurationError` if there is none."""
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address:
            _knock(self.address)
            ray.init(self.address, **quiet)
            return
        ray.init(
            num_cpus=max(1, round(self.workers * self.cpus)),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )

    def begin(
        self, items: Items, worker: type, arguments: tuple[object, ...]
    ) -> Iterator[Mapping[str, Any]]:
        """The rows, once this process is connected."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return iter(
            ray.data.from_items(list(items), override_num_blocks=len(items))
            .map_batches(
                worker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=self.workers),
                fn_constructor_args=arguments,
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            )
            .iter_rows()
        )


class _Over(BaseException):
    """The parent wants no more rows."""


def _drive(parent: Connection) -> None:
    """Send the parent its rows, and None; or what to tell the user, if they cannot be had."""
    # Ctrl-C reaches both: the parent decides. Its standard output is no place for what Ray prints.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, _over)
    os.dup2(2, 1)
    cluster, items, worker, arguments, what = parent.recv()
    try:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
        require("work on a cluster", "ray", "ray.data", extra="ray")
        import ray

        try:
            cluster.connect()
            for row in cluster.begin(items, worker, arguments):
                parent.send(row)
            parent.send(None)
        except (ray.exceptions.RayError, ConnectionError) as error:
            said = str(error).strip().splitlines()[-1]
            parent.send(f"the workers of {what} cannot go on: {said}")
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            ray.shutdown()
    except ConfigurationError as error:
        parent.send(str(error))
    except _Over:
        pass


def _over(*_: object) -> None:
    raise _Over


def _follow(parent: Connection) -> None:
    """Interrupt the main thread when the parent has had enough, or is gone."""
    with suppress(EOFError, OSError):
        parent.recv()
    os.kill(os.getpid(), signal.SIGUSR1)


def _end(driver: BaseProcess, parent: Connection) -> None:
    """See a process of `_drive` off."""
    with suppress(OSError):
        parent.send(None)
    driver.join(END_S)
    driver.kill()
    driver.join()


def _knock(address: str) -> None:
    """Raise `ConfigurationError` if nobody listens there: Ray itself would wait for minutes."""
    at = urlsplit(address if "://" in address else f"ray://{address}")
    if at.hostname is None or at.port is None:
        return  # "auto", or a cluster by its name
    try:
        socket.create_connection((at.hostname, at.port), KNOCK_S).close()
    except OSError as error:
        raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error

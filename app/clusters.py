"""Work on several machines, or in several processes of one, by Ray Data (extra `ray`).

Each worker is opened once and called with an item at a time, so this package must be on every
machine. When a worker or its machine dies, another one does its item again, as often as it takes:
an item that kills whoever takes it (too little memory, say) is tried for ever, and the progress
stands still.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import warnings
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.model_folders import require

OBJECT_STORE_BYTES = 128 * 2**20
KNOCK_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """`workers` processes, each with `cpus` cores and `gpus` GPUs.

    `address` is that of a running cluster; None starts one on this machine alone, and ends it with
    the work. A cluster that the process is already connected to is used, and left as it is.
    Ray listens on the network, and whoever it lets in runs what he likes. By its source (2.60) it
    asks for the token in `~/.ray/auth_token`, which it makes, unless RAY_AUTH_MODE says otherwise;
    that a stranger is refused was not tried.
    """

    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    address: str | None = None

    async def rows(
        self, items: Sequence[Mapping[str, Any]], worker: type, *arguments: object, what: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The rows that `worker(*arguments)` makes of the items, as they come, in any order. It is
        called with one item: a list of length 1 for each of its keys, and returns the like.

        Raises `ConfigurationError` if there is no cluster, or its workers cannot go on: `what`
        says in the message whose they are. To cancel this takes until the next row is there.
        """
        require("work on a cluster", "ray", "ray.data", extra="ray")
        import ray

        if not items:
            return
        ours = not ray.is_initialized()
        rows: Iterator[Mapping[str, Any]] = iter(())
        coming: asyncio.Future[Mapping[str, Any] | None] | None = None
        try:
            if ours:
                self._connect()
            rows = self._begun(items, worker, arguments)
            while True:
                coming = asyncio.ensure_future(asyncio.to_thread(next, rows, None))
                row = await asyncio.shield(coming)
                if row is None:
                    return
                yield row
        except (ray.exceptions.RayError, ConnectionError) as error:
            said = str(error).strip().splitlines()[-1]
            raise ConfigurationError(f"the workers of {what} cannot go on: {said}") from error
        finally:
            # A process once ended, without a word, when Ray was shut down under a waiting thread.
            if coming is not None:
                await asyncio.wait([coming])
            del rows
            if ours:
                ray.shutdown()

    def _connect(self) -> None:
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

    def _begun(
        self, items: Sequence[Mapping[str, Any]], worker: type, arguments: tuple[object, ...]
    ) -> Iterator[Mapping[str, Any]]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            # What Ray (2.60) says of its own defaults.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
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


def _knock(address: str) -> None:
    """Raise `ConfigurationError` if nobody listens there: Ray itself would wait for minutes."""
    at = urlsplit(address if "://" in address else f"ray://{address}")
    if at.hostname is None or at.port is None:
        return  # "auto", or a cluster by its name
    try:
        socket.create_connection((at.hostname, at.port), KNOCK_S).close()
    except OSError as error:
        raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error

"""The in-process sampler on several machines, or in several processes of one, by Ray Data (extra
`ray`).

Each worker opens the base and the adapter once, so both must be there under the same path or name
on every machine, as must this package. A shard is sampled whole by one worker, and reads the same
whichever that is; when a worker or its machine dies, another one samples its shard again, as often
as it takes. A shard that kills whoever takes it (too little memory, say) is therefore tried for
ever, and the progress stands still.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import warnings
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.model_folders import require
from app.star.sampling import BATCH, Outcome, Shards, open_local_sampler, sampler_name

OBJECT_STORE_BYTES = 128 * 2**20
KNOCK_S = 10.0


@dataclass(frozen=True)
class RaySampler:
    """`workers` processes, each with `cpus` cores and `gpus` GPUs.

    `address` is that of a running cluster; None starts one on this machine alone, and ends it with
    the iteration. A cluster that the process is already connected to is used, and left as it is.
    Ray listens on the network, and whoever it lets in runs what he likes. By its source (2.60) it
    asks for the token in `~/.ray/auth_token`, which it makes, unless RAY_AUTH_MODE says otherwise;
    that a stranger is refused was not tried.
    """

    base: str
    adapter: Path | None = None
    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    address: str | None = None
    seed: int = 0
    batch: int = BATCH

    @property
    def name(self) -> str:
        return sampler_name(self.base, self.adapter)

    async def sample(self, shards: Shards) -> AsyncGenerator[tuple[int, list[Outcome]], None]:
        """Raises `ConfigurationError` if there is no cluster, or its workers cannot go on.

        To cancel this takes until the next shard is done.
        """
        require("sampling on a cluster", "ray", "ray.data", extra="ray")
        import ray

        if not shards:
            return
        ours = not ray.is_initialized()
        rows: Iterator[Mapping[str, Any]] = iter(())
        coming: asyncio.Future[Mapping[str, Any] | None] | None = None
        try:
            if ours:
                self._connect()
            rows = self._begun(shards)
            while True:
                coming = asyncio.ensure_future(asyncio.to_thread(next, rows, None))
                row = await asyncio.shield(coming)
                if row is None:
                    return
                yield row["number"], pickle.loads(row["outcomes"])  # noqa: S301 - our own workers'
        except (ray.exceptions.RayError, ConnectionError) as error:
            said = str(error).strip().splitlines()[-1]
            raise ConfigurationError(f"the workers of {self.name} cannot go on: {said}") from error
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

    def _begun(self, shards: Shards) -> Iterator[Mapping[str, Any]]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            # What Ray (2.60) says of its own defaults.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        asked = [
            {"number": number, "prompts": pickle.dumps(list(prompts))}
            for number, prompts in shards.items()
        ]
        return iter(
            ray.data.from_items(asked, override_num_blocks=len(asked))
            .map_batches(
                _Worker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=self.workers),
                fn_constructor_args=(self.base, self.adapter, self.seed, self.batch),
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


class _Worker:
    """One process of the cluster: Ray Data makes it once and calls it with a shard at a time."""

    def __init__(self, base: str, adapter: Path | None, seed: int, batch: int) -> None:
        self.sampler = open_local_sampler(base, adapter, seed=seed, batch=batch)

    def __call__(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        outcomes = [
            pickle.dumps(self.sampler.completions(pickle.loads(prompts)))  # noqa: S301 - who called us
            for prompts in rows["prompts"]
        ]
        return {"number": rows["number"], "outcomes": outcomes}

"""The in-process sampler on a Ray cluster (app/clusters.py).

Each worker opens the base and the adapter once, so both must be there under the same path or name
on every machine. A shard is sampled whole by one worker, and reads the same whichever that is.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.clusters import Cluster
from app.star.sampling import BATCH, Outcome, Shards, open_local_sampler, sampler_name


@dataclass(frozen=True)
class RaySampler:
    """`workers`, `cpus` and `gpus` for each, and `address` are a `Cluster`'s."""

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
        """Raises `ConfigurationError` if there is no cluster, or its workers cannot go on."""
        asked = [
            {"number": number, "prompts": pickle.dumps(list(prompts))}
            for number, prompts in shards.items()
        ]
        cluster = Cluster(self.workers, self.cpus, self.gpus, self.address)
        opened = self.base, self.adapter, self.seed, self.batch
        async with aclosing(cluster.rows(asked, _Worker, *opened, what=self.name)) as rows:
            async for row in rows:
                yield row["number"], pickle.loads(row["outcomes"])  # noqa: S301 - our own workers'


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

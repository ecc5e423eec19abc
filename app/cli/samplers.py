"""Who samples for a run, as the command line says: this process, a host, or a cluster.

That is no part of a run's manifest, for it is to make no difference to the rows: a run may be
begun here and go on elsewhere. It stands beside it in `engine.json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.console import settings
from app.errors import ConfigurationError
from app.logs import log_at
from app.runs import write_text

if TYPE_CHECKING:
    from app.providers import Provider
    from app.providers.http import Http
    from app.scorers import Scorer
    from app.settings import ScorerSpec, Seat, Settings
    from app.star.loop import Method, Teacher
    from app.star.sampling import Sampler
    from app.wiring import Engines


class Kind(StrEnum):
    local = "local"
    host = "host"
    ray = "ray"


@dataclass(frozen=True, slots=True)
class Engine:
    """What samples. `host` names a member of starboard.toml, asked for `concurrency` completions
    at a time; `workers`, `gpus` for each, and `address` are of a Ray cluster."""

    kind: Kind = Kind.local
    host: str | None = None
    concurrency: int = 16
    workers: int = 2
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if (self.kind is Kind.host) != (self.host is not None):
            raise ConfigurationError(
                "`--engine host` and `--host NAME`, a member of starboard.toml, go together"
            )

    def save(self, folder: Path) -> None:
        write_text(folder / "engine.json", json.dumps(asdict(self), indent=2))

    @classmethod
    def of(cls, folder: Path) -> Engine:
        """What a run was last begun with; this process, if nothing is said."""
        path = folder / "engine.json"
        if not path.is_file():
            return cls()
        said = json.loads(path.read_text(encoding="utf-8"))
        return cls(**said | {"kind": Kind(said["kind"])})


@dataclass(frozen=True)
class Board:
    """The members and scorers of starboard.toml, opened when they are asked for."""

    settings: Settings | None
    stack: AsyncExitStack

    @classmethod
    @asynccontextmanager
    async def open(cls, *, needed: bool) -> AsyncIterator[Board]:
        """If it is not `needed`, the settings are not read."""
        async with AsyncExitStack() as stack:
            if needed:
                log_at("error")
            yield cls(settings() if needed else None, stack)

    @property
    def seats(self) -> Mapping[str, Seat]:
        return {seat.name: seat for seat in self.settings.seats} if self.settings else {}

    def seat(self, name: str) -> Seat:
        """Raises `ConfigurationError` if there is none of that name."""
        if name not in self.seats:
            raise ConfigurationError(
                f"no member is called {name}: there are {', '.join(sorted(self.seats))}"
            )
        return self.seats[name]

    def host(self, name: str) -> Seat:
        """The seat that serves the base. Raises `ConfigurationError` if it cannot: it must take
        adapters, and what it writes is trained on."""
        seat = self.seat(name)
        if seat.spec.provider != "openai_compatible":
            raise ConfigurationError(
                f"{name} takes no adapters: sample with vLLM, as a member with"
                ' `provider = "openai_compatible"`, or with `--engine local`'
            )
        if not seat.trainable:
            raise ConfigurationError(
                f"what {name} writes may not train a model. If it serves the base itself, under"
                f" terms that let it, set `trainable = true` in [members.{name}]"
            )
        return seat

    async def provider(self, name: str) -> Provider:
        """Raises `ConfigurationError` if there is none of that name, or its key is missing."""
        from app.settings import missing_key
        from app.wiring import build_provider

        seat = self.seat(name)
        assert self.settings is not None
        if lacks := missing_key(seat.spec):
            raise ConfigurationError(f"{name} cannot be asked: {lacks}")
        return await build_provider(name, seat.spec, self.settings, *self._tools(self.settings))

    def scorer_spec(self, kind: str) -> ScorerSpec:
        """The first step of that kind. Raises `ConfigurationError` if the ladder has none."""
        ladder = self.settings.ladder if self.settings else ()
        for spec in ladder:
            if spec.kind == kind:
                return spec
        kinds = ", ".join(dict.fromkeys(spec.kind for spec in ladder))
        raise ConfigurationError(f"no scorer {kind} on the ladder: {kinds}")

    async def scorer(self, kind: str) -> Scorer:
        from app.wiring import build_scorer

        spec = self.scorer_spec(kind)
        assert self.settings is not None
        return await build_scorer(spec, self.settings, *self._tools(self.settings), {})

    def teachers(self) -> dict[str, Teacher]:
        from app.star.loop import Teacher

        return {
            name: Teacher(seat.trainable, partial(self._sampler, name))
            for name, seat in self.seats.items()
        }

    async def _sampler(self, name: str) -> Sampler:
        from app.star.hosts import HostSampler

        return HostSampler(await self.provider(name))

    def _tools(self, settings: Settings) -> tuple[Http, Engines]:
        from app.providers.http import open_http
        from app.wiring import Engines

        http = open_http()
        self.stack.push_async_callback(http.aclose)
        return http, Engines(settings.engine, self.stack)


async def open_sampler(
    engine: Engine, board: Board, method: Method, adapter: Path | None
) -> Sampler:
    """A sampler for the base of a run, with an adapter or without."""
    from app.star.sampling import open_local_sampler

    match engine.kind:
        case Kind.local:
            return await asyncio.to_thread(
                open_local_sampler,
                method.base,
                adapter,
                seed=method.seed,
                batch=method.sampling_batch,
            )
        case Kind.ray:
            from app.star.clusters import RaySampler

            return RaySampler(
                method.base,
                adapter and Path.cwd() / adapter,
                engine.workers,
                gpus=engine.gpus,
                address=engine.address,
                seed=method.seed,
                batch=method.sampling_batch,
            )
        case Kind.host:
            return await _host(engine, board, adapter)


async def _host(engine: Engine, board: Board, adapter: Path | None) -> Sampler:
    from app.providers.openai_compatible import OpenAICompatibleProvider
    from app.star.hosts import HostSampler, load_adapter

    name = str(engine.host)
    board.host(name)
    provider = await board.provider(name)
    assert isinstance(provider, OpenAICompatibleProvider)
    if adapter:
        provider = replace(provider, model=await load_adapter(provider, adapter))
    return HostSampler(provider, engine.concurrency)

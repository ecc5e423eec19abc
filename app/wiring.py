"""From settings to live objects: everything is opened once and closed once, here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from app.circuits import open_circuits
from app.ensemble import AnswerSink, Ensemble, Watch
from app.errors import ConfigurationError
from app.gates import Gate
from app.metering import FREE, Booked, Price, ScorerPrice, Tariff
from app.providers import Provider
from app.providers.http import Http, open_http
from app.scorers import Scorer
from app.scorers.calibration import CalibratedScorer, load
from app.scorers.ladder import Ladder
from app.settings import (
    AnthropicSpec,
    EmbeddedScorerSpec,
    EmbeddedSpec,
    EngineSettings,
    GoogleGenerativeAISpec,
    GoogleSpec,
    JudgeScorerSpec,
    LocalScorerSpec,
    LocalSpec,
    MistralSpec,
    NvidiaScorerSpec,
    OpenAICompatibleSpec,
    ProviderSpec,
    RemoteScorerSpec,
    ScorerSpec,
    ScriptedScorerSpec,
    ScriptedSpec,
    Seat,
    Settings,
    missing_key,
    signature,
)
from app.standing import Standing, open_standing
from app.store import AnswerStore
from app.store.bookings import Bookings, open_bookings
from app.store.circuits import Circuits
from app.store.idempotency import Idempotency
from app.store.keys import Keys
from app.traces import TracedProvider, TracedScorer, TracedStore, open_traces

if TYPE_CHECKING:
    from app.model_files import ModelName
    from app.providers.embedded import Engine


@dataclass(frozen=True)
class Services:
    """The live objects behind every route and command. `seats` includes those not taken."""

    settings: Settings
    seats: tuple[Seat, ...]
    ensemble: Ensemble
    store: AnswerStore
    standing: Standing
    keys: Keys
    bookings: Bookings
    idempotency: Idempotency


@asynccontextmanager
async def open_services(
    settings: Settings, *watches: Watch, booked: Booked | None = None
) -> AsyncIterator[Services]:
    """Open everything the settings name; raises `ConfigurationError` that says what to set. The
    watches are set on every run, and `booked` is told of every call."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(AnswerStore.open(settings.database_url))
        http = open_http()
        stack.push_async_callback(http.aclose)
        engines = Engines(settings.engine, stack)
        members = {
            seat.name: await build_provider(seat.name, seat.spec, settings, http, engines)
            for seat in settings.seats
            if seat.why_not is None
        }
        scorers = [
            await build_scorer(spec, settings, http, engines, members) for spec in settings.ladder
        ]
        board = dict(members)
        sink: AnswerSink = store
        if settings.traced:
            traces = await stack.enter_async_context(open_traces(content=settings.trace_content))
            watches = (*watches, traces.watch)
            scorers = [TracedScorer(scorer, traces) for scorer in scorers]
            sink = TracedStore(store, store.database.dialect, traces)
            for seat in settings.seats:
                if seat.name in board:
                    board[seat.name] = TracedProvider(board[seat.name], seat.spec.provider, traces)
        by_wins = settings.standing == "wins"
        standing = await stack.enter_async_context(
            open_standing(store, tuple(members), by_wins=by_wins, minimum=settings.standing_min)
        )
        gates = {s.name: _gate(s, settings) for s in settings.seats if s.name in members}
        await stack.enter_async_context(open_circuits(Circuits(store.database), gates.values()))
        ensemble = Ensemble(
            board,
            _ladder(scorers),
            sink,
            settings.timeout_s,
            standing,
            _tariff(settings, scorers),
            settings.max_calls,
            gates=gates,
            watches=watches,
            booked=booked,
        )
        keys = Keys(store.database)
        yield Services(
            settings,
            settings.seats,
            ensemble,
            store,
            standing,
            keys,
            bookings=await stack.enter_async_context(open_bookings(keys)),
            idempotency=Idempotency(store.database),
        )


@dataclass(frozen=True)
class Engines:
    """The embedded engines of one process: one for each file, however many seats."""

    settings: EngineSettings
    stack: AsyncExitStack
    _open: dict[tuple[ModelName, Path | None], Engine] = field(default_factory=dict)

    async def get(self, model: ModelName, adapter: Path | None = None) -> Engine:
        key = model, adapter
        if key not in self._open:
            self._open[key] = await asyncio.to_thread(self._load, model, adapter)
            self.stack.push_async_callback(asyncio.to_thread, self._open[key].close)
        return self._open[key]

    def _load(self, model: ModelName, adapter: Path | None) -> Engine:
        try:
            from app.model_files import model_path
            from app.providers.embedded import Engine, default_threads
        except ImportError as error:
            hint = "on Debian and Ubuntu: apt-get install libgomp1"
            raise ConfigurationError(
                f"the embedded engine does not load: {error}; {hint}"
            ) from error
        path = model_path(model, self.settings.cache_dir)
        return Engine(
            path,
            threads=self.settings.threads or default_threads(),
            slots=self.settings.slots,
            context_tokens=self.settings.context_tokens,
            adapter=adapter,
        )


async def build_provider(
    name: str, spec: ProviderSpec, settings: Settings, http: Http, engines: Engines
) -> Provider:
    """The adapter a spec describes.

    Adapters are imported where they are used: a vendor's package costs up to a second of
    start-up and tens of megabytes.
    """
    match spec:
        case AnthropicSpec():
            from app.providers.anthropic import open_anthropic

            return open_anthropic(
                name, spec.model, api_key=_key(spec), base_url=_url(spec), http=http
            )
        case GoogleSpec():
            from app.providers.google import open_google

            return open_google(name, spec.model, api_key=_key(spec), base_url=_url(spec), http=http)
        case GoogleGenerativeAISpec():
            from app.providers.google_generativeai import open_google_generativeai

            return open_google_generativeai(
                name,
                spec.model,
                api_key=_key(spec),
                base_url=_url(spec),
                timeout_s=settings.timeout_s,
            )
        case MistralSpec():
            from app.providers.mistral import BASE_URL, MistralProvider

            return MistralProvider(name, spec.model, _v1(spec) or BASE_URL, _key(spec), http)
        case OpenAICompatibleSpec():
            from app.providers.openai_compatible import OpenAICompatibleProvider

            url = str(spec.base_url).rstrip("/")
            return OpenAICompatibleProvider(name, spec.model, url, _key(spec) or None, http)
        case EmbeddedSpec():
            from app.model_files import MODEL_FILES
            from app.providers.embedded import EmbeddedProvider

            engine = await engines.get(spec.model, spec.adapter)
            return EmbeddedProvider(
                name,
                signature(spec),
                engine,
                spec.temperature,
                spec.seed,
                MODEL_FILES[spec.model].chat,
            )
        case LocalSpec():
            from app.providers.local import open_local

            return await engines.stack.enter_async_context(
                open_local(
                    name,
                    spec.model,
                    spec.adapter,
                    model=signature(spec),
                    device=spec.device,
                    temperature=spec.temperature,
                    seed=spec.seed,
                    context_tokens=spec.context_tokens,
                    batch_tokens=spec.batch_tokens,
                    queue_limit=spec.queue_limit,
                    cache=settings.engine.cache_dir,
                )
            )
        case ScriptedSpec():
            from app.providers.scripted import ScriptedProvider

            return ScriptedProvider(name, spec.model, spec.reply, spec.delay_s)
        case _:
            assert_never(spec)


async def build_scorer(
    spec: ScorerSpec,
    settings: Settings,
    http: Http,
    engines: Engines,
    members: Mapping[str, Provider],
) -> Scorer:
    """The scorer a spec describes, calibrated if it says so. `members` are those seated."""
    scorer: Scorer
    match spec:
        case NvidiaScorerSpec():
            from app.scorers.nvidia import BASE_URL, NvidiaScorer, RateLimit

            if spec.api_key is None and spec.base_url is None:
                raise ConfigurationError("the scorer nvidia needs NVIDIA_API_KEY, or its base_url")
            scorer = NvidiaScorer(
                spec.model,
                _v1(spec) or BASE_URL,
                _key(spec) or None,
                spec.resolution,
                RateLimit(spec.requests_per_minute),
                http,
            )
        case LocalScorerSpec():
            from app.scorers.local import open_local_scorer

            scorer = await engines.stack.enter_async_context(
                open_local_scorer(
                    spec.model,
                    resolution=spec.resolution,
                    device=spec.device,
                    dtype=spec.dtype,
                    max_tokens=spec.max_tokens,
                    batch_tokens=spec.batch_tokens,
                    queue_limit=spec.queue_limit,
                    revision=spec.revision,
                    trust_remote_code=spec.trust_remote_code == spec.model,
                )
            )
        case RemoteScorerSpec():
            from app.scorers.remote import open_remote_scorer, remote_head

            scorer = await open_remote_scorer(
                spec.server,
                spec.route,
                str(spec.base_url).rstrip("/").removesuffix("/v1"),
                spec.model,
                remote_head(spec.head, spec.labels, spec.factor, spec.offset),
                resolution=spec.resolution,
                api_key=_key(spec) or None,
                tokenizer=spec.tokenizer,
                max_tokens=spec.max_tokens,
                http=http,
            )
        case JudgeScorerSpec():
            from app.scorers.judge import RESOLUTION, JudgeScorer

            scorer = JudgeScorer(
                await _judge(spec.member, settings, http, engines, members),
                RESOLUTION if spec.resolution is None else spec.resolution,
                spec.exclude_own_family,
                spec.max_tokens,
            )
        case EmbeddedScorerSpec():
            from app.scorers.embedded import open_embedded_scorer

            scorer = await asyncio.to_thread(open_embedded_scorer, spec.resolution)
        case ScriptedScorerSpec():
            from app.scorers.scripted import ScriptedScorer

            scorer = ScriptedScorer(spec.rewards, spec.resolution)
        case _:
            assert_never(spec)
    return CalibratedScorer(scorer, load(spec.calibration)) if spec.calibration else scorer


async def _judge(
    name: str | None,
    settings: Settings,
    http: Http,
    engines: Engines,
    members: Mapping[str, Provider],
) -> Provider:
    """The member that judges: the seated one, or, if it does not sit, one of its own."""
    if name is None:
        raise ConfigurationError("the scorer judge needs a vendor's key, or a `member` to judge")
    if name in members:
        return members[name]
    seat = next(seat for seat in settings.seats if seat.name == name)
    if lacks := missing_key(seat.spec):
        raise ConfigurationError(f"the judge {name} cannot be called: {lacks}")
    return await build_provider(name, seat.spec, settings, http, engines)


def _gate(seat: Seat, settings: Settings) -> Gate:
    breaker = settings.breaker
    return Gate(seat.name, breaker.failures, breaker.cool_down_s, seat.spec.max_concurrency)


def _ladder(scorers: Sequence[Scorer]) -> Ladder:
    names = [scorer.info.name for scorer in scorers]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigurationError(f"the ladder has {', '.join(twice)} more than once")
    return Ladder.of(*scorers)


def _tariff(settings: Settings, scorers: Sequence[Scorer]) -> Tariff:
    """What members and scorers cost: as the settings say, nothing if they run in this process."""
    members = {seat.name: _price(settings, seat.name, seat.spec) for seat in settings.seats}
    return Tariff(
        members,
        {
            scorer.info.name: _scorer_price(settings, spec, members)
            for spec, scorer in zip(settings.ladder, scorers, strict=True)
        },
    )


def _price(settings: Settings, name: str, spec: ProviderSpec) -> Price | None:
    here = isinstance(spec, EmbeddedSpec | LocalSpec | ScriptedSpec)
    return _listed(settings, name, spec.model) or (FREE if here else None)


def _listed(settings: Settings, name: str, model: str) -> Price | None:
    row = settings.price(name, model)
    return Price(row.input_per_million, row.output_per_million) if row else None


def _scorer_price(
    settings: Settings, spec: ScorerSpec, members: Mapping[str, Price | None]
) -> ScorerPrice:
    match spec:
        case JudgeScorerSpec():
            from app.scorers.judge import ESCAPE_FACTOR, RUBRIC_TOKENS

            price = members.get(spec.member or "")
            return ScorerPrice(price, RUBRIC_TOKENS, spec.max_tokens, ESCAPE_FACTOR)
        case NvidiaScorerSpec():
            from app.scorers.nvidia import OUTPUT_TOKENS

            price = _listed(settings, spec.kind, spec.model)
            return ScorerPrice(price, output_tokens=OUTPUT_TOKENS)
        case RemoteScorerSpec():
            return ScorerPrice(_listed(settings, spec.kind, spec.model))
        case LocalScorerSpec() | EmbeddedScorerSpec() | ScriptedScorerSpec():
            return ScorerPrice(FREE)
        case _:
            assert_never(spec)


Keyed = AnthropicSpec | GoogleSpec | GoogleGenerativeAISpec | MistralSpec | OpenAICompatibleSpec


def _key(spec: Keyed | NvidiaScorerSpec | RemoteScorerSpec) -> str:
    return spec.api_key.get_secret_value() if spec.api_key else ""


def _url(spec: Keyed | NvidiaScorerSpec) -> str | None:
    return str(spec.base_url).rstrip("/") if spec.base_url else None


def _v1(spec: Keyed | NvidiaScorerSpec) -> str | None:
    """The base URL with its version, which people write with and without."""
    url = _url(spec)
    return url if url is None or url.endswith("/v1") else f"{url}/v1"

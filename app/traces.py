"""OpenTelemetry traces (extra `otel`): a span for each run, in it one for each call to a member or
scorer, retries and hedges each with their own, and one for the storing of the answer.

Names follow the semantic conventions for generative AI; what they have no word for begins with
`starboard.`. Text of prompts and replies is in no span unless the operator says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from app.domain import (
    Answer,
    Attributes,
    Completion,
    Event,
    Failure,
    Listener,
    Message,
    Prompt,
    ScalarReward,
    Score,
    ScorerInfo,
    Selected,
)
from app.ensemble import AnswerSink
from app.errors import ConfigurationError, UpstreamError
from app.logs import request_id, traceparent
from app.providers import Provider
from app.scorers import Scorer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Values = dict[str, str | int | float | list[str]]

log = logging.getLogger("starboard")

FLUSH_S = 3.0
"""At the end, what has not been sent is given up after so long."""

# The conventions' names for whom our kinds of provider speak to; others keep ours.
PROVIDERS: Mapping[str, str] = {
    "google": "gcp.gemini",
    "google_generativeai": "gcp.gemini",
    "mistral": "mistral_ai",
}


@asynccontextmanager
async def open_traces(*, content: bool) -> AsyncIterator[Traces]:
    """Traces that go where the OTEL_* variables say, by OTLP over HTTP; what is left is sent at the
    end, which waits for it, at most `FLUSH_S` seconds. With `content` they hold prompts and
    replies. Raises `ConfigurationError` without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_* variables ask for traces, which need a package ({error}): "
            "pip install 'starboard[otel]', or set OTEL_TRACES_EXPORTER=none"
        ) from error
    ours = Resource({"service.name": "starboard", "service.version": version("starboard")})
    provider = TracerProvider(
        resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Traces(provider.get_tracer("starboard", version("starboard")), content)
    finally:
        # The SDK has limits of its own, of up to 30 s and not for a host that is silent. A thread
        # that is left behind does not keep the process.
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, FLUSH_S)
        if sending.is_alive():
            log.warning("traces: the collector did not take what was left in %g s", FLUSH_S)


@dataclass(frozen=True)
class Traces:
    """Makes spans."""

    tracer: Tracer
    content: bool

    @contextmanager
    def watch(self) -> Iterator[Listener]:
        """A `Watch` on one run: its span, inside the caller's trace if the caller sent one."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": parent} if (parent := traceparent.get()) else {}
        known: Values = {"starboard.request_id": id_} if (id_ := request_id.get()) else {}
        with self.generative(
            "invoke_workflow",
            "starboard",
            {"gen_ai.workflow.name": "starboard", **known},
            parent=TraceContextTextMapPropagator().extract(carrier),
        ) as span:

            def listen(event: Event) -> None:
                if isinstance(event, Selected):
                    span.set_attributes(_of_answer(event.answer))

            yield listen

    def generative(
        self, operation: str, name: str, values: Values, parent: object = None
    ) -> AbstractContextManager[Span]:
        """A span of one of the conventions' operations."""
        told: Values = {"gen_ai.operation.name": operation, **values}
        return self.span(f"{operation} {name}", told, client=operation == "chat", parent=parent)

    @contextmanager
    def span(
        self, name: str, values: Values, *, client: bool, parent: object = None
    ) -> Iterator[Span]:
        """A span, current while it is open; an exception leaves its kind there and not its text,
        which may quote a prompt."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self.tracer.start_as_current_span(
            name,
            context=parent,
            kind=SpanKind.CLIENT if client else SpanKind.INTERNAL,
            attributes=values,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", _kind(error))
                span.set_status(Status(StatusCode.ERROR))
                raise


@dataclass(frozen=True)
class TracedProvider:
    """A provider whose calls are spans. `kind` is the provider's in the settings."""

    provider: Provider
    kind: str
    traces: Traces

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def model(self) -> str:
        return self.provider.model

    async def complete(self, prompt: Prompt) -> Completion:
        values: Values = {
            "gen_ai.provider.name": PROVIDERS.get(self.kind, self.kind),
            "gen_ai.request.model": self.model,
            "gen_ai.request.max_tokens": prompt.max_tokens,
            "starboard.member": self.name,
        }
        if prompt.temperature is not None:
            values["gen_ai.request.temperature"] = prompt.temperature
        if self.traces.content:
            values["gen_ai.input.messages"] = _messages(*prompt.messages)
        with self.traces.generative("chat", self.model, values) as span:
            completion = await self.provider.complete(prompt)
            span.set_attributes(_of_completion(completion))
            if self.traces.content:
                said = _messages(Message("assistant", completion.text))
                span.set_attribute("gen_ai.output.messages", said)
            return completion

    async def ping(self) -> None:
        await self.provider.ping()


@dataclass(frozen=True)
class TracedScorer:
    """A scorer whose calls are spans."""

    scorer: Scorer
    traces: Traces

    @property
    def info(self) -> ScorerInfo:
        return self.scorer.info

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        values: Values = {
            "gen_ai.evaluation.name": self.info.name,
            "gen_ai.request.model": self.info.model,
            "starboard.completion.model": completion.model,
        }
        with self.traces.generative("evaluate", self.info.name, values) as span:
            score = await self.scorer.score(prompt, completion)
            span.set_attributes(_of_score(score))
            return score

    async def ping(self) -> None:
        await self.scorer.ping()


@dataclass(frozen=True)
class TracedStore:
    """A store whose saves are spans. `system` is the database's name in the conventions."""

    store: AnswerSink
    system: str
    traces: Traces

    async def save(self, answer: Answer) -> None:
        with self.traces.span("save answer", {"db.system.name": self.system}, client=True):
            await self.store.save(answer)


def _of_answer(answer: Answer) -> Values:
    values: Values = {
        "starboard.answer.id": answer.id,
        "starboard.strategy": answer.selection.strategy,
        "starboard.quality": answer.quality,
        "starboard.scorer": answer.scorer.name,
    }
    if answer.winner:
        values["starboard.winner"] = answer.winner.candidate.member
    if answer.selection.margin is not None:
        values["starboard.margin"] = answer.selection.margin
    if answer.missing:
        values["starboard.missing"] = list(answer.missing)
    return values


def _of_completion(completion: Completion) -> Values:
    values: Values = {
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [completion.finish_reason],
    }
    if completion.usage:
        values["gen_ai.usage.input_tokens"] = completion.usage.input_tokens
        values["gen_ai.usage.output_tokens"] = completion.usage.output_tokens
    return values


def _of_score(score: Score) -> Values:
    match score.outcome:
        case Attributes() as five:
            return {f"starboard.score.{name}": value for name, value in asdict(five).items()}
        case ScalarReward(value):
            return {"gen_ai.evaluation.score.value": value}
        case Failure(kind):
            return {"error.type": kind}


def _messages(*messages: Message) -> str:
    """Messages as the conventions have them in an attribute."""
    said = [
        {"role": one.role, "parts": [{"type": "text", "content": one.content}]} for one in messages
    ]
    return json.dumps(said, ensure_ascii=False)


def _kind(error: BaseException) -> str:
    match error:
        case UpstreamError(kind=kind):
            return str(kind)
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return type(error).__name__

"""Traces as the real exporter sends them, to a collector on loopback that decodes the protobuf."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.api import create_app
from app.errors import ConfigurationError
from tests.conftest import settings
from tests.fakes.mistral import MistralFake
from tests.serving import serve

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

PROMPT = "Why is xyzzy the word?"


@dataclass
class Collector:
    """What arrived at `/v1/traces`."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        sent = ExportTraceServiceRequest.FromString(await request.read())
        for group in sent.resource_spans:
            self.resource = values(group.resource)
            for scope in group.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")

    def one(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    collector.url = f"http://{host}:{port}"
    try:
        yield collector
    finally:
        await runner.cleanup()


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


def values(of: Any) -> dict[str, Any]:
    """The attributes of a span or resource, as plain values."""
    found = {}
    for attribute in of.attributes:
        value = attribute.value
        kind = value.WhichOneof("value")
        found[attribute.key] = (
            [one.string_value for one in value.array_value.values]
            if kind == "array_value"
            else getattr(value, kind)
        )
    return found


async def ask(database_url: str, fault: str | None = None, **more: Any) -> tuple[str, str]:
    """One run with a scripted and a remote member, told as by a client that traces too. Its id,
    and the remote host's request."""
    async with MistralFake() as mistral:
        if fault:
            mistral.fail_once(fault)
        ours = settings(
            database_url=database_url,
            board=("a", "mistral"),
            MISTRAL_API_KEY=mistral.api_key,
            MISTRAL_BASE_URL=mistral.base_url,
            members={"a": {"provider": "scripted", "reply": "first", "model": "script-1"}},
            scorer={"kind": "scripted", "rewards": {"first": 3.0, mistral.default_reply: 1.0}},
            **more,
        )
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "mine"}
        async with serve(create_app(ours)) as client:
            reply = await client.post(
                "/answer", json={"prompt": PROMPT, "temperature": 0.5}, headers=headers
            )
        assert reply.status_code == 200
        return reply.json()["id"], trace


async def test_a_run_is_a_span_with_a_child_for_every_call(
    database_url: str, collector: Collector
) -> None:
    id_, trace = await ask(database_url)
    assert collector.resource["service.name"] == "starboard"
    run = collector.one("invoke_workflow starboard")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (trace, "b7ad6b7169203331")
    assert values(run) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "starboard",
        "starboard.request_id": "mine",
        "starboard.answer.id": id_,
        "starboard.strategy": "best_of_n",
        "starboard.quality": "full",
        "starboard.scorer": "scripted",
        "starboard.winner": "a",
    }
    children = [span for span in collector.spans if span.parent_span_id == run.span_id]
    assert sorted(span.name for span in children) == [
        "chat mistral-large-latest",
        "chat script-1",
        "evaluate scripted",
        "evaluate scripted",
    ]
    assert len(collector.spans) == 5
    remote = collector.one("chat mistral-large-latest")
    assert remote.kind == remote.SPAN_KIND_CLIENT
    assert run.start_time_unix_nano <= remote.start_time_unix_nano
    assert remote.end_time_unix_nano <= run.end_time_unix_nano
    told = values(remote)
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.usage.output_tokens"] > 0
    assert {name: told[name] for name in told if "usage" not in name} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "mistral-large-latest",
        "gen_ai.request.max_tokens": 512,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": "mistral-large-latest",
        "gen_ai.response.finish_reasons": ["stop"],
        "starboard.member": "mistral",
    }
    rewards = [
        values(span)["gen_ai.evaluation.score.value"] for span in children if "eval" in span.name
    ]
    assert sorted(rewards) == [1.0, 3.0]
    assert "xyzzy" not in str(collector.spans)


async def test_a_retry_is_a_span_of_its_own_and_its_failure_has_a_kind_and_no_text(
    database_url: str, collector: Collector, at_once: None
) -> None:
    await ask(database_url, fault="unavailable_503")
    first, second = sorted(
        (span for span in collector.spans if span.name.startswith("chat mistral")),
        key=lambda span: span.start_time_unix_nano,
    )
    assert values(first)["error.type"] == "overloaded"
    assert first.status.code == first.status.STATUS_CODE_ERROR
    assert (first.status.message, list(first.events)) == ("", [])
    assert second.status.code == second.status.STATUS_CODE_UNSET


async def test_text_is_in_the_spans_only_if_the_operator_says_so(
    database_url: str, collector: Collector
) -> None:
    await ask(database_url, trace_content=True)
    told = values(collector.one("chat script-1"))
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}
    ]
    assert json.loads(told["gen_ai.output.messages"])[0]["parts"][0]["content"] == "first"


async def test_no_traces_unless_the_variables_ask_for_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not settings().traced
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        await ask(database_url)
    assert collector.spans == []


async def test_without_the_extra_the_start_says_what_to_install(
    database_url: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    app = create_app(settings(database_url=database_url))
    with pytest.raises(ConfigurationError, match=r"starboard\[otel\]"):
        async with app.router.lifespan_context(app):
            pass

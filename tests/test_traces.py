"""Traces as the real exporter sends them, to a collector on loopback that decodes the protobuf."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.api import create_app
from app.errors import ConfigurationError
from app.providers.anthropic import open_anthropic
from app.providers.google import open_google
from app.providers.http import Http
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.otlp import Collector, collecting, values
from tests.samples import prompt
from tests.serving import serve

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

PROMPT = "Why is xyzzy the word?"


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


async def ask(database_url: str, fault: str | None = None, **more: Any) -> tuple[str, str]:
    """One run with a scripted and a remote member, told as by a client that traces too. Its id,
    and that of its trace."""
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
        "starboard.margin": 2.0,
    }
    children = [span for span in collector.spans if span.parent_span_id == run.span_id]
    assert sorted(span.name for span in children) == [
        "chat mistral-large-latest",
        "chat script-1",
        "evaluate scripted",
        "evaluate scripted",
        "save answer",
    ]
    assert len(collector.spans) == 6
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
    scores = [values(span) for span in children if span.name.startswith("evaluate")]
    rewards = {
        one["starboard.completion.model"]: one["gen_ai.evaluation.score.value"] for one in scores
    }
    assert rewards == {"mistral-large-latest": 1.0, "script-1": 3.0}
    saving = collector.one("save answer")
    assert values(saving) == {"db.system.name": "sqlite"}
    assert saving.start_time_unix_nano >= max(
        span.end_time_unix_nano for span in children if span is not saving
    )
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


@pytest.mark.parametrize("silent", [False, True])
async def test_a_collector_that_does_not_answer_holds_the_end_up_for_a_stated_time(
    silent: bool,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether it refuses connections, which the exporter tries again, or takes them in silence."""
    monkeypatch.setattr("app.traces.FLUSH_S", 0.5)
    # A test of the command line may have set up the log otherwise.
    monkeypatch.setattr(logging.getLogger("starboard"), "propagate", True)
    caplog.set_level(logging.INFO, logger="starboard")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if not silent:
            listening.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        await ask(database_url)
    told = [one.getMessage() for one in caplog.records if one.name == "starboard"]
    assert "traces: the collector did not take what was left in 0.5 s" in told


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
    with pytest.raises(ConfigurationError, match="scripts/install otel"):
        async with app.router.lifespan_context(app):
            pass


async def test_the_picture_of_an_answer_shows_its_whole_trace(tmp_path: Path) -> None:
    waterfall = pytest.importorskip("waterfall", reason="needs the extra report")
    spans = await waterfall.export()
    waterfall.check(spans)
    waterfall.draw(spans, tmp_path / "trace.svg")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", (tmp_path / "trace.svg").read_text())
    assert {span.name for span in spans} <= set(texts)
    assert texts.count("evaluate nvidia") == 2
    assert texts.count("mistral, failed: overloaded") == 1
    assert "winner claude, margin 0.66, missing gemma" in texts
    for missing in spans:
        with pytest.raises((AssertionError, ValueError)):
            waterfall.check([span for span in spans if span is not missing])
    (run,) = (span for span in spans if not span.parent_span_id)
    run.attributes[0].value.string_value = waterfall.PROMPT
    with pytest.raises(AssertionError):
        waterfall.check(spans)


async def test_no_vendor_is_sent_the_trace(http: Http) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    async with AnthropicFake() as claude, GoogleFake() as google:
        key, model = str(claude.api_key), "gemma-3-4b-it"
        members = (
            open_anthropic("c", claude.models[0], api_key=key, base_url=claude.base_url, http=http),
            open_google("g", model, api_key=key, base_url=google.base_url, http=http),
        )
        with TracerProvider().get_tracer("starboard").start_as_current_span("invoke_workflow"):
            for member in members:
                await member.complete(prompt(PROMPT))
        sent = {name.lower() for fake in (claude, google) for name in fake.requests[-1].headers}
    assert "anthropic-version" in sent
    assert "traceparent" not in sent

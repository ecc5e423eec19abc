"""A collector of traces: OTLP over HTTP as the binary protobuf of `opentelemetry-proto`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

PROTOBUF: Final = "application/x-protobuf"


@dataclass
class Collector:
    """What arrived at `/v1/traces` under `url`."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        if request.content_type != PROTOBUF:
            return web.Response(status=415)
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for group in sent.resource_spans:
            self.resource = values(group.resource)
            for scope in group.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type=PROTOBUF)

    def one(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
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

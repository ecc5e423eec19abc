"""A running app: in the test's own event loop with a client for it, or as processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

from app.settings import Settings
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake


@asynccontextmanager
async def serve(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve the app with uvicorn on a free port of 127.0.0.1, real HTTP and life cycle included."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    # uvicorn takes the process's signals for itself in `serve()`; pytest needs them.
    serving = asyncio.ensure_future(server._serve())
    try:
        while not server.started:
            if serving.done():
                raise RuntimeError("the app did not start")
            await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def exchange(client: httpx2.AsyncClient, sent: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection: for what no HTTP
    client would send."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


def only_mistral(fake: MistralFake, database_url: str, **more: Any) -> Settings:
    """A board of one remote member."""
    return settings(
        **{
            "database_url": database_url,
            "MISTRAL_API_KEY": fake.api_key,
            "MISTRAL_BASE_URL": fake.base_url,
            "scorer": "embedded",
            **more,
        }
    )


def three_vendors(
    claude: AnthropicFake,
    gemma: GoogleFake,
    mistral: MistralFake,
    nvidia: NvidiaFake,
    database_url: str,
    **more: Any,
) -> Settings:
    """The board that a service with every vendor's key has."""
    return settings(
        **{
            "database_url": database_url,
            "ANTHROPIC_API_KEY": claude.api_key,
            "ANTHROPIC_BASE_URL": claude.base_url,
            "GEMINI_API_KEY": gemma.api_key,
            "GOOGLE_GEMINI_BASE_URL": gemma.base_url,
            "MISTRAL_API_KEY": mistral.api_key,
            "MISTRAL_BASE_URL": mistral.base_url,
            "NVIDIA_API_KEY": nvidia.api_key,
            "NVIDIA_BASE_URL": nvidia.base_url,
            **more,
        }
    )


async def until(reached: Callable[[], bool], limit_s: float = 30) -> None:
    async with asyncio.timeout(limit_s):
        while not reached():
            await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], object], limit_s: float = 30) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server on a free port of its own choosing, once it is ready."""
    log = Path("serve.log")
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", *options]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as server:
        try:
            wait_for(lambda: "running on " in log.read_text() or server.poll() is not None)
            assert server.poll() is None, log.read_text()
            url = log.read_text().split("running on ")[1].split()[0].strip('",')
            wait_for(lambda: _ready(url))
            yield server, url
        finally:
            if server.poll() is None:
                server.kill()


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False

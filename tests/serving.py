"""A running app and a client for it, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from fastapi import FastAPI


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

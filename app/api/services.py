"""How routes get at what the app holds open."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from app.api.metrics import Metrics
from app.api.pings import Dependencies
from app.wiring import Services


class State(TypedDict):
    """What the app's lifespan yields. `draining` is set once the process has been told to stop."""

    services: Services
    dependencies: Dependencies
    metrics: Metrics
    draining: asyncio.Event


def services_of(request: Request) -> Services:
    """For dependencies of their own: each that depends on another costs a request some more."""
    return cast(Services, request.state.services)


# Not plain functions, which FastAPI would call in a thread.
async def _services(request: Request) -> Services:
    return services_of(request)


async def _dependencies(request: Request) -> Dependencies:
    return cast(Dependencies, request.state.dependencies)


async def _metrics(request: Request) -> Metrics:
    return cast(Metrics, request.state.metrics)


async def _draining(request: Request) -> asyncio.Event:
    return cast(asyncio.Event, request.state.draining)


Live = Annotated[Services, Depends(_services)]
Health = Annotated[Dependencies, Depends(_dependencies)]
Counts = Annotated[Metrics, Depends(_metrics)]
Draining = Annotated[asyncio.Event, Depends(_draining)]

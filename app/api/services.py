"""How routes get at what the app holds open."""

from __future__ import annotations

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from app.api.pings import Pings
from app.wiring import Services


class State(TypedDict):
    """What the app's lifespan yields."""

    services: Services
    pings: Pings


def _services(request: Request) -> Services:
    return cast(Services, request.state.services)


def _pings(request: Request) -> Pings:
    return cast(Pings, request.state.pings)


Live = Annotated[Services, Depends(_services)]
Health = Annotated[Pings, Depends(_pings)]

"""`GET /healthz`, `/readyz`, `/metrics` and `/models`."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.api.documents import ModelsDocument, ScorerDocument, seat_document
from app.api.pings import STORE_KEEP_S, UPSTREAM_KEEP_S, Dependencies, Pings
from app.api.problems import responses
from app.api.security import needs
from app.api.services import Counts, Draining, Health, Live
from app.wiring import Services

router = APIRouter(tags=["health"])

STORE = "store"


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    name: str
    healthy: bool
    message: str | None


class Readiness(BaseModel):
    """`ready`: everything works. `degraded`: requests are served, some part is missing; if that is
    every member, answers fail with the reasons. `unready` (503): send no requests here."""

    status: Literal["ready", "degraded", "unready"]
    checks: list[Check]


def dependencies_of(services: Services) -> Dependencies:
    """The store, every scorer on the ladder and every seated member."""
    scorers = {step.name: step.scorer.ping for step in services.ensemble.ladder.steps}
    members = {name: member.ping for name, member in services.ensemble.members.items()}
    return Dependencies(
        Pings({STORE: services.store.ping}, STORE_KEEP_S),
        Pings(scorers, UPSTREAM_KEEP_S),
        Pings(members, UPSTREAM_KEEP_S),
    )


@router.get("/healthz")
async def healthz() -> Alive:
    """The process is up. Says nothing of what it depends on."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(live: Live, health: Health, draining: Draining, response: Response) -> Readiness:
    """Whether this process should be sent requests. It should not (503) without the store, with
    nobody on the board, or once it has been told to stop, though it still answers then. Scorers
    and members are pinged too, and what does not answer is named; that holds for every replica
    alike, so it takes none of them out of service."""
    if draining.is_set():
        response.status_code = 503
        stopping = Check(name="process", healthy=False, message="told to stop")
        return Readiness(status="unready", checks=[stopping])
    store, scorers, members = await asyncio.gather(
        health.store.faults(), health.scorers.faults(), health.members.faults()
    )
    off = {
        step.name: f"off: {step.grade}" for step in live.ensemble.ladder.steps if not step.stands
    }
    faults = {
        **store,
        **{f"scorer {name}": fault for name, fault in {**scorers, **off}.items()},
        **{f"member {name}": fault for name, fault in members.items()},
    }
    checks = [
        Check(name=name, healthy=fault is None, message=fault) for name, fault in faults.items()
    ]
    if store[STORE] is not None or not members:
        response.status_code = 503
        return Readiness(status="unready", checks=checks)
    healthy = all(check.healthy for check in checks)
    return Readiness(status="ready" if healthy else "degraded", checks=checks)


class MetricsResponse(Response):
    media_type = CONTENT_TYPE_LATEST


@router.get("/metrics", response_class=MetricsResponse)
async def metrics(counts: Counts) -> MetricsResponse:
    """Counts, latencies and states, for Prometheus to scrape."""
    return MetricsResponse(await counts.text())


@router.get("/models", responses=responses(401, 403, 503), dependencies=[Depends(needs("read"))])
async def models(live: Live, health: Health) -> ModelsDocument:
    """Every configured seat in board order: who sits, who does not and why, how often each member's
    reply had the highest reward, and whether it is being called."""
    faults = await health.members.faults()
    rates = await live.standing.known() or {}
    fewest, gates = live.settings.standing_min, live.ensemble.gates
    return ModelsDocument(
        members=[
            seat_document(
                seat,
                rates.get(seat.name),
                fewest,
                # None for one that does not sit, and so is not pinged.
                healthy=faults[seat.name] is None if seat.name in faults else None,
                gate=gates.get(seat.name),
            )
            for seat in live.seats
        ],
        scorer=ScorerDocument.model_validate(live.ensemble.ladder.info),
    )

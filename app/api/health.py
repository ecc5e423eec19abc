"""`GET /healthz`, `/readyz`, `/metrics` and `/models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.api.documents import ModelsDocument, ScorerDocument, seat_document
from app.api.pings import Pings
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
    """`ready`: everything works. `degraded`: answers are given, some part is missing.
    `unready` (503): no answer can be given."""

    status: Literal["ready", "degraded", "unready"]
    checks: list[Check]


def pings_of(services: Services) -> Pings:
    """The pings of the store, every scorer on the ladder and every seated member."""
    scorers = {_scorer(step.name): step.scorer.ping for step in services.ensemble.ladder.steps}
    members = {_member(name): member.ping for name, member in services.ensemble.members.items()}
    return Pings({STORE: services.store.ping, **scorers, **members})


@router.get("/healthz")
async def healthz() -> Alive:
    """The process is up. Says nothing of what it depends on."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(live: Live, health: Health, draining: Draining, response: Response) -> Readiness:
    """Whether answers can be given: pings the store, the scorers and the members, and says which
    scorer is off the ladder for failing its self-check. 503 as soon as the process has been told
    to stop, while it still answers."""
    if draining.is_set():
        response.status_code = 503
        stopping = Check(name="process", healthy=False, message="told to stop")
        return Readiness(status="unready", checks=[stopping])
    steps = live.ensemble.ladder.steps
    off = {_scorer(step.name): f"off: {step.grade}" for step in steps if not step.stands}
    faults = {**await health.faults(), **off}
    status = _status(faults)
    if status == "unready":
        response.status_code = 503
    return Readiness(
        status=status,
        checks=[
            Check(name=name, healthy=fault is None, message=fault) for name, fault in faults.items()
        ],
    )


class MetricsResponse(Response):
    media_type = CONTENT_TYPE_LATEST


@router.get("/metrics", response_class=MetricsResponse)
async def metrics(counts: Counts) -> MetricsResponse:
    """Counts, latencies and states, for Prometheus to scrape."""
    return MetricsResponse(counts.text())


@router.get("/models", responses=responses(401, 403, 503), dependencies=[Depends(needs("read"))])
async def models(live: Live, health: Health) -> ModelsDocument:
    """Every configured seat in board order: who sits, who does not and why, how often each member's
    reply had the highest reward, and whether it is being called."""
    faults = await health.faults()
    rates = await live.standing.known() or {}
    fewest, gates = live.settings.standing_min, live.ensemble.gates
    return ModelsDocument(
        members=[
            seat_document(
                seat,
                rates.get(seat.name),
                fewest,
                healthy=_healthy(faults, seat.name),
                gate=gates.get(seat.name),
            )
            for seat in live.seats
        ],
        scorer=ScorerDocument(**asdict(live.ensemble.ladder.info)),
    )


def _status(faults: Mapping[str, str | None]) -> Literal["ready", "degraded", "unready"]:
    members = [fault for name, fault in faults.items() if name.startswith(_member(""))]
    if faults[STORE] is not None or all(fault is not None for fault in members):
        return "unready"
    return "ready" if all(fault is None for fault in faults.values()) else "degraded"


def _healthy(faults: Mapping[str, str | None], name: str) -> bool | None:
    """None for a member that does not sit, and so is not pinged."""
    return faults[_member(name)] is None if _member(name) in faults else None


def _member(name: str) -> str:
    return f"member {name}"


def _scorer(name: str) -> str:
    return f"scorer {name}"

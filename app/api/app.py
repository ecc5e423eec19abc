"""The application: routes, problem documents, limits, and what is open while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from app.api import (
    answers,
    connections,
    feedback,
    health,
    listing,
    openai,
    problems,
    scoring,
)
from app.api.draining import drain_on_sigterm
from app.api.limits import Limits
from app.api.metrics import Metrics
from app.api.requests import Observed
from app.api.security import NoKeysInUrls, check_door
from app.api.services import State
from app.errors import ConfigurationError
from app.retention import keeping
from app.settings import Settings
from app.wiring import Services, open_services

log = logging.getLogger("starboard")

SELF_CHECK_S = 60.0

DESCRIPTION = """\
One prompt to a board of models; a reward model scores every reply; the best original reply comes
back with its scores and the evidence for the choice.
"""


def create_app(settings: Settings) -> FastAPI:
    """The service for these settings. It opens what it needs at start-up and closes it at the
    end; Swagger UI at `/docs` loads nothing from elsewhere."""

    metrics = Metrics(shared=settings.metrics_dir is not None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        try:
            async with open_services(settings, metrics.watch, booked=metrics.book) as services:
                await check_door(services)
                _say_who_sits(services)
                with drain_on_sigterm(settings.drain_s) as draining:
                    async with (
                        _self_check(services),
                        keeping(
                            services.store,
                            services.keys,
                            services.idempotency,
                            settings.retention_days,
                        ),
                        metrics.telling(services.ensemble.gates),
                    ):
                        yield State(
                            services=services,
                            pings=health.pings_of(services),
                            metrics=metrics,
                            draining=draining,
                        )
        except ConfigurationError as error:
            log.critical("cannot start: %s", error)
            raise
        finally:
            metrics.close()

    app = FastAPIOffline(
        title="Starboard",
        version=version("starboard"),
        description=DESCRIPTION,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        swagger_ui_parameters={"tryItOutEnabled": True},
        # A redirect to the path without a slash would go to whatever host the client names.
        redirect_slashes=False,
        # FastAPI's own would send queries and the texts of exceptions to the collector.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(NoKeysInUrls)
    app.add_middleware(Limits, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(Observed, metrics=metrics)  # around the others: it sees what they refuse
    problems.install(app)
    app.add_exception_handler(connections.ClientGoneError, connections.on_client_gone)
    app.include_router(answers.router)
    app.include_router(listing.router)
    app.include_router(feedback.router)
    app.include_router(scoring.router)
    app.include_router(openai.router)
    app.include_router(health.router)
    app.add_api_route("/", _to_docs, include_in_schema=False)
    return app


@asynccontextmanager
async def _self_check(services: Services) -> AsyncIterator[None]:
    """Scorers are put to their self-check while the service already answers: a judge that takes
    its time must not hold up the start."""
    check = services.ensemble.ladder.check(SELF_CHECK_S) if services.settings.self_check else None
    checking = asyncio.create_task(check) if check else None
    try:
        yield
    finally:
        if checking:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)


def _operation_id(route: APIRoute) -> str:
    """Short, for links name operations, and generated clients their functions."""
    return route.name


async def _to_docs() -> RedirectResponse:
    return RedirectResponse("docs")


def _say_who_sits(services: Services) -> None:
    scorers = ", then ".join(step.name for step in services.ensemble.ladder.steps)
    members = ", ".join(services.ensemble.members) or "nobody (see `starboard models`)"
    log.info("board: %s; scorer: %s", members, scorers)
    for seat in services.seats:
        if seat.why_not is None and seat.terms:
            log.info("%s: %s, used under %s", seat.name, seat.model, seat.terms)

"""The application: routes, problem documents, limits, and what is open while it runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from app.api import (
    answers,
    connections,
    feedback,
    health,
    listing,
    openai,
    page,
    problems,
    scoring,
    star_runs,
    statistics,
)
from app.api.draining import drain_on_sigterm
from app.api.limits import Limits
from app.api.metrics import Metrics
from app.api.requests import Observed
from app.api.security import NoKeysInUrls, check_door
from app.api.services import State
from app.background import background
from app.errors import ConfigurationError
from app.retention import drop_daily
from app.settings import Settings
from app.wiring import Services, open_services

log = logging.getLogger("starboard")

SELF_CHECK_S = 60.0

DESCRIPTION = """\
One prompt to a board of models; a reward model scores every reply; the best original reply comes
back with its scores and the evidence for the choice.
"""


def create_app(settings: Settings, opened: Callable[[], None] = lambda: None) -> FastAPI:
    """The service for these settings. It opens what it needs at start-up, calls `opened`, and
    closes it at the end; Swagger UI at `/docs` loads nothing from elsewhere."""

    metrics = Metrics(shared=settings.metrics_dir is not None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        doing = "start"
        try:
            async with open_services(settings, metrics.watch, booked=metrics.book) as services:
                await check_door(services)
                _say_who_sits(services)
                with drain_on_sigterm(settings.drain_s) as draining:
                    async with (
                        _self_check(services),
                        background(lambda: _drop_daily(services), "retention"),
                        metrics.telling(services.ensemble.gates),
                    ):
                        opened()
                        doing = "stop in order"
                        yield State(
                            services=services,
                            dependencies=health.dependencies_of(services),
                            metrics=metrics,
                            draining=draining,
                        )
        except ConfigurationError as error:
            log.critical("cannot %s: %s", doing, error)
            raise
        except Exception:
            # With its class and stack: uvicorn would print its text, which may quote anything.
            log.critical("cannot %s", doing, exc_info=True)
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
    app.include_router(statistics.router)
    app.include_router(star_runs.router)
    app.include_router(health.router)
    page.install(app)
    return app


def _self_check(services: Services) -> AbstractAsyncContextManager[None]:
    """Scorers are put to their self-check while the service already answers: a judge that takes
    its time must not hold up the start."""
    if not services.settings.self_check:
        return nullcontext()
    ladder = services.ensemble.ladder
    return background(lambda: ladder.check(SELF_CHECK_S), "the scorers' self-check")


def _operation_id(route: APIRoute) -> str:
    """Short, for links name operations, and generated clients their functions."""
    return route.name


async def _drop_daily(services: Services) -> None:
    days = services.settings.retention_days
    await drop_daily(services.store, services.keys, services.idempotency, days)


def _say_who_sits(services: Services) -> None:
    scorers = ", then ".join(step.name for step in services.ensemble.ladder.steps)
    members = ", ".join(services.ensemble.members) or "nobody (see `starboard models`)"
    log.info("board: %s; scorer: %s", members, scorers)
    for seat in services.seats:
        if seat.why_not is None and seat.terms:
            log.info("%s: %s, used under %s", seat.name, seat.model, seat.terms)

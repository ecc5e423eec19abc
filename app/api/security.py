"""Who may ask: API keys with scopes, and a guard against boards that ask one another in a circle.

Errors are `RequestError`s; every route gets its own shape of them from its exception handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.api.services import Live
from app.errors import ConfigurationError, ForbiddenError, LoopError, UnauthorizedError
from app.providers.http import HOP, HOP_HEADER
from app.store.keys import ApiKey, Scope
from app.wiring import Services

BEARER = HTTPBearer(auto_error=False, description="`starboard keys create` makes a key.")
X_API_KEY = APIKeyHeader(name="x-api-key", auto_error=False)

Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
XApiKey = Annotated[str | None, Security(X_API_KEY)]


def needs(scope: Scope) -> Callable[..., Awaitable[ApiKey | None]]:
    """A dependency: the caller's key, which has that scope; None where no key is asked for.

    Raises `UnauthorizedError` or `ForbiddenError`.
    """

    async def caller(live: Live, bearer: Bearer, x_api_key: XApiKey) -> ApiKey | None:
        if not await _asks_for_keys(live):
            return None
        secret = bearer.credentials if bearer else x_api_key
        if secret is None:
            raise UnauthorizedError("send it as `Authorization: Bearer sk-sb-…`, or as x-api-key")
        key = await live.keys.of(secret)
        if not key.may(scope):
            raise ForbiddenError(f"the key has not the scope {scope}")
        return key

    return caller


MayAnswer = Annotated[ApiKey | None, Depends(needs("answer"))]
MayScore = Annotated[ApiKey | None, Depends(needs("score"))]


async def count_hop(
    live: Live,
    hop: Annotated[int, Header(alias=HOP_HEADER, ge=0, le=1000, include_in_schema=False)] = 0,
) -> None:
    """A dependency of every route that asks members: how many boards a request came through.

    Raises `LoopError` over `max_hops`. Calls to OpenAI-compatible members pass the count on. It is
    no parameter of the OpenAPI document: boards set it, clients do not.
    """
    if hop > live.settings.max_hops:
        raise LoopError(
            f"it came through {hop} boards already; max_hops is {live.settings.max_hops}"
        )
    HOP.set(hop)


async def check_door(services: Services) -> None:
    """Raises `ConfigurationError` if others can reach the service and nobody could use it."""
    settings = services.settings
    if settings.auth == "off" or settings.on_loopback or await services.keys.any():
        return
    raise ConfigurationError(
        f"{settings.host} is reachable by others and there is no API key: make one with "
        "`starboard keys create NAME`, or say STARBOARD_AUTH=off to let everybody in"
    )


async def _asks_for_keys(live: Services) -> bool:
    """On loopback, from the first key on; that need not wait for a restart."""
    settings = live.settings
    return settings.auth != "off" and (not settings.on_loopback or await live.keys.any())

"""Who may ask: API keys with scopes, no keys in URLs, no foreign names of a service without keys,
and a guard against boards that ask one another in a circle.

Errors are `RequestError`s; every route gets its own shape of them from its exception handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asgi

from app.api.problems import problem_of, problem_response
from app.api.services import services_of
from app.domain import Scope
from app.errors import (
    ConfigurationError,
    ForbiddenError,
    InvalidRequestError,
    LoopError,
    UnauthorizedError,
)
from app.providers.http import HOP, HOP_HEADER
from app.settings import is_loopback
from app.store.keys import ID_PREFIX, PREFIX, ApiKey
from app.wiring import Services

BEARER = HTTPBearer(auto_error=False, description="`starboard keys create` makes a key.")
X_API_KEY = APIKeyHeader(name="x-api-key", auto_error=False)

Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
XApiKey = Annotated[str | None, Security(X_API_KEY)]

# On loopback the door is closed to those without a key so long after the first one was made.
LOOK_AGAIN_S = 1.0

# Names of parameters that hold a secret, in lower case and without `-` and `_`.
SECRETS = frozenset(
    {
        "accesstoken",
        "apikey",
        "auth",
        "authorization",
        "authtoken",
        "bearer",
        "key",
        "password",
        "secret",
        "token",
        "xapikey",
    }
)


class NoKeysInUrls:
    """Refuses a URL with a key in it: proxies, browsers and their histories keep URLs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (field := _key_in_url(scope)):
            error = InvalidRequestError(
                field,
                "keys do not belong in URLs, which others log: send yours as `Authorization: "
                "Bearer sk-sb-…`, or as x-api-key, and revoke the one that was sent here",
            )
            await problem_response(problem_of(error))(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _key_in_url(scope: Asgi) -> str | None:
    """Where the key stands: the parameter's name if that says it, else `query` or `path`."""
    path: str = scope["path"]
    query: str = scope["query_string"].decode("latin-1")
    for name, value in parse_qsl(query, keep_blank_values=True):
        secret = name.lower().replace("-", "").replace("_", "") in SECRETS
        if secret and not value.startswith(ID_PREFIX):  # `key` of a filter is an id, which is none
            return name
        if PREFIX in name or PREFIX in value:
            return "query"
    return "path" if PREFIX in path else None


def needs(scope: Scope) -> Callable[..., Awaitable[ApiKey | None]]:
    """A dependency: the caller's key, which has that scope; None where no key is asked for.

    Raises `UnauthorizedError` or `ForbiddenError`.
    """

    async def caller(request: Request, bearer: Bearer, x_api_key: XApiKey) -> ApiKey | None:
        live = services_of(request)
        secret = bearer.credentials if bearer else x_api_key
        if not await _asks_for_keys(live, secret):
            _check_host(live, request)
            return None
        if secret is None:
            raise UnauthorizedError("send it as `Authorization: Bearer sk-sb-…`, or as x-api-key")
        key = await live.keys.of(secret)
        if not key.may(scope):
            raise ForbiddenError(f"the key has not the scope {scope}")
        return key

    return caller


MayAnswer = Annotated[ApiKey | None, Depends(needs("answer"))]
MayRead = Annotated[ApiKey | None, Depends(needs("read"))]
MayScore = Annotated[ApiKey | None, Depends(needs("score"))]


async def count_hop(
    request: Request,
    hop: Annotated[int, Header(alias=HOP_HEADER, ge=0, le=1000, include_in_schema=False)] = 0,
) -> None:
    """A dependency of every route that asks members: how many boards a request came through.

    Raises `LoopError` over `max_hops`. Calls to OpenAI-compatible members pass the count on. It is
    no parameter of the OpenAPI document: boards set it, clients do not.
    """
    most = services_of(request).settings.max_hops
    if hop > most:
        raise LoopError(f"it came through {hop} boards already; max_hops is {most}")
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


def _check_host(live: Services, request: Request) -> None:
    """A web page whose name was made to mean 127.0.0.1 is of the same origin as a service there,
    and could use it through its visitor's browser. The name that the browser asks for tells.

    Raises `UnauthorizedError`.
    """
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        host = ""
    if live.settings.auth != "off" and not is_loopback(host):
        raise UnauthorizedError(
            "without a key this service answers only to localhost: make one with `starboard keys "
            "create NAME`, or say STARBOARD_AUTH=off to let everybody in by any name"
        )


async def _asks_for_keys(live: Services, secret: str | None) -> bool:
    """On loopback, from the first key on; that need not wait for a restart. Whoever has a key is
    known by it at once; whoever has none costs no look into the database each time."""
    if live.settings.auth == "off" or not live.settings.on_loopback:
        return live.settings.auth != "off"
    return await live.keys.any(0.0 if secret else LOOK_AGAIN_S)

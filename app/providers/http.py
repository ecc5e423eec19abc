"""What every HTTP adapter shares: one client, one JSON call, one mapping from fault to error."""

from __future__ import annotations

import email.utils
import json
import socket
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx2
from pydantic_core import from_json

from app.domain import NOTHING, Completion, FailureKind, FinishReason, Usage
from app.errors import UpstreamError

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_NAME = 200
MAX_TOKENS = 2**31 - 1
CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 1000

# How many boards the request at hand came through. Members that may be boards themselves are told.
HOP_HEADER = "x-starboard-hop"
HOP: ContextVar[int] = ContextVar("hop", default=0)

_KINDS: Mapping[int, FailureKind] = {
    HTTPStatus.UNAUTHORIZED: "auth",
    HTTPStatus.FORBIDDEN: "auth",
    HTTPStatus.REQUEST_TIMEOUT: "timeout",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout",
    HTTPStatus.LOOP_DETECTED: "refused_request",  # another attempt would go the same way round
    529: "overloaded",  # Anthropic's own: "overloaded_error"
}
# A request that was turned away is not billed; of any other that failed nobody knows. 502, 504 and
# what waited for them may come after a whole reply was generated.
_TURNED_AWAY = frozenset(range(400, 500)) - {HTTPStatus.REQUEST_TIMEOUT} | {
    HTTPStatus.SERVICE_UNAVAILABLE,
    529,
}
# Without a connection nothing was sent.
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    ConnectionRefusedError,
    socket.gaierror,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, unpacked. `headers` are looked up without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


ErrorOf = Callable[[str, Reply], UpstreamError]


@dataclass(frozen=True)
class Http:
    """The one pool of connections. `proxies` are those that the environment names, by scheme."""

    session: aiohttp.ClientSession
    proxies: Mapping[str, str] = field(repr=False)  # their URLs may hold passwords

    @cached_property
    def packages(self) -> httpx2.AsyncClient:
        """The same pool for vendors' packages."""
        return _Packages(self)

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
        body: bytes | None = None,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Send a request; the response, released, and its body, unpacked and of bounded length."""
        async with self.session.request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=self._proxy(url) if self.proxies else None,
        ) as response:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding not in _ENCODINGS:
                raise UpstreamError("bad_reply", "the reply is in an encoding nobody asked for")
            return response, await _read(response.content, packed=encoding != "identity")

    async def aclose(self) -> None:
        await self.session.close()

    def _proxy(self, url: str) -> str | None:
        target = urllib.parse.urlsplit(url)
        bypassed = urllib.request.proxy_bypass(target.hostname or "")
        return None if bypassed else self.proxies.get(target.scheme)


def open_http() -> Http:
    """The one client for our own calls and the vendors' packages; close it with `aclose()`.

    It has no read timeout: each attempt is limited as a whole by the ensemble, because a body
    that drips in never trips a read timeout. Bodies over `MAX_BODY_BYTES` are refused, redirects
    are not followed, no cookies are kept. Call it in the event loop that is to use it.
    """
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=httpx2.create_ssl_context()),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        headers={"Accept-Encoding": "gzip"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
    # The session's own `trust_env` looks into the environment and for ~/.netrc before each request,
    # in a thread each, and fails where .netrc has an entry for a host that we send a key to.
    return Http(session, urllib.request.getproxies())


async def post_json(
    http: Http,
    name: str,
    url: str,
    body: Mapping[str, object],
    *,
    headers: Mapping[str, str],
    error_of: ErrorOf | None = None,
) -> object:
    """POST a JSON body and return the decoded JSON reply, or raise `UpstreamError` for `name`.

    `error_of` is for APIs whose error bodies say more than their status.
    """
    with upstream(name):
        reply = await post(http, url, body, headers=headers)
        return _decoded(name, reply, error_of or response_error)


async def get_json(http: Http, name: str, url: str, *, headers: Mapping[str, str]) -> object:
    """GET a URL that costs nothing upstream, such as a list of models; for `ping`."""
    with upstream(name):
        response, body = await http.exchange("GET", url, headers)
        return _decoded(name, Reply(response.status, response.headers, body), response_error)


async def post(
    http: Http, url: str, body: Mapping[str, object], *, headers: Mapping[str, str]
) -> Reply:
    """POST a JSON body, for who reads the reply by itself; raises what the HTTP library does."""
    sent = {**headers, "Content-Type": "application/json"}
    response, said = await http.exchange("POST", url, sent, _ENCODER.encode(body).encode())
    return Reply(response.status, response.headers, said)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _decoded(name: str, reply: Reply, error_of: ErrorOf) -> object:
    if reply.status != HTTPStatus.OK:
        raise error_of(name, reply)
    return decoded(reply.body)


def decoded(body: bytes | str) -> object:
    """The value of a JSON text; raises `ValueError`."""
    try:
        value: object = from_json(body, cache_strings="keys")  # replies are not to be kept
    except ValueError:  # also for half surrogate pairs and UTF-16, which may be there
        value = json.loads(body)
    return value


def bearer_headers(api_key: str | None) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def response_error(name: str, reply: Reply) -> UpstreamError:
    """The error a reply's status stands for. The body is not quoted: it is not ours."""
    return status_error(name, reply.status, retry_after(reply.headers))


def status_error(name: str, status: int, retry_after_s: float | None = None) -> UpstreamError:
    """The error an HTTP status of `name` stands for."""
    fallback: FailureKind = (
        "unavailable" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused_request"
    )
    wait = f", retry after {retry_after_s:g} s" if retry_after_s is not None else ""
    kind = _KINDS.get(status, fallback)
    return UpstreamError(
        kind,
        f"{name}: {status}{wait}",
        retry_after_s=retry_after_s,
        usage=NOTHING if status in _TURNED_AWAY else None,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the upstream asks us to wait: `retry-after-ms`, or `retry-after` in seconds or as
    a date (RFC 9110, section 10.2.3); None if it does not say."""
    if (wait := _number(headers.get("retry-after-ms"))) is not None:
        return wait / 1000
    value = headers.get("retry-after")
    if (wait := _number(value)) is not None:
        return wait
    try:
        date = email.utils.parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


@contextmanager
def upstream(name: str) -> Iterator[None]:
    """Type whatever an HTTP library or a vendor's package raises.

    Vendors' packages wrap transport errors in their own, so the chain of causes is searched:
    an `UpstreamError` of ours in it passes through, a transport error means `unavailable`.
    What is left and is a `ValueError` (JSON, Unicode and pydantic errors all are) means that
    the reply could not be understood; anything else goes on to the ensemble's `boundary`.
    """
    try:
        yield
    except UpstreamError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, UpstreamError):
                raise cause from error
            if isinstance(cause, aiohttp.ClientError | OSError):
                unsent = any(isinstance(cause, _NEVER_CONNECTED) for cause in causes)
                message, usage = f"{name}: connection failed", NOTHING if unsent else None
                raise UpstreamError("unavailable", message, usage=usage) from error
        if isinstance(error, ValueError):
            raise UpstreamError("bad_reply", f"{name}: the reply is not valid") from error
        raise


def completion(
    name: str,
    text: str,
    finish_reason: FinishReason,
    *,
    model: str,
    usage: Usage | None,
    dropped_parameters: tuple[str, ...] = (),
) -> Completion:
    """A completion, if there is one: a reply without text is a failure, unless it is a refusal.

    Whatever else the upstream says of itself is not trusted: a model name is cut, counts of
    tokens that are none are left out, and what no database or UTF-8 encoder takes (lone
    surrogates, NUL) is replaced by U+FFFD.
    """
    text = _storable(text)
    done = Completion(
        text, finish_reason, _storable(model)[:MAX_NAME], counted(usage), dropped_parameters
    )
    if not text.strip() and finish_reason == "content_filter":
        message = f"{name}: blocked by the vendor's filter"
        raise UpstreamError("content_filter", message, usage=done.usage)
    if not text.strip() and not done.withheld:
        spent = " within max_tokens" if finish_reason == "length" else ""
        raise UpstreamError("bad_reply", f"{name}: the reply has no text{spent}", usage=done.usage)
    return done


def _storable(text: str) -> str:
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return mended.replace("\0", "\ufffd")


def told_usage(reply: object) -> Usage | None:
    """The tokens that an OpenAI-shaped reply says were billed, None if it does not."""
    match reply:
        case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(output)}}:
            return counted(Usage(prompt, output))
    return None


def counted(usage: Usage | None) -> Usage | None:
    """The usage, if its counts can be counts of tokens."""
    if usage is None:
        return None
    counts = (usage.input_tokens, usage.output_tokens)
    believable = all(type(n) is int and 0 <= n <= MAX_TOKENS for n in counts)
    return usage if believable else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


class _Packages(httpx2.AsyncClient):
    """What vendors' packages send, over our pool: requests as the packages build them, for they
    name the whole URL and all headers; no cookies, no redirects, nothing merged or looked up for
    each request. Bodies are read to their end: no package is asked for a stream."""

    def __init__(self, http: Http) -> None:
        super().__init__(transport=httpx2.AsyncBaseTransport())
        self._http = http

    def build_request(self, method: str, url: httpx2.URL | str, **of: Any) -> httpx2.Request:
        of.pop("timeout", None)
        return httpx2.Request(method, _parsed(url) if isinstance(url, str) else url, **of)

    async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
        # `raw` and not the headers as a mapping, which looks through all of them for each name.
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        response, body = await self._http.exchange(
            request.method, str(request.url), headers, request.content or None
        )
        left = [(k, v) for k, v in response.raw_headers if k.lower() not in _NOT_PASSED_ON]
        return httpx2.Response(response.status, headers=left, content=body, request=request)


@lru_cache(maxsize=256)  # of each model, one
def _parsed(url: str) -> httpx2.URL:
    return httpx2.URL(url)


# The body is unpacked by then; and httpx2's client would keep cookies, for all members together.
_NOT_PASSED_ON = (b"content-encoding", b"content-length", b"set-cookie")
_ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


async def _read(stream: aiohttp.StreamReader, *, packed: bool) -> bytes:
    """A body to its end, or an error over `MAX_BODY_BYTES`. It is unpacked here because a small
    packed body can hold a huge one."""
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed else None
    chunks: list[bytes] = []
    left = MAX_BODY_BYTES
    async for chunk in stream.iter_any():
        plain = chunk
        if unpacker is not None:
            try:
                plain = unpacker.decompress(chunk, left + 1)
            except zlib.error as error:
                raise UpstreamError("bad_reply", "the upstream's reply does not unpack") from error
        left -= max(len(plain), len(chunk))
        if left < 0:
            limit = f"{MAX_BODY_BYTES // 2**20} MiB"
            chunks.clear()  # the error may be kept for a while, and with it this frame
            del chunk, plain
            raise UpstreamError("bad_reply", f"the upstream's reply is over {limit}")
        chunks.append(plain)
    return b"".join(chunks)

"""What every HTTP adapter shares: one client, one JSON call, one mapping from fault to error."""

from __future__ import annotations

import email.utils
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC
from http import HTTPStatus

import aiohttp
import httpx2
from httpx_aiohttp.httpx2 import AiohttpTransport

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

ErrorOf = Callable[[str, httpx2.Response], UpstreamError]

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
# Without a connection nothing was sent. The transport's own `ConnectTimeout` says less: it stands
# for a server that hangs up before it replies, too.
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    ConnectionRefusedError,
    socket.gaierror,
)


def open_http() -> httpx2.AsyncClient:
    """The one client for our own calls and the vendors' packages; close it with `aclose()`.

    It has no read timeout: each attempt is limited as a whole by the ensemble, because a body
    that drips in never trips a read timeout. Bodies over `MAX_BODY_BYTES` are refused.
    """
    return httpx2.AsyncClient(
        transport=_BoundedTransport(AiohttpTransport(client=_session)),
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
        headers={"accept-encoding": "gzip"},
        follow_redirects=False,
    )


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=httpx2.create_ssl_context())
    # `trust_env`: proxies named in the environment are used. No cookies are kept.
    return aiohttp.ClientSession(
        connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
    )


async def post_json(
    http: httpx2.AsyncClient,
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
        response = await http.post(url, json=body, headers=dict(headers))
        return _decoded(name, response, error_of or response_error)


async def get_json(
    http: httpx2.AsyncClient, name: str, url: str, *, headers: Mapping[str, str]
) -> object:
    """GET a URL that costs nothing upstream, such as a list of models; for `ping`."""
    with upstream(name):
        return _decoded(name, await http.get(url, headers=dict(headers)), response_error)


def _decoded(name: str, response: httpx2.Response, error_of: ErrorOf) -> object:
    if response.status_code != HTTPStatus.OK:
        raise error_of(name, response)
    return json.loads(response.content)


def bearer_headers(api_key: str | None) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def response_error(name: str, response: httpx2.Response) -> UpstreamError:
    """The error a response's status stands for. The body is not quoted: it is not ours."""
    return status_error(name, response.status_code, retry_after(response.headers))


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
            if isinstance(cause, httpx2.DecodingError):
                break
            if isinstance(cause, httpx2.TransportError | aiohttp.ClientError | OSError):
                unsent = any(isinstance(cause, _NEVER_CONNECTED) for cause in causes)
                message, usage = f"{name}: connection failed", NOTHING if unsent else None
                raise UpstreamError("unavailable", message, usage=usage) from error
        if isinstance(error, ValueError | httpx2.DecodingError):
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


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """Unpacks bodies and refuses them over `MAX_BODY_BYTES`, also where a vendor's package reads
    them. It unpacks by itself because a small packed body can hold a huge one."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        encoding = response.headers.get("content-encoding", "identity")
        stream = response.stream
        if encoding not in _ENCODINGS or not isinstance(stream, httpx2.AsyncByteStream):
            await response.aclose()
            raise UpstreamError("bad_reply", "the reply is in an encoding nobody asked for")
        unpacked = ("content-encoding", "content-length")
        return httpx2.Response(
            response.status_code,
            headers=[(k, v) for k, v in response.headers.multi_items() if k not in unpacked],
            stream=_BoundedStream(stream, packed=encoding != "identity"),
            request=request,
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


_ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, *, packed: bool) -> None:
        self._inner = inner
        self._unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_BODY_BYTES
        async for chunk in self._inner:
            plain = self._unpack(chunk, left + 1)
            left -= len(plain)
            if left < 0:
                limit = f"{MAX_BODY_BYTES // 2**20} MiB"
                raise UpstreamError("bad_reply", f"the upstream's reply is over {limit}")
            yield plain

    def _unpack(self, chunk: bytes, most: int) -> bytes:
        if self._unpacker is None:
            return chunk
        try:
            return self._unpacker.decompress(chunk, most)
        except zlib.error as error:
            raise UpstreamError("bad_reply", "the upstream's reply does not unpack") from error

    async def aclose(self) -> None:
        await self._inner.aclose()

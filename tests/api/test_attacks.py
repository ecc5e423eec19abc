"""What an attacker sends that a client would not, and what comes of it: URLs where there are none,
headers in values, forged lines of the log, keys in URLs, foreign hosts, two requests in one."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import pytest_asyncio
from aiohttp import web

from app.api import create_app
from app.settings import Settings
from app.store import AnswerStore
from app.store.keys import Keys
from tests.conftest import scripted_board, settings
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.serving import exchange, serve, serving

OURS, OPENAI = "/answer", "/v1/chat/completions"
ASKED: Mapping[str, dict[str, Any]] = {
    OURS: {"prompt": "Which?"},
    OPENAI: {"model": "starboard", "messages": [{"role": "user", "content": "Which?"}]},
}
KEY = "sk-sb-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

pytestmark = pytest.mark.asyncio(loop_scope="module")
both = pytest.mark.parametrize("path", ASKED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx2.AsyncClient]:
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/answers.db"
    async with serve(create_app(scripted_board(url))) as client:
        yield client


@dataclass
class Internal:
    """A server that nobody should reach, or one that sends everybody on to it."""

    url: str = ""
    reached: list[bytes] = field(default_factory=list)
    redirect: tuple[int, str] | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.reached.append(f"{request.method} {request.path}\n".encode() + await request.read())
        if self.redirect is None:
            return web.Response(text="secret")
        status, location = self.redirect
        return web.Response(status=status, headers={"Location": location})


@asynccontextmanager
async def internal(**more: Any) -> AsyncIterator[Internal]:
    server = Internal(**more)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def configure(text: str) -> None:
    Path("starboard.toml").write_text(text)


def logged() -> str:
    return Path("serve.log").read_text()


# --- requests that the service is to make for somebody else


ADDRESSES = ("base_url", "api_base", "webhook", "callback_url", "image_url", "file", "endpoint")


async def test_no_field_of_a_request_is_an_address(client: httpx2.AsyncClient) -> None:
    async with internal() as inside:
        for url in (inside.url, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"):
            for name in ADDRESSES:
                ours = await client.post(OURS, json={**ASKED[OURS], name: url})
                assert (ours.status_code, ours.json()["errors"][0]["field"]) == (422, name)
                sent = {**ASKED[OPENAI], "starboard": {name: url}}
                theirs = await client.post(OPENAI, json=sent)
                assert theirs.status_code == 400
                assert theirs.json()["error"]["param"] == f"starboard.{name}"
            everything = {**ASKED[OPENAI], **dict.fromkeys(ADDRESSES, url)}
            served = await client.post(OPENAI, json=everything)
            assert served.json()["starboard"]["dropped_parameters"] == sorted(ADDRESSES)
        assert inside.reached == []


async def test_no_name_and_no_text_is_taken_for_an_address(client: httpx2.AsyncClient) -> None:
    async with internal() as inside:
        url = inside.url
        for more in ({"members": [url]}, {"plan": {"strategy": "fuse", "aggregator": url}}):
            refused = await client.post(OURS, json={**ASKED[OURS], **more})
            assert refused.status_code == 422
            assert "not seated" in refused.json()["detail"]
        for model in (url, f"starboard/{url}"):
            refused = await client.post(OPENAI, json={**ASKED[OPENAI], "model": model})
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                404,
                "model_not_found",
            )
        for kind in ("image_url", "input_audio", "file"):
            parts = [{"type": kind, kind: {"url": url}}]
            turns = [{"role": "user", "content": parts}]
            for path, status in {OURS: 422, OPENAI: 400}.items():
                sent = {**ASKED[path], "messages": turns}
                sent.pop("prompt", None)
                assert (await client.post(path, json=sent)).status_code == status
        kept = await client.post(
            OURS, json={"prompt": f"Read {url}", "system": url, "tags": {"webhook": url}}
        )
        assert kept.json()["tags"] == {"webhook": url}
        said = {"thumb": "up", "comment": url}
        response = await client.post(f"/answers/{kept.json()['id']}/feedback", json=said)
        assert response.status_code == 201
        assert inside.reached == []


def remote(provider: str, url: str) -> dict[str, object]:
    version = "/v1" if provider == "openai_compatible" else ""
    return {"provider": provider, "base_url": f"{url}{version}", "model": "gpt-4.1-mini"}


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize(
    "provider", ["anthropic", "google", "google_generativeai", "mistral", "openai_compatible"]
)
async def test_an_upstream_that_sends_us_elsewhere_is_not_followed(
    provider: str, status: int, database_url: str
) -> None:
    if provider == "google_generativeai":
        pytest.importorskip("google.generativeai")
    async with internal() as inside, internal(redirect=(status, f"{inside.url}/keys")) as host:
        ours = settings(
            database_url=database_url,
            board=("m",),
            members={"m": remote(provider, host.url)},
            scorer="embedded",
            ANTHROPIC_API_KEY="k",
            GEMINI_API_KEY="k",
            MISTRAL_API_KEY="k",
        )
        async with serve(create_app(ours)) as client:
            response = await client.post(OURS, json={**ASKED[OURS], "deadline_s": 20})
        assert inside.reached == []
        assert len(host.reached) >= 1
        assert response.status_code == 502
        told = "unavailable" if provider == "google_generativeai" else "refused_request"
        assert response.json()["members"][0]["failure"]["kind"] == told


async def test_a_scorer_that_sends_us_elsewhere_is_not_followed(scripted: Settings) -> None:
    async with internal() as inside, internal(redirect=(307, f"{inside.url}/keys")) as host:
        ours = settings(
            **{
                **scripted.model_dump(exclude_unset=True),
                "NVIDIA_API_KEY": "k",
                "NVIDIA_BASE_URL": host.url,
                "scorer": "nvidia",
            }
        )
        async with serve(create_app(ours)) as client:
            document = (await client.post(OURS, json=ASKED[OURS])).json()
        failures = {c["score_failure"]["kind"] for c in document["candidates"]}
        assert (document["quality"], failures) == ("degraded", {"refused_request"})
        assert len(host.reached) >= 1
        assert inside.reached == []


async def test_a_board_that_sits_on_itself_ends(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configure(
        f"""
        database_url = "sqlite:///{tmp_path}/answers.db"
        board = ["me"]
        self_check = false
        scorer = "embedded"
        [members.me]
        provider = "openai_compatible"
        base_url = "http://127.0.0.1:{port}/v1"
        model = "starboard"
        """
    )

    def ask() -> tuple[httpx2.Response, str]:
        with serving("--port", str(port)) as (_, url):
            response = httpx2.post(f"{url}/answer", json=ASKED[OURS], timeout=60)
            return response, httpx2.get(f"{url}/metrics").text

    response, metrics = await asyncio.to_thread(ask)
    assert response.status_code == 502
    runs = int(figure(metrics, 'starboard_runs_total{outcome="failed"}'))
    # The request itself and the two boards that it may come through; each attempt is made twice.
    assert 3 <= runs <= 1 + 2 + 4
    route = 'method="POST",route="/v1/chat/completions",status="508"'
    assert figure(metrics, f"starboard_http_requests_total{{{route}}}") >= 1


def figure(metrics: str, sample: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith(sample)]
    return float(line.rpartition(" ")[2])


# --- headers


def headers_of(reply: bytes) -> dict[str, str]:
    head = reply.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}


def request(path: str, *lines: bytes, method: str = "POST", host: str = "localhost") -> bytes:
    """A request with these header lines, as they stand, on a connection of its own."""
    body = json.dumps(ASKED[path]).encode() if path in ASKED else b""
    head = [
        f"{method} {path} HTTP/1.1".encode(),
        f"Host: {host}".encode(),
        b"Connection: close",
        *([b"Content-Type: application/json", b"Content-Length: %d" % len(body)] if body else []),
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


INJECTED = {
    "CR LF": b"X-Request-ID: a\r\nX-Injected: 1",
    "LF": b"X-Request-ID: a\nX-Injected: 1",
    "a folded line": b"X-Request-ID: a\r\n X-Injected: 1",
    "an escape": b"X-Request-ID: a\x1b[2J",
    "percent": b"X-Request-ID: a%0d%0aX-Injected: 1",
    "UTF-8": "X-Request-ID: a\u560d\u560aX-Injected: 1".encode(),
    "traceparent": b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n X: 1",
    "host": b"X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\nForwarded: host=evil",
}


@both
@pytest.mark.parametrize("case", INJECTED)
async def test_no_header_of_a_request_becomes_one_of_the_reply(
    client: httpx2.AsyncClient, path: str, case: str
) -> None:
    plain = headers_of(await exchange(client, request(path)))
    reply = await exchange(client, request(path, INJECTED[case]))
    assert reply.startswith(b"HTTP/1.1 200 ")
    found = headers_of(reply)
    assert found.keys() == plain.keys()
    assert re.fullmatch(r"[\w.:-]{1,64}", found["x-request-id"])
    assert "evil" not in str(found)


@both
@pytest.mark.parametrize(
    "line",
    [b"X-Request-ID: a\rX-Injected: 1", b"X-Request-ID: a\0", b"X Injected: 1", b"X-Injected : 1"],
)
async def test_a_header_that_is_none_is_a_400(
    client: httpx2.AsyncClient, path: str, line: bytes
) -> None:
    reply = await exchange(client, request(path, line))
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"njected" not in reply


@both
@pytest.mark.parametrize("key", [b"a b", b"a\x1b[2J", b"a\xe9", b"", b"a" * 256])
async def test_an_idempotency_key_is_plain_text(
    client: httpx2.AsyncClient, path: str, key: bytes
) -> None:
    reply = await exchange(client, request(path, b"Idempotency-Key: " + key))
    assert reply.startswith(b"HTTP/1.1 4")
    assert b"Idempotency-Key: String should" in reply


async def test_what_a_client_sends_is_no_header_upstream(database_url: str) -> None:
    nasty = "a\r\nX-Injected: 1\x1b[2J"
    async with OpenAICompatibleFake(api_key=None) as host:
        ours = settings(
            database_url=database_url,
            board=("m",),
            members={"m": remote("openai_compatible", host.base_url)},
            scorer="embedded",
        )
        async with serve(create_app(ours)) as client:
            for path in ASKED:
                assert (await client.post(path, json=ASKED[path])).status_code == 200
                sent = {
                    "authorization": "Bearer mine",
                    "cookie": "session=mine",
                    "traceparent": "mine",
                    "tracestate": "mine=1",
                    "baggage": "mine=1",
                    "x-request-id": "mine",
                    "x-forwarded-for": "10.0.0.1",
                    "idempotency-key": f"mine-{path}",
                    "x-anything": "mine",
                }
                tags = {nasty.replace(":", ""): nasty}
                more = {"tags": tags} if path == OURS else {"metadata": tags}
                response = await client.post(path, json={**ASKED[path], **more}, headers=sent)
                assert response.status_code == 200
                plain, with_headers = host.requests[-2:]
                differ = plain.headers.items() ^ with_headers.headers.items()
                assert {name.lower() for name, _ in differ} <= {"content-length"}
                assert plain.body == with_headers.body
            refused = await client.post(OURS, json={**ASKED[OURS], "members": [nasty]})
            assert (refused.status_code, "X-Injected" in refused.headers) == (422, False)


SECURE = {"content-security-policy", "referrer-policy", "x-content-type-options", "x-request-id"}


async def test_every_reply_has_the_headers_that_browsers_heed(scripted: Settings) -> None:
    app = create_app(scripted)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async with serve(app) as client:
        replies = [
            await client.post(OURS, json=ASKED[OURS]),
            await client.post(OURS, json={**ASKED[OURS], "stream": True}),
            await client.post(OPENAI, json={**ASKED[OPENAI], "stream": True}),
            await client.post(OURS, json={}),
            await client.post(OURS, content=b" " * 2_000_000),
            await client.get("/nowhere"),
            await client.get("/broken"),
            await client.get("/docs"),
            await client.get("/metrics?key=a"),
        ]
        files = await client.get("/static-offline-docs/swagger-ui.css")
    for reply in replies:
        assert reply.headers.keys() >= SECURE, reply.status_code
        assert len(reply.headers.multi_items()) == len(reply.headers), reply.headers  # each once
    assert {reply.headers.get("cache-control") for reply in replies} <= {"no-store", None}
    assert replies[0].headers["cache-control"] == "no-store"
    assert "cache-control" not in files.headers
    assert "frame-ancestors 'none'" in files.headers["content-security-policy"]


# --- who else may read replies: other origins, other names of this machine


@both
async def test_no_other_origin_is_let_in(client: httpx2.AsyncClient, path: str) -> None:
    origin = {"origin": "https://evil.example"}
    asked = {**origin, "access-control-request-method": "POST"}
    before = await client.options(path, headers=asked)
    after = await client.post(path, json=ASKED[path], headers=origin)
    assert (before.status_code, after.status_code) == (405, 200)
    for reply in (before, after):
        assert not [name for name in reply.headers if name.startswith("access-control-")]


FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil",
    "127.0.0.1@evil",
    "[",
    "10.1",
]


@pytest.mark.parametrize("host", FOREIGN)
async def test_without_keys_nobody_comes_in_by_a_foreign_name(
    client: httpx2.AsyncClient, host: str
) -> None:
    """A page at a name that was made to mean 127.0.0.1 is of the same origin as we are."""
    for path in (OURS, OPENAI):
        reply = await exchange(client, request(path, host=host))
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"without a key this service answers only to localhost" in reply
    for path in ("/answers", "/models", "/v1/models", "/answers/ans_1"):
        reply = await exchange(client, request(path, method="GET", host=host))
        assert reply.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.9.9.9", "[::1]"]
)
async def test_this_machine_has_many_names(client: httpx2.AsyncClient, host: str) -> None:
    assert (await exchange(client, request(OURS, host=host))).startswith(b"HTTP/1.1 200 ")


async def test_with_keys_or_without_care_any_name_will_do(scripted: Settings) -> None:
    named = {"host": "starboard.example"}
    open_to_all = scripted.model_copy(update={"auth": "off"})
    async with serve(create_app(open_to_all)) as client:
        assert (await client.post(OURS, json=ASKED[OURS], headers=named)).status_code == 200
    async with serve(create_app(scripted)) as client:
        async with AnswerStore.open(scripted.database_url) as store:
            _, secret = await Keys(store.database).create("k", ["answer"])
        keyed = {**named, "authorization": f"Bearer {secret}"}
        assert (await client.post(OURS, json=ASKED[OURS], headers=keyed)).status_code == 200
        for wrong in (secret[:-1], secret[:12], secret + "a", secret.upper(), "\u00e9"):
            headers = {b"authorization": f"Bearer {wrong}".encode()}
            assert (await client.post(OURS, json=ASKED[OURS], headers=headers)).status_code == 401
    for file in Path(scripted.database_url.partition("///")[2]).parent.glob("answers.db*"):
        assert secret.encode() not in file.read_bytes()


async def test_nobody_is_sent_to_the_host_that_was_asked_for(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/answers/", "/models/", "/docs/", "//evil.example/answers/", "/v1/models/"):
        reply = await exchange(client, request(path, method="GET", host="evil.example"))
        assert reply.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 ", b"HTTP/1.1 401 "))
        assert "location" not in headers_of(reply)
        assert b"evil" not in reply


# --- two requests in one, and other ways to speak


BEHIND = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMUGGLED = {
    "both lengths": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 44\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "another encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "an encoding with a tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
}


@both
@pytest.mark.parametrize("case", SMUGGLED)
async def test_no_request_hides_behind_another(
    client: httpx2.AsyncClient, path: str, case: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reply = await exchange(client, head.encode() + SMUGGLED[case] + BEHIND)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"starboard_runs" not in reply


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("http://169.254.169.254/latest", method="GET"), 404),
        (request("/answer", method="TRACE"), 405),
        (request("169.254.169.254:80", b"Upgrade: a", method="CONNECT"), 404),
        (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (request("/healthz", b"Host: evil.example", method="GET"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\n\r\n\r\n", 400),
    ],
)
async def test_no_other_protocol_is_spoken(
    client: httpx2.AsyncClient, sent: bytes, status: int
) -> None:
    assert (await exchange(client, sent)).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/..%5c..%5cetc%5cpasswd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/swagger-ui.css%00",
        "/" + "a" * 5000,
        "/",
        "/../core.py",
    ],
)
async def test_no_file_is_served_but_those_of_the_docs(
    client: httpx2.AsyncClient, path: str
) -> None:
    reply = await exchange(client, request(f"/static-offline-docs{path}", method="GET"))
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in reply


# --- keys in URLs


SECRET_NAMES = (
    "key",
    "api_key",
    "api-key",
    "apiKey",
    "X-API-Key",
    "token",
    "access_token",
    "%6Bey",
)


@pytest.mark.parametrize("path", [*ASKED, "/answers", "/v1/models", "/metrics", "/nowhere"])
async def test_a_key_in_a_url_is_refused_in_words(client: httpx2.AsyncClient, path: str) -> None:
    queries = [f"?{name}=hush-0123456789" for name in SECRET_NAMES]
    for more in (*queries, "?token", f"?a=b&q={KEY}", f"?{KEY}", f"/{KEY}", f"?a={quote(KEY)}%20"):
        response = await client.request(
            "POST" if path in ASKED else "GET", path + more, json=ASKED.get(path)
        )
        openai = (path + more).startswith("/v1/")
        assert response.status_code == (400 if openai else 422), more
        said = response.json()["error"]["message"] if openai else response.json()["detail"]
        assert "keys do not belong in URLs" in said
        assert "hush" not in response.text
        assert KEY not in response.text
    told = (await client.get("/metrics")).text
    assert "hush" not in told
    assert KEY not in told


async def test_a_query_is_in_no_trace(
    monkeypatch: pytest.MonkeyPatch, scripted: Settings, database_url: str
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    async with internal() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
        ours = settings(**scripted.model_dump(exclude_unset=True))
        headers = {"traceparent": "00-zz\x1b-hush-01", "baggage": "hush=1", "x-request-id": "seen"}
        async with serve(create_app(ours)) as client:
            for path in ASKED:
                for more in ("?note=hush", f"?key={KEY}"):
                    await client.post(path + more, json=ASKED[path], headers=headers)
    told = b"".join(collector.reached)
    assert b"seen" in told
    assert b"hush" not in told
    assert KEY.encode() not in told


async def test_what_clients_make_up_is_no_label(client: httpx2.AsyncClient) -> None:
    async def series() -> set[str]:
        lines = (await client.get("/metrics")).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines}

    async def send(name: str) -> None:
        await client.post(OURS, json={**ASKED[OURS], "members": [name], "tags": {name: name}})
        await client.post(OPENAI, json={**ASKED[OPENAI], "model": name, "user": name})
        await client.get(f"/{name}", headers={"x-request-id": name})
        await client.get(f"/answers/{name}")
        await client.get(f"/v1/models/{name}?q={name}")
        await client.request(name.upper(), OURS)

    await send("first")
    await client.get("/metrics")
    before = await series()
    for number in range(10):
        await send(f"made-up-{number}")
    assert await series() == before


# --- the log


BOARD = """
database_url = "sqlite:///answers.db"
board = ["a"]
self_check = false
log_level = "debug"
[members.a]
provider = "scripted"
reply = "first"
[scorer]
kind = "scripted"
rewards = {"first" = 2.0}
"""
FORGED = (
    "x\n2026-11-26 12:00:00,000 INFO starboard: forged\r\n"
    '{"message": "forged"}\x1b]0;t\x07\u2028\u202e'
)
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+( \[[\w.:-]+\])?: \S.*")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nobody_writes_a_line_of_the_log_or_reads_a_key_in_it(form: str) -> None:
    """All of a real process, uvicorn's own lines too."""
    configure(f'log_format = "{form}"\n{BOARD}')

    async def attack(url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            for path in ASKED:
                for more in (
                    {"tags": {FORGED: FORGED}},
                    {"metadata": {FORGED: FORGED}, "user": FORGED},
                    {"prompt": FORGED, "system": FORGED},
                    {"model": FORGED},
                    {"members": [FORGED]},
                    {FORGED: FORGED},
                ):
                    await client.post(path, json={**ASKED[path], **more})
                await client.post(f"{path}?api_key={KEY}", json=ASKED[path])
                await client.post(f"{path}?note=hush-hush", json=ASKED[path])
                bearer = {"authorization": f"Bearer {KEY}"}
                await client.post(path, json=ASKED[path], headers=bearer)
                await client.post(path, content=FORGED.encode())
            for tail in (quote(FORGED), f"answers/{KEY}", f"v1/models/{quote(FORGED)}"):
                await client.get(f"/{tail}")
            await client.get("/sk-ant-0123456789abcdef/nvapi-0123456789abcdef")
            for line in (
                *INJECTED.values(),
                b"X-Request-ID: a\r\x1b[2J",
                b"Cookie: " + KEY.encode(),
            ):
                await exchange(client, request(OURS, line))
            await exchange(client, b"GET /\x1b[2J\n2026-11-26 forged HTTP/1.1\r\n\r\n\x1b[2J")

    with serving() as (_, url):
        await attack(url)
        log = logged()
    # Only the ends of lines that the service wrote are ends of lines.
    lines = log.split("\n")
    assert lines.pop() == ""
    assert len(lines) > 25
    for line in lines:
        assert line.isprintable(), line
        assert LINE.fullmatch(line) if form == "text" else json.loads(line)["time"]
        assert not line.startswith("2026-11-26 12:00:00,000")
        assert form == "text" or json.loads(line)["message"] != "forged"
    for secret in (KEY, "hush-hush", "0123456789abcdef"):
        assert secret not in log

"""Bodies that are too large, too deep, not JSON, or not what they say: each is refused in words, in
the shape of its route, and the service goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from app.api import create_app
from app.api.limits import MAX_DEPTH, MAX_HEADER_BYTES
from tests.conftest import scripted_board
from tests.serving import exchange, serve

OURS, OPENAI = "/answer", "/v1/chat/completions"
ASKED: Mapping[str, dict[str, Any]] = {
    OURS: {"prompt": "Which?"},
    OPENAI: {"model": "starboard", "messages": [{"role": "user", "content": "Which?"}]},
}
JSON = {"content-type": "application/json"}
LONG = "a" * 100_000

pytestmark = pytest.mark.asyncio(loop_scope="module")
both = pytest.mark.parametrize("path", ASKED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx2.AsyncClient]:
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/answers.db"
    async with serve(create_app(scripted_board(url))) as client:
        yield client


def body(path: str, more: bytes = b"") -> bytes:
    """A good request of that route, with more fields."""
    plain = json.dumps(ASKED[path]).encode()
    return plain[:-1] + b"," + more + b"}" if more else plain


async def refused(response: httpx2.Response, status: int, words: str) -> None:
    """That it says no in the shape of its route, in these words."""
    path = response.request.url.path
    if path.startswith("/v1/"):
        assert response.status_code == {422: 400}.get(status, status), response.text
        assert response.headers["content-type"] == "application/json"
        assert words in response.json()["error"]["message"]
    else:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert words in response.json()["detail"]


async def goes_on(client: httpx2.AsyncClient) -> None:
    assert (await client.post(OURS, json=ASKED[OURS])).status_code == 200


def nested(levels: int) -> bytes:
    return b'"x":' + b"[" * levels + b"]" * levels


MALFORMED: Mapping[str, tuple[bytes, str]] = {
    "100,000 lists": (nested(100_000), f"nested deeper than {MAX_DEPTH} levels"),
    "100,000 objects": (b'"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "100,000 open lists": (b'"x":' + b"[" * 100_000, "nested deeper"),
    "one level too many": (nested(MAX_DEPTH), "nested deeper"),
    "not UTF-8": (b'"x":"\xff\xfe"', "the body is not UTF-8 at byte"),
    "overlong UTF-8": (b'"x":"\xc0\xaf"', "the body is not UTF-8"),
    "a surrogate in UTF-8": (b'"x":"\xed\xa0\x80"', "the body is not UTF-8"),
    "half a pair": (b'"x":"\\ud800"', "half of a surrogate pair"),
    "half a pair as a name": (b'"\\udfff":1', "half of a surrogate pair"),
    "half a pair in a member": (b'"members":["\\ud800"]', "half of a surrogate pair"),
    "a name twice": (b'"x":1,"x":2', "the same name twice"),
    "a name twice inside": (b'"x":[{"a":1,"a":2}]', "the same name twice"),
    "NaN": (b'"temperature":NaN', "NaN is no number"),
    "Infinity": (b'"x":[-Infinity]', "-Infinity is no number"),
    "10**5000": (b'"max_tokens":1' + b"0" * 5000, "too many digits"),
    "a raw control character": (b'"x":"\n"', "not JSON: Invalid control character"),
    "a raw NUL": (b'"x":"\0"', "not JSON: Invalid control character"),
    "a comment": (b'"x":1/**/', "the body is not JSON"),
    "single quotes": (b"'x':1", "the body is not JSON"),
}


@both
@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_no_plain_json_is_refused(
    client: httpx2.AsyncClient, path: str, case: str
) -> None:
    more, words = MALFORMED[case]
    for headers in (JSON, {**JSON, "idempotency-key": "one"}):
        response = await client.post(path, content=body(path, more), headers=headers)
        await refused(response, 422, words)
    await goes_on(client)


@both
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-7", "cp037"])
async def test_other_encodings_are_refused(
    client: httpx2.AsyncClient, path: str, encoding: str
) -> None:
    sent = {"utf-7": b"+AHsAfQ-"}.get(encoding, body(path).decode().encode(encoding))
    headers = {"content-type": f"application/json; charset={encoding}"}
    response = await client.post(path, content=sent, headers=headers)
    await refused(response, 422, "the body is not ")


@both
async def test_nothing_at_all_is_refused(client: httpx2.AsyncClient, path: str) -> None:
    await refused(await client.post(path), 422, "body: Field required")
    await refused(await client.post(path, content=b" ", headers=JSON), 422, "not JSON")


@pytest.mark.parametrize(
    "more",
    [
        nested(MAX_DEPTH - 1),
        b'"x":"\\ud83d\\ude00"',
        b'"seed":1' + b"0" * 4000,
        b'"x":1e400',
        b'"x":"\\u0000"',
    ],
    ids=["deep", "a whole pair", "many digits", "1e400", "NUL"],
)
async def test_what_is_only_odd_is_served(client: httpx2.AsyncClient, more: bytes) -> None:
    for headers in (JSON, {**JSON, "idempotency-key": str(hash(more))}):
        response = await client.post(OPENAI, content=body(OPENAI, more), headers=headers)
        assert response.status_code == 200, response.text
    with_mark = b"\xef\xbb\xbf" + body(OPENAI)
    assert (await client.post(OPENAI, content=with_mark, headers=JSON)).status_code == 200


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (b'"max_tokens":1' + b"0" * 4000, "max_tokens"),
        (b'"temperature":1' + b"0" * 4000, "temperature"),
        (b'"temperature":1e400', "temperature"),
        (b'"tags":{"a":"\\u0000"}', "tags.a"),
        (b'"members":["\\u0000"]', "members"),
    ],
)
async def test_values_that_fit_nowhere_name_their_field(
    client: httpx2.AsyncClient, more: bytes, field: str
) -> None:
    response = await client.post(OURS, content=body(OURS, more), headers=JSON)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


@both
@pytest.mark.parametrize(
    "media_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"],
)
async def test_a_body_must_be_declared_as_json(
    client: httpx2.AsyncClient, path: str, media_type: str | None
) -> None:
    """The three that a form of a foreign web page can send, and none, are not it."""
    headers = {"content-type": media_type} if media_type else {}
    response = await client.post(path, content=body(path), headers=headers)
    await refused(response, 415, "content-type: application/json")


@both
async def test_a_packed_body_is_refused_and_not_unpacked(
    client: httpx2.AsyncClient, path: str
) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    for encoding, packed in {
        "gzip": bomb,
        "deflate": zlib.compress(body(path)),
        "gzip, gzip": gzip.compress(bomb),
        "br": b"\0",
    }.items():
        headers = {**JSON, "content-encoding": encoding}
        response = await client.post(path, content=packed, headers=headers)
        await refused(response, 415, "without a content-encoding")
    undeclared = await client.post(path, content=bomb, headers=JSON)
    await refused(undeclared, 422, "not UTF-8")


@both
async def test_a_body_is_refused_by_the_length_that_it_states(
    client: httpx2.AsyncClient, path: str
) -> None:
    for length in ("1048577", "9" * 20):
        sent = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(f"{sent}Expect: 100-continue\r\n\r\n".encode())
        async with asyncio.timeout(30):
            status = await reader.readline()
        writer.close()
        assert status.startswith(b"HTTP/1.1 413 "), "and the client was not told to go on"


async def test_a_body_without_a_length_is_never_held_whole(client: httpx2.AsyncClient) -> None:
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    tracemalloc.start()
    writer.write(
        b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    async with asyncio.timeout(60):
        for _ in range(512):  # 32 MiB
            writer.write(chunk)
            await writer.drain()
        status = await reader.readline()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    writer.close()
    assert status.startswith(b"HTTP/1.1 413 ")
    assert peak < 8 * 2**20


@both
async def test_headers_have_a_limit(client: httpx2.AsyncClient, path: str) -> None:
    words = f"the URL and the headers are over {MAX_HEADER_BYTES:,} bytes"
    for headers in ({"x-a": "a" * MAX_HEADER_BYTES}, {f"x-{n}": "a" for n in range(8000)}):
        response = await client.post(path, json=ASKED[path], headers=headers)
        await refused(response, 431, words)
    await refused(await client.get(f"{path}?q={LONG[:MAX_HEADER_BYTES]}"), 431, words)
    endless = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 66_000
    assert (await exchange(client, endless)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (OURS, {"members": [LONG]}),
        (OURS, {"members": ["a"] * 100_000}),
        (OURS, {"plan": {"order": [LONG]}}),
        (OURS, {"plan": {"aggregator": LONG}}),
        (OURS, {"tags": {LONG: "a"}}),
        (OURS, {"tags": {str(n): "a" for n in range(10_000)}}),
        (OURS, {LONG: 1}),
        (OURS, {f"f{n}": 1 for n in range(50_000)}),
        (OURS, {"prompt": None, "messages": [{"role": "user", "content": "a"}] * 1001}),
        (OURS, {"prompt": None, "messages": [{"role": "robot", "content": "a"}] * 1000}),
        (OPENAI, {"model": LONG}),
        (OPENAI, {"messages": [{"role": "user", "content": "a"}] * 1001}),
        (OPENAI, {"user": LONG}),
        (OPENAI, {"starboard": {LONG: 1}}),
    ],
)
async def test_a_refusal_is_short_whatever_is_refused(
    client: httpx2.AsyncClient, path: str, more: dict[str, Any]
) -> None:
    response = await client.post(path, json={**ASKED[path], **more})
    assert response.status_code in (400, 422)
    assert len(response.content) < 10_000
    missing = await client.get(f"/v1/models/{LONG[:20_000]}")
    assert (missing.status_code, len(missing.content) < 2000) == (404, True)

"""The page's files as they are served: what they may do, where they are from, what they weigh."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx2
import pytest

from app.api import create_app
from app.api.page import FILES
from app.settings import Settings
from tests.serving import serve

VENDOR = FILES / "vendor"


@pytest.fixture
async def client(scripted: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(create_app(scripted)) as client:
        yield client


def policy(response: httpx2.Response) -> dict[str, str]:
    directives = response.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (one.partition(" ") for one in directives)}


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/index.html"])
async def test_nothing_runs_and_nothing_loads_that_is_not_of_this_server(
    client: httpx2.AsyncClient, path: str
) -> None:
    response = await client.get(path)
    directives = policy(response)
    assert directives["default-src"] == "'none'"
    for name, value in directives.items():
        if name.endswith("-src"):
            assert value in ("'self'", "'none'")
    for closed in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[closed] == "'none'"
    assert directives["require-trusted-types-for"] == "'script'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.text_of: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.all[-1][0] if self.all else ""
        self.text_of[tag] = self.text_of.get(tag, "") + data


async def test_the_page_has_no_inline_script_or_style(client: httpx2.AsyncClient) -> None:
    page = Elements()
    page.feed((await client.get("/")).text)
    scripts = [attributes for tag, attributes in page.all if tag == "script"]
    assert len(scripts) == 1
    assert scripts[0]["src"]
    assert not page.text_of.get("script", "").strip()
    assert "style" not in {tag for tag, _ in page.all}
    for _, attributes in page.all:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    linked = [
        one
        for _, attributes in page.all
        for one in (attributes.get("src"), attributes.get("href"))
        if one and not one.startswith("#")
    ]
    assert len(linked) >= 4
    for one in linked:
        assert (await client.get(f"/{one}")).status_code == 200
        assert ":" not in one


async def test_a_file_is_packed_and_asked_for_again(client: httpx2.AsyncClient) -> None:
    first = await client.get("/page/answer.js")
    assert first.headers["content-encoding"] == "gzip"
    again = await client.get("/page/answer.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")


@pytest.mark.parametrize(
    "path", ["/page/../page.py", "/page/%2e%2e/page.py", "/page/", "/page/vendor"]
)
async def test_only_files_of_the_page_are_served(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


def test_libraries_are_those_that_the_list_says() -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (\S+) \| (.+) \| ([0-9a-f]{64}) \|$",
        (VENDOR / "README.md").read_text(),
        re.MULTILINE,
    )
    for file, package, version, licence, checksum in rows:
        assert hashlib.sha256((VENDOR / file).read_bytes()).hexdigest() == checksum
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert licence
        assert len((VENDOR / f"{package}.LICENSE").read_text()) > 500
    listed = {name for file, package, *_ in rows for name in (file, f"{package}.LICENSE")}
    assert listed | {"README.md"} == {path.name for path in VENDOR.iterdir()}
    assert len(rows) >= 5


def test_the_pages_own_code_asks_for_no_other_origin() -> None:
    for path in [*FILES.glob("*.js"), *FILES.glob("*.css"), FILES / "index.html"]:
        assert not re.search(
            r"(?:https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.M)
        ), path
        assert "innerHTML" not in path.read_text()

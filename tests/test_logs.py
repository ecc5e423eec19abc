from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from app.api import create_app
from app.errors import ConfigurationError
from app.logs import JsonFormatter, TextFormatter, request_id
from app.settings import Settings
from tests.conftest import settings
from tests.serving import serve

SECRET = "sk-ant-0123456789"
FORMATTERS = [JsonFormatter([SECRET]), TextFormatter([SECRET])]


class Lines(logging.Handler):
    """What a formatter makes of every record."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler, log = Lines(), logging.getLogger("starboard")
    level = log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield handler.lines
    log.removeHandler(handler)
    log.setLevel(level)


def record(message: str, *arguments: object, error: BaseException | None = None) -> str:
    told = logging.LogRecord("starboard", logging.INFO, "", 0, message, arguments, None)
    if error:
        try:
            raise error
        except BaseException:
            told.exc_info = sys.exc_info()
    return "\n".join(formatter.format(told) for formatter in FORMATTERS)


async def test_a_request_has_one_line_with_its_id_and_no_prompt(
    scripted: Settings, lines: list[str]
) -> None:
    async with serve(create_app(scripted)) as client:
        body = {"prompt": "A word that nobody logs: xyzzy"}
        reply = await client.post("/answer?note=abc123secret", json=body)
    (line,) = [json.loads(line) for line in lines if "starboard.access" in line]
    assert line.pop("duration_s") > 0
    assert line.pop("time").endswith("Z")
    assert line.pop("message").startswith("POST /answer 200 in ")
    assert line == {
        "level": "info",
        "logger": "starboard.access",
        "request_id": reply.headers["x-request-id"],
        "method": "POST",
        "path": "/answer",
        "status": 200,
    }
    assert "xyzzy" not in str(lines)
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("trace-1.2:a_B", True),
        ("", False),
        ("a" * 65, False),
        ("two words", False),
        ("<script>", False),
        ("\u00e9", False),
    ],
)
async def test_the_clients_id_is_kept_if_it_is_short_and_plain(
    scripted: Settings, given: str, kept: bool
) -> None:
    async with serve(create_app(scripted)) as client:
        headers = [(b"x-request-id", given.encode("latin-1"))]
        reply = await client.get("/healthz", headers=headers)
        found = await client.get("/answers/none", headers=headers)
    assert (reply.headers["x-request-id"] == given) is kept
    assert (found.headers["x-request-id"] == given) is kept
    assert kept or reply.headers["x-request-id"].startswith("req_")


async def test_an_error_of_ours_has_the_id_too_and_its_text_is_not_logged(
    scripted: Settings, lines: list[str]
) -> None:
    app = create_app(scripted)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the prompt was: xyzzy")

    async with serve(app) as client:
        reply = await client.get("/broken", headers={"x-request-id": "mine"})
    assert (reply.status_code, reply.headers["x-request-id"]) == (500, "mine")
    (line,) = [json.loads(line) for line in lines if "starboard.access" in line]
    assert (line["status"], line["path"], line["request_id"]) == (500, "/broken", "mine")
    told = record("failed", error=RuntimeError("the prompt was: xyzzy"))
    assert "RuntimeError" in told
    assert __file__ in told
    assert "xyzzy" not in told
    assert "set NVIDIA_API_KEY" in record("failed", error=ConfigurationError("set NVIDIA_API_KEY"))


@pytest.mark.parametrize("nasty", ["a\nINFO forged", "a\r\x1b[2Jb", "a\u2028b", "a\u202eb"])
async def test_nobody_writes_a_line_or_turns_the_text(
    nasty: str, scripted: Settings, lines: list[str]
) -> None:
    for line in record("path %s", nasty).split("\n")[:2]:
        assert line.isprintable()
    assert record("path %s", nasty).count("\n") == 1  # one line of each formatter
    async with serve(create_app(scripted)) as client:
        await client.get(f"/{quote(nasty)}")
    (line,) = [line for line in lines if "starboard.access" in line]
    assert line.isprintable()


async def test_no_path_makes_a_long_line(scripted: Settings, lines: list[str]) -> None:
    async with serve(create_app(scripted)) as client:
        await client.get("/" + "a" * 30_000)
    (line,) = [line for line in lines if "starboard.access" in line]
    assert len(line) < 1000


def test_keys_are_left_out_wherever_they_stand() -> None:
    told = record(
        "calling with %s; authorization: Bearer abcdef.12345, ?api_key=0123456789 & %s",
        SECRET,
        "key=9876543210",
    )
    for secret in (SECRET, "abcdef.12345", "0123456789", "9876543210"):
        assert secret not in told
    assert told.count("[redacted]") == 2 * 4


@pytest.mark.parametrize(
    "key", ["sk-sb-Ab12Cd34Ef56Gh78", "sk-ant-api03-Ab12Cd34", "nvapi-Ab12Cd34Ef56Gh78"]
)
async def test_keys_are_left_out_of_fields_too(
    key: str, scripted: Settings, lines: list[str]
) -> None:
    async with serve(create_app(scripted)) as client:
        for path in (f"/answers/{key}", f"/x_{key}/y", f"/x/key={key}", "/x/key=9876543210"):
            await client.get(path)
    asked = [json.loads(line) for line in lines if "starboard.access" in line]
    assert len(asked) == 4
    for line in asked:
        assert "[redacted]" in line["path"]
        assert "[redacted]" in line["message"]
    assert key not in str(lines)
    assert "9876543210" not in str(lines)


def test_the_settings_know_their_secrets() -> None:
    ours = settings(
        database_url="postgresql+asyncpg://me:hunter22@db/starboard",
        MISTRAL_API_KEY="mistral-key",
        NVIDIA_API_KEY="nvidia-key",
    )
    assert set(ours.secrets) == {"hunter22", "mistral-key", "nvidia-key"}


def test_a_line_of_text_begins_with_the_request() -> None:
    token = request_id.set("req_1")
    assert "INFO starboard [req_1]: done" in record("done")
    request_id.reset(token)

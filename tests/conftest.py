"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from app.providers.http import Http, open_http
from app.settings import Settings
from tests import cases, matrix

VENDOR_PREFIXES = ("ANTHROPIC_", "GEMINI_", "GOOGLE_", "MISTRAL_", "NVIDIA_", "OTEL_", "STARBOARD_")
MODEL_NAMES = ("CLAUDE_MODEL", "GEMMA_MODEL", "REWARD_MODEL")


# Neither the caller's environment nor a starboard.toml decides what a test does.
for _name in list(os.environ):
    if _name.startswith(VENDOR_PREFIXES) or _name in MODEL_NAMES:
        del os.environ[_name]


def settings(**values: Any) -> Settings:
    """Settings from plain values, checked as the environment and the file are.

    Without self-checks, unless asked for: they call scorers, and tests count calls.
    """
    return Settings(**{"self_check": False, **values})


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def at_once() -> Iterator[None]:
    """Retries happen, without their waits."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = open_http()
    yield client
    await client.aclose()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/answers.db"


@pytest.fixture
def scripted(database_url: str) -> Settings:
    return scripted_board(database_url)


def scripted_board(database_url: str) -> Settings:
    """A board of three canned members, b the best."""
    return settings(
        database_url=database_url,
        board=("a", "b", "c"),
        members={
            "a": {"provider": "scripted", "reply": "first"},
            "b": {"provider": "scripted", "reply": "second"},
            "c": {"provider": "scripted", "reply": "third"},
        },
        scorer={"kind": "scripted", "rewards": {"first": 1.0, "second": 3.0, "third": 2.0}},
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := matrix.lines()[1:] and matrix.lines():
        terminalreporter.section("faults met by the whole service")
        terminalreporter.write("\n".join(lines) + "\n")
    if cases.lines:
        terminalreporter.section("cases put to the API")
        terminalreporter.write("\n".join(cases.lines) + "\n")

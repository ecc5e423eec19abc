"""Who samples for a run from the command line: the rows are the same, wherever it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.star.problems import as_row
from tests.fakes.vllm import VLLMFake
from tests.star.conftest import Taught
from tests.star.test_command import SMALL, star
from tests.star.tiny import seven_or_eight

ROWS = ("generated.jsonl", "rationalized.jsonl", "rationales.jsonl")


@pytest.fixture
def given(tmp_path: Path, taught: Taught) -> list[str]:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(as_row(one)) + "\n" for one in seven_or_eight()[:60]))
    small = {**SMALL, "--iterations": "2", "--plateau": "-1"}
    options = [part for pair in small.items() for part in pair]
    return [str(path), "--base", str(taught("llama")), "--no-direct", *options]


def written(run: Path) -> dict[str, list[tuple[str, str]]]:
    """What was written in each file, and why it ended or was dropped."""
    return {
        f"{n}/{name}": [
            (row["text"], row.get("finish") or row["why_not"])
            for row in rows(run / f"iteration-{n}" / name)
        ]
        for n in (1, 2)
        for name in ROWS
    } | {
        f"{n}/test.jsonl": [
            (row["text"], row["verdict"]) for row in rows(run / f"iteration-{n}" / "test.jsonl")
        ]
        for n in (1, 2)
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def board(fake: VLLMFake) -> None:
    Path("starboard.toml").write_text(
        f'[members.vllm]\nprovider = "openai_compatible"\nbase_url = "{fake.base_url}/v1"\n'
        'model = "base"\napi_key_env = "VLLM_KEY"\ntrainable = true\n'
    )


async def test_a_host_writes_what_this_process_does(
    tmp_path: Path, given: list[str], taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(star, "run", *given, "--out", "here")
    async with VLLMFake(taught("llama")) as fake:
        monkeypatch.setenv("VLLM_KEY", str(fake.api_key))
        board(fake)
        there = ["--engine", "host", "--host", "vllm", "--concurrency", "4"]
        await asyncio.to_thread(star, "run", *given, "--out", "there", *there)
        adapters = [one.path for one in fake.loaded.values()][1:]
    assert adapters == [tmp_path / "there" / f"iteration-{n}" / "adapter" for n in (1, 2)]
    assert written(tmp_path / "there") == written(tmp_path / "here")
    manifests = [(tmp_path / run / "manifest.json").read_text() for run in ("here", "there")]
    assert manifests[0] == manifests[1]


async def test_a_host_that_loads_no_adapters_is_told_how_to(
    given: list[str], taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with VLLMFake(taught("llama"), updating=False) as fake:
        monkeypatch.setenv("VLLM_KEY", str(fake.api_key))
        board(fake)
        there = ["--out", "run", "--engine", "host", "--host", "vllm"]
        with pytest.raises(ConfigurationError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await asyncio.to_thread(star, "run", *given, *there)
    # It goes on here with what was written there.
    await asyncio.to_thread(star, "run", *given, "--out", "run")
    assert rows(Path("run/iteration-2/generated.jsonl"))[0]["by"].endswith("+ iteration-1")


def test_a_cluster_is_an_option(given: list[str]) -> None:
    pytest.importorskip("ray.data", reason="needs the extra ray")
    star("init", *given, "--out", "here")
    star("init", *given, "--out", "there", "--engine", "ray", "--workers", "1")
    star("sample", "here")
    star("sample", "there")
    found = [Path(run, "iteration-1/generated.jsonl").read_text() for run in ("here", "there")]
    assert found[0] == found[1]


def test_members_teach(given: list[str]) -> None:
    Path("starboard.toml").write_text(
        '[members.eight]\nprovider = "scripted"\nreply = "Plainly. The answer is 8."\n'
        '[members.silent]\nprovider = "scripted"\nreply = "The answer is 8."\ntrainable = false\n'
    )
    star("init", *given, "--out", "run", "--teacher", "eight")
    star("rationalize", "run")
    found = rows(Path("run/iteration-1/rationales.jsonl"))
    theirs = [one for one in found if one["by"] == "eight (scripted)"]
    assert {one["verdict"] for one in theirs} == {"right", "wrong"}
    with pytest.raises(ConfigurationError, match="silent cannot teach"):
        star("init", *given, "--out", "other", "--teacher", "silent")
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "host"], "go together"),
        (["--host", "vllm"], "go together"),
        (["--teacher", "nobody"], "nobody, a teacher, is no member"),
    ],
)
def test_what_is_missing_is_said(given: list[str], options: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        star("init", *given, "--out", "run", *options)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("nowhere", "no member is called nowhere: there are"),
        ("scripted", "scripted takes no adapters"),
        ("closed", r"what closed writes may not train a model.*\[members.closed\]"),
    ],
)
def test_a_host_that_cannot_serve_the_base_is_refused(
    given: list[str], host: str, told: str
) -> None:
    Path("starboard.toml").write_text(
        '[members.scripted]\nprovider = "scripted"\nreply = "The answer is 8."\n'
        '[members.closed]\nprovider = "openai_compatible"\nmodel = "m"\n'
        'base_url = "http://127.0.0.1:9/v1"\n'
    )
    with pytest.raises(ConfigurationError, match=told):
        star("init", *given, "--out", "run", "--engine", "host", "--host", host)
    assert not Path("run").exists()

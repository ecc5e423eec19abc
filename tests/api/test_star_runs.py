"""STaR's runs as the service tells of them: what their directories say, broken ones included."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api import create_app
from app.api.star_runs import read_runs
from app.settings import LocalSpec, Seat, Settings
from app.star.problems import carries
from app.star.report import results
from tests.serving import serve
from tests.star.test_report import BASE, EVIL, by_hand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@asynccontextmanager
async def showing(
    board: Settings, folder: Path | None, **values: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    ours = board.model_copy(update={"runs_dir": folder, **values})
    async with serve(create_app(ours)) as client:
        yield client


async def test_no_folder_and_an_empty_one_are_told_apart(scripted: Settings, folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "read.me").write_text("no run")
    for where, told in ((None, None), (folder, str(folder)), (folder / "no", str(folder / "no"))):
        async with showing(scripted, where) as client:
            found = (await client.get("/runs")).json()
            assert found == {"directory": told, "runs": [], "unreadable": []}
            assert (await client.get("/runs/notes")).status_code == 404


async def test_a_run_is_told_as_its_files_have_it(scripted: Settings, folder: Path) -> None:
    run = by_hand(folder / "first run", ("other.jsonl", carries(12)))
    found = results(run)
    async with showing(scripted, folder) as client:
        [summary] = (await client.get("/runs")).json()["runs"]
        document = (await client.get("/runs/first run")).json()
    best = found.measured[-1].test
    assert summary == {
        "name": "first run",
        "base": BASE,
        "source": "my <b>.jsonl",
        "iterations": 2,
        "best": {
            "model": "iteration 2",
            "accuracy": best["pass@1"],
            "low": best["interval"][0],
            "high": best["interval"][1],
        },
        "promoted": [1],
        "seats": [],
    }
    assert document.items() >= summary.items()
    assert [one["model"] for one in document["measured"]] == [one.name for one in found.measured]
    assert [one["test"]["accuracy"] for one in document["measured"]] == [
        one.test["pass@1"] for one in found.measured
    ]
    regressions = {one["model"]: one["regression"] for one in document["measured"]}
    assert regressions["base zero-shot"] is None
    assert regressions["iteration 1"]["accuracy"] == 0.123
    assert document["rationales"] == [
        {
            "number": number,
            "fates": {"generated": 1, "rationalized": 1, "wrong answer": 2, "a false step": 1},
        }
        for number in (1, 2)
    ]
    assert document["manifest"] == found.manifest
    assert any(one["text"].startswith(EVIL) for one in document["samples"])
    kinds = {one["kind"] for one in document["samples"]}
    assert {"Rationalized and kept", "Dropped for a false step", "Test problems, wrong"} <= kinds


async def test_a_run_that_has_only_begun_has_nothing_measured(
    scripted: Settings, folder: Path
) -> None:
    run = by_hand(folder / "run")
    for stage in ("base", "direct", "iteration-1", "iteration-2"):
        shutil.rmtree(run / stage)
    (run / "promoted.json").unlink()
    async with showing(scripted, folder) as client:
        [summary] = (await client.get("/runs")).json()["runs"]
        document = (await client.get("/runs/run")).json()
    assert (summary["best"], summary["iterations"], summary["promoted"]) == (None, 0, [])
    assert document["measured"] == document["samples"] == document["rationales"] == []


def test_a_seat_is_named_by_the_run_whose_adapter_it_is(folder: Path) -> None:
    by_hand(folder / "ours")
    by_hand(folder / "ours too")
    adapter = folder / "ours" / "iteration-2" / "adapter"
    spec = LocalSpec(provider="local", model="base", adapter=adapter)
    seats = [
        Seat("pupil", spec, None),
        Seat("empty", spec, "not named in board"),
        Seat("plain", LocalSpec(provider="local", model="base"), None),
    ]
    ours, others = read_runs(folder, seats).runs
    assert [(one.member, one.model) for one in ours.seats] == [("pupil", seats[0].model)]
    assert others.seats == []


@pytest.mark.parametrize(
    "name",
    ["none", "%2e%2e", "..%2fruns", "..%2F..%2Fetc", "run%5c..", "run%00", "notes", "x" * 300],
)
async def test_only_run_directories_of_the_folder_have_a_name(
    scripted: Settings, folder: Path, name: str
) -> None:
    by_hand(folder / "run")
    by_hand(folder.parent / "outside")
    (folder / "notes").mkdir()
    async with showing(scripted, folder) as client:
        for each in (name, "..%2foutside", str(folder.parent / "outside").replace("/", "%2f")):
            response = await client.get(f"/runs/{each}")
            assert response.status_code in (404, 422)


def _no_method(run: Path) -> None:
    (run / "manifest.json").write_text("{}")


def _half(run: Path) -> None:
    path = run / "iteration-1" / "evaluation.json"
    path.write_text(path.read_text()[:40])


def _a_row_too_many_fields(run: Path) -> None:
    with (run / "iteration-2" / "rationales.jsonl").open("a") as rows:
        rows.write('{"mood": "good"}\n')


def _no_problems(run: Path) -> None:
    shutil.rmtree(run / "problems")


def _no_number(run: Path) -> None:
    (run / "iteration-two").mkdir()


def _not_an_object(run: Path) -> None:
    (run / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "harm", [_no_method, _half, _a_row_too_many_fields, _no_problems, _no_number, _not_an_object]
)
async def test_a_broken_run_stands_beside_the_good_ones(
    scripted: Settings, folder: Path, harm: Callable[[Path], None]
) -> None:
    by_hand(folder / "good")
    harm(by_hand(folder / "bad"))
    async with showing(scripted, folder) as client:
        found = (await client.get("/runs")).json()
        bad, good = [await client.get(f"/runs/{name}") for name in ("bad", "good")]
    assert [one["name"] for one in found["runs"]] == ["good"]
    [broken] = found["unreadable"]
    assert broken["name"] == "bad"
    assert (bad.status_code, bad.headers["content-type"]) == (500, "application/problem+json")
    assert bad.json()["detail"] == broken["message"]
    assert good.status_code == 200

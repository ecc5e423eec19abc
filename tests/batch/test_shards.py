"""Batches on Ray, on a cluster of the command's own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data", reason="needs the extra ray")

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from app.batch.shards import Shard, plan
from app.errors import DataError
from tests.batch.test_local import REPLY, SOURCE, configure, each_once, stored, write
from tests.fakes.openai_compatible import OpenAICompatibleFake

ROWS, SHARD = 320, 20
OUT = Path("out")


def shards_there() -> list[Path]:
    return sorted(path for path in OUT.glob("part-*") if path.suffix != ".partial")


def written() -> list[dict[str, Any]]:
    return [json.loads(line) for path in shards_there() for line in path.read_text().splitlines()]


def below(process: asyncio.subprocess.Process, *names: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(name in " ".join(child.cmdline()) for name in names):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def alive(process: psutil.Process) -> bool:
    """Not one that has ended and waits for its parent to notice."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def command(*options: str, source: Path = SOURCE) -> asyncio.subprocess.Process:
    arguments = ["batch", str(source), str(OUT), "--engine", "ray", "--json", *options]
    starboard = Path(sys.executable).with_name("starboard")
    return await asyncio.create_subprocess_exec(
        starboard, *arguments, stdout=asyncio.subprocess.PIPE
    )


async def come_to(condition: Callable[[], object], process: asyncio.subprocess.Process) -> None:
    while not condition():
        assert process.returncode is None, "it ended before"
        await asyncio.sleep(0.02)


async def summary(process: asyncio.subprocess.Process) -> dict[str, Any]:
    said, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(said)
    return found


async def test_killed_workers_and_a_killed_command_cost_no_row_and_double_none(
    database_url: str,
) -> None:
    write(ROWS)
    options = ("--workers", "2", "--shard-rows", str(SHARD), "--concurrency", "4")
    async with OpenAICompatibleFake(api_key=None, delay_s=0.1) as fake:
        fake.models = ("m",)
        configure(database_url, fake.base_url)
        first = await command(*options)
        await come_to(lambda: len(shards_there()) >= 2, first)
        (killed, other) = below(first, "ray::MapWorker")
        killed.kill()
        await come_to(lambda: len(shards_there()) >= 6, first)
        assert other.is_running()
        theirs = below(first, "ray::MapWorker", "import drive", "raylet")
        assert len(theirs) >= 4
        first.kill()  # nobody is there any more to end what it started
        await first.communicate()
        async with asyncio.timeout(120):
            while any(alive(process) for process in theirs):
                await asyncio.sleep(0.1)
        there = {path: path.read_bytes() for path in shards_there()}
        assert 6 <= len(there) < ROWS // SHARD
        again = await command(*options)
        await come_to(lambda: len(shards_there()) > len(there), again)
        below(again, "ray::MapWorker")[0].kill()
        found = await summary(again)  # and nothing of Ray's on standard output
        asked = Counter(str(request.sent["messages"]) for request in fake.requests)
    assert {path: path.read_bytes() for path in there} == there
    assert (found["rows"], found["answered"]) == (ROWS, ROWS)
    rows = written()
    each_once(rows, ROWS)
    assert set(await stored(database_url)) == {row["answer"]["id"] for row in rows}
    assert len(asked) == ROWS
    # Only what was under way at a worker that died was asked twice.
    assert sum(asked.values()) - ROWS <= 4 * 4
    assert not Path("out.run").exists()


async def test_parquet_comes_in_and_goes_out_and_a_ceiling_is_shared_out(database_url: str) -> None:
    folder = Path("in")
    folder.mkdir()
    for number in range(2):
        rows = [
            {
                "id": f"{number}-{n}",
                "prompt": f"Question {number} {n}?",
                "max_tokens": 8,
                "tags": {"half": "a"} if n % 2 else None,
                "plan": {"samples": 2, "floor": None} if n == 3 else None,
            }
            for n in range(25)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number}.parquet", row_group_size=10)
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        configure(database_url, fake.base_url)
        with Path("starboard.toml").open("a") as file:
            file.write("[prices.member]\ninput_per_million = 1e3\noutput_per_million = 1e3\n")
        options = ("--workers", "2", "--shard-rows", "10")
        short = await command(*options, "--max-cost-usd", "0.6", source=folder)
        await short.communicate()
        assert short.returncode == 3
        bought = await stored(database_url)
        spent = sum(answer.cost_bound_usd or 0 for answer in bought.values())
        assert 0 < spent <= 0.6
        found = await summary(await command(*options, source=folder))
        assert len(fake.requests) == 52
    assert (found["rows"], found["answered"], found["cost_unknown"]) == (50, 50, 0)
    table = pq.read_table("out").to_pylist()
    assert [path.name for path in shards_there()] == [f"part-0000{n}.parquet" for n in range(6)]
    assert [row["index"] for row in table] == list(range(50))
    assert [row["id"] for row in table] == [f"{n}-{k}" for n in range(2) for k in range(25)]
    assert {row["reply"] for row in table} == {REPLY}
    answers = [json.loads(row["answer"]) for row in table]
    assert [len(answer["candidates"]) for answer in answers[2:5]] == [1, 2, 1]
    assert answers[1]["tags"] == {"half": "a"}
    assert len({answer["id"] for answer in answers}) == 50
    assert set(bought) <= {answer["id"] for answer in answers}


async def test_an_interrupted_command_goes_on_beside_another_app(database_url: str) -> None:
    write(60)
    Path("app").mkdir()
    Path("app/__init__.py").touch()
    options = ("--workers", "1", "--shard-rows", "10", "--concurrency", "2")
    async with OpenAICompatibleFake(api_key=None, delay_s=0.1) as fake:
        fake.models = ("m",)
        configure(database_url, fake.base_url)
        process = await command(*options)
        await come_to(shards_there, process)
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 130
        assert len(shards_there()) < 6
        assert (await summary(await command(*options)))["answered"] == 60
    each_once(written(), 60)


def lines_of(shards: list[Shard]) -> Iterator[tuple[int, int, bytes | None]]:
    for shard in shards:
        for place, line in enumerate(shard.lines(limit=100)):
            yield shard.number, shard.index + place, line


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 25])
def test_shards_hold_every_line_once(tmp_path: Path, rows: int) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"]
    for path in (paths[0], paths[2]):
        path.write_text("\n".join("x" * 101 if n == 7 else f"{path.name} {n}" for n in range(rows)))
    paths[1].write_text("")
    shards, read = plan(paths, 10)
    found = list(lines_of(shards))
    assert [index for _, index, _ in found] == list(range(2 * rows))
    texts = [None if n == 7 else f"{name}.jsonl {n}".encode() for name in "ac" for n in range(rows)]
    assert [line for _, _, line in found] == texts
    assert max(shard.rows for shard in shards) <= 10
    assert list(read) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    with pytest.raises(DataError, match=r"b\.jsonl holds no rows"):
        plan(paths[1:2], 10)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file"):
        plan([path], 10)

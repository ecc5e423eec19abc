"""`starboard batch` over many prompts, killed on the way: memory, speed, every row exactly once.

    python benchmarks/batch.py --rows 100000 --kills 2
    python benchmarks/batch.py --rows 10000 --engine ray

One OpenAI-compatible member is asked over HTTP at the tests' fake in a process of its own. The
scorer is the one for documentation, which looks a reply up: what is measured is the batch, the
call, the store and the output, not a reward model. With `--engine ray` one of two workers is killed
in place of the command. Prints a table, and writes JSON to `--out`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from processes import children, command, resident_mb
from results import keep, versions

from tests.fakes.openai_compatible import OpenAICompatibleFake

REPLY = "Air scatters blue light more than red, so blue reaches us from every side. " * 4
BOARD = """
database_url = "sqlite:///answers.db"
board = ["member"]
[members.member]
provider = "openai_compatible"
model = "m"
base_url = "{url}/v1"
[scorer]
kind = "scripted"
rewards = {{"{reply}" = 3.0}}
"""
SAMPLE_S = 1.0
Sample = tuple[float, float]
BELOW = {"import drive": "driver of Ray", "ray::MapWorker": "worker"}


def upstream(said: Connection, stop: Event, calls: Any) -> None:
    """The fake, until told to stop. `calls` counts its requests."""

    async def serve() -> None:
        async with OpenAICompatibleFake(api_key=None) as fake:
            fake.reply, fake.models = REPLY.strip(), ("m",)
            said.send(fake.base_url)
            while not stop.is_set():
                await asyncio.sleep(0.2)
                calls.value += len(fake.requests)
                fake.requests.clear()

    asyncio.run(serve())


@contextmanager
def serving() -> Iterator[tuple[str, Any]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    stop, calls = context.Event(), context.Value("q", 0)
    process = context.Process(target=upstream, args=(theirs, stop, calls))
    process.start()
    try:
        yield ours.recv(), calls
    finally:
        stop.set()
        process.join()


def write_prompts(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for number in range(rows):
            row = {"id": f"row-{number}", "prompt": f"Why is the sky blue? ({number})"}
            file.write(json.dumps(row | {"max_tokens": 128}) + "\n")


class Memory(threading.Thread):
    """Samples the resident memory of a command, and of the processes that do Ray's part of it:
    seconds since `begun` and MB, by what the process is and its number."""

    def __init__(self, pid: int, begun: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.begun = pid, begun
        self.samples: dict[str, list[Sample]] = {}

    def run(self) -> None:
        while self._sampled("command", self.pid):
            for pid in self._below():
                with suppress(FileNotFoundError, ProcessLookupError):
                    of = command(pid)
                    for name in (name for part, name in BELOW.items() if part in of):
                        self._sampled(name, pid)
            time.sleep(SAMPLE_S)

    def _below(self) -> list[int]:
        with suppress(FileNotFoundError, ProcessLookupError):
            return children(self.pid)
        return []

    def _sampled(self, name: str, pid: int) -> bool:
        """False if it has ended."""
        resident = 0.0
        with suppress(FileNotFoundError, ProcessLookupError):
            resident = resident_mb(pid, alone=True)
        if resident:
            sample = time.monotonic() - self.begun, resident
            self.samples.setdefault(f"{name} {pid}", []).append(sample)
        return bool(resident)


class Rows:
    """Counts the rows of an output that grows, in one file or in shards, reading each once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.read: dict[Path, int] = {}
        self.count = 0

    def written(self) -> int:
        one = [self.out] if self.out.is_file() else []
        for path in sorted(self.out.glob("part-*.jsonl")) or one:
            if path.stat().st_size > self.read.get(path, 0):
                with path.open("rb") as file:
                    file.seek(self.read.get(path, 0))
                    new = file.read()
                self.read[path] = self.read.get(path, 0) + len(new)
                self.count += new.count(b"\n")
        return self.count


def check(source: Path, out: Path, database: Path, rows: int) -> dict[str, object]:
    """Every row once, in its place, with its own id and answer; and each of these stored once."""
    files = sorted(out.glob("part-*.jsonl")) if out.is_dir() else [out]
    answers: set[str] = set()
    number = 0
    with source.open() as asked:
        for file in files:
            with file.open() as lines:
                for line in lines:
                    row, given = json.loads(line), json.loads(next(asked))
                    assert row["index"] == number, (row["index"], number)
                    assert row["id"] == given["id"]
                    assert row["answer"]["answer"] == REPLY.strip()
                    answers.add(row["answer"]["id"])
                    number += 1
    assert number == len(answers) == rows, (number, len(answers), rows)
    with sqlite3.connect(database) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    return {"rows": number, "distinct_answers": len(answers), "stored": stored}


def median_mb(samples: list[Sample]) -> float:
    return round(statistics.median(resident for _, resident in samples), 1)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    source, out, rows = folder / "in.jsonl", folder / given.output, given.rows
    write_prompts(source, rows)
    options = ["--concurrency", str(given.concurrency), "--json"]
    if given.engine == "ray":
        options += ["--engine", "ray", "--workers", "2", "--shard-rows", str(given.shard_rows)]
    command = [sys.executable, "-m", "app.cli", "batch", str(source), str(out), *options]
    kills = [rows * (k + 1) // (given.kills + 1) for k in range(given.kills)]
    begun, parts = time.monotonic(), dict[str, list[Sample]]()
    with serving() as (url, calls):
        config = folder / "starboard.toml"
        config.write_text(BOARD.format(url=url, reply=REPLY.strip()))
        environment = {**os.environ, "STARBOARD_CONFIG": str(config)}
        killed: list[int] = []
        while True:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
            memory = Memory(process.pid, begun)
            memory.start()
            there = Rows(out)
            while process.poll() is None:
                time.sleep(0.2)
                if kills and there.written() >= kills[0]:
                    kills.pop(0)
                    kill(process, given.engine)
                    killed.append(there.written())
            parts |= memory.samples
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, process.returncode
        assert process.stdout
        summary = json.loads(process.stdout.read())
        took_s = time.monotonic() - begun
        time.sleep(1)  # the fake counts
        asked = calls.value
    found = check(source, out, folder / "answers.db", rows)
    assert summary["answered"] == rows
    return {
        "engine": given.engine,
        "concurrency": given.concurrency,
        "killed_at": killed,
        "seconds": round(took_s, 1),
        "rows_per_s": round(rows / took_s, 1),
        "calls": asked,
        **found,
        "output_mb": round(size_of(out) / 1e6, 1),
        "rss_mb": {name: spread(samples) for name, samples in parts.items()},
        "samples": parts,
    }


def kill(process: subprocess.Popen[bytes], engine: str) -> None:
    """kill -9 the command, or one of its workers."""
    if engine == "local":
        process.kill()
        process.wait()
        return
    workers = [one for one in children(process.pid) if "ray::MapWorker" in command(one)]
    assert len(workers) == 2, workers
    os.kill(workers[0], signal.SIGKILL)


def size_of(out: Path) -> int:
    return sum(file.stat().st_size for file in ([out] if out.is_file() else out.iterdir()))


def spread(samples: list[Sample]) -> dict[str, float]:
    """The medians of the tenths of a process's life, the first left out: it is still opening."""
    tenth = max(1, len(samples) // 10)
    second, last = samples[tenth : 2 * tenth] or samples, samples[-tenth:]
    most = max(resident for _, resident in samples)
    return {"early": median_mb(second), "late": median_mb(last), "most": round(most, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of the input")
    parser.add_argument("--kills", type=int, default=2, help="spread over the rows")
    parser.add_argument(
        "--concurrency", type=int, default=32, help="rows at once, of each worker on Ray"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="one process, or two workers"
    )
    parser.add_argument("--shard-rows", type=int, default=256, help="on Ray")
    parser.add_argument(
        "--folder", type=Path, help="where to work; one that is removed, if not named"
    )
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    given = parser.parse_args()
    given.output = "out" if given.engine == "ray" else "out.jsonl"
    with tempfile.TemporaryDirectory(prefix="batch-") as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(given, folder)
    if given.out:
        keep(given.out, found, versions("starboard"))
    for name, value in found.items():
        if name != "samples":
            print(f"{name:18} {value}")


if __name__ == "__main__":
    main()

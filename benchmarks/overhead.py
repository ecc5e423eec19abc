"""What the service costs beside its upstreams: CPU per answer, latency it adds, memory.

    python benchmarks/overhead.py [--litellm .venv-litellm/bin/litellm] [--out overhead.json]

Three contenders take turns on the same fake upstreams, each in a process of its own:

- `starboard`: three members through the official SDKs, three scores, checks, the store;
- `bare`: FastAPI and aiohttp doing the same six calls and nothing else (benchmarks/bare.py);
- `litellm`: LiteLLM's proxy asking the three members at once, without scores. Left out unless
  `--litellm` names its command; `pip install 'litellm[proxy]'` into a virtual environment of its
  own makes it.

Every round measures each contender once, so that ratios are between neighbours in time; what is
stated is the median of the rounds' ratios, with the least and the greatest. Added latency is the
median at the client less that of the same calls alone. benchmarks/report.py
makes the table and the picture of docs/benchmarks.md from the file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
from bare import fan_out
from processes import cpu_s, resident_mb
from report import overhead_table
from results import keep, versions
from rich.progress import Progress
from upstreams import KEY

HERE = Path(__file__).parent
PROMPT = "Why is the sky blue?"
MEMBERS = ("claude", "gemma", "mistral")
DIRECT = 30
LIBRARIES = ("anthropic", "google-genai", "aiohttp", "fastapi", "uvicorn", "sqlalchemy")


@dataclass(frozen=True)
class Measured:
    """CPU milliseconds of the service's processes per answer; seconds of an answer at its client;
    megabytes resident at the end."""

    cpu_ms: float
    median_s: float
    p95_s: float
    resident_mb: float


@dataclass(frozen=True)
class Direct:
    """The median seconds of the calls alone, made by the benchmark itself one fan-out after the
    other: of three members with their scores, and without."""

    scored_s: float
    unscored_s: float


@dataclass(frozen=True)
class Cell:
    """What was measured with upstreams of one delay and so many clients: of each round, by
    contender."""

    delay_s: float
    clients: int
    direct: Direct
    rounds: list[dict[str, Measured]]


@dataclass(frozen=True)
class Service:
    """A running contender, and how it is asked."""

    url: str
    body: Mapping[str, Any]
    process: subprocess.Popen[bytes]
    log: Path


Starter = Callable[[Path, Mapping[str, str]], "Service"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--litellm", type=Path, help="LiteLLM's command")
    parser.add_argument("--rounds", type=int, default=7, help="of each cell of the table")
    parser.add_argument(
        "--answers",
        type=int,
        default=200,
        help="in each round, of each contender; at most 40 a client where upstreams are slow",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 128], help="at once")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.2], help="seconds")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args()
    command = given.litellm and given.litellm.absolute()  # the service has a folder of its own
    contenders: dict[str, Starter] = {"starboard": starboard, "bare": bare}
    if command:
        contenders["litellm"] = litellm(command)
    found: list[Cell] = []
    with Progress(transient=True) as progress:
        rounds = len(given.delays) * len(given.clients) * given.rounds
        task = progress.add_task("measuring", total=rounds)
        for delay in given.delays:
            with running(contenders, "--delay", str(delay)) as (upstreams, services):
                for clients in given.clients:
                    # One client alone would wait for minutes where upstreams take their time.
                    patience = 40 * clients if delay else given.answers
                    answers = max(min(given.answers, patience), 2 * clients)
                    cell = Cell(delay, clients, asyncio.run(ask_directly(upstreams)), [])
                    for one in take_turns(services, given.rounds, answers, clients):
                        cell.rounds.append(one)
                        progress.advance(task)
                    found.append(cell)
    cells = [asdict(cell) for cell in found]
    print(overhead_table(cells))
    if given.out:
        of_litellm = versions("litellm", of=command.parent) if command else {}
        keep(given.out, {"cells": cells}, {**versions(*LIBRARIES), **of_litellm})


async def ask_directly(upstreams: Mapping[str, str]) -> Direct:
    async with aiohttp.ClientSession() as http:

        async def median_s(*, scored: bool) -> float:
            took = []
            for _ in range(DIRECT):
                began = time.perf_counter()
                await fan_out(http, upstreams, PROMPT, scored=scored)
                took.append(time.perf_counter() - began)
            return statistics.median(took)

        await fan_out(http, upstreams, PROMPT)
        return Direct(await median_s(scored=True), await median_s(scored=False))


def take_turns(
    services: Mapping[str, Service], rounds: int, answers: int, clients: int
) -> Iterator[dict[str, Measured]]:
    """Measure each service once a round, in turn forwards and backwards."""
    for number in range(rounds):
        order = list(services)[:: -1 if number % 2 else 1]
        measured = {name: asyncio.run(measure(services[name], answers, clients)) for name in order}
        yield {name: measured[name] for name in services}


async def measure(service: Service, answers: int, clients: int) -> Measured:
    """Ask so often, so many at a time; a few beforehand are not counted. The clients begin one
    after the other within the time of one answer: in step they would wait for each other."""
    left = iter(range(answers))
    took: list[float] = []

    async def client(http: aiohttp.ClientSession, after_s: float) -> None:
        await asyncio.sleep(after_s)
        for _ in left:
            began = time.perf_counter()
            await ask(http, service)
            took.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        began = time.perf_counter()
        await asyncio.gather(*(ask(http, service) for _ in range(clients)))
        apart_s = (time.perf_counter() - began) / clients
        before = cpu_s(service.process.pid)
        await asyncio.gather(*(client(http, n * apart_s) for n in range(clients)))
        spent = cpu_s(service.process.pid) - before
    took.sort()
    return Measured(
        cpu_ms=1000 * spent / answers,
        median_s=statistics.median(took),
        p95_s=took[int(0.95 * (len(took) - 1))],
        resident_mb=resident_mb(service.process.pid),
    )


async def ask(http: aiohttp.ClientSession, service: Service) -> None:
    async with http.post(service.url, json=service.body) as reply:
        said = await reply.read()
        if reply.status != 200:
            raise SystemExit(f"{service.url}: {reply.status} {said[:500]!r}")


@contextmanager
def running(
    contenders: Mapping[str, Starter], *options: str
) -> Iterator[tuple[Mapping[str, str], dict[str, Service]]]:
    """Upstreams with these options, and the contenders on them, ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstreams = stack.enter_context(serving_upstreams(*options))
        services = {name: start(folder, upstreams) for name, start in contenders.items()}
        for service in services.values():
            stack.callback(service.process.wait)
            stack.callback(service.process.terminate)
        for name, service in services.items():
            asyncio.run(until_ready(name, service))
        yield upstreams, services


@contextmanager
def serving_upstreams(*options: str) -> Iterator[dict[str, str]]:
    command = [sys.executable, str(HERE / "upstreams.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


async def until_ready(name: str, service: Service) -> None:
    until = time.monotonic() + 120
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < until:
            if service.process.poll() is not None:
                break
            try:
                await ask(http, service)
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.2)
            else:
                return
    raise SystemExit(f"{name} did not become ready; {service.log.read_text()[-2000:]}")


def starboard(
    folder: Path,
    upstreams: Mapping[str, str],
    board: Mapping[str, str] | None = None,
    database: str = "overhead.db",
) -> Service:
    """Three vendors' members, or with `board` members of one OpenAI-compatible host."""
    port = free_port()
    lines = [
        f"board = {json.dumps(list(board or MEMBERS))}",
        f"database_url = 'sqlite:///{folder / database}'",
        "self_check = false",
        "[scorer]",
        "kind = 'nvidia'",
        "requests_per_minute = 10000000",
    ]
    for name, model in (board or {}).items():
        lines += [f"[members.{name}]", "provider = 'openai_compatible'", f"model = '{model}'"]
        lines += [f"base_url = '{upstreams['openai']}/v1'", "api_key_env = 'BENCH_KEY'"]
    (folder / f"{port}.toml").write_text("\n".join(lines))
    environment = {
        "STARBOARD_CONFIG": str(folder / f"{port}.toml"),
        "STARBOARD_LOG_LEVEL": "warning",
        "ANTHROPIC_API_KEY": KEY,
        "GEMINI_API_KEY": KEY,
        "MISTRAL_API_KEY": KEY,
        "NVIDIA_API_KEY": KEY,
        "BENCH_KEY": KEY,
        "ANTHROPIC_BASE_URL": upstreams["anthropic"],
        "GOOGLE_GEMINI_BASE_URL": upstreams["google"],
        "MISTRAL_BASE_URL": upstreams["mistral"],
        "NVIDIA_BASE_URL": upstreams["nvidia"],
    }
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/answer"
    return Service(url, {"prompt": PROMPT}, *started(command, environment, folder))


def bare(folder: Path, upstreams: Mapping[str, str]) -> Service:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "bare:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    environment = {"UPSTREAMS": json.dumps(upstreams)}
    url = f"http://127.0.0.1:{port}/answer"
    return Service(url, {"prompt": PROMPT}, *started(command, environment, folder))


def litellm(command: Path) -> Starter:
    def start(folder: Path, upstreams: Mapping[str, str]) -> Service:
        port = free_port()
        rows = {
            "claude": ("anthropic/claude-sonnet-5-5", upstreams["anthropic"]),
            "gemma": ("gemini/gemma-3-27b-it", f"{upstreams['google']}/v1beta"),
            "mistral": ("mistral/mistral-large-latest", f"{upstreams['mistral']}/v1"),
        }
        models = [
            {
                "model_name": name,
                "litellm_params": {"model": model, "api_base": url, "api_key": KEY},
            }
            for name, (model, url) in rows.items()
        ]
        (folder / "litellm.yaml").write_text(json.dumps({"model_list": models}))  # JSON is YAML
        line = [str(command), "--config", "litellm.yaml", "--port", str(port)]
        body = {
            "model": ",".join(rows),
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 512,
        }
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return Service(url, body, *started(line, environment, folder))

    return start


def started(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    """The process, and the file in which all that it says can be read. It writes to a pipe, which
    is emptied here: what becomes of its own files is not to concern its log."""
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    log.touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        command,
        env={**kept, **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,  # read what is there, not until a buffer is full
    )
    threading.Thread(target=_empty, args=(process.stdout, log), daemon=True).start()
    return process, log


def _empty(pipe: IO[bytes], into: Path) -> None:
    with pipe, into.open("wb", buffering=0) as out:
        shutil.copyfileobj(pipe, out)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()

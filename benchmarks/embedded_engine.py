"""The engine inside the service beside llama.cpp's own server, from the same package.

    python benchmarks/embedded_engine.py [--rounds 5] [--out docs/benchmarks/embedded-engine.json]

`engine` is app/providers/embedded.py asked in its own process. `server` is `xllamacpp.Server` with
the same parameters in a process of its own, asked over HTTP by app/providers/openai_compatible.py,
as an operator would seat it. Same model file, slots and threads; the same prompts, greedily, no two
alike, so that neither has one in its cache. In every round both answer the same prompts, the order
changing, so that ratios are between neighbors in time; stated are the medians over rounds with the
least and the greatest. The first token is timed as a reply of one token. CPU and memory are of
all processes that it takes: the engine's one, or server and client.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, get_args

from processes import cpu_s, resident_mb
from report import engine_table
from results import keep, versions
from rich.progress import Progress

from app.domain import Completion, Message, Prompt
from app.model_files import ModelName, model_path
from app.providers import Provider
from app.providers.embedded import EmbeddedProvider, Engine, default_threads
from app.providers.http import open_http
from app.providers.openai_compatible import OpenAICompatibleProvider

Contender = Literal["engine", "server"]
THINGS = ("river", "clock", "bridge", "candle", "garden", "engine", "letter", "mirror")
MODEL: ModelName = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Load:
    """What both are given. `requests` is for each client, `context_tokens` for each slot."""

    threads: int
    slots: int
    context_tokens: int
    tokens: int
    requests: int


@dataclass(frozen=True)
class Measured:
    """One contender in one round: tokens per second of wall time, CPU milliseconds per token,
    seconds to a reply of one token, megabytes resident."""

    tokens_per_s: float
    cpu_ms_per_token: float
    first_token_s: float
    resident_mb: float
    texts: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--tokens", type=int, default=48, help="the most in a reply")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args()
    load = Load(given.threads, 4, 1024, given.tokens, given.requests)
    busy = os.getloadavg()[0]
    cells: dict[int, list[dict[Contender, Measured]]] = {}
    with ExitStack() as stack, Progress(transient=True) as progress:
        task = progress.add_task("measuring", total=2 * given.rounds * len(given.clients))
        asking = {name: stack.enter_context(running(name, load)) for name in get_args(Contender)}
        for clients in given.clients:
            rounds = cells.setdefault(clients, [])
            for number in range(given.rounds):
                order = [*asking] if number % 2 else [*asking][::-1]
                found = {}
                for name in order:
                    found[name] = asking[name](clients, len(rounds))
                    progress.advance(task)
                rounds.append(found)
    found = {"load": busy, "given": asdict(load), "cells": as_json(cells)}
    print(engine_table(found))
    if given.out:
        keep(given.out, found, versions("starboard", "xllamacpp"))


@contextmanager
def running(name: Contender, load: Load) -> Any:
    """A contender in a process of its own; yields what measures one round of it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=contend, args=(name, load, theirs))
    process.start()

    def measured(clients: int, number: int) -> Measured:
        ours.send((clients, number))
        found: Measured = ours.recv()
        return found

    try:
        yield measured
    finally:
        ours.send(None)
        process.join()


def contend(name: Contender, load: Load, told: Connection) -> None:
    match name:
        case "engine":
            asyncio.run(engine(load, told))
        case "server":
            asyncio.run(client(load, told))


async def engine(load: Load, told: Connection) -> None:
    open_ = Engine(
        model_path(MODEL, Path()),
        threads=load.threads,
        slots=load.slots,
        context_tokens=load.context_tokens,
    )
    try:
        seat = EmbeddedProvider("engine", MODEL, open_)
        await serve_rounds(seat, load, told)
    finally:
        open_.close()


async def client(load: Load, told: Connection) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(load, theirs))
    process.start()
    http = open_http()
    try:
        address = await asyncio.to_thread(ours.recv)
        seat = OpenAICompatibleProvider("server", MODEL, f"{address}/v1", None, http)
        await serve_rounds(seat, load, told)
    finally:
        await http.aclose()
        ours.send(None)
        process.join()


def serve(load: Load, told: Connection) -> None:
    """llama.cpp's server, until told to stop, with what `Engine` gives its own."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path(MODEL, Path()))
    params.n_parallel = load.slots
    params.n_ctx = load.slots * load.context_tokens
    params.cpuparams.n_threads = load.threads
    params.cpuparams_batch.n_threads = load.threads
    params.verbosity = 0
    params.ui = False
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    told.send(server.listening_address)
    told.recv()


async def serve_rounds(seat: Provider, load: Load, told: Connection) -> None:
    await seat.complete(asked("warm up", 8))
    while (said := await asyncio.to_thread(told.recv)) is not None:
        clients, number = said
        told.send(await one_round(seat, load, clients, number))


async def one_round(seat: Provider, load: Load, clients: int, number: int) -> Measured:
    pid = os.getpid()  # the server is its child

    async def ask(client: int, tokens: int) -> list[tuple[float, Completion]]:
        said = []
        for turn in range(load.requests):
            thing = THINGS[(client + turn) % len(THINGS)]
            about = f"No. {number}.{clients}.{client}.{turn}.{tokens}: tell me about a {thing}."
            began = time.perf_counter()
            completion = await seat.complete(asked(about, tokens))
            said.append((time.perf_counter() - began, completion))
        return said

    firsts = await asyncio.gather(*(ask(client, 1) for client in range(clients)))
    cpu, began = cpu_s(pid), time.perf_counter()
    replies = await asyncio.gather(*(ask(client, load.tokens) for client in range(clients)))
    wall, cpu = time.perf_counter() - began, cpu_s(pid) - cpu
    completions = [completion for of_client in replies for _, completion in of_client]
    tokens = sum(c.usage.output_tokens for c in completions if c.usage)
    return Measured(
        tokens / wall,
        1000 * cpu / tokens,
        statistics.median(took for of_client in firsts for took, _ in of_client),
        resident_mb(pid),
        tuple(c.text for c in completions),
    )


def asked(text: str, tokens: int) -> Prompt:
    return Prompt((Message("user", text),), max_tokens=tokens, temperature=0.0)


def as_json(cells: Mapping[int, Sequence[Mapping[Contender, Measured]]]) -> list[Mapping[str, Any]]:
    return [
        {
            "clients": clients,
            "rounds": [{name: asdict(m) for name, m in one.items()} for one in rounds],
        }
        for clients, rounds in cells.items()
    ]


if __name__ == "__main__":
    main()

"""Throughput of the local scorer: one by one, micro-batched, and the library's own pipeline.

    python benchmarks/micro_batching.py                       # 64 requests, 9 repetitions
    python benchmarks/micro_batching.py --threads 2

A random Llama with a scalar head scores replies of mixed length (log-normal, seeded; a token is a
byte). Four ways, on the same files, in the same run, in turn at each repetition:

    one by one     each request waits for the one before it
    micro-batched  all requests at once
    pipeline       transformers' `text-classification` over the rendered texts, offline: in
                   the order given, and sorted by length beforehand, which only an offline job
                   can do; each with the best of several batch sizes

A pipeline has no chat template, queue or event loop; its texts are rendered before the clock
starts. Ours render and tokenize within the measured time.

What batching gains depends on what a call costs besides arithmetic: a GPU spends most of a call
of one short text on starting kernels, a CPU core on arithmetic, which batching cannot save. Hence
two loads: deep and narrow with short replies, where the fixed cost of a call prevails as on a GPU,
and shallow and wide with longer ones, where arithmetic does. The share of the fixed cost (the time
of a call of hardly any text over that of a median one) is measured and printed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import tempfile
import time
import timeit
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import pipeline
from transformers.utils import logging

from app.domain import Completion, Message, Prompt, ScalarReward
from app.scorers.local import LocalScorer, open_local_scorer
from app.scorers.reading import Reading, messages
from tests.scorers.tiny import save_decoder

PROMPT = Prompt((Message("user", "Why blue?"),))
BATCH_SIZES = (8, 16, 64)
TOLERANCE = 1e-3

Way = Callable[[], Awaitable[list[float]]]


@dataclass(frozen=True)
class Load:
    """A model's shape, and the median and the longest reply in tokens."""

    hidden: int
    layers: int
    median: int
    longest: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.hidden} wide"


LOADS = (Load(16, 28, 24, 96), Load(256, 4, 90, 380))


@dataclass
class Timings:
    """Seconds of each repetition: on the wall, and of the CPU over all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(
        f"{arguments.requests} requests, torch threads: {arguments.threads}, median of"
        f" {arguments.repetitions}\n"
    )
    print("| load | way | requests/s | against one by one | CPU ms/request | wall s, all |")
    print("|---|---|---|---|---|---|")
    notes = []
    for load in LOADS:
        replies = mixed_replies(arguments.requests, load)
        with tempfile.TemporaryDirectory() as folder:
            save_decoder(Path(folder), hidden=load.hidden, layers=load.layers)
            timings, fixed = asyncio.run(measure(folder, replies, arguments.repetitions))
        show(load, timings, len(replies))
        lengths = sorted(map(len, replies))
        notes.append(
            f"{load}: replies of {lengths[0]}-{lengths[-1]} tokens, median"
            f" {statistics.median(lengths):.0f}; fixed share of a call {fixed:.0%}"
        )
    print("", *notes, sep="\n")


def mixed_replies(count: int, load: Load) -> list[str]:
    """Words up to log-normal lengths, as chat replies have. A character is a token."""
    chance = random.Random(7)
    words = ["the", "light", "of", "day", "is", "scattered", "by", "air", "and", "a", "blue", "sky"]
    lengths = (load.median * math.exp(chance.gauss(0, 0.7)) for _ in range(count))
    return [
        " ".join(chance.choices(words, k=load.longest))[: min(load.longest, max(4, round(length)))]
        for length in lengths
    ]


def fixed_share(scorer: LocalScorer, replies: list[str]) -> float:
    """Time of a call of one token over that of the median reply, fastest of several each."""
    middle = sorted(replies, key=len)[len(replies) // 2]
    median = scorer.reader.read(PROMPT, Completion(middle, "stop", "m"))
    one = replace(median, ids=median.ids[:1])

    def fastest(reading: Reading) -> float:
        return min(timeit.repeat(lambda: scorer.batcher.run([reading]), number=1, repeat=15))

    return fastest(one) / fastest(median)


async def measure(
    folder: str, replies: list[str], repetitions: int
) -> tuple[dict[str, Timings], float]:
    async with open_local_scorer(folder, resolution=0.1, device="cpu") as scorer:
        ways = {**ours(scorer, replies), **the_librarys(scorer, folder, replies)}
        expected = await ways["one by one"]()
        for name, way in ways.items():  # the warm-up, and a check that all do the same work
            found = await way()
            worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            assert worst < TOLERANCE, f"{name} is off by {worst:.2g}"
        timings = {name: Timings() for name in ways}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for _ in progress.track(range(repetitions), description=folder):
                for name, way in ways.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    await way()
                    timings[name].cpu.append(time.process_time() - cpu)
                    timings[name].wall.append(time.perf_counter() - wall)
        return timings, fixed_share(scorer, replies)


def ours(scorer: LocalScorer, replies: list[str]) -> dict[str, Way]:
    async def reward(reply: str) -> float:
        outcome = (await scorer.score(PROMPT, Completion(reply, "stop", "m"))).outcome
        assert isinstance(outcome, ScalarReward)
        return outcome.value

    async def one_by_one() -> list[float]:
        return [await reward(reply) for reply in replies]

    async def batched() -> list[float]:
        return list(await asyncio.gather(*map(reward, replies)))

    return {"one by one": one_by_one, "micro-batched": batched}


def the_librarys(scorer: LocalScorer, folder: str, replies: list[str]) -> dict[str, Way]:
    classify: Any = pipeline("text-classification", model=folder, device="cpu")
    texts = [
        scorer.reader.tokenizer.apply_chat_template(
            messages(PROMPT, reply, takes_system=True), tokenize=False
        )
        for reply in replies
    ]
    by_length = sorted(range(len(texts)), key=lambda n: -len(texts[n]))

    def way(batch_size: int, order: list[int]) -> Way:
        async def run() -> list[float]:
            rows = classify(
                [texts[n] for n in order], batch_size=batch_size, function_to_apply="none"
            )
            found = {n: float(row["score"]) for n, row in zip(order, rows, strict=True)}
            return [found[n] for n in range(len(texts))]

        return run

    given = list(range(len(texts)))
    return {
        f"pipeline, {name}, batch_size={size}": way(size, order)
        for name, order in (("as given", given), ("sorted", by_length))
        for size in (1, *BATCH_SIZES)
        if size > 1 or order is given
    }


def show(load: Load, timings: dict[str, Timings], requests: int) -> None:
    base = statistics.median(timings["one by one"].wall)
    for name, timing in timings.items():
        wall = statistics.median(timing.wall)
        cpu = statistics.median(timing.cpu)
        every = ", ".join(f"{value:.2f}" for value in sorted(timing.wall))
        print(
            f"| {load} | {name} | {requests / wall:.0f} | {base / wall:.2f} x |"
            f" {1000 * cpu / requests:.1f} | {every} |"
        )


if __name__ == "__main__":
    main()

"""CPU of one outgoing call by each adapter, beside that of a bare aiohttp call.

    python benchmarks/calls.py [--rounds 7] [--calls 320]

The upstreams are the tests' fakes, in a process of their own. Every round measures each adapter
once, 16 calls at a time; a ratio is to the bare call of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import aiohttp
from overhead import PROMPT, serving_upstreams
from upstreams import KEY, REPLY

from app.domain import Completion, Message, Prompt
from app.providers.anthropic import open_anthropic
from app.providers.google import open_google
from app.providers.http import Http, open_http
from app.providers.mistral import MistralProvider
from app.providers.openai_compatible import OpenAICompatibleProvider
from app.scorers.nvidia import NvidiaScorer, RateLimit

Call = Callable[[], Awaitable[object]]

CLIENTS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=320, help="in each round, by each adapter")
    given = parser.parse_args()
    with serving_upstreams() as upstreams:
        took = asyncio.run(measure(upstreams, given.rounds, given.calls))
    print(f"{'':8} {'CPU ms':>7} {'least':>7}   of the bare call's")
    for name, rounds in took.items():
        ratios = sorted(one / bare for one, bare in zip(rounds, took["bare"], strict=True))
        spread = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        print(f"{name:8} {statistics.median(rounds):7.3f} {min(rounds):7.3f}   {spread}")


async def measure(upstreams: Mapping[str, str], rounds: int, calls: int) -> dict[str, list[float]]:
    """CPU milliseconds per call of this process: of each round, by adapter."""
    http = open_http()
    async with aiohttp.ClientSession() as session:
        kinds = {"bare": bare(session, upstreams["openai"]), **adapters(http, upstreams)}
        took: dict[str, list[float]] = {name: [] for name in kinds}
        for call in kinds.values():
            await spent_s(call, 4 * CLIENTS)
        for _ in range(rounds):
            for name, call in kinds.items():
                took[name].append(1000 * await spent_s(call, calls) / calls)
    await http.aclose()
    return took


def bare(session: aiohttp.ClientSession, url: str) -> Call:
    turns = [{"role": "user", "content": PROMPT}]
    body = {"model": "m0", "messages": turns, "max_tokens": 512}
    headers = {"Authorization": f"Bearer {KEY}"}

    async def call() -> object:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
            return (await reply.json())["choices"][0]["message"]["content"]

    return call


def adapters(http: Http, upstreams: Mapping[str, str]) -> dict[str, Call]:
    prompt = Prompt((Message("user", PROMPT),))
    providers = (
        OpenAICompatibleProvider("host", "m0", f"{upstreams['openai']}/v1", KEY, http),
        MistralProvider("mistral", "mistral-large-latest", f"{upstreams['mistral']}/v1", KEY, http),
        open_anthropic(
            "claude", "claude-sonnet-5-5", api_key=KEY, base_url=upstreams["anthropic"], http=http
        ),
        open_google(
            "gemma", "gemma-3-27b-it", api_key=KEY, base_url=upstreams["google"], http=http
        ),
    )
    scorer = NvidiaScorer(
        "nvidia/nemotron-4-340b-reward",
        f"{upstreams['nvidia']}/v1",
        KEY,
        resolution=0.1,
        rate_limit=RateLimit(10**9),
        http=http,
    )
    scored = Completion(4 * REPLY, "stop", "m0")
    completing = {one.name: partial(one.complete, prompt) for one in providers}
    return {**completing, "nvidia": partial(scorer.score, prompt, scored)}


async def spent_s(call: Call, calls: int) -> float:
    left = iter(range(calls))

    async def client() -> None:
        for _ in left:
            await call()

    before = time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return time.process_time() - before


if __name__ == "__main__":
    main()

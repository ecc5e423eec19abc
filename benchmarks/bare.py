"""The limit that overhead is measured against: the least that asks three members and scores three
replies. FastAPI and aiohttp alone; no checks, no store, no retries, no evidence.

    UPSTREAMS="$(...)" uvicorn --app-dir benchmarks bare:app

`UPSTREAMS` is the line that benchmarks/upstreams.py prints.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from upstreams import KEY

WEIGHTS = {
    "helpfulness": 0.3,
    "correctness": 0.74,
    "coherence": 0.46,
    "complexity": 0.47,
    "verbosity": -0.33,
}
HEADERS = {"Authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    upstreams = json.loads(os.environ["UPSTREAMS"])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield {"http": http, "upstreams": upstreams}


app = FastAPI(lifespan=lifespan)


@app.post("/answer")
async def answer(request: Request) -> dict[str, Any]:
    asked, state = await request.json(), request.state
    members = asked.get("members", 3)
    candidates = await fan_out(state.http, state.upstreams, asked["prompt"], members)
    best = max(candidates, key=lambda one: float(one["reward"]))
    return {"answer": best["text"], "candidates": candidates}


async def fan_out(
    http: aiohttp.ClientSession,
    upstreams: Mapping[str, str],
    prompt: str,
    members: int = 3,
    *,
    scored: bool = True,
) -> list[dict[str, Any]]:
    """The members' replies, each with its scores."""
    turns = [{"role": "user", "content": prompt}]

    async def member(number: int) -> dict[str, Any]:
        url = f"{upstreams['openai']}/v1/chat/completions"
        body = {"model": f"m{number}", "messages": turns, "max_tokens": 512}
        async with http.post(url, json=body, headers=HEADERS) as reply:
            text = (await reply.json())["choices"][0]["message"]["content"]
        if not scored:
            return {"text": text}
        url = f"{upstreams['nvidia']}/v1/chat/completions"
        said = [*turns, {"role": "assistant", "content": text}]
        body = {"model": "nvidia/nemotron-4-340b-reward", "messages": said}
        async with http.post(url, json=body, headers=HEADERS) as reply:
            tokens = (await reply.json())["choices"][0]["logprobs"]["content"]
        scores = {one["token"]: one["logprob"] for one in tokens}
        reward = sum(weight * scores[name] for name, weight in WEIGHTS.items())
        return {"text": text, "scores": scores, "reward": reward}

    return await asyncio.gather(*(member(n) for n in range(members)))

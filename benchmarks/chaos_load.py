"""The clients of benchmarks/chaos.py, and what they make of each reply."""

from __future__ import annotations

import asyncio
import json
import re
import time

import aiohttp
from chaos_answers import Given, Question, Tally, digest, mistakes, mistakes_of
from chaos_faults import Phase
from chaos_rig import DEADLINE_S, SLACK_S, Rig

from app.domain import NANO

# A client that waits so much longer calls it a hang, and leaves.
HANG_S = 60.0
# How often a client asks again under its Idempotency-Key.
AGAIN = 3


async def ask_until(
    rig: Rig, over: asyncio.Event, phase: Phase, tally: Tally
) -> dict[str, Question]:
    """All clients ask, one prompt after the other, until told to stop and answered."""
    questions: dict[str, Question] = {}

    async def client() -> None:
        while not over.is_set():
            keyed = rig.chance.random() < 0.15
            question = Question(f"nonce-{rig.chance.getrandbits(64):016x}", keyed)
            questions[question.nonce] = question
            await asyncio.gather(*(_ask(rig, question, phase, tally) for _ in range(1 + keyed)))
            for _ in range(AGAIN):
                if not (keyed and question.unavailable) or question.given:
                    break
                await asyncio.sleep(rig.chance.uniform(0.2, 2))
                tally.again += 1
                await _ask(rig, question, phase, tally)
            await asyncio.sleep(rig.chance.uniform(0, 0.3 if question.given else 1))

    await asyncio.gather(*(client() for _ in range(rig.clients)))
    return questions


async def _ask(rig: Rig, question: Question, phase: Phase, tally: Tally) -> None:
    streams = not question.keyed and rig.chance.random() < 0.3
    request = {
        "prompt": f"What is to be said of {question.nonce}?",
        "tags": {"nonce": question.nonce, "phase": tally.phase},
        "stream": streams,
    }
    headers = dict(rig.headers)
    if question.keyed:
        headers["Idempotency-Key"] = question.nonce
    leaves = phase.leaves and rig.chance.random() < 0.5
    limit = phase.grace_s + DEADLINE_S + SLACK_S
    patience = rig.chance.uniform(0.01, 0.5) if leaves else limit + HANG_S
    url = rig.chance.choice(rig.urls)
    tally.asked += 1
    began = time.monotonic()
    try:
        async with (
            asyncio.timeout(patience),
            rig.http.post(f"{url}/answer", json=request, headers=headers) as reply,
        ):
            status, text = reply.status, await reply.text()
    except TimeoutError:
        tally.gone += 1
        tally.faults += leaves
        if not leaves:
            tally.blame("late", f"{question.nonce}: no end in {patience:.0f} s")
        return
    except aiohttp.ClientError as error:
        tally.gone += 1
        if not phase.kills:
            tally.blame("wrong", f"{question.nonce}: {type(error).__name__}")
        return
    took = time.monotonic() - began
    tally.slowest_s = max(tally.slowest_s, took)
    if took > limit:
        tally.blame("late", f"{question.nonce}: {status} after {took:.1f} s")
    if streams and status == 200:
        status, text = _last_event(text, question, tally)
    _read(status, text, question, phase, tally)


def _last_event(text: str, question: Question, tally: Tally) -> tuple[int, str]:
    """Status and body that a stream came to; the candidates told on the way are looked at."""
    status, last = 0, "the stream has no end"
    for event in re.split(r"\r?\n\r?\n", text):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line)
        match fields.get("event"):
            case "completed" | "scored" | "failed":
                for mistake in mistakes_of(json.loads(fields["data"]), question.nonce):
                    tally.blame("wrong", f"{question.nonce}, event: {mistake}")
            case "selected":
                status, last = 200, fields["data"]
            case "error":
                status, last = json.loads(fields["data"])["status"], fields["data"]
    return status, last


def _read(status: int, text: str, question: Question, phase: Phase, tally: Tally) -> None:
    """Count a reply, and look for what is wrong with it."""
    try:
        document = json.loads(text)
    except ValueError:
        document = {}
    if status != 200:
        tally.refused += 1
        question.unavailable |= status == 503
        if "answer_id" in document:
            question.told.add(document["answer_id"])
        if status not in phase.refusals and not (status == 409 and question.keyed):
            tally.blame("wrong", f"{question.nonce}: {status} {text[:300]}")
        return
    tally.given += 1
    for mistake in mistakes(document, question.nonce):
        tally.blame("wrong", f"{document['id']}: {mistake}")
    tally.degraded += document["quality"] == "degraded"
    cost = round((document["cost_usd"] or 0) * NANO)
    given = Given(digest(document), document["quality"], cost)
    other = question.given.setdefault(document["id"], given)
    if other != given or len(question.given) > 1:
        tally.blame("doubled", f"{question.nonce}: two answers under one Idempotency-Key")

"""What must hold after each phase of benchmarks/chaos.py: records, money, reservations, leaks."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from chaos_answers import MEMBERS, Given, Question, Tally, digest
from chaos_faults import Phase
from chaos_rig import AT_REST_S, DEADLINE_S, RECOVERY_S, SLACK_S, Money, Rig
from sqlalchemy import func, select

from app.domain import NANO
from app.store.schema import answers, idempotency, keys, leases, listing, tags

# A lease ends so long after the deadline of its run, and whatever a killed process held with it.
LEASE_S = 10.0


async def check_leaks(rig: Rig, phase: Phase, tally: Tally) -> None:
    """Wait until the service is as it was at rest; what is not so by then has leaked."""
    limit = time.monotonic() + AT_REST_S
    for number, before in enumerate(rig.before):
        now = await rig.at_rest(number)
        while now is None or now.beyond(before) or rig.connections:
            if time.monotonic() > limit:
                more = f"{now} after {before}, {rig.connections} connections"
                excess = (now.beyond(before) if now else 1) + rig.connections
                tally.blame("leaked", f"replica {number}: {more}", excess)
                break
            await asyncio.sleep(0.3)
            now = await rig.at_rest(number)
        if now and now.resident_mb > before.resident_mb + phase.growth_mb:
            grown = f"{now.resident_mb:.0f} MB after {before.resident_mb:.0f}"
            tally.blame("leaked", f"replica {number}: {grown}")
        if now:
            rig.before[number] = replace(before, resident_mb=now.resident_mb)


async def check_records(
    rig: Rig, phase: Phase, began: datetime, questions: Mapping[str, Question], tally: Tally
) -> None:
    # First: what is held is let go when it is booked.
    await _check_reservations(rig, phase, began, tally)
    await _check_rows(rig, questions, tally)
    await _check_money(rig, phase, questions, tally)


async def _check_rows(rig: Rig, questions: Mapping[str, Question], tally: Tally) -> None:
    """Of each prompt one answer is stored, and it is the one that was given."""
    wanted = (
        select(
            answers.c.id,
            answers.c.tags,
            answers.c.quality,
            answers.c.selection["winner"].as_string().label("winner"),
        )
        .join(listing, listing.c.answer_id == answers.c.id)
        .join(tags, tags.c.number == listing.c.number)
        .where(tags.c.key == "phase", tags.c.value == tally.phase)
    )
    stored: dict[str, list[Any]] = {nonce: [] for nonce in questions}
    for row in await rig.rows(wanted):
        stored[row.tags["nonce"]].append(row)
    for nonce, question in questions.items():
        found = stored[nonce]
        by_id = {row.id: row for row in found}
        # Of two that ask under one key, the second may run if the first one's run failed.
        runs = [row for row in found if row.winner] if question.keyed else found
        if len(runs) > 1:
            tally.blame("doubled", f"{nonce}: {[row.id for row in runs]}", len(runs) - 1)
        for id_ in question.told | set(question.given):
            if id_ not in by_id:
                tally.blame("lost", f"{nonce}: {id_} is not stored")
        for id_, given in question.given.items():
            if id_ in by_id and by_id[id_].quality != given.quality:
                tally.blame("wrong", f"{id_} is stored as {by_id[id_].quality}")
    given_ids = [(id_, g) for q in questions.values() for id_, g in q.given.items()]
    places = asyncio.Semaphore(8)

    async def compare(id_: str, given: Given) -> None:
        async with (
            places,
            rig.http.get(f"{rig.urls[0]}/answers/{id_}", headers=rig.headers) as reply,
        ):
            if reply.status != 200 or digest(await reply.json()) != given.digest:
                tally.blame("lost", f"{id_} is not what was given ({reply.status})")

    await asyncio.gather(*(compare(*one) for one in given_ids))


async def _check_money(
    rig: Rig, phase: Phase, questions: Mapping[str, Question], tally: Tally
) -> None:
    """What the answers of this phase cost is booked on the key, once."""
    [(booked,)] = await rig.rows(select(keys.c.spent))
    costs = await rig.rows(select(answers.c.id, answers.c.cost_bound_usd))
    said = re.findall(r"(\d+) nano-dollars of (\S+) are not known to be booked", rig.logged())
    now = Money(
        booked,
        {id_: round(cost * NANO) for id_, cost in costs},
        {lease: int(amount) for amount, lease in said if int(amount)},
        max(len(rig.fakes[name].requests) for name in MEMBERS),
    )
    of_phase, rig.money = now.since(rig.money), now
    for lease, amount in of_phase.not_booked.items():
        tally.blame("not_booked", f"{amount} nano-dollars of {lease}, by the service's log")
    given = sum(g.cost for q in questions.values() for g in q.given.values())
    if wrong := of_phase.wrong(exact=phase.exact, given=given if phase.kills else None):
        tally.blame("lost", wrong)


async def _check_reservations(rig: Rig, phase: Phase, began: datetime, tally: Tally) -> None:
    """No run holds anything: at once, or where a process or its database was lost, once the
    leases are over. What a run cost is booked by then: the lease of one that is not stays, also
    when it is over, but for that of a killed process."""
    held = select(func.count()).select_from(leases)
    claimed = select(func.count()).select_from(idempotency)
    claimed = claimed.where(idempotency.c.answer_id.is_(None))
    limit = time.monotonic() + (5 if phase.exact else DEADLINE_S + LEASE_S + SLACK_S)
    while True:
        now = datetime.now(UTC)
        since = now if phase.kills else began
        [(of_keys,)] = await rig.rows(held.where(leases.c.expires > since))
        [(of_requests,)] = await rig.rows(claimed.where(idempotency.c.expires > now))
        left = (of_keys, of_requests)
        if not any(left):
            return
        if time.monotonic() > limit:
            tally.blame("leaked", f"{left} leases, Idempotency-Keys", sum(left))
            return
        await asyncio.sleep(0.5)


async def recover(rig: Rig, tally: Tally) -> None:
    """With nothing wrong any more, every replica gives full answers again."""
    for url in rig.urls:
        limit = time.monotonic() + RECOVERY_S
        while True:
            sent = {"prompt": "nonce-0000000000000000"}
            async with rig.http.post(f"{url}/answer", json=sent, headers=rig.headers) as reply:
                document = await reply.json()
            if document.get("quality") == "full":
                break
            if time.monotonic() > limit:
                tally.blame("wrong", f"no full answers again: {json.dumps(document)[:500]}")
                break
            await asyncio.sleep(0.3)

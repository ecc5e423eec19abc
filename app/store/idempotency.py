"""`Idempotency`: one run for each Idempotency-Key, however often and wherever it is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, ScalarSelect, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import IdempotencyError
from app.store.schema import answers, idempotency
from app.store.transactions import aware, reading, utc_now, writing

KEEP = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of a request: it is ours to do (`owner`), done (`answer_id`), or under way
    elsewhere (neither)."""

    scope: str
    key: str
    owner: str | None = None
    answer_id: str | None = None


@dataclass(frozen=True)
class Idempotency:
    """Records that hold for 24 h. Every method raises `StoreError`."""

    engine: AsyncEngine
    now: Callable[[], datetime] = utc_now

    async def claim(self, scope: str, key: str, digest: str, lease_s: float, run_id: str) -> Claim:
        """Take the request on, for at most `lease_s` seconds, unless somebody else has. `run_id`
        is that of the answer to come: if its process is killed once it is stored, it is found.

        Raises `IdempotencyError` if the key was used for a request with another `digest`.
        """
        now = self.now()
        ours = Claim(scope, key, owner=f"owner_{secrets.token_hex(8)}")
        row = {
            "scope": scope,
            "key": key,
            "digest": digest,
            "owner": ours.owner,
            "expires": now + timedelta(seconds=lease_s),
            "answer_id": None,
            "run_id": run_id,
            "created": now,
        }
        its = _its(scope, key)
        async with writing(self.engine) as connection:
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            fresh = dialect.insert(idempotency).values(row).on_conflict_do_nothing()
            if (await connection.execute(fresh)).rowcount:
                return ours
            found = await connection.execute(select(idempotency).where(its).with_for_update())
            there = found.mappings().one_or_none()
            if there is None:  # it has just ended without an answer
                return Claim(scope, key)
            if aware(there["created"]) > now - KEEP:
                if there["digest"] != digest:
                    raise IdempotencyError("send another key with another request")
                if there["answer_id"] or aware(there["expires"]) > now:
                    return Claim(scope, key, answer_id=there["answer_id"])
                # Whoever had it was killed.
                if answer_id := await _chosen(connection, there["run_id"]):
                    done = update(idempotency).where(its).values(answer_id=answer_id)
                    await connection.execute(done)
                    return Claim(scope, key, answer_id=answer_id)
            await connection.execute(update(idempotency).where(its).values(row))
        return ours

    async def look(self, claim: Claim) -> Claim | None:
        """How a request under way stands now; None if it ended without an answer, or its process
        did."""
        async with reading(self.engine) as connection:
            its = select(idempotency).where(_its(claim.scope, claim.key))
            row = (await connection.execute(its)).mappings().one_or_none()
        if row is None or (row["answer_id"] is None and aware(row["expires"]) <= self.now()):
            return None
        return Claim(claim.scope, claim.key, answer_id=row["answer_id"])

    async def finish(self, claim: Claim, answer_id: str | None) -> None:
        """Keep the answer of a claim of ours. Without one, because its run failed or its client
        left: keep what was stored and chosen all the same, else let the key be used again."""
        its = _its(claim.scope, claim.key) & (idempotency.c.owner == claim.owner)
        async with writing(self.engine) as connection:
            if answer_id is None:
                run_id = select(idempotency.c.run_id).where(its).scalar_subquery()
                answer_id = await _chosen(connection, run_id)
            if answer_id is None:
                await connection.execute(delete(idempotency).where(its))
            else:
                done = update(idempotency).where(its).values(answer_id=answer_id)
                await connection.execute(done)

    async def forget(self) -> None:
        """Drop the records that are older than they are kept."""
        async with writing(self.engine) as connection:
            old = idempotency.c.created <= self.now() - KEEP
            await connection.execute(delete(idempotency).where(old))


async def _chosen(
    connection: AsyncConnection, run_id: ScalarSelect[str | None] | str | None
) -> str | None:
    """The id of a run's answer, if it is stored and something was chosen in it."""
    stored = select(answers.c.id).where(
        answers.c.id == run_id, answers.c.selection["winner"].as_string().is_not(None)
    )
    return (await connection.execute(stored)).scalar_one_or_none()


def _its(scope: str, key: str) -> ColumnElement[bool]:
    return (idempotency.c.scope == scope) & (idempotency.c.key == key)

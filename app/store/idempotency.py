"""`Idempotency`: one run for each Idempotency-Key, however often and wherever it is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, ScalarSelect, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.errors import IdempotencyError
from app.store.database import Database, aware, utc_now
from app.store.schema import answers, idempotency

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

    database: Database
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
        dialect = sqlite if self.database.dialect == "sqlite" else postgresql
        fresh = dialect.insert(idempotency).values(row).on_conflict_do_nothing()

        def claim(connection: Connection) -> Claim:
            if connection.execute(fresh).rowcount:
                return ours
            found = connection.execute(select(idempotency).where(its).with_for_update())
            there = found.mappings().one_or_none()
            if there is None:  # it has just ended without an answer
                return Claim(scope, key)
            if aware(there["created"]) > now - KEEP:
                if there["digest"] != digest:
                    raise IdempotencyError("send another key with another request")
                if there["answer_id"] or aware(there["expires"]) > now:
                    return Claim(scope, key, answer_id=there["answer_id"])
                # Whoever had it was killed.
                if answer_id := _chosen(connection, there["run_id"]):
                    done = update(idempotency).where(its).values(answer_id=answer_id)
                    connection.execute(done)
                    return Claim(scope, key, answer_id=answer_id)
            connection.execute(update(idempotency).where(its).values(row))
            return ours

        return await self.database.write(claim)

    async def look(self, claim: Claim) -> Claim | None:
        """How a request under way stands now; None if it ended without an answer, or its process
        did."""
        its = select(idempotency).where(_its(claim.scope, claim.key))
        row = await self.database.read(
            lambda connection: connection.execute(its).mappings().one_or_none()
        )
        if row is None or (row["answer_id"] is None and aware(row["expires"]) <= self.now()):
            return None
        return Claim(claim.scope, claim.key, answer_id=row["answer_id"])

    async def finish(self, claim: Claim, answer_id: str | None) -> None:
        """Keep the answer of a claim of ours. Without one, because its run failed or its client
        left: keep what was stored and chosen all the same, else let the key be used again."""
        its = _its(claim.scope, claim.key) & (idempotency.c.owner == claim.owner)

        def finish(connection: Connection) -> None:
            done = answer_id
            if done is None:
                run_id = select(idempotency.c.run_id).where(its).scalar_subquery()
                done = _chosen(connection, run_id)
            if done is None:
                connection.execute(delete(idempotency).where(its))
            else:
                connection.execute(update(idempotency).where(its).values(answer_id=done))

        await self.database.write(finish)

    async def forget(self) -> None:
        """Drop the records that are older than they are kept."""
        old = delete(idempotency).where(idempotency.c.created <= self.now() - KEEP)
        await self.database.write(lambda connection: connection.execute(old).rowcount)


def _chosen(connection: Connection, run_id: ScalarSelect[str | None] | str | None) -> str | None:
    """The id of a run's answer, if it is stored and something was chosen in it."""
    stored = select(answers.c.id).where(
        answers.c.id == run_id, answers.c.selection["winner"].as_string().is_not(None)
    )
    return connection.execute(stored).scalar_one_or_none()


def _its(scope: str, key: str) -> ColumnElement[bool]:
    return (idempotency.c.scope == scope) & (idempotency.c.key == key)

"""`Keys`: who may ask, how often, how much at once and for how much money.

Whatever is counted is counted in the database under a lock of the key's row, so that replicas that
share a PostgreSQL hold the limits together. A run holds a lease; a killed process's leases expire.
A minute or month that one replica has begun is begun for all, so that clocks a little apart count
nothing twice; leases expire by the clock of whoever looks. Money is in whole nano-dollars.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, update

from app.domain import NANO, Period, Scope
from app.errors import BudgetError, LimitError, UnauthorizedError
from app.store.database import Database, aware, utc_now
from app.store.schema import keys, leases

PREFIX = "sk-sb-"
ID_PREFIX = "key_"
SHOWN = len(PREFIX) + 6
SECRET_BYTES = 32
ONE = select(keys.c.id).limit(1)
NOT_GOOD = "this API key is not known, was revoked, or has expired"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the store knows it: never its secret. None is no limit, or no end.

    `spent` is that of the month if `period` is "month". `admin` may whatever the other scopes may.
    """

    id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    per_minute: int | None
    concurrency: int | None
    budget: int | None
    period: Period
    spent: int

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def good_at(self, now: datetime) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class Lease:
    """What one run holds of its key; `reserved` is the most it may spend."""

    id: str
    key_id: str
    reserved: int


@dataclass
class _First:
    """Whether the first key was made, and when that was looked up."""

    made: bool = False
    looked: float = -math.inf


@dataclass(frozen=True)
class Keys:
    """API keys and what is counted against them. Every method raises `StoreError`."""

    database: Database
    now: Callable[[], datetime] = utc_now
    _first: _First = field(default_factory=_First)

    async def create(
        self,
        name: str,
        scopes: Collection[Scope],
        *,
        expires: datetime | None = None,
        per_minute: int | None = None,
        concurrency: int | None = None,
        budget: int | None = None,
        period: Period = "total",
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is kept nowhere.

        `name` has up to 200 characters, `expires` a time zone; `per_minute` and `concurrency` are
        under 2^31, `budget` under 2^63 nano-dollars.
        """
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        now = self.now()
        row = {
            "id": f"{ID_PREFIX}{secrets.token_hex(8)}",
            "name": name,
            "prefix": secret[:SHOWN],
            "hash": _hash(secret),
            "scopes": sorted(scopes),
            "created": now,
            "expires": expires,
            "revoked": None,
            "per_minute": per_minute,
            "concurrency": concurrency,
            "budget": budget,
            "period": period,
            "spent": 0,
            "month": _month(now),
            "requests": 0,
            "minute": 0,
        }
        made = insert(keys).values(row)
        await self.database.write(lambda connection: connection.execute(made).rowcount)
        return self._key(row), secret

    async def all(self) -> list[ApiKey]:
        """Every key ever made, oldest first."""
        every = select(keys).order_by(keys.c.created, keys.c.id)
        return [self._key(row) for row in await self._rows(every)]

    async def any(self, within_s: float = 0.0) -> bool:
        """Whether a key was ever made: to revoke the last one must not open the door. That there
        was none may be known for `within_s` seconds."""
        now = monotonic()
        if not self._first.made and now >= self._first.looked + within_s:
            one = await self.database.read(lambda connection: connection.execute(ONE).all())
            self._first.made, self._first.looked = bool(one), now
        return self._first.made

    async def named(self, which: str) -> ApiKey | None:
        """The key of that id or prefix, good or not; None if there is no such key."""
        found = await self._rows(_named(which))
        return self._key(found[0]) if found else None

    async def revoke(self, which: str) -> ApiKey | None:
        """Revoke the key of that id or prefix for good; None if there is no such key."""

        def revoke(connection: Connection) -> ApiKey | None:
            row = connection.execute(_named(which).with_for_update()).mappings().first()
            if row is None:
                return None
            revoked = row["revoked"] or self.now()
            its = keys.c.id == row["id"]
            connection.execute(update(keys).where(its).values(revoked=revoked))
            return self._key({**row, "revoked": revoked})

        return await self.database.write(revoke)

    async def of(self, secret: str) -> ApiKey:
        """The key of that secret; raises `UnauthorizedError` unless it is good."""
        found = await self._rows(select(keys).where(keys.c.hash == _hash(secret)))
        key = self._key(found[0]) if found else None
        if key is None or not key.good_at(self.now()):
            raise UnauthorizedError(NOT_GOOD)
        return key

    async def admit(self, key_id: str, reserve: int, lease_s: float) -> Lease:
        """Count a request and reserve what it may spend, for at most `lease_s` seconds.

        Raises `LimitError` for the rate, the concurrency, and a budget that others hold for now;
        `BudgetError` for one that is spent; `UnauthorizedError` for a key revoked meanwhile.
        """
        now = self.now()
        lease = Lease(f"lease_{secrets.token_hex(8)}", key_id, reserve)

        def admit(connection: Connection) -> None:
            row = _locked(connection, key_id)
            key = self._key(row)
            if not key.good_at(now):
                raise UnauthorizedError(NOT_GOOD)
            minute = max(row["minute"], int(now.timestamp()) // 60)
            requests = row["requests"] if row["minute"] == minute else 0
            if key.per_minute is not None and requests >= key.per_minute:
                detail = f"{key.per_minute} requests a minute are allowed"
                raise LimitError(detail, retry_after_s=60 * (minute + 1) - now.timestamp())
            running, held = _held(connection, key_id, now)
            if key.concurrency is not None and running >= key.concurrency:
                detail = f"{key.concurrency} requests at a time are allowed"
                raise LimitError(detail, retry_after_s=1)
            _check_budget(key, held, reserve)
            counted = {
                "requests": requests + 1,
                "minute": minute,
                "spent": key.spent,
                "month": max(row["month"], _month(now)),
            }
            connection.execute(update(keys).where(keys.c.id == key_id).values(counted))
            held_by_it = {
                "id": lease.id,
                "key_id": key_id,
                "reserved": reserve,
                "expires": now + timedelta(seconds=lease_s),
            }
            connection.execute(insert(leases), held_by_it)

        await self.database.write(admit)
        return lease

    async def settle(self, lease: Lease, spent: int) -> None:
        """End a lease and book what its run spent, also if it has expired. Of several calls for
        one lease the first books: whoever does not know whether it was heard calls again."""

        def settle(connection: Connection) -> None:
            row = _locked(connection, lease.key_id)
            if not connection.execute(delete(leases).where(leases.c.id == lease.id)).rowcount:
                return
            month = max(row["month"], _month(self.now()))
            booked = {"spent": self._key(row).spent + spent, "month": month}
            connection.execute(update(keys).where(keys.c.id == lease.key_id).values(booked))

        await self.database.write(settle)

    async def forget(self) -> None:
        """Drop leases that expired a day ago: those of processes that were killed."""
        old = delete(leases).where(leases.c.expires <= self.now() - timedelta(days=1))
        await self.database.write(lambda connection: connection.execute(old).rowcount)

    async def _rows(self, wanted: Select[*tuple[Any, ...]]) -> Sequence[RowMapping]:
        return await self.database.read(
            lambda connection: connection.execute(wanted).mappings().all()
        )

    def _key(self, row: RowMapping | dict[str, Any]) -> ApiKey:
        of_before = row["period"] == "month" and row["month"] < _month(self.now())
        return ApiKey(
            id=row["id"],
            name=row["name"],
            prefix=row["prefix"],
            scopes=tuple(row["scopes"]),
            created=aware(row["created"]),
            expires=aware(row["expires"]) if row["expires"] else None,
            revoked=aware(row["revoked"]) if row["revoked"] else None,
            per_minute=row["per_minute"],
            concurrency=row["concurrency"],
            budget=row["budget"],
            period=row["period"],
            spent=0 if of_before else row["spent"],
        )


def _named(which: str) -> Select[*tuple[Any, ...]]:
    return select(keys).where((keys.c.id == which) | (keys.c.prefix == which))


def _locked(connection: Connection, key_id: str) -> RowMapping:
    its = select(keys).where(keys.c.id == key_id).with_for_update()
    row = connection.execute(its).mappings().one_or_none()
    if row is None:
        raise UnauthorizedError(NOT_GOOD)
    return row


def _held(connection: Connection, key_id: str, now: datetime) -> tuple[int, int]:
    """How many leases the key has that have not expired, and what they reserve together."""
    reserved = func.coalesce(func.sum(leases.c.reserved), 0)
    good = (leases.c.key_id == key_id) & (leases.c.expires > now)
    its = select(func.count(), reserved).where(good)
    running, held = connection.execute(its).one()
    return running, int(held)


def _check_budget(key: ApiKey, held: int, reserve: int) -> None:
    if key.budget is None or key.spent + held + reserve <= key.budget:
        return
    left = key.budget - key.spent
    detail = f"the run may cost up to {reserve / NANO:.6g} USD, and {left / NANO:.6g} are left"
    if key.spent + reserve > key.budget:
        raise BudgetError(detail)
    raise LimitError(f"{detail}, which other runs hold for now", retry_after_s=1)


def _hash(secret: str) -> str:
    # No slow hash: the secret is 32 random bytes, which nobody guesses.
    return hashlib.sha256(secret.encode()).hexdigest()


def _month(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m")

"""`Circuits`: the open circuits of members, seen by every process on the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Float,
    Insert,
    cast,
    delete,
    extract,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.domain import OpenCircuit
from app.store.database import Database
from app.store.schema import circuits


@dataclass(frozen=True)
class Circuits:
    """A row for each open circuit, none for a closed one. Times are those of the database's clock,
    for the processes' own may differ. Every method raises `StoreError`."""

    database: Database

    async def all(self, members: Sequence[str]) -> dict[str, OpenCircuit]:
        """Those of these members that are open."""
        theirs = select(circuits.c.member, circuits.c.failed, circuits.c.probe_from - self._now)
        theirs = theirs.where(circuits.c.member.in_(members))
        rows = await self.database.read(lambda connection: connection.execute(theirs).all())
        return {member: OpenCircuit(failed, max(0.0, wait)) for member, failed, wait in rows}

    async def put(self, member: str, opening: OpenCircuit | None) -> None:
        """Open the circuit for `wait_s` from now, or close it."""
        change: Insert | Delete = delete(circuits).where(circuits.c.member == member)
        if opening is not None:
            values = {"failed": opening.failed, "probe_from": self._now + opening.wait_s}
            dialect = sqlite if self.database.dialect == "sqlite" else postgresql
            row = dialect.insert(circuits).values(member=member, **values)
            change = row.on_conflict_do_update(index_elements=["member"], set_=values)
        await self.database.write(lambda connection: connection.execute(change).rowcount)

    async def claim(self, member: str, for_s: float) -> float:
        """Keep others from probing for so many seconds; the wait if one of them already does.

        A circuit that is not open keeps nobody.
        """
        its = circuits.c.member == member
        due = update(circuits).where(its, circuits.c.probe_from <= self._now)
        due = due.values(probe_from=self._now + for_s)
        left = select(circuits.c.probe_from - self._now).where(its)

        def claim(connection: Connection) -> float:
            if connection.execute(due).rowcount:
                return 0.0
            return max(0.0, connection.execute(left).scalar_one_or_none() or 0.0)

        return await self.database.write(claim)

    @property
    def _now(self) -> ColumnElement[float]:
        """Seconds since 1970, to a millisecond at least."""
        if self.database.dialect == "sqlite":
            return (func.julianday("now", type_=Float) - 2_440_587.5) * 86_400.0
        return cast(extract("epoch", func.clock_timestamp()), Float)

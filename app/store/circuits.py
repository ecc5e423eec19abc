"""`Circuits`: the open circuits of members, seen by every process on the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, cast, delete, extract, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain import OpenCircuit
from app.store.schema import circuits
from app.store.transactions import reading, writing


@dataclass(frozen=True)
class Circuits:
    """A row for each open circuit, none for a closed one. Times are those of the database's clock,
    for the processes' own may differ. Every method raises `StoreError`."""

    engine: AsyncEngine

    async def all(self, members: Sequence[str]) -> dict[str, OpenCircuit]:
        """Those of these members that are open."""
        theirs = select(circuits.c.member, circuits.c.failed, circuits.c.probe_from - self._now)
        async with reading(self.engine) as connection:
            rows = await connection.execute(theirs.where(circuits.c.member.in_(members)))
            return {member: OpenCircuit(failed, max(0.0, wait)) for member, failed, wait in rows}

    async def put(self, member: str, opening: OpenCircuit | None) -> None:
        """Open the circuit for `wait_s` from now, or close it."""
        async with writing(self.engine) as connection:
            if opening is None:
                await connection.execute(delete(circuits).where(circuits.c.member == member))
                return
            values = {"failed": opening.failed, "probe_from": self._now + opening.wait_s}
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            row = dialect.insert(circuits).values(member=member, **values)
            await connection.execute(
                row.on_conflict_do_update(index_elements=["member"], set_=values)
            )

    async def claim(self, member: str, for_s: float) -> float:
        """Keep others from probing for so many seconds; the wait if one of them already does.

        A circuit that is not open keeps nobody.
        """
        its = circuits.c.member == member
        due = update(circuits).where(its, circuits.c.probe_from <= self._now)
        left = select(circuits.c.probe_from - self._now).where(its)
        async with writing(self.engine) as connection:
            if (await connection.execute(due.values(probe_from=self._now + for_s))).rowcount:
                return 0.0
            return max(0.0, (await connection.execute(left)).scalar_one_or_none() or 0.0)

    @property
    def _now(self) -> ColumnElement[float]:
        """Seconds since 1970, to a millisecond at least."""
        if self.engine.dialect.name == "sqlite":
            return (func.julianday("now", type_=Float) - 2_440_587.5) * 86_400.0
        return cast(extract("epoch", func.clock_timestamp()), Float)

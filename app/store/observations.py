"""What there is to count of stored answers, without their texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, select, tuple_

from app.store import schema
from app.store.answers import PAGE, AnswerStore
from app.store.transactions import aware, snapshot


@dataclass(frozen=True, slots=True)
class SeenCandidate:
    """`failure` is the kind of a failure, None for a reply. Seconds, USD."""

    member: str
    latency_s: float
    cost_usd: float | None
    reward: float | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class SeenAnswer:
    """`agreed` is what the last feedback that judges the choice says of it: a thumb up agrees; a
    thumb down, a better candidate and a corrected text do not. None if nobody said."""

    created: datetime
    degraded: bool
    scorer: str
    candidates: Sequence[SeenCandidate]
    agreed: bool | None


async def newest_since(store: AnswerStore, since: datetime, at_most: int) -> list[SeenAnswer]:
    """The newest answers since that moment, newest first, at most so many.

    Read a page at a time, so that other work comes in between. Raises `StoreError`.
    """
    answers = schema.answers.c
    key = tuple_(answers.created, answers.id)
    first = (
        select(
            answers.id,
            answers.created,
            answers.quality,
            answers.scorer["name"].as_string().label("scorer"),
        )
        .where(answers.created >= since)
        .order_by(answers.created.desc(), answers.id.desc())
    )
    seen: list[SeenAnswer] = []
    wanted = first
    while len(seen) < at_most:
        page = await _page(store, wanted.limit(min(PAGE, at_most - len(seen))))
        seen += [one for _, one in page]
        if not page:
            break
        last_id, last = page[-1]
        wanted = first.where(key < (last.created, last_id))
    return seen


async def _page(
    store: AnswerStore, wanted: Select[str, datetime, str, str]
) -> list[tuple[str, SeenAnswer]]:
    candidates, feedback = schema.candidates.c, schema.feedback.c
    async with snapshot(store.engine) as connection:
        found = (await connection.execute(wanted)).all()
        ids = [row.id for row in found]
        rows = await connection.execute(
            select(
                candidates.answer_id,
                candidates.member,
                candidates.latency_s,
                candidates.cost_usd,
                candidates.reward,
                candidates.failure_kind,
            ).where(candidates.answer_id.in_(ids))
        )
        its: dict[str, list[SeenCandidate]] = defaultdict(list)
        for answer_id, *columns in rows:
            its[answer_id].append(SeenCandidate(*columns))
        said = await connection.execute(
            select(feedback.answer_id, feedback.thumb, feedback.better, feedback.corrected)
            .where(feedback.answer_id.in_(ids))
            .order_by(feedback.created, feedback.id)
        )
        agreed = {row.answer_id: verdict for row in said if (verdict := _agrees(row)) is not None}
    return [
        (
            row.id,
            SeenAnswer(
                aware(row.created),
                row.quality == "degraded",
                row.scorer,
                its[row.id],
                agreed.get(row.id),
            ),
        )
        for row in found
    ]


def _agrees(said: Row[str, str | None, str | None, str | None]) -> bool | None:
    if said.better is not None or said.corrected is not None or said.thumb == "down":
        return False
    return True if said.thumb == "up" else None

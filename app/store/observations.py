"""What there is to count of stored answers, without their texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, select, tuple_

from app.domain import ATTRIBUTES, Attributes, Scale, Weights
from app.store import schema
from app.store.answers import PAGE, AnswerStore
from app.store.database import aware

PUBLISHED = Weights()


@dataclass(frozen=True, slots=True)
class SeenCandidate:
    """`failure` is the kind of a failure, None for a reply. `reward` is that of the published
    weights, whatever the request's were. Seconds, USD."""

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
    model: str
    scale: Scale
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
            answers.scorer["model"].as_string().label("model"),
            answers.scorer["scale"].as_string().label("scale"),
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
    store: AnswerStore, wanted: Select[str, datetime, str, str, str, str]
) -> list[tuple[str, SeenAnswer]]:
    candidates, feedback = schema.candidates.c, schema.feedback.c

    def read(connection: Connection) -> list[tuple[str, SeenAnswer]]:
        found = connection.execute(wanted).all()
        ids = [row.id for row in found]
        rows = connection.execute(
            select(
                candidates.answer_id,
                candidates.member,
                candidates.latency_s,
                candidates.cost_usd,
                candidates.failure_kind,
                candidates.reward,
                *(candidates[name] for name in ATTRIBUTES),
            ).where(candidates.answer_id.in_(ids))
        )
        its: dict[str, list[SeenCandidate]] = defaultdict(list)
        for answer_id, member, latency_s, cost_usd, failure, reward, *five in rows:
            published = reward if None in five else PUBLISHED.reward(Attributes(*five))
            its[answer_id].append(SeenCandidate(member, latency_s, cost_usd, published, failure))
        said = connection.execute(
            select(feedback.answer_id, feedback.thumb, feedback.better, feedback.corrected)
            .where(feedback.answer_id.in_(ids))
            .order_by(feedback.created, feedback.id)
        )
        agreed = {row.answer_id: verdict for row in said if (verdict := _agrees(row)) is not None}
        return [_seen(row, its[row.id], agreed.get(row.id)) for row in found]

    return await store.database.snapshot(read)


def _seen(
    row: Row[str, datetime, str, str, str, str],
    candidates: Sequence[SeenCandidate],
    agreed: bool | None,
) -> tuple[str, SeenAnswer]:
    degraded = row.quality == "degraded"
    seen = SeenAnswer(
        aware(row.created), degraded, row.scorer, row.model, row.scale, candidates, agreed
    )
    return row.id, seen


def _agrees(said: Row[str, str | None, str | None, str | None]) -> bool | None:
    if said.better is not None or said.corrected is not None or said.thumb == "down":
        return False
    return True if said.thumb == "up" else None

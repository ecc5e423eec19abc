"""`GET /statistics`: what came of the answers of some days, for the page's Board."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from app.api.problems import responses
from app.api.security import needs
from app.api.services import Live
from app.scorers.evaluation import Share
from app.store.observations import SeenAnswer, SeenCandidate, newest_since

router = APIRouter(tags=["health"])

AT_MOST = 5_000
BINS = 12


class DayMemberDocument(BaseModel):
    replies: int
    latency_median_s: float | None
    cost_usd: float | None = Field(description="As far as it is known; null if none of it is.")


class DayDocument(BaseModel):
    day: str = Field(description="A day in UTC, as 2026-11-26.")
    answers: int
    members: dict[str, DayMemberDocument]


class MemberStatisticsDocument(BaseModel):
    name: str
    replies: int
    failures: dict[str, int] = Field(description="How often, by kind.")
    latency_median_s: float | None
    latency_p95_s: float | None
    cost_usd: float | None = Field(description="As far as it is known; null if none of it is.")
    cost_unknown: int = Field(description="Replies whose cost is not known.")
    rewards: list[int] = Field(description="Replies in each of the `reward_bins`.")


class AgreementDocument(BaseModel):
    """Of the choices that somebody judged, the share that people agree with, with its 95 %
    interval. A thumb up agrees; a thumb down, a better candidate and a corrected text do not. Of
    several judgements of one answer the last counts."""

    scorer: str
    n: int
    share: float
    low: float
    high: float


class StatisticsDocument(BaseModel):
    since: datetime
    answers: int
    truncated: bool = Field(description=f"There are more: only the newest {AT_MOST:,} are counted.")
    degraded: int
    reward_scorer: str | None = Field(
        description="Whose rewards are counted, for those of several scorers cannot be compared: "
        "the one of the newest answer that has any."
    )
    reward_bins: list[float] = Field(description="The edges of the bins of rewards, ascending.")
    members: list[MemberStatisticsDocument]
    days: list[DayDocument]
    agreement: list[AgreementDocument]


@router.get(
    "/statistics", responses=responses(401, 403, 422, 503), dependencies=[Depends(needs("read"))]
)
async def statistics(
    live: Live, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> StatisticsDocument:
    """Latency, cost, rewards and failures of each member over the last days, by day too, and how
    often people agree with the scorer."""
    since = datetime.now(UTC) - timedelta(days=days)
    seen = await newest_since(live.store, since, AT_MOST + 1)
    return await asyncio.to_thread(document, seen, since)


def document(seen: Sequence[SeenAnswer], since: datetime) -> StatisticsDocument:
    """The document of answers, newest first; one more than are counted says that there are more."""
    truncated, seen = len(seen) > AT_MOST, seen[:AT_MOST]
    rewarded = [a for a in seen if any(one.reward is not None for one in a.candidates)]
    scorer = rewarded[0].scorer if rewarded else None
    rewards: dict[str, list[float]] = defaultdict(list)
    for answer in rewarded:
        if answer.scorer == scorer:
            for one in answer.candidates:
                if one.reward is not None:
                    rewards[one.member].append(one.reward)
    edges = _edges([reward for ones in rewards.values() for reward in ones])
    candidates = [one for answer in seen for one in answer.candidates]
    days: dict[str, list[SeenAnswer]] = defaultdict(list)
    for answer in seen:
        days[answer.created.date().isoformat()].append(answer)
    return StatisticsDocument(
        since=since,
        answers=len(seen),
        truncated=truncated,
        degraded=sum(answer.degraded for answer in seen),
        reward_scorer=scorer,
        reward_bins=edges,
        members=[
            _member(name, ones, _counts(rewards[name], edges))
            for name, ones in _by_member(candidates)
        ],
        days=[_day(day, days[day]) for day in sorted(days)],
        agreement=_agreement(seen),
    )


def _by_member(
    candidates: Iterable[SeenCandidate],
) -> list[tuple[str, list[SeenCandidate]]]:
    found: dict[str, list[SeenCandidate]] = defaultdict(list)
    for one in candidates:
        found[one.member].append(one)
    return sorted(found.items())


def _member(
    name: str, candidates: Sequence[SeenCandidate], rewards: list[int]
) -> MemberStatisticsDocument:
    replies = [one for one in candidates if one.failure is None]
    latencies = sorted(one.latency_s for one in replies)
    return MemberStatisticsDocument(
        name=name,
        replies=len(replies),
        failures=Counter(one.failure for one in candidates if one.failure is not None),
        latency_median_s=median(latencies) if latencies else None,
        latency_p95_s=latencies[int(0.95 * (len(latencies) - 1))] if latencies else None,
        cost_usd=_cost(replies),
        cost_unknown=sum(one.cost_usd is None for one in replies),
        rewards=rewards,
    )


def _day(day: str, answers: Sequence[SeenAnswer]) -> DayDocument:
    members = _by_member(one for answer in answers for one in answer.candidates)
    return DayDocument(
        day=day,
        answers=len(answers),
        members={
            name: DayMemberDocument(
                replies=len(replies),
                latency_median_s=median(one.latency_s for one in replies) if replies else None,
                cost_usd=_cost(replies),
            )
            for name, ones in members
            for replies in [[one for one in ones if one.failure is None]]
        },
    )


def _cost(replies: Iterable[SeenCandidate]) -> float | None:
    known = [one.cost_usd for one in replies if one.cost_usd is not None]
    return sum(known) if known else None


def _edges(rewards: Sequence[float]) -> list[float]:
    """Of `BINS` bins of one width, from the lowest reward to the highest."""
    if not rewards:
        return []
    low, high = min(rewards), max(rewards)
    if low == high:
        return [low - 0.5, low + 0.5]
    return [low + (high - low) * number / BINS for number in range(BINS + 1)]


def _counts(rewards: Iterable[float], edges: Sequence[float]) -> list[int]:
    if not edges:
        return []
    bins = len(edges) - 1
    width = (edges[-1] - edges[0]) / bins
    found = Counter(min(int((one - edges[0]) / width), bins - 1) for one in rewards)
    return [found[number] for number in range(bins)]


def _agreement(seen: Sequence[SeenAnswer]) -> list[AgreementDocument]:
    judged: dict[str, list[bool]] = defaultdict(list)
    for answer in seen:
        if answer.agreed is not None:
            judged[answer.scorer].append(answer.agreed)
    found = []
    for scorer, verdicts in sorted(judged.items()):
        share = Share(sum(verdicts), len(verdicts))
        low, high = share.interval
        found.append(
            AgreementDocument(scorer=scorer, n=share.n, share=share.value, low=low, high=high)
        )
    return found

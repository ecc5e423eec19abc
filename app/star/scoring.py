"""Scores for rationales, by any scorer of the service: so many at a time, by shards, as data.

What may pass is tried again for some minutes, as with hosts; what then still fails is a score
that failed, never a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from app.domain import (
    Attributes,
    Completion,
    Failure,
    FailureKind,
    Prompt,
    ScalarReward,
    Score,
)
from app.retries import limited
from app.scorers import Scorer
from app.star.hosts import CONCURRENCY, RETRIES, TIMEOUT_S, refuse_silence

Reply = tuple[Prompt, Completion]


async def scores(
    scorer: Scorer, shards: Mapping[int, Sequence[Reply]]
) -> AsyncIterator[tuple[int, list[Score]]]:
    """A score for each reply, shard by shard.

    Raises `ConfigurationError` if a shard has none because the scorer is down or lets nobody in.
    """
    name = scorer.info.name
    free = asyncio.Semaphore(CONCURRENCY)

    async def score(prompt: Prompt, completion: Completion) -> Score:
        async with free:
            found = await RETRIES.outcome(
                name, lambda: limited(name, lambda: scorer.score(prompt, completion), TIMEOUT_S)
            )
        return Score(found) if isinstance(found, Failure) else found

    for number, replies in shards.items():
        found = await asyncio.gather(*(score(*reply) for reply in replies))
        refuse_silence(name, [one.outcome for one in found])
        yield number, found


def score_row(score: Score) -> Mapping[str, object]:
    """A row that `score_from` reads as the same score; the time it took is not kept."""
    match score.outcome:
        case Failure(kind, message):
            return {"failure": kind, "message": message}
        case Attributes() as attributes:
            return {"attributes": asdict(attributes), "note": score.note}
        case ScalarReward(value):
            return {"reward": value, "note": score.note}


def score_from(row: Mapping[str, object]) -> Score:
    if "failure" in row:
        return Score(Failure(cast(FailureKind, row["failure"]), str(row["message"])))
    note = cast("str | None", row["note"])
    if "reward" in row:
        return Score(ScalarReward(cast(float, row["reward"])), note)
    return Score(Attributes(**cast("dict[str, float]", row["attributes"])), note)

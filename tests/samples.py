"""Nouns for tests, with everything that does not matter filled in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.domain import (
    Answer,
    Attributes,
    Candidate,
    Completion,
    Failure,
    FinishReason,
    LadderStep,
    Message,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    ScoredCandidate,
    ScorerInfo,
    Selection,
    Timings,
    Usage,
    WinRate,
)

FIVE = Attributes(3.1, 3.2, 3.7, 1.4, 1.2)


def prompt(text: str = "Why is the sky blue?", system: str | None = None) -> Prompt:
    said = (Message("system", system),) if system else ()
    return Prompt((*said, Message("user", text)), max_tokens=64)


def plan_of(*members: str, deadline_s: float = 5.0) -> Plan:
    return Plan(members, deadline_s=deadline_s)


def scored(
    member: str,
    reward: float | None,
    *,
    id_: str | None = None,
    finish_reason: FinishReason = "stop",
    text: str | None = None,
    extracted: str | None = None,
) -> ScoredCandidate:
    """A reply; unscored if `reward` is None."""
    outcome = Completion(text or f"reply of {member}", finish_reason, f"model-{member}")
    score = Score(Failure("timeout", "late", True) if reward is None else ScalarReward(reward))
    candidate = Candidate(id_ or f"cand_{member}", member, f"model-{member}", outcome, 0.1)
    return ScoredCandidate(candidate, score, reward, extracted)


def failed(member: str) -> ScoredCandidate:
    failure = Failure("rate_limited", f"{member}: 429", True)
    return ScoredCandidate(Candidate(f"cand_{member}", member, f"model-{member}", failure, 0.1))


def competition(
    number: int, *entries: ScoredCandidate, scorer: str = "judge:x", minute: int = 0
) -> Answer:
    """A stored answer in which these competed, scored by that scorer."""
    candidates = tuple(
        replace(one, candidate=replace(one.candidate, id=f"comp_{number}_{place}"))
        for place, one in enumerate(entries)
    )
    return replace(
        answer(f"comp_{number}"),
        created=datetime(2026, 11, 22, 13, 5, tzinfo=UTC) + timedelta(minutes=minute),
        candidates=candidates,
        scorer=ScorerInfo(scorer, "m", "scalar", 0.1),
    )


def answer(id_: str = "ans_1") -> Answer:
    """An answer that uses every field: five scores, a scalar, a failed score, a failed member."""
    five = ScoredCandidate(
        Candidate(
            f"{id_}_c1",
            "claude",
            "claude-x",
            Completion("Because.", "stop", "claude-x", Usage(12, 88), ("temperature",)),
            1.25,
        ),
        Score(FIVE, "scored a part", 0.25),
        5.27,
        "18",
    )
    scalar, unscored, lost = (
        replace(one, candidate=replace(one.candidate, id=f"{id_}_c{n}"))
        for n, one in enumerate((scored("b", -3.5), scored("c", None), failed("gemma")), start=2)
    )
    return Answer(
        id=id_,
        created=datetime(2026, 11, 22, 13, 5, tzinfo=UTC),
        prompt=Prompt((Message("system", "Be brief."), Message("user", "Why? 蓝\n'")), 64, 0.5),
        plan=Plan(
            ("claude", "b", "c", "gemma"),
            deadline_s=10,
            resolution=0.1,
            order=("b",),
            reserves=("c",),
            standing=("b", "claude"),
            win_rates={"b": WinRate(0.75, 60), "claude": WinRate(0.25, 80)},
            no_standing="none",
        ),
        candidates=(five, scalar, unscored, lost),
        selection=Selection(
            f"{id_}_c1",
            (f"{id_}_c1", f"{id_}_c2"),
            "majority_vote",
            "2 of 3 voters agree",
            8.77,
            votes={"18": 2.0},
            not_called=("d",),
        ),
        scorer=ScorerInfo(
            "nvidia",
            "nemotron",
            "helpsteer",
            0.1,
            "a note",
            ladder=(
                LadderStep("nvidia", "partial", "1 of 3 unscored: late"),
                LadderStep("b", "failed"),
            ),
        ),
        timings=Timings(1.5, 1.25, 0.25, 0.0),
        quality="degraded",
        missing=("gemma", "nvidia"),
        tags={"user": "u1"},
        cost_bound_usd=0.25,
        key_id="key_1",
    )


def public_data(*files: str) -> Path:
    """The folder of public data with these files, or the test is skipped: they are not ours to
    ship, and stand beside the checkout where somebody has put them."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    for file in files:
        if not (folder / file).is_file():
            pytest.skip(f"{file} is public data that a clone does not bring (docs name its source)")
    return folder

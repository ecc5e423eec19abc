"""Strategies: pure functions from scored candidates and a plan to a selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app.domain import Completion, Plan, ScoredCandidate, Selection

Strategy = Callable[[Sequence[ScoredCandidate], Plan], Selection]


def best_of_n(candidates: Sequence[ScoredCandidate], plan: Plan) -> Selection:
    """The candidate with the highest reward; rewards within the plan's resolution of it are tied,
    and a tie goes to the earliest seat in board order.

    Only like is compared with like: replies a vendor withheld (refusal, filter) come into it if
    there is no other, unscored ones if nothing was scored. Failures are never chosen. The order
    in which `candidates` come does not matter.
    """
    replies = [c for c in candidates if isinstance(c.candidate.outcome, Completion)]
    honest = [c for c in replies if not _withheld(c)]
    field = _in_board_order(honest or replies, plan)
    if not field:
        return Selection(None, (), "best_of_n", f"none of {len(candidates)} members replied")
    scored = [c for c in field if c.reward is not None]
    if not scored:
        reason = f"no reply could be scored: first of {len(field)} in board order"
        return Selection(field[0].candidate.id, (), "best_of_n", reason)
    passed_over = _passed_over(len(replies) - len(field), len(field) - len(scored))
    return _compare(scored, plan, passed_over)


STRATEGIES: Mapping[str, Strategy] = {"best_of_n": best_of_n}


def _compare(scored: Sequence[ScoredCandidate], plan: Plan, passed_over: str) -> Selection:
    by_reward = sorted(scored, key=_reward, reverse=True)
    top = by_reward[0]
    tied = [c for c in scored if _gap(top, c) < plan.resolution or _gap(top, c) == 0]
    rest = [c for c in by_reward if c not in tied]
    margin = _gap(top, by_reward[1]) if len(by_reward) > 1 else None
    tie_break = None
    if len(tied) > 1:
        tie_break = f"board order: {len(tied)} within the resolution of {plan.resolution:.3g}"
    return Selection(
        winner=tied[0].candidate.id,
        ranking=tuple(c.candidate.id for c in [*tied, *rest]),
        strategy="best_of_n",
        reason=_reason(tied, rest, plan) + passed_over,
        margin=margin,
        tie_break=tie_break,
    )


def _reason(tied: Sequence[ScoredCandidate], rest: Sequence[ScoredCandidate], plan: Plan) -> str:
    total = len(tied) + len(rest)
    if total == 1:
        return "the only scored candidate"
    said = f"highest reward of {total} scored candidates"
    if len(tied) > 1:
        said = f"too close to call among {len(tied)}: first of them in board order"
    overtaken = [c.candidate.member for c in rest if _seat(c, plan) < _seat(tied[0], plan)]
    if overtaken:
        said += f"; plainly lower: {', '.join(dict.fromkeys(overtaken))}"
    return said


def _passed_over(withheld: int, unscored: int) -> str:
    said = [
        f"{count} {what} not compared"
        for count, what in ((withheld, "withheld"), (unscored, "unscored"))
        if count
    ]
    return f" ({', '.join(said)})" if said else ""


def _in_board_order(candidates: Sequence[ScoredCandidate], plan: Plan) -> list[ScoredCandidate]:
    return sorted(candidates, key=lambda c: (_seat(c, plan), c.candidate.id))


def _seat(candidate: ScoredCandidate, plan: Plan) -> int:
    return plan.members.index(candidate.candidate.member)


def _gap(top: ScoredCandidate, other: ScoredCandidate) -> float:
    return _reward(top) - _reward(other)


def _reward(candidate: ScoredCandidate) -> float:
    assert candidate.reward is not None  # callers pass scored candidates only
    return candidate.reward


def _withheld(candidate: ScoredCandidate) -> bool:
    outcome = candidate.candidate.outcome
    return isinstance(outcome, Completion) and outcome.withheld

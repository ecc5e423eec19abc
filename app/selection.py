"""Strategies: pure functions from scored candidates and a plan to a selection.

All of them choose among comparable replies: what a vendor withheld (refusal, filter) comes into
it only if there is nothing else, a failure never does, and a reply that could not be scored never
beats a scored one without the selection saying so. The order in which candidates come does not
matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from app.domain import Completion, Plan, ScoredCandidate, Selection, StrategyName

Strategy = Callable[[Sequence[ScoredCandidate], Plan], Selection]


def best_of_n(candidates: Sequence[ScoredCandidate], plan: Plan) -> Selection:
    """The candidate with the highest reward; rewards within the plan's resolution of it are tied,
    and a tie goes by standing, which without one is board order."""
    field = _field(candidates, plan)
    if not field.replies:
        return Selection(None, (), plan.strategy, f"none of {len(candidates)} members replied")
    if not field.scored:
        reason = f"no reply could be scored: first of {len(field.replies)} {_order(plan)}"
        return Selection(field.replies[0].candidate.id, (), plan.strategy, reason)
    chosen = _highest(field, plan)
    if plan.length_slope:
        uncontrolled = _highest(field.raw, plan)
        chosen = replace(chosen, length_control=_length_control(field, chosen, uncontrolled, plan))
    return _above_floor(field, chosen, plan)


def majority_vote(candidates: Sequence[ScoredCandidate], plan: Plan) -> Selection:
    """The most frequent extracted answer (self-consistency, arXiv 2203.11171), shown by its
    highest reward. Equal counts go by the standing of the first member that gave each."""
    return _vote(candidates, plan, lambda field: {c.candidate.id: 1.0 for c in field.replies})


def weighted_vote(candidates: Sequence[ScoredCandidate], plan: Plan) -> Selection:
    """The extracted answer with most weight, shown by its highest reward.

    A reply weighs 1 if its reward is within the resolution of the highest, and a factor of e less
    for each further resolution below: what the scorer cannot tell apart counts alike, a plain
    failure counts for next to nothing, and neither shifting nor scaling the rewards matters.
    Unscored replies do not vote.
    """
    return _vote(candidates, plan, lambda field: _confidence(field, plan))


STRATEGIES: Mapping[StrategyName, Strategy] = {
    "best_of_n": best_of_n,
    "majority_vote": majority_vote,
    "weighted_vote": weighted_vote,
    # These differ in who is asked and when (ensemble.py); what came back is compared as above.
    "single": best_of_n,
    "cascade": best_of_n,
    "first_good": best_of_n,
    "fuse": best_of_n,
}


@dataclass(frozen=True)
class _Field:
    """What may be compared, in the order ties go, and the rewards it is compared by."""

    replies: Sequence[ScoredCandidate]
    rewards: Mapping[str, float]
    left_out: str
    raw_rewards: Mapping[str, float]

    @property
    def scored(self) -> list[ScoredCandidate]:
        return [c for c in self.replies if c.candidate.id in self.rewards]

    @property
    def raw(self) -> _Field:
        """Without length control."""
        return replace(self, rewards=self.raw_rewards)

    def reward(self, candidate: ScoredCandidate) -> float:
        return self.rewards[candidate.candidate.id]


def _field(candidates: Sequence[ScoredCandidate], plan: Plan) -> _Field:
    replied = [c for c in candidates if isinstance(c.candidate.outcome, Completion)]
    honest = [c for c in replied if not _withheld(c)]
    replies = sorted(honest or replied, key=lambda c: (_place(c, plan), c.candidate.id))
    raw = {c.candidate.id: c.reward for c in replies if c.reward is not None}
    rewards = {id_: raw[id_] - plan.length_slope * excess for id_, excess in _lengths(replies, raw)}
    left_out = _left_out(len(replied) - len(replies), len(replies) - len(raw))
    return _Field(replies, rewards, left_out, raw)


def _lengths(
    replies: Sequence[ScoredCandidate], raw: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Log length of each scored reply, less their mean."""
    logs = [(c.candidate.id, math.log1p(len(_text(c)))) for c in replies if c.candidate.id in raw]
    mean = sum(log for _, log in logs) / len(logs) if logs else 0.0
    return [(id_, log - mean) for id_, log in logs]


def _highest(field: _Field, plan: Plan) -> Selection:
    scored = field.scored
    by_reward = sorted(scored, key=field.reward, reverse=True)
    top = by_reward[0]

    def gap(other: ScoredCandidate) -> float:
        return field.reward(top) - field.reward(other)

    tied = [c for c in scored if gap(c) < plan.resolution or gap(c) == 0]
    rest = [c for c in by_reward if c not in tied]
    tie_break = None
    if len(tied) > 1:
        what = f"{len(tied)} within the resolution of {plan.resolution:.3g}"
        tie_break = _tie_break(tied, plan, what)
    return Selection(
        winner=tied[0].candidate.id,
        ranking=tuple(c.candidate.id for c in [*tied, *rest]),
        strategy=plan.strategy,
        reason=_reason(tied, rest, plan) + field.left_out,
        margin=gap(by_reward[1]) if len(by_reward) > 1 else None,
        tie_break=tie_break,
    )


def _vote(
    candidates: Sequence[ScoredCandidate],
    plan: Plan,
    weigh: Callable[[_Field], Mapping[str, float]],
) -> Selection:
    field = _field(candidates, plan)
    weights = weigh(field)
    votes: dict[str, float] = defaultdict(float)
    voters = [c for c in field.replies if c.extracted is not None and c.candidate.id in weights]
    for c in voters:
        votes[str(c.extracted)] += weights[c.candidate.id]
    if not votes:
        chosen = best_of_n(candidates, plan)
        return replace(chosen, reason=f"no answer could be extracted to vote on; {chosen.reason}")
    most = max(votes.values())
    # Sums of floats in another order may differ in their last digits.
    leading = {answer for answer, weight in votes.items() if math.isclose(weight, most)}
    firsts: dict[str, ScoredCandidate] = {}
    for c in voters:
        if c.extracted in leading:
            firsts.setdefault(str(c.extracted), c)
    agreed = next(iter(firsts))
    camp = _field([c for c in voters if c.extracted == agreed], plan)
    shown = _highest(camp, plan) if camp.scored else None
    winner = shown.winner if shown else camp.replies[0].candidate.id
    first = shown.ranking if shown else [c.candidate.id for c in camp.replies]
    others = sorted((c for c in field.scored if c not in camp.replies), key=field.reward)[::-1]
    tie_break = None
    if len(leading) > 1:
        tie_break = _tie_break([*firsts.values()], plan, f"{len(leading)} answers got as much")
    return _above_floor(
        field,
        Selection(
            winner=winner,
            ranking=(*first, *(c.candidate.id for c in others)),
            strategy=plan.strategy,
            reason=_vote_reason(camp, voters, len(votes), plan, scored=bool(shown))
            + field.left_out,
            margin=shown.margin if shown else None,
            tie_break=tie_break or (shown.tie_break if shown else None),
            votes=dict(sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))),
        ),
        plan,
    )


def _vote_reason(
    camp: _Field, voters: Sequence[ScoredCandidate], answers: int, plan: Plan, *, scored: bool
) -> str:
    said = f"{len(camp.replies)} of {len(voters)} voters agree, of {answers} answers"
    return said if scored else f"{said}; none of them could be scored: first {_order(plan)}"


def _confidence(field: _Field, plan: Plan) -> Mapping[str, float]:
    if not field.rewards:
        return {}
    top, bottom = max(field.rewards.values()), min(field.rewards.values())
    unit = plan.resolution or top - bottom or 1.0
    return {id_: min(1.0, math.exp(1 - (top - r) / unit)) for id_, r in field.rewards.items()}


def _above_floor(field: _Field, chosen: Selection, plan: Plan) -> Selection:
    """The selection, or none if what it chose has a reward under the plan's floor."""
    reward = field.raw_rewards.get(chosen.winner or "")
    if plan.floor is None or reward is None or reward >= plan.floor:
        return chosen
    reason = f"abstained: the best reward, {reward:.3g}, is under the floor of {plan.floor:.3g}"
    return replace(chosen, winner=None, tie_break=None, reason=reason)


def _length_control(field: _Field, chosen: Selection, raw: Selection, plan: Plan) -> str:
    told = f"{plan.length_slope:.3g} of reward taken off for each unit of log length"
    if chosen.winner == raw.winner:
        return f"{told}; the choice is the same without"
    other = next(c for c in field.replies if c.candidate.id == raw.winner)
    return f"{told}; without it {other.candidate.member} would have been chosen"


def _reason(tied: Sequence[ScoredCandidate], rest: Sequence[ScoredCandidate], plan: Plan) -> str:
    total = len(tied) + len(rest)
    if total == 1:
        return "the only scored candidate"
    said = f"highest reward of {total} scored candidates"
    if len(tied) > 1:
        said = f"too close to call among {len(tied)}: first of them {_order(plan)}"
    overtaken = [c.candidate.member for c in rest if _place(c, plan) < _place(tied[0], plan)]
    if overtaken:
        said += f"; plainly lower: {', '.join(dict.fromkeys(overtaken))}"
    return said


def _left_out(withheld: int, unscored: int) -> str:
    said = [
        f"{count} {what} not compared"
        for count, what in ((withheld, "withheld"), (unscored, "unscored"))
        if count
    ]
    return f" ({', '.join(said)})" if said else ""


def _place(candidate: ScoredCandidate, plan: Plan) -> int:
    """Place in the order in which ties go; what has no seat of its own (a fusion, a reserve)
    comes after the members."""
    seats = plan.tie_order
    member = candidate.candidate.member
    return seats.index(member) if member in seats else len(seats)


def _order(plan: Plan) -> str:
    return "by standing" if plan.standing else "in board order"


def _tie_break(tied: Sequence[ScoredCandidate], plan: Plan, what: str) -> str:
    """By what the tie went: the win rates of the tied, or board order and why not win rates."""
    if not plan.standing:
        return f"board order: {what}" + (f" ({plan.no_standing})" if plan.no_standing else "")
    members = dict.fromkeys(c.candidate.member for c in tied)
    return f"standing: {', '.join(_record(member, plan) for member in members)}; {what}"


def _record(member: str, plan: Plan) -> str:
    rate = plan.win_rates.get(member)
    return f"{member} won {rate.share:.1%} of {rate.competed}" if rate else member


def _text(candidate: ScoredCandidate) -> str:
    outcome = candidate.candidate.outcome
    return outcome.text if isinstance(outcome, Completion) else ""


def _withheld(candidate: ScoredCandidate) -> bool:
    outcome = candidate.candidate.outcome
    return isinstance(outcome, Completion) and outcome.withheld

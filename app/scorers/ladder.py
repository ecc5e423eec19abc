"""The ladder: scorers in the operator's order, of which one scores a whole run.

Rewards of two scorers are on two scales, so the candidates of one run are scored by one step. A
step that leaves any candidate without a score gives way to the next, which scores all of them
anew. If no step can score them all, the one that scored most serves (the higher one if there are
two), and the rest stay unscored.

`Ladder` is no `Scorer` on purpose: scoring one reply at a time would mix scales unseen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

from app.domain import Completion, Failure, LadderStep, Score, ScorerInfo
from app.scorers import Scorer
from app.scorers.self_check import Grade, grade

log = logging.getLogger("starboard")

ScoreWith = Callable[[Scorer, Completion], Awaitable[Score]]
"""Scores a completion with one scorer; a failure is a score's outcome, never raised."""

UNSCORED = ScorerInfo("none", "none", "helpsteer", 0.0, "no scorer is left on the ladder")


@dataclass(eq=False)
class Step:
    """A scorer on the ladder. `grade` is its self-check's, None as long as there is none."""

    scorer: Scorer
    grade: Grade | None = None

    @property
    def stands(self) -> bool:
        return self.grade is None or self.grade.passed

    @property
    def name(self) -> str:
        return self.scorer.info.name

    @property
    def at_rest(self) -> LadderStep:
        """What there is to tell of a step that nobody asked."""
        if self.stands:
            return LadderStep(self.name, "not_asked")
        return LadderStep(self.name, "off", str(self.grade))


@dataclass(frozen=True)
class Ladder:
    """The steps, best first."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, *scorers: Scorer) -> Ladder:
        return cls(tuple(Step(scorer) for scorer in scorers))

    @property
    def info(self) -> ScorerInfo:
        """The step that is asked first, and who stands below it."""
        first = next((step.scorer.info for step in self.steps if step.stands), UNSCORED)
        return replace(first, ladder=tuple(step.at_rest for step in self.steps))

    def descent(self, score_with: ScoreWith) -> Descent:
        """The scoring of one run."""
        return Descent(self.steps, score_with)

    async def check(self, limit_s: float) -> None:
        """Put every step to its self-check, side by side and within `limit_s` seconds.

        A step that fails is off from then on; one that could not be reached stays.
        """
        await asyncio.gather(*(_check(step, limit_s) for step in self.steps))


@dataclass
class Descent:
    """One run's way down the ladder."""

    all_steps: tuple[Step, ...]
    score_with: ScoreWith
    _standing: tuple[Step, ...] = field(init=False)
    _scores: list[dict[str, Score]] = field(init=False)
    _spent_s: dict[str, float] = field(init=False, default_factory=dict)
    _at: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        # What stands when the run begins: a self-check may end in the middle of it.
        self._standing = tuple(step for step in self.all_steps if step.stands)
        self._scores = [{} for _ in self._standing]

    async def score(self, id_: str, completion: Completion) -> Score:
        """The score of a candidate that has just arrived, by the step that the run has come to.

        It holds unless `settle` says otherwise: a later candidate may send the run further down.
        """
        if not self._standing:
            return _no_scorer()
        while True:
            at = self._at
            score = await self._ask(at, id_, completion)
            if _failed(score) and at == self._at and at < self._last:
                self._at += 1
            if at == self._at:
                return score

    async def settle(
        self, completions: Mapping[str, Completion]
    ) -> tuple[ScorerInfo, Mapping[str, Score]]:
        """All candidates scored by one step, and who that was. A score's `latency_s` counts every
        step that was asked about the candidate."""
        if not self._standing:
            return self._info(None, completions), dict.fromkeys(completions, _no_scorer())
        await self._fill(self._at, completions)
        while self._unscored_by(self._at, completions) and self._at < self._last:
            self._at += 1
            await self._fill(self._at, completions)
        if self._unscored_by(self._at, completions):
            # No step scored all. Those it was never asked about, one of them may still score.
            for at in range(len(self._standing)):
                await self._fill(at, completions)
        return self.held(completions)

    def held(self, ids: Collection[str]) -> tuple[ScorerInfo, Mapping[str, Score]]:
        """The scores of the step that has scored most of these candidates, and who that was.
        Nobody is asked: a candidate that has not come to be scored has no score."""
        if not self._standing:
            return self._info(None, ids), {}
        steps = range(len(self._standing))
        chosen = min(steps, key=lambda at: (self._unscored_by(at, ids), at))
        scores = self._scores[chosen]
        told = {id_: self._with_all_spent(id_, scores[id_]) for id_ in ids if id_ in scores}
        return self._info(self._standing[chosen], ids), told

    @property
    def _last(self) -> int:
        return len(self._standing) - 1

    async def _fill(self, at: int, completions: Mapping[str, Completion]) -> None:
        asked = self._scores[at]
        await asyncio.gather(
            *(self._ask(at, id_, done) for id_, done in completions.items() if id_ not in asked)
        )

    async def _ask(self, at: int, id_: str, completion: Completion) -> Score:
        score = await self.score_with(self._standing[at].scorer, completion)
        self._scores[at][id_] = score
        self._spent_s[id_] = self._spent_s.get(id_, 0.0) + score.latency_s
        return score

    def _with_all_spent(self, id_: str, score: Score) -> Score:
        spent_s = self._spent_s[id_]
        return score if score.latency_s == spent_s else replace(score, latency_s=spent_s)

    def _unscored_by(self, at: int, ids: Collection[str]) -> int:
        scores = self._scores[at]
        return sum(id_ not in scores or _failed(scores[id_]) for id_ in ids)

    def _info(self, chosen: Step | None, ids: Collection[str]) -> ScorerInfo:
        """Who scored: the step's own words, whom it stands in for, and what became of the rest."""
        info = chosen.scorer.info if chosen else UNSCORED
        ladder = tuple(self._outcome(step, len(ids)) for step in self.all_steps)
        above = [step.name for step in takewhile(lambda s: s is not chosen, self.all_steps)]
        stands_in = f"in place of {', '.join(above)}" if chosen and above else None
        note = "; ".join(filter(None, (stands_in, info.note))) or None
        return replace(info, note=note, ladder=ladder)

    def _outcome(self, step: Step, replies: int) -> LadderStep:
        scores = self._scores[self._standing.index(step)] if step in self._standing else {}
        failures = [s.outcome for s in scores.values() if isinstance(s.outcome, Failure)]
        if not scores:
            return step.at_rest
        if not failures:
            return LadderStep(step.name, "scored")
        first = failures[0].message
        if len(failures) == len(scores):
            return LadderStep(step.name, "failed", first)
        return LadderStep(step.name, "partial", f"{len(failures)} of {replies} unscored: {first}")


async def _check(step: Step, limit_s: float) -> None:
    step.grade = await grade(step.scorer, limit_s)
    if not step.stands:
        log.warning("scorer %s is off the ladder: %s", step.name, step.grade)


def _failed(score: Score) -> bool:
    return isinstance(score.outcome, Failure)


def _no_scorer() -> Score:
    return Score(Failure("unavailable", "no scorer is left on the ladder"))

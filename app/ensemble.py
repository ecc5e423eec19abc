"""The verbs: fan out, score, select, record.

One pipeline for every route: `Ensemble.answer` reports events to a listener and returns the
stored answer; whoever streams draws the events.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Protocol, TypeVar

import stamina

from app.domain import (
    Answer,
    Attributes,
    Candidate,
    Completed,
    Completion,
    Failed,
    Failure,
    Listener,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    Scored,
    ScoredCandidate,
    ScorerInfo,
    Selected,
    Started,
    Timings,
    Weights,
)
from app.errors import (
    DeadlineError,
    InvalidRequestError,
    NoBoardError,
    NoCandidateError,
    UpstreamError,
    as_failure,
    boundary,
)
from app.providers import Provider
from app.scorers import Scorer
from app.scorers.ladder import Descent, Ladder
from app.selection import STRATEGIES

T = TypeVar("T")

ATTEMPTS = 2
COMPARABLE_WITHIN_ONE_PROMPT = "one reward without attributes: comparable within one prompt only"


class AnswerSink(Protocol):
    """Where answers are kept."""

    async def save(self, answer: Answer) -> None: ...


@dataclass(frozen=True)
class Ensemble:
    """The board and its ladder of scorers. `members` are in board order.

    `timeout_s` limits one call to a member or scorer; a plan's deadline limits the run.
    """

    members: Mapping[str, Provider]
    ladder: Ladder
    store: AnswerSink
    timeout_s: float = 55.0

    async def answer(
        self,
        prompt: Prompt,
        plan: Plan,
        listener: Listener | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run the plan and return the answer, stored.

        A candidate is scored the moment it arrives, so the wait is the slowest member with its
        score; only a run that goes down the ladder scores again after that. Cancelling this call
        cancels every upstream call. Raises `NoCandidateError` or `DeadlineError` if no member
        replied; that run is stored too.
        """
        self._check(plan)
        tell = listener or _ignore
        run = _Run(_now(), plan.deadline_s, self.timeout_s)
        descent = self.ladder.descent(partial(_score, run, prompt))
        async with asyncio.TaskGroup() as group:
            ask = partial(_member, run, descent, prompt=prompt, plan=plan, tell=tell)
            tasks = [
                group.create_task(ask(self.members[name]))
                for name in plan.members
                for _ in range(plan.samples)
            ]
        arrived = tuple(task.result() for task in tasks)
        info, candidates = await _settled(descent, arrived, plan.weights, tell)
        plan = replace(plan, resolution=_resolution(info, plan.weights))
        answer = _answer(run, prompt, plan, candidates=candidates, scorer=info, tags=tags or {})
        await self.store.save(answer)
        tell(Selected(answer))
        _raise_if_nobody_replied(answer, run)
        return answer

    def _check(self, plan: Plan) -> None:
        if not self.members:
            raise NoBoardError("set a key or configure a member; `starboard models` says which")
        for name in plan.members:
            if name not in self.members:
                seated = ", ".join(self.members)
                raise InvalidRequestError("members", f"{name} is not seated; seated: {seated}")
        if plan.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise InvalidRequestError("plan.strategy", f"not known; known: {known}")


async def _member(
    run: _Run, descent: Descent, provider: Provider, *, prompt: Prompt, plan: Plan, tell: Listener
) -> ScoredCandidate:
    tell(Started(provider.name))
    started = _now()
    outcome = await run.call(provider.name, lambda: provider.complete(prompt))
    candidate = Candidate(
        id=new_id("cand"),
        member=provider.name,
        model=outcome.model if isinstance(outcome, Completion) else provider.model,
        outcome=outcome,
        latency_s=_now() - started,
    )
    if isinstance(outcome, Failure):
        tell(Failed(candidate))
        return ScoredCandidate(candidate)
    tell(Completed(candidate))
    if not outcome.text.strip():  # withheld without a word: there is nothing to score
        return ScoredCandidate(candidate)
    scored = _scored(candidate, await descent.score(candidate.id, outcome), plan.weights)
    tell(Scored(scored))
    return scored


async def _score(run: _Run, prompt: Prompt, scorer: Scorer, completion: Completion) -> Score:
    started = _now()
    score = await run.call(scorer.info.name, lambda: scorer.score(prompt, completion))
    if isinstance(score, Failure):
        score = Score(score)
    return replace(score, latency_s=_now() - started)


async def _settled(
    descent: Descent, arrived: tuple[ScoredCandidate, ...], weights: Weights, tell: Listener
) -> tuple[ScorerInfo, tuple[ScoredCandidate, ...]]:
    """Who scored, and the candidates with the scores that hold: all of one scorer."""
    completions = {
        c.candidate.id: c.candidate.outcome
        for c in arrived
        if c.score is not None and isinstance(c.candidate.outcome, Completion)
    }
    info, scores = await descent.settle(completions)
    candidates = []
    for told in arrived:
        held = told
        if told.score is not None:
            held = _scored(told.candidate, scores[told.candidate.id], weights)
            if held.score is not None and held.score.outcome != told.score.outcome:
                tell(Scored(held))
        candidates.append(held)
    return _as_scored(info, candidates), tuple(candidates)


def _scored(candidate: Candidate, score: Score, weights: Weights) -> ScoredCandidate:
    return ScoredCandidate(candidate, score, _reward(score, weights))


def _as_scored(info: ScorerInfo, candidates: Sequence[ScoredCandidate]) -> ScorerInfo:
    """The scorer with the scale that its scores turned out to have: one adapter may serve models
    that report five attributes and models that report one reward."""
    scalar = any(c.score and isinstance(c.score.outcome, ScalarReward) for c in candidates)
    if not scalar or info.scale == "calibrated":
        return info
    note = "; ".join(filter(None, (info.note, COMPARABLE_WITHIN_ONE_PROMPT)))
    return replace(info, scale="scalar", note=note)


@dataclass(frozen=True)
class _Run:
    """The clock of one run, and the one place where calls are limited and retried."""

    started: float
    deadline_s: float
    timeout_s: float

    @property
    def remaining_s(self) -> float:
        return self.started + self.deadline_s - _now()

    async def call(self, name: str, call: Callable[[], Awaitable[T]]) -> T | Failure:
        """The call's result, or its failure after the retry that the policy allows."""
        policy = stamina.retry_context(
            on=self._may_retry, attempts=ATTEMPTS, wait_initial=0.1, wait_max=2, wait_jitter=0.2
        )
        try:
            async for attempt in policy:
                with attempt:
                    return await self._attempt(name, call)
        except UpstreamError as error:
            return as_failure(error)
        raise AssertionError("the retry policy ends in a result or an error")

    async def _attempt(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        limit = min(self.timeout_s, self.remaining_s)
        if limit <= 0:
            raise _out_of_time(name, self.deadline_s)
        try:
            async with asyncio.timeout(limit) as clock:
                with boundary(name):
                    return await call()
        except TimeoutError as error:
            if self.remaining_s <= 0:
                raise _out_of_time(name, self.deadline_s) from error
            assert clock.expired()
            raise UpstreamError("timeout", f"{name}: no reply in {limit:g} s") from error

    def _may_retry(self, error: Exception) -> bool | float:
        """Retry what may pass, after the wait the upstream asked for, if the deadline allows."""
        if not isinstance(error, UpstreamError) or not error.retryable:
            return False
        wait = error.retry_after_s
        if (wait or 0) >= self.remaining_s:
            return False
        return True if wait is None else wait


def new_id(kind: str) -> str:
    """An identifier that cannot be guessed: whoever has it may read what it names."""
    return f"{kind}_{secrets.token_hex(12)}"


def _answer(
    run: _Run,
    prompt: Prompt,
    plan: Plan,
    *,
    candidates: tuple[ScoredCandidate, ...],
    scorer: ScorerInfo,
    tags: Mapping[str, str],
) -> Answer:
    selection = STRATEGIES[plan.strategy](candidates, plan)
    missing = _missing(candidates, scorer)
    return Answer(
        id=new_id("ans"),
        created=datetime.now(UTC),
        prompt=prompt,
        plan=plan,
        candidates=candidates,
        selection=selection,
        scorer=scorer,
        timings=_timings(candidates, _now() - run.started),
        quality="degraded" if missing else "full",
        missing=missing,
        tags=tags,
    )


def _missing(candidates: Sequence[ScoredCandidate], info: ScorerInfo) -> tuple[str, ...]:
    """Members, then scorers, that did not deliver. Of the ladder that is whatever stands above
    the step that scored all; with no such step, all that were asked."""
    names = [c.candidate.member for c in candidates if isinstance(c.candidate.outcome, Failure)]
    above = takewhile(lambda step: step.outcome != "scored", info.ladder)
    scorers = [step.name for step in above if step.outcome != "not_asked"]
    return tuple(dict.fromkeys([*names, *scorers]))


def _timings(candidates: Sequence[ScoredCandidate], total_s: float) -> Timings:
    """`scoring_s` is what scoring added to the wait; the slowest path is member and score."""
    slowest_member = max((c.candidate.latency_s for c in candidates), default=0.0)
    slowest_path = max(
        (c.candidate.latency_s + (c.score.latency_s if c.score else 0.0) for c in candidates),
        default=0.0,
    )
    return Timings(
        total_s, slowest_member, slowest_path - slowest_member, max(0.0, total_s - slowest_path)
    )


def _reward(score: Score, weights: Weights) -> float | None:
    match score.outcome:
        case Attributes() as attributes:
            return weights.reward(attributes)
        case ScalarReward(value):
            return value
        case Failure():
            return None


def _resolution(info: ScorerInfo, weights: Weights) -> float:
    """The scorer's resolution was measured under the default weights; other weights stretch
    attribute rewards by their magnitude."""
    if info.scale != "helpsteer":
        return info.resolution
    return info.resolution * weights.magnitude / Weights().magnitude


def _raise_if_nobody_replied(answer: Answer, run: _Run) -> None:
    failures = {
        c.candidate.member: c.candidate.outcome
        for c in answer.candidates
        if isinstance(c.candidate.outcome, Failure)
    }
    if answer.selection.winner is not None:
        return
    late = any(failure.kind == "timeout" for failure in failures.values())
    if late and run.remaining_s <= 0:
        detail = f"no member replied within {run.deadline_s:g} s"
        raise DeadlineError(detail, failures, answer.id)
    raise NoCandidateError("see `members` for what each one met with", failures, answer.id)


def _out_of_time(name: str, deadline_s: float) -> UpstreamError:
    return UpstreamError("timeout", f"{name}: not done before the deadline of {deadline_s:g} s")


def _ignore(_: object) -> None:
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()

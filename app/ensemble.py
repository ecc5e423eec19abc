"""The verbs: fan out, score, select, record.

One pipeline for every route: `Ensemble.answer` reports events to a listener and returns the
stored answer; whoever streams draws the events.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Any, Protocol, TypeVar

from app.calls import calls_of
from app.domain import (
    Answer,
    Attributes,
    Candidate,
    Completed,
    Completion,
    Event,
    Failed,
    Failure,
    Listener,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    Scored,
    ScoredCandidate,
    ScoredReply,
    ScorerInfo,
    Selected,
    Selection,
    Started,
    Timings,
    Weights,
)
from app.errors import (
    DeadlineError,
    InvalidRequestError,
    NoBoardError,
    NoCandidateError,
    StoreError,
    UncoveredError,
    UpstreamError,
)
from app.extraction import agreement
from app.fusion import fusion_prompt
from app.gates import Gate
from app.metering import (
    Billed,
    Booked,
    Charge,
    Meter,
    Passage,
    Tariff,
    prompt_tokens,
    text_tokens,
)
from app.providers import Provider
from app.retries import Retries, limited
from app.scorers import Scorer
from app.scorers.ladder import Descent, Ladder
from app.selection import STRATEGIES
from app.standing import Standing

T = TypeVar("T", bound=Billed)

Watch = Callable[[], AbstractContextManager[Listener]]
"""Entered when a run begins and left when it ends, however it ends; its listener is told every
event of that run."""

# A longer wait than this is not worth holding the others' replies for.
LONGEST_WAIT_S = 5.0
RETRIES = Retries(attempts=2, backoff_s=(0.1, 0.3), longest_wait_s=LONGEST_WAIT_S)
STORE_GRACE_S = 5.0
# asyncio's timers may fire so much early, and a run that was cut off by one is late all the same.
TIMER_S = 0.001
ABANDONED = "abandoned: the run was cancelled before it was over"
COMPARABLE_WITHIN_ONE_PROMPT = "one reward without attributes: comparable within one prompt only"
NOTHING_TO_SCORE = Score(Failure("bad_reply", "the reply is empty: there is nothing to score"))
NOT_A_NUMBER = Failure("bad_reply", "the reward is not a finite number")
VOTES = ("majority_vote", "weighted_vote")


class AnswerSink(Protocol):
    """Where answers are kept."""

    async def save(self, answer: Answer) -> None: ...


@dataclass(frozen=True)
class Ensemble:
    """The board and its ladder of scorers. `members` are in board order.

    `timeout_s` limits one call to a member or scorer; a plan's deadline limits the run, and
    `max_calls` how many calls for replies it may come to. Without a `standing`, ties go as the plan
    has it. `gates` stand before the members of their names, `watches` are set on every run of
    `answer`, and `booked` is told of every call.
    """

    members: Mapping[str, Provider]
    ladder: Ladder
    store: AnswerSink
    timeout_s: float = 55.0
    standing: Standing | None = None
    tariff: Tariff = field(default_factory=Tariff)
    max_calls: int = 64
    gates: Mapping[str, Gate] = field(default_factory=dict)
    watches: tuple[Watch, ...] = ()
    booked: Booked | None = None

    def quote(self, prompt: Prompt, plan: Plan) -> int:
        """The most the run of a plan that can be may cost, in nano-dollars: what `answer` should
        find reserved. Raises `BudgetError` if a price is not known."""
        return self.tariff.quote(prompt, plan, self._scorers())

    def quote_scores(self, prompt: Prompt, replies: Sequence[str]) -> int:
        """As `quote`, for `score`."""
        return self.tariff.quote_scores(prompt, replies, self._scorers())

    def _scorers(self) -> list[str]:
        return [step.name for step in self.ladder.steps if step.stands]

    async def answer(
        self,
        prompt: Prompt,
        plan: Plan,
        listener: Listener | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        key_id: str | None = None,
        meter: Meter | None = None,
        id_: str | None = None,
    ) -> Answer:
        """Run the plan and return the answer, stored as `id_` or an id of its own, with its `tags`
        and the API key's `key_id` that asked. Every call is booked on the `meter`.

        A candidate is scored the moment it arrives, so the wait is the slowest member with its
        score; only a run that goes down the ladder scores again after that. Cancelling this call
        cancels every upstream call and stores what had come by then. Raises `NoCandidateError`
        or `DeadlineError` if too few members replied; that run is stored too.
        """
        self.check(plan)
        plan = self.standing.settle(plan) if self.standing else plan
        run = self._begin(plan.deadline_s, meter)
        descent = self.ladder.descent(partial(_score, run, prompt))
        with ExitStack() as watching:
            tell = _to_all([listener, *(watching.enter_context(watch()) for watch in self.watches)])
            record = _Record(tell)
            panel = _Panel(self.members, self.gates, run, descent, prompt, plan, tell=record)
            id_ = id_ or new_id("ans")
            answer_of = partial(_answer, run, prompt, plan, id_=id_, tags=tags or {}, key_id=key_id)
            try:
                info, settled = await panel.settled(await _ask(panel))
                candidates = await _with_extracted(settled, plan)
            except asyncio.CancelledError:
                info, candidates = panel.held(record.arrived.values())
                if candidates:
                    abandoned = _abandoned(answer_of(scorer=info, candidates=candidates))
                    with suppress(StoreError):  # nobody is left to be told
                        await to_the_end(self._save(abandoned, run))
                raise
            answer = answer_of(scorer=info, candidates=candidates)
            await to_the_end(self._save(answer, run))
            panel.tell(Selected(answer))
            if error := shortfall(answer):
                raise error
            return answer

    async def score(
        self,
        prompt: Prompt,
        replies: Sequence[str],
        *,
        weights: Weights,
        deadline_s: float,
        meter: Meter | None = None,
    ) -> tuple[ScorerInfo, list[ScoredReply]]:
        """Score replies from elsewhere, all by one step of the ladder, in their order.

        An empty reply is a failure of its own. Nothing is stored.
        """
        run = self._begin(deadline_s, meter)
        descent = self.ladder.descent(partial(_score, run, prompt))
        completions = {
            str(place): Completion(text, "stop", "unknown")
            for place, text in enumerate(replies)
            if text.strip()
        }
        info, scores = await descent.settle(completions)
        scored = [
            _scored_reply(scores.get(str(place), NOTHING_TO_SCORE), weights)
            for place in range(len(replies))
        ]
        return _as_scored(info, [reply.score for reply in scored]), scored

    def _begin(self, deadline_s: float, meter: Meter | None) -> _Run:
        meter = meter or Meter()
        return _Run(_now(), deadline_s, self.timeout_s, self.tariff, meter, self.booked)

    async def _save(self, answer: Answer, run: _Run) -> None:
        """Store the answer, with a little time of its own where the deadline leaves none."""
        try:
            async with asyncio.timeout(max(run.remaining_s, STORE_GRACE_S)):
                await self.store.save(answer)
        except TimeoutError as error:
            raise StoreError("the database did not take the answer in time") from error

    def check(self, plan: Plan) -> None:
        """Raise `NoBoardError`, or `InvalidRequestError` for a plan that cannot be."""
        if not self.members:
            raise NoBoardError("set a key or configure a member; `starboard models` says which")
        most = calls_of(plan).most
        if most > self.max_calls:
            detail = f"it may come to {most} calls; at most {self.max_calls}"
            raise InvalidRequestError("plan", detail)
        replies = _replies(plan)
        if plan.quorum > replies:
            detail = f"{plan.strategy} may end with {replies} replies to this, not {plan.quorum}"
            raise InvalidRequestError("plan.quorum", detail)
        if plan.strategy in ("cascade", "first_good") and plan.threshold is None:
            raise InvalidRequestError("plan.threshold", f"{plan.strategy} needs a threshold")
        self._check_names(plan)

    def _check_names(self, plan: Plan) -> None:
        named = {
            "members": plan.members,
            "plan.order": plan.order,
            "plan.reserves": plan.reserves,
            "plan.aggregator": (plan.aggregator,) if plan.aggregator else (),
        }
        for place, names in named.items():
            for name in names:
                if name not in self.members:
                    seated = ", ".join(self.members)
                    raise InvalidRequestError(place, f"{name} is not seated; seated: {seated}")
            if len(set(names)) < len(names):
                raise InvalidRequestError(place, "each member may be named once")
        if strangers := [name for name in plan.order if name not in plan.members]:
            detail = f"{strangers[0]} is not among the members asked"
            raise InvalidRequestError("plan.order", detail)


@dataclass(frozen=True)
class _Panel:
    """The members of one run: asks them, scores what they reply, and knows when it is enough."""

    members: Mapping[str, Provider]
    gates: Mapping[str, Gate]
    run: _Run
    descent: Descent
    prompt: Prompt
    plan: Plan
    tell: Listener

    async def gather(
        self, names: Sequence[str], reserves: Sequence[str] = ()
    ) -> list[ScoredCandidate]:
        """Ask these members at once; a reserve takes the place of each that fails.

        Returns as soon as the plan has what it wants, with the rest cancelled and recorded so.
        """
        waiting, samples = list(reserves), Counter[str]()
        asked: dict[asyncio.Task[ScoredCandidate], tuple[str, str, float]] = {}

        def ask(name: str) -> None:
            prompt = self.prompt
            if prompt.sample != samples[name]:
                prompt = replace(prompt, sample=samples[name])
            samples[name] += 1
            id_ = new_id("cand")
            asked[asyncio.ensure_future(self._member(id_, name, prompt))] = (id_, name, _now())

        for name in names:
            ask(name)
        pending = set(asked)
        try:
            while pending and not self._enough([task.result() for task in asked if task.done()]):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if isinstance(task.result().candidate.outcome, Failure) and waiting:
                        ask(waiting.pop(0))
                pending |= {task for task in asked if not task.done()}
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            found = [
                self._cancelled(*call) if task.cancelled() else task.result()
                for task, call in asked.items()
            ]
        return found

    async def _member(self, id_: str, name: str, prompt: Prompt) -> ScoredCandidate:
        """One member's candidate, scored."""
        provider = self.members[name]
        self.tell(Started(name))
        started = _now()
        outcome = await self._complete(name, provider, prompt)
        candidate = Candidate(
            id=id_,
            member=name,
            model=outcome.model if isinstance(outcome, Completion) else provider.model,
            outcome=outcome,
            latency_s=_now() - started,
            cost_usd=self.run.tariff.cost_usd(provider.name, outcome.usage)
            if isinstance(outcome, Completion)
            else None,
        )
        if isinstance(outcome, Failure):
            self.tell(Failed(candidate))
            return ScoredCandidate(candidate)
        self.tell(Completed(candidate))
        if not outcome.text.strip():  # withheld without a word: there is nothing to score
            return ScoredCandidate(candidate)
        score = await self.descent.score(candidate.id, outcome)
        scored = _scored(candidate, score, self.plan.weights)
        self.tell(Scored(scored))
        return scored

    async def settled(
        self, arrived: Sequence[ScoredCandidate]
    ) -> tuple[ScorerInfo, tuple[ScoredCandidate, ...]]:
        """Who scored, and the candidates with the scores that hold: all of one scorer."""
        completions = {
            c.candidate.id: c.candidate.outcome
            for c in arrived
            if c.score is not None and isinstance(c.candidate.outcome, Completion)
        }
        info, scores = await self.descent.settle(completions)
        candidates = []
        for told in arrived:
            held = told
            if told.score is not None and told.score is not scores[told.candidate.id]:
                held = _scored(told.candidate, scores[told.candidate.id], self.plan.weights)
                if held.score is not None and held.score.outcome != told.score.outcome:
                    self.tell(Scored(held))
            candidates.append(held)
        return _as_scored(info, [c.score for c in candidates]), tuple(candidates)

    def held(
        self, arrived: Collection[Candidate]
    ) -> tuple[ScorerInfo, tuple[ScoredCandidate, ...]]:
        """As `settled`, with the scores there are: nobody is asked for more."""
        replies = [c.id for c in arrived if isinstance(c.outcome, Completion)]
        info, scores = self.descent.held(replies)
        candidates = tuple(
            _scored(c, scores[c.id], self.plan.weights) if c.id in scores else ScoredCandidate(c)
            for c in arrived
        )
        return _as_scored(info, scores.values()), candidates

    async def _complete(
        self, name: str, provider: Provider, prompt: Prompt
    ) -> Completion | Failure:
        """The member's reply; with a hedge, whichever of two calls replies first."""
        gate = self.gates.get(provider.name)

        charge = self.run.tariff.reply(provider.name, prompt_tokens(prompt), prompt.max_tokens)

        def call() -> Awaitable[Completion | Failure]:
            passage = gate.passage if gate else nullcontext
            return self.run.call(name, charge, lambda: provider.complete(prompt), passage)

        if self.plan.hedge_s is None:
            return await call()
        first = asyncio.ensure_future(call())
        calls = {first}
        try:
            await asyncio.wait(calls, timeout=self.plan.hedge_s)
            if first.done():
                return first.result()
            calls.add(asyncio.ensure_future(call()))
            return await _first_reply(calls)
        finally:
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _enough(self, found: Sequence[ScoredCandidate]) -> bool:
        rewards = [c.reward for c in found if c.reward is not None and _honest(c)]
        if self.plan.strategy == "first_good" and _clears(rewards, self.plan):
            return True
        return self.plan.on_partial == "accept" and len(rewards) >= self.plan.quorum

    def _cancelled(self, id_: str, name: str, since: float) -> ScoredCandidate:
        failure = Failure("cancelled", f"{name}: no longer needed")
        model = self.members[name].model
        candidate = Candidate(id_, name, model, failure, _now() - since)
        self.tell(Failed(candidate))
        return ScoredCandidate(candidate)


async def _score(run: _Run, prompt: Prompt, scorer: Scorer, completion: Completion) -> Score:
    started = _now()
    name, read = scorer.info.name, prompt_tokens(prompt) + text_tokens(completion.text)
    charge = run.tariff.score(name, read)
    score = await run.call(name, charge, lambda: scorer.score(prompt, completion))
    if isinstance(score, Failure):
        score = Score(score)
    return replace(score, latency_s=_now() - started)


def _scored_reply(score: Score, weights: Weights) -> ScoredReply:
    reward = _reward(score, weights)
    if reward is not None and not math.isfinite(reward):
        return ScoredReply(replace(score, outcome=NOT_A_NUMBER), None)
    return ScoredReply(score, reward)


def _scored(candidate: Candidate, score: Score, weights: Weights) -> ScoredCandidate:
    reply = _scored_reply(score, weights)
    return ScoredCandidate(candidate, reply.score, reply.reward)


def _as_scored(info: ScorerInfo, scores: Iterable[Score | None]) -> ScorerInfo:
    """The scorer with the scale that its scores turned out to have: one adapter may serve models
    that report five attributes and models that report one reward."""
    scalar = any(score and isinstance(score.outcome, ScalarReward) for score in scores)
    if not scalar or info.scale == "calibrated":
        return info
    note = "; ".join(filter(None, (info.note, COMPARABLE_WITHIN_ONE_PROMPT)))
    return replace(info, scale="scalar", note=note)


async def _ask(panel: _Panel) -> tuple[ScoredCandidate, ...]:
    """The part of a strategy that takes time: the rounds, until a reply clears the threshold, and
    the fusion."""
    calls = calls_of(panel.plan)
    found: list[ScoredCandidate] = []
    for names in calls.rounds:
        found += await panel.gather(names, calls.reserves)
        rewards = [c.reward for c in found if c.reward is not None and _honest(c)]
        if _clears(rewards, panel.plan):
            break
    if calls.aggregator:
        found += await _fuse(panel, calls.aggregator, found)
    return tuple(found)


async def _fuse(
    panel: _Panel, name: str, found: Sequence[ScoredCandidate]
) -> list[ScoredCandidate]:
    """A new reply, written from the best ones; a candidate like any other from here on."""
    plan = panel.plan
    info, settled = await panel.settled(found)
    best = STRATEGIES["best_of_n"](settled, comparing(plan, info)).ranking[: plan.top_k]
    by_id = {c.candidate.id: c.candidate.outcome for c in found}
    texts = [o.text for id_ in best if isinstance(o := by_id[id_], Completion)]
    if len(texts) < 2:  # noqa: PLR2004 - one reply is nothing to fuse
        return []
    fusing = f"{name} (fusion)"
    prompt = fusion_prompt(panel.prompt, texts)
    return await replace(panel, members={fusing: panel.members[name]}, prompt=prompt).gather(
        [fusing]
    )


def _replies(plan: Plan) -> int:
    """How many replies a run is sure to have if no member fails. A reserve adds none: it replies in
    the place of another."""
    match plan.strategy:
        case "single" | "first_good":
            return 1
        case "cascade":
            return plan.samples
        case _:
            return len(plan.members) * plan.samples


def _clears(rewards: Sequence[float], plan: Plan) -> bool:
    return plan.threshold is not None and any(reward >= plan.threshold for reward in rewards)


def _honest(candidate: ScoredCandidate) -> bool:
    outcome = candidate.candidate.outcome
    return isinstance(outcome, Completion) and not outcome.withheld


async def _first_reply(calls: set[asyncio.Task[Completion | Failure]]) -> Completion | Failure:
    """The first completion of several calls; a failure only if all fail."""
    pending = set(calls)
    failure: Failure | None = None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            outcome = task.result()
            if isinstance(outcome, Completion):
                return outcome
            failure = outcome
    assert failure is not None
    return failure


async def _with_extracted(
    candidates: tuple[ScoredCandidate, ...], plan: Plan
) -> tuple[ScoredCandidate, ...]:
    """The candidates with their extracted answers, if the plan takes a vote."""
    if plan.strategy not in VOTES:
        return candidates
    texts = [
        c.candidate.outcome.text if isinstance(c.candidate.outcome, Completion) else ""
        for c in candidates
    ]
    answers = await asyncio.to_thread(agreement, texts)
    return tuple(replace(c, extracted=a) for c, a in zip(candidates, answers, strict=True))


@dataclass(frozen=True)
class _Record:
    """Passes events on, and keeps who replied or failed: all there is of a cancelled run."""

    pass_on: Listener
    arrived: dict[str, Candidate] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Completed | Failed):
            # The first holds: a reply that was being scored has been paid for, cancelled or not.
            self.arrived.setdefault(event.candidate.id, event.candidate)
        self.pass_on(event)


@dataclass(frozen=True)
class _Run:
    """The clock of one run, by which its calls are limited and retried, the meter on which they are
    booked, and who else is told."""

    started: float
    deadline_s: float
    timeout_s: float
    tariff: Tariff
    meter: Meter
    told: Booked | None

    @property
    def remaining_s(self) -> float:
        return self.started + self.deadline_s - _now()

    async def call(
        self,
        name: str,
        charge: Charge,
        call: Callable[[], Awaitable[T]],
        passage: Passage = nullcontext,
    ) -> T | Failure:
        """The call's result, or its failure after the retry that the policy and the meter allow;
        each attempt is booked, and made inside the passage."""
        failed: UpstreamError | None = None

        async def attempt() -> T:
            nonlocal failed
            try:
                return await self._attempt(name, charge, call, passage)
            except UpstreamError as error:
                # A retry that is not covered is not made: what failed before it stands.
                failed = failed if failed and isinstance(error, UncoveredError) else error
                raise failed from failed.__cause__

        return await RETRIES.outcome(name, attempt, lambda: self.remaining_s)

    async def _attempt(
        self, name: str, charge: Charge, call: Callable[[], Awaitable[T]], passage: Passage
    ) -> T:
        if self.remaining_s <= 0:
            raise _out_of_time(name, self.deadline_s)
        once = partial(limited, name, call, self.timeout_s)
        try:
            async with asyncio.timeout(self.remaining_s):
                return await self.meter.call(charge, once, passage, self.told)
        except TimeoutError as error:
            raise _out_of_time(name, self.deadline_s) from error


def new_id(kind: str) -> str:
    """An identifier that cannot be guessed: whoever has it may read what it names."""
    return f"{kind}_{secrets.token_hex(12)}"


def _answer(
    run: _Run,
    prompt: Prompt,
    plan: Plan,
    *,
    id_: str,
    candidates: tuple[ScoredCandidate, ...],
    scorer: ScorerInfo,
    tags: Mapping[str, str],
    key_id: str | None,
) -> Answer:
    plan = comparing(plan, scorer)
    selection = STRATEGIES[plan.strategy](candidates, plan)
    asked = {c.candidate.member for c in candidates}
    not_called = tuple(name for name in plan.members if name not in asked)
    selection = replace(selection, not_called=not_called)
    missing = _missing(candidates, scorer)
    return Answer(
        id=id_,
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
        cost_usd=run.meter.cost_usd,
        cost_bound_usd=run.meter.cost_bound_usd,
        key_id=key_id,
    )


def _abandoned(answer: Answer) -> Answer:
    """The answer of a run that was cancelled: nothing is chosen."""
    not_called = answer.selection.not_called
    chosen = Selection(None, (), answer.plan.strategy, ABANDONED, not_called=not_called)
    return replace(answer, selection=chosen, quality="degraded")


def _missing(candidates: Sequence[ScoredCandidate], info: ScorerInfo) -> tuple[str, ...]:
    """Members, then scorers, that did not deliver. Of the ladder that is whatever stands above
    the step that scored all; with no such step, all that were asked."""
    names = [
        c.candidate.member
        for c in candidates
        if isinstance(c.candidate.outcome, Failure) and c.candidate.outcome.kind != "cancelled"
    ]
    above = takewhile(lambda step: step.outcome != "scored", info.ladder)
    scorers = [step.name for step in above if step.outcome != "not_asked"]
    unscored = any(c.score is not None and c.reward is None for c in candidates)
    scorers += [info.name] if unscored and not scorers else []
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


def comparing(plan: Plan, info: ScorerInfo) -> Plan:
    """The plan with the scorer's resolution and length slope under the plan's weights.

    They were measured under the default weights, and other weights stretch attribute rewards by
    their magnitude; one reward alone knows no weights.
    """
    stretch = plan.weights.magnitude / Weights().magnitude if info.scale == "helpsteer" else 1.0
    slope = info.length_slope * stretch if plan.length_control else 0.0
    return replace(plan, resolution=info.resolution * stretch, length_slope=slope)


def abandoned(answer: Answer) -> bool:
    """Whether the run of a stored answer was cancelled."""
    return answer.selection.reason == ABANDONED


def shortfall(answer: Answer) -> NoCandidateError | None:
    """The error of a run in which too few members replied, whether it is just over or was stored.
    To abstain is an answer; to have none is an error."""
    plan = answer.plan
    outcomes = [c.candidate.outcome for c in answer.candidates]
    replies = sum(isinstance(outcome, Completion) for outcome in outcomes)
    failures = {
        c.candidate.member: c.candidate.outcome
        for c in answer.candidates
        if isinstance(c.candidate.outcome, Failure)
    }
    if replies >= plan.quorum and not (plan.on_partial == "fail" and answer.missing):
        return None
    late = any(failure.kind == "timeout" for failure in failures.values())
    if late and answer.timings.total_s >= plan.deadline_s - TIMER_S:
        detail = f"{replies} replies within {plan.deadline_s:g} s"
        return DeadlineError(detail, failures, answer.id)
    wanted = "all" if plan.on_partial == "fail" else f"at least {plan.quorum}"
    detail = f"{replies} of {len(outcomes)} replied, {wanted} must"
    return NoCandidateError(detail, failures, answer.id)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work even if cancelled meanwhile; the cancellation goes on when it is done."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


def _out_of_time(name: str, deadline_s: float) -> UpstreamError:
    return UpstreamError("timeout", f"{name}: not done before the deadline of {deadline_s:g} s")


def _to_all(listeners: Sequence[Listener | None]) -> Listener:
    def tell(event: Event) -> None:
        for listener in listeners:
            if listener:
                listener(event)

    return tell


def _now() -> float:
    return asyncio.get_running_loop().time()

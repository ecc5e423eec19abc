from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from app.domain import (
    Answer,
    Attributes,
    Completed,
    Completion,
    Event,
    Failed,
    Failure,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    Scored,
    ScorerInfo,
    Selected,
    Started,
    Weights,
)
from app.ensemble import Ensemble
from app.errors import (
    DeadlineError,
    InvalidRequestError,
    NoBoardError,
    NoCandidateError,
    UpstreamError,
)
from app.providers.scripted import ScriptedProvider
from app.scorers.ladder import Ladder
from app.scorers.scripted import ScriptedScorer
from tests.samples import FIVE, prompt


@dataclass
class Memory:
    """A store in a list."""

    saved: list[Answer] = field(default_factory=list)

    async def save(self, answer: Answer) -> None:
        self.saved.append(answer)


@dataclass
class Troubled:
    """Raises the errors of a list one after the other, then replies. Counts its calls."""

    name: str
    errors: list[BaseException]
    delay_s: float = 0.0
    model: str = "troubled"
    calls: int = 0
    cancelled: int = 0

    async def complete(self, prompt: Prompt) -> Completion:
        self.calls += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.errors:
            raise self.errors.pop(0)
        return Completion(self.name, "stop", self.model)

    async def ping(self) -> None:
        return None


@dataclass(frozen=True)
class FiveScorer:
    """Five attributes for every reply, after a delay."""

    outcome: Attributes | ScalarReward = FIVE
    delay_s: float = 0.0
    info: ScorerInfo = field(default=ScorerInfo("five", "five", "helpsteer", 0.5))

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        await asyncio.sleep(self.delay_s)
        return Score(self.outcome)

    async def ping(self) -> None:
        return None


def overloaded(retry_after_s: float | None = None) -> UpstreamError:
    return UpstreamError("overloaded", "503", retry_after_s=retry_after_s)


def board(*members: Troubled | ScriptedProvider, **options: object) -> Ensemble:
    replies = {m.reply if isinstance(m, ScriptedProvider) else m.name: 1.0 for m in members}
    scorers = options.pop("scorers", [options.pop("scorer", ScriptedScorer(replies))])
    store = options.pop("store", Memory())
    return Ensemble({m.name: m for m in members}, Ladder.of(*scorers), store, **options)  # type: ignore[arg-type,misc]


def plan(*members: str, deadline_s: float = 5.0) -> Plan:
    return Plan(members, deadline_s=deadline_s)


def failure(answer: Answer, member: str) -> Failure:
    outcome = next(c.candidate.outcome for c in answer.candidates if c.candidate.member == member)
    assert isinstance(outcome, Failure)
    return outcome


async def test_the_wait_is_the_slowest_member_and_its_score_not_the_sum() -> None:
    members = [ScriptedProvider(n, n, n, delay_s=0.3) for n in "abc"]
    ensemble = board(*members, scorer=FiveScorer(delay_s=0.3))
    started = asyncio.get_running_loop().time()
    answer = await ensemble.answer(prompt(), plan("a", "b", "c"))
    took = asyncio.get_running_loop().time() - started
    assert 0.6 <= took < 1.0  # the sum would be 1.8
    assert answer.timings.slowest_member_s == pytest.approx(0.3, abs=0.1)
    assert answer.timings.scoring_s == pytest.approx(0.3, abs=0.1)


async def test_a_quick_reply_is_scored_while_a_slow_one_is_awaited() -> None:
    seen: list[Event] = []
    ensemble = board(
        ScriptedProvider("quick", "q", "quick"), ScriptedProvider("slow", "s", "slow", delay_s=0.2)
    )
    await ensemble.answer(prompt(), plan("quick", "slow"), seen.append)
    kinds = [(type(e), _member(e)) for e in seen]
    assert kinds.index((Scored, "quick")) < kinds.index((Completed, "slow"))
    assert [kind for kind, _ in kinds[:2]] == [Started, Started]
    assert kinds[-1][0] is Selected


async def test_a_failed_member_is_data_and_its_siblings_go_on(at_once: None) -> None:
    bad = Troubled("bad", [UpstreamError("auth", "bad: 401")])
    seen: list[Event] = []
    answer = await board(bad, Troubled("good", [])).answer(
        prompt(), plan("bad", "good"), seen.append
    )
    assert answer.winner is not None
    assert answer.winner.candidate.member == "good"
    assert failure(answer, "bad") == Failure("auth", "bad: 401", False)
    assert (answer.quality, answer.missing) == ("degraded", ("bad",))
    assert any(isinstance(e, Failed) for e in seen)


async def test_what_may_pass_is_tried_once_more(at_once: None) -> None:
    flaky = Troubled("flaky", [overloaded()])
    answer = await board(flaky).answer(prompt(), plan("flaky"))
    assert (flaky.calls, answer.quality) == (2, "full")


async def test_twice_is_enough(at_once: None) -> None:
    down = Troubled("down", [overloaded(), overloaded(), overloaded()])
    with pytest.raises(NoCandidateError):
        await board(down).answer(prompt(), plan("down"))
    assert down.calls == 2


async def test_what_will_not_pass_is_not_tried_again(at_once: None) -> None:
    refused = Troubled("refused", [UpstreamError("refused_request", "400")])
    with pytest.raises(NoCandidateError):
        await board(refused).answer(prompt(), plan("refused"))
    assert refused.calls == 1


async def test_the_upstreams_wait_is_honoured() -> None:
    limited = Troubled("limited", [overloaded(retry_after_s=0.4)])
    started = asyncio.get_running_loop().time()
    await board(limited).answer(prompt(), plan("limited"))
    assert asyncio.get_running_loop().time() - started >= 0.4


async def test_a_wait_past_the_deadline_is_not_begun() -> None:
    limited = Troubled("limited", [overloaded(retry_after_s=55)])
    started = asyncio.get_running_loop().time()
    answer = await board(limited, Troubled("ok", [])).answer(prompt(), plan("limited", "ok"))
    assert asyncio.get_running_loop().time() - started < 1
    assert failure(answer, "limited").kind == "overloaded"


async def test_the_deadline_ends_a_member_but_not_the_answer() -> None:
    slow = Troubled("slow", [], delay_s=30)
    answer = await board(slow, Troubled("ok", [])).answer(
        prompt(), plan("slow", "ok", deadline_s=0.3)
    )
    assert failure(answer, "slow").kind == "timeout"
    assert "deadline of 0.3 s" in failure(answer, "slow").message
    assert (slow.calls, slow.cancelled) == (1, 1)
    assert answer.timings.total_s < 1


async def test_one_call_has_a_limit_of_its_own(at_once: None) -> None:
    slow = Troubled("slow", [], delay_s=30)
    answer = await board(slow, Troubled("ok", []), timeout_s=0.1).answer(
        prompt(), plan("slow", "ok")
    )
    assert failure(answer, "slow").message == "slow: no reply in 0.1 s"
    assert slow.calls == 2


async def test_the_deadline_with_nothing_to_show_is_its_own_error() -> None:
    store = Memory()
    ensemble = board(Troubled("slow", [], delay_s=30), store=store)
    with pytest.raises(DeadlineError) as caught:
        await ensemble.answer(prompt(), plan("slow", deadline_s=0.2))
    assert store.saved[0].id == caught.value.answer_id
    assert store.saved[0].winner is None


async def test_when_everybody_fails_all_failures_are_told_and_stored(at_once: None) -> None:
    store = Memory()
    ensemble = board(
        Troubled("a", [UpstreamError("auth", "a: 401")]),
        Troubled("b", [ValueError("sk-secret-key")]),
        store=store,
    )
    with pytest.raises(NoCandidateError) as caught:
        await ensemble.answer(prompt(), plan("a", "b"))
    kinds = {member: f.kind for member, f in caught.value.failures.items()}
    assert kinds == {"a": "auth", "b": "internal"}
    assert "sk-secret" not in caught.value.failures["b"].message
    assert len(store.saved) == 1


async def test_a_reply_that_comes_with_no_time_left_to_score_is_kept_unscored() -> None:
    ensemble = board(Troubled("a", []), scorer=FiveScorer(delay_s=30))
    answer = await ensemble.answer(prompt(), plan("a", deadline_s=0.2))
    assert answer.winner is not None
    assert answer.winner.reward is None
    assert (answer.quality, answer.missing) == ("degraded", ("five",))
    assert answer.selection.reason.startswith("no reply could be scored")


async def test_a_scorer_that_breaks_is_data() -> None:
    ensemble = board(Troubled("a", []), Troubled("b", []), scorer=ScriptedScorer({"b": 1.0}))
    answer = await ensemble.answer(prompt(), plan("a", "b"))
    assert answer.winner is not None
    assert answer.winner.candidate.member == "b"
    assert answer.missing == ("scripted",)


async def test_cancelling_the_run_cancels_every_call() -> None:
    members = [Troubled(name, [], delay_s=30) for name in "abc"]
    store = Memory()
    run = asyncio.ensure_future(board(*members, store=store).answer(prompt(), plan(*"abc")))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [m.cancelled for m in members] == [1, 1, 1]
    assert store.saved == []


async def test_the_answer_is_stored_before_it_is_returned() -> None:
    store = Memory()
    answer = await board(Troubled("a", []), store=store).answer(prompt(), plan("a"))
    assert store.saved == [answer]


async def test_rewards_follow_the_weights_of_the_plan_and_so_does_the_resolution() -> None:
    only_verbosity = Plan(("a",), weights=Weights(0, 0, 0, 0, -1))
    ensemble = board(Troubled("a", []), scorer=FiveScorer())
    answer = await ensemble.answer(prompt(), only_verbosity)
    assert answer.winner is not None
    assert answer.winner.reward == -FIVE.verbosity
    assert answer.plan.resolution == pytest.approx(0.5 * 1 / 2.3)


async def test_a_scalar_reward_is_said_to_be_one() -> None:
    ensemble = board(Troubled("a", []), scorer=FiveScorer(outcome=ScalarReward(-19.875)))
    answer = await ensemble.answer(prompt(), plan("a"))
    assert answer.scorer.scale == "scalar"
    assert answer.winner is not None
    assert answer.winner.reward == -19.875


@pytest.mark.parametrize(
    ("ensemble", "asked", "error"),
    [
        (board, plan(), NoBoardError),
        (lambda: board(Troubled("a", [])), plan("b"), InvalidRequestError),
        (lambda: board(Troubled("a", [])), Plan(("a",), strategy="guess"), InvalidRequestError),
    ],
)
async def test_what_cannot_be_run_is_refused(
    ensemble: Callable[[], Ensemble], asked: Plan, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await ensemble().answer(prompt(), asked)


def _member(event: Event) -> str:
    match event:
        case Started(member):
            return member
        case Completed(candidate) | Failed(candidate):
            return candidate.member
        case Scored(scored):
            return scored.candidate.member
        case Selected():
            return ""

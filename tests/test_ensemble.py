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
from app.ensemble import LONGEST_WAIT_S, Ensemble
from app.errors import (
    ConfigurationError,
    DeadlineError,
    InvalidRequestError,
    NoBoardError,
    NoCandidateError,
    UpstreamError,
)
from app.metering import FREE, Meter, Price, ScorerPrice, Tariff
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
    assert 0.6 <= took < 1.5  # the sum would be 1.8
    assert answer.timings.slowest_member_s == pytest.approx(0.3, abs=0.25)
    assert answer.timings.scoring_s == pytest.approx(0.3, abs=0.25)


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


@pytest.mark.parametrize("error", [ConfigurationError("no vectors"), RecursionError("secret")])
async def test_whatever_a_scorer_raises_is_data(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "starboard")

    @dataclass(frozen=True)
    class Broken(FiveScorer):
        async def score(self, prompt: Prompt, completion: Completion) -> Score:
            raise error

    answer = await board(Troubled("a", []), scorer=Broken()).answer(prompt(), plan("a"))
    assert (answer.quality, answer.missing) == ("degraded", ("five",))
    assert f"five failed: internal ({type(error).__name__})" in caplog.text
    assert "secret" not in caplog.text


async def test_a_reward_that_is_not_finite_is_a_failed_score() -> None:
    huge = Weights(1e308, 1e308, 1e308, 1e308, 1e308)
    ensemble = board(Troubled("a", []), Troubled("b", []), scorer=FiveScorer())
    answer = await ensemble.answer(prompt(), Plan(("a", "b"), weights=huge))
    assert [c.reward for c in answer.candidates] == [None, None]
    assert answer.missing == ("five",)


async def test_a_failure_near_the_deadline_stays_what_it_is() -> None:
    late = Troubled("late", [overloaded()], delay_s=0.25)
    answer = await board(late, Troubled("ok", [])).answer(
        prompt(), plan("late", "ok", deadline_s=0.3)
    )
    assert failure(answer, "late").kind == "overloaded"


async def test_a_long_wait_does_not_hold_the_others_replies() -> None:
    limited = Troubled("limited", [overloaded(retry_after_s=LONGEST_WAIT_S)])
    asked = plan("limited", "ok", deadline_s=60)
    answer = await board(limited, Troubled("ok", [])).answer(prompt(), asked)
    assert (limited.calls, failure(answer, "limited").kind) == (1, "overloaded")


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
    (abandoned,) = store.saved
    assert [failure(abandoned, name).kind for name in "abc"] == ["cancelled"] * 3


async def test_a_run_that_is_cancelled_stores_what_had_come() -> None:
    """a is scored, b waits for its score, c for its reply."""

    class Slow(ScriptedScorer):
        async def score(self, prompt: Prompt, completion: Completion) -> Score:
            await asyncio.sleep(30 if completion.text == "b" else 0)
            return await super().score(prompt, completion)

    store, scorer = Memory(), Slow({"a": 1.0, "b": 2.0})
    members = (Troubled("a", []), Troubled("b", []), Troubled("c", [], delay_s=30))
    ensemble = board(*members, store=store, scorer=scorer)
    run = asyncio.ensure_future(ensemble.answer(prompt(), plan(*"abc"), id_="ans_1"))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (abandoned,) = store.saved
    assert (abandoned.id, abandoned.winner, abandoned.quality) == ("ans_1", None, "degraded")
    assert abandoned.selection.reason.startswith("abandoned")
    a, b, c = abandoned.candidates
    assert (a.candidate.outcome, a.reward) == (Completion("a", "stop", "troubled"), 1.0)
    assert (b.candidate.outcome, b.score) == (Completion("b", "stop", "troubled"), None)
    assert isinstance(c.candidate.outcome, Failure)


async def test_an_answer_that_is_being_stored_is_stored_even_if_cancelled() -> None:
    @dataclass
    class Slow(Memory):
        async def save(self, answer: Answer) -> None:
            await asyncio.sleep(0.1)
            await super().save(answer)

    store = Slow()
    run = asyncio.ensure_future(board(Troubled("a", []), store=store).answer(prompt(), plan("a")))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (answer,) = store.saved
    assert answer.winner is not None


async def test_a_fusion_that_is_cancelled_is_stored_as_such() -> None:
    @dataclass
    class OnceQuick(Troubled):
        async def complete(self, prompt: Prompt) -> Completion:
            self.delay_s = 30 * self.calls
            return await super().complete(prompt)

    store = Memory()
    ensemble = board(OnceQuick("a", []), Troubled("b", []), store=store)
    fuse = Plan(("a", "b"), strategy="fuse", deadline_s=5)
    run = asyncio.ensure_future(ensemble.answer(prompt(), fuse))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (abandoned,) = store.saved
    assert members_of(abandoned) == ["a", "b", "a (fusion)"]
    assert failure(abandoned, "a (fusion)").kind == "cancelled"


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
    ],
)
async def test_what_cannot_be_run_is_refused(
    ensemble: Callable[[], Ensemble], asked: Plan, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await ensemble().answer(prompt(), asked)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        (Plan(("a", "b"), strategy="cascade", threshold=9.0, order=("b",) * 3), "plan.order"),
        (Plan(("a",), strategy="cascade", threshold=9.0, order=("a", "b")), "plan.order"),
        (Plan(("a",), reserves=("b", "b")), "plan.reserves"),
        (Plan(("a", "b"), samples=4), "plan"),
        (Plan(("a", "b"), samples=2, hedge_s=1.0), "plan"),
        (Plan(("a", "b"), samples=3, strategy="fuse"), "plan"),
        (Plan(("a", "b"), samples=3, reserves=("a",)), "plan"),
    ],
)
async def test_no_way_leads_past_the_cap_on_calls(asked: Plan, place: str) -> None:
    members = Troubled("a", []), Troubled("b", [])
    with pytest.raises(InvalidRequestError) as caught:
        await board(*members, max_calls=6).answer(prompt(), asked)
    assert caught.value.field == place
    assert [member.calls for member in members] == [0, 0]


CENT = Price(0.01, 0.02)  # 10 and 20 nano-dollars a token


@dataclass
class Wordy:
    """As long a reply as a quote counts on, which nobody says the tokens of."""

    name: str
    delay_s: float = 0.0
    model: str = "wordy"
    error: UpstreamError | None = None

    async def complete(self, prompt: Prompt) -> Completion:
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise self.error
        return Completion("x" * (8 * prompt.max_tokens), "stop", self.model)

    async def ping(self) -> None:
        return None


@pytest.mark.parametrize("member_price", [CENT, FREE])
@pytest.mark.parametrize(
    "asked",
    [
        Plan(("a", "b")),
        Plan(("a", "b"), samples=2, strategy="majority_vote"),
        Plan(("a", "b"), strategy="single"),
        Plan(("broken", "b"), strategy="single", reserves=("a",)),
        Plan(("a", "b"), samples=2, strategy="cascade", threshold=99.0),
        Plan(("a", "b"), strategy="first_good", threshold=99.0),
        Plan(("a", "b", "c"), strategy="fuse"),
        Plan(("a", "b", "c"), strategy="fuse", top_k=2, aggregator="b", samples=4),
        Plan(("a", "broken"), reserves=("b",)),
        Plan(("slow", "b"), hedge_s=0.01),
    ],
    ids=lambda asked: f"{asked.strategy}-{'-'.join(asked.members)}",
)
async def test_a_quote_covers_every_call_of_its_plan(asked: Plan, member_price: Price) -> None:
    broken = Wordy("broken", error=UpstreamError("bad_reply", "no"))
    members = [Wordy("a"), Wordy("b"), Wordy("c"), Wordy("slow", delay_s=0.1), broken]
    tariff = Tariff(
        {member.name: member_price for member in members},
        {"five": ScorerPrice(CENT, 100, 50, factor=2)},
    )
    ensemble = Ensemble(
        {member.name: member for member in members},
        Ladder.of(FiveScorer()),
        Memory(),
        tariff=tariff,
    )
    quote = ensemble.quote(prompt(), asked)
    meter = Meter(quote)
    answer = await ensemble.answer(prompt(), asked, meter=meter)
    outcomes = [c.candidate.outcome for c in answer.candidates]
    kinds = {outcome.kind for outcome in outcomes if isinstance(outcome, Failure)}
    assert kinds <= {"bad_reply"}
    assert all(c.reward is not None for c in answer.candidates if c.score is not None)
    assert (asked.strategy == "fuse") == ("(fusion)" in members_of(answer)[-1])
    assert 0 < meter.spent <= quote
    if member_price.free and asked.strategy != "single":
        assert "broken" in asked.members or meter.spent == quote


async def test_a_retry_that_is_not_covered_leaves_the_first_failure(at_once: None) -> None:
    slow = Troubled("slow", [], delay_s=30)
    ensemble = board(slow, timeout_s=0.05, tariff=Tariff({"slow": CENT}))
    meter = Meter(ensemble.tariff.quote(prompt(), plan("slow"), []))
    with pytest.raises(NoCandidateError) as caught:
        await ensemble.answer(prompt(), plan("slow"), meter=meter)
    assert caught.value.failures["slow"] == Failure("timeout", "slow: no reply in 0.05 s", True)
    assert (slow.calls, meter.spent) == (1, meter.limit)


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


def rewarding(**rewards: float) -> ScriptedScorer:
    return ScriptedScorer(rewards)


def members_of(answer: Answer) -> list[str]:
    return [c.candidate.member for c in answer.candidates]


async def test_samples_ask_each_member_several_times_and_tell_them_apart() -> None:
    seen: list[int] = []

    class Sampler(Troubled):
        async def complete(self, prompt: Prompt) -> Completion:
            seen.append(prompt.sample)
            return await super().complete(prompt)

    answer = await board(Sampler("a", [])).answer(prompt(), Plan(("a",), samples=3))
    assert members_of(answer) == ["a", "a", "a"]
    assert sorted(seen) == [0, 1, 2]


async def test_a_vote_counts_extracted_answers() -> None:
    replies = {"a": "A: 17", "b": "The answer is 18.", "c": "#### 18"}
    ensemble = board(*(ScriptedProvider(n, n, r) for n, r in replies.items()))
    answer = await ensemble.answer(prompt(), Plan(tuple("abc"), strategy="majority_vote"))
    assert answer.winner is not None
    assert (answer.winner.candidate.member, answer.winner.extracted) == ("b", "18")
    assert answer.selection.votes == {"18": 2, "17": 1}


async def test_cascade_asks_the_cheap_first_and_never_calls_the_rest() -> None:
    cheap, middle, dear = (Troubled(name, []) for name in ("cheap", "middle", "dear"))
    ensemble = board(dear, middle, cheap, scorer=rewarding(cheap=1.0, middle=3.0, dear=9.0))
    asked = Plan(("dear", "middle", "cheap"), strategy="cascade", threshold=2.0)
    answer = await ensemble.answer(prompt(), asked)
    assert members_of(answer) == ["cheap", "middle"]
    assert dear.calls == 0
    assert answer.selection.not_called == ("dear",)
    assert answer.quality == "full"


async def test_cascade_in_an_order_of_its_own() -> None:
    ensemble = board(Troubled("a", []), Troubled("b", []), scorer=rewarding(a=5.0, b=5.0))
    asked = Plan(("a", "b"), strategy="cascade", threshold=2.0, order=("a",))
    assert members_of(await ensemble.answer(prompt(), asked)) == ["a"]


async def test_first_good_cancels_the_rest_once_one_is_good() -> None:
    slow = Troubled("slow", [], delay_s=30)
    ensemble = board(Troubled("good", []), slow, scorer=rewarding(good=3.0))
    asked = Plan(("slow", "good"), strategy="first_good", threshold=2.0)
    answer = await ensemble.answer(prompt(), asked)
    assert answer.winner is not None
    assert answer.winner.candidate.member == "good"
    assert failure(answer, "slow").kind == "cancelled"
    assert slow.cancelled == 1
    assert answer.timings.total_s < 1
    assert (answer.quality, answer.missing) == ("full", ())


async def test_first_good_waits_for_all_if_none_is_good() -> None:
    ensemble = board(
        Troubled("a", []), Troubled("b", [], delay_s=0.1), scorer=rewarding(a=1.0, b=1.5)
    )
    asked = Plan(("a", "b"), strategy="first_good", threshold=2.0)
    answer = await ensemble.answer(prompt(), asked)
    assert answer.winner is not None
    assert answer.winner.candidate.member == "b"


async def test_single_asks_one_and_the_next_if_it_fails(at_once: None) -> None:
    down, other = Troubled("down", [overloaded(), overloaded()]), Troubled("other", [])
    asked = Plan(("down", "other"), strategy="single")
    answer = await board(down, other).answer(prompt(), asked)
    assert members_of(answer) == ["down", "other"]
    answer = await board(Troubled("up", []), other).answer(
        prompt(), Plan(("up", "other"), strategy="single")
    )
    assert members_of(answer) == ["up"]
    assert answer.selection.not_called == ("other",)


async def test_a_reserve_takes_the_place_of_a_member_that_fails(at_once: None) -> None:
    bad = Troubled("bad", [UpstreamError("auth", "bad: 401")])
    ensemble = board(bad, Troubled("a", []), Troubled("r", []), Troubled("s", []))
    answer = await ensemble.answer(prompt(), Plan(("bad", "a"), reserves=("r", "s")))
    assert sorted(members_of(answer)) == ["a", "bad", "r"]


@dataclass(frozen=True)
class Fuser:
    """Writes a fusion when it is shown drafts, and a draft of its own otherwise."""

    name: str = "fuser"
    model: str = "fuser"

    async def complete(self, prompt: Prompt) -> Completion:
        fused = "draft" in prompt.messages[-1].content
        return Completion("fused" if fused else "own", "stop", self.model)

    async def ping(self) -> None:
        return None


@pytest.mark.parametrize(("reward", "winner"), [(5.0, "fuser (fusion)"), (1.0, "a")])
async def test_a_fusion_is_returned_only_if_it_wins(reward: float, winner: str) -> None:
    scorer = rewarding(own=1.0, a=2.0, fused=reward)
    ensemble = Ensemble({"fuser": Fuser(), "a": Troubled("a", [])}, Ladder.of(scorer), Memory())
    answer = await ensemble.answer(prompt(), Plan(("fuser", "a"), strategy="fuse"))
    assert members_of(answer) == ["fuser", "a", "fuser (fusion)"]
    assert answer.winner is not None
    assert answer.winner.candidate.member == winner


async def test_one_reply_is_nothing_to_fuse() -> None:
    ensemble = Ensemble({"fuser": Fuser()}, Ladder.of(rewarding(own=1.0)), Memory())
    answer = await ensemble.answer(prompt(), Plan(("fuser",), strategy="fuse"))
    assert members_of(answer) == ["fuser"]


async def test_a_quorum_is_accepted_at_once_where_that_is_wanted() -> None:
    slow = Troubled("slow", [], delay_s=30)
    ensemble = board(Troubled("a", []), Troubled("b", []), slow)
    asked = Plan(("slow", "a", "b"), quorum=2, on_partial="accept")
    answer = await ensemble.answer(prompt(), asked)
    assert failure(answer, "slow").kind == "cancelled"
    assert answer.timings.total_s < 1


async def test_too_few_replies_are_no_answer(at_once: None) -> None:
    refused = [UpstreamError("auth", "b: 401") for _ in range(2)]
    ensemble = board(Troubled("a", []), Troubled("b", [*refused]))
    with pytest.raises(NoCandidateError, match="1 of 2 replied, at least 2 must"):
        await ensemble.answer(prompt(), Plan(("a", "b"), quorum=2))
    with pytest.raises(NoCandidateError, match="all must"):
        await ensemble.answer(prompt(), Plan(("a", "b"), on_partial="fail"))


async def test_a_silent_member_is_asked_again_and_the_first_reply_counts() -> None:
    class Slow(Troubled):
        async def complete(self, prompt: Prompt) -> Completion:
            self.delay_s = 0.0 if self.calls else 30.0
            return await super().complete(prompt)

    slow = Slow("slow", [])
    answer = await board(slow).answer(prompt(), Plan(("slow",), hedge_s=0.1))
    assert answer.timings.total_s < 1
    assert (slow.calls, slow.cancelled) == (2, 1)
    quick = Troubled("quick", [])
    await board(quick).answer(prompt(), Plan(("quick",), hedge_s=5))
    assert quick.calls == 1


@pytest.mark.parametrize(("on", "slope"), [(True, 0.2), (False, 0.0)])
async def test_length_control_can_be_switched_off(on: bool, slope: float) -> None:
    info = ScorerInfo("five", "five", "helpsteer", 0.5, length_slope=0.2)
    ensemble = board(Troubled("a", []), scorer=FiveScorer(info=info))
    answer = await ensemble.answer(prompt(), Plan(("a",), length_control=on))
    assert answer.plan.length_slope == slope
    assert (answer.selection.length_control is None) != on


async def test_to_abstain_is_an_answer() -> None:
    ensemble = board(Troubled("a", []), scorer=rewarding(a=1.0))
    answer = await ensemble.answer(prompt(), Plan(("a",), floor=2.0))
    assert answer.winner is None
    assert answer.selection.reason.startswith("abstained")

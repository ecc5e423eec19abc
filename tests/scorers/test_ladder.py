from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import (
    Answer,
    Completion,
    Event,
    Failure,
    FailureKind,
    LadderStep,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    Scored,
    ScorerInfo,
)
from app.ensemble import Ensemble
from app.errors import UpstreamError
from app.providers.scripted import ScriptedProvider
from app.scorers.ladder import Ladder
from app.scorers.scripted import ScriptedScorer
from app.scorers.self_check import Grade
from tests.samples import prompt
from tests.test_ensemble import Memory


@dataclass(frozen=True)
class Given:
    """Rewards by reply; fails on any other, and on all if `down`. Notes whom it was asked."""

    name: str
    rewards: Mapping[str, float] = field(default_factory=dict)
    delay_s: float = 0.0
    kind: FailureKind = "bad_reply"
    asked: list[str] = field(default_factory=list)

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(self.name, f"model-{self.name}", "scalar", 0.1)

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        self.asked.append(completion.text)
        await asyncio.sleep(self.delay_s)
        if completion.text not in self.rewards:
            raise UpstreamError(self.kind, f"{self.name}: no")
        return Score(ScalarReward(self.rewards[completion.text]))

    async def ping(self) -> None:
        return None


async def run(
    *scorers: Given, replies: str = "abc", delays: Mapping[str, float] | None = None
) -> tuple[Answer, list[Event]]:
    return await run_ladder(Ladder.of(*scorers), replies, delays)


async def run_ladder(
    ladder: Ladder, replies: str = "abc", delays: Mapping[str, float] | None = None
) -> tuple[Answer, list[Event]]:
    events: list[Event] = []
    members = {n: ScriptedProvider(n, n, n, (delays or {}).get(n, 0.0)) for n in replies}
    ensemble = Ensemble(members, ladder, Memory())
    plan = Plan(tuple(replies), deadline_s=2.0)
    return await ensemble.answer(prompt(), plan, events.append), events


def rewards(answer: Answer) -> list[float | None]:
    return [c.reward for c in answer.candidates]


def outcomes(answer: Answer) -> list[tuple[str, str]]:
    return [(step.name, step.outcome) for step in answer.scorer.ladder]


ALL = {"a": 1.0, "b": 2.0, "c": 3.0}
TURNED = {"a": 30.0, "b": 20.0, "c": 10.0}


async def test_the_first_step_scores_and_nobody_below_is_asked() -> None:
    second = Given("second", TURNED)
    answer, _ = await run(Given("first", ALL), second)
    assert (answer.scorer.name, rewards(answer)) == ("first", [1.0, 2.0, 3.0])
    assert outcomes(answer) == [("first", "scored"), ("second", "not_asked")]
    assert (answer.quality, answer.missing, second.asked) == ("full", (), [])


async def test_a_step_that_is_down_gives_way_and_the_answer_says_so() -> None:
    answer, _ = await run(Given("first", kind="auth"), Given("second", TURNED))
    assert (answer.scorer.name, rewards(answer)) == ("second", [30.0, 20.0, 10.0])
    assert answer.scorer.ladder == (
        LadderStep("first", "failed", "first: no"),
        LadderStep("second", "scored"),
    )
    assert str(answer.scorer.note).startswith("in place of first; ")
    assert (answer.quality, answer.missing) == ("degraded", ("first",))


@pytest.mark.parametrize("late", "abc")
async def test_one_unscored_reply_sends_all_to_the_next_step(late: str) -> None:
    """Whoever comes last, and whoever it is: two scales never meet in one answer."""
    two = {name: reward for name, reward in ALL.items() if name != "b"}
    answer, events = await run(Given("first", two), Given("second", TURNED), delays={late: 0.05})
    assert (answer.scorer.name, rewards(answer)) == ("second", [30.0, 20.0, 10.0])
    assert outcomes(answer) == [("first", "partial"), ("second", "scored")] or late == "c"
    scored = [event.candidate for event in events if isinstance(event, Scored)]
    told = {candidate.candidate.member: candidate.reward for candidate in scored}
    assert told == TURNED  # the last event about a candidate is what holds


async def test_the_step_that_scored_most_serves_when_none_scored_all() -> None:
    answer, _ = await run(
        Given("first", {"a": 1.0}), Given("second", {"a": 5.0, "b": 6.0}), Given("third", {"c": 9})
    )
    assert (answer.scorer.name, rewards(answer)) == ("second", [5.0, 6.0, None])
    assert outcomes(answer) == [("first", "partial"), ("second", "partial"), ("third", "partial")]
    assert answer.scorer.ladder[1].reason == "1 of 3 unscored: second: no"
    assert answer.missing == ("first", "second", "third")
    assert "1 unscored not compared" in answer.selection.reason
    assert answer.winner is not None
    assert answer.winner.candidate.member == "b"


async def test_a_run_may_go_down_more_than_once_and_stops_where_all_are_scored() -> None:
    first, second = Given("first", {"a": 1.0, "b": 2.0}), Given("second", {"b": 5.0, "c": 6.0})
    fourth = Given("fourth", ALL)
    answer, _ = await run(first, second, Given("third", TURNED), fourth)
    assert (answer.scorer.name, rewards(answer)) == ("third", [30.0, 20.0, 10.0])
    assert [outcome for _, outcome in outcomes(answer)] == [
        "partial",
        "partial",
        "scored",
        "not_asked",
    ]
    assert (sorted(first.asked), sorted(second.asked), fourth.asked) == (
        ["a", "b", "c"],
        ["a", "b", "c"],
        [],
    )


async def test_of_two_that_scored_as_many_the_higher_serves() -> None:
    answer, _ = await run(Given("first", {"a": 1.0}), Given("second", {"b": 9.0}))
    assert (answer.scorer.name, rewards(answer)) == ("first", [1.0, None, None])
    assert answer.scorer.note is not None
    assert "in place of" not in answer.scorer.note


async def test_unscored_is_never_a_number() -> None:
    answer, _ = await run(Given("first"), Given("second"))
    assert rewards(answer) == [None, None, None]
    assert outcomes(answer) == [("first", "failed"), ("second", "failed")]
    assert answer.missing == ("first", "second")
    assert answer.selection.reason == "no reply could be scored: first of 3 in board order"


async def test_a_ladder_with_no_step_left_scores_nothing_and_says_why() -> None:
    ladder = Ladder.of(Given("first", ALL))
    ladder.steps[0].grade = Grade(2, 7)
    answer, _ = await run_ladder(ladder)
    assert (answer.scorer.name, rewards(answer)) == ("none", [None, None, None])
    assert answer.scorer.ladder == (
        LadderStep("first", "off", "self-check: 2 of 7 obvious pairs in order"),
    )
    assert {c.score.outcome for c in answer.candidates if c.score} == {
        Failure("unavailable", "no scorer is left on the ladder")
    }
    assert (answer.quality, answer.missing) == ("degraded", ("first",))


async def test_a_step_that_is_off_is_passed_over() -> None:
    ladder = Ladder.of(Given("first", ALL), Given("second", TURNED))
    ladder.steps[0].grade = Grade(5, 7)
    assert ladder.info.name == "second"
    answer, _ = await run_ladder(ladder)
    assert outcomes(answer) == [("first", "off"), ("second", "scored")]
    assert (rewards(answer), answer.missing) == ([30.0, 20.0, 10.0], ("first",))


async def test_a_step_that_is_off_below_the_one_that_scored_is_not_missed() -> None:
    ladder = Ladder.of(Given("first", ALL), Given("second", TURNED))
    ladder.steps[1].grade = Grade(0, 7)
    answer, _ = await run_ladder(ladder)
    assert outcomes(answer) == [("first", "scored"), ("second", "off")]
    assert (answer.quality, answer.missing) == ("full", ())


async def test_after_a_failure_late_replies_go_straight_to_the_next_step() -> None:
    first = Given("first", {"b": 1.0, "c": 2.0})
    answer, _ = await run(first, Given("second", TURNED), delays={"b": 0.05, "c": 0.05})
    assert first.asked == ["a"]
    assert answer.scorer.name == "second"


async def test_what_may_pass_is_tried_again_before_the_run_goes_down(at_once: None) -> None:
    first = Given("first", {"b": 1.0, "c": 2.0}, kind="overloaded")
    await run(first, Given("second", TURNED))
    assert first.asked.count("a") == 2


async def test_a_slow_step_leaves_the_run_what_it_has_at_the_deadline() -> None:
    answer, _ = await run(Given("first", {"a": 1.0}), Given("slow", TURNED, delay_s=30))
    assert (answer.scorer.name, rewards(answer)) == ("first", [1.0, None, None])
    assert "deadline" in str(answer.scorer.ladder[1].reason)
    assert answer.timings.total_s < 20


async def test_scoring_time_counts_every_step() -> None:
    answer, _ = await run(Given("first", delay_s=0.1), Given("second", TURNED, delay_s=0.1))
    assert 0.19 < answer.timings.scoring_s < 10


async def test_a_scalar_is_said_to_be_comparable_within_one_prompt_only() -> None:
    answer, _ = await run(Given("first", ALL))
    assert answer.scorer.scale == "scalar"
    assert answer.scorer.note == (
        "one reward without attributes: comparable within one prompt only"
    )


@given(
    steps=st.lists(st.frozensets(st.sampled_from("abcd")), min_size=1, max_size=4),
    delays=st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.0, 0.001, 0.002])),
)
def test_one_run_one_scale(steps: list[frozenset[str]], delays: Mapping[str, float]) -> None:
    """Each step's rewards bear its number, so that a mixture would show."""
    scorers = [
        Given(f"s{number}", {name: 100.0 * number + ord(name) for name in scored})
        for number, scored in enumerate(steps)
    ]
    answer, _ = asyncio.run(run(*scorers, replies="abcd", delays=delays))
    number = int(answer.scorer.name.removeprefix("s"))
    assert rewards(answer) == [
        100.0 * number + ord(name) if name in steps[number] else None for name in "abcd"
    ]
    assert len(steps[number]) == max(map(len, steps[: number + 1]))
    full = [i for i, scored in enumerate(steps) if len(scored) == 4]
    assert number == (full[0] if full else max(range(len(steps)), key=lambda i: len(steps[i])))
    assert answer.winner is not None
    assert answer.winner.reward is not None or not any(steps)


async def test_nobody_to_score_asks_nobody() -> None:
    info, scores = await Ladder.of(ScriptedScorer({})).descent(_never).settle({})
    assert (info.ladder, scores) == ((LadderStep("scripted", "not_asked"),), {})


async def _never(scorer: object, completion: Completion) -> Score:
    raise AssertionError

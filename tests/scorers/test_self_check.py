from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from app.domain import Completion, FailureKind, Prompt, ScalarReward, Score, ScorerInfo
from app.errors import UpstreamError
from app.providers.scripted import ScriptedProvider
from app.scorers.embedded import EmbeddedScorer
from app.scorers.judge import JudgeScorer
from app.scorers.ladder import Ladder
from app.scorers.scripted import ScriptedScorer
from app.scorers.self_check import PAIRS, Grade, grade

GOOD = {good for _, good, _ in PAIRS}


@dataclass(frozen=True)
class Rule:
    """A reward by rule."""

    reward: Callable[[str], float]
    info: ScorerInfo = field(default=ScorerInfo("rule", "rule", "scalar", 0.1))

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        await asyncio.sleep(0)
        return Score(ScalarReward(self.reward(completion.text)))

    async def ping(self) -> None:
        return None


def down(kind: FailureKind) -> Rule:
    def fail(text: str) -> float:
        raise UpstreamError(kind, "down")

    return Rule(fail)


def misses(*wrong: int) -> Rule:
    """Right about every pair but these."""
    liked = {bad if i in wrong else good for i, (_, good, bad) in enumerate(PAIRS)}
    return Rule(lambda text: float(text in liked))


def test_the_pairs_are_few_and_different() -> None:
    assert 6 <= len(PAIRS) <= 8
    assert len({text for pair in PAIRS for text in pair[1:]}) == 2 * len(PAIRS)


async def test_the_embedded_scorer_gets_every_pair_right() -> None:
    assert await grade(EmbeddedScorer(), 10) == Grade(len(PAIRS), len(PAIRS))


async def test_one_miss_passes_and_two_do_not() -> None:
    one, two = await grade(misses(3), 10), await grade(misses(0, 3), 10)
    assert one is not None
    assert two is not None
    assert (one.passed, two.passed) == (True, False)
    assert str(two) == "self-check: 5 of 7 obvious pairs in order"


async def test_ties_are_wrong_and_so_is_not_a_number() -> None:
    assert await grade(Rule(lambda text: 1.0), 10) == Grade(0, len(PAIRS))
    assert await grade(Rule(lambda text: math.nan), 10) == Grade(0, len(PAIRS))


async def test_a_head_turned_around_is_found() -> None:
    assert await grade(Rule(lambda text: -float(text in GOOD)), 10) == Grade(0, len(PAIRS))


async def test_length_alone_does_not_pass() -> None:
    for rule in (Rule(len), Rule(lambda text: -len(text))):
        by_length = await grade(rule, 10)
        assert by_length is not None
        assert not by_length.passed


async def test_a_judge_that_does_not_give_verdicts_fails() -> None:
    chatty = JudgeScorer(ScriptedProvider("j", "m", "I would say it is a fine reply!"))
    assert await grade(chatty, 10) == Grade(0, len(PAIRS))


async def test_what_cannot_be_reached_is_not_judged() -> None:
    kinds: tuple[FailureKind, ...] = (
        "timeout",
        "rate_limited",
        "overloaded",
        "auth",
        "unavailable",
        "refused_request",
        "internal",
    )
    for kind in kinds:
        assert await grade(down(kind), 10) is None
    assert await grade(ScriptedScorer({}), 10) is None  # it knows its own replies only


async def test_a_scorer_that_hangs_is_not_judged_and_holds_nobody_up() -> None:
    slow = JudgeScorer(ScriptedProvider("j", "m", "{}", delay_s=30))
    assert await grade(slow, 0.1) is None


async def test_a_step_that_fails_is_off_and_one_out_of_reach_stays() -> None:
    ladder = Ladder.of(misses(0, 1), down("unavailable"), misses())
    await ladder.check(10)
    assert [step.stands for step in ladder.steps] == [False, True, True]
    assert ladder.info.ladder[0].outcome == "off"

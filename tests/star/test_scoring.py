"""A scorer in the loop: what it is shown, what its scores decide, and what they never do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.domain import (
    Attributes,
    Completion,
    Failure,
    Prompt,
    ScalarReward,
    Score,
    ScorerInfo,
)
from app.errors import ConfigurationError, DataError, UpstreamError
from app.scorers import Scorer
from app.scorers.scripted import ScriptedScorer
from app.star import loop
from app.star.loop import Method, Run, begin_run, open_run
from app.star.problems import Problem, StoredReply, problem
from app.star.rationales import Asking, Keeping, Rationale, kept, scored
from app.star.report import card, results, write_report
from app.star.sampling import Outcome, Shards
from app.star.scoring import score_from, score_row
from tests.star.conftest import always

KEYED = [problem("own", f"What is {n} + 1?", str(n + 1)) for n in range(40)]
OPEN = [problem("stored", f"Why {n}?", None) for n in range(8)]
POOR = Attributes(3.0, 1.9, 3.0, 1.0, 1.0)
FAIR = Attributes(1.0, 2.0, 2.0, 1.0, 1.0)
MUMBLED = replace(FAIR, coherence=1.5)


def rationale(origin: Any = "generated", **changes: Any) -> Rationale:
    plain = Rationale("id", 0, origin, "text", "m", "right", "unchecked")
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("outcome", "steps", "keeping", "why_not"),
    [
        (FAIR, "unchecked", Keeping(), None),
        (POOR, "unchecked", Keeping(), "correctness below 2"),
        (MUMBLED, "unchecked", Keeping(), "coherence below 2"),
        (MUMBLED, "unchecked", Keeping(min_coherence=None), None),
        (FAIR, "unchecked", Keeping(min_correctness=2.5), "correctness below 2.5"),
        (POOR, "true", Keeping(), None),  # arithmetic has spoken
        (POOR, "unchecked", Keeping(check_steps=False), "correctness below 2"),
        (ScalarReward(-9.0), "unchecked", Keeping(), None),  # ranks, and no more
        (ScalarReward(-9.0), "unchecked", Keeping(min_reward=0.0), None),  # its answer is known
        (Failure("timeout", "late"), "unchecked", Keeping(), None),
    ],
)
def test_attributes_stand_in_where_steps_cannot_be_checked(
    outcome: Any, steps: Any, keeping: Keeping, why_not: str | None
) -> None:
    found = scored(rationale(steps=steps), Score(outcome), keeping)
    assert found.why_not == why_not
    assert (found.reward is None) == isinstance(outcome, Failure)


@pytest.mark.parametrize(
    ("outcome", "why_not"),
    [
        (ScalarReward(1.5), None),
        (ScalarReward(1.4), "reward below 1.5"),
        (Failure("timeout", "late"), "not scored"),
        (FAIR, None),
        (POOR, "correctness below 2"),
    ],
)
def test_without_a_reference_only_a_reward_speaks_for_a_text(
    outcome: Any, why_not: str | None
) -> None:
    one = rationale("reward-filtered", verdict="unverified")
    assert scored(one, Score(outcome), Keeping(min_reward=1.5)).why_not == why_not


def test_what_has_no_reward_comes_after_what_has_one_however_low() -> None:
    ones = [
        rationale(sample=0, text="a"),
        rationale(sample=1, text="b", reward=-3.0),
        rationale(sample=2, text="c", reward=0.5),
        rationale("rationalized", sample=0, text="d", reward=9.0),
    ]
    order = [one.text for one in kept(ones, Keeping(), 0)]
    assert order == ["c", "b", "a", "d"]
    standing = [one.text for one in kept(ones, Keeping(cap=2), 0) if one.why_not is None]
    assert standing == ["c", "b"]


@pytest.mark.parametrize(
    "outcome", [FAIR, ScalarReward(-0.1), Failure("rate_limited", "slow down")]
)
def test_a_score_comes_back_as_it_was_written(outcome: Any) -> None:
    made = Score(outcome, None if isinstance(outcome, Failure) else "cut")
    assert score_from(json.loads(json.dumps(score_row(made)))) == made


class Writer:
    """Says in each sample what the number of the question and of the sample make of it; every
    sixth problem it has wrong unless it is shown a hint."""

    name = "writer"

    async def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]:
        for number, prompts in shards.items():
            yield number, [self.reply(prompt) for prompt in prompts]

    def reply(self, prompt: Prompt) -> Outcome:
        asked = prompt.messages[-1].content
        n = int(asked.split()[1 if asked.startswith("Why") else 2].rstrip("?"))
        said = f"Way {prompt.sample} for {n}."
        if not asked.startswith("Why"):
            wrong = n % 6 == 0 and "(" not in asked
            said += f" The answer is {n + (2 if wrong else 1)}."
        return Completion(said, "stop", "writer-model")


@dataclass
class Watched:
    """A scorer that keeps what it was asked, and how much of it at once."""

    scorer: Scorer
    asked: list[tuple[Prompt, str]] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    @property
    def info(self) -> ScorerInfo:
        return self.scorer.info

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        self.asked.append((prompt, completion.text))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return await self.scorer.score(prompt, completion)

    async def ping(self) -> None:
        return None


def rewards() -> Mapping[str, float]:
    """The later sample is the better one, and all are below 0; the first of every fourth problem
    cannot be scored."""
    return {
        f"Way {s} for {n}.{end}": s - 3.0
        for n in range(40)
        for s in range(3)
        for end in ("", f" The answer is {n + 1}.")
        if s or n % 4
    }


def scorer() -> Watched:
    return Watched(ScriptedScorer(rewards()))


METHOD = Method(
    "base",
    asking=Asking(3, 0.7),
    scorer="scripted",
    keeping=Keeping(cap=2, min_reward=-2.5),
)


def begin(
    folder: Path,
    by: Scorer | None,
    problems: list[Problem] = KEYED,
    method: Method = METHOD,
    tell: Any = lambda *_: None,
) -> Run:
    return begin_run(problems, method, folder, always(Writer()), tell, source="p", scorer=by)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_what_verifies_is_ranked_by_reward(tmp_path: Path) -> None:
    told: list[str] = []
    watched = scorer()
    run = begin(tmp_path / "run", watched, tell=lambda stage, *_: told.append(stage))
    found = await run.rationalize(1)
    assert {one.origin for one in found} == {"generated", "rationalized"}
    by_problem: dict[str, set[int]] = {one.id: set() for one in run.problems.train}
    for one in found:
        if one.why_not is None:
            by_problem[one.problem].add(one.sample)
    assert set(map(frozenset, by_problem.values())) == {frozenset({1, 2})}
    assert {one.reward for one in found if one.verdict == "wrong"} == {None}
    assert "iteration-1: scores" in told
    # The bare question alone, whoever was shown what to write the text.
    questions = {one.question for one in KEYED}
    assert all(
        len(p.messages) == 1 and p.messages[0].content in questions for p, _ in watched.asked
    )
    standing = [one for one in found if one.why_not is None or one.why_not.startswith("over")]
    assert len(watched.asked) == len(standing) == 3 * len(run.problems.train)
    assert watched.most == 16
    said = rows(run.iteration(1) / "scores.jsonl")
    assert Counter("failure" in row for row in said)[True] == sum(
        one.reward is None for one in standing
    )
    assert run.folder.joinpath("scorer.json").is_file()


async def test_a_text_that_could_not_be_scored_stands_and_is_counted(tmp_path: Path) -> None:
    method = replace(METHOD, asking=Asking(1, 0.0))
    run = begin(tmp_path / "run", scorer(), method=method)
    found = await run.rationalize(1)
    unscored = [one for one in found if one.why_not is None and one.reward is None]
    assert unscored
    page = write_report(run.folder).read_text()
    row = "<tr><td>kept, but the score failed</td>"
    assert f'{row}<td class="n">{len(unscored)}</td>' in page


async def test_one_text_for_one_problem_is_scored_once(tmp_path: Path) -> None:
    class Same(Writer):
        def reply(self, prompt: Prompt) -> Outcome:
            return super().reply(replace(prompt, sample=0))

    watched = scorer()
    run = replace(begin(tmp_path / "run", watched), open=always(Same()))
    await run.rationalize(1)
    assert len(watched.asked) == len(run.problems.train)


async def test_scores_go_on_where_they_were_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SHARD", 16)
    whole, broken = scorer(), scorer()
    await begin(tmp_path / "whole", whole).rationalize(1)

    class InterruptedRunError(Exception):
        """As good as a kill: nothing after it is done."""

    def tell(stage: str, done: int, _: int) -> None:
        if stage == "iteration-1: scores" and done == 2:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        await begin(tmp_path / "run", broken, tell=tell).rationalize(1)
    assert len(broken.asked) == 32
    run = open_run(tmp_path / "run", always(Writer()), lambda *_: None, scorer=broken)
    await run.rationalize(1)
    assert broken.asked == whole.asked
    for name in ("scores.jsonl", "rationales.jsonl", "training.jsonl"):
        files = [tmp_path / one / "iteration-1" / name for one in ("whole", "run")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not (run.iteration(1) / "scores").exists()
    # What is there asks for no scorer.
    (run.iteration(1) / "rationales.jsonl").unlink()
    alone = open_run(tmp_path / "run", always(Writer()), lambda *_: None)
    assert await alone.rationalize(1) == await run.rationalize(1)


async def test_open_problems_are_kept_by_reward_and_never_called_right(tmp_path: Path) -> None:
    watched = scorer()
    run = begin(tmp_path / "run", watched, KEYED + OPEN)
    assert {one for one in run.problems.train if one.reference is None} == set(OPEN)
    for number in (1, 2):
        found = await run.rationalize(number)
        unanswered = {one.id for one in OPEN}
        mine = [one for one in found if one.problem in unanswered]
        assert len(mine) == 3 * len(OPEN)  # none of them was rationalized
        assert {(one.origin, one.verdict) for one in mine} == {("reward-filtered", "unverified")}
        fates = Counter(one.why_not for one in mine)
        # Sample 0 has -3, or no score; the others are above the minimum of -2.5.
        assert fates == {None: 16, "reward below -2.5": 6, "not scored": 2}
        assert {one.origin for one in found if one.problem not in unanswered} <= {
            "generated",
            "rationalized",
        }
    asked = {row["prompt"][0]["content"] for row in rows(run.iteration(1) / "training.jsonl")}
    assert {one.question for one in OPEN} <= asked
    assert rows(run.iteration(1) / "preferences.jsonl")
    said = card("iteration 1", results(run.folder))
    assert "reward alone, at least -2.5. Nobody knows whether they are right." in said
    assert "16 reward-filtered, written by `writer-model`" in said
    assert "Scored by `scripted`" in said
    assert "2 not scored" in said


async def test_a_stored_reply_is_one_more_rationale_of_the_first_iteration(tmp_path: Path) -> None:
    replies = [StoredReply(f"Way 2 for 3{n}.", "claude") for n in range(len(OPEN))]
    stored = [replace(one, reply=reply) for one, reply in zip(OPEN, replies, strict=True)]
    run = begin(tmp_path / "run", scorer(), KEYED + stored)
    again = open_run(run.folder, run.open, run.tell, scorer=run.scorer)
    found = [one for one in await again.rationalize(1) if one.by == "claude"]
    assert {one.problem: one.text for one in found} == {
        one.id: reply.text for one, reply in zip(stored, replies, strict=True)
    }
    assert {(one.sample, one.origin, one.verdict) for one in found} == {
        (3, "reward-filtered", "unverified")
    }
    assert {(one.reward, one.why_not) for one in found} <= {
        (-1.0, None),
        (-1.0, "over the cap of 2 a problem"),
    }
    assert not [one for one in await again.sample(2) if one.by == "claude"]


@pytest.mark.parametrize(
    "method",
    [replace(METHOD, scorer=None), replace(METHOD, keeping=Keeping())],
    ids=["no scorer", "no least reward"],
)
def test_open_problems_need_a_scorer_and_a_least_reward(tmp_path: Path, method: Method) -> None:
    with pytest.raises(ConfigurationError, match=r"\(8 here\).*--min-reward"):
        begin(tmp_path / "run", scorer(), KEYED + OPEN, method)
    assert not (tmp_path / "run").exists()


def test_a_run_of_open_problems_alone_has_nothing_to_measure_by(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no problem is left for validation.*with answers"):
        begin(tmp_path / "run", scorer(), OPEN)


async def test_a_run_that_names_no_scorer_is_not_scored(tmp_path: Path) -> None:
    watched = scorer()
    run = begin(tmp_path / "run", watched, method=replace(METHOD, scorer=None))
    assert {one.reward for one in await run.rationalize(1)} == {None}
    assert watched.asked == []
    assert not (run.iteration(1) / "scores.jsonl").exists()


async def test_a_scorer_that_is_missing_or_another_one_is_refused(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", None)
    with pytest.raises(ConfigurationError, match="scripted, the scorer of this run, is not there"):
        await run.rationalize(1)
    await replace(run, scorer=scorer()).rationalize(1)

    class Other(Watched):
        @property
        def info(self) -> ScorerInfo:
            return replace(self.scorer.info, model="scripted-2")

    with pytest.raises(ConfigurationError, match="by scripted scripted scalar, and the scorer is"):
        await replace(run, scorer=Other(scorer())).rationalize(2)


async def test_a_scorer_that_lets_nobody_in_stops_the_run(tmp_path: Path) -> None:
    class Locked(Watched):
        async def score(self, prompt: Prompt, completion: Completion) -> Score:
            raise UpstreamError("auth", "scripted: 401")

    run = begin(tmp_path / "run", Locked(scorer()))
    with pytest.raises(ConfigurationError, match=r"answered 0 of 64 .*scripted: 401"):
        await run.rationalize(1)
    assert not list(run.iteration(1).glob("scores/*.jsonl"))
    await replace(run, scorer=scorer()).rationalize(1)

"""Teachers: who may write rationales besides the base model, when, and how they are told apart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from app.domain import Completion, Prompt
from app.errors import ConfigurationError
from app.star.loop import Method, Run, Teacher, begin_run, open_run
from app.star.problems import problem
from app.star.rationales import Asking, Rationale
from app.star.sampling import Outcome, Shards
from tests.star.conftest import always

PROBLEMS = [problem("own", f"What is {n} + 1?", str(n + 1)) for n in range(60)]
ADDEND = {one.id: n for n, one in enumerate(PROBLEMS)}


@dataclass
class Writer:
    """Knows the answers to some of the problems, and answers 1000 to the rest."""

    name: str
    knows: range
    asked: list[Prompt] = field(default_factory=list)

    async def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]:
        for number, prompts in shards.items():
            yield number, [self.reply(prompt) for prompt in prompts]

    def reply(self, prompt: Prompt) -> Outcome:
        self.asked.append(prompt)
        first = int(prompt.messages[-1].content.split()[2])
        answer = first + 1 if first in self.knows else 1000
        said = f"{self.name} adds one to {first}. The answer is {answer}."
        return Completion(said, "stop", f"{self.name}-model")


METHOD = Method("base", asking=Asking(2, 0.7), rationalize=False, teachers=("qwen",))


def begin(folder: Path, base: Writer, qwen: Writer | None, method: Method = METHOD) -> Run:
    teachers = {"qwen": Teacher(trainable=True, open=always(qwen))} if qwen else {}
    return begin_run(
        PROBLEMS, method, folder, always(base), lambda *_: None, source="p", teachers=teachers
    )


def of(rationales: list[Rationale], by: str) -> list[Rationale]:
    return [one for one in rationales if one.by == by]


async def test_a_teacher_writes_for_the_same_problems_and_is_verified(tmp_path: Path) -> None:
    base, qwen = Writer("base", range(20)), Writer("qwen", range(10, 40))
    run = begin(tmp_path / "run", base, qwen)
    rationales = await run.rationalize(1)
    assert [p.messages for p in base.asked] == [p.messages for p in qwen.asked]
    mine, theirs = of(rationales, "base-model"), of(rationales, "qwen (qwen-model)")
    assert len(mine) == len(theirs) == 2 * len(run.problems.train)
    assert {one.sample for one in mine} == {0, 1}
    assert {one.sample for one in theirs} == {2, 3}
    for one in theirs:
        known = ADDEND[one.problem] in qwen.knows
        assert one.verdict == ("right" if known else "wrong")
        assert (one.why_not == "wrong answer") != known
    # Both samples say the same, and that counts once; the base's own comes first.
    assert {one.sample for one in theirs if one.why_not is None} == {2}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["method"]["teachers"] == ["qwen"]


async def test_hints_are_for_what_nobody_solved(tmp_path: Path) -> None:
    base, qwen = Writer("base", range(20)), Writer("qwen", range(10, 40))
    run = begin(tmp_path / "run", base, qwen, replace(METHOD, rationalize=True))
    rationales = await run.rationalize(1)
    hinted = {one.problem for one in rationales if one.origin == "rationalized"}
    trained = {one.id for one in run.problems.train}
    assert hinted == {id_ for id_ in trained if ADDEND[id_] >= 40}
    assert len(qwen.asked) == 2 * len(trained)  # without hints


async def test_from_the_second_iteration_on_the_model_writes_alone(tmp_path: Path) -> None:
    base, qwen = Writer("base", range(20)), Writer("qwen", range(60))
    run = begin(tmp_path / "run", base, qwen)
    rationales = await run.sample(2)
    assert {one.by for one in rationales} == {"base-model"}
    assert qwen.asked == []


async def test_a_run_goes_on_without_asking_its_teachers_again(tmp_path: Path) -> None:
    first = await begin(
        tmp_path / "run", Writer("base", range(20)), Writer("qwen", range(60))
    ).sample(1)
    again = open_run(tmp_path / "run", always(Writer("base", range(0))), lambda *_: None)
    assert await again.sample(1) == first


async def test_a_teacher_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="qwen, a teacher, is no member"):
        begin(tmp_path / "run", Writer("base", range(20)), None)
    begin(tmp_path / "run", Writer("base", range(20)), Writer("qwen", range(20)))
    again = open_run(tmp_path / "run", always(Writer("base", range(20))), lambda *_: None)
    with pytest.raises(ConfigurationError, match="qwen, a teacher of this run, is not there"):
        await again.sample(1)


def test_a_teacher_that_may_not_train_a_model_is_refused(tmp_path: Path) -> None:
    claude = Teacher(trainable=False, open=always(Writer("claude", range(60))))
    with pytest.raises(ConfigurationError, match=r"claude cannot teach.*\[members\.claude\]"):
        begin_run(
            PROBLEMS,
            replace(METHOD, teachers=("claude",)),
            tmp_path / "run",
            always(Writer("base", range(20))),
            lambda *_: None,
            source="p",
            teachers={"claude": claude},
        )
    assert not (tmp_path / "run").exists()

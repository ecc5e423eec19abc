"""Prompts: our shots are right, hints stand where the paper has them and nowhere else."""

from __future__ import annotations

import pytest

from app.domain import Prompt
from app.star.problems import Problem, Shares, carries, problem, split, sums
from app.star.prompts import (
    CORRECT,
    SHOTS,
    SHOWN,
    Shot,
    closing,
    few_shot,
    hinted,
    shots_for,
    with_hint,
    zero_shot,
)
from app.star.steps import check_steps, equations
from app.star.verify import leaks_hint, verify

EVERY = [(name, shot) for name, shots in SHOTS.items() for shot in shots]
SUM = problem("sum", "What is 3 + 9 + 4?", "16")
QUIET = problem("own", "Where is it quiet?", "B", (("A", "bank"), ("B", "library")))
WORDED = problem("gsm8k", "A pen costs $3. What do 24 cost?", "72")
CAPITAL = problem("own", "What is the capital of France?", "Paris")
OPEN = problem("stored", "Why is the sky blue?", None)


@pytest.mark.parametrize(("name", "shot"), EVERY)
def test_every_shot_is_right_in_its_answer_and_its_steps(name: str, shot: Shot) -> None:
    assert verify(shot.problem, shot.rationale) == "right"
    assert shot.rationale.endswith(" " + closing(shot.problem))
    assert not leaks_hint(shot.problem, shot.rationale)
    # Every equals sign belongs to an equation that was checked.
    checked = equations(shot.rationale)
    assert len(checked) == shot.rationale.count("=")
    assert all(equation.holds for equation in checked)
    if name in ("sum", "carry", "word"):
        assert check_steps(shot.rationale) == "true"


@pytest.mark.parametrize(("name", "least"), [("sum", 5), ("carry", 5), ("word", 8), ("choice", 6)])
def test_there_are_enough_shots(name: str, least: int) -> None:
    assert len({shot.problem.id for shot in SHOTS[name]}) >= least


def test_the_right_choices_of_the_shots_do_not_all_stand_in_one_place() -> None:
    assert {shot.problem.reference for shot in SHOTS["choice"]} == set("ABCDE")


def test_zero_shot_is_the_bare_question() -> None:
    (message,) = zero_shot(QUIET)
    assert message.role == "user"
    assert message.content == "Where is it quiet?\nAnswer Choices:\n(a) bank\n(b) library"
    assert [m.content for m in zero_shot(SUM)] == ["What is 3 + 9 + 4?"]


@pytest.mark.parametrize("asked", [SUM, QUIET, WORDED, CAPITAL, OPEN])
def test_few_shot_is_a_chat_of_shots_that_ends_with_the_question(asked: Problem) -> None:
    shots = shots_for(asked)
    messages = few_shot(asked, shots)
    assert [m.role for m in messages] == ["user", "assistant"] * len(shots) + ["user"]
    assert messages[-1:] == zero_shot(asked)
    assert messages[1].content == shots[0].rationale
    assert Prompt(messages).turns == messages
    assert not any(CORRECT in message.content for message in messages)


@pytest.mark.parametrize(
    ("asked", "question"),
    [
        (SUM, "What is 3 + 9 + 4? (16)"),
        (WORDED, "A pen costs $3. What do 24 cost? (72)"),
        (CAPITAL, "What is the capital of France? (Paris)"),
        (QUIET, "Where is it quiet?\nAnswer Choices:\n(a) bank\n(b) library (CORRECT)"),
    ],
)
def test_the_hint_is_the_papers(asked: Problem, question: str) -> None:
    assert hinted(asked) == question


@pytest.mark.parametrize("asked", [SUM, QUIET, WORDED, CAPITAL])
def test_hints_stand_in_every_question_and_in_no_rationale(asked: Problem) -> None:
    shots = shots_for(asked)
    plain, told = few_shot(asked, shots), with_hint(asked, shots)
    assert len(plain) == len(told)
    for before, after in zip(plain, told, strict=True):
        assert before.role == after.role
        assert (before.content == after.content) == (before.role == "assistant")
    assert told[-1].content == hinted(asked)


def test_a_problem_without_a_reference_has_no_hint_and_no_closing() -> None:
    with pytest.raises(ValueError, match="has no hint"):
        with_hint(OPEN, ())
    with pytest.raises(ValueError, match="no answer to close with"):
        closing(OPEN)


@pytest.mark.parametrize(
    ("asked", "name"),
    [(SUM, "sum"), (QUIET, "choice"), (WORDED, "word"), (CAPITAL, "text"), (OPEN, "word")],
)
def test_shots_are_of_the_problems_kind(asked: Problem, name: str) -> None:
    assert shots_for(asked) == SHOTS[name]


def test_the_closing_is_verified_as_right() -> None:
    for asked in (SUM, QUIET, WORDED, CAPITAL):
        assert verify(asked, closing(asked)) == "right"
    assert closing(QUIET) == "The answer is (b)."


def test_no_order_of_a_worked_sum_is_tested() -> None:
    for every in (sums(1000), carries(3645)):
        parts = split(every, Shares(0.3, 0.3), SHOWN)
        questions = {one.question for one in (*parts.validation, *parts.test)}
        for _, shot in EVERY:
            assert shot.problem.question not in questions
        groups = {one.group for one in (*parts.validation, *parts.test)}
        assert not groups & SHOWN
        assert SHOWN & {one.group for one in parts.train}

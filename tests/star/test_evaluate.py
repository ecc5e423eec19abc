"""Measures of a model, against values worked out by hand or by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Completion, Failure, Usage
from app.star.evaluate import Attempt, attempt, evaluation, paired, pass_at_k
from app.star.problems import problem
from app.star.verify import Verdict

ONE, TWO = problem("own", "1?", "1"), problem("own", "2?", "2")


def said(of: str, answer: str, sample: int = -1) -> Attempt:
    asked = ONE if of == "one" else TWO
    completion = Completion(f"The answer is {answer}.", "stop", "m", Usage(3, 5))
    return attempt(asked, sample, completion)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations(range(n), k))
    share = sum(any(one < right for one in draw) for draw in draws) / len(draws)
    assert pass_at_k(n, right, k) == pytest.approx(share)


def test_greedy_samples_and_majority() -> None:
    attempts = [said("one", "1"), said("two", "3")]
    attempts += [said("one", answer, n) for n, answer in enumerate(("1", "7", "1"))]
    attempts += [said("two", answer, n) for n, answer in enumerate(("3", "3", "2"))]
    found = evaluation([ONE, TWO], attempts)
    assert (found.pass_1.hits, found.pass_1.n, found.unverified, found.k) == (1, 2, 0, 3)
    assert (found.pass_k, found.maj_k, found.mean_tokens) == (1.0, 0.5, 5)
    told = found.as_json()
    assert told["interval"] == pytest.approx([0.0945, 0.9055], abs=1e-3)


def test_without_samples_there_is_no_pass_at_k() -> None:
    found = evaluation([ONE], [said("one", "1")])
    assert (found.k, found.pass_k, found.maj_k) == (0, None, None)


def test_what_cannot_be_read_is_not_right_and_counted_apart() -> None:
    silent = attempt(TWO, -1, Failure("bad_reply", "nothing"))
    assert (silent.verdict, silent.tokens) == ("unverified", 0)
    found = evaluation([ONE, TWO], [said("one", "1"), silent])
    assert (found.pass_1.value, found.unverified) == (0.5, 1)
    assert evaluation([ONE], [Attempt(ONE.id, 0, "", "unverified", 0)]).maj_k == 0


def test_no_problems_have_no_accuracy() -> None:
    found = evaluation([], [])
    assert math.isnan(found.pass_1.value)
    assert math.isnan(found.mean_tokens)


@pytest.mark.parametrize(
    ("mine", "theirs", "counts"),
    [
        (("right", "wrong"), ("wrong", "right"), (1, 1)),
        (("right", "right"), ("unverified", "right"), (1, 0)),
        (("wrong", "right"), ("right", "right"), (0, 1)),
    ],
)
def test_pairs_are_compared_problem_by_problem(
    mine: tuple[Verdict, Verdict], theirs: tuple[Verdict, Verdict], counts: tuple[int, int]
) -> None:
    one, other = (
        [Attempt(str(n), -1, "", verdict, 0) for n, verdict in enumerate(verdicts)]
        for verdicts in (mine, theirs)
    )
    assert tuple(paired(one, other).values()) == counts

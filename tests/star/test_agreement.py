"""Verification against independent cases; the figures are those of docs/star.md."""

from __future__ import annotations

import verification

from tests.samples import public_data


def test_math_verifys_own_cases() -> None:
    tally = verification.math_verify(public_data("math_verify_cases.jsonl.gz"))
    assert tally.counts.total() == 255
    # Every one of them is explained in docs/star.md, and none calls a wrong answer right.
    assert len(tally.disagreed) <= 6
    assert tally.counts["right", False] == 0
    assert tally.counts["right", True] + tally.counts["wrong", False] >= 210


def test_gsm8ks_references_and_the_solutions_of_four_models() -> None:
    data = public_data(*verification.FILES[1:])
    references, convention, makers = verification.gsm8k(data)
    assert references.counts == {("right", True): 8792}
    for tally in (convention, makers):
        assert tally.counts.total() == 5276
        assert tally.disagreed == []
        assert tally.counts["unverified", True] == 0
        assert tally.counts["unverified", False] <= 11


def test_steps_of_gsm8ks_own_rationales() -> None:
    kinds, wrong, checked = verification.steps(public_data("gsm8k/train.jsonl.gz"))
    assert kinds.total() == 7473
    assert kinds["false"] / kinds.total() < 0.006
    assert kinds["unchecked"] / kinds.total() < 0.02
    assert len(wrong) <= 50 < checked

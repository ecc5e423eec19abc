"""Verification against independent cases; the figures are those of docs/star.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import verification

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def tallies_of(*files: str) -> Path:
    for file in files:
        if not (DATA / file).is_file():
            pytest.skip(f"the public cases {file} are not here")
    return DATA


def test_math_verifys_own_cases() -> None:
    tally = verification.math_verify(tallies_of("math_verify_cases.jsonl.gz"))
    assert tally.counts.total() == 255
    # Every one of them is explained in docs/star.md, and none calls a wrong answer right.
    assert len(tally.disagreed) <= 6
    assert tally.counts["right", False] == 0
    assert tally.counts["right", True] + tally.counts["wrong", False] >= 210


def test_gsm8ks_references_and_the_solutions_of_four_models() -> None:
    data = tallies_of(*verification.FILES[1:])
    references, convention, makers = verification.gsm8k(data)
    assert references.counts == {("right", True): 8792}
    for tally in (convention, makers):
        assert tally.counts.total() == 5276
        assert tally.disagreed == []
        assert tally.counts["unverified", True] == 0
        assert tally.counts["unverified", False] <= 11


def test_steps_of_gsm8ks_own_rationales() -> None:
    kinds, wrong, checked = verification.steps(tallies_of("gsm8k/train.jsonl.gz"))
    assert kinds.total() == 7473
    assert kinds["false"] / kinds.total() < 0.006
    assert kinds["unchecked"] / kinds.total() < 0.02
    assert len(wrong) <= 50 < checked

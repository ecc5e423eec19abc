"""The gate of quality: on slices with keys, the board as shipped is not worse than its best member
by more than a margin, and it catches a first seat that fails plainly.

`replies_to_sums.jsonl.gz` holds what the members of the default board said to 60 sums, recorded by
`benchmarks/replies.py`: nothing here is drawn anew. docs/quality.md has the whole sets.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import quality
import replies
import report
from estimates import Estimate
from quality import VOTES, Arm, Drawn, KeyedSet, accuracy, difference, outcome

from app.domain import Completion, StrategyName
from app.scorers.examples import Example, spoiled
from app.star.verify import verify
from tests.samples import public_data

SLICE = Path(__file__).parent / "replies_to_sums.jsonl.gz"
BOARD = ("smollm2", "smollm2-warm")
# Share of problems: three of the sums.
MARGIN = 0.05
# Every third reply of the first seat is spoiled; of these the other seat has about half right.
LEAST_GAIN = 0.1
# On 300 problems of GSM8K. The embedded scorer's false alarms cost `best_of_n` 5 points on all.
GSM8K_MARGINS: Mapping[StrategyName, float] = {
    "majority_vote": 0.03,
    "weighted_vote": 0.07,
    "best_of_n": 0.09,
}


@pytest.fixture(scope="module")
def sums() -> KeyedSet:
    return quality.sums(SLICE)


@pytest.mark.parametrize("strategy", VOTES)
@pytest.mark.parametrize("samples", [1, 4])
def test_the_default_board_is_not_worse_than_its_best_member(
    sums: KeyedSet, strategy: StrategyName, samples: int
) -> None:
    ensemble = outcome(sums, Arm(BOARD, strategy, samples))
    best = max((outcome(sums, Arm((m,), "best_of_n")) for m in BOARD), key=accuracy)
    assert difference(ensemble, best).value >= -MARGIN


def test_self_consistency_is_better_than_one_sample(sums: KeyedSet) -> None:
    one = outcome(sums, Arm(("smollm2-warm",), "best_of_n"))
    eight = outcome(sums, Arm(("smollm2-warm",), "majority_vote", 8))
    assert difference(eight, one).value >= MARGIN


@pytest.mark.parametrize("strategy", VOTES)
def test_a_first_seat_that_fails_plainly_is_made_up_for(strategy: StrategyName) -> None:
    keyed = with_spoiled_first_seat()
    ensemble = outcome(keyed, Arm(BOARD, strategy))
    first = outcome(keyed, Arm(BOARD[:1], "best_of_n"))
    assert difference(ensemble, first).value >= LEAST_GAIN


@pytest.mark.parametrize("strategy", VOTES)
def test_four_models_on_gsm8k_are_worse_than_the_best_by_no_more_than_is_known(
    strategy: StrategyName,
) -> None:
    file = "gsm8k/model_solutions.jsonl.gz"
    keyed = quality.gsm8k(public_data(file) / file, limit=300)
    members = quality.gsm8k_boards()[0].members
    ensemble = outcome(keyed, Arm(members, strategy))
    best = max((outcome(keyed, Arm((m,), "best_of_n")) for m in members), key=accuracy)
    assert difference(ensemble, best).value >= -GSM8K_MARGINS[strategy]


def test_the_tables_of_the_page_have_the_kept_figures() -> None:
    """Its rows are put together by hand from docs/benchmarks/quality.json."""
    kept = report.read("quality")
    assert kept
    arms = [arm for one in kept["sets"] for arm in one["arms"]]
    differences = [each["difference"] for one in kept["sets"] for each in one["comparisons"]]
    known = {quality.percent(Estimate(arm["value"], arm["low"], arm["high"])) for arm in arms}
    known |= {quality.points(Estimate(**each)) for each in differences}
    rows = re.findall(r"^\|.*", (report.DOCS / "quality.md").read_text(), re.M)
    figures = re.findall(r"[-+]?\d+\.\d%? \[[^]]+\]", "\n".join(rows))
    assert len(figures) > 30
    assert {_unsigned_zeros(one) for one in figures} <= {_unsigned_zeros(one) for one in known}


def _unsigned_zeros(figures: str) -> str:
    return re.sub(r"[-+]0\.0\b", "0.0", figures)


def with_spoiled_first_seat() -> KeyedSet:
    """One reply of each member; every third of the first seat is worth nothing."""
    firsts = [r for r in replies.read(SLICE) if r.member == BOARD[0]]
    others = {r.problem.id: r for r in replies.read(SLICE) if (r.member, r.sample) == (BOARD[1], 0)}
    examples = [
        Example("sums", replies.prompt(one.problem), (one.completion.text,)) for one in firsts
    ]
    draw = random.Random(1)
    problems = []
    for n, (first, example) in enumerate(zip(firsts, examples, strict=True)):
        if n % 3 == 0:
            text = spoiled(example, examples[n - 1], draw)
            first = replace(first, completion=Completion(text, "stop", "m"))  # noqa: PLW2901
        problems.append({one.member: [drawn(one)] for one in (first, others[first.problem.id])})
    return KeyedSet("sums, spoiled", "replies", problems)


def drawn(reply: replies.Reply) -> Drawn:
    right = verify(reply.problem, reply.completion.text) == "right"
    return Drawn(quality.scored(reply), right, 1)

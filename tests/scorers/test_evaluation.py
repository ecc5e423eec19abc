from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import pytest

from app.errors import DataError
from app.scorers.evaluation import (
    Pair,
    ScoredPair,
    Share,
    bins,
    evaluate,
    fit_steepness,
    read_pairs,
    score_pairs,
    spearman,
)
from app.scorers.scripted import ScriptedScorer


def scored(margin: float | None, better: str = "bb", worse: str = "w") -> ScoredPair:
    pair = Pair("set", "p", better, worse)
    return ScoredPair(pair, margin, None if margin is None else 0.0)


def test_accuracy_counts_ties_as_wrong_and_leaves_the_unscored_out() -> None:
    found = evaluate("set", [scored(1.0), scored(0.0), scored(-1.0), scored(None)])
    assert (found.accuracy.hits, found.accuracy.n, found.unscored) == (1, 3, 1)


def test_length_alone_scores_a_half_when_balanced() -> None:
    longest = [scored(1.0, "long", "s")] * 9 + [scored(-1.0, "s", "long")]
    found = evaluate("set", longest)
    assert found.accuracy.value == 0.9
    assert found.length_balanced == 0.5


def test_the_resolution_is_where_three_of_four_are_right() -> None:
    # Right with probability 1 / (1 + exp(-2 m)), so three of four at ln(3) / 2.
    draw = random.Random(1)
    margins = []
    for _ in range(20_000):
        size = draw.uniform(0, 3)
        margins.append(size if draw.random() < 1 / (1 + math.exp(-2 * size)) else -size)
    assert fit_steepness(margins) == pytest.approx(2, rel=0.05)
    found = evaluate("set", [scored(margin) for margin in margins])
    assert found.resolution == pytest.approx(math.log(3) / 2, rel=0.05)
    assert found.calibration_error < 0.02


def test_the_scale_of_the_rewards_does_not_matter_to_the_fit() -> None:
    margins = [1.0, 2.0, -0.5, 0.3, 4.0, -1.0]
    scaled = [1000 * margin for margin in margins]
    assert fit_steepness(scaled) == pytest.approx(fit_steepness(margins) / 1000)


def test_a_coin_has_no_resolution() -> None:
    assert evaluate("set", [scored(1.0), scored(-1.0)]).resolution is None


def test_bins_hold_equal_numbers_in_order_of_size() -> None:
    found = bins([float(n) for n in range(-50, 50)], 5)
    assert [one.right.n for one in found] == [20] * 5
    assert [one.margin for one in found] == sorted(one.margin for one in found)


def test_spearman_against_numbers_worked_out_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 and 1 2 3: covariance 0.5, variances 0.5 and 2/3.
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(0.5 / math.sqrt(0.5 * 2 / 3))
    assert math.isnan(spearman([1, 1], [1, 2]))


def test_wilson_against_published_numbers() -> None:
    # Newcombe 1998, table I: 81 of 263, method 3.
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)


async def test_pairs_are_scored_and_a_failure_is_no_zero() -> None:
    scorer = ScriptedScorer({"good": 2.0, "bad": 1.0})
    pairs = [
        Pair("s", "p", "good", "bad"),
        Pair("s", "p", "good", "unknown"),
        Pair("s", "p", "", "bad"),
    ]
    told: list[None] = []
    found = await score_pairs(scorer, pairs, at_once=2, tell=lambda: told.append(None))
    assert [one.margin for one in found] == [1.0, None, None]
    assert len(told) == 3


def test_pairs_are_read_plain_and_packed(tmp_path: Path) -> None:
    row = {"set": "s", "prompt": "p", "better": "b", "worse": "w"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n\n")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    expected = [Pair("s", "p", "b", "w")]
    assert read_pairs(tmp_path / "a.jsonl") == read_pairs(tmp_path / "a.jsonl.gz") == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "line 1"), ('{"prompt": "p"}', "line 1: needs"), ("", "holds no rows")],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=match):
        read_pairs(tmp_path / "a.jsonl")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_pairs(tmp_path / "nowhere.jsonl")

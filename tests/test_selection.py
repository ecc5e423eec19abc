from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Completion, FinishReason, Plan, ScoredCandidate
from app.selection import best_of_n
from tests.samples import failed, scored

BOARD = ("a", "b", "c", "d")


def plan(resolution: float = 0.0) -> Plan:
    return Plan(BOARD, resolution=resolution)


def test_the_highest_reward_wins() -> None:
    chosen = best_of_n([scored("a", 1.0), scored("b", 3.0), scored("c", 2.0)], plan(0.1))
    assert chosen.winner == "cand_b"
    assert chosen.ranking == ("cand_b", "cand_c", "cand_a")
    assert chosen.margin == 1.0
    assert chosen.tie_break is None
    assert chosen.reason == "highest reward of 3 scored candidates; plainly lower: a"


def test_a_margin_under_the_resolution_goes_by_board_order() -> None:
    chosen = best_of_n([scored("b", 3.0), scored("a", 2.95), scored("c", 1.0)], plan(0.1))
    assert chosen.winner == "cand_a"
    assert chosen.ranking == ("cand_a", "cand_b", "cand_c")
    assert chosen.margin == pytest.approx(0.05)
    assert chosen.tie_break == "board order: 2 within the resolution of 0.1"
    assert chosen.reason == "too close to call among 2: first of them in board order"


def test_a_margin_of_exactly_the_resolution_is_no_tie() -> None:
    assert best_of_n([scored("a", 1.0), scored("b", 1.5)], plan(0.5)).winner == "cand_b"


def test_a_tie_that_leaves_the_first_seat_behind_says_so() -> None:
    chosen = best_of_n([scored("a", 0.0), scored("b", 3.0), scored("c", 3.01)], plan(0.1))
    assert chosen.winner == "cand_b"
    assert chosen.reason.endswith("plainly lower: a")


def test_equal_rewards_tie_even_without_a_resolution() -> None:
    chosen = best_of_n([scored("b", 1.0), scored("a", 1.0)], plan(0.0))
    assert chosen.winner == "cand_a"
    assert chosen.tie_break is not None


def test_one_scored_candidate_has_no_margin() -> None:
    chosen = best_of_n([scored("a", 1.0), failed("b")], plan())
    assert (chosen.winner, chosen.margin) == ("cand_a", None)
    assert chosen.reason == "the only scored candidate"


def test_a_refusal_never_beats_an_honest_reply() -> None:
    refusal = scored("a", 4.0, finish_reason="refusal")
    chosen = best_of_n([refusal, scored("b", 0.1)], plan())
    assert chosen.winner == "cand_b"
    assert "1 withheld not compared" in chosen.reason


def test_a_refusal_wins_where_there_is_nothing_else() -> None:
    assert best_of_n([scored("b", 1.0, finish_reason="refusal"), failed("a")], plan()).winner


def test_an_unscored_reply_is_passed_over_and_that_is_said() -> None:
    chosen = best_of_n([scored("a", None), scored("b", -5.0)], plan())
    assert chosen.winner == "cand_b"
    assert chosen.ranking == ("cand_b",)
    assert "1 unscored not compared" in chosen.reason


def test_nothing_scored_goes_by_board_order_and_that_is_said() -> None:
    chosen = best_of_n([scored("c", None), scored("b", None), failed("a")], plan())
    assert chosen.winner == "cand_b"
    assert chosen.ranking == ()
    assert chosen.reason == "no reply could be scored: first of 2 in board order"


def test_nobody_wins_where_nobody_replied() -> None:
    chosen = best_of_n([failed("a"), failed("b")], plan())
    assert (chosen.winner, chosen.reason) == (None, "none of 2 members replied")


rewards = st.one_of(st.none(), st.floats(-20, 20), st.sampled_from([1.0, 1.05, 2.0]))
finish: st.SearchStrategy[FinishReason] = st.sampled_from(("stop", "length", "refusal"))
boards = st.lists(
    st.tuples(st.sampled_from(BOARD), st.booleans(), rewards, finish), min_size=1, max_size=8
).map(
    lambda rows: [
        failed(member) if lost else scored(member, reward, id_=f"cand_{n}", finish_reason=reason)
        for n, (member, lost, reward, reason) in enumerate(rows)
    ]
)


@given(boards, st.floats(0, 2), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(
    candidates: list[ScoredCandidate], resolution: float, order: random.Random
) -> None:
    shuffled = list(candidates)
    order.shuffle(shuffled)
    assert best_of_n(candidates, plan(resolution)) == best_of_n(shuffled, plan(resolution))


@given(boards, st.floats(0, 2))
def test_what_may_win(candidates: list[ScoredCandidate], resolution: float) -> None:
    chosen = best_of_n(candidates, plan(resolution))
    replies = [c for c in candidates if isinstance(c.candidate.outcome, Completion)]
    assert (chosen.winner is None) == (not replies)
    if chosen.winner is None:
        return
    winner = next(c for c in candidates if c.candidate.id == chosen.winner)
    assert isinstance(winner.candidate.outcome, Completion)
    peers = [
        c
        for c in replies
        if isinstance(c.candidate.outcome, Completion)
        and c.candidate.outcome.withheld == winner.candidate.outcome.withheld
    ]
    known = [c.reward for c in peers if c.reward is not None]
    if known:
        assert winner.reward is not None
        assert max(known) - winner.reward <= resolution


@given(boards, st.floats(0.1, 10))
def test_scaling_rewards_and_resolution_together_changes_nothing(
    candidates: list[ScoredCandidate], factor: float
) -> None:
    # Powers of two keep the floats exact.
    exact = 2.0 ** round(factor)
    scaled = [
        ScoredCandidate(c.candidate, c.score, None if c.reward is None else c.reward * exact)
        for c in candidates
    ]
    one, other = best_of_n(candidates, plan(0.25)), best_of_n(scaled, plan(0.25 * exact))
    assert (one.winner, one.ranking) == (other.winner, other.ranking)

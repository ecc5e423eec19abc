from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Completion, FinishReason, Plan, ScoredCandidate, WinRate
from app.selection import Strategy, best_of_n, majority_vote, weighted_vote
from tests.samples import failed, scored

BOARD = ("a", "b", "c", "d")
CAMP = (("b", 1.0), ("c", 2.0))


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


def test_the_most_frequent_answer_wins_and_its_best_reply_shows_it() -> None:
    board = [scored("a", 9.0, extracted="1"), *(scored(m, r, extracted="2") for m, r in CAMP)]
    chosen = majority_vote(board, plan(0.1))
    assert chosen.winner == "cand_c"
    assert chosen.votes == {"2": 2, "1": 1}
    assert chosen.ranking == ("cand_c", "cand_b", "cand_a")
    assert chosen.reason == "2 of 3 voters agree, of 2 answers"


def test_an_even_vote_goes_to_the_answer_of_the_earliest_seat() -> None:
    chosen = majority_vote(
        [scored("b", 9.0, extracted="2"), scored("a", 1.0, extracted="1")], plan()
    )
    assert (chosen.winner, chosen.tie_break) == ("cand_a", "board order: 2 answers got as much")


def test_a_vote_without_answers_says_so_and_takes_the_best() -> None:
    chosen = majority_vote([scored("a", 1.0), scored("b", 2.0)], plan())
    assert chosen.winner == "cand_b"
    assert chosen.reason.startswith("no answer could be extracted to vote on; highest reward")


def test_unscored_voters_count_in_a_majority_and_that_is_said() -> None:
    board = [scored("a", 3.0, extracted="1"), *(scored(m, None, extracted="2") for m in "bc")]
    chosen = majority_vote(board, plan())
    assert chosen.winner == "cand_b"
    assert "none of them could be scored" in chosen.reason


def test_a_plainly_better_reply_outweighs_two_poor_ones() -> None:
    board = [scored("a", 5.0, extracted="1"), *(scored(m, 0.0, extracted="2") for m in "bc")]
    assert weighted_vote(board, plan(0.1)).winner == "cand_a"
    assert weighted_vote(board, plan(100.0)).winner == "cand_b"  # a scorer that sees no difference


def test_nothing_is_chosen_under_the_floor() -> None:
    chosen = best_of_n([scored("a", 1.0), scored("b", 2.0)], replace(plan(), floor=3.0))
    assert chosen.winner is None
    assert chosen.ranking == ("cand_b", "cand_a")
    assert chosen.reason == "abstained: the best reward, 2, is under the floor of 3"
    assert best_of_n([scored("a", 3.0)], replace(plan(), floor=3.0)).winner == "cand_a"


def test_length_control_takes_off_what_length_alone_earns_and_says_what_it_changed() -> None:
    board = [scored("a", 1.0, text="short"), scored("b", 1.2, text="long " * 50)]
    controlled = best_of_n(board, replace(plan(), length_slope=0.5))
    assert controlled.winner == "cand_a"
    assert "without it b would have been chosen" in str(controlled.length_control)
    slightly = best_of_n(board, replace(plan(), length_slope=0.01))
    assert (slightly.winner, "the same without" in str(slightly.length_control)) == ("cand_b", True)
    assert best_of_n(board, plan()).length_control is None


RATES = {"a": WinRate(0.25, 200), "b": WinRate(0.5, 90), "c": WinRate(0.4, 80)}


def by_wins(resolution: float = 0.1) -> Plan:
    members = ("a", "b", "c")
    return Plan(members, resolution=resolution, standing=("b", "c", "a"), win_rates=RATES)


def test_a_tie_goes_by_standing_with_the_figures() -> None:
    board = [scored("a", 3.0), scored("b", 2.95), scored("c", 1.0)]
    chosen = best_of_n(board, by_wins())
    assert chosen.winner == "cand_b"
    assert chosen.ranking == ("cand_b", "cand_a", "cand_c")
    expected = "standing: b won 50.0% of 90, a won 25.0% of 200; 2 within the resolution of 0.1"
    assert chosen.tie_break == expected
    assert chosen.reason == "too close to call among 2: first of them by standing"


def test_evidence_overcomes_standing() -> None:
    chosen = best_of_n([scored("a", 3.0), scored("b", 2.9)], by_wins(0.05))
    assert (chosen.winner, chosen.tie_break) == ("cand_a", None)
    assert chosen.reason.endswith("plainly lower: b")


def test_a_tie_that_win_rates_could_not_decide_says_why() -> None:
    chosen = best_of_n(
        [scored("a", 1.0), scored("b", 1.0)], replace(plan(0.1), no_standing="b has competed in 3")
    )
    assert chosen.winner == "cand_a"
    said = "board order: 2 within the resolution of 0.1 (b has competed in 3)"
    assert chosen.tie_break == said


def test_who_has_no_standing_comes_after_the_members() -> None:
    plan_ = replace(by_wins(), reserves=("d",))
    board = [scored("a (fusion)", 1.0), scored("d", 1.0), scored("a", 1.0)]
    chosen = best_of_n(board, plan_)
    assert chosen.ranking == ("cand_a", "cand_d", "cand_a (fusion)")
    assert str(chosen.tie_break).startswith("standing: a won 25.0% of 200, d, a (fusion); 3 within")


def test_an_even_vote_goes_by_standing() -> None:
    board = [scored("a", 9.0, extracted="1"), scored("b", 1.0, extracted="2")]
    chosen = majority_vote([*board, scored("c", 0.0, extracted="3")], by_wins())
    assert chosen.winner == "cand_b"
    assert chosen.tie_break == (
        "standing: b won 50.0% of 90, c won 40.0% of 80, a won 25.0% of 200; 3 answers got as much"
    )


def test_nothing_scored_goes_by_standing() -> None:
    chosen = best_of_n([scored("a", None), scored("c", None)], by_wins())
    assert chosen.winner == "cand_c"
    assert chosen.reason == "no reply could be scored: first of 2 by standing"


rewards = st.one_of(st.none(), st.floats(-20, 20), st.sampled_from([1.0, 1.05, 2.0]))
finish: st.SearchStrategy[FinishReason] = st.sampled_from(("stop", "length", "refusal"))
boards = st.lists(
    st.tuples(
        st.sampled_from(BOARD),
        st.booleans(),
        rewards,
        finish,
        st.sampled_from((None, "1", "2", "3")),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: [
        failed(member)
        if lost
        else scored(member, reward, id_=f"cand_{n}", finish_reason=reason, extracted=answer)
        for n, (member, lost, reward, reason, answer) in enumerate(rows)
    ]
)


every_strategy = pytest.mark.parametrize("strategy", [best_of_n, majority_vote, weighted_vote])


@every_strategy
@given(boards, st.floats(0, 2), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(
    strategy: Strategy,
    candidates: list[ScoredCandidate],
    resolution: float,
    order: random.Random,
) -> None:
    shuffled = list(candidates)
    order.shuffle(shuffled)
    assert strategy(candidates, plan(resolution)) == strategy(shuffled, plan(resolution))


@every_strategy
@given(boards, st.floats(0, 2))
def test_what_may_win(
    strategy: Strategy, candidates: list[ScoredCandidate], resolution: float
) -> None:
    chosen = strategy(candidates, plan(resolution))
    replies = [c for c in candidates if isinstance(c.candidate.outcome, Completion)]
    assert (chosen.winner is None) == (not replies)
    if chosen.winner is None:
        return
    winner = next(c for c in replies if c.candidate.id == chosen.winner)
    honest = [c for c in replies if not withheld(c)]
    assert not (honest and withheld(winner))
    peers = [c for c in replies if withheld(c) == withheld(winner)]
    if winner.reward is None and any(c.reward is not None for c in peers):
        assert "none of them could be scored" in chosen.reason
    known = [c.reward for c in peers if c.reward is not None]
    if strategy is best_of_n and known:
        assert winner.reward is not None
        assert max(known) - winner.reward <= resolution


@every_strategy
@given(boards, st.integers(-3, 3), st.sampled_from((0.0, 0.25)))
def test_scaling_rewards_and_resolution_together_changes_nothing(
    strategy: Strategy, candidates: list[ScoredCandidate], power: int, resolution: float
) -> None:
    factor = 2.0**power  # exact in floating point
    scaled = [
        replace(c, reward=None if c.reward is None else c.reward * factor) for c in candidates
    ]
    one, other = strategy(candidates, plan(resolution)), strategy(scaled, plan(resolution * factor))
    assert (one.winner, one.ranking) == (other.winner, other.ranking)


@every_strategy
@given(boards, st.floats(-20, 20))
def test_nothing_below_the_floor_is_chosen(
    strategy: Strategy, candidates: list[ScoredCandidate], floor: float
) -> None:
    chosen = strategy(candidates, replace(plan(), floor=floor))
    rewards = {c.candidate.id: c.reward for c in candidates}
    reward = rewards.get(chosen.winner or "")
    assert reward is None or reward >= floor


@every_strategy
@given(boards, st.floats(0, 2), st.permutations(BOARD))
def test_standing_decides_as_board_order_would(
    strategy: Strategy,
    candidates: list[ScoredCandidate],
    resolution: float,
    order: tuple[str, ...],
) -> None:
    """To go by standing is to go by the board in that order: it decides ties and nothing else."""
    stood = strategy(candidates, replace(plan(resolution), standing=tuple(order)))
    seated = strategy(candidates, Plan(tuple(order), resolution=resolution))
    assert (stood.winner, stood.ranking, stood.margin) == (
        seated.winner,
        seated.ranking,
        seated.margin,
    )
    assert (stood.tie_break is None) == (seated.tie_break is None)


def withheld(candidate: ScoredCandidate) -> bool:
    outcome = candidate.candidate.outcome
    return isinstance(outcome, Completion) and outcome.withheld

"""What `GET /statistics` counts, from answers made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.api.statistics import AT_MOST, BINS, document
from app.store.observations import SeenAnswer, SeenCandidate

SINCE = datetime(2026, 11, 20, tzinfo=UTC)


def reply(
    member: str, latency_s: float = 1.0, cost_usd: float | None = 0.5, reward: float | None = None
) -> SeenCandidate:
    return SeenCandidate(member, latency_s, cost_usd, reward, None)


def failure(member: str, kind: str = "timeout") -> SeenCandidate:
    return SeenCandidate(member, 60.0, None, None, kind)


def seen(
    *candidates: SeenCandidate,
    day: int = 0,
    agreed: bool | None = None,
    degraded: bool = False,
    scorer: str = "nvidia",
) -> SeenAnswer:
    return SeenAnswer(SINCE + timedelta(days=day), degraded, scorer, candidates, agreed)


def test_nothing_asked_is_nothing_counted() -> None:
    found = document([], SINCE)
    assert (found.since, found.answers, found.degraded, found.truncated) == (SINCE, 0, 0, False)
    assert not any((found.members, found.days, found.agreement, found.reward_bins))


def test_failures_count_by_kind_and_nowhere_else() -> None:
    found = document(
        [
            seen(reply("a", 1.0), failure("a"), failure("a", "overloaded"), failure("a")),
            seen(failure("b"), degraded=True),
        ],
        SINCE,
    )
    a, b = found.members
    assert (a.name, a.replies, a.failures) == ("a", 1, {"timeout": 2, "overloaded": 1})
    assert a.latency_median_s == 1.0  # not the 60 s of those that failed
    assert (b.replies, b.latency_median_s, b.latency_p95_s, b.cost_usd) == (0, None, None, None)
    assert (found.answers, found.degraded) == (2, 1)


def test_latency_by_member_and_day() -> None:
    found = document(
        [
            *(seen(reply("a", float(n)), day=0) for n in range(1, 101)),
            seen(reply("a", 500.0), reply("b", 7.0), day=2),
        ],
        SINCE,
    )
    a, b = found.members
    assert (a.latency_median_s, a.latency_p95_s) == (51.0, 96.0)
    assert (b.latency_median_s, b.latency_p95_s) == (7.0, 7.0)
    assert [(one.day, one.answers) for one in found.days] == [
        ("2026-11-20", 100),
        ("2026-11-22", 1),
    ]
    first, last = (one.members for one in found.days)
    assert ([*first], first["a"].latency_median_s) == (["a"], 50.5)
    assert (last["a"].latency_median_s, last["b"].latency_median_s) == (500.0, 7.0)


def test_a_cost_that_is_not_known_is_never_0() -> None:
    found = document(
        [seen(reply("a", cost_usd=0.25), reply("a", cost_usd=None), reply("b", cost_usd=None))],
        SINCE,
    )
    a, b = found.members
    assert (a.cost_usd, a.cost_unknown) == (0.25, 1)
    assert (b.cost_usd, b.cost_unknown) == (None, 1)
    assert found.days[0].members["b"].cost_usd is None


def test_each_reward_is_in_one_bin() -> None:
    rewards = [-2.0, -1.999, 0.0, 0.0, 3.999, 4.0]
    found = document([seen(*(reply("a", reward=one) for one in rewards), reply("b"))], SINCE)
    edges = found.reward_bins
    assert (len(edges), edges[0], edges[-1]) == (BINS + 1, -2.0, 4.0)
    a, b = found.members
    assert (sum(a.rewards), a.rewards[0], a.rewards[4], a.rewards[-1]) == (6, 2, 2, 2)
    assert b.rewards == [0] * BINS  # its reply has no reward


def test_one_reward_alone_has_a_bin_around_it() -> None:
    found = document([seen(reply("a", reward=2.0), reply("b", reward=2.0))], SINCE)
    assert found.reward_bins == [1.5, 2.5]
    assert [one.rewards for one in found.members] == [[1], [1]]


def test_agreement_is_the_share_of_what_was_judged_by_scorer() -> None:
    judged = [seen(agreed=True)] * 3 + [seen(agreed=False), seen(agreed=None)]
    found = document([*judged, seen(agreed=False, scorer="judge:claude")], SINCE)
    judge, nvidia = found.agreement
    assert (nvidia.scorer, nvidia.n, nvidia.share) == ("nvidia", 4, 0.75)
    # Wilson's interval of 3 of 4
    assert [nvidia.low, nvidia.high] == pytest.approx([0.3006, 0.9544], abs=1e-3)
    assert (judge.n, judge.share) == (1, 0.0)


def test_more_than_is_counted_is_said() -> None:
    assert not document([seen()] * AT_MOST, SINCE).truncated
    found = document([seen()] * (AT_MOST + 1), SINCE)
    assert (found.truncated, found.answers) == (True, AT_MOST)


def test_rewards_are_those_of_the_newest_answers_scorer_alone() -> None:
    found = document(
        [
            seen(reply("a"), day=3, scorer="none"),
            seen(reply("a", reward=1.0), reply("b", reward=2.0), day=2),
            seen(reply("a", reward=-19.0), day=1, scorer="remote"),
        ],
        SINCE,
    )
    assert found.reward_scorer == "nvidia"
    assert (found.reward_bins[0], found.reward_bins[-1]) == (1.0, 2.0)
    assert [sum(member.rewards) for member in found.members] == [1, 1]

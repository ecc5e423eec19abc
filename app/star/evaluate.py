"""How good a model is: greedy pass@1 with its interval, and pass@k and maj@k of samples.

pass@k is the unbiased estimate of arXiv 2107.03374: the chance that one of k samples drawn from n
is right. maj@k is the share of problems whose most frequent answer of k samples is right. What
could not be read counts as not right here, and is counted apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from app.domain import Completion, Failure
from app.extraction import extract
from app.scorers.evaluation import Share
from app.star.problems import Problem
from app.star.verify import Verdict, verify


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a model said to a problem. `problem` is its id; `sample` -1 is the greedy attempt."""

    problem: str
    sample: int
    text: str
    verdict: Verdict
    tokens: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`pass_1` is greedy. `pass_k` and `maj_k` are None without samples; `k` is how many."""

    pass_1: Share
    unverified: int
    mean_tokens: float
    k: int = 0
    pass_k: float | None = None
    maj_k: float | None = None

    def as_json(self) -> dict[str, object]:
        low, high = self.pass_1.interval
        return {
            "right": self.pass_1.hits,
            "n": self.pass_1.n,
            "pass@1": self.pass_1.value,
            "interval": [low, high],
            "unverified": self.unverified,
            "mean_tokens": self.mean_tokens,
            "k": self.k,
            "pass@k": self.pass_k,
            "maj@k": self.maj_k,
        }


def attempt(problem: Problem, sample: int, outcome: Completion | Failure) -> Attempt:
    """A completion, verified; a failure has no answer."""
    if isinstance(outcome, Failure):
        return Attempt(problem.id, sample, "", "unverified", 0)
    tokens = outcome.usage.output_tokens if outcome.usage else 0
    return Attempt(problem.id, sample, outcome.text, verify(problem, outcome.text), tokens)


def evaluation(problems: Sequence[Problem], attempts: Sequence[Attempt]) -> Evaluation:
    """All measures of one model on the problems, which each have a greedy attempt."""
    greedy = [one for one in attempts if one.sample < 0]
    samples: dict[str, list[Attempt]] = {problem.id: [] for problem in problems}
    for one in attempts:
        if one.sample >= 0:
            samples[one.problem].append(one)
    k = min(map(len, samples.values()), default=0)
    drawn = [(problem, samples[problem.id]) for problem in problems] if k else []
    return Evaluation(
        Share(sum(one.verdict == "right" for one in greedy), len(greedy)),
        sum(one.verdict == "unverified" for one in greedy),
        fmean(one.tokens for one in greedy) if greedy else math.nan,
        k,
        fmean(_pass_at(k, ones) for _, ones in drawn) if drawn else None,
        fmean(_majority_is_right(ones) for _, ones in drawn) if drawn else None,
    )


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that of k attempts drawn from n, `right` of which are right, one is right."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def paired(one: Sequence[Attempt], other: Sequence[Attempt]) -> Mapping[str, int]:
    """Problems that only the first, only the other got right, greedily."""
    verdicts = [
        {a.problem: a.verdict == "right" for a in attempts if a.sample < 0}
        for attempts in (one, other)
    ]
    mine, theirs = verdicts
    return {
        "only_first": sum(right and not theirs[id_] for id_, right in mine.items()),
        "only_other": sum(right and not mine[id_] for id_, right in theirs.items()),
    }


def _pass_at(k: int, ones: Sequence[Attempt]) -> float:
    return pass_at_k(len(ones), sum(one.verdict == "right" for one in ones), k)


def _majority_is_right(ones: Sequence[Attempt]) -> bool:
    """Whether the most frequent answer, the first of several as frequent, is right."""
    answers = [(extract(one.text), one.verdict) for one in ones]
    counts = Counter(answer for answer, _ in answers if answer is not None)
    if not counts:
        return False
    most, _ = counts.most_common(1)[0]
    return (most, "right") in answers

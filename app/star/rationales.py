"""Rationales: asked for, verified, and kept or dropped with the reason said.

Generated ones come from the bare question, rationalized ones from the question with its answer as
a hint. Both are stored without the hint; only what was kept is trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from app.domain import Attributes, Completion, Failure, Prompt, Score
from app.errors import ConfigurationError
from app.scorers.evaluation import reward_of
from app.star.problems import Problem, normalized
from app.star.prompts import few_shot, shots_for, with_hint, zero_shot
from app.star.steps import Steps, check_steps
from app.star.verify import Verdict, leaks_hint, verify

Origin = Literal["generated", "rationalized", "reward-filtered"]


@dataclass(frozen=True, slots=True)
class Rationale:
    """What was written for a problem, by whom, and what verification made of it.

    `problem` is the problem's id, `sample` counts what was written for it from 0. `reward` is a
    scorer's, None if none was asked or it failed. `why_not` says why it is not trained on; None if
    it is. "reward-filtered" is all that was written for problems without a reference.
    """

    problem: str
    sample: int
    origin: Origin
    text: str
    by: str
    verdict: Verdict
    steps: Steps
    reward: float | None = None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of what was verified.

    `check_steps`: only without a false equation. `cap`: so many a problem, generated before
    rationalized. `max_rationalized`: the share of what is kept that may be rationalized, 0-1.

    The rest asks for a scorer. `min_reward`, on the scorer's own scale, is for problems without a
    reference. `min_correctness` and `min_coherence` (HelpSteer, 0-4) hold where there is no
    equation to check, if the scorer reports attributes; None: any will do.
    """

    check_steps: bool = True
    cap: int = 4
    max_rationalized: float = 1.0
    min_reward: float | None = None
    min_correctness: float | None = 2.0
    min_coherence: float | None = 2.0


@dataclass(frozen=True, slots=True)
class Asking:
    """How rationales are asked for. `temperature` 0 is greedy, which makes one sample enough."""

    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.samples > 1 and not self.temperature:
            raise ConfigurationError(
                f"{self.samples} samples at temperature 0 are the same text: choose a temperature"
                " above 0, or one sample"
            )


def bare(problem: Problem, asking: Asking, *, shots: bool) -> list[Prompt]:
    """The prompts for generated rationales: with worked examples for a base model, without for
    one that was trained here."""
    messages = few_shot(problem, shots_for(problem)) if shots else zero_shot(problem)
    return [
        Prompt(messages, asking.max_tokens, asking.temperature, sample)
        for sample in range(asking.samples)
    ]


def hinted(problem: Problem, asking: Asking) -> list[Prompt]:
    """The prompts for rationalized ones, always with worked examples."""
    messages = with_hint(problem, shots_for(problem))
    return [
        Prompt(messages, asking.max_tokens, asking.temperature, sample)
        for sample in range(asking.samples)
    ]


def judged(
    problem: Problem,
    sample: int,
    origin: Origin,
    outcome: Completion | Failure,
    *,
    by: str,
    keeping: Keeping,
) -> Rationale:
    """The rationale in a completion, verified as far as it can be: without a reference it is
    "reward-filtered", whatever the `origin`."""
    if problem.reference is None:
        origin = "reward-filtered"
    if isinstance(outcome, Failure):
        why_not = f"not written: {outcome.kind}"
        return Rationale(
            problem.id, sample, origin, "", by, "unverified", "unchecked", why_not=why_not
        )
    made = Rationale(
        problem.id,
        sample,
        origin,
        outcome.text,
        by,
        verify(problem, outcome.text),
        check_steps(outcome.text),
    )
    return replace(made, why_not=_why_not(problem, made, outcome, keeping))


def _why_not(
    problem: Problem, made: Rationale, outcome: Completion, keeping: Keeping
) -> str | None:
    if outcome.withheld:
        return f"withheld: {outcome.finish_reason}"
    if made.verdict == "wrong":
        return "wrong answer"
    if outcome.finish_reason == "length":
        return "cut off"
    if made.verdict == "unverified" and made.origin != "reward-filtered":
        return "no answer that could be read"
    if not made.text.strip():
        return "empty"
    if made.origin == "rationalized" and leaks_hint(problem, made.text):
        return "speaks of the hint"
    if keeping.check_steps and made.steps == "false":
        return "a false step"
    return None


def scored(made: Rationale, score: Score, keeping: Keeping) -> Rationale:
    """A rationale that stands, with its reward, and dropped if that is too low.

    A score that failed leaves it as it is, unless nothing but a score could speak for it.
    """
    return replace(made, reward=reward_of(score), why_not=_too_low(made, score, keeping))


def _too_low(made: Rationale, score: Score, keeping: Keeping) -> str | None:
    if made.origin == "reward-filtered":
        reward = reward_of(score)
        if reward is None:
            return "not scored"
        if keeping.min_reward is not None and reward < keeping.min_reward:
            return f"reward below {keeping.min_reward:g}"
    if isinstance(score.outcome, Attributes) and made.steps == "unchecked":
        found = score.outcome
        for name, value, least in (
            ("correctness", found.correctness, keeping.min_correctness),
            ("coherence", found.coherence, keeping.min_coherence),
        ):
            if least is not None and value < least:
                return f"{name} below {least:g}"
    return None


def unsolved(problems: Iterable[Problem], rationales: Iterable[Rationale]) -> list[Problem]:
    """The problems with a reference of which no rationale stands: those to rationalize."""
    solved = {rationale.problem for rationale in rationales if rationale.why_not is None}
    return [p for p in problems if p.id not in solved and p.reference is not None]


def kept(rationales: Sequence[Rationale], keeping: Keeping, seed: int) -> list[Rationale]:
    """All of them, with a reason set on those that are one too many.

    Of one problem the same text counts once, and the first `cap` are taken: generated before
    rationalized, then by reward, what has none last, then by sample.
    """
    by_problem: dict[str, list[Rationale]] = defaultdict(list)
    for rationale in rationales:
        by_problem[rationale.problem].append(rationale)
    capped = [one for group in by_problem.values() for one in _capped(group, keeping.cap)]
    return _shared(capped, keeping.max_rationalized, seed)


def _capped(group: Sequence[Rationale], cap: int) -> list[Rationale]:
    seen: set[str] = set()
    found = []
    for one in sorted(group, key=_place):
        text = normalized(one.text)
        if one.why_not is None and text in seen:
            found.append(replace(one, why_not="the same text again"))
        elif one.why_not is None and len(seen) >= cap:
            found.append(replace(one, why_not=f"over the cap of {cap} a problem"))
        else:
            if one.why_not is None:
                seen.add(text)
            found.append(one)
    return found


def _place(one: Rationale) -> tuple[bool, float, int]:
    reward = -inf if one.reward is None else one.reward
    return one.origin == "rationalized", -reward, one.sample


def _shared(rationales: list[Rationale], most: float, seed: int) -> list[Rationale]:
    standing = Counter(one.origin == "rationalized" for one in rationales if one.why_not is None)
    if most >= 1:
        return rationales
    room = int(standing[False] * most / (1 - most))
    hinted_ones = [
        one for one in rationales if one.why_not is None and one.origin == "rationalized"
    ]
    drawn = sorted(hinted_ones, key=lambda one: _draw(seed, one))
    dropped = {(one.problem, one.sample) for one in drawn[room:]}
    why_not = f"over the share of {most:.0%} for rationalized ones"
    return [
        replace(one, why_not=why_not)
        if one.origin == "rationalized" and (one.problem, one.sample) in dropped
        else one
        for one in rationales
    ]


def _draw(seed: int, one: Rationale) -> str:
    return hashlib.sha256(f"{seed} {one.problem} {one.sample}".encode()).hexdigest()


def counted(rationales: Iterable[Rationale]) -> Mapping[str, int]:
    """How many were kept by origin, and how many dropped by reason."""
    found: Counter[str] = Counter()
    for one in rationales:
        found[one.origin if one.why_not is None else one.why_not] += 1
    return dict(sorted(found.items()))

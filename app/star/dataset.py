"""Training rows, in TRL's conversational form: the bare question, and what is to be learned.

The loss is on the completion alone. The question stands there without hint and without worked
examples, as a trained model is asked it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.star.problems import Problem
from app.star.prompts import closing, zero_shot
from app.star.rationales import Rationale

Turns = list[dict[str, str]]
Row = dict[str, Turns]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """`supervised` have a prompt and a completion, `preferences` a prompt, chosen and rejected."""

    supervised: list[Row]
    preferences: list[Row] = field(default_factory=list)


def training_rows(problems: Iterable[Problem], rationales: Iterable[Rationale]) -> list[Row]:
    """A row for each rationale that was kept, in the order of the problems."""
    by_problem = _by_problem(rationales)
    return [
        _row(problem, one.text)
        for problem in problems
        for one in by_problem[problem.id]
        if one.why_not is None
    ]


def direct_rows(problems: Iterable[Problem]) -> list[Row]:
    """A row for each problem, with the answer and no rationale: what STaR is compared with."""
    return [_row(p, closing(p)) for p in problems if p.reference is not None]


def preference_rows(problems: Iterable[Problem], rationales: Iterable[Rationale]) -> list[Row]:
    """For DPO: a kept rationale against one with a wrong answer, wherever a problem has both."""
    by_problem = _by_problem(rationales)
    rows = []
    for problem in problems:
        chosen = [one for one in by_problem[problem.id] if one.why_not is None]
        rejected = [one for one in by_problem[problem.id] if one.verdict == "wrong"]
        rows += [
            {
                "prompt": _asked(problem),
                "chosen": _said(better.text),
                "rejected": _said(worse.text),
            }
            for better, worse in zip(chosen, rejected, strict=False)
        ]
    return rows


def _by_problem(rationales: Iterable[Rationale]) -> Mapping[str, Sequence[Rationale]]:
    found: dict[str, list[Rationale]] = defaultdict(list)
    for one in rationales:
        found[one.problem].append(one)
    return found


def _row(problem: Problem, text: str) -> Row:
    return {"prompt": _asked(problem), "completion": _said(text)}


def _asked(problem: Problem) -> Turns:
    return [{"role": m.role, "content": m.content} for m in zero_shot(problem)]


def _said(text: str) -> Turns:
    return [{"role": "assistant", "content": text}]

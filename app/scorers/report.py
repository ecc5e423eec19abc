"""What a trained head is worth: measured on prompts it never saw, by the code that serves it.

Writes `report.md` with its pictures beside the head, and the head's resolution into its config.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from app.domain import ATTRIBUTES, Attributes, Completion
from app.scorers import Scorer
from app.scorers.evaluation import (
    Evaluation,
    Pair,
    ScoredPair,
    evaluate,
    markdown,
    score_pairs,
    spearman,
)
from app.scorers.examples import Example, Labels
from app.scorers.local import RESOLUTION_KEY, open_local_scorer
from app.scorers.picture import draw, draw_attributes
from app.scorers.training import Parts, Recipe, change_config, uses_bfloat16

AT_ONCE = 16
# A resolution from fewer pairs would be a guess.
LEAST_PAIRS = 50

Rows = list[tuple[Labels, Attributes]]


@dataclass(frozen=True, slots=True)
class Report:
    """`evaluations` of pairs by set, those of the validation part first; `resolution` from them,
    None if it could not be told. `text` is the report in Markdown."""

    evaluations: tuple[Evaluation, ...]
    resolution: float | None
    text: str


async def measure(
    head: Path, parts: Parts, recipe: Recipe, out: Path, tell: Callable[[], None]
) -> Report:
    """Score validation and held-out examples with the head as it will be served.

    `tell` is called after each example. Raises `ConfigurationError` without matplotlib.
    """
    dtype = "bfloat16" if uses_bfloat16(recipe) else "float32"
    async with open_local_scorer(str(head), dtype=dtype, max_tokens=recipe.max_tokens) as scorer:
        if parts.training[0].labels is None:
            report = await _of_pairs(scorer, parts, out, tell)
        else:
            report = await _of_labels(scorer, parts, out, tell)
    if report.resolution is not None:
        change_config(head, **{RESOLUTION_KEY: report.resolution})
    (out / "report.md").write_text(f"# {head}\n\n{report.text}\n", encoding="utf-8")
    return report


async def _of_pairs(scorer: Scorer, parts: Parts, out: Path, tell: Callable[[], None]) -> Report:
    validation = [_pair("validation", example) for example in parts.validation]
    held_out = [_pair(example.source, example) for example in parts.held_out]
    scored = await score_pairs(scorer, [*validation, *held_out], at_once=AT_ONCE, tell=tell)
    ours, others = scored[: len(validation)], scored[len(validation) :]
    rows = [evaluate("validation", ours)] if ours else []
    resolution = _resolution(rows[0]) if rows else None
    by_set = [list(group) for _, group in itertools.groupby(others, lambda one: one.pair.source)]
    rows += [evaluate(group[0].pair.source, group) for group in by_set]
    rows += [evaluate("all held out", others)] if len(by_set) > 1 else []
    text = markdown(rows)
    for name, part in (("validation", ours), ("held-out", others)):
        if margins := [one.margin for one in part if one.margin is not None]:
            draw(margins, f"{name} pairs", out / f"{name}.svg")
            text += f"\n\n![share right by margin, {name} pairs]({name}.svg)"
    return Report(tuple(rows), resolution, text)


async def _of_labels(scorer: Scorer, parts: Parts, out: Path, tell: Callable[[], None]) -> Report:
    free = asyncio.Semaphore(AT_ONCE)

    async def attributes(example: Example) -> Attributes:
        async with free:
            score = await scorer.score(example.prompt, Completion(example.replies[0], "stop", ""))
        tell()
        assert isinstance(score.outcome, Attributes)
        return score.outcome

    examples = [*parts.validation, *parts.held_out]
    found = await asyncio.gather(*map(attributes, examples))
    rows = [
        (example.labels[0], one)
        for example, one in zip(examples, found, strict=True)
        if example.labels
    ]
    lines = ["| attribute | replies | mean error | rank correlation |", "|---|---|---|---|"]
    for place, name in enumerate(ATTRIBUTES):
        pairs = attribute_pairs(rows, place)
        error = fmean(abs(said - label) for said, label in pairs)
        correlation = spearman([said for said, _ in pairs], [label for _, label in pairs])
        lines.append(f"| {name} | {len(pairs)} | {error:.2f} | {correlation:+.2f} |")
    draw_attributes([attribute_pairs(rows, place) for place in range(5)], out / "reliability.svg")
    text = "\n".join(lines) + "\n\n![label by prediction, each attribute](reliability.svg)"
    compared = _compared(examples, found)
    if not compared:
        return Report((), None, text)
    row = evaluate("the more helpful of two", compared)
    draw([one.margin for one in compared if one.margin is not None], row.source, out / "pairs.svg")
    text += f"\n\n{markdown([row])}\n\n![share right by margin](pairs.svg)"
    return Report((row,), _resolution(row), text)


def attribute_pairs(rows: Rows, place: int) -> list[tuple[float, float]]:
    """What the head said and what the label is, of one attribute, wherever there is a label."""
    return [
        (float(getattr(said, ATTRIBUTES[place])), label)
        for labels, said in rows
        if (label := labels[place]) is not None
    ]


def _compared(examples: Sequence[Example], found: Sequence[Attributes]) -> list[ScoredPair]:
    """Replies to one prompt of which one was labelled more helpful, with their rewards."""
    from app.scorers.evaluation import WEIGHTS

    by_prompt: dict[str, list[tuple[Example, float]]] = {}
    for example, said in zip(examples, found, strict=True):
        key = repr(example.prompt.turns)
        by_prompt.setdefault(key, []).append((example, WEIGHTS.reward(said)))
    pairs = []
    for key, replies in by_prompt.items():
        for (one, reward), (other, other_reward) in itertools.combinations(replies, 2):
            better, worse = (one, reward), (other, other_reward)
            if _helpfulness(one) == _helpfulness(other):
                continue
            if _helpfulness(one) < _helpfulness(other):
                better, worse = worse, better
            pair = Pair(one.source, key, better[0].replies[0], worse[0].replies[0])
            pairs.append(ScoredPair(pair, better[1], worse[1]))
    return pairs


def _helpfulness(example: Example) -> float:
    assert example.labels
    return example.labels[0][0] or 0.0


def _resolution(row: Evaluation) -> float | None:
    return row.resolution if row.accuracy.n >= LEAST_PAIRS else None


def _pair(source: str, example: Example) -> Pair:
    better, worse, *_ = example.replies
    return Pair(source, example.prompt.turns[-1].content, better, worse)

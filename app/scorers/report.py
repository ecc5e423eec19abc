"""What a trained head is worth: measured on prompts it never saw, by the code that serves it.

Writes `report.md` with its pictures beside the head, and the head's resolution, told from the
validation part alone, into its config.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from app.domain import ATTRIBUTES, Attributes, Completion, Prompt
from app.errors import UpstreamError
from app.scorers import Scorer
from app.scorers.evaluation import (
    LEAST_PAIRS,
    WEIGHTS,
    Evaluation,
    Pair,
    ScoredPair,
    evaluate,
    evaluate_sets,
    markdown,
    score_pairs,
    spearman,
)
from app.scorers.examples import Example, Labels
from app.scorers.local import RESOLUTION_KEY, open_local_scorer
from app.scorers.picture import draw, draw_attributes
from app.scorers.training import Parts, change_config

AT_ONCE = 16

Tell = Callable[[], None]
# An example with what the head said of its reply; None if it said nothing that counts.
Said = tuple[Example, Attributes | None]


@dataclass(frozen=True, slots=True)
class Report:
    """`evaluations` of pairs by set, those of the validation part first; `resolution` from these
    alone, under the default weights, None if it could not be told. `text` is the report in
    Markdown."""

    evaluations: tuple[Evaluation, ...]
    resolution: float | None
    text: str


async def measure(head: Path, parts: Parts, out: Path, tell: Tell) -> Report:
    """Score validation and held-out examples with the head as it will be served.

    `tell` is called after each example. Raises `ConfigurationError` without matplotlib, or if the
    head does not load.
    """
    async with open_local_scorer(str(head)) as scorer:
        if parts.training[0].labels is None:
            report = await _of_pairs(scorer, parts, out, tell)
        else:
            report = await _of_labels(scorer, parts, out, tell)
    if report.resolution is not None:
        change_config(head, **{RESOLUTION_KEY: report.resolution})
    (out / "report.md").write_text(f"# {head}\n\n{report.text}\n", encoding="utf-8")
    return report


async def _of_pairs(scorer: Scorer, parts: Parts, out: Path, tell: Tell) -> Report:
    validation = [_pair("validation", example) for example in parts.validation]
    held_out = [_pair(example.source, example) for example in parts.held_out]
    scored = await score_pairs(scorer, [*validation, *held_out], at_once=AT_ONCE, tell=tell)
    ours, others = scored[: len(validation)], scored[len(validation) :]
    rows = [evaluate("validation", ours)] if ours else []
    resolution = _resolution(rows[0]) if rows else None
    rows += evaluate_sets(others, "all held out")
    text = markdown(rows)
    for name, part in (("validation", ours), ("held-out", others)):
        if margins := [one.margin for one in part if one.margin is not None]:
            draw(margins, f"{name} pairs", out / f"{name}.svg")
            text += f"\n\n![share right by margin, {name} pairs]({name}.svg)"
    return Report(tuple(rows), resolution, text)


async def _of_labels(scorer: Scorer, parts: Parts, out: Path, tell: Tell) -> Report:
    rows, texts, resolution = [], [], None
    for name, examples in (("validation", parts.validation), ("held-out", parts.held_out)):
        if not examples:
            continue
        said = await _said(scorer, examples, tell)
        texts += [f"## {name.capitalize()}", _by_attribute(said)]
        picture = f"{name}-reliability.svg"
        draw_attributes(
            [_reliability(said, place) for place in range(len(ATTRIBUTES))], out / picture
        )
        texts.append(f"![label by prediction, each attribute, {name}]({picture})")
        if compared := _compared(said):
            row = evaluate(f"the more helpful of two, {name}", compared)
            draw(
                [m for one in compared if (m := one.margin) is not None], name, out / f"{name}.svg"
            )
            texts += [markdown([row]), f"![share right by margin, {name}]({name}.svg)"]
            rows.append(row)
            resolution = _resolution(row) if name == "validation" else resolution
    return Report(tuple(rows), resolution, "\n\n".join(texts) or "Nothing was kept to measure on.")


async def _said(scorer: Scorer, examples: Sequence[Example], tell: Tell) -> list[Said]:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(example: Example) -> Said:
        async with free:
            try:
                score = await scorer.score(
                    example.prompt, Completion(example.replies[0], "stop", "unknown")
                )
            except UpstreamError:
                return example, None
            finally:
                tell()
        return example, score.outcome if isinstance(score.outcome, Attributes) else None

    return list(await asyncio.gather(*map(one, examples)))


def _by_attribute(said: Sequence[Said]) -> str:
    lines = ["| attribute | replies | mean error | rank correlation |", "|---|---|---|---|"]
    for place, name in enumerate(ATTRIBUTES):
        pairs = _reliability(said, place)
        error = fmean(abs(one - label) for one, label in pairs) if pairs else float("nan")
        correlation = spearman([one for one, _ in pairs], [label for _, label in pairs])
        lines.append(f"| {name} | {len(pairs)} | {error:.2f} | {correlation:+.2f} |")
    unscored = sum(attributes is None for _, attributes in said)
    return "\n".join(lines) + (f"\n\n{unscored} replies could not be scored." if unscored else "")


def _reliability(said: Iterable[Said], place: int) -> list[tuple[float, float]]:
    """What the head said and what the label is, of one attribute."""
    return [
        (float(getattr(attributes, ATTRIBUTES[place])), label)
        for example, attributes in said
        if attributes is not None and (label := _label(example)[place]) is not None
    ]


def _compared(said: Iterable[Said]) -> list[ScoredPair]:
    """Replies to one prompt of which one was labelled more helpful, with their rewards."""
    by_prompt: dict[Prompt, list[Said]] = {}
    for example, attributes in said:
        by_prompt.setdefault(example.prompt, []).append((example, attributes))
    pairs = []
    for prompt, replies in by_prompt.items():
        for one, other in itertools.combinations(replies, 2):
            (worse, low), (better, high) = sorted(
                (one, other), key=lambda pair: _helpfulness(pair[0])
            )
            if _helpfulness(worse) == _helpfulness(better):
                continue
            pair = Pair(better.source, prompt, better.replies[0], worse.replies[0])
            pairs.append(ScoredPair(pair, _reward(high), _reward(low)))
    return pairs


def _label(example: Example) -> Labels:
    assert example.labels
    return example.labels[0]


def _helpfulness(example: Example) -> float:
    return _label(example)[0] or 0.0


def _reward(attributes: Attributes | None) -> float | None:
    return None if attributes is None else WEIGHTS.reward(attributes)


def _resolution(row: Evaluation) -> float | None:
    return row.resolution if row.accuracy.n >= LEAST_PAIRS else None


def _pair(source: str, example: Example) -> Pair:
    better, worse, *_ = example.replies
    return Pair(source, example.prompt, better, worse)

"""How far a scorer can be trusted: measured on pairs of replies of which people preferred one.

Measures on margins, which are the reward of the preferred reply less that of the other: right if
positive. `resolution` is the margin at which the scorer is right three times out of four.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from app.domain import Attributes, Completion, Message, Prompt, ScalarReward, Score, Weights
from app.errors import DataError, UpstreamError
from app.jsonl import Row, read_rows
from app.scorers import Scorer

RIGHT_OFTEN = 0.75
BINS = 10
# A resolution from fewer pairs would be a guess.
LEAST_PAIRS = 50
WEIGHTS = Weights()
# Between the turns of a prompt, as the card of HelpSteer2 has it.
_TURN = re.compile(r"\n?<extra_id_1>(Assistant|User)\n")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one prompt; people preferred `better`. `source` names the set."""

    source: str
    prompt: Prompt
    better: str
    worse: str


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with the rewards of its replies; a reward is None if the scorer failed."""

    pair: Pair
    better: float | None
    worse: float | None

    @property
    def margin(self) -> float | None:
        if self.better is None or self.worse is None:
            return None
        return self.better - self.worse


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion with its 95 % score interval (Wilson 1927)."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return math.nan, math.nan
        z, n, p = 1.96, self.n, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - reach, centre + reach

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a scorer makes of the pairs of one source.

    Ties count as wrong in `accuracy`. `length_balanced` is the mean of the accuracy where the
    preferred reply is the longer one and where it is the shorter, on which length alone scores
    a half. `length_correlation` is Spearman's, of reward against length over all replies.
    `resolution` is None if no margin makes the scorer right three times out of four.
    `calibration_error` is the mean distance between the share right and the share that the
    logistic curve behind the resolution foretells, over bins of the margin.
    """

    source: str
    accuracy: Share
    length_balanced: float
    length_correlation: float
    resolution: float | None
    calibration_error: float
    unscored: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of about one margin: their mean margin, and how many the scorer had right."""

    margin: float
    right: Share


def read_pairs(path: Path) -> list[Pair]:
    """JSON lines with prompt, better, worse and optionally set; gzipped if so named.

    Raises `DataError` with the number of the line that is wrong.
    """
    return [as_pair(where, row) for where, row in read_rows(path)]


def as_pair(where: str, row: Row) -> Pair:
    """The pair in a row; raises `DataError` that names the place."""
    match row:
        case {"prompt": str(prompt), "better": str(better), "worse": str(worse)} if prompt.strip():
            return Pair(str(row.get("set", "pairs")), as_prompt(where, prompt), better, worse)
    raise DataError(f"{where}: needs prompt, better and worse, all of them text")


def as_prompt(where: str, text: str) -> Prompt:
    """A prompt of one turn, or of several with HelpSteer2's marks between them. Raises
    `DataError` that names the place."""
    first, *rest = _TURN.split(text)
    later = zip(rest[::2], rest[1::2], strict=True)
    turns = [Message("assistant" if who == "Assistant" else "user", said) for who, said in later]
    try:
        return Prompt((Message("user", first), *turns))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


async def score_pairs(
    scorer: Scorer, pairs: Sequence[Pair], *, at_once: int, tell: Callable[[], None]
) -> list[ScoredPair]:
    """The pairs, scored `at_once` replies at a time; `tell` is called after each pair."""
    free = asyncio.Semaphore(at_once)

    async def reward(prompt: Prompt, text: str) -> float | None:
        if not text.strip():
            return None
        async with free:
            try:
                return reward_of(await scorer.score(prompt, Completion(text, "stop", "unknown")))
            except UpstreamError:
                return None

    async def scored(pair: Pair) -> ScoredPair:
        better, worse = await asyncio.gather(
            reward(pair.prompt, pair.better), reward(pair.prompt, pair.worse)
        )
        tell()
        return ScoredPair(pair, better, worse)

    return list(await asyncio.gather(*map(scored, pairs)))


def evaluate(source: str, scored: Sequence[ScoredPair]) -> Evaluation:
    """All measures of one set of scored pairs."""
    margins = [s.margin for s in scored if s.margin is not None]
    longer = [s.margin > 0 for s in scored if s.margin is not None and _better_is_longer(s.pair)]
    shorter = [
        s.margin > 0 for s in scored if s.margin is not None and not _better_is_longer(s.pair)
    ]
    replies = [
        (reward, len(text))
        for s in scored
        for reward, text in ((s.better, s.pair.better), (s.worse, s.pair.worse))
        if reward is not None
    ]
    steepness = fit_steepness(margins)
    return Evaluation(
        source=source,
        accuracy=Share(sum(margin > 0 for margin in margins), len(margins)),
        length_balanced=fmean((_mean(longer), _mean(shorter))),
        length_correlation=spearman([r for r, _ in replies], [float(n) for _, n in replies]),
        resolution=math.log(RIGHT_OFTEN / (1 - RIGHT_OFTEN)) / steepness if steepness > 0 else None,
        calibration_error=calibration_error(margins, steepness),
        unscored=len(scored) - len(margins),
    )


def evaluate_sets(scored: Sequence[ScoredPair], together: str) -> list[Evaluation]:
    """All measures of each set by its name, and of all `together` if there are several."""
    by_source: dict[str, list[ScoredPair]] = {}
    for one in scored:
        by_source.setdefault(one.pair.source, []).append(one)
    rows = [evaluate(source, group) for source, group in by_source.items()]
    return [*rows, evaluate(together, scored)] if len(rows) > 1 else rows


def markdown(rows: Sequence[Evaluation]) -> str:
    """The measures as a table, a row for each source."""
    head = (
        "| set | pairs | right [95 %] | length-balanced | reward ~ length "
        "| resolution | calibration error | unscored |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(_row, rows)])


def _row(row: Evaluation) -> str:
    resolution = "none" if row.resolution is None else f"{row.resolution:.2f}"
    source = " ".join(row.source.replace("|", "\\|").split())
    return (
        f"| {source} | {row.accuracy.n} | {row.accuracy} "
        f"| {row.length_balanced:.1%} | {row.length_correlation:+.2f} | {resolution} "
        f"| {row.calibration_error:.3f} | {row.unscored} |"
    )


def fit_steepness(margins: Sequence[float]) -> float:
    """The k that makes 1 / (1 + exp(-k m)) likeliest for the probability of being right at a
    margin of size m, by Newton's method; 0 if the scorer is right no more often than wrong."""
    if sum(margins) <= 0:
        return 0.0
    # In units of the mean size, so that the same start serves rewards of any scale.
    unit = fmean(map(abs, margins))
    steps = [margin / unit for margin in margins]
    k = 0.0
    for _ in range(50):
        chances = [1 / (1 + math.exp(-max(-500.0, min(500.0, k * step)))) for step in steps]
        slope = sum(step * (1 - p) for step, p in zip(steps, chances, strict=True))
        curve = sum(step * step * p * (1 - p) for step, p in zip(steps, chances, strict=True))
        move = slope / curve if curve > 1e-12 else 0.0  # noqa: PLR2004 - all but flat
        k += max(-1.0, min(1.0, move))
        if abs(move) < 1e-9:  # noqa: PLR2004
            break
    return k / unit


def bins(margins: Sequence[float], count: int = BINS) -> list[Bin]:
    """The pairs in order of the size of their margin, in bins of equal number."""
    ordered = sorted(margins, key=abs)
    edges = [round(i * len(ordered) / count) for i in range(count + 1)]
    return [
        Bin(fmean(map(abs, part)), Share(sum(m > 0 for m in part), len(part)))
        for start, end in itertools.pairwise(edges)
        if (part := ordered[start:end])
    ]


def calibration_error(margins: Sequence[float], steepness: float) -> float:
    """Mean distance of each bin from the curve, weighted by how many pairs it holds."""
    if not margins:
        return math.nan
    gaps = (
        one.right.n * abs(one.right.value - 1 / (1 + math.exp(-min(500, steepness * one.margin))))
        for one in bins(margins)
    )
    return sum(gaps) / len(margins)


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; NaN if either side is constant."""
    one, other = _ranks(left), _ranks(right)
    spread = math.sqrt(_variance(one) * _variance(other))
    if not spread:
        return math.nan
    mean_one, mean_other = fmean(one), fmean(other)
    both = zip(one, other, strict=True)
    return fmean((a - mean_one) * (b - mean_other) for a, b in both) / spread


def reward_of(score: Score) -> float | None:
    """The reward under the default weights; None if there is no score."""
    match score.outcome:
        case Attributes() as attributes:
            return WEIGHTS.reward(attributes)
        case ScalarReward(value):
            return value
    return None


def _better_is_longer(pair: Pair) -> bool:
    return len(pair.better) > len(pair.worse)


def _mean(hits: Sequence[bool]) -> float:
    return fmean(hits) if hits else math.nan


def _variance(values: Sequence[float]) -> float:
    mean = fmean(values) if values else 0.0
    return fmean((value - mean) ** 2 for value in values) if values else 0.0


def _ranks(values: Iterable[float]) -> list[float]:
    listed = list(values)
    order = sorted(range(len(listed)), key=listed.__getitem__)
    ranks = [0.0] * len(listed)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and listed[order[end]] == listed[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + end - 1) / 2
        start = end
    return ranks

"""Lines and intervals for what benchmarks measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PARTS = 10
T_975 = 2.306  # Student's t with PARTS - 2 degrees of freedom


@dataclass(frozen=True)
class Line:
    """`r2`: the share of the variance that the line explains; 1 if there is none."""

    slope: float
    intercept: float
    r2: float


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def least_squares(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Raises `statistics.StatisticsError` for fewer than two different xs."""
    slope, intercept = statistics.linear_regression(xs, ys)
    mean = statistics.fmean(ys)
    around = sum((y - mean) ** 2 for y in ys)
    left = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(slope, intercept, 1 - left / around if around else 1.0)


def drift(times: Sequence[float], values: Sequence[float]) -> Estimate:
    """The slope of values that are each much like the one before, times in order.

    Neighbours are no independent samples, so the line goes through the medians of ten parts, and
    the interval is Student's of these. Raises `ValueError` for fewer than ten values.
    """
    if len(values) < PARTS:
        raise ValueError(f"a drift takes {PARTS} values or more, not {len(values)}")
    edges = [round(len(values) * part / PARTS) for part in range(PARTS + 1)]
    parts = [slice(*between) for between in pairwise(edges)]
    xs = [statistics.fmean(times[part]) for part in parts]
    ys = [statistics.median(values[part]) for part in parts]
    line = least_squares(xs, ys)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    mean = statistics.fmean(xs)
    error = math.sqrt(left / (PARTS - 2) / sum((x - mean) ** 2 for x in xs))
    return Estimate(line.slope, line.slope - T_975 * error, line.slope + T_975 * error)


def median(values: Sequence[float]) -> Estimate:
    """With the interval by order statistics, which assumes no distribution; of fewer than six
    values it is all of them, and holds less often."""
    ordered = sorted(values)
    count, outside = len(ordered), 0  # as many at either end as leave 95 % between
    while 2 * sum(math.comb(count, below) for below in range(outside + 2)) <= 0.05 * 2**count:
        outside += 1
    return Estimate(statistics.median(ordered), ordered[outside], ordered[-1 - outside])

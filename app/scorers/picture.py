"""Pictures of how far a scorer can be trusted: reliability plots, as SVG or PNG by the ending of
the path. Raise `ConfigurationError` if matplotlib (extra `report`) is not installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from app.domain import ATTRIBUTES
from app.errors import ConfigurationError
from app.scorers.evaluation import BINS, RIGHT_OFTEN, bins, fit_steepness


def draw(margins: Sequence[float], title: str, path: Path) -> None:
    """How often a scorer is right, by how far apart its rewards are."""
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    measured, steepness = bins(margins), fit_steepness(margins)
    sizes = [one.margin for one in measured]
    shares = [one.right.value for one in measured]
    # The interval of "all right" ends at one, give or take a rounding.
    below = [max(0.0, one.right.value - one.right.interval[0]) for one in measured]
    above = [max(0.0, one.right.interval[1] - one.right.value) for one in measured]
    axes.errorbar(sizes, shares, yerr=(below, above), fmt="o", capsize=3, label="pairs, in tenths")
    widest = max(sizes, default=1.0)
    grid = [widest * step / 200 for step in range(201)]
    curve = [1 / (1 + math.exp(-min(500.0, steepness * size))) for size in grid]
    axes.plot(grid, curve, label="logistic fit")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(RIGHT_OFTEN, color="grey", linewidth=0.8, linestyle="--")
    if steepness > 0 and (resolution := math.log(3) / steepness) <= widest:
        axes.axvline(resolution, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="margin of the reward", ylabel="share right", ylim=(0, 1))
    axes.set_title(title, parse_math=False)
    axes.legend(loc="lower right")
    figure.savefig(path)


def draw_attributes(pairs: Sequence[Sequence[tuple[float, float]]], path: Path) -> None:
    """Mean label by prediction, in tenths, for the (prediction, label) pairs of each attribute."""
    figure = _figure(12, 3)
    for place, (name, of_one) in enumerate(zip(ATTRIBUTES, pairs, strict=True), start=1):
        axes = figure.add_subplot(1, len(ATTRIBUTES), place)
        ordered = sorted(of_one)
        edges = [round(i * len(ordered) / BINS) for i in range(BINS + 1)]
        parts = [ordered[start:end] for start, end in pairwise(edges) if end > start]
        said = [fmean(said for said, _ in part) for part in parts]
        labels = [fmean(label for _, label in part) for part in parts]
        axes.plot(said, labels, "o")
        axes.plot([0, 4], [0, 4], color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=name, xlabel="predicted", xlim=(0, 4), ylim=(0, 4))
        axes.set_ylabel("label" if place == 1 else "")
    figure.savefig(path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError("pictures need: scripts/install report") from error
    return Figure(figsize=(width, height), layout="constrained")

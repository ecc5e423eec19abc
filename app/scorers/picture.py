"""The picture of an evaluation: how often a scorer is right, by how far apart its rewards are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from app.errors import ConfigurationError
from app.scorers.evaluation import RIGHT_OFTEN, bins, fit_steepness


def draw(margins: Sequence[float], title: str, path: Path) -> None:
    """Write a reliability plot as SVG or PNG, by the ending of `path`.

    Raises `ConfigurationError` if matplotlib (extra `report`) is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError("pictures need: pip install 'starboard[report]'") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    measured, steepness = bins(margins), fit_steepness(margins)
    sizes = [one.margin for one in measured]
    shares = [one.right.value for one in measured]
    below = [one.right.value - one.right.interval[0] for one in measured]
    above = [one.right.interval[1] - one.right.value for one in measured]
    axes.errorbar(sizes, shares, yerr=(below, above), fmt="o", capsize=3, label="pairs, in tenths")
    widest = max(sizes, default=1.0)
    grid = [widest * step / 200 for step in range(201)]
    curve = [1 / (1 + math.exp(-min(500.0, steepness * size))) for size in grid]
    axes.plot(grid, curve, label="logistic fit")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(RIGHT_OFTEN, color="grey", linewidth=0.8, linestyle="--")
    if steepness > 0 and (resolution := math.log(3) / steepness) <= widest:
        axes.axvline(resolution, color="grey", linewidth=0.8, linestyle="--")
    axes.set(title=title, xlabel="margin of the reward", ylabel="share right", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path)

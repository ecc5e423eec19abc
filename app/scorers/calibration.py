"""Calibration: a stored monotone map from one scorer's numbers to the common 0-4 scale.

A map is piecewise linear between knots and flat beyond them. It never turns an order around, so
calibration changes what a number means and how far apart two are, not which is higher on one
attribute. It is fitted by isotonic regression (pool adjacent violators; Ayer et al. 1955) and
kept as JSON together with what it was fitted on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from app.domain import (
    ATTRIBUTES,
    Attributes,
    Completion,
    Failure,
    Prompt,
    ScalarReward,
    Score,
    ScorerInfo,
)
from app.errors import ConfigurationError, UpstreamError
from app.scorers import Scorer

REWARD = "reward"
HIGHEST = 4.0

Knot = tuple[float, float]


@dataclass(frozen=True)
class MonotoneMap:
    """Straight between `knots` (raw, calibrated), flat beyond them.

    Raises `ValueError` unless raw values rise and calibrated values, 0-4, never fall.
    """

    knots: tuple[Knot, ...]

    def __post_init__(self) -> None:
        numbers = [number for knot in self.knots for number in knot]
        if not numbers or not all(map(math.isfinite, numbers)):
            raise ValueError("a map needs knots, and they must be finite")
        if any(a >= b or c > d for (a, c), (b, d) in pairwise(self.knots)):
            raise ValueError("raw values must rise from knot to knot, calibrated ones never fall")
        if not all(0 <= calibrated <= HIGHEST for _, calibrated in self.knots):
            raise ValueError(f"calibrated values must lie between 0 and {HIGHEST:g}")

    def __call__(self, raw: float) -> float:
        if raw <= self.knots[0][0]:
            return self.knots[0][1]
        for (left, at_left), (right, at_right) in pairwise(self.knots):
            if raw <= right:
                share = (raw - left) / (right - left)
                return at_left * (1 - share) + at_right * share
        return self.knots[-1][1]


def fit(samples: Sequence[Knot]) -> MonotoneMap:
    """The monotone map nearest in squares to `samples` of (raw, wanted); wanted values are 0-4.

    Raises `ValueError` if there are none, or they are not finite.
    """
    # Each pool: lowest raw, highest raw, sum of the wanted, how many.
    pools: list[tuple[float, float, float, int]] = []
    for raw, wanted in sorted(samples):
        pool = (raw, raw, wanted, 1)
        while pools and (pools[-1][1] == pool[0] or _mean(pools[-1]) >= _mean(pool)):
            low, _, total, count = pools.pop()
            pool = (low, pool[1], total + pool[2], count + pool[3])
        pools.append(pool)
    knots = [(raw, _mean(pool)) for pool in pools for raw in dict.fromkeys(pool[:2])]
    return MonotoneMap(tuple((raw, min(HIGHEST, max(0.0, mean))) for raw, mean in knots))


def _mean(pool: tuple[float, float, float, int]) -> float:
    return pool[2] / pool[3]


@dataclass(frozen=True)
class Calibration:
    """Maps by attribute, or one map under "reward", with what they were fitted on.

    `model` is the scorer's, `date` is ISO 8601. `resolution` is the margin on the calibrated
    scale below which the scorer cannot tell two replies apart; a map stretches margins, so the
    scorer's own does not hold.
    """

    model: str
    data: str
    n: int
    date: str
    resolution: float
    maps: Mapping[str, MonotoneMap]

    @property
    def note(self) -> str:
        return f"calibrated on {self.data} (n = {self.n:,}, {self.date})"

    def dump(self) -> str:
        maps = {name: map_.knots for name, map_ in self.maps.items()}
        return json.dumps({**asdict(replace(self, maps={})), "maps": maps}, indent=2)


def load(path: Path) -> Calibration:
    """The calibration in a file; raises `ConfigurationError` that names it if it holds none."""
    try:
        match json.loads(path.read_text(encoding="utf-8")):
            case {
                "model": str(model),
                "data": str(data),
                "n": int(n),
                "date": str(date),
                "resolution": float() | int() as resolution,
                "maps": dict(maps),
            } if set(maps) in ({REWARD}, set(ATTRIBUTES)) and 0 <= resolution < math.inf:
                read = {name: MonotoneMap(_knots(knots)) for name, knots in maps.items()}
                return Calibration(model, data, n, date, float(resolution), read)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a calibration: {error}") from error
    raise ConfigurationError(f"{path}: not a calibration: see docs/scorers.md for its fields")


def _knots(rows: Sequence[Sequence[float]]) -> tuple[Knot, ...]:
    return tuple((float(raw), float(calibrated)) for raw, calibrated in rows)


@dataclass(frozen=True)
class CalibratedScorer:
    """A scorer with its numbers mapped. Raises `ConfigurationError` if the map was fitted for
    another model: its numbers would mean nothing."""

    scorer: Scorer
    calibration: Calibration

    def __post_init__(self) -> None:
        fitted, used = self.calibration.model, self.scorer.info.model
        if fitted != used:
            raise ConfigurationError(f"the calibration was fitted for {fitted}, not for {used}")

    @property
    def info(self) -> ScorerInfo:
        own = self.scorer.info
        return replace(
            own,
            scale="calibrated" if REWARD in self.calibration.maps else "helpsteer",
            resolution=self.calibration.resolution,
            note="; ".join(filter(None, (own.note, self.calibration.note))),
        )

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        score = await self.scorer.score(prompt, completion)
        return replace(score, outcome=self._mapped(score.outcome))

    async def ping(self) -> None:
        await self.scorer.ping()

    def _mapped(
        self, outcome: Attributes | ScalarReward | Failure
    ) -> Attributes | ScalarReward | Failure:
        maps = self.calibration.maps
        match outcome:
            case ScalarReward(value) if REWARD in maps:
                return ScalarReward(maps[REWARD](value))
            case Attributes() if REWARD not in maps:
                return Attributes(**{name: maps[name](getattr(outcome, name)) for name in maps})
            case Failure():
                return outcome
        name = self.scorer.info.name
        raise UpstreamError("internal", f"{name}: the calibration is not for this kind of score")

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import ATTRIBUTES, Attributes, Completion, Failure, ScalarReward, Score, ScorerInfo
from app.ensemble import Ensemble
from app.errors import ConfigurationError, UpstreamError
from app.providers.scripted import ScriptedProvider
from app.scorers.calibration import CalibratedScorer, Calibration, Knot, MonotoneMap, fit, load
from app.scorers.ladder import Ladder
from tests.samples import FIVE, prompt
from tests.test_ensemble import FiveScorer, Memory, plan

REPLY = Completion("x", "stop", "m")
REWARD = MonotoneMap(((-20.0, 0.0), (-10.0, 2.0), (0.0, 2.0), (10.0, 4.0)))


def calibration(**maps: MonotoneMap) -> Calibration:
    return Calibration("five", "pairs.jsonl", 1200, "2026-11-22", 0.3, maps or {"reward": REWARD})


def scorer(outcome: Attributes | ScalarReward = FIVE) -> FiveScorer:
    return FiveScorer(outcome)


@pytest.mark.parametrize(
    ("raw", "calibrated"),
    [(-99, 0), (-20, 0), (-15, 1), (-10, 2), (-3, 2), (0, 2), (5, 3), (10, 4), (99, 4)],
)
def test_a_map_is_straight_between_knots_and_flat_beyond(raw: float, calibrated: float) -> None:
    assert REWARD(raw) == pytest.approx(calibrated)


@pytest.mark.parametrize(
    "knots",
    [
        (),
        ((0.0, 1.0), (0.0, 2.0)),
        ((1.0, 1.0), (0.0, 2.0)),
        ((0.0, 2.0), (1.0, 1.0)),
        ((0.0, 5.0),),
        ((0.0, -1.0),),
        ((float("nan"), 1.0),),
        ((0.0, float("inf")),),
    ],
)
def test_what_is_no_monotone_map_is_refused(knots: tuple[Knot, ...]) -> None:
    with pytest.raises(ValueError, match=r"knots|rise|between"):
        MonotoneMap(knots)


def test_a_fit_by_hand() -> None:
    # 3 and 1 at raw 2 and 3 violate the order: both become 2.
    assert fit([(1, 0), (2, 3), (3, 1), (4, 4)]).knots == ((1, 0), (2, 2), (3, 2), (4, 4))
    # Two samples at one raw value are one knot, at their mean.
    assert fit([(1, 1), (1, 3), (5, 4)]).knots == ((1, 2), (5, 4))
    assert fit([(0, 2)]).knots == ((0, 2),)


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="knots"):
        fit([])


NUMBERS = st.floats(-1000, 1000, allow_subnormal=False)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 4).map(float)), min_size=1, max_size=60))
def test_a_fit_is_monotone_and_keeps_the_mean(samples: list[Knot]) -> None:
    fitted = fit(samples)
    raws = sorted(raw for raw, _ in samples)
    values = [fitted(raw) for raw in raws]
    assert all(a <= b + 1e-9 for a, b in pairwise(values))
    assert all(0 <= value <= 4 for value in values)
    assert sum(values) == pytest.approx(sum(wanted for _, wanted in samples), abs=1e-6)
    if all(a <= b for a, b in pairwise(w for _, w in sorted(samples))) and len(set(raws)) == len(
        raws
    ):
        assert values == pytest.approx([wanted for _, wanted in sorted(samples)])


async def test_a_scalar_becomes_comparable_and_says_by_what() -> None:
    made = CalibratedScorer(scorer(ScalarReward(5.0)), calibration())
    assert (await made.score(prompt(), REPLY)).outcome == ScalarReward(3.0)
    assert (made.info.scale, made.info.resolution) == ("calibrated", 0.3)
    assert made.info.note == "calibrated on pairs.jsonl (n = 1,200, 2026-11-22)"
    await made.ping()
    member = ScriptedProvider("a", "a", "a")
    ensemble = Ensemble({"a": member}, Ladder.of(made), Memory())
    answer = await ensemble.answer(prompt(), plan("a"))
    assert (answer.scorer.scale, answer.plan.resolution) == ("calibrated", 0.3)
    assert "within one prompt" not in str(answer.scorer.note)


async def test_each_attribute_has_its_own_map() -> None:
    halved = MonotoneMap(((0.0, 0.0), (4.0, 2.0)))
    maps = dict.fromkeys(ATTRIBUTES, MonotoneMap(((0.0, 0.0), (4.0, 4.0)))) | {"verbosity": halved}
    made = CalibratedScorer(scorer(), calibration(**maps))
    assert made.info.scale == "helpsteer"
    score = await made.score(prompt(), REPLY)
    assert score.outcome == replace(FIVE, verbosity=FIVE.verbosity / 2)


async def test_a_map_for_the_other_kind_of_score_is_a_failure() -> None:
    with pytest.raises(UpstreamError, match="not for this kind of score"):
        await CalibratedScorer(scorer(), calibration()).score(prompt(), REPLY)


def test_a_map_for_another_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fitted for other, not for five"):
        CalibratedScorer(scorer(), replace(calibration(), model="other"))


async def test_a_failure_stays_a_failure() -> None:
    failure = Failure("timeout", "late", True)
    made = CalibratedScorer(FiveScorer(failure), calibration())  # type: ignore[arg-type]
    assert await made.score(prompt(), REPLY) == Score(failure)


def test_a_calibration_is_kept_and_read(tmp_path: Path) -> None:
    path = tmp_path / "five.json"
    path.write_text(calibration().dump())
    assert load(path) == calibration()
    assert json.loads(path.read_text())["data"] == "pairs.jsonl"


@pytest.mark.parametrize(
    "change",
    [
        {"maps": {}},
        {"maps": {"reward": []}},
        {"maps": {"reward": [[0]]}},
        {"maps": {"reward": [[0, "x"]]}},
        {"maps": {"reward": [[1, 2], [0, 3]]}},
        {"maps": {"wit": [[0, 0]]}},
        {"maps": {"reward": 7}},
        {"resolution": -1},
        {"n": "many"},
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "five.json"
    path.write_text(json.dumps(json.loads(calibration().dump()) | change))
    with pytest.raises(ConfigurationError, match=r"five\.json: not a calibration"):
        load(path)
    for broken in ("{", "[]"):
        path.write_text(broken)
        with pytest.raises(ConfigurationError, match=r"five\.json"):
            load(path)
    with pytest.raises(ConfigurationError, match=r"gone\.json"):
        load(tmp_path / "gone.json")


def test_the_scorers_own_words_come_first() -> None:
    own = FiveScorer(info=ScorerInfo("five", "five", "helpsteer", 0.5, "own words"))
    assert CalibratedScorer(own, calibration()).info.note == (
        "own words; calibrated on pairs.jsonl (n = 1,200, 2026-11-22)"
    )

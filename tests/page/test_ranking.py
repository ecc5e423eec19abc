"""Sliders re-rank an answer in the browser as `best_of_n` would: page_files/ranking.js against
app/selection.py."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.api.documents import answer_document
from app.domain import (
    Answer,
    Attributes,
    Candidate,
    Completion,
    Failure,
    FinishReason,
    Plan,
    Prompt,
    Score,
    ScoredCandidate,
    ScorerInfo,
    Selection,
    Timings,
    Weights,
)
from app.ensemble import comparing
from app.selection import best_of_n
from tests import samples
from tests.page.conftest import Board, Visiting

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDS: tuple[FinishReason, ...] = ("stop", "stop", "length", "refusal", "content_filter")
NAMES = ("claude", "gemma", "mistral")
TEXTS = ("", "yes", "It is so. " * 40, "蓝" * 30, "𝄞🙂" * 20)
# Few values, so that ties, and gaps of exactly the resolution, come up often.
SCORES = st.builds(Attributes, *[st.sampled_from((0.0, 1.0, 1.1, 2.5, 4.0))] * 5)
WEIGHTS = st.builds(
    Weights,
    *[st.sampled_from((0.0, 0.3, 1.0, -1.0)) | st.floats(-1, 1).map(lambda x: round(x, 2))] * 5,
)


Ranked = Callable[[Answer, Sequence[Weights]], Awaitable[list[dict[str, Any] | None]]]
ASK = """async ({ answer, weights }) => {
  const { ranked, weighable } = await import("/page/ranking.js");
  return weights.map((one) => (weighable(answer) ? ranked(answer, one) : null));
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def browser_ranks(board: Board, visiting: Visiting) -> AsyncIterator[Ranked]:
    async with visiting(board.origin) as visit:

        async def ranks(answer: Answer, weights: Sequence[Weights]) -> list[dict[str, Any] | None]:
            document = answer_document(answer).model_dump(mode="json")
            asked = {"answer": document, "weights": [asdict(one) for one in weights]}
            told: list[dict[str, Any] | None] = await visit.page.evaluate(ASK, asked)
            return told

        yield ranks


@st.composite
def candidates(draw: st.DrawFn) -> list[ScoredCandidate]:
    drawn = []
    for number in range(draw(st.integers(1, 6))):
        member = draw(st.sampled_from((*NAMES, "reserve", "fusion")))
        ends: FinishReason = draw(st.sampled_from(ENDS))
        text = draw(st.sampled_from(TEXTS))
        outcome: Completion | Failure = Completion(text, ends, "m")
        score: Score | None = Score(draw(SCORES))
        match draw(st.integers(0, 7)):
            case 0:
                outcome, score = Failure("timeout", "late", True), None
            case 1:
                score = Score(Failure("timeout", "late", True))
        drawn.append(ScoredCandidate(Candidate(f"cand_{number}", member, "m", outcome, 1.0), score))
    return draw(st.permutations(drawn))


def weighed(drawn: Sequence[ScoredCandidate], weights: Weights) -> list[ScoredCandidate]:
    return [
        replace(one, reward=weights.reward(one.score.outcome))
        if one.score and isinstance(one.score.outcome, Attributes)
        else one
        for one in drawn
    ]


def answered(drawn: Sequence[ScoredCandidate], plan: Plan, info: ScorerInfo) -> Answer:
    """The answer that the service makes of these."""
    settled = comparing(plan, info)
    made = weighed(drawn, plan.weights)
    selection: Selection = best_of_n(made, settled)
    return Answer(
        id="ans_1",
        created=samples.answer().created,
        prompt=Prompt(samples.prompt().messages),
        plan=settled,
        candidates=tuple(made),
        selection=selection,
        scorer=info,
        timings=Timings(1, 1, 0, 0),
        quality="full",
    )


def borderline(answer: Answer) -> bool:
    """Whether a gap is so near to where the choice turns that the last digit of a sum decides."""
    plan = answer.plan
    slope = plan.length_slope
    made = [c for c in answer.candidates if c.reward is not None]
    compared = [
        c.reward - slope * math.log1p(len(c.candidate.outcome.text))
        for c in made
        if c.reward is not None and isinstance(c.candidate.outcome, Completion)
    ]
    gaps = [abs(a - b) for a in compared for b in compared]
    near = any(abs(gap - plan.resolution) < 1e-9 or 0 < gap < 1e-9 for gap in gaps)
    floor = plan.floor
    return near or (
        floor is not None and any(abs(c.reward - floor) < 1e-9 for c in made if c.reward)
    )


@hypothesis_settings(
    max_examples=80,
    deadline=None,
    phases=(Phase.generate,),  # to shrink through a browser takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    drawn=candidates(),
    first=WEIGHTS,
    others=st.lists(WEIGHTS, min_size=1, max_size=6),
    resolution=st.sampled_from((0.0, 0.1, 0.5)),
    slope=st.sampled_from((0.0, 0.26)),
    length_control=st.booleans(),
    floor=st.sampled_from((None, None, 0.5, 3.0)),
    standing=st.sampled_from(((), ("mistral", "claude", "gemma"))),
)
async def test_the_browser_chooses_as_the_service_does(
    browser_ranks: Ranked,
    *,
    drawn: list[ScoredCandidate],
    first: Weights,
    others: list[Weights],
    resolution: float,
    slope: float,
    length_control: bool,
    floor: float | None,
    standing: tuple[str, ...],
) -> None:
    info = ScorerInfo("nvidia", "m", "helpsteer", resolution, length_slope=slope)
    plan = Plan(
        NAMES,
        weights=first,
        length_control=length_control,
        floor=floor,
        reserves=("reserve",),
        standing=standing,
    )
    answer = answered(drawn, plan, info)
    assume(any(one.reward is not None for one in answer.candidates))
    wanted = [answered(drawn, replace(plan, weights=weights), info) for weights in others]
    told = await browser_ranks(answer, others)
    for expected, got in zip(wanted, told, strict=True):
        if borderline(expected):
            continue
        selection = expected.selection
        if got is None:  # the page knows that there is nothing to weigh
            assert not selection.ranking
            continue
        assert got["ids"] == list(selection.ranking)
        assert got["chosen"] == selection.winner
        assert got["margin"] == (
            None if selection.margin is None else pytest.approx(selection.margin, abs=1e-9)
        )
        assert got["resolution"] == pytest.approx(expected.plan.resolution)
        if selection.winner:
            assert bool(got["tied"]) == bool(selection.tie_break)

"""`POST /score`: the scorer alone, for replies that came from elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request

from app.api.admission import admitted
from app.api.connections import while_connected
from app.api.documents import (
    SCORE_EXAMPLES,
    ScoreRequest,
    ScoresDocument,
    scores_document,
)
from app.api.limits import JsonRoute
from app.api.problems import responses
from app.api.security import MayScore, count_hop
from app.api.services import Live
from app.domain import ScoredReply, ScorerInfo

router = APIRouter(tags=["scoring"], route_class=JsonRoute)


@router.post(
    "/score",
    responses=responses(400, 401, 402, 403, 413, 415, 422, 429, 503, 508),
    dependencies=[Depends(count_hop)],
)
async def score(
    body: Annotated[ScoreRequest, Body(openapi_examples=SCORE_EXAMPLES)],
    request: Request,
    live: Live,
    caller: MayScore,
) -> ScoresDocument:
    """Score replies to one prompt, all by one scorer, in the order they were given."""
    prompt, deadline_s = body.to_prompt(), body.deadline_s or live.settings.deadline_s

    async def run() -> tuple[ScorerInfo, list[ScoredReply]]:
        quote = partial(live.ensemble.quote_scores, prompt, body.replies)
        async with admitted(live, caller, quote, deadline_s) as meter:
            return await live.ensemble.score(
                prompt,
                body.replies,
                weights=body.to_weights(),
                deadline_s=deadline_s,
                meter=meter,
            )

    return scores_document(*await while_connected(request, run()))

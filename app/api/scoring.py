"""`POST /score`: the scorer alone, for replies that came from elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request

from app.api.connections import while_connected
from app.api.documents import (
    SCORE_EXAMPLES,
    ScoreRequest,
    ScoresDocument,
    scores_document,
)
from app.api.problems import responses
from app.api.services import Live

router = APIRouter(tags=["scoring"])


@router.post("/score", responses=responses(413, 422))
async def score(
    body: Annotated[ScoreRequest, Body(openapi_examples=SCORE_EXAMPLES)],
    request: Request,
    live: Live,
) -> ScoresDocument:
    """Score replies to one prompt, all by one scorer, in the order they were given."""
    scoring = live.ensemble.score(
        body.to_prompt(),
        body.replies,
        weights=body.to_weights(),
        deadline_s=body.deadline_s or live.settings.deadline_s,
    )
    return scores_document(*await while_connected(request, scoring))

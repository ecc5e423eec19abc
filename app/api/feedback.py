"""`POST` and `GET /answers/{id}/feedback`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends
from fastapi.openapi.models import Example

from app.api.documents import (
    AnswerId,
    FeedbackDocument,
    FeedbackListDocument,
    FeedbackRequest,
    feedback_document,
)
from app.api.limits import JsonRoute
from app.api.problems import responses
from app.api.security import needs
from app.api.services import Live
from app.ensemble import new_id

router = APIRouter(tags=["feedback"], route_class=JsonRoute)

EXAMPLES: dict[str, Example] = {
    "thumb": {"value": {"thumb": "up"}},
    "ratings": {
        "value": {
            "ratings": {
                "helpfulness": 2,
                "correctness": 3,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 1,
            },
            "corrected": "Air scatters blue light more than red light.",
        }
    },
}


@router.post(
    "/answers/{id}/feedback",
    status_code=201,
    responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503),
    dependencies=[Depends(needs("answer"))],
)
async def give_feedback(
    answer_id: AnswerId,
    body: Annotated[FeedbackRequest, Body(openapi_examples=EXAMPLES)],
    live: Live,
) -> FeedbackDocument:
    """Say something of an answer; as often as there is something to say, up to a limit."""
    answer = await live.store.get(answer_id)
    said = body.to_feedback(answer, new_id("fb"), datetime.now(UTC))
    await live.store.add_feedback(answer_id, said)
    return feedback_document(said)


@router.get(
    "/answers/{id}/feedback",
    responses=responses(401, 403, 404, 422, 503),
    dependencies=[Depends(needs("read"))],
)
async def get_feedback(answer_id: AnswerId, live: Live) -> FeedbackListDocument:
    """All that was said of an answer, oldest first."""
    answer = await live.store.get(answer_id)
    return FeedbackListDocument(feedback=[feedback_document(said) for said in answer.feedback])

"""`POST /answer`, as JSON or as events, and `GET /answers/{id}`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, assert_never

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.api.admission import IdempotencyKey, ask
from app.api.connections import KEEP_ALIVE, EventStream, LiveRun, Step
from app.api.documents import (
    EXAMPLES,
    AnswerDocument,
    AnswerId,
    AnswerRequest,
    CandidateDocument,
    StartedDocument,
    answer_document,
    candidate_document,
    request_document,
)
from app.api.limits import JsonRoute
from app.api.problems import Problem, problem_of, responses
from app.api.security import MayAnswer, count_hop, needs
from app.api.services import Live
from app.domain import Answer, Completed, Failed, Scored, ScoredCandidate, Started
from app.ensemble import new_id

router = APIRouter(tags=["answers"], route_class=JsonRoute)


def json_text(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a string that holds JSON of that schema."""
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}


def _event_schema(event: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"properties": {"event": {"const": event}, "data": json_text(data)}}


def component(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def answer_links() -> dict[str, Any]:
    """What can be done with the answer of a reply, as OpenAPI links."""
    parameters = {"id": "$response.body#/id"}
    return {
        operation: {"operationId": operation, "parameters": parameters}
        for operation in ("get_answer", "erase_answer", "give_feedback", "get_feedback")
    }


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, events whose `id` is `<answer id>:<n>`, "
        "whose `event` is one of the following and whose `data` is JSON: `started` "
        "(`answer_id`, `member`), `completed`, `failed`, `scored` (CandidateDocument), and last "
        "`selected` (AnswerDocument) or `error` (Problem).",
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {"id": {"type": "string"}},
                    "oneOf": [
                        _event_schema("started", StartedDocument.model_json_schema()),
                        _event_schema("completed", component(CandidateDocument)),
                        _event_schema("failed", component(CandidateDocument)),
                        _event_schema("scored", component(CandidateDocument)),
                        _event_schema("selected", component(AnswerDocument)),
                        _event_schema("error", component(Problem)),
                    ],
                },
                "example": "event: started\n"
                'data: {"answer_id":"ans_1","member":"claude"}\n'
                "id: ans_1:0\n\n",
            }
        },
        "links": answer_links(),
    }
}


@router.post(
    "/answer",
    response_model=AnswerDocument,
    responses=EVENTS | responses(400, 401, 402, 403, 409, 413, 415, 422, 429, 502, 503, 504, 508),
    dependencies=[Depends(count_hop)],
)
async def answer(
    body: Annotated[AnswerRequest, Body(openapi_examples=EXAMPLES)],
    request: Request,
    live: Live,
    caller: MayAnswer,
    key: IdempotencyKey = None,
) -> AnswerDocument | Response:
    """Put one prompt to the board and return the best original reply with its evidence.

    With `stream` the run is told as it comes. An error before the first event has its status as
    ever; afterwards it is the event `error`. A client that leaves cancels the run.
    """
    settings, ensemble = live.settings, live.ensemble
    prompt = body.to_prompt(settings.max_tokens)
    plan = body.to_plan(ensemble.members, settings.deadline_s)
    id_, tags = new_id("ans"), body.tags or {}
    told = await ask(
        live,
        caller,
        request,
        body=body,
        key=key,
        prompt=prompt,
        plan=plan,
        tags=tags,
        id_=id_,
    )
    if isinstance(told, LiveRun):
        return EventStream(told, _events(id_, told.steps()))
    return answer_document(told)


@router.get(
    "/answers/{id}",
    responses=responses(401, 403, 404, 422, 503),
    dependencies=[Depends(needs("read"))],
)
async def get_answer(answer_id: AnswerId, live: Live) -> AnswerDocument:
    """An answer as it was returned."""
    return answer_document(await live.store.get(answer_id))


@router.get(
    "/answers/{id}/request",
    response_model_exclude_none=True,
    responses=responses(401, 403, 404, 422, 503),
    dependencies=[Depends(needs("read"))],
)
async def get_request(answer_id: AnswerId, live: Live) -> AnswerRequest:
    """What an answer was asked, as a body for `POST /answer` that asks it again."""
    return request_document(await live.store.get(answer_id))


async def _events(answer_id: str, steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
    sent = 0
    async for step in steps:
        if step is None:
            yield KEEP_ALIVE
        else:
            event, data = _event(answer_id, step)
            yield format_sse_event(event=event, data_str=data, id=f"{answer_id}:{sent}")
            sent += 1


def _event(
    answer_id: str, step: Started | Completed | Failed | Scored | Answer | Exception
) -> tuple[str, str]:
    """The name of the event that tells a step, and its data."""
    match step:
        case Started(member):
            started = StartedDocument(answer_id=answer_id, member=member)
            return "started", started.model_dump_json()
        case Completed(candidate) | Failed(candidate):
            name = "completed" if isinstance(step, Completed) else "failed"
            return name, candidate_document(ScoredCandidate(candidate)).model_dump_json()
        case Scored(scored):
            return "scored", candidate_document(scored).model_dump_json()
        case Answer():
            return "selected", answer_document(step).model_dump_json()
        case Exception():
            return "error", problem_of(step).model_dump_json(exclude_none=True)
        case _:
            assert_never(step)

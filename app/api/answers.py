"""`POST /answer` and `GET /answers/{id}`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Depends, Path, Request, Response

from app.api.admission import IdempotencyKey, admitted, once
from app.api.documents import EXAMPLES, AnswerDocument, AnswerRequest, answer_document
from app.api.problems import responses
from app.api.security import MayAnswer, count_hop, needs
from app.api.services import Live
from app.domain import Answer

router = APIRouter(tags=["answers"])

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it


@router.post(
    "/answer",
    responses=responses(401, 402, 403, 409, 413, 422, 429, 502, 503, 504, 508),
    dependencies=[Depends(count_hop)],
)
async def answer(
    body: Annotated[AnswerRequest, Body(openapi_examples=EXAMPLES)],
    request: Request,
    live: Live,
    caller: MayAnswer,
    key: IdempotencyKey = None,
) -> AnswerDocument:
    """Put one prompt to the board and return the best original reply with its evidence."""
    settings, ensemble = live.settings, live.ensemble
    prompt = body.to_prompt(settings.max_tokens)
    plan = body.to_plan(ensemble.members, settings.deadline_s)

    async def run() -> Answer:
        quote = partial(ensemble.quote, prompt, plan)
        async with admitted(live, caller, quote, plan.deadline_s) as meter:
            return await ensemble.answer(prompt, plan, tags=body.tags or {}, meter=meter)

    deadline_s = plan.deadline_s
    work = once(live, caller, key, run, request=request, body=body, deadline_s=deadline_s)
    return answer_document(await while_connected(request, work))


@router.get(
    "/answers/{id}",
    responses=responses(401, 403, 404, 503),
    dependencies=[Depends(needs("read"))],
)
async def get_answer(
    answer_id: Annotated[str, Path(alias="id", max_length=40)], live: Live
) -> AnswerDocument:
    """An answer as it was returned."""
    return answer_document(await live.store.get(answer_id))


class ClientGoneError(Exception):
    """The client left; the work it waited for has been cancelled."""


async def on_client_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client leaves.

    Raises `ClientGoneError` if it did. The body has been read, so the next ASGI message can only be
    the disconnect.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

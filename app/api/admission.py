"""What stands between a caller and the board: the limits of its key, and one run for each
Idempotency-Key. For every route that asks the board."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request
from pydantic import BaseModel

from app.domain import Answer, Listener, Plan, Prompt
from app.ensemble import STORE_GRACE_S, to_the_end
from app.errors import InProgressError, InvalidRequestError, RequestError, StoreError
from app.metering import Meter
from app.store.idempotency import Claim
from app.store.keys import ApiKey
from app.store.transactions import patiently
from app.wiring import Services

log = logging.getLogger("starboard")

# A lease outlives its run, so that its room in the budget is not given away while money is spent.
MARGIN_S = 5.0
POLL_S = 0.1

T = TypeVar("T")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Any text of your own: requests with the same one get one answer, for 24 h.",
    ),
]


@asynccontextmanager
async def admitted(
    live: Services, caller: ApiKey | None, quote: Callable[[], int], deadline_s: float
) -> AsyncIterator[Meter]:
    """The meter of a run that the caller's limits allow; what it spends is booked at the end,
    also of a run that failed or was cancelled.

    `quote` is the most it may spend; it is asked for only if the key has a budget. Raises
    `LimitError` or `BudgetError`.
    """
    if caller is None:
        yield Meter()
        return
    reserve = 0 if caller.budget is None else quote()
    admitting = live.keys.admit(caller.id, reserve, _lease_s(deadline_s))
    lease = await _or_undone(admitting, lambda lease: live.keys.settle(lease, 0))
    meter = Meter(None if caller.budget is None else reserve)
    try:
        yield meter
    finally:
        said = f"{lease.key_id}: {meter.spent} nano-dollars of {lease.id} are not booked"
        await to_the_end(_or_logged(lambda: live.keys.settle(lease, meter.spent), said))


def run_for(
    live: Services,
    caller: ApiKey | None,
    prompt: Prompt,
    plan: Plan,
    *,
    tags: Mapping[str, str],
    id_: str,
) -> Callable[..., Coroutine[Any, Any, Answer]]:
    """A run of the board within the caller's limits, to be called with a listener or without."""
    ensemble, key_id = live.ensemble, caller.id if caller else None

    async def run(listener: Listener | None = None) -> Answer:
        ensemble.check(plan)  # before it counts: what cannot be is not held against the key
        quote = partial(ensemble.quote, prompt, plan)
        async with admitted(live, caller, quote, plan.deadline_s) as meter:
            return await ensemble.answer(
                prompt, plan, listener, tags=tags, key_id=key_id, meter=meter, id_=id_
            )

    return run


async def _or_undone(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
    """The result of the work; if cancelled meanwhile, it is done to its end and then undone: what
    the database has taken by then would else be held until its lease ends."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        with suppress(RequestError):
            await undo(await working)
        raise


async def _or_logged(work: Callable[[], Awaitable[None]], said: str) -> None:
    """What must not take an answer away that is there; its lease ends by itself."""
    try:
        await patiently(lambda _: work())
    except StoreError:
        log.error("%s: the database failed", said)


async def once(
    live: Services,
    caller: ApiKey | None,
    key: str | None,
    run: Callable[[], Awaitable[Answer]],
    *,
    id_: str,
    request: Request,
    body: BaseModel,
    deadline_s: float,
) -> Answer:
    """The answer of `run`, which will have that id, or of whoever ran it under the same
    Idempotency-Key.

    Waits for a run under way until the deadline. One that fails leaves the key free; whoever
    waited for it is told, and does not try in its place. Raises `InProgressError`, or
    `IdempotencyError` if the key was used for another request.
    """
    if key is None:
        return await run()
    scope = caller.id if caller else ""
    said = f"{request.url.path}\n{body.model_dump_json()}"
    digest = hashlib.sha256(said.encode()).hexdigest()
    claiming = live.idempotency.claim(scope, key, digest, _lease_s(deadline_s), id_)
    claim = await _or_undone(claiming, lambda claim: live.idempotency.finish(claim, None))
    if claim.owner is None:
        return await live.store.get(await _answer_id(live, claim, deadline_s))
    answer_id = None
    try:
        answer = await run()
        answer_id = answer.id
        return answer
    finally:
        said = "an Idempotency-Key is not released"
        await to_the_end(_or_logged(lambda: live.idempotency.finish(claim, answer_id), said))


def refuse_key_with_stream(key: str | None) -> None:
    """Raises `InvalidRequestError`: events of a run that is over cannot be told again."""
    if key is not None:
        raise InvalidRequestError("Idempotency-Key", "is not for streams: send it without `stream`")


async def _answer_id(live: Services, claim: Claim, deadline_s: float) -> str:
    try:
        async with asyncio.timeout(deadline_s):
            known: Claim | None = claim
            while known is not None and known.answer_id is None:
                await asyncio.sleep(POLL_S)
                known = await live.idempotency.look(claim)
    except TimeoutError as error:
        raise InProgressError("it is still under way", retry_after_s=1) from error
    if known is None or known.answer_id is None:
        raise InProgressError("it ended without an answer; send it again", retry_after_s=1)
    return known.answer_id


def _lease_s(deadline_s: float) -> float:
    return deadline_s + STORE_GRACE_S + MARGIN_S

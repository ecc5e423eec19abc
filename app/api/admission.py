"""What stands between a caller and the board: the limits of its key, and one run for each
Idempotency-Key. For every route that asks the board."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Header, Request

from app.api.connections import LiveRun, follow, while_connected
from app.domain import Answer, Listener, Plan, Prompt
from app.ensemble import STORE_GRACE_S, to_the_end
from app.errors import InProgressError, InvalidRequestError, RequestError, StoreError
from app.metering import Meter
from app.store.database import patiently
from app.store.idempotency import Claim
from app.store.keys import ApiKey
from app.wiring import Services

log = logging.getLogger("starboard")

# A lease outlives its run, so that its room in the budget is not given away while money is spent.
MARGIN_S = 5.0
# How long those who wait for another's run wait between two looks: twice as long each time.
POLL_S, LONGEST_POLL_S = 0.05, 1.0

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
    lease = await _or_undone(admitting, lambda lease: live.bookings.book(lease, 0))
    meter = Meter(None if caller.budget is None else reserve)
    try:
        yield meter
    finally:
        await to_the_end(live.bookings.book(lease, meter.spent))


class Asked(Protocol):
    """What a route's body has in common with that of the others that ask the board."""

    @property
    def stream(self) -> bool | None: ...

    def model_dump_json(self) -> str: ...


async def ask(
    live: Services,
    caller: ApiKey | None,
    request: Request,
    *,
    body: Asked,
    key: str | None,
    prompt: Prompt,
    plan: Plan,
    tags: Mapping[str, str],
    id_: str,
) -> Answer | LiveRun:
    """The board's answer within the caller's limits, which has the id unless another request of
    the same Idempotency-Key has it; with `stream` the run under way, once a member was asked.

    Raises `ClientGoneError` if the client leaves, and `InvalidRequestError` for a stream with an
    Idempotency-Key: events of a run that is over cannot be told again.
    """
    ensemble, key_id = live.ensemble, caller.id if caller else None

    async def run(listener: Listener | None = None) -> Answer:
        ensemble.check(plan)  # before it counts: what cannot be is not held against the key
        quote = partial(ensemble.quote, prompt, plan)
        async with admitted(live, caller, quote, plan.deadline_s) as meter:
            return await ensemble.answer(
                prompt, plan, listener, tags=tags, key_id=key_id, meter=meter, id_=id_
            )

    if body.stream:
        if key is not None:
            told = "is not for streams: send it without `stream`"
            raise InvalidRequestError("Idempotency-Key", told)
        return await follow(request, run, live.settings.keep_alive_s)
    if key is None:
        return await while_connected(request, run())
    said = f"{request.url.path}\n{body.model_dump_json()}"
    digest = hashlib.sha256(said.encode()).hexdigest()
    scope = caller.id if caller else ""
    once = _once(live, scope, key, digest, run, id_=id_, deadline_s=plan.deadline_s)
    return await while_connected(request, once)


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


async def _once(
    live: Services,
    scope: str,
    key: str,
    digest: str,
    run: Callable[[], Awaitable[Answer]],
    *,
    id_: str,
    deadline_s: float,
) -> Answer:
    """The answer of `run`, which will have that id, or of whoever ran it under the same
    Idempotency-Key.

    Waits for a run under way until the deadline. One that fails leaves the key free; whoever
    waited for it is told, and does not try in its place. Raises `InProgressError`, or
    `IdempotencyError` if the key was used for another request.
    """
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
        await to_the_end(_release(live, claim, answer_id))


async def _release(live: Services, claim: Claim, answer_id: str | None) -> None:
    try:
        await patiently(lambda _: live.idempotency.finish(claim, answer_id))
    except StoreError:  # it must not take an answer away that is there; a claim ends by itself
        log.error("an Idempotency-Key is not released: the database failed")


async def _answer_id(live: Services, claim: Claim, deadline_s: float) -> str:
    try:
        async with asyncio.timeout(deadline_s):
            known, wait_s = await live.idempotency.look(claim), POLL_S
            while known is not None and known.answer_id is None:
                await asyncio.sleep(wait_s)
                known, wait_s = await live.idempotency.look(claim), min(2 * wait_s, LONGEST_POLL_S)
    except TimeoutError as error:
        raise InProgressError("it is still under way", retry_after_s=1) from error
    if known is None or known.answer_id is None:
        raise InProgressError("it ended without an answer; send it again", retry_after_s=1)
    return known.answer_id


def _lease_s(deadline_s: float) -> float:
    return deadline_s + STORE_GRACE_S + MARGIN_S

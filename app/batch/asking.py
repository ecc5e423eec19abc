"""Rows put to the board, so many at a time, and their results in the order of the rows."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from app.api.app import SELF_CHECK_S
from app.api.documents import answer_document
from app.api.problems import problem_of
from app.batch.rows import BatchRequest, RowDocument, Tally, answer_id, failed, read
from app.domain import NANO, Answer, Plan, Prompt
from app.ensemble import abandoned, shortfall
from app.errors import (
    BudgetError,
    ConfigurationError,
    NoBoardError,
    RequestError,
    StoreError,
)
from app.metering import Meter
from app.settings import Settings
from app.store import AnswerStore
from app.wiring import Services, open_services

log = logging.getLogger("starboard")

# How many rows may be done or under way behind one that takes its time, for each of those that are
# asked at a time.
AHEAD = 8
# What rows under way are given to end when the batch is told to stop.
FINISH_S = 5.0

Ending = Literal["done", "ceiling", "interrupted"]


@asynccontextmanager
async def open_board(settings: Settings) -> AsyncIterator[Services]:
    """The services for a batch, its scorers checked. Raises `ConfigurationError`."""
    async with open_services(settings) as services:
        if not services.ensemble.members:
            raise ConfigurationError(f"{NoBoardError.title}: `starboard models` says why")
        if settings.self_check:
            await services.ensemble.ladder.check(SELF_CHECK_S)
        yield services


@dataclass(frozen=True, slots=True)
class Job:
    """A row that can be asked. `quote`: the most it may cost, in nano-dollars; None: whatever."""

    index: int
    request: BatchRequest
    prompt: Prompt
    plan: Plan
    quote: int | None


async def earlier(store: AnswerStore, nonce: str, rows: Iterable[int]) -> dict[int, list[Answer]]:
    """What is stored of these rows, by their index: what was given up, and last what was not."""
    found: dict[int, list[Answer]] = defaultdict(list)
    asked = list(rows)
    for attempt in count():
        ids = {answer_id(nonce, index, attempt): index for index in asked}
        answers = await store.find(list(ids))
        for answer in answers:
            found[ids[answer.id]].append(answer)
        asked = [ids[answer.id] for answer in answers if abandoned(answer)]
        if not asked:
            break
    return found


@dataclass(frozen=True)
class Desk:
    """The board, the nonce of the batch, and what is stored of rows that are still to be written:
    they are not asked again."""

    services: Services
    nonce: str
    stored: dict[int, list[Answer]] = field(default_factory=dict)
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take(self, index: int, line: bytes | None, *, quoted: bool) -> Job | RowDocument:
        """The job on a line, or the row that says why there is none. Raises `BudgetError` if it is
        to be quoted and a price is not known."""
        settings, ensemble = self.services.settings, self.services.ensemble
        request = read(index, line, settings.max_body_bytes)
        if isinstance(request, RowDocument):
            return request
        prompt = request.to_prompt(settings.max_tokens)
        plan = request.to_plan(ensemble.members, settings.deadline_s)
        try:
            ensemble.check(plan)
        except RequestError as error:
            return failed(index, request.id, problem_of(error))
        quote = ensemble.quote(prompt, plan) if quoted else None
        return Job(index, request, prompt, plan, quote)

    async def answer(self, job: Job) -> RowDocument:
        """The row of a job: of the answer that is stored, or of a new run. Raises `StoreError`,
        which is no failure of the row's."""
        before = self.stored.pop(job.index, [])
        if before and not abandoned(before[-1]):
            *before, found = before
            return _row(job, found, found.cost_usd, found.cost_bound_usd, before)
        id_, meter = answer_id(self.nonce, job.index, len(before)), Meter(job.quote)
        outcome: Answer | Exception
        try:
            outcome = await self._ask(job, meter, id_)
        except StoreError:
            # A worker that was thought dead, or a commit that its process did not live to see.
            stored = await self.services.store.find([id_])
            if not stored:
                raise
            outcome = stored[0]
        except RequestError as error:
            outcome = error
        except Exception as error:
            log.exception("row %d failed", job.index)
            outcome = error
        return _row(job, outcome, meter.cost_usd, meter.cost_bound_usd, before)

    async def _ask(self, job: Job, meter: Meter, id_: str) -> Answer:
        """A new run; while every circuit before it is open, the rows wait, and one at a time tries
        whether a member is back. They have the time, and would all be errors."""
        ensemble, plan = self.services.ensemble, job.plan
        gates = [ensemble.gates[name] for name in (*plan.members, *plan.reserves)]

        async def run() -> Answer:
            return await ensemble.answer(
                job.prompt, plan, tags=job.request.tags, meter=meter, id_=id_
            )

        if any(gate.circuit == "closed" for gate in gates):
            return await run()
        async with self._probing:
            while all(gate.circuit != "closed" for gate in gates):
                wait_s = min(gate.opening.wait_s for gate in gates if gate.opening)
                if wait_s <= 0:
                    return await run()
                await asyncio.sleep(wait_s)
        return await run()


def _row(
    job: Job,
    outcome: Answer | Exception,
    cost_usd: float | None,
    bound_usd: float | None,
    given_up: list[Answer],
) -> RowDocument:
    error = shortfall(outcome) if isinstance(outcome, Answer) else outcome
    return RowDocument(
        index=job.index,
        id=job.request.id,
        cost_usd=_sum([cost_usd, *(one.cost_usd for one in given_up)]),
        cost_bound_usd=_sum([bound_usd, *(one.cost_bound_usd for one in given_up)]),
        answer=answer_document(outcome) if isinstance(outcome, Answer) and not error else None,
        error=problem_of(error) if error else None,
    )


def _sum(costs: list[float | None]) -> float | None:
    known = [_nano(cost) for cost in costs if cost is not None]
    return sum(known) / NANO if len(known) == len(costs) else None


def _nano(usd: float | None) -> int:
    return round((usd or 0.0) * NANO)


Running = dict[asyncio.Task[RowDocument], Job]


@dataclass
class Asking:
    """Asks the rows of `lines`, the first of which has the index `start`, and has each written as a
    line, in their order.

    At most `concurrency` are under way, and at most `AHEAD` times as many are held. With a
    `ceiling` in nano-dollars a row is begun only if it, and those under way, can end within it.
    """

    desk: Desk
    lines: Iterator[bytes | None]
    start: int
    write: Callable[[bytes], object]
    tally: Tally
    concurrency: int
    ceiling: int | None = None
    _held: deque[RowDocument | asyncio.Task[RowDocument]] = field(default_factory=deque)
    _running: Running = field(default_factory=dict)
    _next: Job | RowDocument | None = None

    def __post_init__(self) -> None:
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs = (
            self.desk.take(index, line, quoted=self.ceiling is not None)
            for index, line in enumerate(self.lines, self.start)
        )

    async def run(self) -> Ending:
        """Until all rows are written, the next one is not covered, or it is interrupted.

        Raises, once the rows under way are over and what could be written is, `StoreError`, or
        `ConfigurationError` that names a price that is missing.
        """
        try:
            while not self._stop.done():
                over = self._begin()
                self._write()
                if self._running:
                    await self._one_is_done()
                elif over:
                    return over
                else:  # a window full of rows that are not valid
                    await asyncio.sleep(0)
        except BudgetError as error:
            raise ConfigurationError(error.detail) from error
        finally:
            await self._finish()
        return "interrupted"

    def interrupt(self) -> None:
        """Begin no more rows; the second time, give up those under way."""
        if not self._stop.done():
            self._stop.set_result(None)
            return
        for task in self._running:
            task.cancel()

    def _begin(self) -> Ending | None:
        """Begin what can be begun; what the batch will have come to if that was all."""
        while len(self._running) < self.concurrency and len(self._held) < AHEAD * self.concurrency:
            self._next = self._next or next(self._jobs, None)
            match self._next:
                case None:
                    return "done"
                case RowDocument() as row:
                    self._held.append(row)
                case Job() as job:
                    if not self._covers(job):
                        return "ceiling"
                    task = asyncio.ensure_future(self.desk.answer(job))
                    self._running[task] = job
                    self._held.append(task)
            self._next = None
        return None

    def _covers(self, job: Job) -> bool:
        if self.ceiling is None:
            return True
        costs = [row.cost_bound_usd for held in self._held if (row := _result(held))]
        costs += [one.cost_bound_usd for answers in self.desk.stored.values() for one in answers]
        spent = self.tally.spent + sum(map(_nano, costs))
        reserved = sum(one.quote or 0 for one in (job, *self._running.values()))
        return spent + reserved <= self.ceiling

    async def _one_is_done(self) -> None:
        waited: set[asyncio.Future[Any]] = {*self._running, self._stop}
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        over = [task for task in self._running if task in done]
        for task in over:
            del self._running[task]
        for task in over:
            task.result()

    async def _finish(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=FINISH_S)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._write()

    def _write(self) -> None:
        while self._held and (row := _result(self._held[0])):
            self._held.popleft()
            line = row.line()
            self.write(line)
            self.tally.add(line)


def _result(held: RowDocument | asyncio.Task[RowDocument]) -> RowDocument | None:
    """The row that is held, if it is there."""
    if isinstance(held, RowDocument):
        return held
    there = held.done() and not held.cancelled() and held.exception() is None
    return held.result() if there else None

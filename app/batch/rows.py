"""Rows of a batch: a request comes in, and its answer or error goes out, one row for one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, ValidationError, field_validator

from app.api.documents import AnswerDocument, AnswerRequest
from app.api.limits import strict_json
from app.api.problems import Problem, invalid_problem, problem_of
from app.domain import NANO
from app.errors import DataError, InvalidRequestError

RowId = Annotated[str, StringConstraints(max_length=1024)] | int | None


class BatchRequest(AnswerRequest):
    """A body of `POST /answer`, with an id of its author's that comes back with the answer."""

    id: RowId = None

    @field_validator("stream")
    @classmethod
    def _no_stream(cls, stream: bool | None) -> bool | None:
        if stream:
            raise ValueError("rows of a batch are not streamed: leave it out")
        return stream


class RowDocument(BaseModel):
    """What became of input row `index`: an answer, or an error as a problem document.

    Costs are the answer's, or those of a run that failed, and of what was begun and given up
    before; null where `AnswerDocument` has null.
    """

    index: int
    id: RowId
    cost_usd: float | None
    cost_bound_usd: float | None
    answer: AnswerDocument | None = None
    error: Problem | None = None

    def line(self) -> bytes:
        """The row as a line of JSON, with `answer` or `error`."""
        document = self.model_dump(mode="json", exclude={"answer", "error"})
        if self.answer:
            document["answer"] = self.answer.model_dump(mode="json")
        if self.error:
            document["error"] = self.error.model_dump(mode="json", exclude_none=True)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read(index: int, line: bytes | None, limit: int) -> BatchRequest | RowDocument:
    """The request on a line, or the row that says what is wrong with it. None stands for a line of
    more than `limit` bytes."""
    if line is None:
        detail = f"the row is over {limit:,} bytes"
        return failed(index, None, Problem(title="Content Too Large", status=413, detail=detail))
    value: object = None
    try:
        if not line.strip():
            raise InvalidRequestError("body", "the line is empty")
        value = strict_json(line)
        return BatchRequest.model_validate(value)
    except InvalidRequestError as error:
        problem = problem_of(error)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problem = invalid_problem([{**e, "loc": ("body", *e["loc"])} for e in found])
    return failed(index, _id_of(value), problem)


def failed(
    index: int,
    id_: RowId,
    problem: Problem,
    cost_usd: float | None = 0.0,
    cost_bound_usd: float | None = 0.0,
) -> RowDocument:
    return RowDocument(
        index=index, id=id_, cost_usd=cost_usd, cost_bound_usd=cost_bound_usd, error=problem
    )


def _id_of(value: object) -> RowId:
    """The id of a row that is otherwise not valid, so that its author finds it."""
    id_ = value.get("id") if isinstance(value, dict) else None
    return id_ if isinstance(id_, str | int) and not isinstance(id_, bool) else None


def answer_id(nonce: str, index: int, attempt: int = 0) -> str:
    """The id that a row's answer is stored as: known beforehand to the batch, and to nobody who
    does not know its nonce. A run that is given up is stored too; the next attempt has another."""
    said = f"{index}:{attempt}".encode()
    return f"ans_{hashlib.blake2b(said, key=nonce.encode(), digest_size=12).hexdigest()}"


@dataclass
class Tally:
    """What the rows written so far come to. `spent` is the most that they can have cost, in
    nano-dollars; `unpriced` counts those of which not even that is known."""

    rows: int = 0
    answered: int = 0
    degraded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    cost_unknown: int = 0
    spent: int = 0
    unpriced: int = 0

    def add(self, line: bytes) -> None:
        """Count a row. Raises `DataError` if it is none of ours."""
        try:
            row: dict[str, Any] = json.loads(line)
            answer, error = row.get("answer"), row.get("error")
            kind = _kind(error) if error else None
            cost_usd, bound_usd = row["cost_usd"], row["cost_bound_usd"]
            degraded = answer is not None and answer["quality"] == "degraded"
            if not answer and not error:
                raise KeyError("answer")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError("not a row of a batch") from error
        self.rows += 1
        self.degraded += degraded
        if kind:
            self.failed[kind] += 1
        else:
            self.answered += 1
        self.cost_usd += cost_usd or 0.0
        self.cost_unknown += cost_usd is None
        self.spent += round((bound_usd or 0.0) * NANO)
        self.unpriced += bound_usd is None

    def as_document(self) -> dict[str, object]:
        """Costs in USD; `failed` by kind."""
        return {
            "rows": self.rows,
            "answered": self.answered,
            "degraded": self.degraded,
            "failed": dict(self.failed.most_common()),
            "cost_usd": round(self.cost_usd, 9),
            "cost_unknown": self.cost_unknown,
        }


def _kind(problem: dict[str, Any]) -> str:
    """The last part of a problem's type; of one without, its title."""
    kind: str = problem["type"].rpartition(":")[2]
    title: str = problem["title"]
    return title.lower().replace(" ", "-") if kind == "blank" else kind

"""Exceptions, and how they become data.

    StarboardError
    ├── ConfigurationError      start-up cannot go on; the message says what to set
    ├── DataError               a file of rows cannot be used; the message says which line
    ├── UpstreamError           a member or scorer failed; recorded as a Failure
    │   └── UncoveredError          the call was not made: the budget does not cover it
    └── RequestError            the run cannot give what was asked; carries its HTTP status
        ├── InvalidRequestError     422  names the field
        ├── MediaTypeError          415  the body is not plain JSON
        ├── UnauthorizedError       401  no key, or none that is good
        ├── ForbiddenError          403  the key lacks a scope
        ├── BudgetError             402  the key's budget does not cover the run
        ├── LimitError              429  rate, concurrency, or budget held by runs under way
        ├── IdempotencyError        422  the same Idempotency-Key with another request
        ├── InProgressError         409  the request of that Idempotency-Key has no answer yet
        ├── FeedbackError           409  the answer has all the feedback that it takes
        ├── LoopError               508  boards that ask one another
        ├── AnswerNotFoundError     404
        ├── RunNotFoundError        404  of STaR
        ├── RunUnreadableError      500  its directory is broken
        ├── ModelNotFoundError      404  of the OpenAI-compatible routes
        ├── NoBoardError            503  no member is seated
        ├── StoreError              503  the database does not answer
        ├── NoCandidateError        502  too few members replied
        └── DeadlineError           504  the deadline passed with nothing to show

Adapters raise `UpstreamError`; whatever else escapes a vendor's package is attributed by
`boundary()`. The ensemble turns both into `Failure` records with `as_failure()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from app.domain import Failure, FailureKind, Usage

RETRYABLE: frozenset[FailureKind] = frozenset(
    {"timeout", "rate_limited", "overloaded", "unavailable"}
)


class StarboardError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(StarboardError):
    """The settings cannot be served; the message says what to change."""


class DataError(StarboardError):
    """A file of rows cannot be used; the message says which line and what is wrong with it."""


class UpstreamError(StarboardError):
    """A call to a member or scorer failed.

    `message` is shown to clients, so it holds our own words and plain facts such as a status
    code, never the upstream's text. `retry_after_s` is what the upstream asked for, in seconds.
    `usage` is what it was billed all the same: `NOTHING` where it is certain that nothing was, None
    where nobody knows.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.usage = usage

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE


class UncoveredError(UpstreamError):
    """A call that was not made, because what is left of the run's budget does not cover it."""

    def __init__(self, name: str) -> None:
        message = f"{name}: what is reserved of the key's budget does not cover it"
        super().__init__("refused_request", message)


class RequestError(StarboardError):
    """A request that cannot be answered, with the HTTP status that says so."""

    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class InvalidRequestError(RequestError):
    """A field holds something that cannot be served."""

    status = 422
    title = "The request is not valid"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class MediaTypeError(RequestError):
    status = 415
    title = "Unsupported Media Type"


class UnauthorizedError(RequestError):
    status = 401
    title = "An API key is needed"


class ForbiddenError(RequestError):
    status = 403
    title = "The API key may not do this"


class BudgetError(RequestError):
    """Waiting does not help: what is left of the budget is too little, or cannot be told."""

    status = 402
    title = "The API key's budget does not cover this"


class LimitError(RequestError):
    """`retry_after_s` says when it is worth trying again."""

    status = 429
    title = "A limit of the API key is reached"


class IdempotencyError(RequestError):
    status = 422
    title = "This Idempotency-Key was used for another request"


class InProgressError(RequestError):
    status = 409
    title = "The request of this Idempotency-Key has no answer yet"


class FeedbackError(RequestError):
    status = 409
    title = "The answer has all the feedback that it takes"


class LoopError(RequestError):
    status = 508
    title = "The request went through too many boards"


class AnswerNotFoundError(RequestError):
    status = 404
    title = "No such answer"


class RunNotFoundError(RequestError):
    status = 404
    title = "No such run"


class RunUnreadableError(RequestError):
    status = 500
    title = "The run's directory cannot be read"


class ModelNotFoundError(RequestError):
    status = 404
    title = "No such model"


class NoBoardError(RequestError):
    status = 503
    title = "No member is seated on the board"


class StoreError(RequestError):
    """`lost` if it was the connection that failed: the same work may do in a moment."""

    status = 503
    title = "The store does not answer"

    def __init__(self, detail: str, *, lost: bool = False) -> None:
        super().__init__(detail)
        self.lost = lost


class NoCandidateError(RequestError):
    """Too few members replied, most often none. `failures` says how, by member; the run is
    stored as `answer_id`."""

    status = 502
    title = "Too few members replied"

    def __init__(self, detail: str, failures: Mapping[str, Failure], answer_id: str) -> None:
        super().__init__(detail)
        self.failures = failures
        self.answer_id = answer_id


class DeadlineError(NoCandidateError):
    status = 504
    title = "The deadline passed before enough members replied"


def as_failure(error: UpstreamError) -> Failure:
    """The record of an error."""
    return Failure(error.kind, error.message, error.retryable)


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Attribute whatever foreign code raises inside to `name`, as a typed `UpstreamError`.

    An `UpstreamError` passes through, as does cancellation. The foreign message is dropped, for
    it may quote a key or a prompt; the class name stays.
    """
    try:
        yield
    except UpstreamError:
        raise
    except Exception as error:
        raise UpstreamError("internal", f"{name}: {type(error).__name__}") from error

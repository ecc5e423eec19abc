"""Errors as RFC 9457 problem documents; under `/v1` in OpenAI's shape."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.api.documents import FailureDocument, failure_document
from app.api.requests import SECURITY_HEADERS
from app.errors import InvalidRequestError, NoCandidateError, RequestError, UnauthorizedError
from app.logs import REQUEST_ID, request_id

MEDIA_TYPE = "application/problem+json"

# A document that says what is wrong is not to be longer than what is wrong.
MAX_ERRORS = 16
MAX_FIELD = 200


class FieldProblem(BaseModel):
    field: str
    message: str


class MemberProblem(BaseModel):
    member: str
    failure: FailureDocument


class Problem(BaseModel):
    """RFC 9457, with the members of ours that apply."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldProblem] | None = Field(default=None, description="422: what to mend")
    members: list[MemberProblem] | None = Field(default=None, description="502, 504: who failed")
    answer_id: str | None = Field(default=None, description="502, 504: the stored run")


class OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorDocument(BaseModel):
    error: OpenAIError


# OpenAPI entries for routes under `/v1`.
OPENAI_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OpenAIErrorDocument, "description": "The request cannot be served."},
    "5XX": {"model": OpenAIErrorDocument, "description": "No answer can be given."},
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems a route may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: schema},
        }
        for status in statuses
    }


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return _ProblemResponse(problem, headers)


class _ProblemResponse(JSONResponse):
    """The path decides the shape when the response is sent: whatever refuses a request need not
    know which of our two dialects its client speaks."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None) -> None:
        document = problem.model_dump(mode="json", exclude_none=True)
        super().__init__(document, problem.status, headers)
        self.problem, self.given_headers = problem, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].removeprefix(scope.get("root_path", "")).startswith("/v1/"):
            document = openai_error(self.problem).model_dump()
            status = OPENAI_STATUS.get(self.problem.status, self.problem.status)
            headers = {**(self.given_headers or {}), **(NOT_AGAIN if status in FUTILE else {})}
            await JSONResponse(document, status, headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


OPENAI_STATUS = {422: 400}
OPENAI_CODES = {401: "invalid_api_key", 402: "insufficient_quota", 429: "rate_limit_exceeded"}
# OpenAI's clients ask twice more after any 5xx unless they are told not to. These are the end of a
# whole run, which is paid for, or of what will not be otherwise.
FUTILE = (402, 502, 504, 508)
NOT_AGAIN = {"x-should-retry": "false"}


def openai_error(problem: Problem) -> OpenAIErrorDocument:
    """The problem in OpenAI's shape. Its clients show the message alone, so all stands there."""
    failures = "; ".join(member.failure.message for member in problem.members or ())
    run = f"stored as {problem.answer_id}" if problem.answer_id else ""
    more = "; ".join(filter(None, (failures, run)))
    told = problem.detail or problem.title
    ours = problem.type.removeprefix("urn:starboard:problem:").replace("-", "_")
    field = problem.errors[0].field if problem.errors else "body"
    return OpenAIErrorDocument(
        error=OpenAIError(
            message=f"{told} ({more})" if more else told,
            type=_openai_type(problem.status),
            param=None if field == "body" else field,
            code=OPENAI_CODES.get(problem.status, None if ours == problem.type else ours),
        )
    )


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def install(app: FastAPI) -> None:
    """Every error of the app leaves as a problem document, and its OpenAPI document says so."""
    described = app.openapi

    def document() -> dict[str, Any]:
        """FastAPI adds the media type of a route's own reply to those of its problems."""
        whole = described()
        for operations in whole["paths"].values():
            for operation in operations.values():
                for response in operation["responses"].values():
                    if MEDIA_TYPE in (content := response.get("content", {})):
                        response["content"] = {MEDIA_TYPE: content[MEDIA_TYPE]}
        return whole

    app.openapi = document  # type: ignore[method-assign]
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is to the client: of ours all they say, of others nothing."""
    if not isinstance(error, RequestError):
        return Problem(title="Internal Server Error", status=500)
    name = type(error).__name__.removesuffix("Error")
    problem = Problem(
        type="urn:starboard:problem:" + re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower(),
        title=error.title,
        status=error.status,
        detail=error.detail,
    )
    match error:
        case InvalidRequestError(field=field):
            problem.errors = [FieldProblem(field=field, message=error.detail)]
        case NoCandidateError(failures=failures, answer_id=answer_id):
            problem.answer_id = answer_id
            problem.members = [
                MemberProblem(member=member, failure=document)
                for member, failure in failures.items()
                if (document := failure_document(failure))
            ]
    return problem


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return problem_response(problem_of(error), error_headers(error))


def error_headers(error: RequestError) -> dict[str, str]:
    """The headers that go with an error, in whatever shape its body is."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors = [
        FieldProblem(
            field=_field(e["loc"])[:MAX_FIELD], message=e["msg"].removeprefix("Value error, ")
        )
        for e in found[:MAX_ERRORS]
    ]
    told = [f"{e.field}: {e.message}" for e in errors]
    more = [f"and {len(found) - MAX_ERRORS} more"] if len(found) > MAX_ERRORS else []
    detail = "; ".join(told + more)
    return problem_response(
        Problem(
            type="urn:starboard:problem:invalid-request",
            title=InvalidRequestError.title,
            status=InvalidRequestError.status,
            detail=detail,
            errors=errors,
        )
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.headers and "Allow" in error.headers:
        error.headers = {**error.headers, "Allow": _methods(request)}
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != title else None
    return problem_response(
        Problem(title=title, status=error.status_code, detail=detail), error.headers
    )


def _methods(request: Request) -> str:
    """What may be done at the path. Starlette names the methods of the first route there alone."""

    def served(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(served, sorted(HTTPMethod)))


async def _internal_error(_: Request, error: Exception) -> JSONResponse:
    # Sent from outside of every middleware, so what they add is set here.
    headers = {REQUEST_ID: id_} if (id_ := request_id.get()) else {}
    return problem_response(problem_of(error), headers | SECURITY_HEADERS)


def _field(location: Sequence[str | int]) -> str:
    """`("body", "messages", 0, "role")` as `messages.0.role`, `("query", "q")` as `q`; the body
    itself is `body`.

    Tags of unions stand in brackets and are no part of a field's name; a bare number is a place
    in a body that is no JSON.
    """
    inside = [str(part) for part in location[1:] if not str(part).startswith("(")]
    return ".".join(inside) if inside and not inside[0].isdigit() else "body"

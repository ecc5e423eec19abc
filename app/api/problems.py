"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.api.documents import FailureDocument, failure_document
from app.errors import InvalidRequestError, NoCandidateError, RequestError

MEDIA_TYPE = "application/problem+json"


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
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status_code=problem.status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Every error of the app leaves as a problem document."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
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
    return problem_response(problem)


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldProblem(field=_field(e["loc"]), message=e["msg"].removeprefix("Value error, "))
        for e in error.errors()
    ]
    detail = "; ".join(f"{e.field}: {e.message}" for e in errors)
    return problem_response(
        Problem(
            type="urn:starboard:problem:invalid-request",
            title=InvalidRequestError.title,
            status=InvalidRequestError.status,
            detail=detail,
            errors=errors,
        )
    )


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != title else None
    return problem_response(
        Problem(title=title, status=error.status_code, detail=detail), error.headers
    )


async def _internal_error(_: Request, error: Exception) -> JSONResponse:
    return problem_response(Problem(title="Internal Server Error", status=500))


def _field(location: Sequence[str | int]) -> str:
    """`("body", "messages", 0, "role")` as `messages.0.role`, `("query", "q")` as `q`; the body
    itself is `body`.

    Tags of unions stand in brackets and are no part of a field's name; a bare number is a place
    in a body that is no JSON.
    """
    inside = [str(part) for part in location[1:] if not str(part).startswith("(")]
    return ".".join(inside) if inside and not inside[0].isdigit() else "body"

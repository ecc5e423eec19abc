"""What schemathesis cannot read from the OpenAPI document: rules that JSON Schema has no words for.

Schemathesis loads this itself; `SCHEMATHESIS_HOOKS` names it.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure, ServerError
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import RejectedPositiveData

BOARD = ("a", "b", "c")
KEY = "Idempotency-Key"
# By what a request that breaks one of the rules is told.
UNSAID = re.compile(
    "must begin and end with a user turn|a turn has no text"  # on the last item of a list
    "|calls are|may end with [0-9]+ replies"  # on the board that is asked
    "|has no reply of that id|is the reply that was chosen"  # on the answer it is said of
    "|send another key with another request"  # on earlier requests
    "|say which answers: a tag or a key"  # on two parameters of a query together
)
SHORT_S = 1.0

_numbers = count()


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:
    """Stateful runs go on from an answer's `id`, which a stream has in its events."""
    stateful = case.meta is not None and case.meta.phase.name is TestPhase.STATEFUL
    return not (stateful and isinstance(case.body, dict) and case.body.get("stream"))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Valid requests name what there is. The coverage phase has one Idempotency-Key for all its
    requests, which is refused from the second on."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        body: dict[str, Any] = case.body
        _seat(body.get("starboard") or body)
        if "model" in body:
            body["model"] = "starboard"
        if turns := body.get("messages"):
            turns[0]["role"] = turns[-1]["role"] = "user"
    if KEY in case.headers:
        if isinstance(case.body, dict) and case.body.get("stream"):
            del case.headers[KEY]
        elif case.meta.phase.name is TestPhase.COVERAGE:
            case.headers[KEY] = f"key-{next(_numbers)}"


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """A valid request is refused for a rule of `UNSAID` and nothing else; or a run is given so
    little time that a busy machine cannot answer: 504 is what we promise then."""
    match failure:
        case RejectedPositiveData():
            return not all(map(UNSAID.search, _told(response.json())))
        case ServerError(status_code=504):
            return _deadline_s(case.body) >= SHORT_S
        case _:
            return True


def _seat(run: dict[str, Any]) -> None:
    """Put members who sit in the place of those named."""
    plan = run.get("plan") or {}
    for names, of in (("members", run), ("reserves", plan)):
        if of.get(names):
            of[names] = list(BOARD[: len(of[names])])
    if plan.get("order"):  # of those who are asked
        plan["order"] = (run.get("members") or list(BOARD))[: len(plan["order"])]
    if plan.get("aggregator"):
        plan["aggregator"] = BOARD[0]
    if plan.get("strategy") in ("cascade", "first_good") and plan.get("threshold") is None:
        plan["threshold"] = 2.5


def _told(document: dict[str, Any]) -> list[str]:
    """What is wrong with a request: in OpenAI's shape all in one message."""
    if "error" in document:
        return [document["error"]["message"]]
    return [error["message"] for error in document.get("errors", ())] or [document["detail"]]


def _deadline_s(body: Any) -> float:
    asked = body.get("starboard") or body
    return asked.get("deadline_s") or SHORT_S

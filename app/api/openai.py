"""`POST /v1/chat/completions` and `GET /v1/models`: the board as clients of OpenAI's API see it.

Models are `starboard`, `starboard/<strategy>`, and every seated member by its name. What the wire
format has no place for stands in one more key, `starboard`, of requests and of replies.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.openapi.models import Example
from fastapi.sse import format_sse_event
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from app.api.admission import IdempotencyKey, ask
from app.api.answers import answer_links, component, json_text
from app.api.connections import KEEP_ALIVE, EventStream, LiveRun, Step
from app.api.documents import (
    AnswerDocument,
    CandidateDocument,
    Conversation,
    Filled,
    MaxTokens,
    RunRequest,
    Tags,
    TagText,
    Temperature,
    TextPart,
    Turn,
    UsageDocument,
    answer_document,
)
from app.api.limits import JsonRoute
from app.api.problems import OPENAI_RESPONSES, OpenAIErrorDocument, openai_error, problem_of
from app.api.security import MayAnswer, count_hop, needs
from app.api.services import Live
from app.domain import Answer, FinishReason, Message, Plan, Prompt, Role, StrategyName
from app.ensemble import new_id
from app.errors import InvalidRequestError, ModelNotFoundError
from app.selection import STRATEGIES

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], route_class=JsonRoute)

BOARD = "starboard"
BY_STRATEGY: Mapping[str, StrategyName] = {f"{BOARD}/{name}": name for name in STRATEGIES}

# What changes the form of a reply cannot be left out in silence. By field: the values that ask for
# nothing we do not do.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stop": ("", []),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}

FINISH_REASONS: Mapping[FinishReason, Literal["stop", "length", "content_filter"]] = {
    "stop": "stop",
    "length": "length",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "other": "stop",
}


class ChatPart(TextPart):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ChatTurn(Turn):
    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Annotated[
        Role,
        BeforeValidator(
            lambda role: "system" if role == "developer" else role,
            json_schema_input_type=Literal["developer", "system", "user", "assistant"],
        ),
    ]
    content: Annotated[
        Annotated[Filled, Tag("(text)")] | Annotated[Sequence[ChatPart], Tag("(parts)")],
        Discriminator(lambda content: "(parts)" if isinstance(content, list) else "(text)"),
    ]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


def _document_unsupported(schema: dict[str, Any]) -> None:
    schema["properties"] |= {
        name: {"enum": [*values, None], "description": "Not supported with any other value."}
        for name, values in UNSUPPORTED.items()
    }


def _same(value: object, other: object) -> bool:
    """Whether two JSON values are equal; to Python `true` is 1."""
    return value == other and isinstance(value, bool) is isinstance(other, bool)


class ChatRequest(BaseModel):
    """A chat completion. Fields that are not listed are accepted: those that would change the form
    of the reply (tools, `n` over 1, ...) are refused, others are named in `dropped_parameters`."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, json_schema_extra=_document_unsupported
    )

    model: Annotated[Filled, StringConstraints(max_length=200)] = Field(
        description="starboard, starboard/<strategy>, or a member's name."
    )
    messages: Conversation[ChatTurn]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: TagText | None = Field(default=None, description="Kept as the tag `user`.")
    metadata: Tags | None = Field(default=None, description="Kept as tags.")
    starboard: RunRequest | None = Field(default=None, description="As in `POST /answer`.")

    def to_prompt(self, max_tokens: int) -> Prompt:
        """The prompt; `max_tokens` is the default where the request has none."""
        turns = tuple(Message(turn.role, turn.text) for turn in self.messages)
        limit = self.max_completion_tokens or self.max_tokens or max_tokens
        return Prompt(turns, limit, self.temperature)

    def to_plan(self, board: Iterable[str], deadline_s: float) -> Plan:
        """The plan that the model's name stands for; raises `ModelNotFoundError`."""
        members = tuple(board)
        plan = (self.starboard or RunRequest()).to_plan(members, deadline_s)
        if self.model == BOARD:
            return plan
        if self.model in BY_STRATEGY:
            return replace(plan, strategy=BY_STRATEGY[self.model])
        if self.model in members:
            return replace(plan, strategy="single", members=(self.model,))
        raise _no_model(self.model, members)

    def to_tags(self) -> Mapping[str, str]:
        return {**(self.metadata or {}), **({"user": self.user} if self.user else {})}

    def dropped_parameters(self) -> list[str]:
        """What was asked for and is not done; raises `InvalidRequestError` for what must be."""
        asked = {
            name: value for name, value in (self.model_extra or {}).items() if value is not None
        }
        for name, value in asked.items():
            if name in UNSUPPORTED and not any(_same(value, one) for one in UNSUPPORTED[name]):
                raise InvalidRequestError(name, f"{name} is not supported here with this value")
        return sorted(asked.keys() - UNSUPPORTED)


EXAMPLES: dict[str, Example] = {
    "board": {
        "value": {
            "model": BOARD,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "max_tokens": 64,
        }
    }
}


class CandidateEvidence(CandidateDocument):
    text: str | None = Field(exclude=True)


class Evidence(AnswerDocument):
    """The answer's document without the texts; `GET /answers/{id}` has those.

    `dropped_parameters` names fields of the request that were not heeded.
    """

    answer: str | None = Field(exclude=True)
    candidates: Sequence[CandidateEvidence]
    dropped_parameters: list[str]


class ChatMessage(BaseModel):
    """`content` is null where nothing was chosen: `starboard.decision.reason` says why."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class ChatUsage(BaseModel):
    """Tokens of the whole board, as far as its members say."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """`id` is the answer's: `GET /answers/{id}`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage | None
    system_fingerprint: None = None
    starboard: Evidence


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # the format asks for a time, and nobody can tell one
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


CHUNK: Mapping[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion.chunk"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "null"},
        "choices": {
            "type": "array",
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["index", "delta", "finish_reason"],
                "properties": {
                    "index": {"const": 0},
                    "delta": {
                        "type": "object",
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": {"type": "string"},
                        },
                    },
                    "finish_reason": {"enum": ["stop", "length", "content_filter", None]},
                },
            },
        },
        "usage": {"anyOf": [component(ChatUsage), {"type": "null"}]},
        "starboard": component(Evidence),
    },
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion; with `stream`, its chunks as server-sent events, the last "
        "of which is `[DONE]` or an error.",
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "data": {
                            "anyOf": [
                                {"const": "[DONE]"},
                                json_text({"anyOf": [CHUNK, component(OpenAIErrorDocument)]}),
                            ]
                        }
                    },
                }
            }
        },
        "links": answer_links(),
    }
}


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=STREAM | OPENAI_RESPONSES,
    dependencies=[Depends(count_hop)],
)
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=EXAMPLES)],
    request: Request,
    live: Live,
    caller: MayAnswer,
    key: IdempotencyKey = None,
) -> ChatCompletion | Response:
    """One prompt to the board, or to one of its members, in OpenAI's format."""
    settings, ensemble = live.settings, live.ensemble
    dropped = body.dropped_parameters()
    plan = body.to_plan(ensemble.members, settings.deadline_s)
    prompt = body.to_prompt(settings.max_tokens)
    id_, tags = new_id("ans"), body.to_tags()
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
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        chunks = _Chunks(id_, int(time.time()), body.model, with_usage)
        return EventStream(told, chunks.draw(told.steps(), dropped))
    reply = _Reply.of(told, dropped)
    return ChatCompletion(
        id=told.id,
        created=int(told.created.timestamp()),
        model=body.model,
        choices=[
            Choice(message=ChatMessage(content=reply.text), finish_reason=reply.finish_reason)
        ],
        usage=reply.usage,
        starboard=reply.evidence,
    )


@router.get("/models", responses=OPENAI_RESPONSES, dependencies=[Depends(needs("read"))])
async def list_models(live: Live) -> ModelList:
    """The board under each strategy, and its members one by one."""
    return ModelList(data=_models(live.ensemble.members))


@router.get(
    "/models/{model:path}", responses=OPENAI_RESPONSES, dependencies=[Depends(needs("read"))]
)
async def get_model(model: str, live: Live) -> Model:
    """One of the models."""
    found = next((m for m in _models(live.ensemble.members) if m.id == model), None)
    if found is None:
        raise _no_model(model, live.ensemble.members)
    return found


def _models(members: Iterable[str]) -> list[Model]:
    board = [Model(id=name, owned_by=BOARD) for name in (BOARD, *BY_STRATEGY)]
    return board + [Model(id=name, owned_by=name) for name in members]


def _no_model(name: str, members: Iterable[str]) -> ModelNotFoundError:
    known = ", ".join(model.id for model in _models(members))
    return ModelNotFoundError(f"there is no model {name[:200]}; there are {known}")


@dataclass(frozen=True)
class _Reply:
    """What there is of an answer in OpenAI's format, whole or in chunks."""

    text: str | None
    finish_reason: Literal["stop", "length", "content_filter"]
    usage: ChatUsage | None
    evidence: Evidence

    @classmethod
    def of(cls, answer: Answer, dropped_parameters: Sequence[str]) -> Self:
        done, document = answer.chosen, answer_document(answer)
        return cls(
            document.answer,
            FINISH_REASONS[done.finish_reason] if done else "stop",
            _usage(document.usage),
            Evidence(**document.model_dump(), dropped_parameters=list(dropped_parameters)),
        )


def _usage(usage: UsageDocument | None) -> ChatUsage | None:
    if usage is None:
        return None
    return ChatUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )


@dataclass(frozen=True)
class _Chunks:
    """The chunks of one streamed completion."""

    id: str
    created: int
    model: str
    with_usage: bool

    async def draw(
        self, steps: AsyncIterator[Step], dropped_parameters: Sequence[str]
    ) -> AsyncIterator[bytes]:
        yield self._choice({"role": "assistant", "content": ""})
        async for step in steps:
            match step:
                case Answer():
                    reply = _Reply.of(step, dropped_parameters)
                    if reply.text:
                        yield self._choice({"content": reply.text})
                    evidence = reply.evidence.model_dump(mode="json")
                    yield self._choice({}, reply.finish_reason, starboard=evidence)
                    if self.with_usage:
                        usage = reply.usage and reply.usage.model_dump()
                        yield self._chunk(choices=[], usage=usage)
                    yield format_sse_event(data_str="[DONE]")
                case Exception():
                    yield format_sse_event(
                        data_str=openai_error(problem_of(step)).model_dump_json()
                    )
                case None:
                    yield KEEP_ALIVE
                case _:  # the format has no place for the rest
                    pass

    def _choice(
        self, delta: Mapping[str, str], finish_reason: str | None = None, **more: object
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choices=[choice], **more)

    def _chunk(self, **parts: object) -> bytes:
        """One chunk. Where usage is wanted, every chunk says that it has none."""
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            **({"usage": None} if self.with_usage else {}),
            **parts,
        }
        return format_sse_event(data_str=json.dumps(chunk))

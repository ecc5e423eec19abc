"""Anthropic's Messages API.

Shapes: wires.md 3b, the types of the `anthropic` package 2.12, and the notes on API version
2026-10-21 (codersera.com and qiita.com/Synthorai/items/01a0067e88747257a4e6): from that version
on `temperature`, `top_p` and `top_k` are refused for every model, even at their default values,
and the SDK sends the key as `Authorization: Bearer`. Under 2023-06-01 only newer models refuse
them ("deprecated for this model": Roo-Code#12162, github/app#2574).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

from .faults import COMMON, Call, Fault, Make, status
from .server import FakeServer, Route
from .wire import Json, Recorded, Reply, event_stream, pieces, tokens, words

VERSIONS: Final = ("2023-01-01", "2023-06-01", "2026-10-21")
SAMPLING: Final = ("temperature", "top_p", "top_k")
TAKES_SAMPLING: Final = ("claude-opus-4-6", "claude-opus-4-5", "claude-sonnet-4", "claude-haiku-4")
"""Models that still take sampling parameters, under version 2023-06-01 only."""

FIELDS: Final = words(
    "model max_tokens messages system metadata stop_sequences stream thinking tools tool_choice"
    " service_tier container cache_control inference_geo output_config speed diagnostics"
)
ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
REQUEST_ID: Final = "req_011CSHoEeqs5C35K2UUqR7Fy"


def text_block(text: str) -> Json:
    return {"type": "text", "text": text, "citations": None}


def thinking_block(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}


def message(request: Recorded, content: list[Json], stop_reason: str = "end_turn") -> Reply:
    """A Messages reply; as server-sent events if the request asks for a stream."""
    refused = {"type": "refusal", "category": None, "explanation": None}
    body: Json = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": request.sent.get("model"),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "stop_details": refused if stop_reason == "refusal" else None,
        "usage": {
            "input_tokens": tokens(json.dumps(request.sent.get("messages"))),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": tokens(json.dumps(content)),
            "service_tier": "standard",
        },
    }
    return event_stream(map(event, message_events(body))) if request.streams else Reply(body)


def event(data: Json) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}"


def message_events(body: Json) -> Iterable[Json]:
    """A finished message taken apart again, in the order of the streaming documentation."""
    blank: Json = {"content": [], "stop_reason": None, "stop_details": None}
    usage = {**body["usage"], "output_tokens": 1}
    yield {"type": "message_start", "message": {**body, **blank, "usage": usage}}
    yield {"type": "ping"}
    for index, block in enumerate(body["content"]):
        yield from block_events(index, block)
    ending = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    used = {"output_tokens": body["usage"]["output_tokens"]}
    yield {"type": "message_delta", "delta": ending, "usage": used}
    yield {"type": "message_stop"}


def block_events(index: int, block: Json) -> Iterable[Json]:
    key = block["type"]
    start = {**block, key: ""} | ({"signature": ""} if key == "thinking" else {})
    deltas = [{"type": f"{key}_delta", key: piece} for piece in pieces(block[key])]
    if key == "thinking":
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def problem(request: Recorded) -> str | None:
    """What the real API objects to in a request to /v1/messages, in its words."""
    version = request.headers.get("anthropic-version")
    if version is None:
        return "anthropic-version: header is required"
    if version not in VERSIONS:
        return f'anthropic-version: "{version}" is not a valid version'
    if request.json is None:
        return "The request body is not valid JSON"
    for name in ("model", "max_tokens", "messages"):
        if name not in request.sent:
            return f"{name}: Field required"
    if not isinstance(request.sent["max_tokens"], int) or request.sent["max_tokens"] < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    return unwelcome_field(request.sent, version) or unwelcome_message(request.sent["messages"])


def unwelcome_field(sent: Json, version: str) -> str | None:
    known = FIELDS if version >= "2026-10-21" else (*FIELDS, *SAMPLING)
    for name in sent:
        if name not in known:
            return f"{name}: Extra inputs are not permitted"
    sampling = [name for name in SAMPLING if name in sent]
    if sampling and not str(sent["model"]).startswith(TAKES_SAMPLING):
        return f"`{sampling[0]}` is deprecated for this model."
    if "temperature" in sent and "top_p" in sent:
        return "`temperature` and `top_p` cannot both be specified for this model."
    if not 0 <= sent.get("temperature", 1) <= 1:
        return "temperature: range: 0..1"
    return None


def unwelcome_message(messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    for index, turn in enumerate(messages):
        if turn.get("role") == "system":
            return (
                'messages: Unexpected role "system". The Messages API accepts a top-level `system`'
                ' parameter, not "system" as an input message role.'
            )
        if turn.get("role") not in ("user", "assistant"):
            return f"messages.{index}.role: Input should be 'user' or 'assistant'"
        if not turn.get("content"):
            return f"messages.{index}: all messages must have non-empty content"
    if messages[0]["role"] != "user":
        return 'messages: first message must use the "user" role'
    return None


def overloaded_event(call: Call) -> str:
    error = {"type": "overloaded_error", "message": f"Overloaded {call.leak}"}
    return event({"type": "error", "error": error, "request_id": REQUEST_ID})


def event_error_unasked(call: Call) -> Reply:
    """An event stream for a caller who wanted JSON: how some proxies pass an overload on."""
    return event_stream([overloaded_event(call)])


def event_error(call: Call) -> Reply:
    """HTTP 200, half a reply, then an error event and no `message_stop` (sdk-python#688)."""
    events = str(call.normal().body).split("\n\n")
    return event_stream([*events[:4], overloaded_event(call)])


def stream_cut(call: Call) -> Reply:
    """A stream that simply ends before `message_delta`."""
    return event_stream(str(call.normal().body).split("\n\n")[:4])


def temperature_deprecated(call: Call) -> Reply | None:
    if "temperature" not in call.request.sent:
        return None
    return call.error(400, "`temperature` is deprecated for this model.")


def refusal_empty(call: Call) -> Reply:
    return message(call.request, [], "refusal")


def refusal_with_text(call: Call) -> Reply:
    return message(call.request, [text_block("I can't help with that.")], "refusal")


def thinking_first(call: Call) -> Reply:
    text = text_block(call.fake.reply_text(call.request))
    return message(call.request, [thinking_block("The user asks for a fact."), text])


def thinking_only(call: Call) -> Reply:
    return message(call.request, [thinking_block("The user asks for")], "max_tokens")


def stopped_by(stop_reason: str) -> Make:
    """A reply with text that ended for another reason."""

    def make(call: Call) -> Reply:
        return message(call.request, [text_block(call.fake.reply_text(call.request))], stop_reason)

    return make


class AnthropicFake(FakeServer):
    """`/v1/messages` and `/v1/models`, key in `x-api-key` (which wins) or as a bearer token."""

    reply_headers: ClassVar[Mapping[str, str]] = {"request-id": REQUEST_ID}

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *COMMON,
        Fault("overloaded_529", "overloaded", status(529, x_should_retry="true")),
        Fault(
            "overloaded_529_retry_after",
            "overloaded",
            status(529, Retry_After="1"),
            retry_after_s=1,
        ),
        Fault("temperature_deprecated_400", None, temperature_deprecated, finish="stop"),
        Fault("invalid_request_400", "refused_request", status(400)),
        Fault("billing_402", "refused_request", status(402, "Your credit balance is too low")),
        Fault("too_large_413", "refused_request", status(413)),
        Fault("refusal_empty", None, refusal_empty, finish="refusal"),
        Fault("refusal_with_text", None, refusal_with_text, finish="refusal"),
        Fault("thinking_first", None, thinking_first, finish="stop"),
        Fault("thinking_only", "bad_reply", thinking_only),
        Fault("max_tokens", None, stopped_by("max_tokens"), finish="length"),
        Fault("stop_sequence", None, stopped_by("stop_sequence"), finish="stop"),
        Fault(
            "context_window_exceeded",
            None,
            stopped_by("model_context_window_exceeded"),
            finish="length",
        ),
        Fault("event_error_unasked", "bad_reply", event_error_unasked),
    )
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = (
        Fault("event_error", "overloaded", event_error),
        Fault("stream_cut", "bad_reply", stream_cut),
    )

    def default_models(self) -> tuple[str, ...]:
        return (
            "claude-sonnet-5-5",
            "claude-opus-5-5",
            "claude-haiku-5-5",
            "claude-sonnet-5",
            "claude-opus-5",
            "claude-opus-4-8",
            "claude-sonnet-4-6",
            "claude-haiku-4-5",
        )

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/messages", self.generate, generates=True),
            Route("GET", "/v1/models", self._list_models),
            Route("GET", "/v1/models/(?P<model>[^/]+)", self._get_model),
        )

    def key_of(self, request: Recorded) -> str | None:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return request.headers.get("x-api-key") or bearer or None

    def error_body(self, status: int, message: str) -> object:
        error = {"type": ERROR_TYPES.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": REQUEST_ID}

    def text_reply(self, request: Recorded, text: str) -> Reply:
        return message(request, [text_block(text)])

    def denial(self, request: Recorded) -> Reply:
        missing = self.key_of(request) is None
        return self.error(
            request, 401, "x-api-key header is required" if missing else "invalid x-api-key"
        )

    def no_route(self, request: Recorded) -> Reply:
        return self.error(request, 404, "Not Found")

    def refusal(self, request: Recorded) -> Reply | None:
        if complaint := problem(request):
            return self.error(request, 400, complaint)
        if request.sent["model"] not in self.models:
            return self.error(request, 404, f"model: {request.sent['model']}")
        return None

    def _list_models(self, request: Recorded) -> Reply:
        data = [_model(name) for name in self.models]
        ends = {"first_id": self.models[0], "last_id": self.models[-1]}
        return Reply({"data": data, "has_more": False, **ends})

    def _get_model(self, request: Recorded) -> Reply:
        name = request.params["model"]
        if name not in self.models:
            return self.error(request, 404, f"model: {name}")
        return Reply(_model(name))


def _model(name: str) -> Json:
    return {
        "type": "model",
        "id": name,
        "display_name": name.replace("-", " ").title(),
        "created_at": "2026-02-19T00:00:00Z",
        "lifecycle": "active",
        "max_tokens": 64_000,
        "max_input_tokens": 200_000,
    }

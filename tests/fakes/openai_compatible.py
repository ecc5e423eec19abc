"""The OpenAI chat-completions API as vLLM, Ollama, llama.cpp and many hosts speak it.

Shapes: wires.md 3d and 3e. Unknown request fields are accepted, as those hosts do. The class has
hooks for what a host does differently: Mistral's fake overrides them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from .faults import COMMON, Call, Fault, Make, status
from .server import FakeServer, Route
from .wire import Json, Recorded, Reply, event_stream, pieces, tokens

CREATED: Final = 1_790_000_000
ERROR_CODES: Final = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", None),
}


def assistant(content: object, **extra: object) -> Json:
    return {"role": "assistant", "content": content, **extra}


def completion(request: Recorded, message: Json, reason: str = "stop", **extra: object) -> Reply:
    """A chat completion with one choice. `extra` replaces top-level fields."""
    prompt = tokens(json.dumps(request.sent.get("messages")))
    used = tokens(json.dumps(message["content"]))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return Reply(
        {
            "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
            "object": "chat.completion",
            "created": CREATED,
            "model": request.sent.get("model"),
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": used,
                "total_tokens": prompt + used,
            },
            "system_fingerprint": None,
            **extra,
        }
    )


def data(chunk: Json) -> str:
    return f"data: {json.dumps(chunk)}"


def chunks(body: Json) -> list[Json]:
    """A finished completion taken apart: a role, the words, the finish reason; no usage."""
    base = {**body, "object": "chat.completion.chunk"}
    del base["usage"]
    choice = body["choices"][0]
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces(choice["message"]["content"])]
    started = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    ending = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    return [*started, {**base, "choices": [ending]}]


def problem(sent: Json) -> tuple[str, str] | None:
    """The field the API objects to, and its words."""
    if not isinstance(sent.get("model"), str):
        return "model", "you must provide a model parameter"
    messages = sent.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages", "[] is too short - 'messages'"
    for index, turn in enumerate(messages):
        if turn.get("role") not in ("system", "developer", "user", "assistant", "tool"):
            return f"messages[{index}].role", f"Invalid value: '{turn.get('role')}'."
        if not isinstance(turn.get("content"), (str, list)):
            return f"messages[{index}].content", "Invalid value for 'content': expected a string."
    if "stream_options" in sent and not sent.get("stream"):
        return "stream_options", "The 'stream_options' parameter is only allowed when 'stream'"
    return out_of_range(sent)


def out_of_range(sent: Json, highest_temperature: float = 2.0) -> tuple[str, str] | None:
    if not 0 <= _number(sent.get("temperature"), 1) <= highest_temperature:
        return "temperature", "Invalid 'temperature': out of range."
    if _number(sent.get("max_tokens"), 1) < 1:
        return "max_tokens", "Invalid 'max_tokens': integer below minimum value."
    return None


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def finished(reason: str, content: str | None, **extra: object) -> Make:
    """A reply with that finish reason; `content` None stands for JSON's null."""
    return lambda call: completion(call.request, assistant(content, **extra), reason)


def no_choices(call: Call) -> Reply:
    return completion(call.request, assistant(""), choices=[])


def hostile_facts(call: Call) -> Reply:
    """A name that no database takes, and counts that are none."""
    text = call.fake.reply_text(call.request)
    usage = {"prompt_tokens": 2**70, "completion_tokens": -4, "total_tokens": True}
    model = "x\ud800\0" + "y" * 500
    reply = completion(call.request, assistant(text), usage=usage, model=model)
    return replace(reply, body=json.dumps(reply.body))  # with the surrogate as an escape


def no_usage(call: Call) -> Reply:
    text = call.fake.reply_text(call.request)
    return completion(call.request, assistant(text), usage=None)


def reasoning_beside_text(call: Call) -> Reply:
    """vLLM's and NIM's way to return thoughts."""
    text = call.fake.reply_text(call.request)
    return completion(call.request, assistant(text, reasoning_content="The user asks for a fact."))


def events_of(call: Call) -> list[str]:
    return str(call.normal().body).split("\n\n")


def stream_error(call: Call) -> Reply:
    """An error object in the middle of a stream; openai-python raises APIError for it."""
    error = json.dumps(call.error(500).body)
    return event_stream([*events_of(call)[:2], f"data: {error}"])


def stream_cut(call: Call) -> Reply:
    """A stream that ends with neither a finish reason nor `[DONE]`."""
    return event_stream(events_of(call)[:2])


STREAM_FAULTS: Final = (
    Fault("stream_error", "unavailable", stream_error),
    Fault("stream_cut", "bad_reply", stream_cut),
)


class OpenAICompatibleFake(FakeServer):
    """`/v1/chat/completions` and `/v1/models`, key as a bearer token."""

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *COMMON,
        Fault("content_null", "bad_reply", finished("stop", None)),
        Fault("no_choices", "bad_reply", no_choices),
        Fault("no_usage", None, no_usage, finish="stop"),
        Fault("hostile_facts", None, hostile_facts, finish="stop"),
        Fault("length", None, finished("length", "Paris is the"), finish="length"),
        Fault("refusal", None, finished("stop", None, refusal="I can't."), finish="refusal"),
        Fault("filtered_empty", "content_filter", finished("content_filter", "")),
        Fault(
            "filtered_partial",
            None,
            finished("content_filter", "Paris is"),
            finish="content_filter",
        ),
        Fault("reasoning_beside_text", None, reasoning_beside_text, finish="stop"),
        Fault(
            "reasoning_only",
            "bad_reply",
            finished("length", None, reasoning_content="The user asks for"),
        ),
        Fault("context_length_400", "refused_request", status(400, "maximum context length")),
        Fault("unprocessable_422", "refused_request", status(422)),
    )
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = STREAM_FAULTS

    likely: Callable[[str], Iterable[tuple[str, Mapping[str, float]]]] | None

    def reset(self) -> None:
        """`likely` takes a reply apart into tokens with the probabilities of what else could have
        stood there; None for a host that ignores `logprobs`."""
        super().reset()
        self.likely = None

    def default_models(self) -> tuple[str, ...]:
        return ("gpt-4.1-mini", "llama-3.3-70b-instruct")

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/chat/completions", self.generate, generates=True),
            Route("GET", "/v1/models", self._list_models),
        )

    def key_of(self, request: Recorded) -> str | None:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def error_body(self, status: int, message: str) -> object:
        kind, code = ERROR_CODES.get(status, ("invalid_request_error", None))
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def text_reply(self, request: Recorded, text: str) -> Reply:
        reply = completion(request, assistant(text, refusal=None))
        assert isinstance(reply.body, dict)
        if self.likely and request.sent.get("logprobs"):
            most = int(request.sent.get("top_logprobs", 0))
            content = [_token(token, others, most) for token, others in self.likely(text)]
            reply.body["choices"][0]["logprobs"] = {"content": content, "refusal": None}
        if not request.streams:
            return reply
        return event_stream([*map(data, self.stream_chunks(request, reply.body)), "data: [DONE]"])

    def stream_chunks(self, request: Recorded, body: Json) -> Iterable[Json]:
        """Usage comes in one more chunk, and only to those who ask for it."""
        options = request.sent.get("stream_options") or {}
        if not options.get("include_usage"):
            return chunks(body)
        last = {**body, "object": "chat.completion.chunk", "choices": []}
        return [*({**chunk, "usage": None} for chunk in chunks(body)), last]

    def refusal(self, request: Recorded) -> Reply | None:
        if request.json is None:
            return self.error(request, 400, "We could not parse the JSON body of your request.")
        if found := problem(request.sent):
            return self.error(request, 400, f"{found[0]}: {found[1]}")
        if request.sent["model"] not in self.models:
            return self.error(request, 404, f"The model `{request.sent['model']}` does not exist")
        return None

    def denial(self, request: Recorded) -> Reply:
        missing = self.key_of(request) is None
        return self.error(
            request, 401, "You didn't provide an API key." if missing else "Incorrect API key"
        )

    def _list_models(self, request: Recorded) -> Reply:
        return Reply({"object": "list", "data": [_model(name) for name in self.models]})


def _token(token: str, others: Mapping[str, float], most: int) -> Json:
    """OpenAI's shape; -9999.0 stands for a probability of 0."""
    rows = [_likely(text, p) for text, p in sorted(others.items(), key=lambda pair: -pair[1])]
    return {**_likely(token, others.get(token, 1.0)), "top_logprobs": rows[:most]}


def _likely(text: str, p: float) -> Json:
    return {"token": text, "logprob": math.log(p) if p else -9999.0, "bytes": list(text.encode())}


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "fake"}

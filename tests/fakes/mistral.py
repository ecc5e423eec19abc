"""Mistral's own cloud: the OpenAI shape with differences (wires.md 3d).

Seen in issue threads: 422 with pydantic's list, bare or wrapped (openclaude#739, anon-kode#53);
`stream_options` refused (avante.nvim#2347); a conversation that ends with the assistant refused
(AiNiee#641, new-api#2858); thinking chunks whose `thinking` is itself a list (req_llm#742), in
any order and number (mistralai/client-python#252); capacity errors (continue#6185, litellm#25078).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Final

from .faults import COMMON, Call, Fault, Make
from .openai_compatible import (
    OpenAICompatibleFake,
    assistant,
    chunks,
    completion,
    finished,
    out_of_range,
    problem,
)
from .wire import Json, Recorded, Reply, words

FIELDS: Final = words(
    "model messages temperature top_p max_tokens min_tokens stream stop random_seed"
    " response_format tools tool_choice parallel_tool_calls n safe_prompt presence_penalty"
    " frequency_penalty prediction prompt_mode reasoning_effort metadata prompt_cache_key"
    " guardrails"
)
CAPACITY: Final = "Service tier capacity exceeded for this model."


def error(message: object, kind: str, code: str | None, **extra: object) -> Json:
    return {
        "object": "error",
        "message": message,
        "type": kind,
        "param": None,
        "code": code,
        **extra,
    }


def detail(*where: str, message: str = "Extra inputs are not permitted") -> Json:
    """One entry of a 422's list."""
    kind = "extra_forbidden" if message.startswith("Extra") else "value_error"
    return {"type": kind, "loc": ["body", *where], "msg": message, "input": None}


def text_chunk(text: str) -> Json:
    return {"type": "text", "text": text}


def thinking_chunk(text: str) -> Json:
    return {"type": "thinking", "thinking": [text_chunk(text)]}


def unlike(status: int, body: Json) -> Make:
    """An error in one of Mistral's other shapes; the leak goes into its `message`."""

    def make(call: Call) -> Reply:
        text = f"{body.get('message', '')} {call.leak}"
        return Reply({**body, "message": text}, status=status)

    return make


def validation_bare(call: Call) -> Reply:
    return Reply({"detail": [{**detail("temperature"), "input": call.leak}]}, status=422)


def validation_wrapped(call: Call) -> Reply:
    reply = validation_bare(call)
    return replace(reply, body=error(reply.body, "invalid_request_error", None))


def chunk_list(call: Call) -> Reply:
    first, _, rest = call.fake.reply_text(call.request).partition(" ")
    content = [text_chunk(f"{first} "), text_chunk(rest)]
    return completion(call.request, assistant(content))


def thinking_chunks(call: Call) -> Reply:
    """Thoughts before and, empty, amid the text."""
    first, _, rest = call.fake.reply_text(call.request).partition(" ")
    content = [
        thinking_chunk("The user asks for a fact."),
        text_chunk(f"{first} "),
        {"type": "thinking", "thinking": []},
        text_chunk(rest),
    ]
    return completion(call.request, assistant(content))


def thinking_only(call: Call) -> Reply:
    content = [thinking_chunk("The user asks for")]
    return completion(call.request, assistant(content), "length")


class MistralFake(OpenAICompatibleFake):
    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *COMMON,
        Fault(
            "rate_limited_429_code_1300",
            "rate_limited",
            unlike(429, error("Rate limit exceeded", "rate_limited", "1300", raw_status_code=429)),
        ),
        Fault(
            "rate_limited_429_bare",
            "rate_limited",
            unlike(429, {"message": "Requests rate limit exceeded"}),
        ),
        Fault(
            "capacity_429",
            "rate_limited",
            unlike(429, error(CAPACITY, "invalid_request_error", None)),
        ),
        Fault(
            "capacity_429_code_3505",
            "overloaded",
            unlike(429, error(CAPACITY, "service_tier_capacity_exceeded", "3505")),
        ),
        Fault(
            "capacity_503",
            "overloaded",
            unlike(
                503,
                error(CAPACITY, "service_tier_capacity_exceeded", "3505", raw_status_code=503),
            ),
        ),
        Fault("validation_422_bare", "refused_request", validation_bare),
        Fault("validation_422_wrapped", "refused_request", validation_wrapped),
        Fault("unauthorized_401_message", "auth", unlike(401, {"message": "Unauthorized"})),
        Fault("chunk_list", None, chunk_list, finish="stop"),
        Fault("thinking_chunks", None, thinking_chunks, finish="stop"),
        Fault("thinking_only", "bad_reply", thinking_only),
        Fault("content_null", "bad_reply", finished("stop", None)),
        Fault("finish_error", "unavailable", finished("error", "")),
        Fault("finish_error_partial", "unavailable", finished("error", "Paris is")),
        Fault("length", None, finished("length", "Paris is the"), finish="length"),
        Fault("model_length", None, finished("model_length", "Paris is the"), finish="length"),
    )

    def default_models(self) -> tuple[str, ...]:
        return (
            "mistral-large-latest",
            "mistral-medium-latest",
            "mistral-small-latest",
            "magistral-medium-latest",
            "open-mistral-nemo",
        )

    def error_body(self, status: int, message: str) -> object:
        if status == 401:
            return {"detail": "Unauthorized", "request": message}
        kind = "rate_limited" if status == 429 else "invalid_request_error"
        return error(message, kind, None, raw_status_code=status)

    def no_route(self, request: Recorded) -> Reply:
        text = f"no Route matched with those values {self.leak(request)}"
        return Reply({"message": text}, status=404)

    def stream_chunks(self, request: Recorded, body: Json) -> Iterable[Json]:
        """Usage comes unasked, in the chunk with the finish reason."""
        *first, last = chunks(body)
        return [*first, {**last, "usage": body["usage"]}]

    def refusal(self, request: Recorded) -> Reply | None:
        sent = request.sent
        if details := unwelcome(sent):
            return Reply({"detail": details}, status=422)
        if sent["model"] not in self.models:
            body = error(f"Invalid model: {sent['model']}", "invalid_model", "1500")
            return Reply(body, status=400)
        last = sent["messages"][-1]
        if last["role"] == "assistant" and not last.get("prefix"):
            text = "Expected last role User or Tool (or Assistant with prefix True) for serving"
            body = error(f"{text} but got assistant", "invalid_request_message_order", "3230")
            return Reply(body, status=400)
        return None


def unwelcome(sent: Json) -> list[Json]:
    """The entries of the 422 for this request."""
    found = [detail(*_where(name, sent)) for name in sent if name not in FIELDS]
    objection = problem({k: v for k, v in sent.items() if k in FIELDS}) or out_of_range(sent, 1.5)
    if objection:
        found.append(detail(objection[0], message=objection[1]))
    return found


def _where(name: str, sent: Json) -> tuple[str, ...]:
    """The real one points inside `stream_options`, at `include_usage`."""
    inner = sent[name]
    return (name, next(iter(inner))) if isinstance(inner, dict) and inner else (name,)

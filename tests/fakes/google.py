"""The Gemini API as Gemma is served by it.

Shapes: wires.md 3c; the protocol buffers of `google-ai-generativelanguage` 0.6.15 (the numbers of
the enums); bodies quoted in issue threads: a wrong key is a **400** with reason API_KEY_INVALID
(continuedev/continue#10290), quota errors (continue#12205, #9745). `google-genai` sends plain
JSON; `google-generativeai` over REST adds `?$alt=json;enum-encoding=int` and sends and expects
enums as numbers, and reads streams as one JSON array.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from .faults import COMMON, Call, Fault, Make, status
from .server import FakeServer, Route
from .wire import Json, Recorded, Reply, event_stream, html, pieces, tokens, words

STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
FINISH_REASONS: Final = words(
    "FINISH_REASON_UNSPECIFIED STOP MAX_TOKENS SAFETY RECITATION OTHER LANGUAGE BLOCKLIST"
    " PROHIBITED_CONTENT SPII MALFORMED_FUNCTION_CALL IMAGE_SAFETY"
)
ENUMS: Final = {
    "finishReason": FINISH_REASONS,
    "blockReason": words("UNSPECIFIED SAFETY OTHER BLOCKLIST PROHIBITED_CONTENT IMAGE_SAFETY"),
    "probability": words("UNSPECIFIED NEGLIGIBLE LOW MEDIUM HIGH"),
    "category": words(
        "UNSPECIFIED DEROGATORY TOXICITY VIOLENCE SEXUAL MEDICAL DANGEROUS"
        " HARM_CATEGORY_HARASSMENT HARM_CATEGORY_HATE_SPEECH HARM_CATEGORY_SEXUALLY_EXPLICIT"
        " HARM_CATEGORY_DANGEROUS_CONTENT HARM_CATEGORY_CIVIC_INTEGRITY"
    ),
}
FIELDS: Final = words(
    "model contents systemInstruction generationConfig safetySettings tools toolConfig"
    " cachedContent labels"
)
GENERATION_FIELDS: Final = words(
    "temperature topP topK maxOutputTokens stopSequences candidateCount seed responseMimeType"
    " responseSchema responseJsonSchema presencePenalty frequencyPenalty responseLogprobs"
    " logprobs thinkingConfig responseModalities"
)
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
UNSEEN_BY_GOOGLE_GENERATIVEAI: Final = ("thought_parts", "thought_only")
"""Faults that package cannot pass: its `Part` has no `thought`, so thoughts look like text."""

MODEL: Final = r"/v1beta/models/(?P<model>[^/:]+)"


def camel(name: str) -> str:
    """JSON for protocol buffers takes either spelling of a field."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def camelled(sent: Json) -> Json:
    return {camel(name): value for name, value in sent.items()}


def candidate(parts: list[Json] | None, reason: str = "STOP") -> Json:
    """One candidate; without `parts` it has no content at all."""
    content = {} if parts is None else {"content": {"parts": parts, "role": "model"}}
    return {**content, "finishReason": reason, "index": 0}


def content_reply(request: Recorded, *candidates: Json, **extra: object) -> Reply:
    """A GenerateContentResponse, in the encoding the request asks for."""
    parts = [p for c in candidates for p in c.get("content", {}).get("parts", ())]
    prompt = tokens(json.dumps(request.sent.get("contents")))
    seen = sum(tokens(part["text"]) for part in parts if not part.get("thought"))
    thought = sum(tokens(part["text"]) for part in parts if part.get("thought"))
    body: Json = {
        **({"candidates": list(candidates)} if candidates else {}),
        **extra,
        "usageMetadata": {
            "promptTokenCount": prompt,
            **({"candidatesTokenCount": seen} if seen else {}),
            **({"thoughtsTokenCount": thought} if thought else {}),
            "totalTokenCount": prompt + seen + thought,
        },
        "modelVersion": request.params.get("model"),
        "responseId": "x7gqaL3dE9eW1MkP",
    }
    return encoded(request, body)


def encoded(request: Recorded, body: Json) -> Reply:
    """One object, or for `:streamGenerateContent` events (alt=sse) or a JSON array of chunks."""
    if "enum-encoding=int" in request.query.get("$alt", ""):
        body = numbered(body)
    if not request.path.endswith(":streamGenerateContent"):
        return Reply(body)
    chunks = stream_chunks(body)
    if request.query.get("alt") == "sse":
        return event_stream(f"data: {json.dumps(chunk)}" for chunk in chunks)
    return Reply(chunks)


def numbered(value: Any, name: str = "") -> Any:
    """`value` with the names of enum members replaced by their numbers."""
    match value:
        case dict():
            return {key: numbered(item, key) for key, item in value.items()}
        case list():
            return [numbered(item, name) for item in value]
        case str() if name in ENUMS:
            return ENUMS[name].index(value)
    return value


def stream_chunks(body: Json) -> list[Json]:
    """The chunks of a stream: a few words each, the last one with the finish reason."""
    if "content" not in body.get("candidates", [{}])[0]:
        return [body]
    whole = body["candidates"][0]
    texts = [
        {**part, "text": piece}
        for part in whole["content"]["parts"]
        for piece in pieces(part["text"])
    ]
    rest = {name: value for name, value in whole.items() if name != "finishReason"}
    last = len(texts) - 1
    return [
        {
            **body,
            "candidates": [
                {**(whole if i == last else rest), "content": {"parts": [text], "role": "model"}}
            ],
        }
        for i, text in enumerate(texts)
    ]


def problem(sent: Json, model: str) -> str | None:
    """What the real API objects to in a request to generateContent, in its words."""
    for name in sent:
        if name not in FIELDS:
            return f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    config = camelled(sent.get("generationConfig") or {})
    for name in config:
        if name not in GENERATION_FIELDS:
            return (
                f'Invalid JSON payload received. Unknown name "{name}" at'
                " 'generation_config': Cannot find field."
            )
    return unwelcome_contents(sent.get("contents")) or unwelcome_to_gemma_3(sent, config, model)


def unwelcome_contents(contents: object) -> str | None:
    if not isinstance(contents, list) or not contents:
        return "* GenerateContentRequest.contents: contents is not specified\n"
    for index, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model"):
            return "Please use a valid role: user, model."
        if not content.get("parts"):
            where = f"GenerateContentRequest.contents[{index}].parts"
            return f"* {where}: contents.parts must not be empty.\n"
    return None


def unwelcome_to_gemma_3(sent: Json, config: Json, model: str) -> str | None:
    if not model.startswith("gemma-3"):
        return None
    if "systemInstruction" in sent:  # even when empty: rig#788, cherry-studio#3242
        return f"Developer instruction is not enabled for models/{model}"
    if config.get("responseMimeType") == "application/json":
        return f"JSON mode is not enabled for models/{model}"
    if sent.get("tools"):
        return f"Function calling is not enabled for models/{model}"
    return None


def ended_by(reason: str, text: str | None = None) -> Make:
    """A candidate that ended for another reason, with `text` or with no content."""

    def make(call: Call) -> Reply:
        parts = None if text is None else [{"text": text}]
        rating = {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}
        rated = {"safetyRatings": [rating]} if reason == "SAFETY" else {}
        return content_reply(call.request, {**candidate(parts, reason), **rated})

    return make


def prompt_blocked(call: Call) -> Reply:
    """No candidates at all (vercel/ai#4235)."""
    return content_reply(call.request, promptFeedback={"blockReason": "PROHIBITED_CONTENT"})


def no_candidates(call: Call) -> Reply:
    return content_reply(call.request)


def no_parts(call: Call) -> Reply:
    """STOP with `"content": {"role": "model"}`: Gemini's usual way to say nothing."""
    return content_reply(
        call.request, {"content": {"role": "model"}, "finishReason": "STOP", "index": 0}
    )


def thought_parts(call: Call) -> Reply:
    """Gemma 4 sends its thoughts, asked or not (google-gemini/cookbook#1198)."""
    thought = {"text": "The user asks for a fact.", "thought": True}
    text = {"text": call.fake.reply_text(call.request)}
    return content_reply(call.request, candidate([thought, text]))


def thought_only(call: Call) -> Reply:
    thought = {"text": "The user asks for", "thought": True}
    return content_reply(call.request, candidate([thought], "MAX_TOKENS"))


def developer_instruction(call: Call) -> Reply:
    model = call.request.params.get("model")
    return call.error(400, f"Developer instruction is not enabled for models/{model}")


def quota(delay: str) -> Make:
    """429 with the three details of the free tier, the wait in RetryInfo and no Retry-After."""

    def make(call: Call) -> Reply:
        metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
        reply = call.error(
            429,
            "You exceeded your current quota, please check your plan and billing details."
            f"\n* Quota exceeded for metric: {metric}, limit: 30\nPlease retry in {delay}.",
        )
        violation = {
            "quotaMetric": metric,
            "quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
            "quotaDimensions": {"location": "global", "model": call.request.params.get("model")},
            "quotaValue": "30",
        }
        link = {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
        return with_details(
            reply,
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [link]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
        )

    return make


def with_details(reply: Reply, *details: Json) -> Reply:
    assert isinstance(reply.body, dict)
    body = {"error": {**reply.body["error"], "details": list(details)}}
    return Reply(body, status=reply.status, headers=reply.headers)


def api_key_invalid(call: Call) -> Reply:
    """A right key, refused as a wrong one is: a revoked key."""
    return call.fake.denial(call.request)


def stream_cut(call: Call) -> Reply:
    """A stream that ends before its finish reason. No SDK notices."""
    reply = call.normal()
    if isinstance(reply.body, list):
        return Reply(reply.body[:1])
    return event_stream(str(reply.body).split("\n\n")[:1])


def stream_error(call: Call) -> Reply:
    """An error object in the middle of an event stream."""
    error = json.dumps(call.error(503).body)
    return event_stream([*str(call.normal().body).split("\n\n")[:1], f"data: {error}"])


class GoogleFake(FakeServer):
    """`/v1beta/models…`; key in `x-goog-api-key`, or `?key=` as the real one also allows."""

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *COMMON,
        Fault("api_key_invalid_400", "auth", api_key_invalid, everywhere=True),
        Fault("developer_instruction_400", "refused_request", developer_instruction),
        Fault("location_400", "refused_request", status(400, "User location is not supported.")),
        Fault("quota_429_retry_55s", "rate_limited", quota("55s"), retry_after_s=55),
        Fault("quota_429_retry_1s", "rate_limited", quota("1s"), retry_after_s=1),
        Fault("safety_no_content", "content_filter", ended_by("SAFETY")),
        Fault("safety_partial", None, ended_by("SAFETY", "Paris is"), finish="content_filter"),
        Fault("recitation", "content_filter", ended_by("RECITATION")),
        Fault("prohibited_content", "content_filter", ended_by("PROHIBITED_CONTENT")),
        Fault("prompt_blocked", "content_filter", prompt_blocked),
        Fault("max_tokens", None, ended_by("MAX_TOKENS", "Paris is the"), finish="length"),
        Fault("thought_parts", None, thought_parts, finish="stop"),
        Fault("thought_only", "bad_reply", thought_only),
        Fault("no_candidates", "bad_reply", no_candidates),
        Fault("no_parts", "bad_reply", no_parts),
    )
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = (
        Fault("stream_cut", "bad_reply", stream_cut),
        Fault("stream_error", "overloaded", stream_error),
    )

    def default_models(self) -> tuple[str, ...]:
        return (
            "gemma-3-27b-it",
            "gemma-3-12b-it",
            "gemma-3-4b-it",
            "gemma-3-1b-it",
            "gemma-3n-e4b-it",
            "gemma-4-31b-it",
            "gemma-4-26b-a4b-it",
            "gemini-2.5-flash",
        )

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", f"{MODEL}:generateContent", self.generate, generates=True),
            Route("POST", f"{MODEL}:streamGenerateContent", self.generate, generates=True),
            Route("GET", "/v1beta/models", self._list_models),
            Route("GET", MODEL, self._get_model),
        )

    def key_of(self, request: Recorded) -> str | None:
        return request.headers.get("x-goog-api-key") or request.query.get("key")

    def error_body(self, status: int, message: str) -> object:
        name = STATUSES.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": message, "status": name}}

    def text_reply(self, request: Recorded, text: str) -> Reply:
        return content_reply(request, candidate([{"text": text}]))

    def denial(self, request: Recorded) -> Reply:
        """Not a 401: a missing key is a 403, a wrong one a 400."""
        if self.key_of(request) is None:
            return self.error(
                request,
                403,
                "Method doesn't allow unregistered callers (callers without"
                " established identity). Please use API Key or other form of API consumer identity"
                " to call this API.",
            )
        return self._bad_key(request)

    def _bad_key(self, request: Recorded) -> Reply:
        reply = self.error(request, 400, "API key not valid. Please pass a valid API key.")
        metadata = {"service": "generativelanguage.googleapis.com"}
        return with_details(
            reply,
            {
                "@type": ERROR_INFO,
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": metadata,
            },
        )

    def no_route(self, request: Recorded) -> Reply:
        return html(404, "Not Found", f"The requested URL was not found. {self.leak(request)}")

    def refusal(self, request: Recorded) -> Reply | None:
        model = request.params["model"]
        if model not in self.models:
            return self._no_model(request)
        if request.json is None:
            return self.error(request, 400, "Invalid JSON payload received.")
        complaint = problem(camelled(request.sent), model)
        return self.error(request, 400, complaint) if complaint else None

    def _no_model(self, request: Recorded) -> Reply:
        return self.error(
            request,
            404,
            f"models/{request.params['model']} is not found for API version v1beta, or is not"
            " supported for generateContent. Call ListModels to see the list of available models"
            " and their supported methods.",
        )

    def _list_models(self, request: Recorded) -> Reply:
        return Reply({"models": [_model(name) for name in self.models]})

    def _get_model(self, request: Recorded) -> Reply:
        name = request.params["model"]
        return Reply(_model(name)) if name in self.models else self._no_model(request)


def _model(name: str) -> Json:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": 131_072,
        "outputTokenLimit": 8_192,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
    }

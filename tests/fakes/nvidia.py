"""NVIDIA's reward NIM: a chat completion whose "message" is a score.

Shapes: wires.md 3a: the hosted reply of Nemotron-4-340B-Reward (camel's example: `message` is a
list, `model` is null, the scores stand in `logprobs`), the self-hosted NIM's (docs.nvidia.com), and
the scalar of Llama-3.1-Nemotron-70B-Reward. Errors: `{"status", "title", "detail"}`, with 404 for
models an account may not use (free-claude-code#1021), 410 for retired ones (freellmapi#634) and
400 for a DEGRADED function (9router#2527). The bodies for wrong roles and for too many tokens are
not verified: vLLM's wording is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import ClassVar, Final, Literal

from .faults import COMMON, Call, Fault, Make, status
from .openai_compatible import CREATED, OpenAICompatibleFake
from .wire import Json, Recorded, Reply, tokens

Shape = Literal["hosted", "self_hosted", "scalar"]
Scores = Mapping[str, float]

CONTEXT_TOKENS: Final = 4096
DEFAULT_SCORES: Final[Scores] = {
    "helpfulness": 1.6171875,
    "correctness": 1.6484375,
    "coherence": 3.3125,
    "complexity": 0.546875,
    "verbosity": 0.515625,
}
DEFAULT_REWARD: Final = -19.875
FUNCTION: Final = "Function '23d4f03a-b8a6-4adb-a183-7daa083a09cc'"


def written(scores: Scores) -> str:
    return ",".join(f"{name}:{score}" for name, score in scores.items())


def logprobs(scores: Scores) -> Json:
    """NVIDIA puts the scores where log-probabilities belong."""
    content: list[Json] = [
        {"token": name, "bytes": None, "logprob": score, "top_logprobs": []}
        for name, score in scores.items()
    ]
    rest: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    return {"content": content, **rest}


def scored(request: Recorded, content: str | None, scores: Scores | None) -> Reply:
    """The hosted shape: the scores in `content`, in `logprobs`, or in both."""
    choice = {
        "finish_reason": "length",
        "index": 0,
        "logprobs": None if scores is None else logprobs(scores),
        "message": [{"content": content, "role": "assistant"}],
    }
    return _completion(request, choice, created=None, model=None, object=None)


def told(request: Recorded, content: str) -> Reply:
    """The self-hosted and the scalar shape: all in the content of an ordinary message."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"finish_reason": "stop", "index": 0, "logprobs": None, "message": message}
    kind = "chat.completion"
    return _completion(
        request, choice, created=CREATED, model=request.sent.get("model"), object=kind
    )


def _completion(request: Recorded, choice: Json, **head: object) -> Reply:
    used = prompt_tokens(request.sent)
    usage = {"completion_tokens": 1, "prompt_tokens": used, "total_tokens": used + 1}
    identity = "4668ad22-1dec-4df4-ba92-97ffa5fbd16d"
    return Reply({"id": identity, "choices": [choice], **head, "usage": usage})


def prompt_tokens(sent: Json) -> int:
    return sum(tokens(turn["content"]) for turn in sent.get("messages", ()))


def problem(sent: Json) -> str | None:
    """Only the fields and roles of a scoring request are taken (camel PR#659)."""
    for name in sent:
        if name not in ("model", "messages", "stream"):
            return f"{name}: Extra inputs are not permitted"
    messages = sent.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: Field required"
    for index, turn in enumerate(messages):
        if turn.get("role") != ("user", "assistant")[index % 2]:
            return "Conversation roles must alternate user/assistant/user/assistant/..."
        if not isinstance(turn.get("content"), str):
            return f"messages[{index}].content: Input should be a valid string"
    if messages[-1]["role"] != "assistant":
        return "The last message must have role 'assistant'"
    return None


def scores_reply(changed: Scores, drop: str = "") -> Make:
    """The default scores in the hosted shape, some of them changed and one dropped."""
    scores = {k: v for k, v in {**DEFAULT_SCORES, **changed}.items() if k != drop}
    return lambda call: scored(call.request, written(scores), scores)


def content_only(content: str | None) -> Make:
    """Null `logprobs`, and this content in the list-shaped message."""
    return lambda call: scored(call.request, content, None)


def logprobs_only(call: Call) -> Reply:
    return scored(call.request, None, DEFAULT_SCORES)


def message_content(content: str) -> Make:
    """An object-shaped message with this content."""
    return lambda call: told(call.request, content)


def rate_limited_bare(call: Call) -> Reply:
    """To the letter: no detail, no Retry-After, and hence no canary."""
    return Reply({"status": 429, "title": "Too Many Requests"}, status=429)


def too_long(code: int) -> Make:
    return status(code, f"This model's maximum context length is {CONTEXT_TOKENS} tokens.")


class NvidiaFake(OpenAICompatibleFake):
    """Scores the last message of `/v1/chat/completions`.

    `scores` (or `reward`, for the scalar shape) may be a function of the reply to be scored, so
    that a test decides which reply wins.
    """

    reply_headers: ClassVar[Mapping[str, str]] = {"Nvcf-Status": "fulfilled"}

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *COMMON,
        Fault("attribute_missing", "bad_reply", scores_reply({}, drop="complexity")),
        Fault("nan_score", "bad_reply", scores_reply({"correctness": float("nan")})),
        Fault("nan_content", "bad_reply", message_content("helpfulness:nan,correctness:1.5")),
        Fault("nan_scalar", "bad_reply", message_content("reward:nan")),
        Fault("score_out_of_range", None, scores_reply({"helpfulness": 4.3, "verbosity": -0.2})),
        Fault("unparsable", "bad_reply", content_only("I would rate this reply 4 out of 5.")),
        Fault("unparsable_scalar", "bad_reply", message_content("reward:good")),
        Fault("content_only", None, content_only(written(DEFAULT_SCORES))),
        Fault("logprobs_only", None, logprobs_only),
        Fault("content_null", "bad_reply", content_only(None)),
        Fault("too_long_400", "refused_request", too_long(400)),
        Fault("too_long_422", "refused_request", too_long(422)),
        Fault("rate_limited_429_bare", "rate_limited", rate_limited_bare),
        Fault(
            "not_entitled_404", "refused_request", status(404, f"{FUNCTION}: Not found for account")
        ),
        Fault("retired_410", "refused_request", status(410, "has reached its end of life")),
        Fault(
            "degraded_400",
            "refused_request",
            status(400, f"{FUNCTION}: DEGRADED function cannot be invoked"),
        ),
    )
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = ()

    shape: Shape
    scores: Scores | Callable[[str], Scores]
    reward: float | Callable[[str], float]

    def __init__(
        self,
        api_key: str | None = "nvapi-test-key-0123456789",
        delay_s: float = 0.0,
        shape: Shape = "hosted",
    ) -> None:
        super().__init__(api_key, delay_s)
        self.shape = shape

    def reset(self) -> None:
        super().reset()
        self.scores = DEFAULT_SCORES
        self.reward = DEFAULT_REWARD

    def default_models(self) -> tuple[str, ...]:
        return (
            "nvidia/nemotron-4-340b-reward",
            "nvidia/llama-3.1-nemotron-70b-reward",
            "nvidia/llama-3.3-nemotron-70b-reward",
        )

    def error_body(self, status: int, message: str) -> object:
        title = HTTPStatus(status).phrase
        return {"status": status, "title": title, "detail": message}

    def denial(self, request: Recorded) -> Reply:
        return self.error(request, 401, "Authentication failed")

    def no_route(self, request: Recorded) -> Reply:
        text = f"404 page not found {self.leak(request)}"
        return Reply(text, status=404, content_type="text/plain")

    def refusal(self, request: Recorded) -> Reply | None:
        if complaint := problem(request.sent):
            return self.error(request, 422, complaint)
        if request.sent.get("model") not in self.models:
            return self.error(request, 404, f"{FUNCTION}: Not found for account")
        if (used := prompt_tokens(request.sent)) > CONTEXT_TOKENS:
            return self.error(
                request,
                400,
                f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your"
                f" messages resulted in {used} tokens.",
            )
        return None

    def generate(self, request: Recorded) -> Reply:
        reply = request.sent["messages"][-1]["content"]
        if self.shape == "scalar":
            reward = self.reward(reply) if callable(self.reward) else self.reward
            return told(request, f"reward:{reward}")
        scores = self.scores(reply) if callable(self.scores) else self.scores
        if self.shape == "self_hosted":
            return told(request, written(scores))
        return scored(request, written(scores), scores)

    def text_reply(self, request: Recorded, text: str) -> Reply:
        """A reply in the right shape with any text where the scores belong."""
        return scored(request, text, None) if self.shape == "hosted" else told(request, text)

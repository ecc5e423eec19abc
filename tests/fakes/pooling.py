"""Servers of reward models: vLLM's pooling routes, Text Embeddings Inference and SGLang.

Shapes: vLLM's `entrypoints/pooling/*/protocol.py` (classify, pooling, score), TEI's
`router/src/http/types.rs` and `lib.rs`, SGLang's page "Native APIs". Like the real ones, vLLM and
TEI squash the outputs (softmax, or sigmoid for one) unless they are asked not to, TEI sorts by
score, and a wrong pooler is answered with 200 and hidden states (vllm#11459, #30312).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from app.domain import ATTRIBUTES

from .faults import COMMON, Call, Fault, Make, status
from .openai_compatible import CREATED, OpenAICompatibleFake
from .server import Route
from .wire import Json, Recorded, Reply, tokens

HIDDEN_SIZE: Final = 4096
CONTEXT_TOKENS: Final = 4096
DEFAULT_OUTPUTS: Final = (3.1, 3.2, 3.7, 1.4, 1.2)


def squashed(values: Sequence[float]) -> list[float]:
    """Softmax, or sigmoid for a single output: what these servers do by default."""
    if len(values) == 1:
        return [1 / (1 + math.exp(-values[0]))]
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def hidden_states(call: Call) -> Reply:
    return _fake(call).with_values(call.request, [0.01 * n for n in range(HIDDEN_SIZE)])


def a_row_per_token(call: Call) -> Reply:
    return _fake(call).with_values(call.request, [[0.5, 0.1]] * 12)


def two_labels(call: Call) -> Reply:
    return _fake(call).with_values(call.request, [0.9, -0.3])


def probabilities(call: Call) -> Reply:
    fake = _fake(call)
    return fake.with_values(call.request, squashed(fake.outputs_for(call.request)))


def no_number(value: object) -> Make:
    """One output is not a number: NaN, or the null that Rust's JSON makes of it."""

    def make(call: Call) -> Reply:
        fake = _fake(call)
        return fake.with_values(call.request, [value, *fake.outputs_for(call.request)[1:]])

    return make


def no_rows(call: Call) -> Reply:
    return _fake(call).with_values(call.request, None)


def _fake(call: Call) -> PoolingFake:
    assert isinstance(call.fake, PoolingFake)
    return call.fake


POOLING_FAULTS: Final = (
    *COMMON,
    Fault("hidden_states", "bad_reply", hidden_states),
    Fault("two_labels", "bad_reply", two_labels),
    Fault("nan", "bad_reply", no_number(math.nan)),
    Fault("null", "bad_reply", no_number(None)),
    Fault("no_rows", "bad_reply", no_rows),
)


class PoolingFake(OpenAICompatibleFake):
    """What the three have in common: `outputs` for a request, under the model's `labels`."""

    FAULTS: ClassVar[tuple[Fault, ...]] = POOLING_FAULTS
    STREAM_FAULTS: ClassVar[tuple[Fault, ...]] = ()

    outputs: Sequence[float] | Callable[[Recorded], Sequence[float]]
    labels: Sequence[str]

    def reset(self) -> None:
        super().reset()
        self.outputs = DEFAULT_OUTPUTS
        self.labels = ATTRIBUTES

    def default_models(self) -> tuple[str, ...]:
        return ("Skywork/Skywork-Reward-V2-Qwen3-0.6B",)

    def outputs_for(self, request: Recorded) -> Sequence[float]:
        return self.outputs(request) if callable(self.outputs) else self.outputs

    def generate(self, request: Recorded) -> Reply:
        values = self.outputs_for(request)
        raw = self.wants_raw(request.sent)
        return self.with_values(request, list(values) if raw else squashed(values))

    def text_reply(self, request: Recorded, text: str) -> Reply:
        return self.with_values(request, [text])

    def wants_raw(self, sent: Json) -> bool:
        return True

    @abstractmethod
    def with_values(self, request: Recorded, values: Sequence[object] | None) -> Reply:
        """A reply in this server's shape with anything where the outputs belong; None: without."""


class VllmFake(PoolingFake):
    """vLLM with `--runner pooling`: `/classify`, `/pooling`, `/score`."""

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *POOLING_FAULTS,
        Fault("a_row_per_token", "bad_reply", a_row_per_token),
        Fault("probabilities", "bad_reply", probabilities),
        Fault("too_long_400", "refused_request", status(400, "maximum context length")),
        Fault(
            "no_such_route_404",
            "refused_request",
            lambda call: Reply({"detail": f"Not Found {call.leak}"}, status=404),
        ),
    )

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/(classify|pooling|score)", self.generate, generates=True),
            *super().routes(),
        )

    def wants_raw(self, sent: Json) -> bool:
        return sent.get("use_activation") is False

    def refusal(self, request: Recorded) -> Reply | None:
        sent = request.sent
        text = ("text_1", "text_2") if request.path == "/score" else ("messages",)
        if "input" not in sent and not all(name in sent for name in text):
            return self.error(request, 400, f"{text}: Field required")
        if sent.get("model") not in self.models:
            return self.error(request, 404, f"The model `{sent.get('model')}` does not exist.")
        return None

    def with_values(self, request: Recorded, values: Sequence[object] | None) -> Reply:
        row: Json = {"index": 0}
        if values is not None and request.path == "/classify":
            row |= {"label": self._highest(values), "probs": values, "num_classes": len(values)}
        elif values is not None and request.path == "/pooling":
            row |= {"object": "pooling", "data": values}
        elif values is not None:
            row |= {"object": "score", "score": values[0]}
        used = tokens(request.body.decode())
        usage = {"prompt_tokens": used, "total_tokens": used, "completion_tokens": 0}
        head = {"id": "classify-9bf17f2847b046c7", "object": "list", "created": CREATED}
        return Reply({**head, "model": self.models[0], "data": [row], "usage": usage})

    def _highest(self, values: Sequence[object]) -> str | None:
        numbers = [value if isinstance(value, float) else -math.inf for value in values]
        highest = numbers.index(max(numbers))
        return self.labels[highest] if highest < len(self.labels) else None


class TeiFake(PoolingFake):
    """Text Embeddings Inference with a classifier: `/predict` and `/info`."""

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *POOLING_FAULTS,
        Fault("backend_424", "unavailable", status(424)),
        Fault("too_long_413", "refused_request", status(413, "inputs must have less tokens")),
        Fault(
            "other_labels",
            "bad_reply",
            lambda call: Reply([{"score": 1.0, "label": f"LABEL_{n}"} for n in range(5)]),
        ),
        Fault("embeddings", "bad_reply", lambda _: Reply([[0.1] * HIDDEN_SIZE])),
    )
    TYPES: ClassVar[Mapping[int, str]] = {
        413: "Validation",
        422: "Tokenizer",
        424: "Backend",
        429: "Overloaded",
        503: "Unhealthy",
    }

    kind: str

    def reset(self) -> None:
        super().reset()
        self.kind = "classifier"

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/predict", self.generate, generates=True),
            Route("GET", "/info", self._info),
        )

    def wants_raw(self, sent: Json) -> bool:
        return sent.get("raw_scores") is True

    def refusal(self, request: Recorded) -> Reply | None:
        match request.sent.get("inputs"):
            case str() | [str()] | [str(), str()]:
                return None
        return self.error(request, 422, "a string, a pair of strings or a batch")

    def error_body(self, status: int, message: str) -> object:
        return {"error": message, "error_type": self.TYPES.get(status, "Backend")}

    def with_values(self, request: Recorded, values: Sequence[object] | None) -> Reply:
        names = [*self.labels, *(f"LABEL_{n}" for n in range(len(self.labels), HIDDEN_SIZE))]
        rows = [{"score": v, "label": names[n]} for n, v in enumerate(values or ())]
        numbers = all(isinstance(row["score"], int | float) for row in rows)
        return Reply(sorted(rows, key=lambda row: -float(str(row["score"]))) if numbers else rows)

    def _info(self, request: Recorded) -> Reply:
        labels = {str(n): label for n, label in enumerate(self.labels)}
        ids = {label: n for n, label in enumerate(self.labels)}
        described = {"id2label": labels, "label2id": ids}
        return Reply(
            {
                "model_id": self.models[0],
                "model_dtype": "float16",
                "model_type": {
                    self.kind: {"pooling": "cls"} if self.kind == "embedding" else described
                },
                "max_input_length": CONTEXT_TOKENS,
                "auto_truncate": False,
                "version": "1.9.0",
            }
        )


class SglangFake(PoolingFake):
    """SGLang with `--is-embedding`: its own `/classify`, whose outputs are raw."""

    FAULTS: ClassVar[tuple[Fault, ...]] = (
        *POOLING_FAULTS,
        Fault("too_long_400", "refused_request", status(400, "longer than the context length")),
    )

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", "/classify", self.generate, generates=True), *super().routes())

    def refusal(self, request: Recorded) -> Reply | None:
        given = [name for name in ("text", "input_ids") if request.sent.get(name)]
        if len(given) != 1:
            return self.error(request, 400, "Either text or input_ids should be provided.")
        return None

    def with_values(self, request: Recorded, values: Sequence[object] | None) -> Reply:
        used = len(request.sent.get("input_ids", ()))
        about = {"id": "e3f2", "finish_reason": None, "prompt_tokens": used, "e2e_latency": 0.02}
        return Reply({"embedding": values, "meta_info": about})

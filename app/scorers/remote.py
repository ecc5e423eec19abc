"""Open reward models behind vLLM, Text Embeddings Inference (TEI) or SGLang, over HTTP.

    server   path                   sent                          scores lie in
    vllm     /classify              messages, or tokens           data[0].probs
    vllm     /pooling               messages, or tokens           data[0].data
    vllm     /score                 the pair prompt, reply        data[0].score
    tei      /predict               the pair prompt, reply        [].score, by [].label
    sglang   /classify              tokens                        embedding

Raw outputs are asked for: by default these servers squash them (vLLM: softmax or sigmoid). vLLM
applies the model's chat template by itself; SGLang does not, so its tokens are made here.

The wrong-pooler trap: a server started with another pooler answers 200 with hidden states, with a
row for each token, or with probabilities (vllm#11459, #30312). Such a reply is a failure that says
what to change on the server, never a score.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from app.domain import ATTRIBUTES, Completion, Prompt, Score, ScorerInfo, Usage
from app.errors import ConfigurationError, UpstreamError, boundary
from app.model_folders import TOKENIZER_FILES, fetch, require
from app.providers.http import (
    Http,
    Reply,
    bearer_headers,
    counted,
    get_json,
    post_json,
    response_error,
)
from app.scorers.heads import ARMORM, SCALAR, Head, attribute_head
from app.scorers.reading import Reader, Reading, messages, open_reader, plain

NAME = "remote"
Server = Literal["vllm", "tei", "sglang"]
Route = Literal["classify", "pooling", "score"]

REMEDIES: Mapping[Server, str] = {
    "vllm": "start vLLM with --runner pooling --convert classify",
    "tei": "serve a sequence classifier with TEI",
    "sglang": "start SGLang with --is-embedding on a sequence classifier",
}
# No head has as many outputs; a vector this long is a hidden state.
MANY = 64
# Probabilities in half precision sum to one within this.
ROUNDING = 1e-3


@dataclass(frozen=True)
class RemoteScorer:
    """A reward model at `base_url`, without a version. `reader` None: the server tokenizes."""

    server: Server
    route: Route
    base_url: str
    model: str
    head: Head
    resolution: float
    api_key: str | None
    reader: Reader | None
    http: Http

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(NAME, self.model, self.head.scale, self.resolution)

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        started = time.perf_counter()
        reading = None
        if self.reader is not None:
            with boundary(NAME):
                reading = await asyncio.to_thread(self.reader.read, prompt, completion)
        path, body = self._request(prompt, completion, reading)
        reply = await post_json(
            self.http,
            NAME,
            f"{self.base_url}{path}",
            body,
            headers=bearer_headers(self.api_key),
            error_of=self._error,
        )
        outcome = self.head.outcome(NAME, self._checked(self._outputs(reply)))
        note, took = reading.note if reading else None, time.perf_counter() - started
        return Score(outcome, note, took, _usage(reply))

    async def ping(self) -> None:
        """The server's description of its model costs nothing."""
        headers = bearer_headers(self.api_key)
        if self.server == "tei":
            info = await get_json(self.http, NAME, f"{self.base_url}/info", headers=headers)
            match info:
                case {"model_type": {"classifier": _} | {"reranker": _}}:
                    return
            raise UpstreamError("refused_request", f"{NAME}: no classifier; {REMEDIES['tei']}")
        reply = await get_json(self.http, NAME, f"{self.base_url}/v1/models", headers=headers)
        match reply:
            case {"data": [*rows]} if any(_is_model(row, self.model) for row in rows):
                return
        raise UpstreamError("refused_request", f"{NAME}: there is no model {self.model}")

    def _request(
        self, prompt: Prompt, completion: Completion, reading: Reading | None
    ) -> tuple[str, Mapping[str, object]]:
        text = completion.text
        if self.server == "tei":
            pair = [plain(prompt), text]
            return "/predict", {"inputs": pair, "raw_scores": True, "truncate": False}
        if self.server == "sglang":
            assert reading is not None
            return "/classify", {"model": self.model, "input_ids": reading.ids}
        body: dict[str, object] = {"model": self.model, "use_activation": False}
        if self.route == "score":
            return "/score", {**body, "text_1": plain(prompt), "text_2": text}
        if self.route == "pooling":
            body["task"] = "classify"
        if reading is not None:
            return f"/{self.route}", {**body, "input": reading.ids}
        return f"/{self.route}", {**body, "messages": messages(prompt, text, takes_system=True)}

    def _outputs(self, reply: object) -> Sequence[object]:
        """The numbers where this server puts them, in the order of its model's labels."""
        match self.server, self.route, reply:
            case "vllm", "classify", {"data": [{"probs": [*values], "label": label}]}:
                self._check_order(values, label)
                return values
            case "vllm", "pooling", {"data": [{"data": [*values]}]}:
                return values
            case "vllm", "score", {"data": [{"score": value}]}:
                return [value]
            case "sglang", _, {"embedding": [*values]} | [{"embedding": [*values]}]:
                return values
            case "tei", _, [*rows]:
                return self._by_label(rows)
        raise UpstreamError("bad_reply", f"{NAME}: the reply has no scores")

    def _by_label(self, rows: Sequence[object]) -> Sequence[object]:
        """TEI sorts by score, so outputs are told by their names; a lone one needs none."""
        scores: dict[str, object] = {}
        for row in rows:
            match row:
                case {"label": str(label), "score": score}:
                    scores[label] = score
                case _:
                    raise UpstreamError("bad_reply", f"{NAME}: the reply has no scores")
        if len(rows) == 1 or len(rows) != self.head.outputs:
            return list(scores.values())
        if scores.keys() != set(ATTRIBUTES):
            raise UpstreamError("bad_reply", f"{NAME}: the outputs are not the five attributes")
        order = sorted(ATTRIBUTES, key=lambda name: self.head.columns[ATTRIBUTES.index(name)])
        return [scores[name] for name in order]

    def _check_order(self, values: Sequence[object], label: object) -> None:
        """vLLM names the highest output: a check on the order of the attributes."""
        if label not in ATTRIBUTES or len(values) != self.head.outputs or not self.head.columns:
            return
        numbers = [value for value in values if isinstance(value, int | float)]
        highest = self.head.columns[ATTRIBUTES.index(str(label))]
        if len(numbers) == len(values) and numbers[highest] < max(numbers):
            raise UpstreamError(
                "bad_reply",
                f"{NAME}: the server's outputs are in another order: set labels to its id2label",
            )

    def _checked(self, values: Sequence[object]) -> list[float]:
        """The outputs as numbers, if they can be what this head gives."""
        remedy = REMEDIES[self.server]
        if any(isinstance(value, list) for value in values):
            raise UpstreamError(
                "bad_reply",
                f"{NAME}: {len(values):,} rows, one for each token, where one belongs: {remedy}"
                " and the pooling type LAST",
            )
        numbers = [
            float(value)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if len(numbers) < len(values):
            raise UpstreamError("bad_reply", f"{NAME}: a score is not a number")
        if len(numbers) != self.head.outputs:
            what = "hidden states" if len(numbers) > MANY else "outputs"
            raise UpstreamError(
                "bad_reply",
                f"{NAME}: {len(numbers):,} {what} where {self.head.outputs} belong: {remedy},"
                " or set head to what its model gives",
            )
        if len(numbers) > 1 and min(numbers) >= 0 and abs(sum(numbers) - 1) < ROUNDING:
            raise UpstreamError(
                "bad_reply",
                f"{NAME}: probabilities instead of scores: switch off the server's softmax",
            )
        return numbers

    def _error(self, name: str, reply: Reply) -> UpstreamError:
        error = response_error(name, reply)
        if reply.status == HTTPStatus.NOT_FOUND:
            message = f"{error.message}: no such model or route; {REMEDIES[self.server]}"
            return UpstreamError(error.kind, message, usage=error.usage)
        if self.server == "tei" and reply.status == HTTPStatus.FAILED_DEPENDENCY:
            return UpstreamError("unavailable", error.message)  # TEI's word for a failed backend
        return error


def remote_head(
    kind: Literal["attributes", "armorm", "scalar"],
    labels: Sequence[str] | None,
    factor: float,
    offset: float,
) -> Head:
    """The head that the settings describe; raises `ConfigurationError`."""
    if kind == "scalar":
        return SCALAR
    if kind == "armorm":
        return ARMORM
    head = attribute_head(labels or ATTRIBUTES, factor, offset)
    if head is None:
        raise ConfigurationError(f"labels must be {', '.join(ATTRIBUTES)}, in the server's order")
    return head


async def open_remote_scorer(
    server: Server,
    route: Route,
    base_url: str,
    model: str,
    head: Head,
    *,
    resolution: float,
    api_key: str | None,
    tokenizer: str | None,
    max_tokens: int | None,
    http: Http,
) -> RemoteScorer:
    """A scorer for a server. With `tokenizer`, and always for SGLang, the text is rendered here.

    Raises `ConfigurationError` if the tokenizer does not load, or a head and route do not fit.
    """
    if server == "vllm" and route == "score" and head.columns:
        raise ConfigurationError("vLLM's /score gives one number: use route = 'classify'")
    if server != "vllm" and route != "classify":
        raise ConfigurationError(f"route = '{route}' is vLLM's; leave it out for {server}")
    source = tokenizer or (model if server == "sglang" else None)
    if source is not None and (server == "tei" or route == "score"):
        raise ConfigurationError("TEI and vLLM's /score read plain text: leave tokenizer out")
    reader = None if source is None else await asyncio.to_thread(_reader, source, max_tokens)
    return RemoteScorer(server, route, base_url, model, head, resolution, api_key, reader, http)


def _reader(source: str, max_tokens: int | None) -> Reader:
    require(f"the scorer {NAME}", "transformers")
    folder = fetch(source, None, TOKENIZER_FILES)
    return open_reader(folder, max_tokens=max_tokens, pairs=False, trust=False)


def _usage(reply: object) -> Usage | None:
    """The tokens read, as vLLM and SGLang tell them; TEI does not. Nothing is written."""
    match reply:
        case {"usage": {"prompt_tokens": int(read)}} | {"meta_info": {"prompt_tokens": int(read)}}:
            return counted(Usage(read, 0))
    return None


def _is_model(row: object, model: str) -> bool:
    match row:
        case {"id": str(name)}:
            return name == model
    return False

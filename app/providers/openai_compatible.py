"""Any host with OpenAI's `/chat/completions` (vLLM, Ollama, llama.cpp, NIM), over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain import Completion, FinishReason, Prompt
from app.errors import UpstreamError
from app.providers import TokenLogprobs
from app.providers.http import (
    HOP,
    HOP_HEADER,
    Http,
    bearer_headers,
    completion,
    get_json,
    post_json,
    told_usage,
)

FINISH_REASONS: dict[object, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "model_length": "length",  # Mistral: the context window is full
    "content_filter": "content_filter",
}

TOP_LOGPROBS = 10


@dataclass(frozen=True)
class OpenAICompatibleProvider:
    """A model at `base_url`, which includes the version, as `http://host/v1`."""

    name: str
    model: str
    base_url: str
    api_key: str | None
    http: Http

    async def complete(self, prompt: Prompt) -> Completion:
        reply = await self._post(chat_body(self.model, prompt))
        return chat_completion(self.name, self.model, reply)

    async def complete_with_logprobs(
        self, prompt: Prompt
    ) -> tuple[Completion, tuple[TokenLogprobs, ...]]:
        """As `complete`. Some hosts leave log-probabilities out, others answer 400 to the wish;
        those are asked once more without."""
        body = chat_body(self.model, prompt)
        try:
            reply = await self._post({**body, "logprobs": True, "top_logprobs": TOP_LOGPROBS})
        except UpstreamError as error:
            if error.kind != "refused_request":
                raise
        else:
            return chat_completion(self.name, self.model, reply), _token_logprobs(reply)
        # Not inside the handler: this call's errors must not have that one among their causes.
        return chat_completion(self.name, self.model, await self._post(body)), ()

    async def ping(self) -> None:
        """A host that has no list of models, as some do not, is up all the same."""
        headers = bearer_headers(self.api_key)
        try:
            await get_json(self.http, self.name, f"{self.base_url}/models", headers=headers)
        except UpstreamError as error:
            if error.kind != "refused_request":
                raise

    async def _post(self, body: Mapping[str, object]) -> object:
        url = f"{self.base_url}/chat/completions"
        headers = {**bearer_headers(self.api_key), HOP_HEADER: str(HOP.get() + 1)}
        return await post_json(self.http, self.name, url, body, headers=headers)


def chat_body(model: str, prompt: Prompt) -> Mapping[str, object]:
    """The request: the system text as first message, then alternating turns."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
    sampling = {} if prompt.temperature is None else {"temperature": prompt.temperature}
    return {
        "model": model,
        "messages": system + turns,
        "max_tokens": prompt.max_tokens,
        **sampling,
    }


def chat_completion(name: str, model: str, reply: object) -> Completion:
    """The first choice of an OpenAI-shaped reply.

    Content may be a list of typed chunks, of which only text is kept: Mistral's reasoning
    models put their thinking there.
    """
    match reply:
        case {"choices": [{"message": {"content": str(text)}, "finish_reason": reason}, *_]}:
            pass
        case {"choices": [{"message": {"content": list(chunks)}, "finish_reason": reason}, *_]}:
            text = "".join(_chunk_text(chunk) for chunk in chunks)
        case {"choices": [{"message": {"refusal": str(text)}}, *_]} if text:
            reason = "refusal"
        case _:
            raise UpstreamError("bad_reply", f"{name}: the reply has no message")
    if reason == "error":
        message = f"{name}: the model stopped with an error"
        raise UpstreamError("unavailable", message, usage=told_usage(reply))
    return completion(
        name,
        text,
        "refusal" if reason == "refusal" else FINISH_REASONS.get(reason, "other"),
        model=_model(reply) or model,
        usage=told_usage(reply),
    )


def _token_logprobs(reply: object) -> tuple[TokenLogprobs, ...]:
    match reply:
        case {"choices": [{"logprobs": {"content": list(tokens)}}, *_]}:
            return tuple(_token(token) for token in tokens)
    return ()


def _token(token: object) -> TokenLogprobs:
    match token:
        case {"token": str(text), "top_logprobs": list(rows)}:
            return TokenLogprobs(text, tuple(pair for row in rows for pair in _alternative(row)))
        case {"token": str(text)}:
            return TokenLogprobs(text, ())
    return TokenLogprobs("", ())


def _alternative(row: object) -> list[tuple[str, float]]:
    match row:
        case {"token": str(text), "logprob": float() | int() as logprob}:
            return [(text, float(logprob))]
    return []


def _chunk_text(chunk: object) -> str:
    match chunk:
        case {"type": "text", "text": str(text)}:
            return text
    return ""


def _model(reply: object) -> str | None:
    match reply:
        case {"model": str(model)}:
            return model
    return None

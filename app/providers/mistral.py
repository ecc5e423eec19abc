"""Mistral's own cloud, over HTTP (docs.mistral.ai/api, `POST /v1/chat/completions`).

OpenAI's wire with differences: content may be a list of chunks and `finish_reason` may be
"error" or "model_length" (`chat_completion` reads all of these), and error bodies come in
several shapes, one of which says that the model, not the key, has run out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from app.domain import NOTHING, Completion, Prompt
from app.errors import UpstreamError
from app.providers.http import (
    Http,
    Reply,
    bearer_headers,
    get_json,
    post_json,
    response_error,
    retry_after,
)
from app.providers.openai_compatible import chat_body, chat_completion

BASE_URL = "https://api.mistral.ai/v1"
NO_CAPACITY = "3505"
# A higher one is answered with 422.
MAX_TEMPERATURE = 1.5


@dataclass(frozen=True)
class MistralProvider:
    """A Mistral model."""

    name: str
    model: str
    base_url: str
    api_key: str
    http: Http

    async def complete(self, prompt: Prompt) -> Completion:
        too_warm = prompt.temperature is not None and prompt.temperature > MAX_TEMPERATURE
        if too_warm:
            prompt = replace(prompt, temperature=None)
        reply = await post_json(
            self.http,
            self.name,
            f"{self.base_url}/chat/completions",
            chat_body(self.model, prompt),
            headers=bearer_headers(self.api_key),
            error_of=_error,
        )
        done = chat_completion(self.name, self.model, reply)
        return replace(done, dropped_parameters=("temperature",)) if too_warm else done

    async def ping(self) -> None:
        headers = bearer_headers(self.api_key)
        await get_json(self.http, self.name, f"{self.base_url}/models", headers=headers)


def _error(name: str, reply: Reply) -> UpstreamError:
    """429 with code 3505 is an overloaded model; every other 429 is the key's own limit."""
    try:
        body = json.loads(reply.body)
    except ValueError:
        body = None
    match body:
        case {"code": code} if str(code) == NO_CAPACITY:
            wait = retry_after(reply.headers)
            message = f"{name}: {reply.status}, the model has no capacity left"
            return UpstreamError("overloaded", message, retry_after_s=wait, usage=NOTHING)
    return response_error(name, reply)

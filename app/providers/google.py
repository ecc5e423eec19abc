"""Gemma and Gemini through the `google-genai` package (ai.google.dev/api/generate-content)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from google import genai
from google.genai import errors, types

from app.domain import NOTHING, Completion, FinishReason, Prompt, Usage
from app.errors import UpstreamError
from app.providers.http import Http, completion, retry_after, status_error, upstream

FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
}


@dataclass(frozen=True)
class GoogleProvider:
    """A Gemma or Gemini model."""

    name: str
    model: str
    client: genai.Client

    async def complete(self, prompt: Prompt) -> Completion:
        folds = folds_system(self.model)
        turns = prompt.turns_with_system_folded if folds else prompt.turns
        config = types.GenerateContentConfig(
            # Gemma 3 refuses the field even when it is empty, so it must be left out.
            system_instruction=None if folds else prompt.system,
            temperature=prompt.temperature,
            max_output_tokens=prompt.max_tokens,
        )
        contents: list[types.ContentUnion] = [
            types.Content(role=google_role(turn.role), parts=[types.Part(text=turn.content)])
            for turn in turns
        ]
        with upstream(self.name):
            try:
                response = await self.client.aio.models.generate_content(
                    model=self.model, contents=contents, config=config
                )
            except errors.APIError as error:
                raise _api_error(self.name, error) from error
        return self._completion(response)

    async def ping(self) -> None:
        with upstream(self.name):
            try:
                await self.client.aio.models.get(model=self.model)
            except errors.APIError as error:
                raise _api_error(self.name, error) from error

    def _completion(self, response: types.GenerateContentResponse) -> Completion:
        if not response.candidates:
            feedback = response.prompt_feedback
            raise no_candidates(self.name, blocked=bool(feedback and feedback.block_reason))
        candidate = response.candidates[0]
        parts = (candidate.content and candidate.content.parts) or []
        text = "".join(part.text or "" for part in parts if not part.thought)
        reason = FINISH_REASONS.get(candidate.finish_reason or "STOP", "other")
        return completion(
            self.name,
            text,
            reason,
            model=response.model_version or self.model,
            usage=_usage(response.usage_metadata),
        )


def open_google(
    name: str, model: str, *, api_key: str, base_url: str | None, http: Http
) -> GoogleProvider:
    """A provider on the shared client.

    Handing over our client also switches off the package's own retry of broken connections,
    which sleeps up to ten seconds; Gemma lives in `v1beta` whatever the package's default is.
    """
    options = types.HttpOptions(
        base_url=base_url, api_version="v1beta", httpx_async_client=http.packages
    )
    # Without `vertexai` the package would follow GOOGLE_GENAI_USE_VERTEXAI to another API.
    client = genai.Client(api_key=api_key, vertexai=False, http_options=options)
    return GoogleProvider(name, model, client)


def folds_system(model: str) -> bool:
    """True for Gemma 3 and 3n, which have no system role."""
    return model.removeprefix("models/").startswith("gemma-3")


def google_role(role: str) -> str:
    return "model" if role == "assistant" else "user"


def no_candidates(name: str, *, blocked: bool) -> UpstreamError:
    """The error for a reply without candidates: the prompt was blocked, or it makes no sense."""
    if blocked:
        return UpstreamError("content_filter", f"{name}: the prompt was blocked")
    return UpstreamError("bad_reply", f"{name}: the reply has no candidates")


class ApiReply(Protocol):
    """What the errors of both of Google's packages have in common."""

    @property
    def code(self) -> int | None: ...

    @property
    def response(self) -> object: ...


def api_error(name: str, error: ApiReply, details: object) -> UpstreamError:
    """The error an API reply stands for; `details` are its `google.rpc` messages as JSON.

    A key that is not valid comes as a plain 400, the wait after a 429 in a RetryInfo.
    """
    status = int(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    wait = retry_after(getattr(error.response, "headers", {}))
    for detail in details if isinstance(details, list) else []:
        match detail:
            case {"reason": "API_KEY_INVALID"}:
                message = f"{name}: {status}, the key is not valid"
                return UpstreamError("auth", message, usage=NOTHING)
            case {"retryDelay": str(delay)} if found := re.fullmatch(r"([\d.]+)s", delay):
                wait = float(found[1])
    return status_error(name, status, wait)


def _api_error(name: str, error: errors.APIError) -> UpstreamError:
    match error.details:
        case {"error": {"details": details}}:
            return api_error(name, error, details)
    return api_error(name, error, None)


def _usage(usage: types.GenerateContentResponseUsageMetadata | None) -> Usage | None:
    """Billed tokens; thoughts are billed as output."""
    if usage is None or usage.prompt_token_count is None:
        return None
    output = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return Usage(usage.prompt_token_count, output)

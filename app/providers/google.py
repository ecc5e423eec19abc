"""Gemma and Gemini through the `google-genai` package (ai.google.dev/api/generate-content)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from google import genai
from google.genai import errors, types

from app.domain import NOTHING, Completion, FinishReason, Prompt, Usage
from app.errors import UpstreamError
from app.providers.http import Http, completion, decoded, retry_after, status_error, upstream

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


class _Fields:
    """The package asks `name in model` for each field it could send. A pydantic model walks all of
    its fields for that, and never says yes."""

    def __contains__(self, name: object) -> bool:
        return False


class _Config(_Fields, types.GenerateContentConfig):
    """The package copies it deeply for every call; its values are texts and numbers."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> _Config:
        return self.model_copy()


class _Part(_Fields, types.Part):
    pass


# Copies of these need no validation, which for a few texts and numbers takes the package long.
# The reply is read here, without the package's models, and is that of one call: the package would
# call again for what a reply left out, which nobody has reserved for.
_CONFIG = _Config(should_return_http_response=True)
_CONTENT = types.Content()
_PART = _Part()


@dataclass(frozen=True)
class GoogleProvider:
    """A Gemma or Gemini model."""

    name: str
    model: str
    client: genai.Client

    async def complete(self, prompt: Prompt) -> Completion:
        folds = folds_system(self.model)
        turns = prompt.turns_with_system_folded if folds else prompt.turns
        config = _CONFIG.model_copy(
            update={
                # Gemma 3 refuses the field even when it is empty, so it must be left out.
                "system_instruction": None if folds else prompt.system,
                "temperature": prompt.temperature,
                "max_output_tokens": prompt.max_tokens,
            }
        )
        contents: list[types.ContentUnion] = [
            _CONTENT.model_copy(
                update={
                    "role": google_role(turn.role),
                    "parts": [_PART.model_copy(update={"text": turn.content})],
                }
            )
            for turn in turns
        ]
        with upstream(self.name):
            try:
                response = await self.client.aio.models.generate_content(
                    model=self.model,
                    # The package takes long to check a list.
                    contents=contents if len(contents) > 1 else contents[0],
                    config=config,
                )
            except errors.APIError as error:
                raise _api_error(self.name, error) from error
            assert response.sdk_http_response
            reply = decoded(response.sdk_http_response.body or "")
        return self._completion(reply)

    async def ping(self) -> None:
        with upstream(self.name):
            try:
                await self.client.aio.models.get(model=self.model)
            except errors.APIError as error:
                raise _api_error(self.name, error) from error

    def _completion(self, reply: object) -> Completion:
        match reply:
            case {"candidates": [dict(candidate), *_]}:
                pass
            case {"promptFeedback": {"blockReason": _}}:
                raise no_candidates(self.name, blocked=True)
            case _:
                raise no_candidates(self.name, blocked=False)
        return completion(
            self.name,
            _text(candidate),
            _finish_reason(candidate),
            model=_model(reply) or self.model,
            usage=_usage(reply),
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


def _finish_reason(candidate: Mapping[str, object]) -> FinishReason:
    reason = candidate.get("finishReason") or "STOP"
    return FINISH_REASONS.get(reason, "other") if isinstance(reason, str) else "other"


def _text(candidate: Mapping[str, object]) -> str:
    """The text of all parts that are no thoughts."""
    match candidate:
        case {"content": {"parts": list(parts)}}:
            return "".join(_part_text(part) for part in parts)
    return ""


def _part_text(part: object) -> str:
    match part:
        case {"thought": True}:
            return ""
        case {"text": str(text)}:
            return text
    return ""


def _model(reply: object) -> str | None:
    match reply:
        case {"modelVersion": str(model)}:
            return model
    return None


def _usage(reply: object) -> Usage | None:
    """Billed tokens; thoughts are billed as output."""
    match reply:
        case {"usageMetadata": {"promptTokenCount": int(read)} as counts}:
            wrote = counts.get("candidatesTokenCount") or 0, counts.get("thoughtsTokenCount") or 0
            if all(isinstance(count, int) for count in wrote):
                return Usage(read, sum(wrote))
    return None

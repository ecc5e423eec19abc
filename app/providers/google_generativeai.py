"""Gemma and Gemini through the package `google-generativeai`, for sites that still pin it.

Its maker ended support for it; `google.py` is the adapter to prefer. Limits that cannot be
mended from outside: the package has no asynchronous REST client, so each call takes a thread,
which runs on after its caller has gone; it keeps one key and host for the whole process; and it
cannot tell thoughts from text, so models that think aloud (Gemma 4) are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from app.domain import NOTHING, Completion, Prompt, Usage
from app.errors import ConfigurationError, UpstreamError
from app.providers.google import (
    FINISH_REASONS,
    api_error,
    folds_system,
    google_role,
    no_candidates,
)
from app.providers.http import completion, upstream

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # says at import that support has ended
    try:
        import google.generativeai as genai
        import google.generativeai.client as clients
        from google.api_core import exceptions
        from google.protobuf import json_format
    except ImportError as error:
        raise ConfigurationError(
            "provider google_generativeai needs: pip install 'starboard[google-generativeai]'"
        ) from error

T = TypeVar("T")

# Threads that wait for an upstream that drips or hangs cannot be ended, only limited.
MAX_THREADS = 32
_THREADS = threading.BoundedSemaphore(MAX_THREADS)


@dataclass(frozen=True)
class GoogleGenerativeAIProvider:
    """A Gemma or Gemini model. `timeout_s` ends the package's own wait for the next bytes."""

    name: str
    model: str
    timeout_s: float

    async def complete(self, prompt: Prompt) -> Completion:
        folds = folds_system(self.model)
        turns = prompt.turns_with_system_folded if folds else prompt.turns
        contents = [
            {"role": google_role(turn.role), "parts": [{"text": turn.content}]} for turn in turns
        ]
        sampling: dict[str, object] = {"max_output_tokens": prompt.max_tokens}
        if prompt.temperature is not None:
            sampling["temperature"] = prompt.temperature
        model = genai.GenerativeModel(
            self.model, system_instruction=None if folds else prompt.system
        )
        response = await self._call(
            lambda: model.generate_content(
                contents,
                generation_config=sampling,
                # `retry` None switches off the package's own retries.
                request_options={"retry": None, "timeout": self.timeout_s},
            )
        )
        return self._completion(response)

    async def ping(self) -> None:
        path = f"models/{self.model.removeprefix('models/')}"
        options = {"retry": None, "timeout": self.timeout_s}
        await self._call(lambda: genai.get_model(path, request_options=options))

    async def _call(self, call: Callable[[], T]) -> T:
        with upstream(self.name):
            try:
                return await _in_thread(call)
            except exceptions.GoogleAPICallError as error:
                raise api_error(self.name, error, error.details) from error
            except json_format.ParseError as error:
                raise UpstreamError("bad_reply", f"{self.name}: the reply is not valid") from error

    def _completion(self, response: Any) -> Completion:
        if not response.candidates:
            raise no_candidates(self.name, blocked=bool(response.prompt_feedback.block_reason))
        candidate = response.candidates[0]
        text = "".join(part.text for part in candidate.content.parts)
        reason = FINISH_REASONS.get(candidate.finish_reason.name, "other")
        counts = response.usage_metadata
        return completion(
            self.name,
            text,
            reason,
            model=self.model,
            usage=Usage(counts.prompt_token_count, counts.candidates_token_count),
        )


def open_google_generativeai(
    name: str, model: str, *, api_key: str, base_url: str | None, timeout_s: float
) -> GoogleGenerativeAIProvider:
    """A provider; sets the package's process-wide key and host."""
    if model.removeprefix("models/").startswith("gemma-4"):
        raise ConfigurationError(f"{name}: {model} needs provider = 'google', not this package")
    options = {"api_endpoint": base_url} if base_url else None
    genai.configure(api_key=api_key, transport="rest", client_options=options)
    for client in (clients.get_default_generative_client(), clients.get_default_model_client()):
        client.transport._session.max_redirects = 0  # the key would go with it
    return GoogleGenerativeAIProvider(name, model, timeout_s)


async def _in_thread(call: Callable[[], T]) -> T:
    """Run a call that cannot be interrupted in a daemon thread, so that it never holds up exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: object) -> None:
        if not done.done():
            setter(value)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], object] = (done.set_result, call())
        except BaseException as error:
            outcome = (done.set_exception, error)
        finally:
            _THREADS.release()
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(settle, *outcome)

    if not _THREADS.acquire(blocking=False):
        message = f"google_generativeai: {MAX_THREADS} calls are stuck"
        raise UpstreamError("overloaded", message, usage=NOTHING)
    threading.Thread(target=run, daemon=True).start()
    return await done

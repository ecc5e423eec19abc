"""A language model in this process, on torch (extra `local`): a base model, with a LoRA adapter
merged into it if there is one. This is how an adapter that STaR promoted takes its seat.

Prompts that arrive while the model is busy are decoded together when it is free. It suits models
of up to a few billion parameters and a few prompts at a time; for more there is vLLM.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.batching import MicroBatcher
from app.domain import NOTHING, Completion, Failure, Prompt
from app.errors import ConfigurationError, UpstreamError, boundary
from app.generation import Encoded, LanguageModel, Outcome, open_language_model
from app.model_folders import CACHE
from app.providers.http import completion

CONTEXT_TOKENS = 4096
BATCH_TOKENS = 16_384
QUEUE_LIMIT = 256


@dataclass(frozen=True)
class LocalProvider:
    """A seat on a language model in this process. Open it with `open_local`.

    `temperature` applies where the prompt sets none. A prompt and its reply have `context_tokens`
    together: a longer prompt is refused, a reply ends there.
    """

    name: str
    model: str
    temperature: float
    context_tokens: int
    language_model: LanguageModel
    batcher: MicroBatcher[Encoded, Outcome]

    async def complete(self, prompt: Prompt) -> Completion:
        given_up = threading.Event()
        try:
            with boundary(self.name):
                ids = await asyncio.to_thread(self.language_model.ids, prompt)
                room = self.context_tokens - len(ids)
                if room < 1:
                    raise UpstreamError(
                        "refused_request",
                        f"{self.name}: the prompt has {len(ids)} tokens, and leaves no room for a"
                        f" reply in {self.context_tokens}",
                        usage=NOTHING,
                    )
                warmth = self.temperature if prompt.temperature is None else prompt.temperature
                limit = min(prompt.max_tokens, room)
                asked = Encoded(ids, limit, warmth, prompt.sample, given_up)
                outcome = await self.batcher.submit(asked, len(ids) + limit)
        finally:
            given_up.set()
        if isinstance(outcome, Failure):
            raise UpstreamError(outcome.kind, outcome.message)
        return completion(
            self.name,
            outcome.text,
            outcome.finish_reason,
            model=self.model,
            usage=outcome.usage,
        )

    async def ping(self) -> None:
        """Nothing to reach: the weights are in memory."""


@asynccontextmanager
async def open_local(
    name: str,
    base: str,
    adapter: Path | None = None,
    *,
    model: str,
    device: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    context_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    queue_limit: int = QUEUE_LIMIT,
    cache: Path = CACHE,
) -> AsyncIterator[LocalProvider]:
    """Load a base model and an adapter, and close them at the end. `model` is what replies are
    signed with.

    `context_tokens` None: what the model was made for, at most 4,096. Raises `ConfigurationError`
    that says what to change.
    """
    language_model = await asyncio.to_thread(
        open_language_model, base, adapter, name=name, device=device, seed=seed, cache=cache
    )
    most = language_model.context_tokens
    if context_tokens is not None and context_tokens > most:
        raise ConfigurationError(f"{name}: {base} has a context of {most} tokens at most")
    batcher = MicroBatcher(
        name,
        _guarded(name, language_model),
        batch_tokens=batch_tokens,
        # Padding costs less than decoding two batches one after the other.
        fullness=0.0,
        queue_limit=queue_limit,
    )
    limit = context_tokens or min(most, CONTEXT_TOKENS)
    try:
        yield LocalProvider(name, model, temperature, limit, language_model, batcher)
    finally:
        await batcher.close()


def _guarded(
    name: str, language_model: LanguageModel
) -> Callable[[Sequence[Encoded]], Sequence[Outcome]]:
    def decode(asked: Sequence[Encoded]) -> Sequence[Outcome]:
        import torch

        try:
            return language_model.completions(asked)
        except torch.OutOfMemoryError as error:
            message = f"{name}: out of memory; a lower batch_tokens or context_tokens helps"
            raise UpstreamError("overloaded", message) from error

    return decode

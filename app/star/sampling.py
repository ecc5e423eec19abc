"""Samplers: they write what is asked for, in this process or elsewhere.

A sampler takes shards of prompts and gives each back when it is done, with a completion or a
failure for each prompt, in order. Whether the prompts go to a model in this process (here), to a
host (`hosts.py`) or to several machines (`clusters.py`) makes no difference to who asks.

The in-process sampler's draws depend on the seed and on the shard alone, so a shard gives the
same texts wherever it is sampled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.domain import Prompt
from app.generation import (
    BATCH,
    PLAIN_TEMPLATE,
    Encoded,
    LanguageModel,
    Outcome,
    open_base,
    open_language_model,
)

__all__ = [
    "BATCH",
    "PLAIN_TEMPLATE",
    "LocalSampler",
    "Outcome",
    "Sampler",
    "Shards",
    "open_base",
    "open_local_sampler",
    "sampler_name",
]

Shards = Mapping[int, Sequence[Prompt]]


class Sampler(Protocol):
    """Writes one completion for each prompt; what fails is a `Failure` in its place.

    `name` is who wrote it. Shards come back in any order.
    """

    @property
    def name(self) -> str: ...

    def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]: ...


@dataclass(frozen=True)
class LocalSampler:
    """A language model in this process. Open it with `open_local_sampler`.

    `temperature` None or 0 in a prompt is greedy decoding.
    """

    language_model: LanguageModel

    @property
    def name(self) -> str:
        return self.language_model.name

    async def sample(self, shards: Shards) -> AsyncIterator[tuple[int, list[Outcome]]]:
        for number, prompts in shards.items():
            asked = self._encoded(prompts)
            try:
                yield number, await asyncio.to_thread(self.language_model.completions, asked)
            except asyncio.CancelledError:
                for one in asked:
                    one.given_up.set()
                raise

    def completions(self, prompts: Sequence[Prompt]) -> list[Outcome]:
        """One shard."""
        return self.language_model.completions(self._encoded(prompts))

    def _encoded(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        return [
            Encoded(
                self.language_model.ids(prompt),
                prompt.max_tokens,
                prompt.temperature or 0.0,
                prompt.sample,
            )
            for prompt in prompts
        ]


def open_local_sampler(
    base: str, adapter: Path | None = None, *, seed: int = 0, batch: int = BATCH
) -> LocalSampler:
    """Load a base model (folder, hub id or the name of an embedded model), with a LoRA adapter
    merged into it if one is given.

    Raises `ConfigurationError` that says what to change.
    """
    name = sampler_name(base, adapter)
    return LocalSampler(open_language_model(base, adapter, name=name, seed=seed, batch=batch))


def sampler_name(base: str, adapter: Path | None) -> str:
    """Who wrote it: the base, and the stage whose adapter it has."""
    return f"{base} + {adapter.parent.name}" if adapter else base

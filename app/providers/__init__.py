"""Providers: whatever completes a prompt. One file per wire format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.domain import Completion, Prompt


class Provider(Protocol):
    """Completes prompts with one model.

    `complete` makes one attempt and raises `UpstreamError` when it fails; retries, timeouts and
    recording are the ensemble's. It stops all upstream work when cancelled.
    `ping` raises `UpstreamError` when the model cannot be used now; it generates nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    async def complete(self, prompt: Prompt) -> Completion: ...

    async def ping(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token of a completion with its likeliest alternatives, itself among them, as pairs of
    text and natural log-probability."""

    text: str
    alternatives: tuple[tuple[str, float], ...]


@runtime_checkable
class LogprobProvider(Provider, Protocol):
    """A provider that can say how likely each token was."""

    async def complete_with_logprobs(
        self, prompt: Prompt
    ) -> tuple[Completion, tuple[TokenLogprobs, ...]]:
        """As `complete`; the tokens are empty where the host does not tell them."""
        ...

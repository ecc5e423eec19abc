"""Providers: whatever completes a prompt. One file per wire format."""

from __future__ import annotations

from typing import Protocol

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

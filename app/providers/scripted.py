"""Canned replies, for documentation and tests. Never a default member."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.domain import Completion, Prompt


@dataclass(frozen=True)
class ScriptedProvider:
    """Replies with `reply` after `delay_s`, whatever the prompt."""

    name: str
    model: str
    reply: str
    delay_s: float = 0.0

    async def complete(self, prompt: Prompt) -> Completion:
        await asyncio.sleep(self.delay_s)
        return Completion(self.reply, "stop", self.model)

    async def ping(self) -> None:
        return None

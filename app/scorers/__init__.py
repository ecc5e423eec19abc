"""Scorers: whatever maps a prompt and a completion to a score."""

from __future__ import annotations

from typing import Protocol

from app.domain import Completion, Prompt, Score, ScorerInfo


class Scorer(Protocol):
    """Scores one completion.

    `score` raises `UpstreamError` when it cannot; it never invents a number.
    `ping` raises `UpstreamError` when the scorer cannot be used now; it costs no scoring call.
    """

    @property
    def info(self) -> ScorerInfo: ...

    async def score(self, prompt: Prompt, completion: Completion) -> Score: ...

    async def ping(self) -> None: ...

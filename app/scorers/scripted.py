"""Rewards by reply text, for documentation and tests. Never a default scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain import Completion, Prompt, ScalarReward, Score, ScorerInfo
from app.errors import UpstreamError


@dataclass(frozen=True)
class ScriptedScorer:
    """Gives a reply the reward written down for its text, and fails on any other."""

    rewards: Mapping[str, float]
    resolution: float = 0.1

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo("scripted", "scripted", "scalar", self.resolution, "for tests only")

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        if completion.text not in self.rewards:
            raise UpstreamError("refused_request", "scripted: no reward is written for it")
        return Score(ScalarReward(self.rewards[completion.text]))

    async def ping(self) -> None:
        return None

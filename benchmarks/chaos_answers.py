"""What is asked in benchmarks/chaos.py, what is right, and the tally of what came of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.openai_compatible import OpenAICompatibleFake
from tests.fakes.server import FakeServer
from tests.fakes.wire import Recorded

MOST_SAID = 20
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
MEMBERS: Mapping[str, type[FakeServer]] = {
    "claude": AnthropicFake,
    "mistral": MistralFake,
    "gemma": GoogleFake,
    "vllm": OpenAICompatibleFake,
}


def reply_of(member: str, nonce: str) -> str:
    """What the member says to the prompt of that nonce: no part of it is another's reply."""
    marks = hashlib.sha256(f"{member} {nonce}".encode()).hexdigest()
    return f"{member} says of {nonce}: {' '.join(re.findall('.{8}', marks))} and that is all."


def scores_of(text: str) -> dict[str, float]:
    """What the reward model gives a reply."""
    drawn = hashlib.sha256(text.encode()).digest()
    return {name: byte / 64 for name, byte in zip(ATTRIBUTES, drawn, strict=False)}


def nonce_in(request: Recorded) -> str:
    found = re.search(rb"nonce-[0-9a-f]{16}", request.body)
    return found[0].decode() if found else "no nonce"


def mistakes(document: Mapping[str, Any], nonce: str) -> Iterator[str]:
    """What is wrong with an answer to the prompt of that nonce."""
    candidates = document["candidates"]
    for candidate in candidates:
        yield from mistakes_of(candidate, nonce)
    winner = next((c for c in candidates if c["id"] == document["decision"]["winner"]), None)
    if winner is None or winner["text"] is None:
        yield "no reply was chosen"
        return
    if (document["answer"], document["member"]) != (winner["text"], winner["member"]):
        yield "the answer is not the chosen reply"
    rewards = [c["reward"] for c in candidates if c["reward"] is not None]
    least = max(rewards, default=0.0) - document["decision"]["resolution"]
    if rewards and (winner["reward"] is None or winner["reward"] < least):
        yield f"chosen at {winner['reward']} of {rewards}"
    if {c["member"] for c in candidates} != set(MEMBERS):
        yield "not every member has a candidate"
    delivered = all(c["reward"] is not None for c in candidates)
    if (document["quality"] == "full") != delivered or bool(document["missing"]) == delivered:
        yield f"called {document['quality']}, without {document['missing']}"


def mistakes_of(candidate: Mapping[str, Any], nonce: str) -> Iterator[str]:
    text, scores = candidate["text"], candidate["scores"]
    if (text is None) == (candidate["failure"] is None):
        yield f"{candidate['member']}: neither a reply nor a failure, or both"
    if text is not None and text != reply_of(candidate["member"], nonce):
        yield f"{candidate['member']}: not its reply: {text[:200]!r}"
    if scores is not None and scores != scores_of(text or ""):
        yield f"{candidate['member']}: not the scores of its reply"


def digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Given:
    digest: str
    quality: str
    cost: int


@dataclass
class Question:
    """A prompt, and by id what was given as an answer; `told` are ids of runs that failed.

    `keyed`: asked twice at once under one Idempotency-Key, and again under it after a 503.
    """

    nonce: str
    keyed: bool
    unavailable: bool = False
    given: dict[str, Given] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


@dataclass
class Tally:
    """One phase: what was done, asked and given, and how often something did not hold.

    `again` are requests that repeat one under its Idempotency-Key after a 503. `gone`
    are requests without an end: the client left, or the service was killed. `late` ones were over
    after the deadline and what is allowed on top. `leaked` are descriptors, threads, tasks,
    connections, calls and reservations beyond those at rest; `held` are megabytes resident.
    `not_booked` are runs of whose cost the service itself says that it could not be booked.
    """

    store: str
    phase: str
    faults: int = 0
    asked: int = 0
    again: int = 0
    given: int = 0
    degraded: int = 0
    refused: int = 0
    gone: int = 0
    slowest_s: float = 0.0
    late: int = 0
    wrong: int = 0
    lost: int = 0
    not_booked: int = 0
    doubled: int = 0
    leaked: int = 0
    held_mb: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        of_records = self.lost + self.not_booked + self.doubled
        return self.late + self.wrong + of_records + self.leaked

    def blame(self, what: str, said: str, times: int = 1) -> None:
        """Count what did not hold under the name of a field."""
        setattr(self, what, getattr(self, what) + times)
        if len(self.said) < MOST_SAID:
            self.said.append(f"{what}: {said}")

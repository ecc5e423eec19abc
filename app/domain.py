"""The nouns of Starboard: frozen dataclasses, standard library only.

A `Prompt` is fanned out to the members of the board. Each member's reply becomes a `Candidate`
whose outcome is a `Completion` or a `Failure`; a scorer gives a candidate a `Score`, which may
itself be a failure; a strategy turns scored candidates into a `Selection`; all of it together
is the `Answer`, which is what gets stored and served.

Times are in seconds. Attribute scores are on the HelpSteer scale, 0-4, and may leave it slightly
(HelpSteer2, arXiv 2406.08673).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "refusal", "content_filter", "other"]
FailureKind = Literal[
    "timeout",
    "rate_limited",
    "overloaded",
    "auth",
    "refused_request",
    "content_filter",
    "bad_reply",
    "unavailable",
    "cancelled",
    "internal",
]
Scale = Literal["helpsteer", "scalar", "calibrated"]
StepOutcome = Literal["scored", "partial", "failed", "off", "not_asked"]
Quality = Literal["full", "degraded"]
StrategyName = Literal[
    "best_of_n", "majority_vote", "weighted_vote", "single", "cascade", "first_good", "fuse"
]
OnPartial = Literal["wait", "accept", "fail"]
Thumb = Literal["up", "down"]

# What an API key may: ask the board, score, read what is stored, or everything (docs/keys.md).
Scope = Literal["answer", "score", "read", "admin"]
# What a budget is for: for good, or a calendar month.
Period = Literal["total", "month"]

# What a vendor says of a reply that it withheld.
WITHHELD: tuple[FinishReason, ...] = ("refusal", "content_filter")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages and sampling parameters of one request.

    `temperature` None leaves the choice to each member. `sample` counts the samples of one prompt
    from 0, so that a member with a seed draws each differently. Raises `ValueError` unless the
    turns (everything but system messages) begin and end with the user.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float | None = None
    sample: int = 0

    def __post_init__(self) -> None:
        turns = self.turns
        if not turns or turns[0].role != "user" or turns[-1].role != "user":
            raise ValueError("messages must begin and end with a user turn (system text aside)")

    @property
    def system(self) -> str | None:
        """All system text, in order, or None."""
        return "\n\n".join(m.content for m in self.messages if m.role == "system") or None

    @property
    def turns(self) -> tuple[Message, ...]:
        """User and assistant turns, strictly alternating.

        Neighbours of one role are joined by a blank line: several APIs (Gemini, Mistral, NIM)
        refuse two turns of one role in a row.
        """
        turns: list[Message] = []
        for message in self.messages:
            if message.role == "system":
                continue
            if turns and turns[-1].role == message.role:
                joined = f"{turns.pop().content}\n\n{message.content}"
                turns.append(Message(message.role, joined))
            else:
                turns.append(message)
        return tuple(turns)

    @property
    def turns_with_system_folded(self) -> tuple[Message, ...]:
        """`turns` with the system text put before the first user turn.

        For models without a system role: Gemma 3 and the NIM reward models.
        """
        if self.system is None:
            return self.turns
        first, *rest = self.turns
        return (Message("user", f"{self.system}\n\n{first.content}"), *rest)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a provider billed, or would have billed."""

    input_tokens: int
    output_tokens: int


NOTHING = Usage(0, 0)

# Money is counted in nano-dollars: so many are a USD.
NANO = 10**9


@dataclass(frozen=True, slots=True)
class Completion:
    """What one provider returned.

    `text` is empty only when `finish_reason` is "refusal".
    `dropped_parameters` names request parameters the model does not take.
    """

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None = None
    dropped_parameters: tuple[str, ...] = ()

    @property
    def withheld(self) -> bool:
        """True if the vendor refused or filtered: never the winner over an honest reply."""
        return self.finish_reason in WITHHELD


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded error. `message` is our own wording, never the upstream's text."""

    kind: FailureKind
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One member's entry in one run. `cost_usd` is its reply's alone, None if it is not known."""

    id: str
    member: str
    model: str
    outcome: Completion | Failure
    latency_s: float
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """The five HelpSteer attributes, 0-4 each (a model may leave the range slightly)."""

    helpfulness: float
    correctness: float
    coherence: float
    complexity: float
    verbosity: float


ATTRIBUTES = tuple(field.name for field in fields(Attributes))


@dataclass(frozen=True, slots=True)
class Weights:
    """Linear map from attributes to one reward.

    The defaults are those NVIDIA published for Nemotron-4-340B-Reward (its model card).
    """

    helpfulness: float = 0.3
    correctness: float = 0.74
    coherence: float = 0.46
    complexity: float = 0.47
    verbosity: float = -0.33

    def reward(self, attributes: Attributes) -> float:
        """The dot product of weights and attributes."""
        return sum(
            float(getattr(self, name)) * float(getattr(attributes, name)) for name in ATTRIBUTES
        )

    @property
    def magnitude(self) -> float:
        """Sum of the absolute weights: by this a resolution scales from one map to another."""
        return sum(abs(float(getattr(self, name))) for name in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class ScalarReward:
    """An unbounded reward from a model that reports no attributes.

    Comparable only among replies to one prompt, scored by one model.
    """

    value: float


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's result for one candidate. `note` says what the scorer had to leave out, `usage`
    what it was billed, if it tells."""

    outcome: Attributes | ScalarReward | Failure
    note: str | None = None
    latency_s: float = 0.0
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate with its score, and the score's reward under the plan's weights.

    `score` is None if there was nothing to score (the candidate failed). `reward` is None
    whenever there is no usable score: absent is never 0. `extracted` is the comparable final
    answer inside the reply, where a vote asked for it and there is one.
    """

    candidate: Candidate
    score: Score | None = None
    reward: float | None = None
    extracted: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """A reply from elsewhere with its score, and the score's reward, None if there is none."""

    score: Score
    reward: float | None


@dataclass(frozen=True, slots=True)
class LadderStep:
    """What became of one scorer of the ladder in one run.

    "scored" every reply, "partial": some of them, "failed": none, "off": the step failed its
    self-check, "not_asked": a step above did. `reason` says why if it did not score all.
    """

    name: str
    outcome: StepOutcome
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """Who scored, and how far its rewards can be trusted.

    `scale` "helpsteer" is five attributes, 0-4 each; "calibrated" is one reward mapped to 0-4;
    "scalar" is a raw reward, comparable within one prompt only. `resolution` is the margin, in
    reward under the default weights, below which this scorer cannot tell two replies apart.
    `length_slope` is how much reward it gives for a unit of log length among honest replies;
    length control takes that off. `ladder` tells, in an answer, what became of every step.
    """

    name: str
    model: str
    scale: Scale
    resolution: float
    note: str | None = None
    length_slope: float = 0.0
    ladder: tuple[LadderStep, ...] = ()


# Scorers whose rewards say nothing of which honest reply is better: "embedded" sees obvious
# failures only, "scripted" is for tests, "none" stands where no scorer was left.
CANNOT_RANK = ("embedded", "scripted", "none")


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often a member's reply had the highest reward, of the answers it competed in."""

    share: float
    competed: int


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Why a member is not called: so many of its last calls failed, all of them in a row; and for
    how many seconds more."""

    failed: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How one run is to be done.

    `members` are the seats asked, in board order; ties go to the earlier one. `samples` is how
    often each is asked. `deadline_s` is the whole run's limit. `resolution` is the tie margin
    under `weights`.

    `threshold` is the reward at which `cascade` and `first_good` stop. `order` is the order in
    which `cascade` asks, cheapest first; without it, board order backwards. `top_k` replies are
    fused by `aggregator`, without which it is the first seat. Below `floor` nothing is chosen.
    `reserves` are asked one by one, each in the place of a member that failed. `quorum` is the
    fewest replies that make an answer; `on_partial` says what happens to a slow rest: "wait" for
    it until the deadline, "accept" a quorum of scored replies at once, or "fail" unless everyone
    replies. After `hedge_s` a member that has not replied is asked a second time, and the first
    reply counts. `length_slope` is the reward per unit of log length that is taken off, if
    `length_control` is on and the scorer states one.

    `standing` are the members in the order in which ties go, empty for board order; whoever is
    not in it comes after. `win_rates` are the figures it was made by. `no_standing` says why ties
    go by board order where the win rates were to decide.
    """

    members: tuple[str, ...]
    strategy: StrategyName = "best_of_n"
    samples: int = 1
    weights: Weights = field(default_factory=Weights)
    deadline_s: float = 60.0
    resolution: float = 0.0
    threshold: float | None = None
    order: tuple[str, ...] = ()
    top_k: int = 3
    aggregator: str | None = None
    floor: float | None = None
    reserves: tuple[str, ...] = ()
    quorum: int = 1
    on_partial: OnPartial = "wait"
    hedge_s: float | None = None
    length_control: bool = True
    length_slope: float = 0.0
    standing: tuple[str, ...] = ()
    win_rates: Mapping[str, WinRate] = field(default_factory=dict)
    no_standing: str | None = None

    @property
    def tie_order(self) -> tuple[str, ...]:
        """Members in the order in which ties go; whoever is not in it comes after."""
        return tuple(dict.fromkeys((*self.standing, *self.members, *self.reserves)))


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy chose and why.

    `winner` and `ranking` hold candidate ids; only candidates that were compared are ranked.
    `margin` is the highest reward minus the next, None with fewer than two rewards. `votes` are
    the extracted answers with what each got. `length_control` says what it changed. `not_called`
    are the members that the strategy had no need of.
    """

    winner: str | None
    ranking: tuple[str, ...]
    strategy: str
    reason: str
    margin: float | None = None
    tie_break: str | None = None
    votes: Mapping[str, float] | None = None
    length_control: str | None = None
    not_called: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a run went; `overhead_s` is what neither members nor scorer took."""

    total_s: float
    slowest_member_s: float
    scoring_s: float
    overhead_s: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a person said of an answer, at least one thing of it.

    `better` is the id of a candidate better than the chosen one. The rest is about the chosen
    reply: `ratings` on the HelpSteer scale, and `corrected`, the text as it should have been.
    """

    id: str
    created: datetime
    better: str | None = None
    thumb: Thumb | None = None
    ratings: Attributes | None = None
    corrected: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The stored result of a run, with what people have said of it since, oldest first. `cost_usd`
    is that of every call made for it, to members and scorers, also of those that came to nothing;
    None if it is not known. `cost_bound_usd` is the most that these calls can have cost; None if a
    price is not known. `key_id` is the API key's that asked, None where none was asked for."""

    id: str
    created: datetime
    prompt: Prompt
    plan: Plan
    candidates: tuple[ScoredCandidate, ...]
    selection: Selection
    scorer: ScorerInfo
    timings: Timings
    quality: Quality
    missing: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    cost_usd: float | None = None
    cost_bound_usd: float | None = None
    key_id: str | None = None
    feedback: tuple[Feedback, ...] = ()

    @property
    def winner(self) -> ScoredCandidate | None:
        return next((c for c in self.candidates if c.candidate.id == self.selection.winner), None)

    @property
    def chosen(self) -> Completion | None:
        """What the winner replied."""
        outcome = self.winner.candidate.outcome if self.winner else None
        return outcome if isinstance(outcome, Completion) else None


SHOWN = 300


@dataclass(frozen=True, slots=True)
class Summary:
    """A stored answer in a list. Of `prompt`, the user's last message, and `reply`, the chosen one,
    the first `SHOWN` characters; `feedback` is how often something was said of it."""

    id: str
    created: datetime
    prompt: str
    reply: str | None
    member: str | None
    model: str | None
    reward: float | None
    scorer: str
    strategy: str
    quality: Quality
    tags: Mapping[str, str]
    key_id: str | None
    feedback: int


@dataclass(frozen=True, slots=True)
class Started:
    """Event: a member has been asked."""

    member: str


@dataclass(frozen=True, slots=True)
class Completed:
    """Event: a member replied."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Failed:
    """Event: a member did not reply."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Scored:
    """Event: a candidate has its score, or the score's failure.

    Told again with another score when the run has gone down the ladder; the later one holds.
    """

    candidate: ScoredCandidate


@dataclass(frozen=True, slots=True)
class Selected:
    """Event: the run is over and stored."""

    answer: Answer


Event = Started | Completed | Failed | Scored | Selected
Listener = Callable[[Event], None]

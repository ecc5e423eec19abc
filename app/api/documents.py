"""The JSON of our own routes: requests in, documents out. Names are a contract: add, never rename.

Times are seconds, money is USD, scores are on the HelpSteer scale (0-4, may leave it slightly),
timestamps are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, Self, TypeVar

from fastapi import Path
from fastapi.openapi.models import Example
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from app.domain import (
    SHOWN,
    Answer,
    Attributes,
    Candidate,
    Completion,
    Failure,
    FailureKind,
    Feedback,
    FinishReason,
    Message,
    OnPartial,
    Plan,
    Prompt,
    Quality,
    Role,
    Scale,
    Score,
    ScoredCandidate,
    ScoredReply,
    ScorerInfo,
    StepOutcome,
    StrategyName,
    Summary,
    Thumb,
    Usage,
    Weights,
    WinRate,
)
from app.errors import InvalidRequestError
from app.gates import Circuit, Gate
from app.settings import Seat

# PostgreSQL takes no NUL. Patterns stand in the OpenAPI document, validators do not.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Filled = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]
# As long as OpenAI's metadata. An entry of PostgreSQL's index has 2,704 bytes for both.
TagKey = Annotated[str, StringConstraints(pattern=r"^[^\x00:=]*$", max_length=64)]
TagText = Annotated[Text, StringConstraints(max_length=512)]
Id = Annotated[str, StringConstraints(max_length=40)]
AnswerId = Annotated[Id, Path(alias="id")]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# 2.0 is an integer in JSON Schema. It comes after bounds: pydantic leaves later ones undocumented.
WHOLE = BeforeValidator(_whole)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Request):
    type: Literal["text"]
    text: Text


class Turn(_Request):
    """One OpenAI-shaped turn; content is text, or a list of text parts."""

    role: Role
    content: Annotated[
        Annotated[Filled, Tag("(text)")] | Annotated[Sequence[TextPart], Tag("(parts)")],
        Discriminator(lambda content: "(parts)" if isinstance(content, list) else "(text)"),
    ]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


PUBLISHED = Weights()
Weight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class WeightsRequest(_Request):
    """Linear map from attributes to the reward; what is left out keeps its published value."""

    helpfulness: Weight = PUBLISHED.helpfulness
    correctness: Weight = PUBLISHED.correctness
    coherence: Weight = PUBLISHED.coherence
    complexity: Weight = PUBLISHED.complexity
    verbosity: Weight = PUBLISHED.verbosity


Name = Annotated[str, StringConstraints(max_length=64)]
Names = Annotated[list[Name], Field(min_length=1, max_length=64)]


class PlanRequest(_Request):
    """How the board is asked and how the reply is chosen (docs/strategies.md)."""

    strategy: StrategyName = "best_of_n"
    samples: Annotated[int, Field(ge=1, le=16), WHOLE] = Field(
        default=1, description="Replies asked of each member."
    )
    threshold: FiniteFloat | None = Field(
        default=None, description="Reward at which cascade and first_good stop."
    )
    order: Names | None = Field(
        default=None, description="Order in which cascade asks; default: board order backwards."
    )
    top_k: Annotated[int, Field(ge=2, le=8), WHOLE] = Field(
        default=3, description="Replies that fuse works from."
    )
    aggregator: Name | None = Field(
        default=None, description="Member that writes the fusion; default: the first seat."
    )
    floor: FiniteFloat | None = Field(
        default=None, description="Reward under which no reply is chosen; `answer` is then null."
    )
    reserves: Names | None = Field(
        default=None, description="Members asked one by one in the place of any that fail."
    )
    quorum: Annotated[int, Field(ge=1), WHOLE] = Field(
        default=1, description="Fewest replies that make an answer."
    )
    on_partial: OnPartial = Field(
        default="wait",
        description="wait: for all until the deadline; accept: a scored quorum at once; "
        "fail: 502 unless everyone replies.",
    )
    length_control: bool = Field(
        default=True, description="Take off what length alone earns, where the scorer knows it."
    )
    hedge_s: FiniteFloat | None = Field(
        default=None, gt=0, description="Seconds after which a silent member is asked again."
    )


def _ends_with_the_user(turns: Sequence[Turn]) -> Sequence[Turn]:
    roles = [turn.role for turn in turns if turn.role != "system"]
    if not roles or roles[0] != "user" or roles[-1] != "user":
        raise ValueError("must begin and end with a user turn (system text aside)")
    if any(not turn.text.strip() for turn in turns):
        raise ValueError("a turn has no text")
    return turns


TurnT = TypeVar("TurnT", bound=Turn)
Conversation = Annotated[
    Sequence[TurnT], Field(min_length=1, max_length=1000), AfterValidator(_ends_with_the_user)
]
Deadline = Annotated[FiniteFloat, Field(ge=0.1, le=600, description="Seconds for the whole run.")]
MaxTokens = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Temperature = Annotated[FiniteFloat, Field(ge=0, le=2)]
MOST_TAGS = 16
Tags = Annotated[
    dict[TagKey, TagText],
    # No keys but those of the pattern.
    Field(max_length=MOST_TAGS, json_schema_extra={"additionalProperties": False}),
]


class RunRequest(_Request):
    """How to run a prompt, whatever the prompt."""

    members: Annotated[Names, Field(json_schema_extra={"uniqueItems": True})] | None = Field(
        default=None, description="Names of seated members; all of them by default."
    )
    deadline_s: Deadline | None = None
    weights: WeightsRequest | None = None
    plan: PlanRequest | None = None

    @field_validator("members")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        if names and len(set(names)) < len(names):
            raise ValueError("each member may be named once")
        return names

    def to_plan(self, board: Iterable[str], deadline_s: float) -> Plan:
        """The plan; members are put in board order, and names that do not sit come last."""
        order = list(board)
        asked = order if self.members is None else self.members
        unknown = [name for name in asked if name not in order]
        plan, weights = self.plan or PlanRequest(), self.weights or WeightsRequest()
        return Plan(
            members=(*(name for name in order if name in asked), *unknown),
            weights=Weights(**weights.model_dump()),
            deadline_s=self.deadline_s or deadline_s,
            order=tuple(plan.order or ()),
            reserves=tuple(plan.reserves or ()),
            **plan.model_dump(exclude={"order", "reserves"}),
        )


def _given(name: str, kind: str, *, without: str | None = None) -> dict[str, JsonValue]:
    """A JSON schema of objects with that property, not null, and without the other one."""
    properties: dict[str, JsonValue] = {name: {"type": kind}}
    if without:
        properties[without] = {"type": "null"}
    return {"required": [name], "properties": properties}


class AnswerRequest(RunRequest):
    """One prompt for the board. Give exactly one of `prompt` and `messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                _given("prompt", "string", without="messages"),
                _given("messages", "array", without="prompt"),
            ]
        }
    )

    prompt: Filled | None = None
    messages: Conversation[Turn] | None = None
    system: Text | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    stream: bool | None = Field(
        default=None, description="Answer with server-sent events as the run goes on."
    )
    tags: Tags | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    def to_prompt(self, max_tokens: int) -> Prompt:
        """The prompt; `max_tokens` is the default where the request has none."""
        system = [Message("system", self.system)] if self.system else []
        turns = [Message(turn.role, turn.text) for turn in self.messages or ()]
        asked = [Message("user", self.prompt)] if self.prompt else []
        return Prompt((*system, *turns, *asked), self.max_tokens or max_tokens, self.temperature)


# Shown in Swagger UI; they name no member, so that they run as they stand on any board.
EXAMPLES: dict[str, Example] = {
    "prompt": {"value": {"prompt": "Why is the sky blue?", "max_tokens": 64}},
    "conversation": {
        "value": {
            "system": "Answer in one sentence.",
            "messages": [
                {"role": "user", "content": "Name a prime number."},
                {"role": "assistant", "content": "7"},
                {"role": "user", "content": "And a larger one?"},
            ],
            "max_tokens": 64,
        }
    },
    "weights": {
        "summary": "prefer short replies",
        "value": {
            "prompt": "What is a reward model?",
            "weights": {"verbosity": -1},
            "max_tokens": 64,
        },
    },
}


class ScoreRequest(_Request):
    """One prompt and replies to it, wherever they came from."""

    prompt: Filled
    system: Text | None = None
    replies: Annotated[list[Text], Field(min_length=1, max_length=64)]
    weights: WeightsRequest | None = None
    deadline_s: Deadline | None = None

    def to_prompt(self) -> Prompt:
        system = [Message("system", self.system)] if self.system else []
        return Prompt((*system, Message("user", self.prompt)))

    def to_weights(self) -> Weights:
        return Weights(**(self.weights or WeightsRequest()).model_dump())


SCORE_EXAMPLES: dict[str, Example] = {
    "replies": {
        "value": {
            "prompt": "Why is the sky blue?",
            "replies": [
                "Air scatters blue light more than red, so blue reaches us from all sides.",
                "I'm sorry, but as an AI I cannot help with that.",
                "",
            ],
        }
    }
}


Rating = Annotated[int, Field(ge=0, le=4), WHOLE]


class RatingsRequest(_Request):
    """The chosen reply on the HelpSteer scale (docs/data.md says what each number means)."""

    helpfulness: Rating
    correctness: Rating
    coherence: Rating
    complexity: Rating
    verbosity: Rating


class FeedbackRequest(_Request):
    """What a person says of an answer: at least one thing."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                _given("better", "string"),
                _given("thumb", "string"),
                _given("ratings", "object"),
                _given("corrected", "string"),
                _given("comment", "string"),
            ]
        }
    )

    better: Id | None = Field(
        default=None, description="Id of a candidate that is better than the chosen one."
    )
    thumb: Thumb | None = None
    ratings: RatingsRequest | None = None
    corrected: Annotated[Filled, StringConstraints(max_length=100_000)] | None = Field(
        default=None, description="The chosen reply as it should have been."
    )
    comment: Annotated[Filled, StringConstraints(max_length=4000)] | None = None

    @model_validator(mode="after")
    def _something_is_said(self) -> Self:
        if self == FeedbackRequest.model_construct():
            raise ValueError("say at least one of better, thumb, ratings, corrected, comment")
        return self

    def to_feedback(self, answer: Answer, id_: str, created: datetime) -> Feedback:
        """The feedback, if it can be said of that answer; raises `InvalidRequestError`."""
        winner = answer.winner
        if winner is None:
            for name in ("thumb", "ratings", "corrected"):
                if getattr(self, name) is not None:
                    raise InvalidRequestError(name, "no reply was chosen that it could be about")
        if self.better is not None:
            named = (c.candidate for c in answer.candidates if c.candidate.id == self.better)
            candidate = next(named, None)
            if candidate is None or isinstance(candidate.outcome, Failure):
                raise InvalidRequestError("better", "the answer has no reply of that id")
            if winner and candidate.id == winner.candidate.id:
                raise InvalidRequestError("better", "that is the reply that was chosen")
        ratings = Attributes(**self.ratings.model_dump()) if self.ratings else None
        plain = self.model_dump(exclude={"ratings"})
        return Feedback(id=id_, created=created, ratings=ratings, **plain)


class _OfANoun(BaseModel):
    """A document with the fields of one noun of the domain, from which it is made."""

    model_config = ConfigDict(from_attributes=True)


class AttributesDocument(_OfANoun):
    helpfulness: float
    correctness: float
    coherence: float
    complexity: float
    verbosity: float


class MessageDocument(_OfANoun):
    role: Role
    content: str


class PlanDocument(BaseModel):
    """The fields of `PlanRequest`, without its bounds; what is null is left out."""

    strategy: StrategyName
    samples: int
    threshold: float | None = None
    order: list[str] | None = None
    top_k: int
    aggregator: str | None = None
    floor: float | None = None
    reserves: list[str] | None = None
    quorum: int
    on_partial: OnPartial
    length_control: bool
    hedge_s: float | None = None


class RequestDocument(BaseModel):
    """A body for `POST /answer`. What was stored under other bounds than those of today is shown
    all the same, and refused if it is sent. What is null is left out."""

    messages: list[MessageDocument]
    max_tokens: int
    temperature: float | None = None
    members: list[str]
    deadline_s: float
    weights: AttributesDocument
    plan: PlanDocument
    tags: dict[str, str]


class UsageDocument(_OfANoun):
    input_tokens: int
    output_tokens: int


class FailureDocument(_OfANoun):
    kind: FailureKind
    message: str
    retryable: bool


class StepDocument(_OfANoun):
    """What became of one step of the ladder; `reason` says why it did not score all."""

    name: str
    outcome: StepOutcome
    reason: str | None


class ScorerDocument(_OfANoun):
    """Who gave the scores of this answer, all of them, and what became of the other steps."""

    name: str
    model: str
    scale: Scale
    resolution: float
    note: str | None
    length_slope: float
    ladder: list[StepDocument]


class DecisionDocument(BaseModel):
    strategy: str
    winner: str | None = Field(description="Id of the candidate that was chosen.")
    weights: AttributesDocument
    margin: float | None
    resolution: float = Field(
        description="Margin under these weights below which rewards cannot be told apart."
    )
    tie_break: str | None = Field(
        description="By what a tie went: standing, with the win rates of the tied, or board order."
    )
    reason: str
    votes: dict[str, float] | None
    length_control: str | None
    not_called: list[str]
    tie_order: list[str] = Field(description="Members in the order in which ties go.")
    floor: float | None = Field(description="Reward under which no reply is chosen.")


class TimingsDocument(_OfANoun):
    total_s: float
    slowest_member_s: float
    scoring_s: float
    overhead_s: float


class CandidateDocument(BaseModel):
    id: str
    member: str
    model: str
    rank: int | None
    text: str | None
    finish_reason: FinishReason | None
    scores: AttributesDocument | None
    reward: float | None
    usage: UsageDocument | None
    cost_usd: float | None
    latency_s: float
    dropped_parameters: list[str]
    failure: FailureDocument | None
    score_failure: FailureDocument | None
    score_note: str | None
    extracted: str | None


class StartedDocument(BaseModel):
    """Event: a member has been asked. `GET /answers/{answer_id}` has the answer once it is over."""

    answer_id: str
    member: str


ASKED_WITH = "Id of the API key it was asked with; null if there was none."


class AnswerDocument(BaseModel):
    """The best original reply, with its scores and the evidence for the choice.

    `answer` and what goes with it are null where nothing was chosen: every reply was under the
    plan's floor (`decision.reason` says so), or, in a stored run, too few members replied.
    """

    id: str
    created: datetime
    answer: str | None
    member: str | None
    model: str | None
    scores: AttributesDocument | None
    reward: float | None
    scorer: ScorerDocument
    decision: DecisionDocument
    quality: Quality
    missing: list[str]
    candidates: Sequence[CandidateDocument]
    usage: UsageDocument | None
    cost_usd: float | None = Field(
        description="Of every call to members and scorers, also those that came to nothing; "
        "null if a price or a number of tokens is not known."
    )
    cost_bound_usd: float | None = Field(
        description="The most that these calls can have cost; null if a price is not known."
    )
    timings: TimingsDocument
    tags: dict[str, str]
    key: str | None = Field(description=ASKED_WITH)


class FeedbackDocument(_OfANoun):
    """What a person said of an answer; `ratings` are 0-4."""

    id: str
    created: datetime
    better: str | None
    thumb: Thumb | None
    ratings: AttributesDocument | None
    corrected: str | None
    comment: str | None


class FeedbackListDocument(BaseModel):
    """All that was said of an answer, oldest first."""

    feedback: list[FeedbackDocument]


class SummaryDocument(BaseModel):
    """An answer in a list; `GET /answers/{id}` has the rest."""

    id: str
    created: datetime
    prompt: str = Field(description=f"The user's last message, its first {SHOWN} characters.")
    answer: str | None = Field(description=f"The chosen reply, its first {SHOWN} characters.")
    member: str | None
    model: str | None
    reward: float | None
    scorer: str
    strategy: str
    quality: Quality
    tags: dict[str, str]
    key: str | None = Field(description=ASKED_WITH)
    feedback: int = Field(description="How often something was said of it.")


class SummariesDocument(BaseModel):
    """A page of answers, newest first; `next` is the `cursor` of the next page, null at the end."""

    answers: list[SummaryDocument]
    next: str | None


class ReplyScoreDocument(BaseModel):
    """One reply's score; `failure` says why there is none."""

    scores: AttributesDocument | None
    reward: float | None
    failure: FailureDocument | None
    note: str | None


class ScoresDocument(BaseModel):
    """Scores in the order of the replies, all given by one scorer."""

    scorer: ScorerDocument
    scores: list[ReplyScoreDocument]


class GateDocument(BaseModel):
    """What stands before a member in this process. While the circuit is open it is not called; the
    circuits of processes on one database open and close together, within about a second."""

    circuit: Circuit
    in_progress: int
    waiting: int
    max_concurrency: int | None


class SeatDocument(BaseModel):
    name: str
    provider: str
    model: str
    seated: bool
    why_not: str | None
    healthy: bool | None
    terms: str | None
    trainable: bool = Field(description="Whether its replies may train a model (STaR's teachers).")
    win_rate: float | None = Field(
        description="Share of the answers it competed in where its reply had the highest reward; "
        "null if there are fewer than `standing_min`, or if it is not known."
    )
    competed: int | None = Field(
        description="Answers of the newest 10,000 it competed in, under a scorer that can rank; "
        "null if not known."
    )
    gate: GateDocument | None = Field(description="Null where no calls are made by the board.")


class ModelsDocument(BaseModel):
    members: list[SeatDocument]
    scorer: ScorerDocument


def answer_document(answer: Answer) -> AnswerDocument:
    """The document of an answer; the same whether it has just been made or was stored."""
    ranks = {id_: rank for rank, id_ in enumerate(answer.selection.ranking, start=1)}
    winner = answer.winner
    return AnswerDocument(
        id=answer.id,
        created=answer.created,
        answer=answer.chosen.text if answer.chosen else None,
        member=winner.candidate.member if winner else None,
        model=winner.candidate.model if winner else None,
        scores=_scores(winner.score) if winner else None,
        reward=winner.reward if winner else None,
        scorer=ScorerDocument.model_validate(answer.scorer),
        decision=DecisionDocument(
            strategy=answer.selection.strategy,
            winner=answer.selection.winner,
            weights=AttributesDocument.model_validate(answer.plan.weights),
            margin=answer.selection.margin,
            resolution=answer.plan.resolution,
            tie_break=answer.selection.tie_break,
            reason=answer.selection.reason,
            votes=dict(answer.selection.votes) if answer.selection.votes else None,
            length_control=answer.selection.length_control,
            not_called=list(answer.selection.not_called),
            tie_order=list(answer.plan.tie_order),
            floor=answer.plan.floor,
        ),
        quality=answer.quality,
        missing=list(answer.missing),
        candidates=[candidate_document(c, ranks.get(c.candidate.id)) for c in answer.candidates],
        usage=_total_usage(c.candidate for c in answer.candidates),
        cost_usd=answer.cost_usd,
        cost_bound_usd=answer.cost_bound_usd,
        timings=TimingsDocument.model_validate(answer.timings),
        tags=dict(answer.tags),
        key=answer.key_id,
    )


def request_document(answer: Answer) -> RequestDocument:
    """A body that asks what that answer was asked, in the same way."""
    plan = {name: getattr(answer.plan, name) for name in PlanDocument.model_fields}
    return RequestDocument(
        messages=[
            MessageDocument.model_validate(message)
            for message in answer.prompt.messages
            if message.content.strip()
        ],
        max_tokens=answer.prompt.max_tokens,
        temperature=answer.prompt.temperature,
        members=list(answer.plan.members),
        deadline_s=answer.plan.deadline_s,
        weights=AttributesDocument.model_validate(answer.plan.weights),
        plan=PlanDocument(
            **plan
            | {
                "order": list(answer.plan.order) or None,
                "reserves": list(answer.plan.reserves) or None,
            }
        ),
        tags=dict(answer.tags),
    )


def summary_document(one: Summary) -> SummaryDocument:
    plain = asdict(one)
    return SummaryDocument(answer=plain.pop("reply"), key=plain.pop("key_id"), **plain)


def feedback_document(said: Feedback) -> FeedbackDocument:
    return FeedbackDocument.model_validate(said)


def scores_document(info: ScorerInfo, replies: Sequence[ScoredReply]) -> ScoresDocument:
    return ScoresDocument(
        scorer=ScorerDocument.model_validate(info),
        scores=[
            ReplyScoreDocument(
                scores=_scores(reply.score),
                reward=reply.reward,
                failure=failure_document(reply.score.outcome),
                note=reply.score.note,
            )
            for reply in replies
        ],
    )


def seat_document(
    seat: Seat,
    rate: WinRate | None,
    standing_min: int,
    *,
    healthy: bool | None = None,
    gate: Gate | None = None,
) -> SeatDocument:
    """A seat as shown; `healthy` is None where nobody asked, `rate` where it is not known. A rate
    over fewer than `standing_min` answers is not shown."""
    return SeatDocument(
        name=seat.name,
        provider=seat.spec.provider,
        model=seat.model,
        seated=seat.why_not is None,
        why_not=seat.why_not,
        healthy=healthy,
        terms=seat.terms,
        trainable=seat.trainable,
        win_rate=rate.share if rate and rate.competed >= standing_min else None,
        competed=rate.competed if rate else None,
        gate=_gate(gate) if gate else None,
    )


def _gate(gate: Gate) -> GateDocument:
    return GateDocument(
        circuit=gate.circuit,
        in_progress=gate.in_progress,
        waiting=gate.waiting,
        max_concurrency=gate.max_concurrency,
    )


def failure_document(outcome: object) -> FailureDocument | None:
    return FailureDocument.model_validate(outcome) if isinstance(outcome, Failure) else None


def candidate_document(scored: ScoredCandidate, rank: int | None = None) -> CandidateDocument:
    candidate, score = scored.candidate, scored.score
    done = candidate.outcome if isinstance(candidate.outcome, Completion) else None
    return CandidateDocument(
        id=candidate.id,
        member=candidate.member,
        model=candidate.model,
        rank=rank,
        text=done.text if done else None,
        finish_reason=done.finish_reason if done else None,
        scores=_scores(score),
        reward=scored.reward,
        usage=_usage(done.usage) if done and done.usage else None,
        cost_usd=candidate.cost_usd,
        latency_s=candidate.latency_s,
        dropped_parameters=list(done.dropped_parameters) if done else [],
        failure=failure_document(candidate.outcome),
        score_failure=failure_document(score.outcome) if score else None,
        score_note=score.note if score else None,
        extracted=scored.extracted,
    )


def _scores(score: Score | None) -> AttributesDocument | None:
    if score is None or not isinstance(score.outcome, Attributes):
        return None
    return AttributesDocument.model_validate(score.outcome)


def _usage(usage: Usage) -> UsageDocument:
    return UsageDocument.model_validate(usage)


def _total_usage(candidates: Iterable[Candidate]) -> UsageDocument | None:
    """Tokens of all candidates together, as far as their providers say."""
    known = [
        c.outcome.usage for c in candidates if isinstance(c.outcome, Completion) and c.outcome.usage
    ]
    if not known:
        return None
    return UsageDocument(
        input_tokens=sum(usage.input_tokens for usage in known),
        output_tokens=sum(usage.output_tokens for usage in known),
    )

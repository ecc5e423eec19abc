"""Between the nouns and the rows that keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domain import (
    ATTRIBUTES,
    Answer,
    Attributes,
    Candidate,
    Completion,
    Failure,
    Feedback,
    LadderStep,
    Message,
    Plan,
    Prompt,
    ScalarReward,
    Score,
    ScoredCandidate,
    ScorerInfo,
    Selection,
    Summary,
    Timings,
    Usage,
    Weights,
    WinRate,
)
from app.store.database import aware

Row = Mapping[Any, Any]

_FAILURE = ("kind", "message", "retryable")


def answer_row(answer: Answer) -> Row:
    return {
        "id": answer.id,
        "created": answer.created,
        "messages": answer.prompt.messages,
        "max_tokens": answer.prompt.max_tokens,
        "temperature": answer.prompt.temperature,
        "plan": answer.plan,
        "scorer": answer.scorer,
        "selection": answer.selection,
        "timings": answer.timings,
        "quality": answer.quality,
        "missing": answer.missing,
        "tags": dict(answer.tags),
        "cost_usd": answer.cost_usd,
        "cost_bound_usd": answer.cost_bound_usd,
        "key_id": answer.key_id,
    }


def candidate_rows(answer: Answer) -> list[Row]:
    return [
        {"answer_id": answer.id, "position": position, **_candidate_row(scored)}
        for position, scored in enumerate(answer.candidates)
    ]


def listing_row(answer: Answer, number: int) -> Row:
    return {
        "number": number,
        "answer_id": answer.id,
        "member": answer.winner.candidate.member if answer.winner else None,
        "strategy": answer.selection.strategy,
        "quality": answer.quality,
        "key_id": answer.key_id,
        "has_feedback": False,
    }


def tag_rows(answer: Answer, number: int) -> list[Row]:
    return [{"number": number, "key": k, "value": v} for k, v in answer.tags.items()]


def feedback_row(answer_id: str, said: Feedback) -> Row:
    return {
        "id": said.id,
        "answer_id": answer_id,
        "created": said.created,
        "better": said.better,
        "thumb": said.thumb,
        **_attribute_columns(said.ratings),
        "corrected": said.corrected,
        "comment": said.comment,
    }


def answer_from(
    row: Row, candidate_rows: Sequence[Row], feedback_rows: Sequence[Row] = ()
) -> Answer:
    selection = row["selection"]
    return Answer(
        id=row["id"],
        created=aware(row["created"]),
        prompt=Prompt(
            tuple(Message(**message) for message in row["messages"]),
            row["max_tokens"],
            row["temperature"],
        ),
        plan=_plan_from(row["plan"]),
        candidates=tuple(_candidate_from(candidate) for candidate in candidate_rows),
        selection=Selection(**selection | _tuples(selection, "ranking", "not_called")),
        scorer=_scorer_from(row["scorer"]),
        timings=Timings(**row["timings"]),
        quality=row["quality"],
        missing=tuple(row["missing"]),
        tags=row["tags"],
        cost_usd=row["cost_usd"],
        cost_bound_usd=row["cost_bound_usd"],
        key_id=row["key_id"],
        feedback=tuple(_feedback_from(said) for said in feedback_rows),
    )


def summary_from(row: Row) -> Summary:
    return Summary(**{**row, "created": aware(row["created"])})


def _feedback_from(row: Row) -> Feedback:
    return Feedback(
        id=row["id"],
        created=aware(row["created"]),
        better=row["better"],
        thumb=row["thumb"],
        ratings=_attributes_from(row),
        corrected=row["corrected"],
        comment=row["comment"],
    )


def _plan_from(plan: Row) -> Plan:
    rates = plan.get("win_rates", {})  # answers from before there were standings have none
    return Plan(
        **{
            **plan,
            **_tuples(plan, "members", "order", "reserves", "standing"),
            "weights": Weights(**plan["weights"]),
            "win_rates": {member: WinRate(**rate) for member, rate in rates.items()},
        }
    )


def _tuples(row: Row, *names: str) -> Row:
    """These of a row's lists as tuples; what an older row does not have keeps its default."""
    return {name: tuple(row[name]) for name in names if name in row}


def _scorer_from(scorer: Row) -> ScorerInfo:
    steps = scorer.get("ladder", ())  # answers from before there were ladders have none
    return ScorerInfo(**{**scorer, "ladder": tuple(LadderStep(**step) for step in steps)})


def _candidate_row(scored: ScoredCandidate) -> Row:
    candidate = scored.candidate
    return {
        "id": candidate.id,
        "member": candidate.member,
        "model": candidate.model,
        "latency_s": candidate.latency_s,
        "cost_usd": candidate.cost_usd,
        "reward": scored.reward,
        "extracted": scored.extracted,
        **_outcome_columns(candidate.outcome),
        **_score_columns(scored.score),
    }


def _outcome_columns(outcome: Completion | Failure) -> Row:
    done = outcome if isinstance(outcome, Completion) else None
    usage = done.usage if done else None
    return {
        "text": done.text if done else None,
        "finish_reason": done.finish_reason if done else None,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "dropped_parameters": done.dropped_parameters if done else (),
        **_failure_columns("failure", outcome),
    }


def _score_columns(score: Score | None) -> Row:
    outcome = score.outcome if score else None
    return {
        "score_note": score.note if score else None,
        "score_latency_s": score.latency_s if score else None,
        **_attribute_columns(outcome),
        **_failure_columns("score_failure", outcome),
    }


def _attribute_columns(outcome: object) -> Row:
    given = isinstance(outcome, Attributes)
    return {name: getattr(outcome, name) if given else None for name in ATTRIBUTES}


def _failure_columns(prefix: str, outcome: object) -> Row:
    failed = outcome if isinstance(outcome, Failure) else None
    return {f"{prefix}_{name}": getattr(failed, name, None) for name in _FAILURE}


def _candidate_from(row: Row) -> ScoredCandidate:
    outcome: Completion | Failure | None = _failure_from("failure", row)
    if outcome is None:
        counted = row["input_tokens"] is not None
        usage = Usage(row["input_tokens"], row["output_tokens"]) if counted else None
        dropped = tuple(row["dropped_parameters"])
        outcome = Completion(row["text"], row["finish_reason"], row["model"], usage, dropped)
    candidate = Candidate(
        row["id"], row["member"], row["model"], outcome, row["latency_s"], row["cost_usd"]
    )
    return ScoredCandidate(candidate, _score_from(row), row["reward"], row["extracted"])


def _score_from(row: Row) -> Score | None:
    if row["score_latency_s"] is None:
        return None
    outcome: Attributes | ScalarReward | Failure | None = _failure_from("score_failure", row)
    if outcome is None:
        outcome = _attributes_from(row) or ScalarReward(row["reward"])
    return Score(outcome, row["score_note"], row["score_latency_s"])


def _attributes_from(row: Row) -> Attributes | None:
    if row["helpfulness"] is None:
        return None
    return Attributes(**{name: row[name] for name in ATTRIBUTES})


def _failure_from(prefix: str, row: Row) -> Failure | None:
    if row[f"{prefix}_kind"] is None:
        return None
    return Failure(*(row[f"{prefix}_{name}"] for name in _FAILURE))

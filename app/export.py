"""Stored answers as rows to train from, in the shapes that TRL and HelpSteer's tools read.

`sft`: `prompt` and `completion`, turns in both (TRL's conversational prompt-completion).
`preference`: `prompt`, `chosen`, `rejected`, likewise (TRL's explicit prompt).
`helpsteer`: `prompt`, `response` and the five attributes, as `starboard scorer train` reads them.

What a person said goes before what a scorer said. Only whole replies are taught: one that was cut
off, refused or withheld may be `rejected`, never `chosen`. Every row has a `provenance`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import AsyncIterable, AsyncIterator, Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, assert_never

from app.domain import (
    ATTRIBUTES,
    CANNOT_RANK,
    Answer,
    Attributes,
    Completion,
    Feedback,
    Prompt,
    ScoredCandidate,
    Thumb,
)

Format = Literal["sft", "preference", "helpsteer"]
Row = Mapping[str, object]
Members = Container[str] | None  # None: whoever replied


async def lines(
    answers: AsyncIterable[Answer], shape: Format, members: Members
) -> AsyncIterator[str]:
    """The rows of these answers as JSON lines, each value of one type in all of them.

    `datasets` takes the types from the first 10 MB and stops at the first row that has another, so
    that what may be null, as much of the provenance is, stands in a text.
    """
    async for answer in answers:
        for row in rows(answer, shape, members):
            provenance = json.dumps(row["provenance"], ensure_ascii=False)
            yield json.dumps({**row, "provenance": provenance}, ensure_ascii=False) + "\n"


def rows(answer: Answer, shape: Format, members: Members) -> Iterator[Row]:
    """What one answer gives, if anything, of those members' replies. A rejected reply trains a
    model too; a corrected one counts as its author's, who wrote most of its words.
    """
    match shape:
        case "sft":
            return _sft(answer, members)
        case "preference":
            return _preferences(answer, members)
        case "helpsteer":
            return _labelled(answer, members)
        case _:
            assert_never(shape)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A candidate's text, or a person's correction of it."""

    of: ScoredCandidate
    text: str
    corrected: bool = False

    @property
    def source(self) -> Row:
        return {
            "member": self.of.candidate.member,
            "model": self.of.candidate.model,
            "reward": None if self.corrected else self.of.reward,
        }

    @property
    def turns(self) -> list[Row]:
        return [{"role": "assistant", "content": self.text}]


_Pair = tuple[_Reply, _Reply, Feedback | None]  # chosen, rejected, and who says so


def _sft(answer: Answer, members: Members) -> Iterator[Row]:
    best = _best(answer)
    if best is None or not _from(members, best[0].of):
        return
    reply, by = best
    yield {
        "prompt": _turns(answer.prompt),
        "completion": reply.turns,
        "provenance": {
            **_run(answer),
            **reply.source,
            "corrected": reply.corrected,
            "feedback": by and by.id,
        },
    }


def _preferences(answer: Answer, members: Members) -> Iterator[Row]:
    pairs = list(_said(answer)) or list(_measured(answer))
    for chosen, rejected, by in {(pair[0].text, pair[1].text): pair for pair in pairs}.values():
        if _from(members, chosen.of) and _from(members, rejected.of):
            yield {
                "prompt": _turns(answer.prompt),
                "chosen": chosen.turns,
                "rejected": rejected.turns,
                "provenance": {
                    **_run(answer),
                    "chosen": chosen.source,
                    "rejected": rejected.source,
                    "corrected": chosen.corrected,
                    "feedback": by and by.id,
                },
            }


def _labelled(answer: Answer, members: Members) -> Iterator[Row]:
    rated = [said for said in answer.feedback if said.ratings]
    for scored in answer.candidates:
        text = _text(scored)
        if text is None or not _from(members, scored):
            continue
        by_people = scored is answer.winner and rated
        labels = _mean(rated) if by_people else _scores(answer, scored)
        if labels:
            yield {
                "prompt": _helpsteer(answer.prompt),
                "response": text,
                **{name: float(min(max(label, 0), 4)) for name, label in asdict(labels).items()},
                "provenance": {
                    **_run(answer),
                    **_Reply(scored, text).source,
                    "labelled_by": "people" if by_people else answer.scorer.name,
                    "feedback": [said.id for said in rated] if by_people else [],
                },
            }


def _best(answer: Answer) -> tuple[_Reply, Feedback | None] | None:
    """The reply to imitate, and the feedback that says so: the last word counts."""
    for said in reversed(answer.feedback):
        if said.corrected or said.better:
            reply = _corrected(answer, said) or _better(answer, said)
            return (reply, said) if reply else None
        if said.thumb:
            chosen = _whole(answer.winner)
            return (chosen, said) if chosen and said.thumb == "up" else None
    chosen = _whole(answer.winner)
    return (chosen, None) if chosen else None


def _corrected(answer: Answer, said: Feedback) -> _Reply | None:
    if said.corrected is None or answer.winner is None:
        return None
    return _Reply(answer.winner, said.corrected, corrected=True)


def _better(answer: Answer, said: Feedback) -> _Reply | None:
    named = (one for one in answer.candidates if one.candidate.id == said.better)
    return _whole(next(named, None))


def _said(answer: Answer) -> Iterator[_Pair]:
    """Pairs by feedback: what is better, or the correction, over the chosen reply. A later thumb up
    takes back what was said against the chosen one before."""
    text = _text(answer.winner)
    if answer.winner is None or text is None:
        return
    chosen = _Reply(answer.winner, text)
    praised = [place for place, said in enumerate(answer.feedback) if _only_up(said)]
    for said in answer.feedback[praised[-1] if praised else 0 :]:
        for above in (_corrected(answer, said), _better(answer, said)):
            if above and above.text != text:
                yield above, chosen, said


def _measured(answer: Answer) -> Iterator[_Pair]:
    """The reply with the highest reward over the one with the lowest, if a scorer that can rank
    tells them apart, nobody has turned the first down, and nobody has praised the last."""
    honest = [
        one
        for one in answer.candidates
        if one.reward is not None
        and isinstance(one.candidate.outcome, Completion)
        and not one.candidate.outcome.withheld
    ]
    if answer.scorer.name in CANNOT_RANK or not honest:
        return
    best = max(honest, key=_reward)
    worst = min(honest, key=_reward)
    chosen, rejected = _whole(best), _text(worst)
    thumb = _thumb(answer)
    against = best if thumb == "down" else worst if thumb == "up" else None
    if against is not None and against is answer.winner:
        return
    if chosen is None or rejected is None or chosen.text == rejected:
        return
    if _reward(best) - _reward(worst) > answer.plan.resolution:
        yield chosen, _Reply(worst, rejected), None


def _from(members: Members, scored: ScoredCandidate) -> bool:
    return members is None or scored.candidate.member in members


def _only_up(said: Feedback) -> bool:
    return said.thumb == "up" and not (said.corrected or said.better)


def _thumb(answer: Answer) -> Thumb | None:
    return next((said.thumb for said in reversed(answer.feedback) if said.thumb), None)


def _reward(scored: ScoredCandidate) -> float:
    assert scored.reward is not None
    return scored.reward


def _text(scored: ScoredCandidate | None) -> str | None:
    outcome = scored.candidate.outcome if scored else None
    return outcome.text or None if isinstance(outcome, Completion) else None


def _whole(scored: ScoredCandidate | None) -> _Reply | None:
    """The reply, if it was neither cut off nor withheld."""
    outcome = scored.candidate.outcome if scored else None
    if scored is None or not isinstance(outcome, Completion) or outcome.finish_reason != "stop":
        return None
    return _Reply(scored, outcome.text)


def _scores(answer: Answer, scored: ScoredCandidate) -> Attributes | None:
    outcome = scored.score.outcome if scored.score else None
    if answer.scorer.name in CANNOT_RANK or not isinstance(outcome, Attributes):
        return None
    return outcome


def _mean(rated: list[Feedback]) -> Attributes:
    ratings = [said.ratings for said in rated if said.ratings]
    means = {name: statistics.fmean(getattr(one, name) for one in ratings) for name in ATTRIBUTES}
    return Attributes(**means)


def _run(answer: Answer) -> Row:
    return {
        "answer": answer.id,
        "created": answer.created.isoformat(),
        "strategy": answer.selection.strategy,
        "scorer": answer.scorer.name,
        "scorer_model": answer.scorer.model,
    }


def _turns(prompt: Prompt) -> list[Row]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, *(asdict(turn) for turn in prompt.turns)]


def _helpsteer(prompt: Prompt) -> str:
    """Several turns have HelpSteer2's marks between them; it has no system text of its own."""
    first, *rest = prompt.turns_with_system_folded
    marked = (f"\n<extra_id_1>{turn.role.capitalize()}\n{turn.content}" for turn in rest)
    return first.content + "".join(marked)

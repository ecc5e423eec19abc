"""Problems: read from files, made up, or taken from stored answers; split once and for all.

What this does not do: find two wordings of one problem. Leaks and duplicates are looked for by
question (blanks and capitals aside) and by group, no further.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import string
import unicodedata
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Literal, cast, get_args

from app.domain import Answer, Completion
from app.errors import ConfigurationError, DataError
from app.extraction import read_number
from app.jsonl import Row, read_rows

Shape = Literal["own", "sum", "carry", "gsm8k", "svamp", "commonsenseqa", "arc", "aqua", "stored"]
Kind = Literal["number", "option", "text", "open"]
Part = Literal["train", "validation", "test"]
Choices = tuple[tuple[str, str], ...]

LABELS = string.ascii_uppercase
KEYS = (
    "question and answer (with choices, if there are any); GSM8K's question and answer;"
    " question and answerKey (CommonsenseQA, ARC); Body, Question and Answer (SVAMP);"
    " question, options and correct (AQuA)"
)


@dataclass(frozen=True, slots=True)
class StoredReply:
    """The reply that won when the board was asked, and the member who wrote it."""

    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer.

    `shape` says what layout it came in. `reference` is a number without unit, the label of a
    choice, or a short text; None if nobody knows the answer. `choices` are labels, capitals from
    A on, and texts. `id` is made of question and choices; `group` is what must not straddle the
    split, such as the digits of a sum, and is the id where nothing else is said. `reply` is only
    for problems without a reference: nobody knows whether it is right.
    """

    id: str
    shape: Shape
    question: str
    reference: str | None
    choices: Choices = ()
    group: str = ""
    reply: StoredReply | None = None

    @property
    def kind(self) -> Kind:
        if self.reference is None:
            return "open"
        if self.choices:
            return "option"
        return "text" if read_number(self.reference) is None else "number"


@dataclass(frozen=True, slots=True)
class Shares:
    """What share of the groups is kept for validation and for test."""

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigurationError(
                f"shares of {self.validation} for validation and {self.test} for test leave"
                " nothing to train on: both must be at least 0 and their sum under 1"
            )


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a set of problems."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


def problem(
    shape: Shape, question: str, reference: str | None, choices: Choices = (), group: str = ""
) -> Problem:
    """A problem with its id. Without a group, one question with other choices is of its group."""
    question = question.strip()
    id_ = _digest(question, [text for _, text in choices])
    return Problem(id_, shape, question, reference, choices, group or _digest(question, []))


def normalized(text: str) -> str:
    """What two spellings of one question share: NFKC, lower case, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_problems(path: Path, duplicates: Literal["refuse", "drop"] = "refuse") -> list[Problem]:
    """The problems of a JSON lines file; each row tells by its keys which layout it has.

    A question that stands there twice is refused, or its later rows dropped if they have the same
    reference. Raises `DataError` that names the line, or both.
    """
    seen: dict[str, tuple[str, Problem]] = {}
    for where, row in read_rows(path):
        new = _read(where, row)
        first = seen.setdefault(new.id, (where, new))
        if first[1] is new:
            continue
        if first[1].reference != new.reference:
            raise DataError(
                f"{where}: the question of {first[0]} again, with another answer"
                f" ({new.reference} and {first[1].reference}); delete the wrong row"
            )
        if duplicates == "refuse":
            raise DataError(
                f"{where}: the question of {first[0]} again; delete one of them, or have"
                " duplicates dropped"
            )
    return [known for _, known in seen.values()]


def as_row(problem: Problem) -> dict[str, object]:
    """A row that `read_problems` reads as the same problem."""
    row: dict[str, object] = {
        "shape": problem.shape,
        "question": problem.question,
        "answer": problem.reference,
        "group": problem.group,
    }
    if problem.choices:
        row["choices"] = dict(problem.choices)
    if problem.reply:
        row |= {"reply": problem.reply.text, "by": problem.reply.by}
    return row


def sums(count: int, seed: int = 0) -> list[Problem]:
    """Sums of three one-digit numbers; orders of the same digits are one group."""
    return _drawn("sum", count, seed, product(range(10), repeat=3))


def carries(count: int, seed: int = 0) -> list[Problem]:
    """Sums of two two-digit numbers whose units carry; both orders are one group."""
    pairs = product(range(10, 100), repeat=2)
    return _drawn("carry", count, seed, (p for p in pairs if p[0] % 10 + p[1] % 10 > 9))  # noqa: PLR2004 - what carries


def part(problem: Problem, shares: Shares) -> Part:
    """The part a problem belongs to, by the hash of its group: the same for ever."""
    digest = hashlib.sha256(f"split {problem.group}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    if at < shares.test:
        return "test"
    return "validation" if at < shares.test + shares.validation else "train"


def asked(problem: Problem, mark: str = "") -> str:
    """The question as the user puts it, with its choices; the right one with a mark behind it."""
    if not problem.choices:
        return problem.question
    lines = [
        f"({label.lower()}) {text}{mark if label == problem.reference else ''}"
        for label, text in problem.choices
    ]
    return "\n".join([problem.question, "Answer Choices:", *lines])


def addition(shape: Shape, terms: Sequence[int]) -> Problem:
    """A sum; all orders of its terms are one group."""
    said = " + ".join(map(str, terms))
    group = f"{shape} {_in_order(terms)}"
    return problem(shape, f"What is {said}?", str(sum(terms)), group=group)


def split(
    problems: Iterable[Problem], shares: Shares, shown: frozenset[str] = frozenset()
) -> Split:
    """Every problem in its part, in the order of the ids: as good as shuffled, and the file's
    order does not matter. Problems of groups that are `shown` in worked examples are all for
    training, and so are those without a reference, which measure nothing."""
    parts: Mapping[str, list[Problem]] = {name: [] for name in get_args(Part)}
    for one in sorted(problems, key=lambda p: p.id):
        trains = one.reference is None or one.group in shown
        parts["train" if trains else part(one, shares)].append(one)
    return Split(**{name: tuple(members) for name, members in parts.items()})


def refuse_leaks(train: Iterable[Problem], test: Iterable[Problem], called: str = "test") -> None:
    """Raise `DataError` if a test problem, its question or its group is among the training ones."""
    trained = {key: one for one in train for key in _keys(one)}
    leaks = [(one, trained[key]) for one in test for key in _keys(one) if key in trained]
    if leaks:
        one, known = leaks[0]
        count = len({leaked.id for leaked, _ in leaks})
        raise DataError(
            f"{count} {called} problems are also in training, the first of them"
            f" {one.question[:80]!r} (training has {known.question[:80]!r}); take them out of one"
            " of the two, or split a single set"
        )


async def open_problems(answers: AsyncIterable[Answer], trainable: frozenset[str]) -> list[Problem]:
    """Stored answers as problems without a reference, each with the reply that won.

    Only answers whose winner was written by one of the `trainable` members, is whole, and answers
    a single turn: in a longer conversation the last message is no question of its own. A system
    message stands before the question, for the reply was written under it.
    Of several answers to one question the newest is taken, or, of those that the same scorer scored
    with the newest, the one with the highest reward.
    """
    best: dict[str, tuple[tuple[str, str], float, Problem]] = {}
    async for answer in answers:
        won = answer.winner
        turns = answer.prompt.turns_with_system_folded
        if won is None or won.candidate.member not in trainable or len(turns) > 1:
            continue
        outcome = won.candidate.outcome
        if not isinstance(outcome, Completion) or outcome.finish_reason != "stop":
            continue
        reply = StoredReply(outcome.text, won.candidate.member)
        new = replace(problem("stored", turns[0].content, None), reply=reply)
        reward = -inf if won.reward is None else won.reward
        scorer = answer.scorer.name, answer.scorer.model
        known = best.get(new.id)
        if known is None or known[0] != scorer or reward > known[1]:
            best[new.id] = scorer, reward, new
    return [one for *_, one in best.values()]


def _digest(question: str, choices: Sequence[str]) -> str:
    key = json.dumps([normalized(question), [normalized(text) for text in choices]])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _keys(problem: Problem) -> list[str]:
    """What two problems share of which one gives away the other."""
    keys = [f"id {problem.id}", f"group {problem.group}"]
    # A question from the store has its choices written into it.
    keys += [f"question {normalized(one)}" for one in (problem.question, asked(problem))]
    if terms := _SUM.fullmatch(problem.question):
        keys.append(f"sum {_in_order(map(int, terms[1].split(' + ')))}")
    return keys


_SUM = re.compile(r"What is (\d{1,9}(?: \+ \d{1,9})+)\?")


def _in_order(terms: Iterable[int]) -> str:
    return " ".join(map(str, sorted(terms)))


def _drawn(shape: Shape, count: int, seed: int, terms: Iterable[tuple[int, ...]]) -> list[Problem]:
    every = list(terms)
    if not 0 < count <= len(every):
        raise ConfigurationError(f"there are {len(every)} such sums: ask for 1 to {len(every)}")
    drawn = random.Random(seed).sample(every, count)  # noqa: S311 - no secret depends on it
    return [addition(shape, terms) for terms in drawn]


def _read(where: str, row: Row) -> Problem:
    keys = row.keys()
    if "Body" in keys or "Question" in keys:
        return _svamp(where, row)
    if "options" in keys or "correct" in keys:
        return _aqua(where, row)
    if "answerKey" in keys or isinstance(row.get("question"), dict):
        return _keyed(where, row)
    if "question" in keys:
        return _own(where, row)
    raise DataError(f"{where}: no problem that we know; a row has {KEYS}")


def _own(where: str, row: Row) -> Problem:
    question, shape = _text(where, row, "question"), _shape(where, row)
    if "answer" not in row:
        raise DataError(f"{where}: 'answer' is missing; write null if nobody knows it")
    group = row.get("group", "")
    if not isinstance(group, str):
        raise DataError(f"{where}: 'group' must be a text")
    answer = row["answer"]
    if answer is None:
        reference = None
    elif isinstance(answer, str) and "####" in answer:
        shape, reference = "gsm8k", _number(where, answer.rpartition("####")[2])
    else:
        reference = _answer(where, row, "answer")
    choices: Choices = ()
    if row.get("choices") is not None:
        choices, relabelled = _choices(where, row["choices"])
        if reference is not None:
            reference = _label(where, reference, choices, relabelled)
    made = problem(shape, question, reference, choices, group)
    if reference is None and "reply" in row:
        reply = StoredReply(_text(where, row, "reply"), _text(where, row, "by"))
        made = replace(made, reply=reply)
    return made


def _shape(where: str, row: Row) -> Shape:
    said = row.get("shape", "own")
    for shape in get_args(Shape):
        if said == shape:
            return cast(Shape, shape)
    raise DataError(f"{where}: 'shape' is {said!r}; it can be {', '.join(get_args(Shape))}")


def _keyed(where: str, row: Row) -> Problem:
    """CommonsenseQA and ARC: as they were published, and flat, as the datasets hub has them."""
    question, listed, concept = row.get("question"), row.get("choices"), "question_concept" in row
    if isinstance(question, dict):
        concept = "question_concept" in question
        listed = question.get("choices")
        question = _text(f"{where}, question", question, "stem")
    else:
        question = _text(where, row, "question")
    if listed is None:
        raise DataError(f"{where}: 'choices' is missing")
    choices, relabelled = _choices(where, listed)
    key = _label(where, _text(where, row, "answerKey"), choices, relabelled)
    return problem("commonsenseqa" if concept else "arc", question, key, choices)


def _svamp(where: str, row: Row) -> Problem:
    body, question = _text(where, row, "Body"), _text(where, row, "Question")
    end = "" if body[-1] in ".?!" else "," if question[0].islower() else "."
    return problem(
        "svamp", f"{body}{end} {question}", _number(where, _answer(where, row, "Answer"))
    )


def _aqua(where: str, row: Row) -> Problem:
    question, options = _text(where, row, "question"), row.get("options")
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        raise DataError(f"{where}: 'options' must be a list of texts such as 'A)5'")
    listed = [{"label": o[:1], "text": o[2:].strip()} for o in options]
    choices, relabelled = _choices(where, listed)
    key = _label(where, _text(where, row, "correct"), choices, relabelled)
    return problem("aqua", question, key, choices)


def _choices(where: str, listed: object) -> tuple[Choices, Mapping[str, str]]:
    """Choices labelled from A on, and what their labels were before (ARC also has 1 to 4)."""
    wrong = DataError(f"{where}: 'choices' must be two to {len(LABELS)} different labels and texts")
    if isinstance(listed, dict) and set(listed) == {"label", "text"}:
        listed = list(map(_pair, _list(listed["label"]), _list(listed["text"])))
    elif isinstance(listed, dict):
        listed = list(listed.items())
    elif isinstance(listed, list) and all(isinstance(one, dict) for one in listed):
        listed = [(one.get("label"), one.get("text")) for one in listed]
    elif isinstance(listed, list):
        listed = list(zip(LABELS, listed, strict=False)) if len(listed) <= len(LABELS) else []
    else:
        raise wrong
    texts = [text.strip() for _, text in listed if isinstance(text, str) and text.strip()]
    before = {str(label).strip().upper() for label, _ in listed if label}
    if not 1 < len(texts) == len(listed) == len(before) <= len(LABELS):
        raise wrong
    relabelled = {
        str(label).strip().upper(): new for (label, _), new in zip(listed, LABELS, strict=False)
    }
    return tuple(zip(LABELS, texts, strict=False)), relabelled


def _pair(label: object, text: object) -> tuple[object, object]:
    return label, text


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _label(where: str, key: str, choices: Choices, relabelled: Mapping[str, str]) -> str:
    """The label of the right choice, which a row names by its label or by its text."""
    if label := relabelled.get(key.strip().upper()):
        return label
    named = [label for label, text in choices if normalized(text) == normalized(key)]
    if len(named) != 1:
        raise DataError(f"{where}: the answer {key!r} is none of the choices")
    return named[0]


def _text(where: str, row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key!r} is missing, or is not a text")
    return value.strip()


def _answer(where: str, row: Row, key: str) -> str:
    value = row.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return _text(where, row, key)


def _number(where: str, answer: str) -> str:
    """A number as a rationale is to end with it: without commas."""
    if read_number(answer) is None:
        raise DataError(f"{where}: the answer {answer.strip()!r} is not a number")
    return re.sub(r"(?<=\d),(?=\d{3})", "", answer.strip())

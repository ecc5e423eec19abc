"""Problems: every layout, what is wrong with a row, and a split that never changes."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Answer, Completion, Failure, Message, Prompt
from app.errors import ConfigurationError, DataError
from app.star.problems import (
    Problem,
    Shares,
    StoredReply,
    addition,
    as_row,
    asked,
    carries,
    open_problems,
    part,
    problem,
    read_problems,
    refuse_leaks,
    split,
    sums,
)
from tests.samples import answer, public_data

AB = (("A", "bank"), ("B", "library"))
COMMONSENSE = {
    "answerKey": "B",
    "id": "x",
    "question": {
        "question_concept": "quiet",
        "stem": "Where is it quiet?",
        "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "library"}],
    },
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


# Row, and what it becomes: shape, kind, question, reference, choices.
LAYOUTS: list[tuple[object, ...]] = [
    ({"question": "1 + 1?", "answer": 2}, "own", "number", "1 + 1?", "2", ()),
    ({"question": "Half?", "answer": 0.5}, "own", "number", "Half?", "0.5", ()),
    ({"question": "Capital?", "answer": "Paris"}, "own", "text", "Capital?", "Paris", ()),
    ({"question": "Why?", "answer": None}, "own", "open", "Why?", None, ()),
    (
        {"question": "Quiet?", "answer": "library", "choices": ["bank", "library"]},
        "own",
        "option",
        "Quiet?",
        "B",
        AB,
    ),
    (
        {"question": "Quiet?", "answer": "b", "choices": {"a": "bank", "b": "library"}},
        "own",
        "option",
        "Quiet?",
        "B",
        AB,
    ),
    (
        {"question": "Q?", "answer": "so 600 * 2 = <<600*2=1200>>1,200\n#### 1,200"},
        "gsm8k",
        "number",
        "Q?",
        "1200",
        (),
    ),
    (COMMONSENSE, "commonsenseqa", "option", "Where is it quiet?", "B", AB),
    (
        {
            "question": "Quiet?",
            "question_concept": "quiet",
            "choices": {"label": ["A", "B"], "text": ["bank", "library"]},
            "answerKey": "B",
        },
        "commonsenseqa",
        "option",
        "Quiet?",
        "B",
        AB,
    ),
    (
        {
            "id": "Mercury_1",
            "question": {
                "stem": "Quiet?",
                "choices": [{"text": "bank", "label": "1"}, {"text": "library", "label": "2"}],
            },
            "answerKey": "2",
        },
        "arc",
        "option",
        "Quiet?",
        "B",
        AB,
    ),
    (
        {
            "question": "Quiet?",
            "choices": {"text": ["bank", "library"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        "arc",
        "option",
        "Quiet?",
        "A",
        AB,
    ),
    (
        {"Body": "A pen costs $ 3.", "Question": "What do 2 cost?", "Answer": 6.0},
        "svamp",
        "number",
        "A pen costs $ 3. What do 2 cost?",
        "6",
        (),
    ),
    (
        {"Body": "If a pen costs $ 3", "Question": "what do 2 cost?", "Answer": 6.0},
        "svamp",
        "number",
        "If a pen costs $ 3, what do 2 cost?",
        "6",
        (),
    ),
    (
        {"question": "Quiet?", "options": ["A)bank", "B)library"], "correct": "B"},
        "aqua",
        "option",
        "Quiet?",
        "B",
        AB,
    ),
]


@pytest.mark.parametrize(("row", "expected"), [(row, rest) for row, *rest in LAYOUTS])
def test_every_layout_is_told_by_its_keys(
    tmp_path: Path, row: object, expected: list[object]
) -> None:
    (read,) = read_problems(write(tmp_path / "rows.jsonl", row))
    assert [read.shape, read.kind, read.question, read.reference, read.choices] == expected


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "hello"}, "no problem that we know"),
        ({"question": "Q?"}, "'answer' is missing; write null"),
        ({"question": "", "answer": 1}, "'question' is missing"),
        ({"question": "Q?", "answer": True}, "'answer' is missing"),
        ({"question": "Q?", "answer": float("nan")}, "'answer' is missing"),
        ({"question": "Q?", "answer": [1]}, "'answer' is missing"),
        ({"question": "Q?", "answer": "so\n#### many"}, "'many' is not a number"),
        ({"question": "Q?", "answer": 1, "shape": "riddle"}, "'shape' is 'riddle'; it can be own"),
        ({"question": "Q?", "answer": 1, "group": 3}, "'group' must be a text"),
        ({"question": "Q?", "answer": "C", "choices": ["x", "y"]}, "'C' is none of the choices"),
        ({"question": "Q?", "answer": "x", "choices": ["x", "x"]}, "'x' is none of the choices"),
        ({"question": "Q?", "answer": "A", "choices": ["x"]}, "'choices' must be two to 26"),
        ({"question": "Q?", "answer": "A", "choices": ["x", 3]}, "'choices' must be two to 26"),
        ({"question": "Q?", "answer": "A", "choices": "x, y"}, "'choices' must be two to 26"),
        ({"question": "Q?", "answerKey": "A"}, "'choices' is missing"),
        (
            {"question": "Q?", "answerKey": "A", "choices": {"label": "AB", "text": None}},
            "'choices' must be two to 26",
        ),
        ({"question": {"stem": "Q?"}, "answerKey": "A"}, "'choices' is missing"),
        (COMMONSENSE | {"answerKey": ""}, "'answerKey' is missing"),
        (COMMONSENSE | {"answerKey": "E"}, "'E' is none of the choices"),
        ({"Body": "B.", "Question": "Q?"}, "'Answer' is missing"),
        ({"Question": "Q?", "Answer": 1}, "'Body' is missing"),
        ({"question": "Q?", "options": "A)1", "correct": "A"}, "'options' must be a list"),
        ({"question": "Q?", "options": ["A)1", "B)2"]}, "'correct' is missing"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: object, says: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"question": "Fine?", "answer": 1}, row)
    with pytest.raises(DataError) as caught:
        read_problems(path)
    assert f"{path}, line 2" in str(caught.value)
    assert says in str(caught.value)


def test_gzipped_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"question": "1 + 1?", "answer": 2}).encode()))
    assert read_problems(path)[0].reference == "2"


def test_a_question_twice_is_refused_or_dropped(tmp_path: Path) -> None:
    one, same = {"question": "1 + 1?", "answer": 2}, {"question": " 1  + 1? ", "answer": 2}
    path = write(tmp_path / "rows.jsonl", one, {"question": "2 + 2?", "answer": 4}, same)
    with pytest.raises(DataError, match=r"line 3: the question of .*line 1 again"):
        read_problems(path)
    assert [p.reference for p in read_problems(path, duplicates="drop")] == ["2", "4"]


def test_a_question_with_two_answers_is_never_dropped(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"question": "1 + 1?", "answer": 2},
        {"question": "1 + 1?", "answer": 3},
    )
    with pytest.raises(DataError, match=r"line 2.*with another answer \(3 and 2\)"):
        read_problems(path, duplicates="drop")


def test_the_same_question_with_other_choices_is_another_problem_of_its_group() -> None:
    one = problem("own", "Where is it quiet?", "A", AB)
    other = problem("own", "Where is it quiet?", "A", (("A", "forest"), ("B", "port")))
    assert one.id != other.id
    assert one.group == other.group


def test_rows_read_back_as_the_same_problems(tmp_path: Path) -> None:
    made = [*sums(20), *carries(20), problem("stored", "Why?", None)]
    made.append(problem("arc", "Quiet?", "B", AB))
    assert read_problems(write(tmp_path / "rows.jsonl", *map(as_row, made))) == made


def test_sums_are_right_grouped_and_drawn_by_their_seed() -> None:
    drawn = sums(1000)
    assert len({p.id for p in drawn}) == 1000
    for one in drawn:
        digits = [int(d) for d in one.question.removeprefix("What is ").strip("?").split(" + ")]
        assert one.reference == str(sum(digits))
        assert one.group == "sum " + " ".join(map(str, sorted(digits)))
        assert one.kind == "number"
    assert sums(50, seed=1) == sums(50, seed=1) != sums(50, seed=2)


def test_sums_of_two_digits_carry() -> None:
    drawn = carries(3645)
    assert len({p.id for p in drawn}) == 3645
    for one in drawn:
        a, b = (int(n) for n in one.question.removeprefix("What is ").strip("?").split(" + "))
        assert one.reference == str(a + b)
        assert a % 10 + b % 10 > 9
        assert 10 <= min(a, b) <= max(a, b) <= 99


@pytest.mark.parametrize("count", [0, 1001])
def test_more_sums_than_there_are_cannot_be_asked_for(count: int) -> None:
    with pytest.raises(ConfigurationError, match="there are 1000 such sums"):
        sums(count)


def test_the_split_is_the_same_for_ever() -> None:
    shares = Shares(validation=0.1, test=0.25)
    groups = ("sum 1 2 3", "sum 0 0 0", "sum 4 4 9", "carry 15 27", "carry 38 47", "a", "b", "v")
    parts = [part(Problem("x", "sum", "Q?", "1", group=group), shares) for group in groups]
    assert parts == ["test", "train", "test", "train", "test", "test", "train", "validation"]


def test_the_ids_are_the_same_for_ever() -> None:
    assert problem("own", "What is 1 + 1?", "2").id == "7d05b51ce4769180"
    assert problem("own", "Where is it quiet?", "B", AB).id == "53b1222e8e3feb38"


@given(st.permutations(sums(60)), st.floats(0, 0.4), st.floats(0, 0.4))
def test_no_group_straddles_the_split_in_whatever_order(
    problems: list[Problem], validation: float, test: float
) -> None:
    shares = Shares(validation, test)
    parts = split(problems, shares)
    assert parts == split(sums(60), shares)
    assert len(parts.train) + len(parts.validation) + len(parts.test) == 60
    refuse_leaks(parts.train, parts.test)
    refuse_leaks(parts.train, parts.validation)


def test_a_larger_test_share_keeps_the_old_test_problems() -> None:
    small, large = (split(sums(1000), Shares(0.0, share)).test for share in (0.1, 0.3))
    assert set(small) < set(large)
    assert 200 < len(large) < 400


def test_all_sums_leave_two_hundred_held_out_problems() -> None:
    parts = split(sums(1000), Shares(0.0, 0.25))
    assert len(parts.test) >= 200
    seen = {p.group for p in parts.train}
    assert not any(p.group in seen for p in parts.test)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.0)])
def test_shares_must_leave_something_to_train_on(validation: float, test: float) -> None:
    with pytest.raises(ConfigurationError, match="leave nothing to train on"):
        Shares(validation, test)


def test_leaks_are_refused_by_id_by_group_and_by_question() -> None:
    known = problem("sum", "What is 1 + 2 + 3?", "6", group="sum 1 2 3")
    fresh = problem("sum", "What is 4 + 2 + 3?", "9", group="sum 2 3 4")
    refuse_leaks([known], [fresh])
    permuted = problem("sum", "What is 3 + 2 + 1?", "6", group="sum 1 2 3")
    renamed = replace(fresh, id="other", question="what is  1 + 2 + 3?")
    for leak in (known, permuted, renamed):
        with pytest.raises(DataError, match=r"1 test problems are also in training.*1 \+ 2 \+ 3"):
            refuse_leaks([known], [fresh, leak])


CLAUDE = frozenset({"claude"})


async def opened(*answers: Answer, trainable: frozenset[str] = CLAUDE) -> list[Problem]:
    async def stored() -> AsyncIterator[Answer]:
        for one in answers:
            yield one

    return await open_problems(stored(), trainable)


async def test_stored_answers_become_open_problems_with_the_reply_and_who_wrote_it(
    tmp_path: Path,
) -> None:
    (found,) = await opened(answer())
    assert found.kind == "open"
    assert found.question == "Be brief.\n\nWhy? 蓝\n'"
    assert found.reply == StoredReply("Because.", "claude")
    assert read_problems(write(tmp_path / "p.jsonl", as_row(found))) == [found]


async def test_replies_of_others_broken_ones_and_conversations_are_left_out() -> None:
    stored = answer()
    first = stored.candidates[0]
    asked = stored.prompt.messages[-1]
    talk = replace(
        stored, prompt=Prompt((asked, Message("assistant", "Hm."), Message("user", "Well?")))
    )
    outcomes: list[Completion | Failure] = [
        Completion("No.", "refusal", "claude-x"),
        Completion("Because it", "length", "claude-x"),
        Failure("timeout", "late"),
    ]
    no_reply = [
        replace(
            stored,
            candidates=(replace(first, candidate=replace(first.candidate, outcome=outcome)),),
        )
        for outcome in outcomes
    ]
    nobody = replace(stored, selection=replace(stored.selection, winner=None))
    assert await opened(stored, trainable=frozenset({"gemma"})) == []
    assert await opened(talk, *no_reply, nobody) == []


async def test_of_several_answers_to_one_question_the_best_rewarded_is_taken() -> None:
    def rewarded(text: str, reward: float | None) -> Answer:
        stored = answer()
        first = stored.candidates[0]
        said = replace(first.candidate, outcome=Completion(text, "stop", "claude-x"))
        return replace(stored, candidates=(replace(first, candidate=said, reward=reward),))

    low, high = rewarded("low", -2.0), rewarded("high", -1.0)
    (best,) = await opened(rewarded("none", None), low, high, rewarded("high too", -1.0), low)
    assert best.reply == StoredReply("high", "claude")


def test_a_reply_is_read_only_where_nobody_knows_the_answer(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "so", "reply": "Because.", "by": "claude"}
    (known,) = read_problems(write(tmp_path / "known.jsonl", row))
    assert known.reply is None
    del row["by"]
    with pytest.raises(DataError, match="'by' is missing"):
        read_problems(write(tmp_path / "open.jsonl", row | {"answer": None}))


def test_problems_without_a_reference_are_all_for_training() -> None:
    unanswered = [problem("own", f"Why {n}?", None) for n in range(30)]
    parts = split([*sums(30), *unanswered], Shares(0.4, 0.4))
    assert {one for one in parts.train if one.reference is None} == set(unanswered)
    assert all(one.reference for one in (*parts.validation, *parts.test))


@pytest.mark.parametrize(
    ("file", "count", "kind"),
    [
        ("gsm8k/train.jsonl.gz", 7473, "number"),
        ("gsm8k/test.jsonl.gz", 1319, "number"),
        ("svamp.jsonl.gz", 1000, "number"),
        ("commonsenseqa/train.jsonl.gz", 9741, "option"),
        ("commonsenseqa/dev.jsonl.gz", 1221, "option"),
        ("aqua/dev.jsonl.gz", 254, "option"),
        ("aqua/test.jsonl.gz", 254, "option"),
    ],
)
def test_the_public_sets_are_read_whole(file: str, count: int, kind: str) -> None:
    read = read_problems(public_data(file) / file)
    assert len(read) == count
    assert {p.kind for p in read} == {kind}


async def test_stored_questions_are_found_where_they_are_tested(tmp_path: Path) -> None:
    """A choice with its options written out, and a sum in another order."""
    keyed = read_problems(write(tmp_path / "p.jsonl", COMMONSENSE))[0]
    for written, tested in (
        (asked(keyed), keyed),
        ("What is 5 + 3 + 9?", addition("sum", (3, 9, 5))),
    ):
        stored = problem("stored", written, None)
        with pytest.raises(DataError, match="1 test problems are also in training"):
            refuse_leaks([stored], [tested])


async def test_rewards_of_two_scorers_are_not_compared() -> None:
    first = answer()

    def by(scorer: str, reward: float, text: str) -> Answer:
        won = first.candidates[0]
        candidate = replace(won.candidate, outcome=Completion(text, "stop", "claude-x"))
        scored = replace(won, candidate=candidate, score=None, reward=reward)
        return replace(
            first,
            candidates=(scored, *first.candidates[1:]),
            scorer=replace(first.scorer, name=scorer),
        )

    nvidia, better, worse = (
        by("nvidia", -2.0, "a"),
        by("nvidia", -1.0, "b"),
        by("nvidia", -3.0, "c"),
    )
    embedded = by("embedded", 4.0, "d")
    for answers, text in (
        ((nvidia, better, worse), "b"),
        ((embedded, nvidia), "a"),
        ((nvidia, embedded), "d"),
    ):
        (found,) = await opened(*answers)
        assert found.reply is not None
        assert found.reply.text == text


def test_what_a_worked_example_shows_is_trained_on() -> None:
    every = sums(1000)
    shown = every[0].group
    found = split(every, Shares(0.4, 0.4), frozenset({shown}))
    orders = [one for one in every if one.group == shown]
    assert len(orders) > 1
    assert set(orders) <= set(found.train)

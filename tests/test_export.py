"""What stored answers give to train from; TRL and our own trainer read the rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from app.domain import (
    CANNOT_RANK,
    Answer,
    Attributes,
    Feedback,
    Message,
    Prompt,
    Score,
    ScoredCandidate,
    Selection,
)
from app.export import Format, lines, rows
from app.scorers.examples import read_examples
from tests.samples import competition, failed, scored

EVERYBODY = frozenset("abcd")
TURNS = (
    Message("system", "Be brief."),
    Message("user", "One?"),
    Message("assistant", "1"),
    Message("user", "Two?"),
)


def chosen(
    *entries: ScoredCandidate,
    feedback: Sequence[dict[str, Any]] = (),
    scorer: str = "judge:x",
    turns: tuple[Message, ...] = TURNS,
) -> Answer:
    """An answer of these candidates, the first of them chosen; a margin of 0.1 is a tie."""
    one = competition(1, *entries, scorer=scorer)
    said = (
        Feedback(f"fb_{n}", one.created + timedelta(n), **values)
        for n, values in enumerate(feedback)
    )
    selection = Selection("comp_1_0", (), "best_of_n", "chosen")
    prompt = Prompt(turns)
    return replace(one, selection=selection, feedback=tuple(said), prompt=prompt)


def made(answer: Answer, shape: Format, members: frozenset[str] = EVERYBODY) -> list[Any]:
    return list(rows(answer, shape, members))


def texts(answer: Answer) -> list[tuple[str, str]]:
    """Chosen and rejected texts."""
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in made(answer, "preference")
    ]


def taught(answer: Answer) -> list[str]:
    return [row["completion"][0]["content"] for row in made(answer, "sft")]


TWO = (scored("a", 2.0), scored("b", 1.0))


def test_an_answer_is_a_conversation_with_its_origin() -> None:
    assert made(chosen(*TWO), "sft") == [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in TURNS],
            "completion": [{"role": "assistant", "content": "reply of a"}],
            "provenance": {
                "answer": "comp_1",
                "created": "2026-11-22T13:05:00+00:00",
                "strategy": "best_of_n",
                "scorer": "judge:x",
                "scorer_model": "m",
                "member": "a",
                "model": "model-a",
                "reward": 2.0,
                "corrected": False,
                "feedback": None,
            },
        }
    ]


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ([{"thumb": "up"}], ["reply of a"]),
        ([{"thumb": "down"}], []),
        ([{"thumb": "down"}, {"thumb": "up"}], ["reply of a"]),
        ([{"thumb": "down"}, {"comment": "hm"}], []),
        ([{"corrected": "So."}], ["So."]),
        ([{"corrected": "So."}, {"better": "comp_1_1"}], ["reply of b"]),
        ([{"corrected": "So.", "better": "comp_1_1", "thumb": "down"}], ["So."]),
        ([{"better": "comp_1_1"}, {"thumb": "up"}], ["reply of a"]),
        ([{"ratings": Attributes(0, 0, 0, 0, 0)}], ["reply of a"]),
    ],
)
def test_the_last_word_of_people_says_what_is_taught(
    feedback: list[dict[str, Any]], expected: list[str]
) -> None:
    assert taught(chosen(*TWO, feedback=feedback)) == expected


@pytest.mark.parametrize("finish_reason", ["length", "refusal", "content_filter", "other"])
def test_only_whole_replies_are_taught(finish_reason: Any) -> None:
    broken = scored("a", 2.0, finish_reason=finish_reason)
    assert taught(chosen(broken, scored("b", 1.0))) == []
    assert texts(chosen(broken, scored("b", 1.0))) == []
    better = [{"better": "comp_1_1"}]
    assert texts(chosen(scored("b", 1.0), broken, feedback=better)) == []
    assert texts(chosen(broken, scored("b", 1.0), feedback=better)) == [
        ("reply of b", "reply of a")
    ]


def test_nothing_is_made_of_what_nobody_replied() -> None:
    lost = replace(chosen(failed("a")), selection=Selection(None, (), "best_of_n", "none"))
    for shape in get_args(Format):
        assert made(lost, shape) == []


def test_a_pair_is_the_highest_reward_over_the_lowest() -> None:
    answer = chosen(scored("a", 2.0), scored("b", 1.0), scored("c", 3.0), failed("d"))
    (row,) = made(answer, "preference")
    assert row["chosen"] == [{"role": "assistant", "content": "reply of c"}]
    assert row["rejected"] == [{"role": "assistant", "content": "reply of b"}]
    assert row["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert row["provenance"]["chosen"] == {"member": "c", "model": "model-c", "reward": 3.0}
    assert row["provenance"]["rejected"] == {"member": "b", "model": "model-b", "reward": 1.0}


@pytest.mark.parametrize(
    "entries",
    [
        (scored("a", 1.0),),
        (scored("a", 1.0), scored("b", None)),
        (scored("a", 2.0, text="same"), scored("b", 1.0, text="same")),
        (scored("a", 2.0), scored("b", 1.0, finish_reason="refusal")),
    ],
)
def test_no_pair_where_nothing_was_compared(entries: tuple[ScoredCandidate, ...]) -> None:
    assert texts(chosen(*entries)) == []


def test_no_pair_within_the_resolution_or_by_a_scorer_that_cannot_rank() -> None:
    answer = chosen(*TWO)
    wide, narrow = (replace(answer.plan, resolution=margin) for margin in (1.0, 0.99))
    assert texts(replace(answer, plan=wide)) == []
    assert texts(replace(answer, plan=narrow)) == [("reply of a", "reply of b")]
    for weak in CANNOT_RANK:
        assert texts(chosen(*TWO, scorer=weak)) == []


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ([{"better": "comp_1_1"}], [("reply of b", "reply of a")]),
        ([{"corrected": "So."}], [("So.", "reply of a")]),
        (
            [{"corrected": "So.", "better": "comp_1_1"}],
            [("So.", "reply of a"), ("reply of b", "reply of a")],
        ),
        ([{"better": "comp_1_1"}, {"better": "comp_1_1"}], [("reply of b", "reply of a")]),
        ([{"corrected": "reply of a"}], [("reply of a", "reply of b")]),  # nothing was corrected
        ([{"thumb": "down"}], []),
        ([{"thumb": "up"}], [("reply of a", "reply of b")]),
        ([{"better": "comp_1_1"}, {"thumb": "up"}], [("reply of a", "reply of b")]),
        ([{"corrected": "So."}, {"thumb": "up"}], [("reply of a", "reply of b")]),
        ([{"thumb": "up"}, {"better": "comp_1_1"}], [("reply of b", "reply of a")]),
        ([{"better": "comp_1_1", "thumb": "up"}], [("reply of b", "reply of a")]),
        ([{"corrected": "So."}, {"thumb": "down"}], [("So.", "reply of a")]),
    ],
)
def test_what_people_prefer_goes_before_rewards(
    feedback: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    assert texts(chosen(*TWO, feedback=feedback)) == expected


def test_what_was_praised_is_not_rejected_for_its_reward() -> None:
    """A vote may choose what the scorer likes least."""
    entries = (scored("a", 1.0), scored("b", 2.0))
    assert texts(chosen(*entries)) == [("reply of b", "reply of a")]
    assert texts(chosen(*entries, feedback=[{"thumb": "up"}])) == []
    assert texts(chosen(*entries, feedback=[{"thumb": "down"}])) == [("reply of b", "reply of a")]


def test_both_replies_of_a_pair_must_be_trainable() -> None:
    answer = chosen(*TWO, feedback=[{"corrected": "So."}, {"better": "comp_1_1"}])
    assert len(made(answer, "preference")) == 2
    (own,) = made(answer, "preference", frozenset("a"))
    assert own["chosen"][0]["content"] == "So."
    assert own["provenance"]["chosen"] == {"member": "a", "model": "model-a", "reward": None}
    assert own["provenance"]["corrected"]
    assert made(answer, "preference", frozenset("b")) == []
    assert made(answer, "sft", frozenset("a")) == []
    assert made(chosen(scored("a (fusion)", 1.0)), "sft") == []
    assert list(rows(chosen(scored("a (fusion)", 1.0)), "sft", None))


def labelled(*numbers: float) -> ScoredCandidate:
    return replace(scored("b", 1.0), score=Score(Attributes(*numbers)))


def test_labels_are_peoples_where_there_are_and_else_the_scorers(tmp_path: Path) -> None:
    ratings = ({"ratings": Attributes(*numbers)} for numbers in ((4, 4, 4, 0, 1), (3, 4, 4, 0, 2)))
    answer = chosen(
        scored("a", 2.0), labelled(1.5, 4.2, -0.1, 1, 2), scored("c", 1.0), feedback=[*ratings]
    )
    people, scorer = made(answer, "helpsteer")
    assert people["prompt"] == "Be brief.\n\nOne?\n<extra_id_1>Assistant\n1\n<extra_id_1>User\nTwo?"
    assert [people[name] for name in ("response", "helpfulness", "verbosity")] == [
        "reply of a",
        3.5,
        1.5,
    ]
    assert people["provenance"]["labelled_by"] == "people"
    assert people["provenance"]["feedback"] == ["fb_0", "fb_1"]
    assert scorer["provenance"]["labelled_by"] == "judge:x"
    assert [scorer[name] for name in ("helpfulness", "correctness", "coherence")] == [1.5, 4.0, 0.0]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, (people, scorer))))
    first, second = read_examples([path])
    assert first.prompt.turns == answer.prompt.turns_with_system_folded
    assert first.labels == ((3.5, 4.0, 4.0, 0.0, 1.5),)
    assert second.replies == ("reply of b",)


def test_labels_of_a_scorer_that_cannot_rank_are_left_out() -> None:
    for weak in CANNOT_RANK:
        assert made(chosen(labelled(1, 1, 1, 1, 1), scorer=weak), "helpsteer") == []


def as_datasets(answers: Sequence[Answer], shape: Format, folder: Path) -> tuple[Any, list[Any]]:
    """What `datasets` makes of an export, its types taken from the first row, and the rows."""
    datasets = pytest.importorskip("datasets")

    async def stored() -> AsyncIterator[Answer]:
        for answer in answers:
            yield answer

    async def written() -> list[str]:
        return [line async for line in lines(stored(), shape, EVERYBODY)]

    path = folder / f"{shape}.jsonl"
    path.write_text("".join(told := asyncio.run(written())))
    read = datasets.Dataset.from_json(str(path), cache_dir=str(folder), chunksize=1)
    return read, [json.loads(line) for line in told]


PLAIN = chosen(*TWO, turns=TURNS[1:2])
CORRECTED = chosen(*TWO, feedback=[{"corrected": "So."}])
RATED = chosen(labelled(1, 1, 2, 3, 4), feedback=[{"ratings": Attributes(1, 2, 3, 4, 0)}])
HALVES = chosen(labelled(0.5, 1, 1.5, 2, 4.2), labelled(1, 1, 1, 1, 1), scorer="nvidia")


@pytest.mark.parametrize("shape", get_args(Format))
@pytest.mark.parametrize(
    "answers",
    [
        [PLAIN] * 3 + [CORRECTED, RATED, HALVES],
        [CORRECTED] * 3 + [PLAIN, RATED, HALVES],
        [HALVES, RATED, PLAIN, CORRECTED],
    ],
)
def test_every_row_of_an_export_has_the_types_of_the_first(
    shape: Format, answers: list[Answer], tmp_path: Path
) -> None:
    read, told = as_datasets(answers, shape, tmp_path)
    assert len(told) >= 2
    assert list(read) == told
    assert all(json.loads(row["provenance"])["answer"] == "comp_1" for row in read)


@pytest.mark.parametrize("shape", ["sft", "preference"])
def test_trl_takes_the_rows_for_conversations(shape: Format, tmp_path: Path) -> None:
    """With the columns that its trainers look for, and in each what it stands for."""
    trl = pytest.importorskip("trl")
    read, _ = as_datasets([PLAIN, CORRECTED], shape, tmp_path)
    texts = {
        "sft": {"completion": "So."},
        "preference": {"chosen": "So.", "rejected": "reply of a"},
    }[shape]
    for row in read:
        assert trl.data_utils.is_conversational(row)
        assert {*row} == {"prompt", *texts, "provenance"}
    assert read[1]["prompt"] == [{"role": m.role, "content": m.content} for m in TURNS]
    for column, text in texts.items():
        assert read[1][column] == [{"role": "assistant", "content": text}]

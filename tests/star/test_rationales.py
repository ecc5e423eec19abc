"""Rationales: asked for, judged, kept or dropped with the reason said; and the rows they make."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain import Completion, Failure, FinishReason
from app.star.dataset import direct_rows, preference_rows, training_rows
from app.star.problems import Problem, problem, sums
from app.star.rationales import (
    Asking,
    Keeping,
    Origin,
    Rationale,
    bare,
    counted,
    hinted,
    judged,
    kept,
    unsolved,
)

SUM = problem("sum", "What is 3 + 4 + 5?", "12")
OTHER = problem("sum", "What is 1 + 1 + 1?", "3")
OPEN = problem("stored", "Why?", None)
RIGHT = "3 + 4 = 7. 7 + 5 = 12. The answer is 12."


def made(
    text: str,
    finish: FinishReason = "stop",
    origin: Origin = "generated",
    keeping: Keeping = Keeping(),  # noqa: B008 - frozen
) -> Rationale:
    return judged(SUM, 0, origin, Completion(text, finish, "m"), by="m", keeping=keeping)


def rationale(text: str, sample: int = 0, of: Problem = SUM, **changes: object) -> Rationale:
    plain = Rationale(of.id, sample, "generated", text, "m", "right", "true")
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "finish", "why_not"),
    [
        (RIGHT, "stop", None),
        ("The answer is 12.", "stop", None),
        ("3 + 4 = 8. 8 + 5 = 12. The answer is 12.", "stop", "a false step"),
        ("The answer is 13.", "stop", "wrong answer"),
        ("I do not know.", "stop", "no answer that could be read"),
        (RIGHT, "length", "cut off"),
        (RIGHT, "content_filter", "withheld: content_filter"),
    ],
)
def test_why_a_rationale_is_dropped(text: str, finish: FinishReason, why_not: str | None) -> None:
    assert made(text, finish).why_not == why_not


@pytest.mark.parametrize(
    "text", [f"As the hint says, {RIGHT}", "3 + 4 + 5 (12). The answer is 12."]
)
def test_only_who_was_hinted_can_speak_of_the_hint(text: str) -> None:
    assert made(text, origin="rationalized").why_not == "speaks of the hint"
    assert made(text).why_not is None


def test_steps_are_checked_only_if_so_said() -> None:
    wrong_way = "3 + 4 = 8. 8 + 5 = 12. The answer is 12."
    assert made(wrong_way, keeping=Keeping(check_steps=False)).why_not is None


def test_what_was_not_written_is_dropped_with_its_kind() -> None:
    found = judged(SUM, 2, "generated", Failure("timeout", "late"), by="m", keeping=Keeping())
    assert (found.why_not, found.verdict, found.sample) == ("not written: timeout", "unverified", 2)


def test_each_sample_is_a_prompt_and_only_hinted_ones_hold_the_answer() -> None:
    asking = Asking(3, 0.7, 99)
    for prompts in (bare(SUM, asking, shots=True), hinted(SUM, asking)):
        assert [p.sample for p in prompts] == [0, 1, 2]
        assert {(p.temperature, p.max_tokens) for p in prompts} == {(0.7, 99)}
    assert "12" not in bare(SUM, asking, shots=False)[0].messages[-1].content
    assert "(12)" in hinted(SUM, asking)[0].messages[-1].content


def test_only_failures_with_a_reference_are_rationalized() -> None:
    dropped = rationale("x", of=OTHER, why_not="wrong answer")
    assert unsolved([SUM, OTHER, OPEN], [rationale(RIGHT), dropped]) == [OTHER]


def test_the_cap_prefers_generated_then_reward_then_sample() -> None:
    ones = [
        rationale("h", 0, origin="rationalized"),
        rationale("a", 0),
        rationale("b", 1, reward=2.0),
        rationale(" A", 2),
        rationale("c", 3, why_not="wrong answer"),
    ]
    found = {one.text: one.why_not for one in kept(ones, Keeping(cap=2), 0)}
    assert found == {
        "b": None,
        "a": None,
        " A": "the same text again",
        "c": "wrong answer",
        "h": "over the cap of 2 a problem",
    }


@pytest.mark.parametrize(("share", "left"), [(1.0, 8), (0.5, 4), (0.2, 1), (0.0, 0)])
def test_the_share_of_rationalized_ones_is_capped(share: float, left: int) -> None:
    problems = sums(12)
    ones = [rationale(RIGHT, of=p) for p in problems[:4]]
    ones += [rationale(RIGHT, of=p, origin="rationalized") for p in problems[4:]]
    found = kept(ones, Keeping(max_rationalized=share), 3)
    standing = [one for one in found if one.why_not is None]
    assert len(found) == 12
    assert sum(one.origin == "rationalized" for one in standing) == left
    assert sum(one.origin == "generated" for one in standing) == 4
    # The same ones whatever order they come in.
    again = kept(ones[::-1], Keeping(max_rationalized=share), 3)
    assert {one.problem for one in again if one.why_not is None} == {
        one.problem for one in standing
    }


def test_counted_by_origin_and_reason() -> None:
    ones = [
        rationale("a"),
        rationale("b", origin="rationalized"),
        rationale("c", why_not="cut off"),
    ]
    assert counted(ones) == {"generated": 1, "rationalized": 1, "cut off": 1}


def test_a_training_row_is_the_bare_question_and_what_was_kept() -> None:
    ones = [rationale("first"), rationale("no", 1, why_not="cut off"), rationale("x", of=OTHER)]
    assert training_rows([OTHER, SUM], ones) == [
        {
            "prompt": [{"role": "user", "content": one.question}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for one, text in ((OTHER, "x"), (SUM, "first"))
    ]


def test_direct_rows_hold_the_answer_alone() -> None:
    rows = direct_rows([SUM, OPEN])
    assert [row["completion"][0]["content"] for row in rows] == ["The answer is 12."]


def test_preferences_pair_what_was_kept_with_a_wrong_answer() -> None:
    ones = [
        rationale("good"),
        rationale("bad", 1, verdict="wrong", why_not="wrong answer"),
        rationale("unread", 2, verdict="unverified", why_not="no answer that could be read"),
        rationale("alone", of=OTHER),
    ]
    (row,) = preference_rows([SUM, OTHER], ones)
    assert [row[key][0]["content"] for key in ("prompt", "chosen", "rejected")] == [
        SUM.question,
        "good",
        "bad",
    ]

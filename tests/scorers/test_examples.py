from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Message, Prompt
from app.errors import DataError
from app.scorers.examples import WORTHLESS, Example, read_examples, split, spoiled, with_spoiled

LABELS = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def asked(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def test_helpsteer_rows_become_labelled_replies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "p", "response": "r", **LABELS})
    assert read_examples([path]) == [
        Example("labelled", asked("p"), ("r",), ((3.0, 4.0, 4.0, 1.0, 2.0),))
    ]


def test_helpsteer_s_marks_of_turns_become_turns(tmp_path: Path) -> None:
    text = "one\n<extra_id_1>Assistant\ntwo\n<extra_id_1>User\nthree"
    path = write(tmp_path / "a.jsonl", {"prompt": text, "response": "r", **LABELS})
    [example] = read_examples([path])
    assert example.prompt.turns == (
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )


def test_pairs_become_replies_the_better_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "p", "better": "b", "worse": "w", "set": "s"})
    assert read_examples([path]) == [Example("s", asked("p"), ("b", "w"))]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"prompt": "p"}, "line 1: needs prompt, response and the five attributes"),
        ({"prompt": "p", "better": "b"}, "line 1: needs prompt, better and worse"),
        ({"prompt": "p", "response": "r", **LABELS, "verbosity": 5}, "verbosity must be a number"),
        ({"prompt": "p", "response": "r", **LABELS, "verbosity": True}, "verbosity must be"),
        ({"prompt": "p", "response": "r"}, "helpfulness must be"),
        ({"prompt": " ", "response": "r", **LABELS}, "line 1"),
        (
            {"prompt": "a\n<extra_id_1>Assistant\nb", "response": "r", **LABELS},
            "line 1: .*user",
        ),
    ],
)
def test_a_row_that_is_wrong_says_where_and_what(
    tmp_path: Path, row: dict[str, object], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        read_examples([write(tmp_path / "a.jsonl", row)])


def test_both_kinds_are_not_mixed(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", {"prompt": "p", "better": "b", "worse": "w"})
    labels = write(tmp_path / "b.jsonl", {"prompt": "p", "response": "r", **LABELS})
    with pytest.raises(DataError, match="choose one"):
        read_examples([pairs, labels])


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1), st.randoms())
def test_no_prompt_is_on_both_sides_in_whatever_order(
    prompts: list[str], draw: random.Random
) -> None:
    examples = [Example("s", asked(text), ("b", "w")) for text in prompts]
    training, validation = split(examples, 0.4)
    assert sorted(map(str, [*training, *validation])) == sorted(map(str, examples))
    assert not {e.prompt for e in training} & {e.prompt for e in validation}
    draw.shuffle(examples)
    assert set(split(examples, 0.4)[1]) == set(validation)


def test_a_split_has_about_its_share() -> None:
    examples = [Example("s", asked(f"prompt {n}"), ("b", "w")) for n in range(2000)]
    assert len(split(examples, 0.1)[1]) == pytest.approx(200, abs=40)
    assert split(examples, 0)[1] == []


def test_a_spoiled_reply_is_the_last_and_worth_nothing() -> None:
    pair = Example("s", asked("p"), ("an honest reply", "a worse one"))
    other = Example("s", asked("q"), ("about something else", "too"))
    examples = with_spoiled([pair, other] * 20, 1.0, seed=3)
    assert all(e.replies[:2] in (pair.replies, other.replies) for e in examples)
    assert {len(e.replies) for e in examples} == {3}
    labelled = Example("s", asked("p"), ("an honest reply",), ((3.0,) * 5,))
    [made] = with_spoiled([labelled], 1.0, seed=3)
    assert made.labels == ((3.0,) * 5, WORTHLESS)


def test_only_the_share_is_spoiled_and_the_seed_says_which() -> None:
    examples = [Example("s", asked(f"p {n}"), ("one two", "b")) for n in range(1000)]
    made = with_spoiled(examples, 0.3, seed=1)
    assert sum(len(e.replies) == 3 for e in made) == pytest.approx(300, abs=60)
    assert made == with_spoiled(examples, 0.3, seed=1)
    assert made != with_spoiled(examples, 0.3, seed=2)


def test_spoiled_replies_are_of_every_kind_and_never_the_honest_one() -> None:
    draw = random.Random(5)
    honest = "Water boils at one hundred degrees at the level of the sea."
    example = Example("s", asked("When does water boil?"), (honest, "never"))
    other = Example("s", asked("Who are you?"), ("A language model.", "I"))
    made = {spoiled(example, other, draw) for _ in range(400)}
    assert honest not in made
    assert {"", "When does water boil?", "A language model."} < made
    assert any(text.startswith("</") for text in made)
    assert max(len(text.split()) for text in made) <= 160

"""What a model is shown: worked examples, questions, hints.

Few-shot prompts are chats: the user asks, the assistant reasons, once for each shot. Every
rationale, ours and those we ask for, ends in "The answer is X.": a number without unit, the
bracketed letter of a choice, or a short text. The hints are those of the paper (arXiv
2203.14465): " (CORRECT)" behind the right choice, and the reference in brackets behind any other
question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from app.domain import Message
from app.star.problems import Problem, addition, asked, problem

CORRECT = " (CORRECT)"


@dataclass(frozen=True, slots=True)
class Shot:
    """A problem with a rationale for it."""

    problem: Problem
    rationale: str


def zero_shot(problem: Problem) -> tuple[Message, ...]:
    """The bare question, as adapters are trained and sampled."""
    return (Message("user", asked(problem)),)


def few_shot(problem: Problem, shots: Sequence[Shot]) -> tuple[Message, ...]:
    """Worked examples, then the question: how the base model is sampled."""
    return (*_worked(shots, hint=False), Message("user", asked(problem)))


def with_hint(problem: Problem, shots: Sequence[Shot]) -> tuple[Message, ...]:
    """Worked examples and the question, each with its answer as a hint: for rationalization.

    Raises `ValueError` for a problem without a reference.
    """
    return (*_worked(shots, hint=True), Message("user", hinted(problem)))


def hinted(problem: Problem) -> str:
    """The question with its answer. Raises `ValueError` if there is no reference."""
    if problem.reference is None:
        raise ValueError("a problem without a reference has no hint")
    if problem.choices:
        return asked(problem, CORRECT)
    return f"{problem.question} ({problem.reference})"


def closing(problem: Problem) -> str:
    """The sentence a right rationale ends in. Raises `ValueError` if there is no reference."""
    if problem.reference is None:
        raise ValueError("a problem without a reference has no answer to close with")
    said = f"({problem.reference.lower()})" if problem.choices else problem.reference
    return f"The answer is {said}."


def shots_for(problem: Problem) -> tuple[Shot, ...]:
    """Our shots for problems of this kind; those without a reference get the word problems."""
    if problem.shape in ("sum", "carry"):
        return SHOTS[problem.shape]
    match problem.kind:
        case "option":
            return SHOTS["choice"]
        case "text":
            return SHOTS["text"]
        case "number" | "open":
            return SHOTS["word"]
        case other:
            assert_never(other)


def _worked(shots: Sequence[Shot], *, hint: bool) -> list[Message]:
    turns = []
    for shot in shots:
        question = hinted(shot.problem) if hint else asked(shot.problem)
        turns += [Message("user", question), Message("assistant", shot.rationale)]
    return turns


def _sum(*terms: int) -> Shot:
    first, second, third = terms
    said = f"{first} + {second} = {first + second}. {first + second} + {third} = {sum(terms)}."
    asks = addition("sum", terms)
    return Shot(asks, f"{said} {closing(asks)}")


def _carry(one: int, other: int) -> Shot:
    """Units, the carry, tens, and both put together, each step an equation to check."""
    units, tens = one % 10 + other % 10, one // 10 + other // 10 + 1
    said = (
        f"Units: {one % 10} + {other % 10} = {units}, write {units - 10}, carry 1."
        f" Tens: {one // 10} + {other // 10} + 1 = {tens}."
        f" {tens * 10} + {units - 10} = {one + other}."
    )
    asks = addition("carry", (one, other))
    return Shot(asks, f"{said} {closing(asks)}")


def _worded(question: str, answer: str, steps: str) -> Shot:
    asks = problem("own", question, answer)
    return Shot(asks, f"{steps} {closing(asks)}")


def _chosen(question: str, choices: str, right: str, why: str) -> Shot:
    texts = choices.split(", ")
    labelled = tuple(zip("ABCDE", texts, strict=True))
    asks = problem("own", question, "ABCDE"[texts.index(right)], labelled)
    return Shot(asks, f"{why} {closing(asks)}")


# All written for this project. The right choice stands in every place at least once.
SHOTS: Mapping[str, tuple[Shot, ...]] = {
    "sum": (_sum(3, 9, 5), _sum(7, 1, 4), _sum(8, 8, 2), _sum(0, 6, 9), _sum(5, 2, 1)),
    "carry": (_carry(47, 38), _carry(65, 29), _carry(19, 11), _carry(86, 57), _carry(98, 34)),
    "word": (
        _worded(
            "A baker fills 6 trays with 8 rolls each and sells 31 of the rolls before noon. How"
            " many rolls are left?",
            "17",
            "There are 6 * 8 = 48 rolls. After 31 are sold, 48 - 31 = 17 rolls are left.",
        ),
        _worded(
            "Lena saves $15 a week. She wants a tent for $180 and has $45 already. For how many"
            " weeks must she save?",
            "9",
            "She still needs 180 - 45 = 135 dollars. That takes 135 / 15 = 9 weeks.",
        ),
        _worded(
            "A train has 9 coaches with 64 seats each. If 25% of the seats are empty, how many"
            " are taken?",
            "432",
            "The train has 9 * 64 = 576 seats. Empty are 25% of 576 = 144 seats."
            " Taken are 576 - 144 = 432 seats.",
        ),
        _worded(
            "Omar is twice as old as his sister. In 6 years their ages will add up to 45. How old"
            " is Omar now?",
            "22",
            "In 6 years both will be 6 years older, so now their ages add up to 45 - 2 * 6 = 33."
            " That is three times the age of his sister. She is 33 / 3 = 11 and Omar is"
            " 2 * 11 = 22 years old.",
        ),
        _worded(
            "A recipe for 4 people takes 1.5 liters of milk. How many liters does it take for 10"
            " people?",
            "3.75",
            "One person needs 1.5 / 4 = 0.375 liters. Ten people need 0.375 * 10 = 3.75 liters.",
        ),
        _worded(
            "Three friends share the cost of a boat. It costs $40 for the first hour and $23 for"
            " every further hour, and they keep it for 5 hours. How much does each of them pay?",
            "44",
            "After the first hour there are 5 - 1 = 4 further hours. They cost 4 * 23 = 92 dollars."
            " The boat costs 40 + 92 = 132 dollars. Each pays 132 / 3 = 44 dollars.",
        ),
        _worded(
            "A library had 1,240 books. It gave away 1/8 of them and then bought 95 new ones. How"
            " many books does it have now?",
            "1180",
            "It gave away 1/8 of 1240 = 155 books. That left 1240 - 155 = 1085 books."
            " With the new ones it has 1085 + 95 = 1180 books.",
        ),
        _worded(
            "Nora walks 3 km to school and back again on each of 5 days, and 4 km on Saturday. How"
            " many kilometers does she walk in 2 such weeks?",
            "68",
            "To school and back it is 3 * 2 = 6 km. Five days make 6 * 5 = 30 km, and with Saturday"
            " it is 30 + 4 = 34 km. In two weeks she walks 34 * 2 = 68 km.",
        ),
    ),
    "choice": (
        _chosen(
            "What do people use to see where they step when they walk home on a moonless night?",
            "umbrella, torch, newspaper, whistle, mirror",
            "torch",
            "On a moonless night it is dark, and to see one needs something that gives light. Of"
            " these only a torch gives light.",
        ),
        _chosen(
            "The pond froze over in the night. What did the ducks most likely do in the morning?",
            "swim in circles, dive for plants, stand on the ice, lay eggs in July, read a map",
            "stand on the ice",
            "A frozen pond has a hard surface, so nobody can swim or dive in it. Ducks that come to"
            " it must stay on top.",
        ),
        _chosen(
            "Where would you look for a spare button?",
            "sewing box, oven, mailbox, fish tank, garage roof",
            "sewing box",
            "Buttons are sewn onto clothes, and what is needed for sewing is kept together with"
            " needle and thread.",
        ),
        _chosen(
            "Why would someone put a letter under a pile of heavy books?",
            "to read it, to send it, to heat it, to flatten it, to copy it",
            "to flatten it",
            "A heavy pile presses on what lies below. Paper that is pressed for a while loses its"
            " folds.",
        ),
        _chosen(
            "Which of these does a plant take from the air to build sugar?",
            "helium, soil, sound, salt, carbon dioxide",
            "carbon dioxide",
            "In photosynthesis plants make sugar out of water and a gas of the air, with the energy"
            " of light. Soil, sound and salt are no gases, and helium takes part in nothing.",
        ),
        _chosen(
            "A shop sells pencils at 3 for 2 dollars. What do 12 pencils cost?",
            "6 dollars, 8 dollars, 12 dollars, 18 dollars, 24 dollars",
            "8 dollars",
            "Twelve pencils are 12 / 3 = 4 packs. They cost 4 * 2 = 8 dollars.",
        ),
        _chosen(
            "What is a guest expected to do on leaving a dinner?",
            "wash the car, order more, thank the host, fall asleep, paint a wall",
            "thank the host",
            "Someone has cooked for the guests and received them. It is polite to say that one is"
            " grateful before going.",
        ),
    ),
    "text": (
        _worded(
            "Which day of the week is three days after Thursday?",
            "Sunday",
            "One day after Thursday is Friday, two days after is Saturday, three days after is"
            " Sunday.",
        ),
        _worded(
            'What are the last letters of the words "garden path", put together?',
            "nh",
            "The last letter of garden is n. The last letter of path is h. Together they are nh.",
        ),
        _worded(
            "Ben is taller than Ida, and Ida is taller than Max. Who is the shortest?",
            "Max",
            "Ben is taller than Ida, so Ben is not the shortest. Ida is taller than Max, so Ida is"
            " not the shortest either. That leaves Max.",
        ),
        _worded(
            "A coin lies heads up. Ann turns it over, then Tom turns it over. Which side is up?",
            "heads",
            "Two turns bring a coin back to where it began. It began heads up.",
        ),
    ),
}

# Whose answers the base is shown: they are not to be tested.
SHOWN = frozenset(shot.problem.group for shots in SHOTS.values() for shot in shots)

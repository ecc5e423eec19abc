"""Verification: right answers in any spelling, unreadable ones never wrong."""

from __future__ import annotations

import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.star.problems import Problem, problem
from app.star.steps import check_steps
from app.star.verify import leaks_hint, verify

QUIET = problem(
    "commonsenseqa",
    "Where is it quiet?",
    "B",
    (("A", "bank"), ("B", "library"), ("C", "a market"), ("D", "100 m"), ("E", "none of these")),
)


def asks(reference: str) -> Problem:
    return problem("own", "How many?", reference)


@pytest.mark.parametrize(
    ("reference", "text", "verdict"),
    [
        ("18", "9 * 2 = 18. The answer is 18.", "right"),
        ("18", "9 * 2 = 18\n#### 18", "right"),
        ("18", "so \\boxed{18}", "right"),
        ("18", "**Final answer:** $18.00 every day at the farmers' market, as computed", "right"),
        ("18", "The answer is 18. I hope this answer is correct.", "right"),
        ("18", "The answer is 17. No, the answer is 18.", "right"),
        ("18", "The answer is 18. Next question: what is 3 + 4?", "right"),
        ("18", "The answer is 17.", "wrong"),
        ("18", "The answer is 18. No, the answer is 17.", "wrong"),
        ("18", "The answer is eighteen.", "unverified"),
        ("18", "The answer is not 18.", "unverified"),
        ("18", "The answer is between 18 and 19.", "unverified"),
        ("18", "The answer is 18x.", "unverified"),
        ("18", "The answer is A18.", "unverified"),
        ("18", "There are 18 of them, I think, or maybe some more", "unverified"),
        ("18", "", "unverified"),
        ("1234", "The answer is 1,234.", "right"),
        ("1234", "The answer is 1 234 km.", "right"),
        ("1234", "The answer is $1{,}234$.", "right"),
        ("1,234", "The answer is 1234.", "right"),
        ("2000000", "The answer is 2 million dollars.", "right"),
        ("2", "The answer is 2 million.", "right"),
        ("24", "The answer is 2 dozen.", "right"),
        ("0.5", "The answer is 50 cents.", "right"),
        ("50", "The answer is 50%.", "right"),
        ("50%", "The answer is 0.5.", "right"),
        ("50%", "The answer is 50 percent.", "right"),
        ("50%", "The answer is 1/2.", "right"),
        ("5", "The answer is 50%.", "wrong"),
        ("0.5", "The answer is .5.", "right"),
        ("0.5", "The answer is \\frac{1}{2}.", "right"),
        ("2.5", "The answer is 2 1/2 hours.", "right"),
        ("2.5", "The answer is 2\u00bd.", "right"),
        ("21/2", "The answer is 2\u00bd.", "wrong"),
        ("102", "The answer is 10\u00b2.", "wrong"),
        ("0.111", "The answer is 0,111.", "right"),
        ("2.74", "The answer is 2,74 \u20ac.", "right"),
        ("-3", "The answer is -3.", "right"),
        ("-3", "The answer is \u22123 degrees.", "right"),
        ("-3", "The answer is -$3.", "right"),
        ("3", "The answer is -3.", "wrong"),
        ("-3", "The answer is x - 3.", "unverified"),
        ("16386.16", "The answer is 16386.1576.", "right"),
        ("33.33", "The answer is 100/3.", "right"),
        ("33.33", "The answer is 33.3.", "wrong"),
        ("33", "The answer is 33.33.", "wrong"),
        ("3", "The answer is 9/0.", "unverified"),
        ("15", "The answer is 15 cm\u00b2.", "right"),
        ("3", "The answer is " + "3" * 5000, "unverified"),
    ],
)
def test_numbers(reference: str, text: str, verdict: str) -> None:
    assert verify(asks(reference), text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It is where one reads. The answer is (b).", "right"),
        ("The answer is B.", "right"),
        ("The answer is b)", "right"),
        ("The answer is B because one reads there.", "right"),
        ("Answer: option B", "right"),
        ("Therefore, the answer is library (b).", "right"),
        ("The answer is the library.", "right"),
        ("The answer is **(B) library**.", "right"),
        ("The answer is \\boxed{\\text{B}}.", "right"),
        ("One reads there, so it must be library (b).", "right"),
        ("The answer is (c).", "wrong"),
        ("The answer is a market.", "wrong"),
        ("The answer is A.", "wrong"),
        ("The answer is (f).", "wrong"),
        ("The answer is 100 m.", "wrong"),
        ("The answer is a quiet place.", "unverified"),
        ("The answer is (a) or (b).", "unverified"),
        ("The answer is bank (b).", "unverified"),
        ("The answer is hard to tell.", "unverified"),
        ("One can read in a library and nobody minds", "unverified"),
        ("", "unverified"),
    ],
)
def test_options(text: str, verdict: str) -> None:
    assert verify(QUIET, text) == verdict


@pytest.mark.parametrize(
    ("reference", "text", "verdict"),
    [
        ("Paris", "The answer is Paris.", "right"),
        ("The Hague", "The answer is **the hague**.", "right"),
        ("Paris", "The answer is Lyon.", "wrong"),
        ("Paris", "The answer is Paris in France.", "unverified"),
        ("Paris", "It could be a number of cities in the north", "unverified"),
        ("!", "The answer is Paris.", "unverified"),
        ("x < 1", "The answer is $x < 1$.", "right"),
        ("x < 1", "The answer is $x > -1$.", "wrong"),
        ("(0,9)", "The answer is $[0,9)$.", "wrong"),
        ("\\frac{x+2}{7}", "The answer is $\\frac{x}{7}+\\frac{2}{7}$.", "right"),
        ("\\sqrt{2}", "The answer is $\\sqrt{3}$.", "wrong"),
        ("\\{1, 2\\}", "Both \\boxed{1} and \\boxed{2}", "right"),
        ("\\text{odd}", "The answer is odd.", "right"),
        ("x^2", "The answer is something with a square in it.", "unverified"),
        ("x^2", "The answer is " + "x+" * 100 + "1", "unverified"),
    ],
)
def test_texts_and_formulas(reference: str, text: str, verdict: str) -> None:
    assert verify(asks(reference), text) == verdict


def test_an_open_problem_is_never_verified() -> None:
    assert verify(problem("stored", "Why?", None), "The answer is 18.") == "unverified"


def test_without_math_verify_formulas_are_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert verify(asks("\\sqrt{2}"), "The answer is $\\sqrt{3}$.") == "unverified"
    assert verify(asks("\\sqrt{2}"), "The answer is $\\sqrt{2}$.") == "right"
    assert verify(asks("1/2"), "The answer is $\\frac{1}{2}$.") == "right"


def test_formulas_are_verified_off_the_main_thread() -> None:
    verdicts = []

    def work() -> None:
        verdicts.append(verify(asks("\\frac{x+2}{7}"), "The answer is $\\frac{x}{7}+\\frac{2}{7}$"))
        verdicts.append(verify(asks("\\sqrt{2}"), "The answer is $\\sqrt{3}$."))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert verdicts == ["right", "wrong"]


@pytest.mark.parametrize("bomb", ["9^{9^{9^{9}}}", "99999999!", "2^{9!}", "((9!)!)!", "10^{99999}"])
def test_formulas_that_never_end_are_not_begun(bomb: str) -> None:
    started = time.monotonic()
    assert verify(asks("\\sqrt{2}"), f"The answer is ${bomb}$") == "unverified"
    assert time.monotonic() - started < 10


numbers = st.fractions(-(10**6), 10**6, max_denominator=1) | st.decimals(
    -(10**6), 10**6, allow_nan=False, places=2
).map(Fraction)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[str, str]:
    """A number plainly, and in one of its spellings."""
    value = draw(numbers)
    plain = f"{float(value):.2f}" if value.denominator > 1 else str(value.numerator)
    sign, bare = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    whole, point, decimals = bare.partition(".")
    grouped = f"{int(whole):,}{point}{decimals}"
    spellings = {
        plain,
        sign + grouped,
        sign + grouped.replace(",", "{,}"),
        ("\u2212" if sign else "") + bare,
        f"{sign}${grouped}",
        f"{plain} apples",
        f"{plain} dollars per week",
        f"about {plain}" if sign else plain,
        f"{value.numerator}/{value.denominator}",
        f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}",
        plain + ("0" if point else ".0"),
        f"{float(value * 100):.0f}%",
        f"${plain}$",
        f"**{plain}**",
    }
    frame = draw(
        st.sampled_from(
            ["The answer is {}.", "#### {}", "\\boxed{{{}}}", "A: {}", "**Answer:** {}", "{}"]
        )
    )
    return plain, frame.format(draw(st.sampled_from(sorted(spellings))))


@given(spelled())
def test_a_number_is_itself_in_every_spelling(case: tuple[str, str]) -> None:
    plain, text = case
    assert verify(asks(plain), text) == "right"


@given(spelled(), numbers)
def test_no_other_number_is_right(case: tuple[str, str], other: Fraction) -> None:
    plain, text = case
    # Percentages may be meant either way.
    assume("%" not in text and Fraction(plain) != other)
    assert verify(asks(str(float(other))), text) == "wrong"


@given(st.text())
def test_any_text_has_a_verdict(text: str) -> None:
    for asked in (asks("18"), asks("Paris"), asks("\\sqrt{2}"), QUIET):
        assert verify(asked, text) in ("right", "wrong", "unverified")
    leaks_hint(QUIET, text)
    assert check_steps(text) in ("true", "false", "unchecked")


@pytest.mark.parametrize(
    ("asked", "text", "leaks"),
    [
        (asks("72"), "24 * 3 = 72. The answer is 72.", False),
        (asks("72"), "24 pens cost (72) dollars. The answer is 72.", True),
        (asks("72"), "What do 24 cost? (72) The answer is 72.", True),
        (asks("72"), "3 * (72) = 216, 216 / (72) = 3. The answer is 72.", False),
        (asks("72"), "By the hint it is 72. The answer is 72.", True),
        (asks("72"), "As given, it is 72. The answer is 72.", True),
        (asks("72"), "The given answer is 72, so the answer is 72.", True),
        (asks("72"), "The answer was given as 72. The answer is 72.", True),
        (asks("Paris"), "The capital is a city. (Paris) The answer is Paris.", True),
        (asks("Paris"), "The capital is Paris. The answer is Paris.", False),
        (QUIET, "It is (b) library (CORRECT). The answer is (b).", True),
        (QUIET, "Library is marked as correct. The answer is (b).", True),
        (QUIET, "One reads there, which is correct. The answer is (b).", False),
        (problem("own", "Ann gives 3 hints. How many?", "3"), "3 hints. The answer is 3.", False),
        (problem("own", "Ann gives 3 clues. How many?", "3"), "3 hints. The answer is 3.", True),
        (problem("stored", "Why?", None), "As given, it is so.", True),
    ],
)
def test_hints_that_show(asked: Problem, text: str, leaks: bool) -> None:
    assert leaks_hint(asked, text) == leaks

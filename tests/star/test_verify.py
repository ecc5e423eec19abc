"""Verification: right answers in any spelling, unreadable ones never wrong, steps worked out."""

from __future__ import annotations

import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.star.problems import Problem, problem
from app.star.steps import check_steps, equations
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
    assert time.monotonic() - started < 1


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


@given(st.text(alphabet="0123456789 +-*/=().,%x$<>apt\n"))
def test_any_scribbling_has_its_steps(text: str) -> None:
    assert check_steps(text) in ("true", "false", "unchecked")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("3 + 9 = 12. 12 + 5 = 17. The answer is 17.", "true"),
        ("3 + 9 = 12. 12 + 5 = 18. The answer is 18.", "false"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.", "true"),
        ("She makes 9 * 2 = $<<9*2=19>>18 every day.", "false"),
        ("3 apples * 2 = 6 apples", "true"),
        ("3 apples * 2 = 7 apples", "false"),
        ("$5 - $3 = $2, and $1,200 + 300 = $1,500.", "true"),
        ("12 \u00d7 3 = 36 and 36 \u00f7 4 = 9; 3x4=12; 10 \u2013 4 = 6", "true"),
        ("12 x 3 = 36 x 2 = 72", "false"),
        ("3 + 4 = 7 = 8 - 1", "true"),
        ("(3 + 4) * 2 = 14", "true"),
        ("(as 3 + 4 = 7)", "true"),
        ("3 plus 4 equals 7, and 3 times 4 is equal to 12", "true"),
        ("3 plus 4 equals 8", "false"),
        ("$3 \\times 4 = 12$ and \\frac{1}{2} * 4 = 2", "true"),
        ("So **3 + 4 = 8**.", "false"),
        ("1) 3 + 4 = 7\n- 3 + 5 = 8\n2. 2 + 2 = 4", "true"),
        ("-3 + 5 = 2", "true"),
        ("5 -3 = 2", "true"),
        ("9 - 18 / -2 = 18", "true"),
        ("5 / 2 = 2 1/2", "true"),
        ("25 / 1/3 = 75", "true"),
        ("1/3 of 9 = 3, and 20% of 50 = 10", "true"),
        ("20% of 50 = 11", "false"),
        ("10 / 50 * 100 = 20%, which is 10 / 50 = 20%", "true"),
        ("100 + 20% = 120", "true"),
        ("1 / 3 = 0.33 and 2 / 3 = 0.667 and 2 / 3 = 0.66", "true"),
        ("2 / 3 = 0.65", "false"),
        ("7 / 2 = 3", "false"),
        ("20 minutes / 240 minutes = 8.333...%", "true"),
        ("60 miles per hour * 2 hours = 120 miles", "true"),
        ("60 miles per hour * 2 hours = 130 miles", "false"),
        ("The total = 3 + 4 = 8", "false"),
        # What is not plain arithmetic is left alone.
        ("No sums here.", "unchecked"),
        ("x + 3 = 5 and 3x = 12 and 12 = 4y", "unchecked"),
        ("Half of 10 = 5, the sum of 3 and 4 = 7", "unchecked"),
        ("Half of 10 + 2 = 7", "unchecked"),
        ("2 hours = 120 minutes, 2 hours + 30 minutes = 150 minutes", "unchecked"),
        ("50 cents * 4 = $2 and 3 * 12 = 3 dozen", "unchecked"),
        ("8 boxes = 5.5 * 8 = 44 cups", "true"),
        ("5 apples - she eats 3 = 2", "unchecked"),
        ("7 adults + Shonda (1) + 2 = 10", "unchecked"),
        ("2^3 = 8, 5\u00b2 + 1 = 26, 2**3 = 8, 2(3 + 4) = 14", "unchecked"),
        ("3 + 4 \u2248 8, 3 + 4 != 8, 3 + 4 <= 8, 3 + 4 => 8", "unchecked"),
        ("Step 2 = 14, day 3 + 4 = 9", "unchecked"),
        ("5 / 0 = 0", "unchecked"),
        ("So 1% is equal to $450/90.", "unchecked"),
        ("1/4 cup + 1 and 1/4 cup = 1.5 cups", "unchecked"),
        ("It is 9 because - 18/-2 = 9", "unchecked"),
        ("It is 12 because 12 = 3 * 4", "true"),
        ("So 13 = 3 * 4", "false"),
        ("3:4 = 6:8", "unchecked"),
        ("0,5 * 4 = 2", "unchecked"),
        ("5 = 5", "unchecked"),
        ("", "unchecked"),
    ],
)
def test_steps(text: str, steps: str) -> None:
    assert check_steps(text) == steps


def test_every_equation_is_shown_as_it_was_read() -> None:
    shown = equations("He has 3 apples * 2 = 6 apples, and 6 + 1 = 8.")
    assert [(one.text, one.holds) for one in shown] == [("3 * 2 = 6", True), ("6 + 1 = 8", False)]


@st.composite
def sums(draw: st.DrawFn, depth: int = 2) -> tuple[str, Fraction]:
    """A term in one of its spellings, and what it comes to."""
    if depth == 0 or draw(st.booleans()):
        count = draw(st.integers(0, 20000))
        spelling = draw(st.sampled_from(["{}", "{:,}", "${:,}", "{} apples", "{:,} of them"]))
        # "of" after a number in a fraction would multiply.
        return (spelling if depth == 2 else "{}").format(count), Fraction(count)
    (left, a), (right, b) = draw(sums(depth=depth - 1)), draw(sums(depth=depth - 1))
    sign = draw(st.sampled_from("+-*/"))
    assume(sign != "/" or b)
    value = a / b if sign == "/" else {"+": a + b, "-": a - b, "*": a * b}[sign]
    shown = draw(st.sampled_from({"*": "*×x", "/": "/÷", "-": "-\u2212"}.get(sign, sign)))
    blank = draw(st.sampled_from(["", " "]))
    return f"({left}{blank}{shown}{blank}{right})", value


@st.composite
def equation(draw: st.DrawFn) -> tuple[str, str, str]:
    """The two sides of a true equation, and a sentence around it."""
    (left, a), (right, b) = draw(sums()), draw(sums())
    sign, value = draw(st.sampled_from([("+", a + b), ("-", a - b), ("*", a * b)]))
    assume(value.denominator in (1, 2, 4, 5, 8, 10, 100))
    result = str(value.numerator) if value.denominator == 1 else str(float(value))
    assume("e" not in result)
    frame = draw(
        st.sampled_from(
            ["{}", "So she has {} now.", "- {}", "<<{}>>", "**{}**", "({})", "Total: {}"]
        )
    )
    return f"{left} {sign} {right}", result, frame


@given(equation())
def test_a_true_equation_is_never_called_false(case: tuple[str, str, str]) -> None:
    left, right, frame = case
    assert check_steps(frame.format(f"{left} = {right}")) == "true"
    assert check_steps(frame.format(f"{right} = {left}")) in ("true", "unchecked")


@given(equation(), st.data())
def test_an_equation_with_another_digit_is_false(
    case: tuple[str, str, str], data: st.DataObject
) -> None:
    left, right, frame = case
    places = [k for k, char in enumerate(right) if char.isdigit()]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != right[place]]))
    changed = right[:place] + digit + right[place + 1 :]
    assert check_steps(frame.format(f"{left} = {changed}")) == "false"


@pytest.mark.parametrize(
    "bomb",
    ["1+" * 9000 + "1=3", "(" * 9000, "1 a " * 9000, "1=" * 9000, "<<" * 9000, "\\boxed{" * 3000],
)
def test_long_scribblings_take_no_time(bomb: str) -> None:
    started = time.monotonic()
    check_steps(bomb)
    verify(asks("18"), bomb)
    assert time.monotonic() - started < 2


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

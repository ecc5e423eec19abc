"""Steps: every equation in plain arithmetic, true or false, however it is spelt."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.star.problems import problem
from app.star.steps import check_steps, equations
from app.star.verify import verify


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
    verify(problem("own", "How many?", "18"), bomb)
    assert time.monotonic() - started < 10

"""Verify rationales: the answer, and that no hint shows. The steps are in `steps.py`.

An answer is read as `app/extraction.py` reads it: where the text says what its answer is. What
cannot be read is "unverified", never "wrong". LaTeX needs the extra `math`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

from app.extraction import Number, canonical, read_number, same_expression, stated
from app.star.problems import Problem, normalized

Verdict = Literal["right", "wrong", "unverified"]

# A number with this many decimals may stand for one with more.
PLACES = 2
# What may stand around a number that is an answer: "18 dollars every day at the market".
AROUND = 80
SCALES = {
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "dozen": Fraction(12),
    "cent": Fraction(1, 100),
    "percent": Fraction(1, 100),
    "pct": Fraction(1, 100),
    "percentage": Fraction(1, 100),
    "¢": Fraction(1, 100),
}


def verify(problem: Problem, text: str) -> Verdict:
    """Whether the answer a text states is the reference answer."""
    if problem.reference is None:
        return "unverified"
    match problem.kind:
        case "option":
            return _option(problem, text)
        case "number":
            return _number(problem.reference, text)
        case _:
            return _words(problem.reference, text)


def leaks_hint(problem: Problem, text: str) -> bool:
    """Whether a rationale speaks of its hint, or copies it.

    Words that the question itself uses give nothing away.
    """
    said = normalized(text)
    asked = normalized(problem.question)
    if any(hit[0] not in asked for hit in _HINT.finditer(said)):
        return True
    if problem.reference is None or problem.choices:
        return False
    # " (72)" after a word or a sentence is the hint; in "3 * (72)" it is a factor.
    bare = re.escape(normalized(problem.reference))
    return any(
        hit[0].strip() not in asked
        for hit in re.finditer(rf"(?<![-+*/×÷=(])\s\({bare}\)(?!\s*[-+*/×÷=])", said)
    )


_HINT = re.compile(
    r"\(correct\)|\bhint(?:s|ed)?\b|\bas given\b|\b(?:given|provided|reference|known) answer\b"
    r"|\banswer (?:is|was|has been) (?:already )?(?:given|provided|known|marked)\b"
    r"|\bmarked (?:as )?(?:the )?correct\b|\b(?:told|know) (?:that )?the answer is\b"
)


def _number(reference: str, text: str) -> Verdict:
    said, right = stated(text), read_number(reference)
    if said is None or right is None:
        return "unverified"
    number = read_number(said, AROUND)
    if number is None:
        return _expressions(reference, said)
    return "right" if _same(right, number) else "wrong"


def _same(one: Number, other: Number) -> bool:
    """Equal in one of their readings, or one the other rounded to two decimals or more."""
    if any(a == b for a in _readings(one) for b in _readings(other)):
        return True
    for short, full in ((one, other), (other, one)):
        if short.places is not None and short.places >= PLACES and short.percent == full.percent:
            more = full.places is None or full.places > short.places
            step = Fraction(1, 10**short.places * (100 if short.percent else 1))
            if more and abs(short.value - full.value) * 2 <= step:
                return True
    return False


def _readings(number: Number) -> Iterator[Fraction]:
    """A number with a scale after it may be meant in that scale or not: 50 %, 2 million."""
    yield number.value
    if number.percent:
        yield number.value * 100
    if unit := re.match(r"[^\W\d_]+|¢", number.unit.lower()):
        scale = SCALES.get(unit[0], SCALES.get(unit[0].removesuffix("s")))
        if scale is not None:
            yield number.value * scale


def _option(problem: Problem, text: str) -> Verdict:
    said = stated(text)
    if said is None:
        # As in the paper: a bracketed letter that ends the text.
        last = re.search(r"\(([A-Za-z])\)\W*$", text)
        said = last[0] if last else ""
    named = _named(problem, said)
    if len(named) != 1:
        return "unverified"
    return "right" if named == {problem.reference} else "wrong"


def _named(problem: Problem, said: str) -> set[str]:
    """The choices an answer names: by its letters, or by the text of one of them."""
    said = re.sub(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", r"\1", said)
    said = said.strip().strip("*_`$. ")
    letters = {letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", said)}
    if not letters:
        bare = re.match(r"([A-Za-z])(?:$|[).:,*]|\s+(?:because|since|as)\b)", said)
        bare = bare or re.match(r"(?:option|choice)\s+([A-Za-z])\b", said, re.IGNORECASE)
        letters = {bare[1].upper()} if bare else set()
    words = re.sub(r"^\(?[A-Za-z]\)?[).:]\s*|\s*\([A-Za-z]\)\W*$", "", said)
    texts = {label for label, text in problem.choices if _alike(text, words)}
    # A letter with the text of another choice names both, and so neither.
    return letters | texts if not letters & texts else letters


def _alike(text: str, words: str) -> bool:
    if not words:
        return False
    one, other = read_number(text), read_number(words)
    if one and other:
        return one.value == other.value
    return canonical(text) == canonical(words) is not None


def _words(reference: str, text: str) -> Verdict:
    said = stated(text)
    if said is None:
        return "unverified"
    if re.search(r"[\\^_{}$=<>|]|\d", reference):
        same = _squeezed(reference) == _squeezed(said)
        return "right" if same else _expressions(reference, said)
    right, theirs = canonical(reference), canonical(said)
    if right is None or theirs is None:
        return "unverified"
    if right == theirs:
        return "right"
    # "Paris in France" for "Paris", or the other way about, is for nobody here to judge.
    one, other = set(right.split()), set(theirs.split())
    return "unverified" if one <= other or other <= one else "wrong"


def _squeezed(answer: str) -> str:
    """A formula without what has no meaning in it."""
    bare = re.sub(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", r"\1", normalized(answer))
    return re.sub(r"[\s$]|\\[()\[\]]", "", bare).rstrip(".")


def _expressions(reference: str, said: str) -> Verdict:
    same = same_expression(reference, said)
    if same is None:
        return "unverified"
    return "right" if same else "wrong"

"""The comparable final value inside a completion: what votes are counted over.

A text that says where its answer is ("#### 18", "The answer is 18.", \\boxed{18}, "A: 18", and the
like) is taken at its word, the last such place counting; a text of a few words is its own answer.
Anything else has no extracted answer, and does not vote.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

FEW_WORDS = 5
# How many characters a number may have around it, units and currency, and still be the answer.
AROUND = len("approximately kilometres")
# Python refuses to read integers of thousands of digits.
DIGITS = 200
# Longer expressions, and powers of more digits, can keep a computer algebra system busy for ever.
EXPRESSION_LIMIT = 80
BIG_POWER = re.compile(r"(?:\^|\*\*)\s*\{?\s*(?:\d{4,}|[^{}]*(?:\^|\*\*|!))|\d{4,}\s*!|![^=]*!")

_BOXED = r"\\boxed\{(?P<boxed>(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+)\}"
_MARKED = re.compile(
    rf"####\s*(?=(?P<hashes>[^\n]+))|{_BOXED}|^A:\s*(?=(?P<short>[^\n]+))"
    # "I hope this answer helps" and "this answer is correct" are no marks. What is said is
    # looked ahead at, so that a later mark in it counts.
    r"|(?i:\banswer\b(?:\s+to\b[^\n.:=]{0,80}?(?=\s+is\b))?)"
    r"[*_]*(?:\s*[:=]+|\s+is\b\s*[:=]?|(?=\s+[-\d$\\(]))(?:[*_\s]|\\\[|\$\$)*+"
    r"(?!(?i:in)?(?i:correct|right|wrong|helpful|useful|clear)\b)(?=(?P<said>[^\n]+))",
    re.MULTILINE,
)
_FORMULA = re.compile(r"(\$\$?)[^$]+\1")
_BETWEEN = re.compile(
    r"(?:\s*[a-z]{1,12}(?=\s*(?:,|and\b|or\b)))?(?:[\s$,;]|\\quad|\\text\{[^{}]*\}|\\[()]|and|or)*"
)
# After a number the next point with a space ends the sentence; elsewhere a capital must follow.
_SENTENCE_END = re.compile(r"(?<=[\d)\]}%$])\.(?=\s)|(?<=[a-z\d])[.!?]\s+(?=[A-Z])")
_OPTION = re.compile(r"^\(?([A-Ea-e])\)?(?:[.):]|$)|\(([A-Ea-e])\)\W*$")
_NUMBER = re.compile(
    r"(?P<sign>[-\u2212])?(?P<gap>\s*)[$\u20ac\u00a3]?\s*"
    r"(?:(?P<mixed>\d+)\s+(?=\d+\s*/\s*\d))?"
    r"(?:(?P<whole>(?!0)\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?!\d)|\d+)"
    # A comma before two digits, or after a 0, is a decimal one.
    r"(?P<decimals>\.\d+|,\d\d(?![\d,])|(?<=\b0),\d+(?![\d,]))?|(?P<point>\.\d+))"
    r"(?:\s*/\s*(?P<below>\d+))?\s*(?P<percent>%)?"
)
_LATEX = (
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\s*\{\s*,\s*\}\s*|,\\[!,]\s*"), ","),
    (re.compile(r"\\[,!;: ]|\\(?:left|right|displaystyle)\b|\\[()\[\]]|~"), " "),
    (re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\^\s*\{?\\circ\}?"), " degrees"),
    # Square and cubic units; the digit is none of the answer's.
    (re.compile(r"(?<=[\d ])((?:[kcdm]?m|ft|in|yd|units?))\s*\^?\s*\{?[23]\}?(?!\d)"), r"\1"),
)
# Signs that tell answers apart: "x < 1" and "x > 1", "(0, 9)" and "[0, 9)".
_MEANT = re.compile(r"[<>=+^{}|\\\[\]\u2264\u2265\u2260]|\([^)]*[,\d]|\d\s*[-*/:]\s*\d")
_UNEQUAL = re.compile(r"\b(?:not|than|between)\b|n't\b|!=|[<>\u2264\u2265\u2260]", re.IGNORECASE)
# Prose, which a parser of formulas takes for a product of letters.
_WORDS = re.compile(r"(?<![\\A-Za-z])(?!and\b|or\b)[A-Za-z]{3,}(?![^{]*\})")
_TERM = re.compile(r"[+*/\u221a\u03c0\u221e\u00b1\u00d7\u00f7]|\bpi\b|^[ixyzn]\b|\b[ixyzn]$")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written.

    `value` has the percent sign worked in; `places` counts the decimals, 0 for whole numbers and
    None for a fraction. `unit` is what stands after it.
    """

    value: Fraction
    places: int | None
    percent: bool = False
    unit: str = ""


def extract(text: str) -> str | None:
    """The answer of a text in a canonical form, so that equal answers are equal strings.

    Numbers become reduced fractions ("0.5", "1/2", "50%" are one answer; units and currency
    signs fall away), option letters capitals, other short texts lower case without punctuation.
    None if the text does not say what its answer is.
    """
    said = stated(text)
    return None if said is None else canonical(said)


def stated(text: str) -> str | None:
    """What a text says its answer is, in its own words; None if it does not say."""
    *_, found = [None, *_MARKED.finditer(text)]
    if found is None:
        few = len(text.split()) <= FEW_WORDS or _FORMULA.fullmatch(text.strip())
        return text if text.strip() and few else None
    if found["boxed"] is not None:
        return _boxed(text)
    said = next(group for group in found.groups() if group is not None)
    return _SENTENCE_END.split(said)[0]


def _boxed(text: str) -> str:
    """The last box, with those just before it: "\\boxed{1} and \\boxed{2}" is one answer."""
    *others, last = re.finditer(_BOXED, text)
    boxes = [last]
    while others and _BETWEEN.fullmatch(text[others[-1].end() : boxes[0].start()]):
        boxes.insert(0, others.pop())
    return ", ".join(dict.fromkeys(box["boxed"] for box in boxes))


def canonical(answer: str) -> str | None:
    """One form for every way to write the same short answer; None if nothing is left of it."""
    answer = _normalized(answer).lstrip("*_` ").rstrip("*_`. ")
    if option := _OPTION.search(answer):
        return (option[1] or option[2]).upper()
    if (number := read_number(answer)) is not None:
        return str(number.value)
    if ("\\" in answer or "^" in answer) and (value := _expression(answer)):
        return value
    if _MEANT.search(answer):
        return re.sub(r"[\s$]", "", answer.lower())
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(words[: 2 * FEW_WORDS]) or None


def agreement(texts: Sequence[str]) -> list[str | None]:
    """`extract` for every text, in order."""
    return [extract(text) for text in texts]


def read_number(answer: str, around: int = AROUND) -> Number | None:
    """The number an answer consists of, with at most `around` characters of unit about it.

    None for anything that is not one number: sums and other terms, ranges, "not 5", "5x".
    """
    plain = _normalized(answer)
    for pattern, instead in _LATEX:
        plain = pattern.sub(instead, plain)
    plain = plain.lstrip("*_` ").rstrip("*_`$ .")
    hit = _NUMBER.search(plain)
    if hit is None or len(plain) - len(hit[0]) > around or len(hit[0]) > DIGITS:
        return None
    if "," in (hit["decimals"] or "") and re.search(r"[(\[{]\s*$", plain[: hit.start()]):
        return None  # a pair, not a decimal comma
    digits = hit.start("point") if hit["point"] else hit.start("whole")
    if plain[:digits][-1:].isalpha():
        return None
    before, after = plain[: hit.start()].strip(), plain[hit.end() :].strip(" )$")
    if re.search(r"[\d^\\{}]", before + after) or _UNEQUAL.search(before):
        return None
    if _TERM.search(after) or _TERM.search(before):
        return None
    # "x - 3" and "x-3" are terms, "about -3" is a number.
    bare = hit.start() > 0 and plain[hit.start() - 1].isalnum()
    if hit["sign"] and before and (bare or hit["gap"]):
        return None
    decimals = (hit["point"] or hit["decimals"] or "").replace(",", ".")
    value = Fraction(re.sub("[, ]", "", hit["whole"] or "0") + decimals)
    if hit["below"]:
        if int(hit["below"]) == 0:
            return None
        value = value / int(hit["below"]) + int(hit["mixed"] or 0)
    value = (-value if hit["sign"] else value) / (100 if hit["percent"] else 1)
    places = None if hit["below"] else max(len(decimals) - 1, 0)
    return Number(value, places, bool(hit["percent"]), after)


def same_expression(one: str, other: str) -> bool | None:
    """Whether two LaTeX expressions are equal, by math-verify (extra `math`).

    None if it cannot be told: the package is not there, or one cannot be parsed or compared.
    """
    if _WORDS.search(other):
        return None
    parsed = [_parsed(answer) for answer in (one, other)]
    # What was only read as a string was not understood.
    if not all(parsed) or any(isinstance(each[0], str) for each in parsed):
        return None
    from math_verify import verify
    from sympy import Expr

    numbers = [isinstance(each[0], Expr) and _is_number(each[0]) for each in parsed]
    if numbers == [True, False] and isinstance(parsed[1][0], Expr):
        return None  # "18x" or "9/0" for a number
    try:
        # Its own time limit is a signal, which works in the main thread alone.
        return bool(verify(*parsed, timeout_seconds=None, raise_on_error=True))
    except Exception:  # whatever sympy raises on what it cannot compare
        return None


def _normalized(answer: str) -> str:
    """NFKC, but 10\u00b2 does not become 102, nor 2\u00bd become 21/2."""
    answer = re.sub("[\u00b9\u00b2\u00b3\u2070-\u2079]+", lambda m: f"^{m[0]}", answer)
    answer = re.sub("[\u00bc-\u00be\u2150-\u215e]", lambda m: f" {m[0]}", answer)
    return unicodedata.normalize("NFKC", answer).replace("\u2044", "/").strip()


def _is_number(expression: Any) -> bool:
    return bool(expression.is_number and expression.is_finite)


def _parsed(answer: str) -> list[object]:
    """What math-verify makes of a LaTeX expression; nothing if it is not there, or should not."""
    answer = _normalized(answer).rstrip(" .").strip("$").rstrip(" .")
    if len(answer) > EXPRESSION_LIMIT or BIG_POWER.search(answer):
        return []
    try:
        from math_verify import LatexExtractionConfig, parse
    except ImportError:
        return []
    # It warns of having no time limit: what could run for ever has been refused above.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # Read as LaTeX alone; else it would settle for any number that occurs in a formula.
    whole = [LatexExtractionConfig()]
    parsed: list[object] = parse(f"${answer}$", whole, parsing_timeout=None)
    return parsed


def _expression(answer: str) -> str | None:
    """A LaTeX expression simplified by math-verify; None without it."""
    parsed = _parsed(answer)
    return str(parsed[0]) if parsed else None

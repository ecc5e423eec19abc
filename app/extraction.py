"""The comparable final value inside a completion: what votes are counted over.

A text that says where its answer is ("#### 18", "The answer is 18.", \\boxed{18}, "A: 18", and the
like) is taken at its word, the last such place counting; a text of a few words is its own answer.
Anything else has no extracted answer, and does not vote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

FEW_WORDS = 5
# Longer expressions, and powers of more digits, can keep a computer algebra system busy for ever.
EXPRESSION_LIMIT = 80
BIG_POWER = re.compile(r"(?:\^|\*\*)\s*\{?\s*(?:\d{4,}|[^{}]*(?:\^|\*\*))")

_MARKED = re.compile(
    r"####\s*(?P<hashes>[^\n]+)"
    r"|\\boxed\{(?P<boxed>(?:[^{}]|\{[^{}]*\})*)\}"
    r"|(?i:\b(?:final answer|the answer|answer)(?:\s+is)?\s*[:=]?\s*)(?P<said>[^\n]+)"
    r"|^A:\s*(?P<short>[^\n]+)",
    re.MULTILINE,
)
_OPTION = re.compile(r"^\(?([A-Ea-e])\)?(?:[.):]|$)|\(([A-Ea-e])\)\W*$")
_NUMBER = re.compile(
    r"(?P<sign>[-\u2212])?\s*[$\u20ac\u00a3]?\s*"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d+)?(?:\s*/\s*(?P<below>\d+))?\s*(?P<percent>%)?"
)


def extract(text: str) -> str | None:
    """The answer of a text in a canonical form, so that equal answers are equal strings.

    Numbers become reduced fractions ("0.5", "1/2", "50%" are one answer; units and currency
    signs fall away), option letters capitals, other short texts lower case without punctuation.
    None if the text does not say what its answer is.
    """
    found = list(_MARKED.finditer(text))
    if found:
        return canonical(next(group for group in found[-1].groups() if group is not None))
    if len(text.split()) <= FEW_WORDS:
        return canonical(text)
    return None


def canonical(answer: str) -> str | None:
    """One form for every way to write the same short answer; None if nothing is left of it."""
    answer = unicodedata.normalize("NFKC", answer).strip().strip("*_`").strip()
    if option := _OPTION.search(answer):
        return (option[1] or option[2]).upper()
    if (number := _number(answer)) is not None:
        return str(number)
    if ("\\" in answer or "^" in answer) and (value := _expression(answer)):
        return value
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(words[: 2 * FEW_WORDS]) or None


def agreement(texts: Sequence[str]) -> list[str | None]:
    """`extract` for every text, in order."""
    return [extract(text) for text in texts]


def _number(answer: str) -> Fraction | None:
    """The number an answer consists of, with at most a unit around it."""
    plain = answer.replace("\\$", "$").replace("\\%", "%").strip("$ .")
    hit = _NUMBER.search(plain)
    if hit is None or len(plain) - (hit.end() - hit.start()) > len("approximately kilometres"):
        return None
    if re.search(r"[\d^\\{}]", plain[: hit.start()] + plain[hit.end() :]):
        return None
    try:
        value = Fraction(Decimal(hit["whole"].replace(",", "") + (hit["decimals"] or "")))
        value /= int(hit["below"] or 1)
    except (InvalidOperation, ZeroDivisionError):
        return None
    return (-value if hit["sign"] else value) / (100 if hit["percent"] else 1)


def _expression(answer: str) -> str | None:
    """A LaTeX expression simplified by math-verify (extra `math`); None without it."""
    if len(answer) > EXPRESSION_LIMIT or BIG_POWER.search(answer):
        return None
    try:
        from math_verify import parse
    except ImportError:
        return None
    parsed = parse(f"${answer.strip('$')}$", parsing_timeout=None)
    return str(parsed[0]) if parsed else None

"""Check the steps of a rationale: every equation in plain arithmetic is worked out exactly.

Numbers with + - * / and "of" after a percentage or a fraction, brackets, units, currency signs,
percentages, thousands separators and GSM8K's <<3*4=12>>. Not checked: powers, roots, letters as
variables, conversions of units ("2 hours = 120 minutes"), inequalities, equations over several
lines, and whether the right numbers were put into an equation in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from app.extraction import DIGITS

Steps = Literal["true", "false", "unchecked"]
# How "%" is meant: 20% = 0.2; 10 / 50 * 100 = 20%; 50 + 20% = 60.
Percent = Literal["hundredth", "unit", "relative"]

# Longer sides and lines are nobody's arithmetic.
TERMS = 80
TOKENS = 2000


def check_steps(text: str) -> Steps:
    """Whether the equations of a text hold: "false" if one does not, "unchecked" without any."""
    held = [equation.holds for equation in equations(text)]
    if not held:
        return "unchecked"
    return "true" if all(held) else "false"


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation as it was read, and whether it holds."""

    text: str
    holds: bool


def equations(text: str) -> list[Equation]:
    """Every equation that can be checked, in order, GSM8K's annotations first in each line."""
    found: list[Equation] = []
    for line in _plain(text).splitlines():
        for annotation in _ANNOTATION.findall(line):
            found += _equations(annotation)
        found += _equations(_ANNOTATION.sub("", line))
    return found


_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_PLAIN = (
    (re.compile(r"\\(?:times|cdot)\b|[·∙⋅✕✖]"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\{([\d.]+)\}\{([\d.]+)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:left|right)\b|\\[()\[\]]|`"), " "),
    (re.compile(r"\{,\}|,\\!"), ","),
    # Bold, not a power: a blank or an end on one side.
    (re.compile(r"(?<![\w).])\*\*|\*\*(?![\w(])"), " "),
    (re.compile(r"[\u00b9\u00b2\u00b3\u2070-\u2079\u00bc-\u00be\u2150-\u215e]+"), " ^ "),
    (re.compile(r"(?<=\d)(?:\.\.\.+|…)"), ""),
    (re.compile(r"[$€£]"), ""),
    (re.compile(r"^\s*(?:[-*•]|\d+[.)]|\(?[a-z]\))\s+", re.MULTILINE), ""),
    (re.compile(r"\b(?:is equal to|equals)\b"), "="),
    (re.compile(r"\b(?:divided by)\b"), "/"),
    (re.compile(r"\b(?:multiplied by|times)\b(?=\s*[\d(])"), "*"),
    (re.compile(r"\bplus\b(?=\s*[\d(])"), "+"),
    (re.compile(r"\bminus\b(?=\s*[\d(])"), "-"),
    (re.compile(r"\bper ?cent\b"), "%"),
)
_TOKEN = re.compile(
    r"(?P<number>(?:(?<![\w).%])[-\u2212])?"
    r"(?:\d+ \d+/\d+(?![\d.,]*\d)|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?:\s?%)?)"
    r"|(?P<per>/\s*[^\W\d_]+)"
    r"|(?P<times>[xX×](?=\s*[-\d(.]))"
    r"|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*\d*)"
    r"|(?P<sign>[+/÷×]|\*(?!\*)|[-\u2212\u2013])"
    r"|(?P<open>\()|(?P<close>\))|(?P<equals>(?<![<>!=≈~:])=(?![=>]))"
    r"|(?P<end>[.,](?!\d)|[;:?!\"'“”’→⇒\u2014])|(?P<other>\S)"
)
_LETTERS = {
    "number": "N",
    "per": "W",
    "word": "W",
    "sign": "O",
    "open": "L",
    "close": "R",
    "equals": "E",
    "end": "B",
    "other": "V",
}
# A side is operands with operators between; an operand may have up to four words of unit.
_OPERAND = r"L*NR*(?:W{1,4}R*)?"
_SIDE = rf"{_OPERAND}(?:O{_OPERAND})*"
_EQUATION = re.compile(rf"{_SIDE}(?:E{_SIDE})+")


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that do something to the number after them, or make it a name.
_CHANGES = _listed(
    "of half twice thrice double triple quadruple quarter third squared square root cube sum"
    " product difference average by per than from times plus minus negative day week month year"
    " hour step option number room grade chapter page part phase case problem equation"
)
# Words that no unit goes over.
_JOINING = _listed(
    "because since so then therefore thus hence if but as which who is are was were be means"
    " gives makes leaves equals"
)
_ARTICLES = _listed("the a an his her their its our my your this that these those")
# With one of these an equation may be right without being so in plain numbers, ...
_SCALING = _listed(
    "hundred thousand million billion trillion dozen pair cent dime nickel penny quarter"
)
# ... and with two different ones of a line here, too.
_MEASURES = {
    unit: dimension
    for dimension, units in {
        "time": "second sec minute min hour hr day week month year decade am pm",
        "length": "mm cm m km meter metre kilometer kilometre inch inche foot feet ft yard mile",
        "mass": "mg g kg gram kilogram ounce oz lb pound ton tonne",
        "volume": "ml l liter litre cup pint quart gallon tablespoon teaspoon tbsp tsp",
    }.items()
    for unit in units.split()
}


@dataclass(frozen=True, slots=True)
class _Token:
    letter: str
    text: str
    tight: bool = False

    @property
    def unit(self) -> str:
        return self.text.lower().removesuffix("s")


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of an equation, without its units."""

    tokens: tuple[_Token, ...]

    @property
    def literal(self) -> str | None:
        """The side itself if it is a single number."""
        numbers = [token.text for token in self.tokens if token.letter == "N"]
        return numbers[0] if len(numbers) == 1 and not self._has("O") else None

    @property
    def negative(self) -> bool:
        return self.tokens[0].text[0] in "-\u2212"

    def values(self) -> list[Fraction]:
        """What the side may come to; nothing if it cannot be worked out."""
        meant: tuple[Percent, ...] = ("hundredth", "unit", "relative")
        if not any(token.text.endswith("%") for token in self.tokens):
            meant = ("unit",)
        if len(self.tokens) > TERMS:
            return []
        readings = {self.tokens, _bound(self.tokens)}
        try:
            return [_Sum(read, percent).worked_out() for read in readings for percent in meant]
        except (ZeroDivisionError, ValueError):
            return []

    def _has(self, letter: str) -> bool:
        return any(token.letter == letter for token in self.tokens)


def _bound(tokens: tuple[_Token, ...]) -> tuple[_Token, ...]:
    """The tokens with brackets where blanks bind: "25 / 1/3" is 25 / (1/3)."""
    bound = list(tokens)
    for k in range(len(tokens) - 2, 1, -1):
        over, fraction = tokens[k - 2], tokens[k - 1 : k + 2]
        apart = over.letter == "O" and over.text in "*/" and not over.tight
        letters = "".join(token.letter for token in fraction)
        if apart and letters == "NON" and fraction[1].text == "/" and fraction[1].tight:
            bound[k - 1 : k + 2] = [_Token("L", "("), *fraction, _Token("R", ")")]
    return tuple(bound)


class _Sum:
    """Works out one side by recursive descent, in fractions. Raises `ValueError` if it is none."""

    def __init__(self, tokens: Sequence[_Token], percent: Percent) -> None:
        self._rest = list(reversed(tokens))
        self._percent = percent

    def worked_out(self) -> Fraction:
        value = self._terms()
        if self._rest:
            raise ValueError("an unbalanced bracket")
        return value

    def _terms(self) -> Fraction:
        value = self._factors()
        while self._next("+-"):
            sign = 1 if self._rest.pop().text == "+" else -1
            share = self._rest[-1].text.endswith("%") if self._rest else False
            alone = len(self._rest) == 1 or (len(self._rest) > 1 and self._rest[-2].text in "+-)")
            term = self._factors()
            relative = share and alone and self._percent == "relative"
            value += sign * term * (value if relative else 1)
        return value

    def _factors(self) -> Fraction:
        value = self._operand()
        while self._next("*/"):
            if self._rest.pop().text == "*":
                value *= self._operand()
            else:
                value /= self._operand()
        return value

    def _operand(self) -> Fraction:
        if not self._rest:
            raise ValueError("an operand is missing")
        token = self._rest.pop()
        if token.letter == "N":
            return _value(token.text, self._percent)
        value = self._terms()
        if token.letter != "L" or not self._rest or self._rest.pop().letter != "R":
            raise ValueError("an unbalanced bracket")
        return value

    def _next(self, signs: str) -> bool:
        return bool(self._rest) and self._rest[-1].letter == "O" and self._rest[-1].text in signs


def _value(text: str, percent: Percent) -> Fraction:
    if len(text) > DIGITS:
        raise ValueError("a number too long to be meant")
    bare = text.replace(",", "").rstrip("% ").replace("\u2212", "-").lstrip("-")
    *whole, last = bare.split(" ")
    value = Fraction(last)
    if whole:
        if value >= 1:
            raise ValueError("two numbers, not one with a fraction")
        value += int(whole[0])
    value = -value if text[0] in "-\u2212" else value
    return value / 100 if text.endswith("%") and percent != "unit" else value


def _plain(text: str) -> str:
    for pattern, instead in _PLAIN:
        text = pattern.sub(instead, text)
    return text


def _tokens(line: str) -> list[_Token]:
    tokens: list[_Token] = []
    for hit in _TOKEN.finditer(line):
        kind, text = hit.lastgroup or "other", hit[0]
        before = tokens[-1].letter if tokens else "B"
        if kind == "times":
            # "3 x 4", but in "let x (the price)" a letter.
            kind = "sign" if before in "NRW" else "word"
        elif kind == "word" and text.lower() == "of" and _takes_of(tokens):
            kind, text = "sign", "*"
        elif kind == "word" and text.lower() in _JOINING:
            kind = "end"
        elif kind == "end" and text == ":" and before == "N" and line[hit.end() :][:1].isdigit():
            kind = "other"
        elif kind == "number" and text[0] in "-\u2212" and before in "NR":
            tokens.append(_Token("O", "-"))
            text = text[1:]
        if kind == "sign":
            text = _SIGNS.get(text, text)
        around = line[max(hit.start() - 1, 0) : hit.end() + 1]
        tokens.append(_Token(_LETTERS[kind], text, around == around.replace(" ", "")))
    return tokens


_SIGNS = {"x": "*", "X": "*", "×": "*", "÷": "/", "\u2212": "-", "\u2013": "-"}


def _takes_of(tokens: Sequence[_Token]) -> bool:
    """After a percentage or a fraction "of" multiplies."""
    if not tokens or tokens[-1].letter not in "NR":
        return False
    below = len(tokens) > 1 and tokens[-2].text == "/"
    return tokens[-1].letter == "R" or below or tokens[-1].text[-1] == "%" or "/" in tokens[-1].text


def _equations(line: str) -> Iterator[Equation]:
    tokens = _tokens(line)[:TOKENS]
    for hit in _EQUATION.finditer("".join(token.letter for token in tokens)):
        parts = _parts(tokens[hit.start() : hit.end()])
        sides = [_balanced(part, k == 0, k == len(parts) - 1) for k, part in enumerate(parts)]
        words = _words_of(parts)
        after = tokens[hit.end()].letter if hit.end() < len(tokens) else "B"
        for k in range(len(sides) - 1):
            one, other = sides[k], sides[k + 1]
            if k == 0 and _is_changed(one, tokens[: hit.start()]):
                continue
            if one.literal is not None and other.literal is not None:
                continue
            values = one.values(), other.values()
            if not all(values):
                continue
            holds = _equal(one, other, values)
            # "= 7^2", "= 3x", "2 hours + 30 minutes = 150 minutes"
            open_ended = k == len(sides) - 2 and after in "NLVO"
            defines = k == 0 and _defines(one, parts[0])
            if holds or not (defines or open_ended or _converts(words)):
                said = " ".join(token.text for token in (*one.tokens, _EQUALS, *other.tokens))
                yield Equation(said, holds)


_EQUALS = _Token("E", "=")


def _parts(tokens: Sequence[_Token]) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if token.letter == "E":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _balanced(part: Sequence[_Token], first: bool, last: bool) -> _Side:
    """A side without units, and without brackets that belong to the sentence around it."""
    tokens = [token for token in part if token.letter != "W"]
    surplus = sum((token.letter == "L") - (token.letter == "R") for token in tokens)
    while first and surplus > 0 and tokens[0].letter == "L":
        tokens, surplus = tokens[1:], surplus - 1
    while last and surplus < 0 and tokens[-1].letter == "R":
        tokens, surplus = tokens[:-1], surplus + 1
    return _Side(tuple(tokens))


def _words_of(parts: Sequence[Sequence[_Token]]) -> list[_Token]:
    """The words of an equation; of what follows its last number only the first, the unit."""
    *others, last = parts
    numbers = [k for k, token in enumerate(last) if token.letter == "N"]
    after = [token for token in last[numbers[-1] :] if token.letter == "W"][:1]
    counted = [*(token for part in others for token in part), *last[: numbers[-1]], *after]
    return [token for token in counted if token.letter == "W"]


def _is_changed(side: _Side, before: Sequence[_Token]) -> bool:
    """Whether what stands before the first side makes something else of it: "half of 10 = 5"."""
    left = len(before)
    while left and before[left - 1].letter == "W" and before[left - 1].text.lower() in _ARTICLES:
        left -= 1
    if not left:
        return False
    token = before[left - 1]
    if token.letter == "W":
        start = left
        while start and before[start - 1].letter == "W":
            start -= 1
        cut = before[start - 1].letter if start else "B"
        if cut == "O" or (cut == "N" and left - start == 1 and token.text == "and"):
            return True  # "the price + bonus 3 = 5", "1 and 1/4 = 5/4"
        if side.literal is not None or side.negative or len(token.text) == 1:
            return True
        return token.unit in _CHANGES or token.text.lower() in _CHANGES
    return token.letter in "NRVO"


def _defines(side: _Side, part: Sequence[_Token]) -> bool:
    """Whether a first side only says what is worked out: "8 boxes = ...", "1% = 450 / 90"."""
    return side.literal is not None and (part[-1].letter == "W" or side.literal.endswith("%"))


def _converts(words: Sequence[_Token]) -> bool:
    """Whether letters or units leave it open if an equation means its plain numbers."""
    units = {token.unit.lstrip("/ ") for token in words}
    if units & _SCALING or any(len(token.text.lstrip("/ ")) == 1 for token in words):
        return True
    dimensions = [_MEASURES[unit] for unit in units if unit in _MEASURES]
    return len(set(dimensions)) < len(dimensions)


def _equal(one: _Side, other: _Side, values: tuple[list[Fraction], list[Fraction]]) -> bool:
    if set(values[0]) & set(values[1]):
        return True
    return any(
        side.literal is not None and any(_rounds_to(v, side.literal) for v in full)
        for side, full in ((one, values[1]), (other, values[0]))
    )


def _rounds_to(value: Fraction, literal: str) -> bool:
    """Whether a number with decimals is a value rounded, or cut off after two or more."""
    decimals = len(literal.rstrip("% ").partition(".")[2])
    readings = [(_value(literal, "unit"), decimals)]
    if literal.endswith("%"):
        readings.append((_value(literal, "hundredth"), decimals + 2))
    return any(
        places > 0 and (abs(value - said) <= step / 2 or (places > 1 and _cut(value, said, step)))
        for said, places in readings
        for step in [Fraction(1, 10**places)]
    )


def _cut(value: Fraction, said: Fraction, step: Fraction) -> bool:
    return 0 <= abs(value) - abs(said) < step and value * said >= 0

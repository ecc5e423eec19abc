"""The self-check: a scorer must put a small set of obvious pairs in order before it is trusted.

A wrong pooler, a head with its labels swapped, a judge too weak to follow the rubric: all of them
give numbers. Each pair is a good reply and a plain failure to one prompt; a tie is wrong. These
are for catching what is broken, and say nothing of how good a scorer is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.domain import (
    Attributes,
    Completion,
    Failure,
    Message,
    Prompt,
    ScalarReward,
    Score,
    Weights,
)
from app.errors import StarboardError, UpstreamError, boundary
from app.scorers import Scorer

PAIRS: tuple[tuple[str, str, str], ...] = (
    (
        "Why do leaves change colour in autumn?",
        "As days grow shorter, trees stop making the green chlorophyll in their leaves. As it"
        " breaks down, the yellow and orange pigments that were there all along show through, and"
        " some trees make red ones as well.",
        "Stainless steel pans are best cleaned with warm water, baking soda and a soft sponge. Let"
        " the soda stand for a quarter of an hour, wipe in the direction of the grain, and rinse"
        " well. For burnt spots, boil a little vinegar in the pan first, and never use steel wool,"
        " which leaves scratches.",
    ),
    (
        "How do I boil an egg so that the yolk stays soft?",
        "Lower the egg into boiling water and cook it for six minutes, then cool it under cold"
        " water at once. The white will be set and the yolk still soft.",
        "I'm sorry, but I can't help with that request.",
    ),
    (
        "Explain in two sentences what a computer's memory is for.",
        "A computer's memory holds the programs that are running and the data they work on, so"
        " that the processor can reach both quickly. Most of it is emptied when the power goes"
        " off, which is why files are kept on a disk.",
        "Explain in two sentences what a computer's memory is for.",
    ),
    (
        "What is the difference between weather and climate?",
        "Weather is what the air does at one place over hours or days, such as rain or wind."
        " Climate is the pattern of that weather over decades.",
        "qxv zzkp wrtl mnbv, plokij uhgtf xcvqw. Zrtp lkjmn bvcxq wpoiu, tyrgf hqzsk. Vbnmq wzxrt"
        " ghjkl, ptrwq zxcvb nmlkj, qwrtp sdfgh zxcvn. Bnmkl hgfds trwqp, lkjhg mnbvc xzqwr tplkj.",
    ),
    (
        "Write a short note to thank a neighbour for watering my plants.",
        "Dear Anna, thank you so much for watering my plants while I was away. They look lovely,"
        " and it was a great relief to know that they were in good hands. Warmly, Tom",
        "thank you thank you thank you thank you thank you thank you thank you thank you thank"
        " you thank you thank you thank you thank you thank you thank you thank you thank you",
    ),
    (
        "How can I fall asleep more easily at night?",
        "Go to bed and get up at the same times every day, keep the bedroom dark and cool, and put"
        " screens away for the last hour of the evening. Avoid coffee after noon.",
        "To fall asleep more easily at night, you should first of all try to keep the",
    ),
    (
        "Wie entsteht ein Regenbogen?",
        "Ein Regenbogen entsteht, wenn Sonnenlicht in Regentropfen gebrochen und an ihrer Rückseite"
        " gespiegelt wird. Weil jede Farbe etwas anders gebrochen wird, sehen wir einen farbigen"
        " Bogen.",
        "Die Rechnung für den neuen Drucker muss bis Freitag in der Buchhaltung liegen. Bitte legen"
        " Sie auch den Lieferschein bei, und vermerken Sie darauf die Kostenstelle und den Namen"
        " der Abteilung, damit der Betrag noch in diesem Monat überwiesen werden kann.",
    ),
)

MISSES_ALLOWED = 1


@dataclass(frozen=True)
class Grade:
    """How many of the obvious pairs a scorer put in order."""

    right: int
    of: int

    @property
    def passed(self) -> bool:
        return self.right >= self.of - MISSES_ALLOWED

    def __str__(self) -> str:
        return f"self-check: {self.right} of {self.of} obvious pairs in order"


async def grade(scorer: Scorer, limit_s: float) -> Grade | None:
    """The scorer's grade, or None if it could not be reached or did not finish in `limit_s`
    seconds. Costs two scores a pair, one pair after the other.

    A reply that cannot be read counts as a wrong pair: that is a broken scorer, and no outage.
    """
    right = 0
    try:
        async with asyncio.timeout(limit_s):
            for asked, good, bad in PAIRS:
                prompt = Prompt((Message("user", asked),))
                better, worse = await asyncio.gather(
                    _reward(scorer, prompt, good), _reward(scorer, prompt, bad)
                )
                right += better is not None and worse is not None and better > worse
    except (StarboardError, TimeoutError):
        return None
    return Grade(right, len(PAIRS))


async def _reward(scorer: Scorer, prompt: Prompt, reply: str) -> float | None:
    try:
        with boundary(scorer.info.name):
            score = await scorer.score(prompt, Completion(reply, "stop", "self-check"))
    except UpstreamError as error:
        if error.kind == "bad_reply":
            return None
        raise
    return _value(score)


def _value(score: Score) -> float | None:
    match score.outcome:
        case Attributes() as attributes:
            return Weights().reward(attributes)
        case ScalarReward(value):
            return value
        case Failure():
            return None

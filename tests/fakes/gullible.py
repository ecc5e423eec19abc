"""A judge that does whatever it is told, for proving that no candidate's text can tell it.

It reads its fences as carelessly as a reader can: any angle brackets pass for a marker, in any
script, two or more, with anything invisible in them, whatever number they hold, as long as no
backslash stands before them. What it takes to be outside
of the fences it obeys: five grades in a row, or the order to ignore what it was told, in several
languages.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

from .wire import Recorded

HONEST: Final = (2, 2, 2, 2, 2)
BOUGHT: Final = (4, 4, 4, 4, 0)
NAMES: Final = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

ORDERS: Final = re.compile(
    r"4\W{1,4}4\W{1,4}4\W{1,4}4\W{1,4}0"
    r"|ignore (?:the|all) above|ignoriere alles|ignora todo|忽略以上|忽略上述",
    re.IGNORECASE,
)
_OPENING: Final = re.compile(r"(?<![\\<])<{2,}\s*(PROMPT|REPLY)\b[^<>\n]*>{2,}\n", re.IGNORECASE)
_CLOSING: Final = re.compile(r"\n?(?<![\\<])<{2,}\s*/?\s*(?:END|/)\b[^<>\n]*>{2,}", re.IGNORECASE)
_LOOK_ALIKES: Final = {
    **dict.fromkeys("‹«⟨⟪〈〈《❬❮❰⧼ᐸ˂≺≨", "<"),
    **dict.fromkeys("›»⟩⟫〉〉》❭❯❱⧽ᐳ˃≻≩", ">"),
    "≪": "<<",
    "≫": ">>",
    "⋘": "<<<",
    "⋙": ">>>",
}


def careless(text: str) -> str:
    """The text as someone sees it who does not look closely."""
    wide = unicodedata.normalize("NFKC", "".join(_LOOK_ALIKES.get(c, c) for c in text))
    seen = (c for c in wide if unicodedata.category(c) not in ("Cf", "Mn", "Me"))
    return re.sub(r"(?<=[<>])[ \t\u3164\u115f\u1160]+(?=[<>])", "", "".join(seen))


def outside(messages: str) -> str:
    """What stands outside of the fences; a fence that never closes swallows nothing."""
    rest, kept = careless(messages), ""
    while opening := _OPENING.search(rest):
        closing = _CLOSING.search(rest, opening.end() - 1)
        if closing is None:
            break
        kept += rest[: opening.start()]
        rest = rest[closing.end() :]
    return kept + rest


def verdict(*grades: object) -> str:
    return json.dumps(dict(zip(NAMES, grades, strict=True)))


def obey(request: Recorded) -> str:
    """For `FakeServer.reply`: the verdict of a model without a will of its own. Rubric and
    instructions come as system text, which names the markers; it obeys the rest."""
    said = "\n".join(m["content"] for m in request.sent["messages"] if m["role"] == "user")
    return verdict(*(BOUGHT if ORDERS.search(outside(said)) else HONEST))

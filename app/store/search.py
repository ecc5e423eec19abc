"""Finding stored answers: the newest first, by what they are and by their words.

Each answer has a number made of the time it was begun, so that the order of the numbers is that of
time: a range of time is a range of numbers, a page goes on below the last number of the one
before, and the full-text index of either database is read in that order, never sorted.

The words are cut out here, alike for SQLite's FTS5 and PostgreSQL's tsvector: what is found does
not depend on the database. No stemming, for the language is not known; in scripts that put no
blanks between words every letter is a word of its own, so that Chinese, Japanese and Thai are found
without a dictionary. Whoever changes how words are cut out adds a migration that empties the table
`words`: the start that runs it builds the index anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import regex
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    String,
    bindparam,
    cast,
    column,
    insert,
    literal,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR

from app.domain import Answer, Quality
from app.errors import InvalidRequestError
from app.store import schema

# The low bits of a number tell answers of one millisecond apart. Two of them meet once in two
# million such pairs; the second then draws again.
SLOT_BITS = 21
LAST = 2**63 - 1
# Of the conversation, and of the reply: a tsvector holds a megabyte and counts places to 16,383.
CHARACTERS = 50_000
WORDS_EACH = 8_000

# The longest word, in characters; what is longer is cut into several. A tsvector takes 2,046 bytes.
LONGEST = 255

# What joins letters or only changes how they look. U+200B, which is among these, parts words.
_INVISIBLE = regex.compile(r"(?!\u200b)\p{Default_Ignorable_Code_Point}")
# Normalizing puts the marks on a letter in order, in the square of their number: thousands would
# hold the process for seconds. No language has more than Unicode's stream-safe text, 30; the last
# two are no marks, but become such.
_MARKS = regex.compile(r"([\p{M}\uff9e\uff9f]{30})[\p{M}\uff9e\uff9f]+")
# Letters of scripts without blanks, those of South-East Asia by how their lines are broken.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Line_Break=Complex_Context}]"
_LETTER = r"[\p{L}\p{N}]"
_WORD = regex.compile(
    rf"(?={_ALONE}){_LETTER}\p{{M}}*|{_LETTER}(?:(?!{_ALONE}){_LETTER}|\p{{M}}){{0,{LONGEST - 1}}}"
)
# The words of a folded text that is ASCII: the same, in a fraction of the time.
_ASCII_WORD = re.compile(rf"[a-z0-9]{{1,{LONGEST}}}")
_PHRASE = regex.compile(r'"([^"]*)"|(\S+)')

# The full-text index, which is no table that SQLAlchemy knows: FTS5's on SQLite, which has a
# `rowid`, and on PostgreSQL one with a `number`.
WORDS = table(
    "words", column("rowid", BigInteger), column("number", BigInteger), column("document")
)
_PLACED = insert(WORDS).values(
    number=bindparam("at"), document=cast(bindparam("placed", type_=String), TSVECTOR)
)
# No word that is cut out of a text holds it, for it is no letter.
_PILCROW = "\u00b6"

Phrase = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which answers. `q` are words, all of which stand in the prompt or the chosen reply; those in
    double quotes in that order. `member` wrote the chosen reply; `key_id` is the API key's that
    asked; `tags` are keys and values, all of which it has. `since` and `until` (exclusive) are
    times of asking, to the millisecond.
    """

    q: str | None = None
    member: str | None = None
    strategy: str | None = None
    quality: Quality | None = None
    key_id: str | None = None
    tags: Sequence[tuple[str, str]] = ()
    feedback: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


def first_number(moment: datetime) -> int:
    """The least number of an answer begun at that moment."""
    return min(max(int(moment.timestamp() * 1000), 0) << SLOT_BITS, LAST)


def new_number(created: datetime) -> int:
    return first_number(created) | secrets.randbits(SLOT_BITS)


def cursor_of(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(8)).decode().rstrip("=")


def number_at(cursor: str) -> int:
    """The number a cursor stands for; raises `InvalidRequestError`."""
    try:
        number = int.from_bytes(base64.b64decode(f"{cursor}=", altchars="-_", validate=True))
    except (binascii.Error, ValueError):
        number = LAST + 1
    if number > LAST or cursor != cursor_of(number):
        raise InvalidRequestError("cursor", "it is not the `next` of a page")
    return number


def words_of(text: str) -> Phrase:
    if text.isascii():
        return tuple(_ASCII_WORD.findall(text.lower()))
    plain = _MARKS.sub(r"\1", _INVISIBLE.sub("", text))
    # Twice, for folding leaves some letters decomposed, and some have no case before.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    return tuple(_WORD.findall(folded))


def phrases_of(q: str) -> tuple[Phrase, ...]:
    """What to look for; raises `InvalidRequestError` if that is nothing."""
    found = tuple(words for m in _PHRASE.finditer(q) if (words := words_of(m[1] or m[2] or "")))
    if not found:
        raise InvalidRequestError("q", "it holds no word to look for")
    return found


def document_of(answer: Answer) -> Phrase:
    """What an answer is found by: the conversation, the chosen reply, its member, tags and key."""
    # From the end: the last turn is the one that the reply answers.
    turns = "\0".join(message.content for message in answer.prompt.messages)[-CHARACTERS:]
    asked = [word for turn in turns.split("\0") for word in (*words_of(turn), _PILCROW)]
    replied = words_of(answer.chosen.text[:CHARACTERS]) if answer.chosen else ()
    member = answer.winner.candidate.member if answer.winner else None
    marks = _marks(member, answer.tags.items(), answer.key_id)
    return (*asked[-WORDS_EACH:], *replied[:WORDS_EACH], *marks)


def _marks(
    member: str | None, tags: Iterable[tuple[str, str]], key_id: str | None
) -> Iterator[str]:
    """Words that stand for what an answer is: with these the index itself finds the few answers
    of one user among the many with a frequent word. Whether they tell the truth the tables say.
    """
    named = (("member", member), ("key", key_id))
    for mark in (*((of, name) for of, name in named if name is not None), *tags):
        yield _PILCROW + hashlib.sha256("\0".join(mark).encode()).hexdigest()[:16]


def add_words(connection: Connection, numbered: Sequence[tuple[int, Phrase]]) -> None:
    """Put the words of answers, by their numbers, into the index."""
    if not numbered:
        return
    if connection.dialect.name == "sqlite":
        rows = [{"rowid": number, "document": " ".join(words)} for number, words in numbered]
        connection.execute(insert(WORDS), rows)
        return
    connection.execute(
        _PLACED, [{"at": number, "placed": _placed(words)} for number, words in numbered]
    )


def _placed(words: Phrase) -> str:
    """Words as a tsvector: written out, and not by `to_tsvector`, whose parser has its own idea of
    what a word is."""
    return " ".join(f"'{word}':{place}" for place, word in enumerate(words, 1))


def _hold(dialect: str, phrases: Sequence[Phrase]) -> ColumnElement[bool]:
    if dialect == "sqlite":
        wanted = " ".join(f'"{" ".join(phrase)}"' for phrase in phrases)
        return WORDS.c.document.bool_op("MATCH")(wanted)
    each = (" <-> ".join(f"'{word}'" for word in phrase) for phrase in phrases)
    wanted = f"({') & ('.join(each)})"
    return WORDS.c.document.bool_op("@@")(cast(literal(wanted, String), TSQUERY))


def newest(wanted: Filter, dialect: str, *, below: int | None, limit: int) -> Select[int, str]:
    """Numbers and ids of the answers wanted, newest first, under the number `below`."""
    listing = schema.listing
    number: ColumnElement[int] = listing.c.number
    found = select(listing.c.number, listing.c.answer_id)
    for key, value in wanted.tags:
        tags = schema.tags.alias()
        found = found.join(tags, tags.c.number == listing.c.number)
        found = found.where(tags.c.key == key, tags.c.value == value)
        number = tags.c.number
    marks = [(mark,) for mark in _marks(wanted.member, wanted.tags, wanted.key_id)]
    phrases = phrases_of(wanted.q) if wanted.q is not None else ()
    # Of two tags SQLite would walk all answers of the one that happens to lead, be it on most of
    # them; its full-text index leaps from one answer with both to the next.
    if phrases or (dialect == "sqlite" and len(marks) > 1):
        number = WORDS.c.rowid if dialect == "sqlite" else WORDS.c.number
        found = found.join(WORDS, number == listing.c.number)
        found = found.where(_hold(dialect, (*phrases, *marks)))
    exact = {
        "member": wanted.member,
        "strategy": wanted.strategy,
        "quality": wanted.quality,
        "key_id": wanted.key_id,
        "has_feedback": wanted.feedback,
    }
    found = found.where(*(listing.c[n] == v for n, v in exact.items() if v is not None))
    # The order is that of the index that leads, as SQLite asks for. The bounds are put on all, for
    # PostgreSQL merges from the ends of both.
    for one in (listing.c.number, number):
        if below is not None:
            found = found.where(one < below)
        if wanted.since:
            found = found.where(one >= first_number(wanted.since))
        if wanted.until:
            found = found.where(one < first_number(wanted.until))
    return found.order_by(number.desc()).limit(limit)

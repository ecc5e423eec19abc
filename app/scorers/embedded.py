"""The scorer that needs no key: it reads the surface of a reply and catches obvious failures.

It cannot tell which of two honest replies is better, and is built so that it does not pretend
to: honest replies saturate, and most lie within `RESOLUTION` of each other. A reply that is
off-topic, parroted, looping, gibberish, refused or cut off falls far below.

    Evidence (0-1 each, 1 = nothing wrong)       goes into
    relevance     it is about the prompt         helpfulness, correctness
    novelty       it is not the prompt again     helpfulness, correctness
    willingness   it does not refuse             helpfulness, correctness
    legibility    it is not gibberish            helpfulness, correctness, coherence
    freshness     it does not loop               helpfulness, correctness, coherence
    completeness  it ends where an end may be    helpfulness (half), coherence

Complexity stands on the length of words alone and verbosity on the length of the reply alone,
both in bands too narrow to decide. Nobody can see truth on the surface: correctness means
"not plainly wrong".

Relevance compares mean word vectors (256 numbers a word piece, from the package `wordllama`)
and shared stretches of words; docs/scorers.md has what each of them reaches, and the limits.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from app.domain import Attributes, Completion, Prompt, Score, ScorerInfo
from app.errors import ConfigurationError
from app.scorers.lexicon import FUNCTION_WORDS, LEXICON, REFUSALS, STOP_WORDS, fold

Vector = NDArray[np.float32]

# By the rule of benchmarks/embedded_scorer.py, on its tune half.
RESOLUTION = 1.05
# Reward for each unit of log length among honest replies of the tune half: 0.047 +- 0.045. On the
# test half 0.007 +- 0.043: this scorer has next to no liking for length.
LENGTH_SLOPE = 0.05
# Characters of a text that are read.
HEAD, TAIL = 3000, 1000
# Where honest replies stand: not at 4, for nobody has checked them.
CEILING = 3.0
# Share of helpfulness and correctness that a reply loses for being off-topic. Not all of it:
# this evidence is the weakest, and an honest reply that trips it should still beat a refusal.
OFF_TOPIC = 0.75
# Below these there is too little text to judge by.
FEW_LETTERS, FEW_WORDS, FEW_PAIRS, SIGN_OFF, PROSE = 12, 5, 3, 3, 6

UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
UNIT = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+|[.,;:!?，。、！？]")
MOJIBAKE = re.compile(
    r"[ÃÂâÐÑÅåäæçèéï][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|[\ufffd\x00-\x08\x0e-\x1f]"
)
OPEN_ENDS = (",", ":", "-", "(", "[", "{", "“", "«", "，", "；", "：", "、")
SENTENCE_END = re.compile(r"[^\W\d]{2}[.!?][\"”’)*]*\s|[。！？]")


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _shown(text: str) -> str:
    """What is read of a text: all of it, or its head and tail. Bounds the time of a score."""
    text = text.strip()
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def _units(text: str) -> list[str]:
    """Words, lower case; in scripts without spaces, single characters."""
    return UNIT.findall(text.lower())


def _shingles(items: list[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` neighbours, in order."""
    return list(zip(*(items[i:] for i in range(size)), strict=False))


# --- relevance ---------------------------------------------------------------------------------


@cache
def _model() -> tuple[Tokenizer, Vector]:
    """Tokenizer and vectors of `wordllama`, from its files.

    The package is not imported: doing so sets up logging for the whole process, and its loader
    goes to the network because it looks for the tokenizer in the wrong folder (0.4.0.post1).
    """
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise ConfigurationError("the embedded scorer needs the package wordllama: pip install it")
    home = Path(spec.origin).parent
    tokenizer = Tokenizer.from_file(str(home / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vectors = load_file(home / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    return tokenizer, vectors


def _pieces(text: str) -> list[int]:
    ids: list[int] = _model()[0].encode(text, add_special_tokens=False).ids
    return ids


def _mean_vector(text: str) -> Vector:
    ids = _pieces(text)
    if not ids:
        return np.zeros(256, dtype=np.float32)
    mean: Vector = _model()[1][ids].mean(axis=0, dtype=np.float32)
    return mean


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


@cache
def _language_axes() -> Vector:
    """Orthonormal rows spanning what texts share for being in one language.

    Without taking these out, any two German texts look alike. English is left in: its function
    words have next to no length in these vectors.
    """
    centres = [
        _unit(_mean_vector(" ".join(words)))
        for name, words in FUNCTION_WORDS.items()
        if name != "en"
    ]
    basis: Vector = np.linalg.qr(np.stack(centres).T)[0].T
    return basis


def _topic(text: str) -> Vector:
    axes = _language_axes()
    vector = _mean_vector(text)
    return _unit(vector - axes.T @ (axes @ vector))


def _stretches(text: str) -> set[str]:
    """Four-letter stretches of content words; pairs of characters in scripts without spaces."""
    found: set[str] = set()
    previous = ""
    for unit in _units(fold(text)):
        if re.match(f"[{UNSPACED}]", unit):
            if previous:
                found.add(previous + unit)
            previous = unit
            continue
        previous = ""
        if unit not in STOP_WORDS:
            word = f"^{unit}"
            found.update(word[i : i + 4] for i in range(max(1, len(word) - 3)))
    return found


def _affinity(prompt: str, text: str) -> float:
    """How much a reply is about a prompt: 0.1 by chance, above 0.5 in most honest replies.

    Outside the Latin script the vectors know syllables rather than words, so they count half.
    """
    asked, told = _stretches(prompt), _stretches(text)
    shared = len(asked & told) / math.sqrt(len(asked) * len(told)) if asked and told else 0.0
    return _latin_trust(text) * float(_topic(prompt) @ _topic(text)) + shared


def _latin_trust(text: str) -> float:
    """1 for Latin script, 0.5 for others."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c < "\u0250" for c in letters)
    return 0.5 + 0.5 * latin / len(letters) if letters else 1.0


def _relevance(prompt: Prompt, text: str) -> float:
    """About the last user turn, or about the conversation as a whole, whichever is nearer.

    A reply of a word or two ("42", "Paris.") need not share anything with its prompt.
    """
    text = _shown(text)
    last = _shown(prompt.turns[-1].content)
    whole = _shown("\n".join(message.content for message in prompt.messages))
    near = max(_affinity(asked, text) for asked in {last, whole})
    words = _units(text)
    off_topic = 1 / (1 + math.exp((near - _expected(words)) / 0.06))
    return 1 - OFF_TOPIC * (0.2 + 0.8 * _ramp(len(words), 1, 6)) * off_topic


def _expected(words: list[str]) -> float:
    """The affinity at which a reply is as likely off-topic as not.

    A long reply has had more chances to touch the topic, and outside English the vectors tell
    texts less apart: both raise it.
    """
    chance = 0.06 if _language(words) == "en" else 0.11
    return chance + 0.05 * math.log(len(words) + 1)


# --- the reply against the prompt, against itself, and by itself -------------------------------


def _novelty(prompt: Prompt, text: str) -> float:
    """Falls when the reply is mostly the prompt and holds its beginning and its end.

    Both ends are asked for because correcting, sorting or translating a given text copies that
    text, but not the instruction before or after it.
    """
    return min(_newness(turn.content, text) for turn in prompt.turns if turn.role == "user")


def _newness(asked: str, text: str) -> float:
    if _units(_shown(asked)) == _units(_shown(text)):
        return 0.0
    given, told = _shingles(_units(_shown(asked)), 2), _shingles(_units(_shown(text)), 2)
    if len(given) < FEW_PAIRS or not told:
        return 1.0
    known, repeated = set(given), set(told)
    end = max(6, len(given) // 4)
    copied = sum(pair in known for pair in told) / len(told)
    first = sum(pair in repeated for pair in given[:end]) / len(given[:end])
    last = sum(pair in repeated for pair in given[-end:]) / len(given[-end:])
    return 1 - _ramp(min(copied, first, last), 0.4, 0.7)


def _freshness(text: str) -> float:
    """Falls with the share of three-word runs that were there before, in all or at the end."""
    words = _units(_shown(text))
    return 1 - _ramp(max(_repeated(words), _repeated(words[-100:])), 0.4, 0.6)


def _repeated(words: list[str]) -> float:
    runs = _shingles(words, 3)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _legibility(text: str) -> float:
    """The worst of three: letters that form no word, broken encoding, words in no order."""
    text = _shown(text)
    return min(_spelling(text), _encoding(text), _order(CODE.sub(" ", text)))


def _spelling(text: str) -> float:
    """Letters to a word piece of the tokenizer: common words are one piece, gibberish is many.

    The two scripts have their own limits; of others the tokenizer knows too little.
    """
    text = text.lower() if text.isupper() else text
    grades = [1.0]
    for script, low, high in (("A-Za-z\u00c0-\u024f", 2.1, 2.7), ("\u0400-\u04ff", 1.75, 2.35)):
        words = " ".join(re.findall(f"[{script}]+", text))
        if len(words) >= FEW_LETTERS:
            grades.append(_ramp(len(words) / len(_pieces(words)), low, high))
    return min(grades)


def _encoding(text: str) -> float:
    broken = sum(len(hit) for hit in MOJIBAKE.findall(text))
    return 1 - _ramp(broken / max(1, len(text)), 0.0, 0.05)


def _order(text: str) -> float:
    """Sentences that begin in lower case, and words that cannot stand side by side."""
    starts = re.findall(r"\w{3}[.!?] +(\w)", text)
    lowered = sum(c.islower() for c in starts) / (len(starts) + 1)
    return 1 - max(_ramp(lowered, 0.1, 0.4), _ramp(_clashes(text), 0.1, 0.3))


def _clashes(text: str) -> float:
    """Share of determiners and prepositions followed by what cannot follow them ("the of")."""
    tokens = TOKEN.findall(text.lower())
    determiners, prepositions, joiners, _ = LEXICON[_language(tokens)]
    after_preposition = joiners | set("，。、！？")
    after_determiner = joiners | determiners | prepositions | set(".,;:!?")
    led = wrong = 0
    for word, following in pairwise(tokens):
        if word in determiners:
            led, wrong = led + 1, wrong + (following in after_determiner)
        elif word in prepositions:
            led, wrong = led + 1, wrong + (following in after_preposition)
    return wrong / (led + 1)


def _language(tokens: list[str]) -> str:
    """The language most of whose function words occur."""
    return max(LEXICON, key=lambda name: sum(t in words for t in tokens for words in LEXICON[name]))


def _willingness(completion: Completion) -> float:
    """Falls when the reply opens by declining; less so when much text follows after all."""
    if completion.withheld:
        return 0.0
    opening = " ".join(completion.text[:300].lower().replace("’", "'").split())
    if not REFUSALS.search(opening):
        return 1.0
    return _ramp(len(completion.text), 400, 1200)


def _completeness(completion: Completion) -> float:
    """1 if the reply ends where a reply may end, 0 if it was cut off."""
    return 0.0 if completion.finish_reason == "length" else _ending(completion.text.rstrip())


def _ending(text: str) -> float:
    """Judges the last line, by its last character and by how the other lines end."""
    in_code = text.count("```") % 2
    text = text[-HEAD:]
    if in_code or text.endswith(OPEN_ENDS):
        return 0.0
    text = text.rstrip("*_~ ")
    if not text or not text[-1].isalpha():
        return 1.0
    *others, last = [line.rstrip("*_~ ") for line in text.splitlines() if line.strip("*_~ ")]
    words = _units(last)
    if SENTENCE_END.search(last) or (words and words[-1] in _unfinished(text)):
        return 0.0
    if others and others[-1].endswith((",", "，")) and len(words) <= SIGN_OFF:
        return 1.0  # "Kind regards,\nAnna"
    peers = [line for line in others if len(_units(line)) >= PROSE] if len(words) >= PROSE else []
    if peers or others:
        return _open_share(peers or others)
    return 1 - _ramp(len(words), 3, 12)


def _open_share(lines: list[str]) -> float:
    """High when such lines end in a letter here, as they do in lists and verse."""
    return _ramp(sum(line[-1].isalpha() for line in lines) / len(lines), 0.2, 0.5)


def _unfinished(text: str) -> frozenset[str]:
    """Words that no sentence of this language ends on."""
    determiners, prepositions, joiners, _ = LEXICON[_language(_units(text))]
    return determiners | prepositions | joiners


def _complexity(text: str) -> float:
    """Lexical complexity, 0-1: the mean length of words. The middle where words have no spaces."""
    words = [unit for unit in _units(_shown(text)) if len(unit) > 1]
    if len(words) < FEW_WORDS:
        return 0.5
    return _ramp(sum(map(len, words)) / len(words), 3.5, 7.0)


def _verbosity(text: str) -> float:
    """Length, 0-1, on a logarithmic scale from 5 to 1,000 words."""
    return _ramp(math.log(len(_units(_shown(text))) + 1), math.log(5), math.log(1000))


# --- attributes --------------------------------------------------------------------------------


def attributes(prompt: Prompt, completion: Completion) -> Attributes:
    """The five attributes. Complexity keeps to 1.48-1.52 and verbosity to 1.14-1.16."""
    text = completion.text
    if not text.strip():
        return Attributes(0.0, 0.0, 0.0, 0.0, 0.0)
    sound = _legibility(text) * _freshness(text)
    apt = sound * _relevance(prompt, text) * _novelty(prompt, text) * _willingness(completion)
    whole = _completeness(completion)
    return Attributes(
        helpfulness=CEILING * apt * (0.5 + 0.5 * whole),
        correctness=CEILING * apt,
        coherence=CEILING * sound * whole,
        complexity=1.48 + 0.04 * _complexity(text),
        verbosity=1.14 + 0.02 * _verbosity(text),
    )


@dataclass(frozen=True, slots=True)
class EmbeddedScorer:
    """Scores in the process, with no key and no network, in a millisecond or two."""

    resolution: float = RESOLUTION

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(
            name="embedded",
            model="surface-1",
            scale="helpsteer",
            resolution=self.resolution,
            length_slope=LENGTH_SLOPE,
            note="catches obvious failures only; it cannot rank honest replies",
        )

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        return Score(await asyncio.to_thread(attributes, prompt, completion))

    async def ping(self) -> None:
        """Nothing to reach: the vectors are a file of an installed package."""


def open_embedded_scorer(resolution: float | None = None) -> EmbeddedScorer:
    """With the vectors loaded, so that a missing package fails here and not at the first score."""
    _language_axes()
    return EmbeddedScorer() if resolution is None else EmbeddedScorer(resolution)

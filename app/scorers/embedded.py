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
    completeness  it ends where an end may be    helpfulness (a quarter), coherence

Complexity stands on the length of words alone and verbosity on the length of the reply alone,
both in narrow bands. Nobody can see truth on the surface: correctness means "not plainly wrong".

Relevance compares mean word vectors (256 numbers a word piece, from the package `wordllama`)
and shared stretches of words; docs/scorers.md has what each of them reaches, and the limits.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from app.domain import Attributes, Completion, Prompt, Score, ScorerInfo
from app.errors import ConfigurationError

Vector = NDArray[np.float32]

# The margin that costs least, from the tune half of benchmarks/embedded_scorer.py.
RESOLUTION = 0.8
# Characters of a text that are read.
HEAD, TAIL = 3000, 1000
# Where honest replies stand: not at 4, for nobody has checked them.
CEILING = 3.0
# Share of helpfulness and correctness that a reply loses for being off-topic. Not all of it:
# this evidence is the weakest, and an honest reply that trips it should still beat a refusal.
OFF_TOPIC = 0.75
# Below these there is too little text to judge by.
FEW_LETTERS, FEW_WORDS, FEW_PAIRS, SIGN_OFF = 12, 5, 3, 3


class Words(NamedTuple):
    """Function words of one language, by what may follow them."""

    determiners: str  # a noun or adjective comes next
    prepositions: str  # never a joiner next
    joiners: str
    others: str


FUNCTION_WORDS = {
    "en": Words(
        "the a an my your our their",
        "of in on at by for from with into",
        "and or but is are was were than because",
        "to be been if his her its as that this which who it he she they we you"
        " i not no do does did can could will would should may have has had what how"
        " when where why there then so",
    ),
    "de": Words(
        "ein eine einen einem einer den dem im zum zur vom beim",
        "von für aus bei in auf nach über unter durch ohne",
        "und oder aber ist sind war wird werden dass wenn weil nicht",
        "der die das des zu mit an vor um als wie auch es sie er wir ich du man sich hat haben"
        " kann so was wo warum welche",
    ),
    "es": Words(
        "el los las un una del al su sus",
        "de con por en para sin entre sobre",
        "y e o pero son es fue se está no",
        "la que como más lo le me si ya muy cuando donde qué cómo cuál tu mi este esta ser hay",
    ),
    "fr": Words(
        "le les un une des du au aux ce cette son ses",
        "de dans pour par sur avec sans chez",
        "et ou mais est sont que ne se donc",
        "la à en qui pas il elle nous vous je tu sa plus comme quel comment pourquoi",
    ),
    "it": Words(
        "il lo i gli un una del della dei nel al alla",
        "di con per da tra su",
        "e o ma è sono che si non",
        "la le a in come più questo anche ha cosa dove quando perché",
    ),
    "pt": Words(
        "os um uma do da dos das no na ao",
        "de em por com para sem entre",
        "e ou mas é são que se não",
        "o a as mais como à seu sua quando muito isso você qual",
    ),
    "nl": Words(
        "de het een zijn haar",
        "van in op met voor door uit bij",
        "en of maar is dat wordt niet",
        "te aan er om ook als dan over hij ze wij je naar heeft kan deze die",
    ),
    "ru": Words(
        "",
        "в на с из к от для по при без у о об под над через",
        "и а но или что не бы же ли как",
        "я он она они оно мы вы со это за до если чтобы так его её их был была быть есть можно"
        " нужно какой какая почему",
    ),
    "zh": Words(
        "",
        "很 最 更 把 被 从 向 每 和 与 或 而 就 都 也 不 在 是 ， 。 、 ！ ？",
        "的 了 吗 呢 着 们 得",
        "一 有 我 他 这 个 到 以 说 要 会 可 你 那",
    ),
    "ja": Words(
        "", "", "", "の に は を た が で て と し れ さ ある いる も する から な こと です ます"
    ),
    "ko": Words(
        "", "", "", "이 그 저 것 수 등 및 에서 하다 있다 을 를 은 는 가 의 에 와 과 도 로 합니다"
    ),
}

# Declining, as it is worded in several languages; looked for in the opening of a reply.
REFUSALS = re.compile(
    "|".join(
        (
            # English
            r"\b(?:i|we) (?:simply |just |really )?(?:can(?:'t|not| not)|won't|will not|am unable"
            r" to|am not able to|must decline|have to decline|am not (?:allowed|permitted) to)"
            r"[^.!?]{0,30}\b(?:help|assist|provide|answer|comply|fulfill?|discuss|create|write"
            r"|generate|offer|give|engage|share|respond|support|do that|do this|complete)",
            r"\bi'm (?:unable|not able|not comfortable|not allowed|not permitted|not going) ",
            r"\b(?:sorry|apologi[sz]e|afraid|unfortunately)\b[^.!?]{0,40}\b(?:can't|cannot|can not"
            r"|unable|not able|won't|not something i)\b",
            r"\bas an? (?:\w+ )?(?:ai|language model|artificial intelligence|virtual assistant)\b"
            r"[^.!?]{0,60}\b(?:can't|cannot|unable|not able|don't|do not|not allowed|not permi)",
            r"\b(?:goes )?against my (?:guidelines|programming|polic|principles)",
            r"\b(?:i'd|i would) (?:prefer|rather) not (?:to )?(?:answer|say|discuss|help)",
            r"\bi (?:must|have to|need to) (?:refuse|decline)",
            # German
            r"\b(?:kann|darf|möchte|werde)\b[^.!?]{0,60}\b(?:nicht|keine?\w*)\b[^.!?]{0,60}(?:helfen"
            r"|behilflich|beantworten|unterstützen|erfüllen|nachkommen|bereitstellen|antwort\w*"
            r"|auskunft|dienen|eingehen|für (?:sie|dich) tun)\b",
            r"nicht in der lage,? ",
            r"\bals (?:eine? )?(?:ki|sprachmodell|künstliche)\b[^.!?]{0,60}\b(?:nicht|kein)",
            # Spanish, Portuguese, Italian
            r"\b(?:no (?:puedo|me es posible|soy capaz|estoy autorizad)|n[ãa]o (?:posso|consigo"
            r"|sou capaz)|non (?:posso|sono in grado|mi è possibile))[^.!?]{0,40}\b(?:ayud|respond"
            r"|contest|proporcion|asist|cumpl|hacer|ofrec|gener|cre|escrib|atend|dar|ajud|fornec"
            r"|aiut|rispond|fornir|soddisf|assist|comply)",
            r"\bdebo (?:rechazar|declinar)|\bdevo (?:recusar|rifiutare)",
            r"\b(?:como|come) (?:una? |um |un )?(?:ia|modelo|modello|intelig|intellig|asistente"
            r"|assistente)[^.!?]{0,60}\b(?:no|n[ãa]o|non)\b",
            # French
            r"\b(?:ne (?:peux|puis|suis) pas|pas en mesure|dois (?:refuser|décliner))[^.!?]{0,40}"
            r"(?:aid|répond|fourni|assist|accéder|donner suite|satisfaire|trait|discut|créer"
            r"|écrire|génér|demande|mesure)",
            r"\ben tant qu(?:e |')(?:une? )?(?:ia|intelligence|assistant|modèle)[^.!?]{0,60} pas ",
            # Russian
            r"не (?:могу|можем|в состоянии|имею возможности)[^.!?]{0,40}(?:помо|ответ|отвеч"
            r"|предостав|выполн|обсужд|созда|написа|сделать|поддерж)",
            r"\bкак (?:ии|искусственн\w+|языковая)\b[^.!?]{0,60}\bне\b",
            r"вынужден\w* отказать|не вправе|не уполномочен",
            r"(?:выполнить|ответить|помочь)[^.!?]{0,40} не (?:могу|можем)",
            # Chinese, Japanese, Korean
            r"(?:抱歉|对不起|遗憾|不好意思)[^。！？]{0,20}"
            r"(?:不能|无法|不便|没办法|没有办法|没法|不了)",
            r"(?:不能|无法|没办法|不便)[^。！？]{0,12}(?:帮|协助|提供|回答|满足|处理|讨论|解答|答复)",
            r"作为[^。！？]{0,12}(?:ai|人工智能|模型|助手)[^。！？]{0,20}"
            r"(?:不能|无法|不便|没有能力|没有权限)",
            r"(?:申し訳|すみません|ごめんなさい)[^。！？]{0,50}(?:できません|かねます|できない)",
            r"(?:죄송|미안)[^.!?]{0,50}(?:수 없|없습니다|불가|어렵습니다)",
        )
    )
)

UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
UNIT = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+|[.,;:!?，。、！？]")
MOJIBAKE = re.compile(
    r"[ÃÂâÐÑÅåäæçèéï][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|[\ufffd\x00-\x08\x0e-\x1f]"
)
OPEN_ENDS = (",", ":", "-", "(", "[", "{", "“", "«", "，", "；", "：", "、")
BARE_BULLET = re.compile(r"(?:^|\n)\s*(?:\d+[.)]|[-*•#]+)$")
URL_END = re.compile(r"(?:https?://|www\.)\S+$")
SENTENCE_END = re.compile(r"\w{2}[.!?]\s|[。！？]")


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def fold(text: str) -> str:
    """Without accents, so that inflected forms share more."""
    kept = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(kept)


LEXICON = {
    name: tuple(frozenset(column.split()) for column in words)
    for name, words in FUNCTION_WORDS.items()
}
STOP_WORDS = frozenset(
    fold(word) for words in FUNCTION_WORDS.values() for word in " ".join(words).split()
)


def shown(text: str) -> str:
    """What is read of a text: all of it, or its head and tail. Bounds the time of a score."""
    text = text.strip()
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def units(text: str) -> list[str]:
    """Words, lower case; in scripts without spaces, single characters."""
    return UNIT.findall(text.lower())


def shingles(items: list[str], size: int) -> list[tuple[str, ...]]:
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
    for unit in units(fold(text)):
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


def affinity(prompt: str, text: str) -> float:
    """How much a reply is about a prompt: 0.1 by chance, above 0.5 in most honest replies.

    Outside the Latin script the vectors know syllables rather than words, so they count half.
    """
    asked, told = _stretches(prompt), _stretches(text)
    shared = len(asked & told) / math.sqrt(len(asked) * len(told)) if asked and told else 0.0
    return latin_trust(text) * float(_topic(prompt) @ _topic(text)) + shared


def latin_trust(text: str) -> float:
    """1 for Latin script, 0.5 for others."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c < "\u0250" for c in letters)
    return 0.5 + 0.5 * latin / len(letters) if letters else 1.0


def relevance(prompt: Prompt, text: str) -> float:
    """About the last user turn, or about the conversation as a whole, whichever is nearer.

    A long reply has had more chances to touch the topic, so more is expected of it; one of a word
    or two ("42", "Paris.") need not share anything with its prompt.
    """
    text = shown(text)
    last = shown(prompt.turns[-1].content)
    whole = shown("\n".join(message.content for message in prompt.messages))
    near = max(affinity(asked, text) for asked in {last, whole})
    length = len(units(text))
    expected = 0.1 + 0.05 * math.log(length + 1)
    off_topic = 1 / (1 + math.exp((near - expected) / 0.06))
    return 1 - OFF_TOPIC * (0.2 + 0.8 * ramp(length, 1, 6)) * off_topic


# --- the reply against the prompt, against itself, and by itself -------------------------------


def novelty(prompt: Prompt, text: str) -> float:
    """Falls when the reply is mostly the prompt and holds its beginning and its end.

    Both ends are asked for because correcting, sorting or translating a given text copies that
    text, but not the instruction before or after it.
    """
    return min(_novelty(turn.content, text) for turn in prompt.turns if turn.role == "user")


def _novelty(asked: str, text: str) -> float:
    if units(shown(asked)) == units(shown(text)):
        return 0.0
    given, told = shingles(units(shown(asked)), 2), shingles(units(shown(text)), 2)
    if len(given) < FEW_PAIRS or not told:
        return 1.0
    known, repeated = set(given), set(told)
    end = max(6, len(given) // 4)
    copied = sum(pair in known for pair in told) / len(told)
    first = sum(pair in repeated for pair in given[:end]) / len(given[:end])
    last = sum(pair in repeated for pair in given[-end:]) / len(given[-end:])
    return 1 - ramp(min(copied, first, last), 0.4, 0.7)


def freshness(text: str) -> float:
    """Falls with the share of three-word runs that were there before, in all or at the end."""
    words = units(shown(text))
    return 1 - ramp(max(_repeated(words), _repeated(words[-100:])), 0.4, 0.6)


def _repeated(words: list[str]) -> float:
    runs = shingles(words, 3)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def legibility(text: str) -> float:
    """The worst of three: letters that form no word, broken encoding, words in no order."""
    text = shown(text)
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
            grades.append(ramp(len(words) / len(_pieces(words)), low, high))
    return min(grades)


def _encoding(text: str) -> float:
    broken = sum(len(hit) for hit in MOJIBAKE.findall(text))
    return 1 - ramp(broken / max(1, len(text)), 0.0, 0.05)


def _order(text: str) -> float:
    """Sentences that begin in lower case, and words that cannot stand side by side."""
    starts = re.findall(r"\w{3}[.!?] +(\w)", text)
    lowered = sum(c.islower() for c in starts) / (len(starts) + 1)
    return 1 - max(ramp(lowered, 0.1, 0.4), ramp(clashes(text), 0.1, 0.3))


def clashes(text: str) -> float:
    """Share of determiners and prepositions followed by what cannot follow them ("the of")."""
    tokens = TOKEN.findall(text.lower())
    determiners, prepositions, joiners, _ = LEXICON[language(tokens)]
    after_preposition = joiners | set("，。、！？")
    after_determiner = joiners | determiners | prepositions | set(".,;:!?")
    led = wrong = 0
    for word, following in pairwise(tokens):
        if word in determiners:
            led, wrong = led + 1, wrong + (following in after_determiner)
        elif word in prepositions:
            led, wrong = led + 1, wrong + (following in after_preposition)
    return wrong / (led + 1)


def language(tokens: list[str]) -> str:
    """The language most of whose function words occur."""
    return max(LEXICON, key=lambda name: sum(t in words for t in tokens for words in LEXICON[name]))


def willingness(completion: Completion) -> float:
    """Falls when the reply opens by declining; less so when much text follows after all."""
    if completion.withheld:
        return 0.0
    opening = " ".join(completion.text[:300].lower().replace("’", "'").split())
    if not REFUSALS.search(opening):
        return 1.0
    return ramp(len(completion.text), 400, 1200)


def completeness(completion: Completion) -> float:
    """1 if the reply ends where a reply may end, 0 if it was cut off."""
    return 0.0 if completion.finish_reason == "length" else ending(completion.text.rstrip())


def ending(text: str) -> float:
    """Judges the last line, by its last character and by how the other lines end."""
    in_code = text.count("```") % 2
    text = text[-HEAD:]
    if in_code or BARE_BULLET.search(text) or text.endswith(OPEN_ENDS):
        return 0.0
    text = text.rstrip("*_~ ")
    if not text or not text[-1].isalpha() or URL_END.search(text):
        return 1.0
    *others, last = [line.rstrip("*_~ ") for line in text.splitlines() if line.strip("*_~ ")]
    words = units(last)
    if words and words[-1] in _unfinished(text):
        return 0.0
    if others and others[-1].endswith((",", "，")) and len(words) <= SIGN_OFF:
        return 1.0  # "Kind regards,\nAnna"
    if others:
        return ramp(sum(line[-1].isalpha() for line in others) / len(others), 0.2, 0.5)
    return 0.0 if SENTENCE_END.search(last) else 1 - ramp(len(words), 3, 12)


def _unfinished(text: str) -> frozenset[str]:
    """Words that no sentence of this language ends on."""
    determiners, prepositions, joiners, _ = LEXICON[language(units(text))]
    return determiners | prepositions | joiners


def complexity(text: str) -> float:
    """Lexical complexity, 0-1: the mean length of words. The middle where words have no spaces."""
    words = [unit for unit in units(shown(text)) if len(unit) > 1]
    if len(words) < FEW_WORDS:
        return 0.5
    return ramp(sum(map(len, words)) / len(words), 3.5, 7.0)


def verbosity(text: str) -> float:
    """Length, 0-1, on a logarithmic scale from 5 to 1,000 words."""
    return ramp(math.log(len(units(shown(text))) + 1), math.log(5), math.log(1000))


# --- attributes --------------------------------------------------------------------------------


def attributes(prompt: Prompt, completion: Completion) -> Attributes:
    """The five attributes. Complexity keeps to 1.3-1.7 and verbosity to 1.0-1.3."""
    text = completion.text
    if not text.strip():
        return Attributes(0.0, 0.0, 0.0, 0.0, 0.0)
    sound = legibility(text) * freshness(text)
    apt = sound * relevance(prompt, text) * novelty(prompt, text) * willingness(completion)
    whole = completeness(completion)
    return Attributes(
        helpfulness=CEILING * apt * (0.75 + 0.25 * whole),
        correctness=CEILING * apt,
        coherence=CEILING * sound * (0.1 + 0.9 * whole),
        complexity=1.3 + 0.4 * complexity(text),
        verbosity=1.0 + 0.3 * verbosity(text),
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
            note="catches obvious failures only; it cannot rank honest replies",
        )

    async def score(self, prompt: Prompt, completion: Completion) -> Score:
        started = time.perf_counter()
        outcome = await asyncio.to_thread(attributes, prompt, completion)
        return Score(outcome, latency_s=time.perf_counter() - started)

    async def ping(self) -> None:
        """Nothing to reach: the vectors are a file of an installed package."""

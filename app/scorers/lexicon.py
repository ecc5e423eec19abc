"""The words the embedded scorer knows: function words by language, and the wording of refusals."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


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

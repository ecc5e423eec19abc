"""The embedded scorer: obvious failures fall by more than the resolution, honest replies tie."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import random
import time
from dataclasses import astuple
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import Attributes, Completion, FinishReason, Message, Prompt, Weights
from app.errors import ConfigurationError
from app.scorers import Scorer, embedded
from app.scorers.embedded import RESOLUTION, EmbeddedScorer, attributes, open_embedded_scorer
from tests.samples import public_data

HONEST = {
    "English": [
        (
            "How do plants make food?",
            "Plants make food by photosynthesis. Their leaves take in light, water and carbon"
            " dioxide, and turn them into sugar and oxygen.",
            "By photosynthesis: using the energy of sunlight, plants build sugar out of carbon"
            " dioxide from the air and water from the soil.",
        ),
        (
            "Give me three tips for a job interview.",
            "1. Read about the company before the interview.\n2. Prepare examples of your work.\n"
            "3. Arrive ten minutes early.",
            "For a job interview, research the employer, practise your answers aloud, and bring"
            " questions of your own about the job.",
        ),
    ],
    "German": [
        (
            "Wie entsteht ein Regenbogen?",
            "Ein Regenbogen entsteht, wenn Sonnenlicht auf Regentropfen fällt. Jeder Tropfen"
            " bricht das Licht und zerlegt es in seine Farben.",
            "Sonnenlicht wird in den Regentropfen gebrochen und gespiegelt. Dabei trennen sich"
            " die Farben, und wir sehen einen Regenbogen.",
        ),
        (
            "Welche Werkzeuge brauche ich, um ein Regal zu bauen?",
            "Für ein Regal brauchst du eine Säge, einen Bohrer, einen Schraubendreher und eine"
            " Wasserwaage. Schleifpapier glättet die Kanten.",
            "Um ein Regal zu bauen, genügen wenige Werkzeuge: Säge, Bohrmaschine, Schrauben und"
            " ein Maßband. Eine Wasserwaage hilft beim Ausrichten.",
        ),
    ],
    "French": [
        (
            "Pourquoi les feuilles tombent-elles en automne ?",
            "En automne, les arbres perdent leurs feuilles pour économiser l'eau et l'énergie"
            " pendant l'hiver. Les feuilles se détachent quand la sève ne circule plus.",
            "Les feuilles tombent en automne parce que la lumière diminue. L'arbre récupère ce"
            " qui est utile, puis il laisse partir les feuilles.",
        ),
        (
            "Comment préparer une bonne soupe de légumes ?",
            "Coupez des carottes, des poireaux et des pommes de terre. Faites cuire ces légumes"
            " dans de l'eau salée, puis mixez la soupe.",
            "Pour une bonne soupe, faites revenir les légumes dans un peu de beurre, ajoutez du"
            " bouillon et laissez cuire trente minutes.",
        ),
    ],
    "Chinese": [
        (
            "为什么会有四季变化？",
            "四季变化是因为地球的自转轴是倾斜的。地球绕着太阳公转时，不同地区得到的阳光不一样，于是有了四季。",
            "地球倾斜着绕太阳转动，阳光照射的角度在一年里不断变化，所以就有了四季变化。",
        ),
        (
            "怎样学好书法？",
            "学好书法要每天练习，先从基本笔画开始，再临摹名家的字帖。写字的时候要坐正，握笔要稳。",
            "想学好书法，要选一本合适的字帖，坚持每天临摹，多观察笔画的结构，慢慢就会进步。",
        ),
    ],
}
REFUSALS = {
    "English": "I'm sorry, but as an AI I can't help with that request.",
    "German": "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
    "French": "Je suis désolé, mais je ne peux pas répondre à cette demande.",
    "Chinese": "很抱歉，我无法回答这个问题。",
}
CASES = [
    pytest.param(language, place, id=f"{language}-{place}")
    for language in HONEST
    for place in range(2)
]


def ask(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def score(prompt: str | Prompt, text: str, finish_reason: FinishReason = "stop") -> Attributes:
    prompt = ask(prompt) if isinstance(prompt, str) else prompt
    return attributes(prompt, Completion(text, finish_reason, "test"))


def reward(prompt: str | Prompt, text: str, finish_reason: FinishReason = "stop") -> float:
    return Weights().reward(score(prompt, text, finish_reason))


def shuffled(text: str) -> str:
    characters = list(text)
    random.Random(7).shuffle(characters)
    return "".join(characters)


def failures(language: str, place: int) -> dict[str, str]:
    """One of each kind, made from an honest reply."""
    prompt, reply, _ = HONEST[language][place]
    other = HONEST[language][1 - place][1]
    return {
        "off-topic": other,
        "random letters": "Xqvz kjhwrt pfqmzx bvnrtk wqzxjk ghtrpl mnbvcx qwrtzp.",
        "shuffled characters": shuffled(reply),
        "mojibake": (reply if not reply.isascii() else f"{reply} — naïve café")
        .encode()
        .decode("cp1252", "replace")
        if language != "English"
        else "Ã©Ã¨ â€œ Ã¼Ã¶ â€” Ã±Ã¡ â€™ Ã§ â€¦",
        "loop": reply[: len(reply) // 3] * 12,
        "looping end": reply + reply[-30:] * 12,
        "refusal": REFUSALS[language],
        "cut off": reply[: int(len(reply) * 0.6)].rstrip(" .,。，、"),
        "parrot": prompt,
        "parrot in lower case": prompt.lower().rstrip("?.？。"),
        "empty": "",
        "blank": " \n\t ",
    }


@pytest.mark.parametrize("kind", list(failures("English", 0)))
@pytest.mark.parametrize(("language", "place"), CASES)
def test_a_failure_falls_below_the_honest_reply(language: str, place: int, kind: str) -> None:
    prompt, *replies = HONEST[language][place]
    failure = reward(prompt, failures(language, place)[kind])
    for reply in replies:
        assert reward(prompt, reply) - failure > RESOLUTION


@pytest.mark.parametrize(("language", "place"), CASES)
def test_honest_replies_tie(language: str, place: int) -> None:
    prompt, first, second = HONEST[language][place]
    assert abs(reward(prompt, first) - reward(prompt, second)) < RESOLUTION


@pytest.mark.parametrize(
    "refusal",
    [
        "I cannot assist with this request.",
        "Unfortunately, I am unable to answer that.",
        "As an AI language model, I do not have the ability to do this.",
        "I’m sorry, but I can’t help with that.",
        "I'd rather not discuss this.",
        "Leider bin ich nicht in der Lage, darauf zu antworten.",
        "Lo siento, no puedo ayudarte con eso.",
        "En tant qu'assistant, je ne peux pas vous aider.",
        "К сожалению, я не могу ответить на этот вопрос.",
        "对不起，我不能帮你做这件事。",
        "申し訳ありませんが、その質問にはお答えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    ],
)
def test_refusals_are_told_by_their_wording(refusal: str) -> None:
    prompt, reply, _ = HONEST["English"][0]
    assert reward(prompt, reply) - reward(prompt, refusal) > 1


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("Why was he so upset?", "I'm sorry to hear he is upset. He was upset over the delay."),
        ("What is the capital of France?", "Paris."),
        ("What is 6 times 7?", "42"),
        ("Is water wet?", "Yes."),
        ("Say thanks in French.", "Merci 🙂"),
        ("Where is the Python documentation?", "The Python docs are at https://docs.python.org/3"),
        ("Add two numbers in Python.", "Like this:\n\n```python\ndef add(a, b): return a + b\n```"),
        ("List three colours.", "- red\n- green\n- blue"),
        ("What do the French call Christmas?", 'The French call it "Noël"'),
        ("Sign off a letter.", "Thank you for your letter.\n\nKind regards,\nAnna"),
    ],
)
def test_honest_replies_of_odd_shape_are_not_punished(prompt: str, reply: str) -> None:
    honest = reward("How do plants make food?", HONEST["English"][0][1])
    assert honest - reward(prompt, reply) < RESOLUTION


def test_correcting_a_given_text_is_not_parroting() -> None:
    prompt = (
        "Correct the spelling, please:\n\nThe quick brown fox jumpd over the lazy dog while the"
        " farmer was slepping under a tree."
    )
    reply = (
        "The quick brown fox jumped over the lazy dog while the farmer was sleeping under a tree."
    )
    assert score(prompt, reply).helpfulness > 2


def test_finish_reason_is_believed() -> None:
    prompt, reply, _ = HONEST["English"][0]
    assert reward(prompt, reply) - reward(prompt, reply, "length") > RESOLUTION
    assert reward(prompt, reply) - reward(prompt, reply, "refusal") > RESOLUTION
    assert score(prompt, reply, "length").coherence < score(prompt, reply).coherence / 2


def test_the_whole_conversation_counts() -> None:
    prompt = Prompt(
        (
            Message("user", "Tell me about the volcano Etna in Sicily."),
            Message("assistant", "Etna is an active volcano on the east coast of Sicily."),
            Message("user", "And the last time?"),
        )
    )
    near = "The volcano Etna last erupted a few months ago, and ash fell on towns in Sicily."
    far = "To bake bread, mix flour with yeast, let the dough rise, and put it in a hot oven."
    assert reward(prompt, near) - reward(prompt, far) > RESOLUTION


def test_length_alone_decides_nothing() -> None:
    prompt, reply, second = HONEST["English"][0]
    assert abs(reward(prompt, reply) - reward(prompt, f"{reply} {second}")) < RESOLUTION


ANY_TEXT = st.text(max_size=300)


@settings(deadline=None, max_examples=200)
@given(prompt=ANY_TEXT, text=ANY_TEXT)
def test_any_text_gives_the_same_finite_numbers_in_range(prompt: str, text: str) -> None:
    first = score(prompt, text)
    assert all(math.isfinite(value) and 0 <= value <= 4 for value in astuple(first))
    assert score(prompt, text) == first


@pytest.mark.parametrize(
    "text", ["word " * 40_000, "a" * 200_000, "不" * 200_000, "\n" * 200_000 + "x", "```" * 66_000]
)
def test_a_huge_reply_is_scored_in_bounded_time(text: str) -> None:
    score("warm up", "the vectors")
    took = []
    for _ in range(3):  # processor time, the least of three: other work and collections only add
        started = time.thread_time()
        score("What is this?", text)
        took.append(time.thread_time() - started)
    assert min(took) < 0.5


def test_it_is_a_scorer_that_says_what_it_is_for() -> None:
    scorer: Scorer = EmbeddedScorer(resolution=0.7)
    assert scorer.info.resolution == 0.7
    assert scorer.info.scale == "helpsteer"
    assert "obvious failures only" in (scorer.info.note or "")


async def test_it_scores_off_the_event_loop() -> None:
    prompt, reply, _ = HONEST["English"][0]
    scorer = EmbeddedScorer()
    await scorer.ping()
    completion = Completion(reply, "stop", "test")
    scores = await asyncio.gather(*(scorer.score(ask(prompt), completion) for _ in range(8)))
    assert {s.outcome for s in scores} == {attributes(ask(prompt), completion)}
    assert {s.latency_s for s in scores} == {0.0}  # the ensemble's to measure


def test_it_opens_with_the_measured_resolution_unless_told() -> None:
    assert open_embedded_scorer().info.resolution == RESOLUTION
    assert open_embedded_scorer(0.5).info.resolution == 0.5


def test_a_missing_package_fails_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded._model.cache_clear()
    embedded._language_axes.cache_clear()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="wordllama"):
        open_embedded_scorer()


def test_a_last_line_left_open_is_judged_by_lines_of_its_kind() -> None:
    headed = (
        "Making tea\n\nFirst of all, bring fresh water to the boil.\n\nThen\n\nPour the water over"
        " the leaves and let them"
    )
    listed = "Tea needs:\n\n- fresh water from the tap\n- two spoons of tea leaves\n- a clean pot"
    assert score("How do I make tea?", headed).coherence < 1
    assert score("What does tea need?", listed).coherence > 2


def test_off_topic_is_told_on_public_pairs() -> None:
    """Loose, for it is small: benchmarks/embedded_scorer.py has the figures."""
    with gzip.open(
        public_data("pairs.jsonl.gz") / "pairs.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        rows = [row for row in map(json.loads, lines) if row["set"] == "human-faireval"]
    pairs = [(row["prompt"], row["better"]) for row in rows[:12]]
    told = [
        reward(prompt, reply) > reward(prompt, other)
        for (prompt, reply), (_, other) in combinations(pairs, 2)
    ]
    assert sum(told) / len(told) > 0.9

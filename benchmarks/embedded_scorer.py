"""What the embedded scorer catches, what it does not, and the resolution that follows.

    python benchmarks/embedded_scorer.py --data DIR

DIR holds `pairs.jsonl.gz`: gzip-compressed JSON lines with the fields set, prompt, better, worse.
Ours is made of public human preference pairs: LLMBar with the MT-Bench, LLMEval² and FairEval
pairs it repacks (github.com/princeton-nlp/LLMBar, MIT), PandaLM's test set
(github.com/WeOpenML/PandaLM, Apache-2.0), auto-j's pairs (github.com/GAIR-NLP/auto-j, Apache-2.0)
and the harmless-base test split of hh-rlhf (github.com/anthropics/hh-rlhf, MIT).

An HONEST REPLY is a reply that people preferred and that is an answer on its face:
  - its set is not hh-rlhf harmless-base, whose better replies are mostly refusals and dodges;
  - it has at least 40 bytes (of UTF-8, so that 14 Chinese characters do);
  - it does not begin by saying sorry or that it cannot;
  - it ends in sentence punctuation, a closing code fence or a list item.
Failures are made from honest replies, one a prompt, with a fixed seed. A pair of honest replies
passes the same test on both sides; LLMBar's adversarial sets give none, for their worse replies
were made to miss the prompt. The second to fourth rule read the text and share no code with the
scorer, but are not blind to what it looks for: the fourth removes replies that it would call cut
off. So every figure is also given for the replies left out, hh-rlhf apart.

Prompts are split by hash. Thresholds were settled on the tune half and figures are of the test
half, except that a first exploration used another split, so part of the test half was seen then.
The data is English but for a handful of rows, so other languages come from pairs written by hand
at the end of this file; they are split by the same hash.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from app.domain import Completion, Message, Prompt, Weights
from app.scorers.embedded import RESOLUTION, attributes
from app.scorers.evaluation import Share, spearman

WEIGHTS = Weights()
LEFT_OUT = "left out"
DECLINING = "hh-rlhf"  # its better replies often decline or dodge, as they should
LEAST_BYTES = 40
SORRY = re.compile(
    r"(?:unfortunately,? |as an? [\w ]+, )?"
    r"(?:i(?: am|['’]m) (?:\w+ )?(?:sorry|unable)|i apologi[sz]e|sorry"
    r"|i (?:cannot|can['’]t|can not))",
    re.IGNORECASE,
)
SENTENCE_CLOSED = re.compile(r"[.!?…。！？][\"'”’»)\]」』*_`]*$")
LIST_ITEM = re.compile(r"(?:[-*•]|\d+[.)])\s+\S.*$")


@dataclass(frozen=True)
class Pair:
    """A prompt with an honest reply; `other` is a second honest one, `None` if there is none."""

    group: str
    source: str
    prompt: str
    reply: str
    other: str | None = None


@dataclass(frozen=True)
class Trial:
    """One failure against the honest reply to the same prompt."""

    kind: str
    variant: str
    group: str
    honest: float
    failure: float


# --- data --------------------------------------------------------------------------------------


def in_test_half(prompt: str) -> bool:
    return hashlib.sha256(prompt.encode()).digest()[0] % 2 == 1


def objection(source: str, text: str) -> str | None:
    """Why a reply is not an honest one, or `None`."""
    text = text.strip()
    last = text.rpartition("\n")[2].strip()
    if source == "hh-harmless":
        return "hh-rlhf"
    if len(text.encode()) < LEAST_BYTES:
        return f"under {LEAST_BYTES} bytes"
    if SORRY.match(text):
        return "begins with sorry or cannot"
    if not (SENTENCE_CLOSED.search(text) or text.endswith("```") or LIST_ITEM.match(last)):
        return "no proper end"
    return None


def read_pairs(path: Path) -> list[Pair]:
    """Human pairs, grouped by whether the better reply is an honest one."""
    groups = {None: "English", "hh-rlhf": DECLINING}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Pair(
            groups.get(objection(row["set"], row["better"]), LEFT_OUT),
            row["set"],
            row["prompt"],
            row["better"],
            row["worse"],
        )
        for row in rows
        if row["better"].strip() and row["worse"].strip()
    ]


def both_honest(pair: Pair) -> bool:
    return (
        pair.group == "English"
        and not pair.source.startswith("llmbar-adv")
        and pair.other is not None
        and objection(pair.source, pair.other) is None
    )


def handwritten() -> list[Pair]:
    return [
        Pair(LEFT_OUT if objection("by hand", reply) else language, "by hand", prompt, reply)
        for language, replies in HONEST.items()
        for prompt, reply in replies
    ]


def one_per_prompt(pairs: Iterable[Pair]) -> list[Pair]:
    """The honest reply if a prompt has one."""
    honest_last = sorted(pairs, key=lambda pair: pair.group != LEFT_OUT)
    return list({pair.prompt: pair for pair in honest_last}.values())


def as_prompt(text: str) -> Prompt:
    """hh-rlhf writes a conversation in one text; the others are one user turn."""
    if not text.startswith("Human:"):
        return Prompt((Message("user", text),))
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)[1:]
    messages = [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    while messages and messages[-1].role != "user":
        messages.pop()
    return Prompt(tuple(messages))


def reward(prompt: str, text: str) -> float:
    return WEIGHTS.reward(attributes(as_prompt(prompt), Completion(text, "stop", "benchmark")))


# --- failures ----------------------------------------------------------------------------------

Maker = Callable[[Pair, Sequence[Pair], random.Random], str | None]


def tokens(text: str) -> list[str]:
    """Words with what sticks to them; characters where there are no spaces."""
    words = text.split()
    return words if len(words) * 12 > len(text) else list(text)


def joined(parts: Sequence[str], like: str) -> str:
    return (" " if len(like.split()) * 12 > len(like) else "").join(parts)


def off_topic(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    """An honest reply of the same group to another prompt."""
    return rng.choice([other for other in others if other.prompt != pair.prompt]).reply


def random_letters(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    lengths = [rng.randint(2, 9) for _ in range(max(4, len(pair.reply) // 6))]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ("".join(rng.choices(letters, k=length)) for length in lengths)
    return " ".join(words).capitalize() + "."


def shuffled_characters(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    characters = list(pair.reply)
    rng.shuffle(characters)
    return "".join(characters) if len(characters) >= 20 else None


def shuffled_inside_words(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    def mix(match: re.Match[str]) -> str:
        letters = list(match[0])
        rng.shuffle(letters)
        return "".join(letters)

    return re.sub(r"[^\W\d_]+", mix, pair.reply) if len(pair.reply) >= 20 else None


def shuffled_words(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    words = tokens(pair.reply)
    if len(words) < 10:
        return None
    rng.shuffle(words)
    return joined(words, pair.reply)


def mojibake(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    """UTF-8 read as Windows-1252; ASCII, which survives that, read as UTF-16."""
    if pair.reply.isascii():
        return (
            pair.reply.encode()
            .ljust(len(pair.reply) + len(pair.reply) % 2)
            .decode("utf-16-le", "replace")
        )
    return pair.reply.encode().decode("cp1252", "replace")


def looped_phrase(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    words = tokens(pair.reply)
    if len(words) < 6:
        return None
    size = rng.randint(3, min(12, len(words)))
    start = rng.randint(0, len(words) - size)
    phrase = joined(words[start : start + size], pair.reply)
    return joined([phrase] * rng.randint(6, 30), pair.reply)


def looped_sentence(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    """The reply, and then its last sentence over and over."""
    sentences: list[str] = re.findall(r"[^.!?。！？]+[.!?。！？]+", pair.reply)
    if len(sentences) < 2:
        return None
    return pair.reply + sentences[-1] * rng.randint(8, 30)


def refusal(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    return rng.choice(REFUSALS.get(pair.group, REFUSALS["English"]))


def _cut(pair: Pair, rng: random.Random) -> tuple[list[str], int] | None:
    """Words, and how many to keep: 30-90 %, not up to the end of a sentence."""
    words = tokens(pair.reply)
    if len(words) < 12 or not re.search(r"[.!?。！？][\"'”’)」』*_`]*\s*$", pair.reply):
        return None
    places = [
        place
        for place in range(math.ceil(0.3 * len(words)), int(0.9 * len(words)) + 1)
        if words[place - 1][-1].isalpha() and words[place][0].isalpha()
    ]
    return (words, rng.choice(places)) if places else None


def _keep(pair: Pair, words: list[str], count: int) -> str:
    """The first `count` words of the reply, line breaks and all."""
    at = 0
    for word in words[:count]:
        at = pair.reply.index(word, at) + len(word)
    return pair.reply[:at]


def cut_after_word(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    cut = _cut(pair, rng)
    return _keep(pair, *cut) if cut else None


def cut_inside_word(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    cut = _cut(pair, rng)
    if cut is None:
        return None
    words, count = cut
    following = re.match(r"[^\W\d_]*", words[count])
    length = len(following[0]) if following else 0
    if length < 3:
        return None
    kept = _keep(pair, words, count + 1)
    return kept[: len(kept) - len(words[count]) + rng.randint(1, length - 1)]


def parrot(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    return as_prompt(pair.prompt).turns[-1].content


def near_parrot(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    """The prompt with one word in ten lost, all in lower case, and a full stop."""
    words = tokens(as_prompt(pair.prompt).turns[-1].content)
    if len(words) < 8:
        return None
    lost = set(rng.sample(range(len(words)), k=len(words) // 10))
    kept = [word for place, word in enumerate(words) if place not in lost]
    return joined(kept, pair.prompt).lower() + "."


def empty(pair: Pair, others: Sequence[Pair], rng: random.Random) -> str | None:
    return rng.choice(("", " ", "\n\n"))


MAKERS: dict[str, dict[str, Maker]] = {
    "off-topic": {"another prompt's reply": off_topic},
    "gibberish": {
        "random letters": random_letters,
        "shuffled characters": shuffled_characters,
        "shuffled inside words": shuffled_inside_words,
        "shuffled words": shuffled_words,
        "mojibake": mojibake,
    },
    "repetition": {"looped phrase": looped_phrase, "looped sentence": looped_sentence},
    "refusal": {"declines": refusal},
    "truncation": {"cut after a word": cut_after_word, "cut inside a word": cut_inside_word},
    "parroting": {"prompt": parrot, "nearly the prompt": near_parrot},
    "empty": {"empty": empty},
}


def trials(pairs: Sequence[Pair], seed: int, draws: dict[str, int]) -> Iterator[Trial]:
    """`draws` failures of each variant, by group, so that small groups are seen more often."""
    by_group: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_group[pair.group].append(pair)
    for pair in track(pairs, description="failures", transient=True):
        honest = reward(pair.prompt, pair.reply)
        for kind, variants in MAKERS.items():
            for variant, make in variants.items():
                rng = random.Random(f"{seed} {variant} {pair.prompt}")
                for _ in range(draws.get(pair.group, 1)):
                    text = make(pair, by_group[pair.group], rng)
                    if text is not None:
                        failure = reward(pair.prompt, text)
                        yield Trial(kind, variant, pair.group, honest, failure)


# --- figures -----------------------------------------------------------------------------------


def as_json(share: Share) -> dict[str, float]:
    low, high = share.interval
    return {"share": share.value, "low": low, "high": high, "count": share.n}


def share(hits: Iterable[bool]) -> Share:
    seen = list(hits)
    return Share(sum(seen), len(seen))


def quantile(values: Sequence[float], level: float) -> float:
    return sorted(values)[min(len(values) - 1, int(level * len(values)))]


def best_resolution(honest: Sequence[float], found: Sequence[Trial]) -> float:
    """The margin at which the worse of two shares is best.

    The shares: pairs of honest replies that lie within it, and failures that lie beyond it, of
    the kind of failure where these are fewest.
    """
    by_kind: dict[str, list[float]] = defaultdict(list)
    for trial in found:
        by_kind[trial.kind].append(trial.honest - trial.failure)

    def worse(margin: float) -> float:
        beyond = [share(m > margin for m in margins).value for margins in by_kind.values()]
        return min(share(abs(m) < margin for m in honest).value, *beyond)

    return max((step / 20 for step in range(2, 41)), key=worse)


@dataclass(frozen=True)
class HumanPair:
    """Two replies to one prompt, the first preferred by people."""

    source: str
    margin: float
    longer_is_better: bool
    both_honest: bool


def human_pairs(pairs: Sequence[Pair]) -> list[HumanPair]:
    return [
        HumanPair(
            pair.source,
            reward(pair.prompt, pair.reply) - reward(pair.prompt, pair.other),
            len(pair.reply) > len(pair.other),
            both_honest(pair),
        )
        for pair in track(pairs, description="human pairs", transient=True)
        if pair.other is not None
    ]


def length_balanced(pairs: Sequence[HumanPair]) -> tuple[float, float]:
    """Mean accuracy where the longer reply is better and where it is not; half its interval.

    Ties count half. Length alone scores 50 %.
    """
    means, variance = [], 0.0
    for longer in (True, False):
        side = [pair.margin for pair in pairs if pair.longer_is_better is longer]
        wins = [(margin > 0) + 0.5 * (margin == 0) for margin in side]
        if not wins:
            return math.nan, math.nan
        mean = sum(wins) / len(wins)
        means.append(mean)
        variance += mean * (1 - mean) / len(wins) / 4
    return sum(means) / 2, 1.96 * math.sqrt(variance)


def first_seat_wins(margin: float, resolution: float) -> bool:
    """Selection's rule for two seats; `margin` is the first seat's reward minus the second's."""
    return margin >= 0 or -margin < resolution


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def failure_rows(found: Sequence[Trial], resolution: float) -> Iterator[dict[str, Any]]:
    """One row a kind and group, then one a variant; a tie counts as wrong."""
    cells: dict[tuple[str, str, str], list[Trial]] = defaultdict(list)
    for trial in found:
        cells[trial.kind, "", trial.group].append(trial)
        if trial.group in (DECLINING, LEFT_OUT):
            continue
        cells[trial.kind, "", "all honest"].append(trial)
        if trial.group != "English":
            cells[trial.kind, "", "all but English"].append(trial)
        if len(MAKERS[trial.kind]) > 1:
            cells[trial.kind, trial.variant, trial.group].append(trial)
    for (kind, variant, group), members in sorted(cells.items()):
        margins = [t.honest - t.failure for t in members]
        yield {
            "kind": kind,
            "variant": variant,
            "group": group,
            "told apart": share(m > 0 for m in margins),
            "beyond resolution": share(m > resolution for m in margins),
            "honest picked, failure first": share(
                not first_seat_wins(-m, resolution) for m in margins
            ),
            "honest picked, failure second": share(first_seat_wins(m, resolution) for m in margins),
        }


@dataclass(frozen=True)
class Report:
    replies: dict[str, dict[str, int]]
    failures: list[dict[str, Any]]
    spearman: dict[str, float]
    human: dict[str, tuple[float, float, int]]
    board_order: dict[str, Share]
    quantiles: dict[str, float]
    resolution: float
    recommended: float
    microseconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            match value:
                case Share():
                    return as_json(value)
                case dict():
                    return {key: plain(inner) for key, inner in value.items()}
                case list() | tuple():
                    return [plain(inner) for inner in value]
                case _:
                    return value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}

    def as_markdown(self) -> str:
        rows = [row for row in self.failures if not row["variant"]]
        variants = [row for row in self.failures if row["variant"]]
        head = ["failure", "group", "n", "told apart", "beyond resolution"]

        def cells(row: dict[str, Any], name: str) -> list[str]:
            apart, beyond = row["told apart"], row["beyond resolution"]
            return [name, row["group"], str(apart.n), str(apart), str(beyond)]

        order = [
            [
                row["kind"],
                f"{row['honest picked, failure first'].value:.1%}",
                f"{row['honest picked, failure second'].value:.1%}",
            ]
            for row in rows
            if row["group"] == "all honest"
        ]
        human = [
            [name, str(count), f"{value:.1%} ± {half:.1%}"]
            for name, (value, half, count) in self.human.items()
        ]
        ordered = [[name, str(hits.n), str(hits)] for name, hits in self.board_order.items()]
        return "\n".join(
            [
                "## Better replies, one a prompt, both halves: kept as honest, or why not\n",
                table(
                    ["set", "replies"],
                    (
                        [name, ", ".join(f"{why} {count}" for why, count in counts.items())]
                        for name, counts in self.replies.items()
                    ),
                ),
                "## Failures against the honest reply (a tie counts as wrong)\n",
                table(head, (cells(row, row["kind"]) for row in rows)),
                "## By variant\n",
                table(head, (cells(row, row["variant"]) for row in variants)),
                "## Honest reply picked over a failure, by where the failure sits\n",
                table(["failure", "in the first seat", "in the second"], order),
                "## Two replies: margin under the resolution, so the first seat wins\n",
                table(["set", "n", "share"], ordered),
                "## Human pairs, length-balanced accuracy (50 % is a coin toss)\n",
                table(["set", "n", "accuracy"], human),
                "## Reward against length over honest replies (Spearman)\n",
                table(["group", "rho"], ([k, f"{v:.3f}"] for k, v in self.spearman.items())),
                "## Resolution\n",
                f"In use: {self.resolution}. By the rule, from the tune half: {self.recommended}.",
                "Quantiles of the margin of two honest replies: "
                + ", ".join(f"{k} {v:.2f}" for k, v in self.quantiles.items()),
                "\n## Microseconds a score\n",
                table(["", "µs"], ([k, f"{v:.0f}"] for k, v in self.microseconds.items())),
            ]
        )


def timing(pairs: Sequence[Pair]) -> dict[str, float]:
    """Microseconds of one score, quantiles over replies; and of a reply of 200 kB."""
    took = []
    for pair in pairs[:500]:
        started = time.perf_counter()
        reward(pair.prompt, pair.reply)
        took.append(1e6 * (time.perf_counter() - started))
    huge = "A sentence that goes on about this and that, number 7. " * 3700
    started = time.perf_counter()
    reward("Tell me about numbers.", huge)
    large = 1e6 * (time.perf_counter() - started)
    return {"median": quantile(took, 0.5), "p95": quantile(took, 0.95), "200 kB reply": large}


def kept_and_dropped(pairs: Iterable[Pair]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        why = objection(pair.source, pair.reply)
        for name in (pair.source, "all"):
            counts[name][why or "kept"] += 1
    return {name: dict(found.most_common()) for name, found in sorted(counts.items())}


def ties(compared: Sequence[HumanPair], resolution: float) -> dict[str, Share]:
    """How often the first seat wins between two replies: both honest, by set, and any pair."""
    groups: dict[str, list[HumanPair]] = defaultdict(list)
    for pair in compared:
        groups["any human pair"].append(pair)
        if pair.both_honest:
            groups["two honest replies"].append(pair)
            groups[pair.source].append(pair)
    return {
        name: share(abs(pair.margin) < resolution for pair in members)
        for name, members in sorted(groups.items())
    }


def lengths(pairs: Sequence[Pair]) -> dict[str, float]:
    """Spearman of reward against characters, by group."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
        if pair.group not in (DECLINING, LEFT_OUT):
            groups["all honest"].append(pair)
    return {
        name: spearman(
            [reward(p.prompt, p.reply) for p in members], [len(p.reply) for p in members]
        )
        for name, members in groups.items()
    }


def measure(pairs: Sequence[Pair], half: bool, resolution: float, seed: int) -> Report:
    single = one_per_prompt(pairs)
    draws = dict.fromkeys(HONEST, 5)
    sides = {half, False}
    found = {
        side: list(trials([p for p in single if in_test_half(p.prompt) is side], seed, draws))
        for side in sides
    }
    compared = {
        side: human_pairs([p for p in pairs if in_test_half(p.prompt) is side]) for side in sides
    }
    sets = sorted({pair.source for pair in compared[half]})
    of_set = {name: [p for p in compared[half] if p.source == name] for name in sets}
    margins = [abs(pair.margin) for pair in compared[half] if pair.both_honest]
    return Report(
        replies=kept_and_dropped(single),
        failures=list(failure_rows(found[half], resolution)),
        spearman=lengths([pair for pair in single if in_test_half(pair.prompt) is half]),
        human={
            name: (*length_balanced(members), len(members))
            for name, members in [*of_set.items(), ("all", compared[half])]
        },
        board_order=ties(compared[half], resolution),
        quantiles={f"{q:.1%}": quantile(margins, q) for q in (0.5, 0.8, 0.9, 0.95, 0.975)},
        resolution=resolution,
        recommended=best_resolution(
            [pair.margin for pair in compared[False] if pair.both_honest],
            [t for t in found[False] if t.group not in (DECLINING, LEFT_OUT)],
        ),
        microseconds=timing(single),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with pairs.jsonl.gz"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument(
        "--half",
        choices=("test", "tune"),
        default="test",
        help="which prompts to report on; look at thresholds on tune only (default: test)",
    )
    parser.add_argument(
        "--resolution", type=float, default=RESOLUTION, help="default: the scorer's, %(default)s"
    )
    parser.add_argument("--seed", type=int, default=2026, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    path = options.data / "pairs.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path} is not there; --help says what it holds and where its parts come from")
    pairs = [*read_pairs(path), *handwritten()]
    report = measure(pairs, options.half == "test", options.resolution, options.seed)
    print(report.as_markdown())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2), encoding="utf-8")


# --- texts by hand -----------------------------------------------------------------------------

REFUSALS = {
    "English": (
        "I'm sorry, but as an AI I can't help with that.",
        "I cannot assist with this request.",
        "Unfortunately, I'm unable to provide an answer to this question.",
        "As an AI language model, I am not able to do this for you.",
        "I apologize, but that's not something I can do.",
        "Sorry, I won't be able to help you with this. Is there anything else you need?",
        "I must decline to answer this question.",
        "I'm not comfortable answering that. Please ask me something else.",
    ),
    "German": (
        "Es tut mir leid, aber als KI kann ich dabei nicht helfen.",
        "Ich kann diese Anfrage leider nicht beantworten.",
        "Leider bin ich nicht in der Lage, Ihnen hierbei zu helfen.",
        "Als Sprachmodell darf ich dazu keine Auskunft geben.",
        "Entschuldigung, das kann ich nicht für Sie tun.",
        "Diese Frage möchte ich nicht beantworten.",
    ),
    "Spanish": (
        "Lo siento, pero como IA no puedo ayudarte con eso.",
        "No puedo responder a esta pregunta.",
        "Lamentablemente, no me es posible proporcionar esa información.",
        "Como modelo de lenguaje, no estoy autorizado a hablar de este tema.",
        "Disculpa, no soy capaz de hacer lo que pides.",
        "Debo rechazar esta solicitud.",
    ),
    "Russian": (
        "Извините, но как ИИ я не могу помочь с этим.",
        "Я не могу ответить на этот вопрос.",
        "К сожалению, я не имею возможности предоставить эту информацию.",
        "Как языковая модель, я не вправе обсуждать эту тему.",
        "Простите, но я вынужден отказаться от выполнения этой просьбы.",
        "К сожалению, выполнить этот запрос я не могу.",
    ),
    "Chinese": (
        "很抱歉，作为人工智能，我无法帮助您。",
        "对不起，我不能回答这个问题。",
        "我无法提供您需要的信息。",
        "作为一个语言模型，我没有能力完成这个请求。",
        "抱歉，这个请求我不能满足。",
        "不好意思，这件事我帮不了您。",
    ),
}

HONEST: dict[str, tuple[tuple[str, str], ...]] = {
    "German": (
        (
            "Warum ist der Himmel blau?",
            "Das Sonnenlicht wird in der Luft gestreut, und zwar blaues Licht stärker als rotes."
            " Deshalb sehen wir aus jeder Richtung des Himmels vor allem Blau.",
        ),
        (
            "Wie kocht man ein weiches Ei?",
            "Lege das Ei in kochendes Wasser und warte etwa fünf Minuten. Schrecke es danach mit"
            " kaltem Wasser ab, damit es nicht weitergart.",
        ),
        (
            "Nenne drei Flüsse in Deutschland.",
            "Drei Flüsse in Deutschland sind der Rhein, die Elbe und die Donau.",
        ),
        (
            "Was ist der Unterschied zwischen Wetter und Klima?",
            "Wetter ist der Zustand der Atmosphäre an einem Tag und Ort. Klima beschreibt den"
            " Durchschnitt des Wetters über viele Jahre.",
        ),
        (
            "Schreibe eine kurze Mail, in der ich mich krankmelde.",
            "Guten Morgen Frau Weber,\n\nleider bin ich heute krank und kann nicht zur Arbeit"
            " kommen. Die Bescheinigung vom Arzt schicke ich Ihnen nach.\n\nViele Grüße",
        ),
        (
            "Wie funktioniert eine Wärmepumpe?",
            "Eine Wärmepumpe entzieht der Luft oder dem Boden Wärme und hebt sie mit einem"
            " Kompressor auf eine höhere Temperatur. Diese Wärme heizt dann das Haus.",
        ),
        (
            "Ein Zug fährt 240 Kilometer in drei Stunden. Wie schnell ist er?",
            "Geschwindigkeit ist Strecke durch Zeit: 240 Kilometer geteilt durch 3 Stunden ergibt"
            " 80 Kilometer pro Stunde.",
        ),
        (
            "Übersetze ins Englische: Der Hund schläft im Garten.",
            "The dog is sleeping in the garden.",
        ),
        (
            "Welche Vorteile hat es, mit dem Fahrrad zur Arbeit zu fahren?",
            "1. Du bewegst dich jeden Tag.\n2. Das Fahrrad kostet weniger als ein Auto.\n3. Du"
            " stehst nicht im Stau und schonst die Umwelt.",
        ),
        (
            "Was macht ein Betriebsrat?",
            "Ein Betriebsrat vertritt die Interessen der Beschäftigten gegenüber dem Arbeitgeber."
            " Er bestimmt zum Beispiel bei Arbeitszeiten und Kündigungen mit.",
        ),
        (
            "Wie pflege ich eine Orchidee?",
            "Stelle die Orchidee hell, aber nicht in die pralle Sonne. Tauche den Topf einmal pro"
            " Woche in Wasser und lass ihn gut abtropfen.",
        ),
        (
            "Erkläre einem Kind, was ein Vulkan ist.",
            "Tief in der Erde ist es so heiß, dass Gestein schmilzt. Manchmal drückt dieses"
            " flüssige Gestein nach oben und kommt aus einem Berg heraus. So einen Berg nennt man"
            " Vulkan.",
        ),
        (
            "Wie kann ich besser einschlafen?",
            "Geh jeden Abend zur gleichen Zeit ins Bett und lege das Handy eine Stunde vorher"
            " weg. Ein kühles, dunkles Zimmer hilft ebenfalls beim Einschlafen.",
        ),
        (
            "Wer hat den Buchdruck erfunden?",
            "Johannes Gutenberg hat um 1450 in Mainz den Buchdruck mit beweglichen Lettern"
            " erfunden.",
        ),
        (
            "Was ist bei einer Bewerbung wichtig?",
            "Das Anschreiben sollte zur Stelle passen und keine Fehler enthalten. Nenne Erfolge"
            " mit Zahlen und halte den Lebenslauf übersichtlich.",
        ),
        (
            "Warum haben Katzen Schnurrhaare?",
            "Mit den Schnurrhaaren tasten Katzen ihre Umgebung ab. So merken sie auch im Dunkeln,"
            " ob sie durch eine Öffnung passen.",
        ),
        (
            "Schreibe eine Python-Funktion, die zwei Zahlen addiert.",
            "```python\ndef addiere(a, b):\n    return a + b\n```\n\nDie Funktion gibt die Summe"
            " der beiden Zahlen zurück.",
        ),
        (
            "Wie trenne ich Müll richtig?",
            "Papier kommt in die blaue Tonne, Verpackungen in die gelbe und Essensreste in die"
            " Biotonne. Glas bringst du zum Container.",
        ),
        (
            "Was bedeutet Inflation?",
            "Inflation bedeutet, dass die Preise allgemein steigen. Für denselben Betrag bekommt"
            " man dann weniger Waren als zuvor.",
        ),
        (
            "Empfiehl mir ein Gericht mit Kartoffeln.",
            "Probier einen Kartoffelauflauf: Kartoffeln in Scheiben schneiden, mit Sahne,"
            " Knoblauch und Käse schichten und vierzig Minuten im Ofen backen.",
        ),
        (
            "Welche Rolle spielt der Wald für das Klima?",
            "Der Wald spielt für das Klima eine wichtige Rolle. Bäume nehmen Kohlendioxid aus der"
            " Luft auf und speichern den Kohlenstoff im Holz und im Boden. Außerdem verdunstet"
            " der Wald viel Wasser und kühlt so seine Umgebung. Wird ein Wald gerodet, gelangt"
            " ein großer Teil des Kohlenstoffs wieder in die Atmosphäre.",
        ),
        (
            "Wie lerne ich am besten Vokabeln?",
            "Vokabeln lernst du am besten in kleinen Portionen. Nimm dir jeden Tag zehn neue"
            " Wörter vor und wiederhole sie nach einem Tag, nach drei Tagen und nach einer Woche."
            " Karteikarten helfen dabei, weil du dich aktiv erinnern musst. Bilde außerdem mit"
            " jedem Wort einen eigenen Satz.",
        ),
        (
            "Erkläre den Unterschied zwischen Umsatz und Gewinn.",
            "Der Umsatz ist die Summe aller Einnahmen aus dem Verkauf. Vom Umsatz werden die"
            " Kosten abgezogen, zum Beispiel Löhne, Miete und Material. Was danach übrig bleibt,"
            " ist der Gewinn. Ein Unternehmen kann also einen hohen Umsatz und trotzdem keinen"
            " Gewinn haben.",
        ),
        (
            "Was sollte ich bei einer Wanderung in den Bergen beachten?",
            "Bei einer Wanderung in den Bergen solltest du vor allem auf das Wetter achten.\n\n-"
            " Prüfe die Vorhersage und brich früh auf.\n- Trage feste Schuhe und nimm"
            " Regenkleidung mit.\n- Packe genug Wasser, eine Karte und ein geladenes Telefon"
            " ein.\n- Kehre um, wenn der Weg zu schwierig wird.",
        ),
        (
            "Fasse die Geschichte von Rotkäppchen kurz zusammen.",
            "Rotkäppchen soll der kranken Großmutter Kuchen und Wein bringen. Im Wald trifft das"
            " Mädchen den Wolf, der es vom Weg ablenkt, zur Großmutter läuft und sie verschlingt."
            " Danach frisst er auch Rotkäppchen. Ein Jäger rettet beide und der Wolf stirbt.",
        ),
        (
            "Wie funktioniert eine Solaranlage auf dem Dach?",
            "Eine Solaranlage auf dem Dach besteht aus Modulen mit Solarzellen. Fällt Licht auf"
            " die Zellen, entsteht Gleichstrom. Ein Wechselrichter macht daraus Wechselstrom, den"
            " man im Haus nutzen kann. Überschüssiger Strom fließt ins Netz oder in einen"
            " Speicher.",
        ),
        (
            "Schreibe eine Produktbeschreibung für eine Thermosflasche.",
            "Unsere Thermosflasche hält Getränke bis zu zwölf Stunden heiß und bis zu"
            " vierundzwanzig Stunden kalt. Der doppelwandige Edelstahl ist robust und frei von"
            " Schadstoffen. Dank des dichten Verschlusses läuft die Flasche auch in der Tasche"
            " nicht aus.",
        ),
        (
            "Warum ist Schlaf für Kinder so wichtig?",
            "Schlaf ist für Kinder besonders wichtig, weil sich in dieser Zeit Körper und Gehirn"
            " entwickeln. Im Tiefschlaf werden Wachstumshormone ausgeschüttet, und das Gehirn"
            " verarbeitet das Gelernte. Kinder, die zu wenig schlafen, sind oft gereizt und"
            " können sich schlechter konzentrieren.",
        ),
    ),
    "Spanish": (
        (
            "¿Por qué el mar es salado?",
            "La lluvia arrastra sales de las rocas hasta los ríos, y los ríos las llevan al mar."
            " El agua se evapora, pero la sal se queda.",
        ),
        (
            "¿Cómo se hace una tortilla de patatas?",
            "Fríe las patatas con cebolla a fuego lento, mézclalas con huevos batidos y cuaja la"
            " tortilla por los dos lados en una sartén.",
        ),
        (
            "Dime tres capitales de América del Sur.",
            "Tres capitales de América del Sur son Lima, Bogotá y Santiago.",
        ),
        (
            "¿Qué es la fotosíntesis?",
            "La fotosíntesis es el proceso por el que las plantas convierten luz, agua y dióxido"
            " de carbono en azúcar y oxígeno.",
        ),
        (
            "Escribe un mensaje para cancelar una cita con el dentista.",
            "Buenos días: por un imprevisto no puedo acudir a la cita con el dentista del jueves."
            " ¿Podríamos cambiarla para la semana que viene? Muchas gracias.",
        ),
        (
            "¿Cuáles son los beneficios de caminar cada día?",
            "1. Fortalece el corazón.\n2. Ayuda a controlar el peso.\n3. Reduce el estrés y"
            " mejora el sueño.",
        ),
        (
            "Si compro 4 cuadernos a 3 euros cada uno, ¿cuánto pago?",
            "Cada cuaderno cuesta 3 euros, así que por 4 cuadernos pagas 4 × 3 = 12 euros.",
        ),
        (
            "Traduce al inglés: Mañana vamos a la playa.",
            "Tomorrow we are going to the beach.",
        ),
        (
            "¿Quién escribió Don Quijote de la Mancha?",
            "Don Quijote de la Mancha lo escribió Miguel de Cervantes; la primera parte se"
            " publicó en 1605.",
        ),
        (
            "¿Cómo puedo ahorrar agua en casa?",
            "Dúchate en vez de bañarte, repara los grifos que gotean y usa la lavadora solo"
            " cuando esté llena. Así ahorras mucha agua en casa.",
        ),
        (
            "Explica qué es un agujero negro.",
            "Un agujero negro es una región del espacio donde la gravedad es tan fuerte que ni"
            " siquiera la luz puede escapar.",
        ),
        (
            "Dame un consejo para hablar en público.",
            "Practica tu discurso en voz alta varias veces y mira a personas distintas del"
            " público mientras hablas. Respirar despacio calma los nervios.",
        ),
        (
            "¿Qué diferencia hay entre un virus y una bacteria?",
            "Una bacteria es una célula viva que puede reproducirse sola. Un virus es mucho más"
            " pequeño y necesita infectar una célula para multiplicarse.",
        ),
        (
            "Escribe una función en Python que diga si un número es par.",
            "```python\ndef es_par(numero):\n    return numero % 2 == 0\n```\n\nDevuelve"
            " verdadero si el número es par.",
        ),
        (
            "¿Cómo cuido un cactus?",
            "Pon el cactus donde reciba mucha luz y riégalo solo cuando la tierra esté seca. En"
            " invierno necesita muy poca agua.",
        ),
        (
            "¿Qué es la inteligencia artificial?",
            "La inteligencia artificial es la rama de la informática que crea programas capaces"
            " de aprender, reconocer imágenes o entender el lenguaje.",
        ),
        (
            "Recomiéndame una actividad para un día de lluvia con niños.",
            "Podéis montar una cabaña con mantas y cojines en el salón y contar cuentos dentro"
            " con una linterna. A los niños les encanta.",
        ),
        (
            "¿Por qué tenemos que dormir?",
            "Mientras dormimos, el cerebro ordena los recuerdos y el cuerpo se repara. Sin dormir"
            " perdemos atención, memoria y defensas.",
        ),
        (
            "¿Cómo se prepara una entrevista de trabajo?",
            "Investiga la empresa, repasa tu currículum y prepara ejemplos de tu trabajo"
            " anterior. Llega diez minutos antes a la entrevista.",
        ),
        (
            "¿Qué país ganó el mundial de fútbol de 2010?",
            "El mundial de fútbol de 2010 lo ganó España, que venció a Países Bajos en la final.",
        ),
        (
            "¿Cuál es el papel de los bosques en el clima?",
            "Los bosques tienen un papel muy importante en el clima. Los árboles absorben dióxido"
            " de carbono y lo guardan en la madera y en el suelo. Además, los bosques liberan"
            " vapor de agua que refresca el ambiente y favorece la lluvia. Cuando se talan, una"
            " gran parte de ese carbono vuelve a la atmósfera.",
        ),
        (
            "¿Cómo puedo aprender vocabulario en otro idioma?",
            "Para aprender vocabulario en otro idioma conviene estudiar pocas palabras cada día y"
            " repasarlas a menudo. Usa tarjetas con la palabra por un lado y la traducción por el"
            " otro. También ayuda escribir frases propias con las palabras nuevas y leer textos"
            " sencillos en ese idioma.",
        ),
        (
            "Explica la diferencia entre ingresos y beneficios.",
            "Los ingresos son todo el dinero que una empresa recibe por sus ventas. Los"
            " beneficios son lo que queda después de restar los gastos, como los salarios, el"
            " alquiler y los materiales. Por eso una empresa puede tener muchos ingresos y, aun"
            " así, no obtener beneficios.",
        ),
        (
            "¿Qué debo llevar a una excursión por la montaña?",
            "Para una excursión por la montaña debes llevar lo siguiente:\n\n- Botas cómodas y"
            " una chaqueta impermeable.\n- Agua suficiente y algo de comida.\n- Un mapa, un"
            " teléfono cargado y una linterna.\n- Un pequeño botiquín por si hay heridas.",
        ),
        (
            "Resume el cuento de Caperucita Roja.",
            "Caperucita Roja lleva comida a su abuela, que vive en el bosque. Por el camino"
            " encuentra al lobo, que se adelanta, se come a la abuela y se disfraza de ella."
            " Cuando llega la niña, también se la come. Al final un cazador rescata a Caperucita"
            " y a su abuela.",
        ),
        (
            "¿Cómo funciona un panel solar?",
            "Un panel solar está formado por células que transforman la luz en electricidad."
            " Cuando la luz del sol llega al panel, mueve los electrones del silicio y se crea"
            " una corriente continua. Un inversor la convierte en corriente alterna para usarla"
            " en casa.",
        ),
        (
            "Escribe una descripción de producto para una mochila.",
            "Nuestra mochila combina comodidad y resistencia. Está hecha de tela impermeable,"
            " tiene un compartimento acolchado para el portátil y varios bolsillos para organizar"
            " tus cosas. Las correas ajustables reparten el peso, así que puedes llevar la"
            " mochila todo el día.",
        ),
        (
            "¿Por qué es importante leer a los niños?",
            "Leer a los niños es importante porque desarrolla su lenguaje y su imaginación. Al"
            " escuchar cuentos aprenden palabras nuevas y comprenden mejor las emociones. Además,"
            " leer juntos crea un momento de cariño que los niños recuerdan con gusto.",
        ),
    ),
    "Russian": (
        (
            "Почему листья осенью желтеют?",
            "Осенью в листьях разрушается хлорофилл, который придаёт им зелёный цвет. Тогда"
            " становятся видны жёлтые пигменты, которые были в листьях и раньше.",
        ),
        (
            "Как сварить гречку?",
            "Промойте гречку, залейте двумя частями воды и варите под крышкой на слабом огне"
            " пятнадцать минут. В конце добавьте соль и масло.",
        ),
        (
            "Назови три крупных города России.",
            "Три крупных города России: Москва, Санкт-Петербург и Новосибирск.",
        ),
        (
            "Что такое гравитация?",
            "Гравитация — это сила, с которой тела притягиваются друг к другу. Благодаря"
            " гравитации Луна движется вокруг Земли.",
        ),
        (
            "Напиши короткое поздравление с днём рождения коллеге.",
            "Дорогая Анна, поздравляем тебя с днём рождения! Желаем здоровья, интересных задач и"
            " хороших людей рядом. Твои коллеги.",
        ),
        (
            "Как научиться быстро читать?",
            "Читайте каждый день по полчаса и старайтесь не проговаривать слова про себя. Ведите"
            " по строке карандашом, чтобы взгляд не возвращался назад.",
        ),
        (
            "Поезд проехал 300 километров за 4 часа. Какова его скорость?",
            "Скорость равна расстоянию, делённому на время: 300 километров разделить на 4 часа"
            " будет 75 километров в час.",
        ),
        (
            "Переведи на английский: Я люблю читать книги.",
            "I love reading books.",
        ),
        (
            "Кто написал роман «Война и мир»?",
            "Роман «Война и мир» написал Лев Толстой; книга вышла в 1860-х годах.",
        ),
        (
            "Как ухаживать за кактусом?",
            "Поставьте кактус на солнечное окно и поливайте только тогда, когда земля высохнет."
            " Зимой кактусу почти не нужна вода.",
        ),
        (
            "Чем полезна утренняя зарядка?",
            "1. Зарядка помогает проснуться.\n2. Она улучшает кровообращение.\n3. Мышцы и суставы"
            " становятся крепче.",
        ),
        (
            "Объясни ребёнку, что такое радуга.",
            "Когда солнечный свет проходит через капли дождя, он распадается на разные цвета."
            " Поэтому после дождя мы видим на небе радугу.",
        ),
        (
            "Какая разница между вирусом и бактерией?",
            "Бактерия — это живая клетка, которая размножается сама. Вирус намного меньше и может"
            " размножаться только внутри чужой клетки.",
        ),
        (
            "Как подготовиться к собеседованию?",
            "Изучите сайт компании, вспомните примеры своих удач и приготовьте вопросы"
            " работодателю. На собеседование придите на десять минут раньше.",
        ),
        (
            "Напиши функцию на Python, которая возвращает квадрат числа.",
            "```python\ndef square(number):\n    return number ** 2\n```\n\nФункция возвращает"
            " квадрат переданного числа.",
        ),
        (
            "Почему нужно пить воду?",
            "Вода переносит питательные вещества, охлаждает тело и выводит лишнее. Если пить мало"
            " воды, появляются усталость и головная боль.",
        ),
        (
            "Что такое инфляция?",
            "Инфляция — это общий рост цен. На ту же сумму денег со временем можно купить меньше"
            " товаров.",
        ),
        (
            "Посоветуй, чем заняться в дождливый день.",
            "В дождливый день можно испечь пирог, посмотреть старый фильм или сыграть с друзьями"
            " в настольную игру.",
        ),
        (
            "Как работает микроволновая печь?",
            "Микроволновая печь создаёт волны, которые заставляют молекулы воды в пище"
            " колебаться. От этого еда нагревается изнутри.",
        ),
        (
            "Какая планета самая большая в Солнечной системе?",
            "Самая большая планета Солнечной системы — Юпитер.",
        ),
        (
            "Какую роль леса играют в климате?",
            "Леса играют в климате важную роль. Деревья поглощают углекислый газ и хранят углерод"
            " в древесине и почве. Кроме того, леса испаряют много воды и охлаждают воздух. Когда"
            " лес вырубают, значительная часть углерода возвращается в атмосферу.",
        ),
        (
            "Как лучше учить иностранные слова?",
            "Иностранные слова лучше учить понемногу, но каждый день. Возьмите десять новых слов,"
            " повторите их завтра, через три дня и через неделю. Помогают карточки, потому что"
            " приходится вспоминать слово самостоятельно. Составляйте с каждым словом собственное"
            " предложение.",
        ),
        (
            "Объясни разницу между выручкой и прибылью.",
            "Выручка — это все деньги, которые компания получила от продаж. Прибыль остаётся"
            " после того, как из выручки вычли расходы: зарплату, аренду, материалы. Поэтому у"
            " компании может быть большая выручка и при этом не быть прибыли.",
        ),
        (
            "Что взять с собой в поход в горы?",
            "В поход в горы возьмите с собой самое необходимое:\n\n- Прочную обувь и куртку от"
            " дождя.\n- Достаточно воды и еды.\n- Карту, заряженный телефон и фонарик.\n-"
            " Небольшую аптечку.",
        ),
        (
            "Кратко перескажи сказку «Репка».",
            "Дед посадил репку, и выросла она большая-пребольшая. Стал дед тянуть репку, но"
            " вытянуть не смог. На помощь пришли бабка, внучка, Жучка и кошка, но репка не"
            " поддавалась. Только когда прибежала мышка, они все вместе вытянули репку.",
        ),
        (
            "Как работает солнечная батарея?",
            "Солнечная батарея состоит из кремниевых элементов. Когда на них попадает солнечный"
            " свет, электроны начинают двигаться и возникает постоянный ток. Инвертор превращает"
            " его в переменный ток, который можно использовать в доме.",
        ),
        (
            "Напиши описание товара для термоса.",
            "Наш термос сохраняет напитки горячими до двенадцати часов и холодными до суток."
            " Двойные стенки из нержавеющей стали выдерживают удары, а плотная крышка не"
            " протекает. Термос легко помещается в сумку и удобен в дороге.",
        ),
        (
            "Почему детям важно читать вслух?",
            "Детям важно читать вслух, потому что так они слышат правильную речь и узнают новые"
            " слова. Истории развивают воображение и учат понимать чувства других людей. Кроме"
            " того, совместное чтение сближает детей и родителей.",
        ),
    ),
    "Chinese": (
        (
            "为什么天空是蓝色的？",
            "阳光进入大气层后会被空气分子散射，蓝光的波长短，散射得最厉害，所以我们看到的天空是蓝"
            "色的。",
        ),
        (
            "怎样煮一碗好吃的面条？",
            "先把水烧开，再放入面条煮三到五分钟。捞出后加入酱油、葱花和一点香油，一碗好吃的面条就"
            "做好了。",
        ),
        (
            "请列出中国的三大河流。",
            "中国的三大河流是长江、黄河和珠江。",
        ),
        (
            "什么是光合作用？",
            "光合作用是植物利用阳光，把水和二氧化碳变成糖分并放出氧气的过程。",
        ),
        (
            "帮我写一条请假的短信。",
            "王经理，您好！我今天发烧了，需要去医院看病，想请假一天。工作我已经交给小李，谢谢您的"
            "理解。",
        ),
        (
            "每天跑步有什么好处？",
            "1. 跑步可以增强心肺功能。\n2. 跑步能帮助控制体重。\n3."
            " 每天运动让人心情更好，睡得更香。",
        ),
        (
            "一辆汽车3小时行驶了180公里，平均速度是多少？",
            "平均速度等于路程除以时间：180公里除以3小时，等于每小时60公里。",
        ),
        (
            "把这句话翻译成英文：我明天去北京。",
            "I am going to Beijing tomorrow.",
        ),
        (
            "《红楼梦》的作者是谁？",
            "《红楼梦》的作者是清代作家曹雪芹。",
        ),
        (
            "如何提高英语口语？",
            "每天坚持大声朗读英语，模仿录音的语调，并且多找机会和别人用英语交流，口语就会慢慢提高"
            "。",
        ),
        (
            "病毒和细菌有什么区别？",
            "细菌是能够独立生存的单细胞生物，而病毒更小，必须进入别的细胞才能繁殖。抗生素对细菌有"
            "效，对病毒无效。",
        ),
        (
            "怎样照顾仙人掌？",
            "仙人掌喜欢阳光，要放在明亮的地方。等土壤完全干了再浇水，冬天要少浇水。",
        ),
        (
            "请给孩子解释什么是彩虹。",
            "下雨以后，空中有很多小水滴。阳光穿过这些小水滴时，会分成红、橙、黄、绿、蓝、靛、紫七"
            "种颜色，这就是彩虹。",
        ),
        (
            "用Python写一个求两个数最大值的函数。",
            "```python\ndef maximum(a, b):\n    return a if a > b else b\n```\n\n这个函数会返回两"
            "个数中较大的那一个。",
        ),
        (
            "面试之前应该做哪些准备？",
            "面试之前要了解公司的情况，准备好自我介绍和工作经历的例子，并且提前十分钟到达面试地点"
            "。",
        ),
        (
            "什么是通货膨胀？",
            "通货膨胀是指物价普遍上涨、货币购买力下降的现象。同样的钱，以后能买到的东西会变少。",
        ),
        (
            "晚上睡不着怎么办？",
            "睡前一小时不要看手机，可以洗个热水澡或者听轻音乐。每天固定时间上床，晚上就更容易睡着"
            "。",
        ),
        (
            "太阳系中最大的行星是哪一颗？",
            "太阳系中最大的行星是木星。",
        ),
        (
            "推荐一个适合雨天的室内活动。",
            "雨天可以在家里和家人一起包饺子，也可以看一部老电影或者玩桌游。",
        ),
        (
            "手机电池怎样用得更久？",
            "不要让手机电池完全没电，也不要长时间充电过夜。避免高温，并关闭不用的应用，电池就能用"
            "得更久。",
        ),
        (
            "森林对气候有什么作用？",
            "森林对气候有重要的作用。树木吸收二氧化碳，把碳储存在木材和土壤里。森林还会蒸发大量水"
            "分，使周围的空气变得凉爽。如果森林被砍伐，大部分碳就会回到大气中。",
        ),
        (
            "怎样背英语单词效果最好？",
            "背英语单词最好每天坚持，一次不要太多。可以每天记十个新单词，第二天、第四天和一周以后"
            "再复习。用单词卡片能帮助主动回忆，再用每个单词造一个句子，印象会更深。",
        ),
        (
            "请解释收入和利润的区别。",
            "收入是公司卖出商品或服务得到的全部钱。利润是收入减去各种成本以后剩下的部分，例如工资"
            "、房租和材料费。所以一家公司可能收入很高，却没有利润。",
        ),
        (
            "去山里徒步要带什么？",
            "去山里徒步要准备好下面这些东西：\n\n- 结实的鞋子和防雨外套。\n- 足够的水和食物。\n-"
            " 地图、充好电的手机和手电筒。\n- 一个小药包。",
        ),
        (
            "简单讲一下龟兔赛跑的故事。",
            "兔子嘲笑乌龟跑得慢，乌龟就提出和兔子赛跑。比赛开始后，兔子跑得很快，觉得自己一定会赢"
            "，就在路边睡着了。乌龟一步一步不停地往前爬，最后先到达终点，赢得了比赛。",
        ),
        (
            "太阳能电池板是怎样工作的？",
            "太阳能电池板由许多硅电池组成。阳光照到电池板上时，硅里面的电子开始移动，产生直流电。"
            "逆变器再把直流电变成交流电，供家里的电器使用。",
        ),
        (
            "给一款保温杯写一段产品介绍。",
            "这款保温杯采用双层不锈钢，能让热水保温十二小时，也能让冷饮保持清凉一整天。杯盖密封性"
            "好，放进包里不会漏水。杯身轻巧，无论上班还是旅行，带上这款保温杯都很方便。",
        ),
        (
            "为什么要给孩子读故事？",
            "给孩子读故事可以丰富他们的语言和想象力。孩子在听故事的时候会学到新的词语，也能慢慢理"
            "解别人的感受。此外，一起读故事还能让孩子和父母更加亲近。",
        ),
    ),
}


if __name__ == "__main__":
    main()

"""How far `app/star/verify.py` agrees with others about what is right.

    python benchmarks/verification.py --data DIR [--examples N]

DIR holds `math_verify_cases.jsonl.gz` (the cases of huggingface/Math-Verify's own tests: gold,
pred, expected 1 or 0; Apache-2.0) and, from openai/grade-school-math (MIT), `gsm8k/train.jsonl.gz`,
`gsm8k/test.jsonl.gz` and `gsm8k/model_solutions.jsonl.gz` (the solutions of four models to the
test problems). GSM8K's convention is to compare the number after the last mark as a string without
commas; `is_correct` is what its makers say of each solution. Every disagreement is listed with the
first N of GSM8K's equations that do not hold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import track

from app.extraction import stated
from app.star.problems import problem, read_problems
from app.star.steps import check_steps, equations
from app.star.verify import Verdict, verify

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MARK = re.compile(r"(?:####|^A:|answer is)\s*\$?(-?[\d.,]+)", re.MULTILINE)
FILES = (
    "math_verify_cases.jsonl.gz",
    "gsm8k/train.jsonl.gz",
    "gsm8k/test.jsonl.gz",
    "gsm8k/model_solutions.jsonl.gz",
)


class Tally:
    """Verdicts beside what they should be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[tuple[Verdict, bool]] = Counter()
        self.disagreed: list[str] = []

    def add(self, verdict: Verdict, right: bool, shown: str) -> None:
        self.counts[verdict, right] += 1
        if verdict != "unverified" and (verdict == "right") != right:
            self.disagreed.append(f"{verdict}, expected {'right' if right else 'wrong'}: {shown}")

    def line(self) -> str:
        cases = self.counts.total()
        unverified = self.counts["unverified", True] + self.counts["unverified", False]
        wrongly = len(self.disagreed)
        return (
            f"| {self.name} | {cases} | {cases - unverified - wrongly} | {unverified}"
            f" ({self.counts['unverified', True]}) | {wrongly} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the files")
    parser.add_argument("--examples", type=int, default=20, help="equations to list")
    asked = parser.parse_args()
    for file in FILES:
        if not (asked.data / file).is_file():
            raise SystemExit(f"{asked.data / file} is not there; the head of this file says whence")
    tallies = [math_verify(asked.data), *gsm8k(asked.data)]
    print("| cases | n | agreed | unverified (of these expected right) | disagreed |")
    print("|---|---|---|---|---|")
    for tally in tallies:
        print(tally.line())
    for tally in tallies:
        if tally.disagreed:
            print(f"\n{tally.name}:\n")
            print("\n".join(f"- {shown}" for shown in tally.disagreed))
    print_steps(asked.data, asked.examples)


def math_verify(data: Path) -> Tally:
    tally = Tally("math-verify's own")
    for row in track(list(rows(data / FILES[0])), "math-verify"):
        # Some golds are whole solutions; a reference is the answer alone.
        asks = problem("own", "case", stated(row["gold"]) or row["gold"])
        shown = f"`{row['gold'][-90:]!r}` against `{row['pred'][-90:]!r}`"
        tally.add(verify(asks, row["pred"]), row["expected"] == 1, shown)
    return tally


def gsm8k(data: Path) -> Iterator[Tally]:
    references = Tally("GSM8K's references against themselves")
    for file in FILES[1:3]:
        for asks, row in zip(read_problems(data / file), rows(data / file), strict=True):
            references.add(verify(asks, row["answer"]), True, row["answer"][-60:])
    yield references
    convention, makers = Tally("four models, by convention"), Tally("four models, by its makers")
    for row in rows(data / FILES[3]):
        asks = problem("gsm8k", row["question"], number(row["ground_truth"]))
        for model in MODELS:
            solution, said_right = row[model]["solution"], row[model]["is_correct"]
            verdict = verify(asks, solution)
            shown = f"reference {asks.reference}, {model} `{solution[-70:]!r}`"
            convention.add(verdict, number(solution) == asks.reference, shown)
            makers.add(verdict, said_right, shown)
    yield convention
    yield makers


def number(text: str) -> str | None:
    """What the convention takes for the answer."""
    marked = MARK.findall(text)
    return marked[-1].replace(",", "").rstrip(".") if marked else None


def steps(data: Path) -> tuple[Counter[str], list[str], int]:
    """GSM8K's training rationales by kind, the equations that do not hold, the number of all."""
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    checked = 0
    for row in rows(data / FILES[1]):
        kinds[check_steps(row["answer"])] += 1
        found = equations(row["answer"])
        checked += len(found)
        wrong += [one.text for one in found if not one.holds]
    return kinds, wrong, checked


def print_steps(data: Path, examples: int) -> None:
    kinds, wrong, checked = steps(data)
    total = kinds.total()
    shares = ", ".join(f"{kind} {kinds[kind]} ({kinds[kind] / total:.1%})" for kind in kinds)
    print(f"\nSteps of GSM8K's {total} training rationales: {shares};")
    print(f"{checked} equations, {len(wrong)} do not hold, among them:\n")
    print("\n".join(f"- `{one}`" for one in wrong[:examples]))


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()

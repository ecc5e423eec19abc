"""What each strategy makes of four models' keyed answers to GSM8K.

    python benchmarks/strategies.py --data DIR

DIR holds `gsm8k/model_solutions.jsonl.gz`: the solutions of four models to the 1,319 test problems,
from openai/grade-school-math (example_model_solutions.jsonl, MIT), one JSON object a line. The
board stands in the order of the models' accuracy on the first half of the problems by hash, as an
operator would set it; figures are of the other half. Replies are scored by the embedded scorer.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from app.domain import Candidate, Completion, Message, Plan, Prompt, ScoredCandidate, Weights
from app.extraction import extract
from app.scorers.embedded import RESOLUTION, attributes
from app.scorers.evaluation import Share
from app.selection import Strategy, best_of_n, majority_vote, weighted_vote

STRATEGIES: Mapping[str, Strategy] = {
    "best_of_n": best_of_n,
    "majority_vote": majority_vote,
    "weighted_vote": weighted_vote,
}

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@dataclass(frozen=True)
class Problem:
    """One problem: the scored candidates, and which models are right."""

    candidates: Sequence[ScoredCandidate]
    right: Mapping[str, bool]


RESAMPLES = 2000  # of the problems, for the interval of the share (percentile bootstrap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds gsm8k/")
    path = parser.parse_args().data / "gsm8k" / "model_solutions.jsonl.gz"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; see the head of this file for where it comes from")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tune = [row for row in rows if half(row["question"]) == 0]
    board = sorted(MODELS, key=lambda m: -statistics.mean(row[m]["is_correct"] for row in tune))
    test = [row for row in rows if half(row["question"]) == 1]
    problems = [problem(row) for row in track(test, "scoring")]
    plan = Plan(tuple(board), resolution=RESOLUTION)
    print(f"{len(problems)} problems; board order: {', '.join(board)}\n")
    print("| who or what chooses | right [95 %] | share of the oracle gap closed [95 %] |")
    print("|---|---|---|")
    singles = {m: [p.right[m] for p in problems] for m in board}
    means = [statistics.mean(p.right.values()) for p in problems]
    oracle = [any(p.right.values()) for p in problems]
    for name, hits in singles.items():
        line(name, hits, means, oracle)
    print(f"| mean of the four | {statistics.mean(means):.1%} | 0 % |")
    for name, strategy in STRATEGIES.items():
        line(f"`{name}`", [hit(p, strategy, plan) for p in problems], means, oracle)
    line("oracle", oracle, means, oracle)


def half(question: str) -> int:
    return hashlib.sha256(question.encode()).digest()[0] % 2


def problem(row: Mapping[str, dict[str, str]]) -> Problem:
    prompt = Prompt((Message("user", str(row["question"])),))
    candidates = []
    for model in MODELS:
        completion = Completion(row[model]["solution"], "stop", model)
        reward = Weights().reward(attributes(prompt, completion))
        candidate = Candidate(model, model, model, completion, 0.0)
        extracted = extract(completion.text)
        candidates.append(ScoredCandidate(candidate, reward=reward, extracted=extracted))
    return Problem(candidates, {m: bool(row[m]["is_correct"]) for m in MODELS})


def hit(problem: Problem, strategy: Strategy, plan: Plan) -> bool:
    chosen = strategy(problem.candidates, plan)
    assert chosen.winner is not None
    return problem.right[chosen.winner]


def line(name: str, hits: Sequence[bool], means: Sequence[float], oracle: Sequence[bool]) -> None:
    rows = list(zip(hits, means, oracle, strict=True))
    draw = random.Random(1)
    drawn = sorted(closed(draw.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    low, high = drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES)]
    share = Share(sum(hits), len(hits))
    print(f"| {name} | {share} | {closed(rows):.0%} [{low:.0%}, {high:.0%}] |")


def closed(rows: Sequence[tuple[bool, float, bool]]) -> float:
    """The share of the gap between the mean member and the oracle that was closed."""
    chosen, mean, best = (statistics.fmean(column) for column in zip(*rows, strict=True))
    return (chosen - mean) / (best - mean)


if __name__ == "__main__":
    main()

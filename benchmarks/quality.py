"""The ensemble beside its best single member, and beside that member asked as often as it costs.

    python benchmarks/quality.py --data DIR [--replies sums.jsonl] [--out quality.json]

Two sets with keys. `DIR/gsm8k/model_solutions.jsonl.gz` has one recorded reply of each of four
models (openai/grade-school-math, example_model_solutions.jsonl, MIT): spend is the number of
replies, and since there is but one of each, there is no self-consistency to compare with.
`--replies` names what `benchmarks/replies.py` wrote, several samples of each embedded member: spend
is what the members compute, 2 operations for each parameter and token read or written (arXiv
2001.08361), and every ensemble stands beside self-consistency (the majority of one member's
samples) with the number of samples that comes nearest to its spend.

Replies are scored, compared and voted on by the service's own code. Intervals are of a bootstrap
over problems; differences are paired. Which single member is the best is known in hindsight, which
favors it.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import replies
from estimates import Estimate
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import save
from results import keep, versions
from rich.progress import track
from strategies import MODELS, problem

from app.domain import Candidate, Plan, ScoredCandidate, StrategyName, Weights
from app.extraction import extract
from app.scorers.embedded import LENGTH_SLOPE, RESOLUTION, attributes
from app.selection import STRATEGIES
from app.star.prompts import SHOWN
from app.star.verify import verify

RESAMPLES = 4000
VOTES: tuple[StrategyName, ...] = ("best_of_n", "majority_vote", "weighted_vote")


@dataclass(frozen=True)
class Drawn:
    """A scored reply, whether it is right, and its spend in the unit of its set."""

    scored: ScoredCandidate
    right: bool
    spend: float


# The replies of each member to one problem, in the order they were drawn.
Keyed = Mapping[str, Sequence[Drawn]]


@dataclass(frozen=True)
class KeyedSet:
    name: str
    unit: str
    problems: Sequence[Keyed]


@dataclass(frozen=True)
class Arm:
    """A way to answer: members in board order, how often each is asked, and who chooses."""

    members: tuple[str, ...]
    strategy: StrategyName
    samples: int = 1

    @property
    def name(self) -> str:
        if len(self.members) > 1:
            return f"{self.strategy}, {self.samples} x ({' + '.join(self.members)})"
        what = "alone" if self.samples == 1 else f"self-consistency of {self.samples}"
        return f"{self.members[0]}, {what}"


@dataclass(frozen=True)
class Outcome:
    """What an arm made of each problem: the share of draws in which it was right, and its mean
    spend on a problem."""

    arm: Arm
    hits: NDArray[np.float64]
    spend: float


@dataclass(frozen=True)
class Comparison:
    """An ensemble less a rival, in shares of problems right."""

    ensemble: Outcome
    rival: Outcome
    difference: Estimate

    @property
    def verdict(self) -> str:
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no difference shown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds gsm8k/")
    parser.add_argument("--replies", type=Path, help="what benchmarks/replies.py wrote")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    asked = parser.parse_args()
    path = asked.data / "gsm8k" / "model_solutions.jsonl.gz"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; see the head of this file for where it comes from")
    found = [(one := gsm8k(path), *compared(one, gsm8k_boards()))]
    if asked.replies:
        found.append((one := sums(asked.replies), *compared(one, sums_boards(one))))
    for keyed, outcomes, comparisons in found:
        print(report(keyed, outcomes, comparisons))
    if asked.out:
        sets = {"sets": [as_json(*one) for one in found]}
        keep(asked.out, sets, versions("starboard", "numpy", "xllamacpp"))
    if asked.picture:
        save(picture(found), asked.picture)


def gsm8k(path: Path, limit: int | None = None) -> KeyedSet:
    """The first `limit` problems of the file, or all."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:limit]
    problems = []
    for row in track(rows, "scoring GSM8K", transient=True):
        one = problem(row)
        problems.append(
            {
                c.candidate.member: [Drawn(c, one.right[c.candidate.member], 1)]
                for c in one.candidates
            }
        )
    return KeyedSet("GSM8K", "replies", problems)


def gsm8k_boards() -> list[Arm]:
    """The four models, and the three weaker ones, best first."""
    best_first = ("175b_verification", "6b_verification", "175b_finetuning", "6b_finetuning")
    assert set(best_first) == set(MODELS)
    return [Arm(board, way) for board in (best_first, best_first[1:]) for way in VOTES]


def sums(file: Path) -> KeyedSet:
    """The problems that the file has every sample of, worked examples aside."""
    by_problem: dict[str, dict[str, list[Drawn]]] = {}
    for reply in track(list(replies.read(file)), "scoring sums", transient=True):
        if reply.problem.group in SHOWN:
            continue
        usage = reply.completion.usage
        assert usage is not None
        tokens = usage.input_tokens + usage.output_tokens
        member = replies.MEMBERS[reply.member]
        of_one = by_problem.setdefault(reply.problem.id, {}).setdefault(reply.member, [])
        right = verify(reply.problem, reply.completion.text) == "right"
        of_one.append(Drawn(scored(reply), right, 2 * member.parameters * tokens))
    members = {name for of_one in by_problem.values() for name in of_one}
    whole = [
        of_one
        for of_one in by_problem.values()
        if all(len(of_one.get(m, ())) == replies.MEMBERS[m].samples for m in members)
    ]
    return KeyedSet("sums", "GFLOP", whole)


def scored(reply: replies.Reply) -> ScoredCandidate:
    said = reply.completion
    reward = Weights().reward(attributes(replies.prompt(reply.problem), said))
    id_ = f"{reply.member}-{reply.sample}"
    candidate = Candidate(id_, reply.member, said.model, said, 0.0)
    return ScoredCandidate(candidate, reward=reward, extracted=extract(said.text))


def sums_boards(keyed: KeyedSet) -> list[Arm]:
    """The default board of a service without a key, boards of two different models, and all."""
    boards = [
        (("smollm2", "smollm2-warm"), (1, 4)),
        (("smollm2-warm", "gemma"), (1, 2)),
        (("smollm2", "smollm2-warm", "gemma"), (1, 2)),
    ]
    there = keyed.problems[0].keys()
    return [
        Arm(board, way, samples)
        for board, counts in boards
        if there >= set(board)
        for samples in counts
        for way in VOTES
    ]


def outcome(keyed: KeyedSet, arm: Arm) -> Outcome:
    """What the arm makes of a set. Of several samples each serves first in turn: the mean over
    those draws is less noisy than one of them."""
    plan = Plan(arm.members, arm.strategy, resolution=RESOLUTION, length_slope=LENGTH_SLOPE)
    hits, spends = [], []
    for one in keyed.problems:
        turns = max(len(one[m]) for m in arm.members)
        chosen = [drawn(one, arm, turn) for turn in range(turns)]
        hits.append(np.mean([right(some, plan) for some in chosen]))
        spends.append(np.mean([sum(d.spend for d in some.values()) for some in chosen]))
    return Outcome(arm, np.array(hits), float(np.mean(spends)))


def drawn(one: Keyed, arm: Arm, turn: int) -> dict[str, Drawn]:
    """The replies of one draw by candidate. A member at temperature 0 has one reply and repeats
    it; of others no sample serves twice."""
    found = {}
    for member in arm.members:
        samples = one[member]
        assert len(samples) == 1 or arm.samples <= len(samples), arm
        for n in range(arm.samples):
            reply = samples[(turn + n) % len(samples)]
            id_ = f"{member}-{n}"
            candidate = replace(reply.scored.candidate, id=id_)
            found[id_] = replace(reply, scored=replace(reply.scored, candidate=candidate))
    return found


def right(some: Mapping[str, Drawn], plan: Plan) -> bool:
    winner = STRATEGIES[plan.strategy]([d.scored for d in some.values()], plan).winner
    return winner is not None and some[winner].right


def compared(keyed: KeyedSet, ensembles: Iterable[Arm]) -> tuple[list[Outcome], list[Comparison]]:
    """Outcomes of single members, of self-consistency and of ensembles; and each ensemble against
    its best single member and the best self-consistency at its spend."""
    members = list(keyed.problems[0])
    most = {m: len(keyed.problems[0][m]) for m in members}
    alone = {m: outcome(keyed, Arm((m,), "best_of_n")) for m in members}
    repeated = {
        m: [outcome(keyed, Arm((m,), "majority_vote", n)) for n in range(2, most[m] + 1)]
        for m in members
    }
    found = [outcome(keyed, arm) for arm in track(list(ensembles), "choosing", transient=True)]
    comparisons = []
    for ensemble in found:
        of_board = [alone[m] for m in ensemble.arm.members]
        rivals = [max(of_board, key=accuracy)]
        # Those with too few samples to spend as much are no rivals at its spend.
        matched = [
            min(curve, key=lambda o: abs(o.spend - ensemble.spend))
            for curve in repeated.values()
            if curve and curve[-1].spend >= 0.9 * ensemble.spend
        ]
        rivals += [max(matched, key=accuracy)] if matched else []
        comparisons += [Comparison(ensemble, r, difference(ensemble, r)) for r in rivals]
    return [*alone.values(), *chain.from_iterable(repeated.values()), *found], comparisons


def accuracy(one: Outcome) -> float:
    return float(one.hits.mean())


def estimate(values: NDArray[np.float64]) -> Estimate:
    """A mean over problems, with its bootstrap interval."""
    low, high = np.quantile(values[_resamples(len(values))].mean(axis=1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def percent(share: Estimate) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def points(share: Estimate) -> str:
    value, low, high = (100 * one for one in (share.value, share.low, share.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def difference(ensemble: Outcome, rival: Outcome) -> Estimate:
    return estimate(ensemble.hits - rival.hits)


@cache
def _resamples(n: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(n, size=(RESAMPLES, n))


def report(keyed: KeyedSet, outcomes: Sequence[Outcome], comparisons: Sequence[Comparison]) -> str:
    lines = [
        f"\n{keyed.name}, {len(keyed.problems)} problems\n",
        f"| who or what chooses | {keyed.unit} a problem | right [95 %] |",
        "|---|---|---|",
        *(f"| {o.arm.name} | {o.spend:.3g} | {percent(estimate(o.hits))} |" for o in outcomes),
        f"\n| ensemble | {keyed.unit} | rival | {keyed.unit} | difference, points [95 %] | |",
        "|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        lines.append(
            f"| {one.ensemble.arm.name} | {one.ensemble.spend:.3g} | {one.rival.arm.name}"
            f" | {one.rival.spend:.3g} | {points(one.difference)} | {one.verdict} |"
        )
    return "\n".join(lines)


def as_json(
    keyed: KeyedSet, outcomes: Sequence[Outcome], comparisons: Sequence[Comparison]
) -> Mapping[str, Any]:
    return {
        "set": keyed.name,
        "problems": len(keyed.problems),
        "unit": keyed.unit,
        "arms": [
            {**asdict(o.arm), "name": o.arm.name, "spend": o.spend, **asdict(estimate(o.hits))}
            for o in outcomes
        ],
        "comparisons": [
            {
                "ensemble": one.ensemble.arm.name,
                "rival": one.rival.arm.name,
                "difference": asdict(one.difference),
                "verdict": one.verdict,
            }
            for one in comparisons
        ],
    }


def picture(
    found: Sequence[tuple[KeyedSet, Sequence[Outcome], Sequence[Comparison]]],
) -> Figure:
    """Share right by spend: a line for each member asked again and again, points for ensembles,
    which are set a little apart where they coincide."""
    figure = Figure(figsize=(6 * len(found), 5), layout="constrained")
    for column, (keyed, outcomes, _) in enumerate(found, start=1):
        axes = figure.add_subplot(1, len(found), column)
        lines: dict[str, list[Outcome]] = {}
        for one in outcomes:
            ensemble = len(one.arm.members) > 1
            label = one.arm.strategy if ensemble else f"{one.arm.members[0]}, alone or repeated"
            lines.setdefault(label, []).append(one)
        for label, ones in lines.items():
            values = [estimate(o.hits) for o in ones]
            reach = ([v.value - v.low for v in values], [v.high - v.value for v in values])
            style: dict[str, Any] = {"fmt": "o-", "label": label}
            aside = 0.0
            if label in VOTES:
                place = VOTES.index(label)
                style = {"fmt": "D", "label": f"ensembles, {label}", "color": f"C{7 + place}"}
                aside = (place - 1) * 0.012 * max(o.spend for o in outcomes)
            spends = [o.spend + aside for o in ones]
            axes.errorbar(spends, [v.value for v in values], yerr=reach, capsize=3, **style)
        axes.set(xlabel=f"{keyed.unit} a problem", ylabel="share right", ylim=(0, 1))
        axes.set_title(keyed.name)
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()

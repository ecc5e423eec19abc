"""The iterations, stage by stage, in a run directory.

    run/manifest.json                what made it: settings, seeds, versions, hashes, counts
    run/problems/{train,validation,test}.jsonl
    run/problems/regression.jsonl    problems of another kind, if there are any
    run/base/                        the base model: few-shot and zero-shot
    run/direct/                      trained on the answers alone
    run/iteration-1/
        generated.jsonl              what the last model wrote, few-shot for the base
        generated-by-NAME.jsonl      what each teacher wrote for the same problems
        rationalized.jsonl           the failures again, with a hint
        scores.jsonl                 what the scorer made of all that stood, if the run has one
        training.jsonl, preferences.jsonl
        rationales.jsonl             all of it, verified, with why it was dropped
        adapter/                     always from the base
        validation.jsonl, test.jsonl what the new model says to problems it never saw
        regression.jsonl             and to those of another kind
        evaluation.json
        promotion.json               whether it was better than what was current, by how much, and
                                     what it lost elsewhere
    run/base.json                    the hash of the base's weights, once it was trained on
    run/scorer.json                  whose scores they are
    run/promoted.json                which adapters were promoted, the last of them the current one

Every file is written whole or not at all, and what is there is not made again, so the command that
was interrupted goes on when it is given again, to the same files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar, cast

from app.domain import Completion, Failure, FailureKind, FinishReason, Prompt, Usage
from app.errors import ConfigurationError, DataError
from app.jsonl import Row, read_rows
from app.model_folders import base_folder, weights_sha256
from app.runs import begin, differences, write_rows, write_text
from app.scorers import Scorer
from app.star.dataset import (
    TrainingRows,
    direct_rows,
    preference_rows,
    training_rows,
)
from app.star.evaluate import Attempt, Evaluation, attempt, evaluation, paired
from app.star.hosts import refuse_outage
from app.star.problems import Problem, Shares, Split, as_row, read_problems, refuse_leaks, split
from app.star.prompts import SHOWN, zero_shot
from app.star.rationales import (
    Asking,
    Keeping,
    Origin,
    Rationale,
    bare,
    hinted,
    judged,
    kept,
    scored,
    unsolved,
)
from app.star.sampling import BATCH, Outcome, Sampler
from app.star.scoring import Reply, score_from, score_row, scores
from app.star.train import Training, train

SHARD = 64
PARTS = ("train", "validation", "test")
# Who opens a sampler for the base model, with an adapter or without.
Open = Callable[[Path | None], Awaitable[Sampler]]
# The stage, how much of it is done, and how much there is.
Tell = Callable[[str, int, int], None]

T = TypeVar("T")
# What makes rows of shards; each shard comes back by its number.
Shard = tuple[int, list[Row]]
Made = Callable[[Mapping[int, Sequence[T]]], AsyncIterator[Shard]]


@dataclass(frozen=True, slots=True)
class Method:
    """All that decides what comes out of a run.

    `per_iteration` problems are drawn for each iteration; None: all. `k` samples a problem are
    drawn at `k_temperature` for pass@k and maj@k; 0: greedy alone. `plateau`: the least gain in
    validation accuracy for which another iteration is begun. `sampling_batch` prompts are decoded
    at a time; draws at a temperature depend on it. `teachers` and `scorer` are named here, and
    given to the run; without a scorer nothing is scored. `max_regression`: by how much an adapter's
    share of right answers on the regression set may be under the base's, if it is to be promoted.
    """

    base: str
    iterations: int = 3
    rationalize: bool = True
    direct: bool = True
    per_iteration: int | None = None
    k: int = 0
    k_temperature: float = 0.7
    plateau: float = 0.0
    max_regression: float = 0.05
    seed: int = 0
    sampling_batch: int = BATCH
    teachers: tuple[str, ...] = ()
    scorer: str | None = None
    shares: Shares = field(default_factory=Shares)
    asking: Asking = field(default_factory=Asking)
    keeping: Keeping = field(default_factory=Keeping)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.k > 1 and not self.k_temperature:
            raise ConfigurationError(
                f"{self.k} samples at temperature 0 are the same text: choose a --k-temperature"
                " above 0, or --k 0"
            )


@dataclass(frozen=True)
class Teacher:
    """Another model that writes rationales for the first iteration, few-shot like the base.

    `trainable`: whether the terms it is used under let its replies train a model.
    """

    trainable: bool
    open: Callable[[], Awaitable[Sampler]]


@dataclass(frozen=True)
class Run:
    """A run directory that was begun. `tell` hears of progress. `teachers` are those that could be
    asked; the method names those that are. `regression` problems are of another kind than those it
    learns from, and tell whether it unlearns something; () for none.

    Raises `ConfigurationError` if one of them may not train a model, or there are problems without
    a reference and nothing to keep replies to them by.
    """

    folder: Path
    method: Method
    open: Open
    tell: Tell
    problems: Split
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    regression: Sequence[Problem] = ()
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        for name in self.method.teachers:
            if name in self.teachers and not self.teachers[name].trainable:
                raise ConfigurationError(
                    f"{name} cannot teach: its replies may not train a model. If the terms you"
                    f" agreed to let them, set `trainable = true` in [members.{name}]"
                )
        unanswered = sum(one.reference is None for one in self.problems.train)
        rewarded = self.method.scorer and self.method.keeping.min_reward is not None
        if unanswered and not rewarded:
            raise ConfigurationError(
                f"what is written for problems without an answer ({unanswered} here) is kept by"
                " reward alone: name a scorer and the least reward (--scorer, --min-reward), or"
                " leave them out"
            )

    def iteration(self, number: int) -> Path:
        return self.folder / f"iteration-{number}"

    async def run(self) -> None:
        """Every stage that is not there yet, to the last iteration or a plateau."""
        await self.evaluate_base()
        if self.method.direct:
            self.train_directly()
            await self.evaluate(self.folder / "direct")
        for number in range(1, self.method.iterations + 1):
            await self.sample(number)
            await self.rationalize(number)
            self.train(number)
            await self.evaluate(self.iteration(number))
            self.promote(number)
            if number > 1 and self._gain(number) < self.method.plateau:
                break

    async def sample(self, number: int) -> list[Rationale]:
        """Generated rationales of this iteration's problems."""
        problems = self._drawn(number)
        prompts = [p for one in problems for p in bare(one, self._asking, shots=number == 1)]
        path = self.iteration(number) / "generated.jsonl"
        outcomes = await self._sampled(path, prompts, self._writer(number))
        found = self._judged(problems, prompts, outcomes, "generated")
        for place, name in enumerate(self.method.teachers if number == 1 else (), start=1):
            path = self.iteration(number) / f"generated-by-{name}.jsonl"
            outcomes = await self._sampled(path, prompts, partial(self._teacher, name))
            found += [
                replace(one, sample=one.sample + place * self._asking.samples, by=_by(name, said))
                for one, said in zip(
                    self._judged(problems, prompts, outcomes, "generated"), outcomes, strict=True
                )
            ]
        return found + (self._stored(problems) if number == 1 else [])

    async def rationalize(self, number: int) -> list[Rationale]:
        """All rationales of this iteration: the failures are asked for again with a hint, and what
        stands is scored, if the run has a scorer. What is kept makes the rows to train on."""
        path = self.iteration(number) / "rationales.jsonl"
        if path.is_file():
            return _rationales(path)
        rationales = await self.sample(number)
        if self.method.rationalize:
            problems = unsolved(self._drawn(number), rationales)
            prompts = [p for one in problems for p in hinted(one, self._asking)]
            hinted_path = self.iteration(number) / "rationalized.jsonl"
            outcomes = await self._sampled(hinted_path, prompts, self._writer(number))
            rationales += self._judged(problems, prompts, outcomes, "rationalized")
        rationales = await self._scored(number, rationales)
        rationales = kept(rationales, self.method.keeping, self.method.seed)
        rows = self._rows(number, rationales)
        write_rows(path.with_name("training.jsonl"), rows.supervised)
        write_rows(path.with_name("preferences.jsonl"), rows.preferences)
        write_rows(path, map(asdict, rationales))
        return rationales

    def train(self, number: int) -> Path:
        """The adapter of this iteration. Several processes may train it together."""
        folder = self.iteration(number)
        rationales = _rationales(folder / "rationales.jsonl")
        return self._trained(folder, self._rows(number, rationales))

    def train_directly(self) -> Path:
        """The adapter that learned the answers of the first iteration's problems alone."""
        folder = self.folder / "direct"
        folder.mkdir(exist_ok=True)
        return self._trained(folder, TrainingRows(direct_rows(self._drawn(1))))

    async def evaluate_base(self) -> Mapping[str, Evaluation]:
        """The base with worked examples, which is what the iterations have to beat, and without."""
        few = await self._evaluated(self.folder / "base", "few-shot", None, shots=True)
        zero = await self._evaluated(self.folder / "base", "zero-shot", None, shots=False)
        return {"few-shot": few, "zero-shot": zero}

    async def evaluate(self, folder: Path) -> Evaluation:
        """The adapter in this folder, asked as it was trained, on validation and test problems."""
        return await self._evaluated(folder, "", folder / "adapter", shots=False)

    def promote(self, number: int, *, again: bool = False) -> bool:
        """Take this iteration's adapter for the current one, if it is better on validation
        problems than the current one, or than the base with worked examples, and did not lose
        more than `max_regression` against the base on the regression set.

        This is decided once, so that a roll-back stands when the run goes on; `again`: anew.
        """
        path = self.iteration(number) / "promotion.json"
        if path.is_file() and not again:
            return bool(json.loads(path.read_text(encoding="utf-8"))["promoted"])
        mine = _attempts(self.iteration(number) / "validation.jsonl")
        before = promoted(self.folder)
        history = [one for one in before if one != number]
        current = (
            self.iteration(history[-1]) / "validation.jsonl"
            if history
            else self.folder / "base" / "few-shot-validation.jsonl"
        )
        found = paired(mine, _attempts(current))
        better = found["only_first"] > found["only_other"]
        against = f"iteration-{history[-1]}" if history else "base"
        decided = {"promoted": better, "against": against, **found}
        if self.regression:
            lost = self._lost(number)
            decided["regression"] = lost
            if better and lost["drop"] > self.method.max_regression:
                decided["promoted"] = False
                decided["reason"] = (
                    f"is better, but {100 * lost['drop']:.3g} points under the base on the"
                    f" regression set, where {100 * self.method.max_regression:.3g} are allowed"
                )
        now = [*history, number] if decided["promoted"] else history
        if now != before:
            write_text(self.folder / "promoted.json", json.dumps(now))
        write_text(path, json.dumps(decided, indent=2))
        return bool(decided["promoted"])

    def _lost(self, number: int) -> Mapping[str, float]:
        """Against the base on the regression set; `drop` is a share of it, below 0 for a gain."""
        base = self.folder / "base" / "few-shot-regression.jsonl"
        found = paired(_attempts(self.iteration(number) / "regression.jsonl"), _attempts(base))
        drop = (found["only_other"] - found["only_first"]) / len(self.regression)
        return {**found, "drop": drop}

    @property
    def _asking(self) -> Asking:
        return self.method.asking

    def _rows(self, number: int, rationales: Sequence[Rationale]) -> TrainingRows:
        problems = self._drawn(number)
        return TrainingRows(
            training_rows(problems, rationales), preference_rows(problems, rationales)
        )

    def _writer(self, number: int) -> Callable[[], Awaitable[Sampler]]:
        adapter = None if number == 1 else self.iteration(number - 1) / "adapter"
        return lambda: self.open(adapter)

    async def _teacher(self, name: str) -> Sampler:
        if name not in self.teachers:
            raise ConfigurationError(f"{name}, a teacher of this run, is not there: see to its row")
        return await self.teachers[name].open()

    def _drawn(self, number: int) -> Sequence[Problem]:
        """The problems of an iteration."""
        every, count = self.problems.train, self.method.per_iteration
        if count is None or count >= len(every):
            return every
        return random.Random(f"{self.method.seed} {number}").sample(every, count)  # noqa: S311 - no secret

    def _judged(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[Prompt],
        outcomes: Sequence[Outcome],
        origin: Origin,
    ) -> list[Rationale]:
        of_each = [one for one in problems for _ in range(self._asking.samples)]
        return [
            judged(
                problem,
                prompt.sample,
                origin,
                outcome,
                by=outcome.model if isinstance(outcome, Completion) else self.method.base,
                keeping=self.method.keeping,
            )
            for problem, prompt, outcome in zip(of_each, prompts, outcomes, strict=True)
        ]

    def _stored(self, problems: Sequence[Problem]) -> list[Rationale]:
        """The replies that some problems came with, each as one more sample."""
        place = (1 + len(self.method.teachers)) * self._asking.samples
        return [
            judged(
                one,
                place,
                "reward-filtered",
                Completion(one.reply.text, "stop", one.reply.by),
                by=one.reply.by,
                keeping=self.method.keeping,
            )
            for one in problems
            if one.reply
        ]

    async def _scored(self, number: int, rationales: list[Rationale]) -> list[Rationale]:
        """With what the scorer says of those that stand. It sees the bare question; the same text
        for the same problem it sees once."""
        if self.method.scorer is None:
            return rationales
        questions = {one.id: Prompt(zero_shot(one)) for one in self._drawn(number)}
        standing = [one for one in rationales if one.why_not is None]
        replies = {
            (one.problem, one.text): (questions[one.problem], Completion(one.text, "stop", one.by))
            for one in standing
        }

        async def made(missing: Mapping[int, Sequence[Reply]]) -> AsyncIterator[Shard]:
            async for place, found in scores(self._scorer(), missing):
                yield place, [score_row(one) for one in found]

        path = self.iteration(number) / "scores.jsonl"
        rows = await self._sharded(path, list(replies.values()), made)
        said = {key: score_from(row) for key, row in zip(replies, rows, strict=True)}
        return [
            scored(one, said[one.problem, one.text], self.method.keeping)
            if one.why_not is None
            else one
            for one in rationales
        ]

    def _scorer(self) -> Scorer:
        """The scorer; one other than the last iteration's would mix rewards, and is refused."""
        if self.scorer is None:
            raise ConfigurationError(
                f"{self.method.scorer}, the scorer of this run, is not there: see to its row"
            )
        info, path = self.scorer.info, self.folder / "scorer.json"
        ours = {"name": info.name, "model": info.model, "scale": info.scale}
        if not path.is_file():
            write_text(path, json.dumps(ours))
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs != ours:
            raise ConfigurationError(
                f"the scores of this run are by {' '.join(theirs.values())}, and the scorer is now"
                f" {' '.join(ours.values())}: go on with the first, or begin another run"
            )
        return self.scorer

    async def _sampled(
        self,
        path: Path,
        prompts: Sequence[Prompt],
        opened: Callable[[], Awaitable[Sampler]],
        *,
        measuring: bool = False,
    ) -> list[Outcome]:
        """The outcome for each prompt: from the file at `path`, or sampled into it by shards.

        A rationale that an outage lost is one rationale less; when `measuring`, it would count as
        a wrong answer, so that the shard is refused.
        """

        async def made(missing: Mapping[int, Sequence[Prompt]]) -> AsyncIterator[Shard]:
            sampler = await opened()
            async for number, outcomes in sampler.sample(missing):
                if measuring:
                    refuse_outage(sampler.name, outcomes)
                yield number, [_outcome_row(one) for one in outcomes]

        return [_outcome(row) for row in await self._sharded(path, prompts, made)]

    async def _sharded(self, path: Path, items: Sequence[T], made: Made[T]) -> list[Row]:
        """A row for each item: from the file at `path`, or made into it by shards."""
        folder = path.with_suffix("")
        if not path.is_file():  # noqa: ASYNC240 - nothing else waits for this loop
            shards = {
                start // SHARD: items[start : start + SHARD]
                for start in range(0, len(items), SHARD)
            }
            folder.mkdir(parents=True, exist_ok=True)
            files = {number: folder / f"{number:05}.jsonl" for number in shards}
            missing = {number: shards[number] for number in shards if not files[number].is_file()}
            done = len(shards) - len(missing)
            stage = f"{path.parent.name}: {path.stem}"
            self.tell(stage, done, len(shards))
            if missing:
                async for number, rows in made(missing):
                    write_rows(files[number], rows)
                    done += 1
                    self.tell(stage, done, len(shards))
            write_text(path, "".join(file.read_text(encoding="utf-8") for file in files.values()))
        shutil.rmtree(folder, ignore_errors=True)
        return [row for _, row in read_rows(path)] if items else []

    def _trained(self, folder: Path, rows: TrainingRows) -> Path:
        adapter = folder / "adapter"
        if not adapter.is_dir():
            self._pin_base()
            stage = f"{folder.name}: training"
            train(
                self.method.base,
                rows,
                self.method.training,
                adapter,
                lambda done, all_: self.tell(stage, done, all_),
            )
        shutil.rmtree(folder / "adapter.checkpoints", ignore_errors=True)
        return adapter

    def _pin_base(self) -> None:
        """Raise `ConfigurationError` if the base has other weights than at the first training: a
        folder may have been written over, and a hub id stands for its newest revision."""
        path = self.folder / "base.json"
        ours = {"weights_sha256": weights_sha256(base_folder(self.method.base))}
        if not path.is_file():
            if os.environ.get("RANK", "0") == "0":  # of the processes that train together
                write_text(path, json.dumps(ours))
        elif json.loads(path.read_text(encoding="utf-8")) != ours:
            raise ConfigurationError(
                f"{self.method.base} has other weights than when this run was first trained: put"
                " those back, or begin another run"
            )

    async def _evaluated(
        self, folder: Path, name: str, adapter: Path | None, *, shots: bool
    ) -> Evaluation:
        """All sets of problems greedily, the test problems in k samples too."""
        prefix = f"{name}-" if name else ""
        result = folder / f"{prefix}evaluation.json"
        sampler: list[Sampler] = []

        async def opened() -> Sampler:
            if not sampler:
                sampler.append(await self.open(adapter))
            return sampler[0]

        asked_of: dict[str, tuple[Sequence[Problem], int, bool]] = {
            "validation": (self.problems.validation, 0, shots),
            "test": (self.problems.test, self.method.k, shots),
        }
        if self.regression and (shots or adapter):
            # Worked examples for everyone: what is told apart is then what a model can do, and not
            # whether it knows in which form to answer.
            asked_of["regression"] = (self.regression, 0, True)
        found = {}
        for part, (problems, k, with_shots) in asked_of.items():
            path = folder / f"{prefix}{part}.jsonl"
            said = folder / f"{prefix}{part}-said.jsonl"
            if not path.is_file():
                asked = self._questions(problems, k, shots=with_shots)
                prompts = [p for *_, p in asked]
                outcomes = await self._sampled(said, prompts, opened, measuring=True)
                attempts = [
                    attempt(problem, sample, outcome)
                    for (problem, sample, _), outcome in zip(asked, outcomes, strict=True)
                ]
                write_rows(path, map(asdict, attempts))
            said.unlink(missing_ok=True)
            found[part] = evaluation(problems, _attempts(path))
        written = {part: one.as_json() for part, one in found.items()}
        write_text(result, json.dumps(written, indent=2))
        return found["test"]

    def _questions(
        self, problems: Sequence[Problem], k: int, *, shots: bool
    ) -> list[tuple[Problem, int, Prompt]]:
        greedy = Asking(1, 0.0, self._asking.max_tokens)
        drawn = Asking(k, self.method.k_temperature, self._asking.max_tokens)
        return [
            (problem, sample, prompt)
            for problem in problems
            for first, asking in ((-1, greedy), (0, drawn))
            for sample, prompt in enumerate(bare(problem, asking, shots=shots), start=first)
        ]

    def _gain(self, number: int) -> float:
        now, before = (
            evaluation(
                self.problems.validation, _attempts(self.iteration(n) / "validation.jsonl")
            ).pass_1.value
            for n in (number, number - 1)
        )
        return now - before


def begin_run(
    problems: Sequence[Problem],
    method: Method,
    folder: Path,
    opened: Open,
    tell: Tell,
    *,
    source: str,
    teachers: Mapping[str, Teacher] | None = None,
    regression: tuple[str, Sequence[Problem]] | None = None,
    scorer: Scorer | None = None,
) -> Run:
    """Begin a run, or go on with it. The split is fixed here, before the first iteration.

    `source` is what the problems are called in the manifest: a file's name, or "sums:1000".
    `regression` is the same name for the regression set, and its problems.

    Raises `ConfigurationError` if the folder holds another run, or a teacher is not there or may
    not train a model, `DataError` if a part is empty, leaks into training, or tells nothing.
    """
    for name in method.teachers:
        if name not in (teachers or {}):
            raise ConfigurationError(f"{name}, a teacher, is no member: see to its row")
    parts = split(problems, method.shares, SHOWN)
    called, general = regression or ("", ())
    run = Run(folder, method, opened, tell, parts, teachers or {}, general, scorer)
    for part in PARTS:
        if not getattr(parts, part):
            raise DataError(
                f"no problem is left for {part}: more problems with answers, or other shares, help"
            )
    refuse_leaks(parts.train, [*parts.validation, *parts.test])
    refuse_leaks(parts.train, general, "regression")
    if any(one.reference is None for one in general):
        raise DataError(f"{called}: a problem without an answer cannot show a regression")
    settled: dict[str, object] = {
        "method": asdict(method),
        "source": source,
        "problems_sha256": _sha256(problems),
        "counts": {part: len(getattr(parts, part)) for part in PARTS},
        "versions": _versions(),
    }
    if general:
        settled["regression"] = {
            "source": called,
            "problems_sha256": _sha256(general),
            "count": len(general),
        }
    begin(folder, settled)
    (folder / "problems").mkdir(exist_ok=True)
    for part in PARTS:
        write_rows(folder / "problems" / f"{part}.jsonl", map(as_row, getattr(parts, part)))
    if general:
        write_rows(folder / "problems" / "regression.jsonl", map(as_row, general))
    return run


def open_run(
    folder: Path,
    opened: Open,
    tell: Tell,
    *,
    teachers: Mapping[str, Teacher] | None = None,
    scorer: Scorer | None = None,
) -> Run:
    """Go on with a run that stands in a folder, by its own manifest.

    Raises `ConfigurationError` if there is none, or it was begun with other versions of what
    samples and trains.
    """
    method = method_of(folder)
    theirs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["versions"]
    if changed := differences(theirs, _versions()):
        raise ConfigurationError(
            f"{folder} was begun with other packages ({', '.join(changed)}): install those"
        )
    parts = {part: tuple(read_problems(folder / "problems" / f"{part}.jsonl")) for part in PARTS}
    general = folder / "problems" / "regression.jsonl"
    regression = read_problems(general) if general.is_file() else ()
    return Run(folder, method, opened, tell, Split(**parts), teachers or {}, regression, scorer)


def method_of(folder: Path) -> Method:
    """What a run was begun with. Raises `ConfigurationError` if the folder holds none."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigurationError(f"{folder} holds no run: begin one with `starboard star run`")
    said = json.loads(path.read_text(encoding="utf-8"))["method"]
    return Method(
        **said
        | {
            "teachers": tuple(said["teachers"]),
            "shares": Shares(**said["shares"]),
            "asking": Asking(**said["asking"]),
            "keeping": Keeping(**said["keeping"]),
            "training": Training(**said["training"]),
        }
    )


def promoted(folder: Path) -> list[int]:
    """The iterations that were promoted, the current one last."""
    path = folder / "promoted.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def held_back(folder: Path, number: int) -> str | None:
    """Why an iteration that was better was not promoted, as "is better, but ..."."""
    path = folder / f"iteration-{number}" / "promotion.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return cast("str | None", said.get("reason"))


def roll_back(folder: Path) -> int | None:
    """Make the adapter before the current one the current one; None: the base is left.

    Raises `ConfigurationError` if none was promoted.
    """
    history = promoted(folder)
    if not history:
        raise ConfigurationError(f"nothing was promoted in {folder}")
    write_text(folder / "promoted.json", json.dumps(history[:-1]))
    return history[-2] if history[1:] else None


def unfinished(folder: Path) -> int:
    """The number of the first iteration of which it was not yet decided whether it is better."""
    return next(
        number
        for number in itertools.count(1)
        if not (folder / f"iteration-{number}" / "promotion.json").is_file()
    )


def _sha256(problems: Sequence[Problem]) -> str:
    rows = json.dumps([as_row(problem) for problem in problems], ensure_ascii=False)
    return hashlib.sha256(rows.encode()).hexdigest()


def _versions() -> dict[str, str]:
    packages = ("starboard", "torch", "transformers", "peft", "trl")
    return {name: metadata.version(name) for name in packages}


def _by(teacher: str, outcome: Outcome) -> str:
    return f"{teacher} ({outcome.model})" if isinstance(outcome, Completion) else teacher


def _rationales(path: Path) -> list[Rationale]:
    if not path.is_file():
        raise ConfigurationError(f"{path} is not there yet: rationalize first")
    return [Rationale(**row) for _, row in read_rows(path)]  # type: ignore[arg-type]


def _attempts(path: Path) -> list[Attempt]:
    if not path.is_file():
        which = {"base": " the base", "direct": " what was trained directly"}
        raise ConfigurationError(
            f"{path} is not there yet: evaluate{which.get(path.parent.name, '')} first"
        )
    return [Attempt(**row) for _, row in read_rows(path)]  # type: ignore[arg-type]


def _outcome_row(outcome: Outcome) -> Row:
    if isinstance(outcome, Failure):
        return {"failure": outcome.kind, "message": outcome.message}
    tokens = asdict(outcome.usage) if outcome.usage else None
    return {
        "text": outcome.text,
        "finish": outcome.finish_reason,
        "by": outcome.model,
        "usage": tokens,
    }


def _outcome(row: Mapping[str, object]) -> Outcome:
    if "failure" in row:
        return Failure(cast(FailureKind, row["failure"]), str(row["message"]))
    used = cast("dict[str, int] | None", row["usage"])
    return Completion(
        str(row["text"]),
        cast(FinishReason, row["finish"]),
        str(row["by"]),
        Usage(**used) if used else None,
    )

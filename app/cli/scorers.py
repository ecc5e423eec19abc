"""`starboard scorer eval` and `scorer train`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from app.cli.console import bar, err, settings
from app.cli.console import out as stdout
from app.errors import ConfigurationError
from app.logs import log_at
from app.scorers.training import Precision, Tune

if TYPE_CHECKING:
    from app.scorers import Scorer
    from app.scorers.evaluation import Pair, ScoredPair

scorers = typer.Typer(help="Measure scorers, and train one of your own.", no_args_is_help=True)


@scorers.command("eval")
def evaluate_scorer(
    pairs: Annotated[
        Path, typer.Argument(help="JSON lines with prompt, better, worse, set; .gz too.")
    ],
    *,
    name: Annotated[
        str | None, typer.Option("--scorer", help="A scorer of the ladder; default: its first.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Instead, a local reward model: a folder, or a hub id."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="With --model: longest prompt with reply, in tokens.", min=32),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many pairs of each set.")] = None,
    at_once: Annotated[int, typer.Option(help="Replies scored at a time.", min=1)] = 8,
    report: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and evaluation.svg.")
    ] = None,
) -> None:
    """Measure a scorer on pairs of replies of which people preferred one.

    Prints, for each set and for all: accuracy with its 95 % interval, the same balanced for
    length, rank correlation of reward with length, the resolution (the margin at which the scorer
    is right three times out of four) and how well the margin foretells being right.
    """
    from app.scorers.evaluation import LEAST_PAIRS, evaluate_sets, markdown, read_pairs
    from app.scorers.local import open_local_scorer
    from app.scorers.picture import draw

    if model and name:
        raise ConfigurationError("--scorer is a step of the ladder, --model none: choose one")
    if max_tokens and not model:
        raise ConfigurationError("--max-tokens is for --model; a step of the ladder has its own")
    found = read_pairs(pairs)
    if limit:
        found = _first_of_each_set(found, limit)
    opened = open_local_scorer(model, max_tokens=max_tokens) if model else _step(name)
    title, scored = asyncio.run(_evaluate(opened, found, at_once))
    rows = evaluate_sets(scored, "all")
    stdout.print(Text(title, "bold"))
    typer.echo(markdown(rows))
    resolution = rows[-1].resolution
    if resolution and rows[-1].accuracy.n >= LEAST_PAIRS:
        said = f"Its resolution on these pairs, for the scorer's row: resolution = {resolution:.2g}"
        err.print(Text(said, "green"))
    if report:
        report.mkdir(parents=True, exist_ok=True)
        content = {"scorer": title, "pairs": len(found), "sets": [asdict(row) for row in rows]}
        (report / "evaluation.json").write_text(json.dumps(content, indent=2))
        margins = [one.margin for one in scored if one.margin is not None]
        draw(margins, title, report / "evaluation.svg")


@scorers.command("train")
def train_scorer(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="JSON lines, .gz too: prompt, response and five labels 0-4 (as HelpSteer2);"
            " or prompt, better, worse."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the run; the head will be in OUT/head.")],
    base: Annotated[
        str,
        typer.Option(
            help="What to start from: a folder, a hub id, or the embedded smollm2-135m-instruct."
        ),
    ] = "smollm2-135m-instruct",
    tune: Annotated[
        Tune, typer.Option(help="lora: adapt the base too; head: leave the base as it is.")
    ] = "lora",
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="A set to measure on and not to train on; may be repeated."),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.", min=0.001)] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.", min=0)] = 2e-4,
    batch: Annotated[int, typer.Option(help="Examples to a step.", min=1)] = 16,
    micro_batch: Annotated[int, typer.Option(help="Examples in memory at once.", min=1)] = 4,
    max_tokens: Annotated[
        int, typer.Option(help="Longest prompt with reply, in tokens.", min=32)
    ] = 1024,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA matrices.", min=1)] = 16,
    spoiled: Annotated[
        float,
        typer.Option(help="Share of examples that get a worthless reply as well.", min=0, max=1),
    ] = 0.5,
    validation: Annotated[
        float, typer.Option(help="Share of prompts kept for measuring.", min=0, max=0.9)
    ] = 0.1,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 where the device has it in hardware.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of order and spoiled replies.")] = 7,
) -> None:
    """Train a reward head and measure it; the same command goes on where it was interrupted.

    Labelled replies make a head of five attributes, pairs a head of one reward. OUT gets the
    head, `report.md` with reliability plots, and `training.json`. Serve it with
    `[scorer] kind = "local"`, `model = "OUT/head"`.
    """
    from app.scorers.examples import read_examples
    from app.scorers.report import measure
    from app.scorers.training import Recipe, parted, train

    recipe = Recipe(
        base=base,
        tune=tune,
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        micro_batch=micro_batch,
        max_tokens=max_tokens,
        rank=rank,
        spoiled=spoiled,
        validation=validation,
        held_out=tuple(held_out or ()),
        precision=precision,
        seed=seed,
    )
    parts = parted(read_examples(data), recipe)
    err.print(
        f"{len(parts.training):,} examples to train on, {len(parts.validation):,} to validate,"
        f" {len(parts.held_out):,} held out ({parts.leaking:,} left out: prompts of held-out sets)"
    )
    with bar() as progress:
        task = progress.add_task("training", total=None)
        head = train(
            parts, recipe, out, lambda done, all_: progress.update(task, completed=done, total=all_)
        )
        progress.update(task, visible=False)
        count = len(parts.validation) + len(parts.held_out)
        task = progress.add_task("measuring", total=count)
        report = asyncio.run(measure(head, parts, out, lambda: progress.advance(task)))
    typer.echo(report.text)
    err.print(Text(f"The report with its pictures is {out / 'report.md'}. Serve the head with"))
    err.print(Text(f'[scorer]\nkind = "local"\nmodel = "{head}"', "green"))


def _first_of_each_set(pairs: list[Pair], limit: int) -> list[Pair]:
    taken: Counter[str] = Counter()
    found = []
    for pair in pairs:
        if taken[pair.source] < limit:
            taken[pair.source] += 1
            found.append(pair)
    return found


@asynccontextmanager
async def _step(name: str | None) -> AsyncIterator[Scorer]:
    """A scorer of the operator's ladder; None: the first."""
    from app.wiring import open_services

    log_at("error")
    async with open_services(settings()) as services:
        steps = {step.name: step.scorer for step in services.ensemble.ladder.steps}
        chosen = name or next(iter(steps))
        if chosen not in steps:
            raise ConfigurationError(f"no scorer {chosen} on the ladder: {', '.join(steps)}")
        yield steps[chosen]


async def _evaluate(
    opened: AbstractAsyncContextManager[Scorer], pairs: list[Pair], at_once: int
) -> tuple[str, list[ScoredPair]]:
    from app.scorers.evaluation import score_pairs

    async with opened as scorer:
        with bar() as progress:
            task = progress.add_task("scoring", total=len(pairs))
            scored = await score_pairs(
                scorer, pairs, at_once=at_once, tell=lambda: progress.advance(task)
            )
        return f"{scorer.info.name} ({scorer.info.model})", scored

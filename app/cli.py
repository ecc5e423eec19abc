"""The command `starboard`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import stamina
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.api.documents import (
    AnswerDocument,
    AnswerRequest,
    AttributesDocument,
    CandidateDocument,
    ScoreRequest,
    ScoresDocument,
    SeatDocument,
    answer_document,
    scores_document,
    seat_document,
)
from app.domain import Completed, Event, Failed, Failure, Scored, Started, WinRate
from app.errors import ConfigurationError, DataError, NoCandidateError, RequestError
from app.scorers import Scorer
from app.scorers.evaluation import (
    Pair,
    ScoredPair,
    evaluate,
    markdown,
    read_pairs,
    score_pairs,
)
from app.scorers.examples import read_examples
from app.scorers.local import open_local_scorer
from app.scorers.picture import draw
from app.scorers.report import measure
from app.scorers.training import Recipe, parted, train
from app.settings import JudgeScorerSpec, ScorerSpec, Settings
from app.standing import open_standing
from app.store import AnswerStore
from app.wiring import open_services

app = typer.Typer(
    help="One prompt, a board of models, the best original reply with its evidence.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
scorers = typer.Typer(help="Measure scorers, and train one of your own.", no_args_is_help=True)
app.add_typer(scorers, name="scorer")


class Tune(StrEnum):
    lora = "lora"
    head = "head"


class PrecisionName(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the HTTP API does.")]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> None:
    """Entry point: errors that the user can mend are said in a line, with exit code 2."""
    with _said_plainly():
        app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("starboard"))
        raise typer.Exit


@app.callback()
def starboard(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """One prompt, a board of models, the best original reply with its evidence."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
) -> None:
    """Serve the HTTP API (Swagger UI at /docs)."""
    import uvicorn

    from app.api import create_app

    settings = _settings(host=host, port=port)
    _log_at(settings.log_level)
    if settings.host not in LOOPBACK:
        err.print(f"[yellow]{settings.host} is reachable by others, and no key is asked for.")
    logging.getLogger("uvicorn.error").addFilter(_no_traceback_of_configuration)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        server_header=False,
        # Answers under way are finished before the process ends.
        timeout_graceful_shutdown=int(settings.deadline_s) + 5,
    )
    uvicorn.Server(config).run()


@app.command()
def ask(
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads it from standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="Ask only this member; may be repeated.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature, 0-2.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put one prompt to the board and show the best reply with every score."""
    request = AnswerRequest.model_validate(
        {
            "prompt": sys.stdin.read() if prompt == "-" else prompt,
            "system": system,
            "members": member or None,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "deadline_s": deadline,
        }
    )
    document = asyncio.run(_ask(request, quiet=as_json))
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
    else:
        _show(document)


@app.command()
def score(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    replies: Annotated[list[str], typer.Argument(help="Replies to it.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score replies that came from elsewhere."""
    request = ScoreRequest(prompt=prompt, system=system, replies=replies)
    document = asyncio.run(_score(request))
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
        return
    table = Table("reward", "help", "corr", "coh", "cplx", "verb", "reply")
    for text, row in zip(replies, document.scores, strict=True):
        said = Text(" ".join(text.split())[:60])
        if row.failure:
            said = Text(row.failure.message, "yellow")
        table.add_row(*map(Text, _figures(row.reward, row.scores)), said)
    out.print(table)
    out.print(Text(f"Scorer: {document.scorer.name}. {document.scorer.note or ''}", "dim"))


@app.command()
def models(as_json: AsJson = False) -> None:
    """Show who sits on the board, who does not and why, and each member's win rate."""
    settings = _settings()
    rates = asyncio.run(_win_rates(settings)) or {}
    fewest = settings.standing_min
    seats = [seat_document(seat, rates.get(seat.name), fewest) for seat in settings.seats]
    if as_json:
        typer.echo(json.dumps({"members": [seat.model_dump() for seat in seats]}, indent=2))
        return
    table = Table(box=None)
    for heading in ("seat", "provider", "model", "sits", "why not", "wins", "trainable", "terms"):
        table.add_column(heading, overflow="fold")
    for seat in seats:
        sits = "[green]yes" if seat.seated else "[dim]no"
        row = (seat.name, seat.provider, seat.model, sits, seat.why_not or "", _wins(seat))
        may_train = "yes" if seat.trainable else "no"
        table.add_row(*row, may_train, seat.terms or "", style="" if seat.seated else "dim")
    out.print(table)
    scorers = ", then ".join(_scorer_line(spec) for spec in settings.ladder)
    ties = "the seat higher up"
    if settings.standing == "wins":
        short = any(seat.seated and seat.win_rate is None for seat in seats)
        until = f", until every member asked has competed in {fewest} answers"
        ties = ties + until if short else "the higher win rate"
    out.print(f"Ties go to {ties}. Scorer: {scorers}.")


def _wins(seat: SeatDocument) -> str:
    if seat.win_rate is not None:
        return f"{seat.win_rate:.1%} of {seat.competed}"
    return f"too few yet: {seat.competed}" if seat.competed else ""


async def _win_rates(settings: Settings) -> Mapping[str, WinRate] | None:
    """Those of the seated members; None, and why on stderr, if they cannot be read."""
    _log_at("error")
    seated = [seat.name for seat in settings.seats if seat.why_not is None]
    try:
        async with (
            AnswerStore.open(settings.database_url) as store,
            open_standing(store, seated, by_wins=False, minimum=settings.standing_min) as standing,
        ):
            return await standing.known()
    except ConfigurationError as error:
        err.print(Text(f"Win rates are not known: {error}", "yellow"))
        return None


def _scorer_line(spec: ScorerSpec) -> str:
    return f"{spec.kind} ({spec.member})" if isinstance(spec, JudgeScorerSpec) else spec.kind


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
        int | None, typer.Option(help="With --model: longest prompt with reply, in tokens.")
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
    if model and name:
        raise ConfigurationError("--scorer is a step of the ladder, --model none: choose one")
    found = read_pairs(pairs)
    if limit:
        found = [p for _, group in _by_source(found).items() for p in group[:limit]]
    opened = open_local_scorer(model, max_tokens=max_tokens) if model else _step(name)
    title, scored = asyncio.run(_evaluate(opened, found, at_once))
    by_source: dict[str, list[ScoredPair]] = {}
    for one in scored:
        by_source.setdefault(one.pair.source, []).append(one)
    rows = [evaluate(source, group) for source, group in by_source.items()]
    rows += [evaluate("all", scored)] if len(rows) > 1 else []
    out.print(Text(title, "bold"))
    typer.echo(markdown(rows))
    if rows and (resolution := rows[-1].resolution):
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
    ] = Tune.lora,
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="A set to measure on and not to train on; may be repeated."),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.", min=0)] = 1.0,
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
        PrecisionName, typer.Option(help="auto: bfloat16 where the device has it in hardware.")
    ] = PrecisionName.auto,
    seed: Annotated[int, typer.Option(help="Seed of order and spoiled replies.")] = 7,
) -> None:
    """Train a reward head and measure it; the same command goes on where it was interrupted.

    Labelled replies make a head of five attributes, pairs a head of one reward. OUT gets the
    head, `report.md` with reliability plots, and `training.json`. Serve it with
    `[scorer] kind = "local"`, `model = "OUT/head"`.
    """
    recipe = Recipe(
        base=base,
        tune=tune.value,
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        micro_batch=micro_batch,
        max_tokens=max_tokens,
        rank=rank,
        spoiled=spoiled,
        validation=validation,
        held_out=tuple(held_out or ()),
        precision=precision.value,
        seed=seed,
    )
    parts = parted(read_examples(data), recipe)
    err.print(
        f"{len(parts.training):,} examples to train on, {len(parts.validation):,} to validate,"
        f" {len(parts.held_out):,} held out ({parts.leaking:,} left out: prompts of held-out sets)"
    )
    with _bar() as progress:
        task = progress.add_task("training", total=None)
        head = train(
            parts, recipe, out, lambda done, all_: progress.update(task, completed=done, total=all_)
        )
        progress.update(task, visible=False)
        count = len(parts.validation) + len(parts.held_out)
        task = progress.add_task("measuring", total=count)
        report = asyncio.run(measure(head, parts, recipe, out, lambda: progress.advance(task)))
    typer.echo(report.text)
    err.print(Text(f"The report with its pictures is {out / 'report.md'}. Serve the head with"))
    err.print(Text(f'[scorer]\nkind = "local"\nmodel = "{head}"', "green"))


def _bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


def _by_source(pairs: list[Pair]) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.source, []).append(pair)
    return groups


@asynccontextmanager
async def _step(name: str | None) -> AsyncIterator[Scorer]:
    """A scorer of the operator's ladder; None: the first."""
    settings = _settings()
    _log_at("error")
    async with open_services(settings) as services:
        steps = {step.name: step.scorer for step in services.ensemble.ladder.steps}
        chosen = name or next(iter(steps))
        if chosen not in steps:
            raise ConfigurationError(f"no scorer {chosen} on the ladder: {', '.join(steps)}")
        yield steps[chosen]


async def _evaluate(
    opened: AbstractAsyncContextManager[Scorer], pairs: list[Pair], at_once: int
) -> tuple[str, list[ScoredPair]]:
    async with opened as scorer:
        with _bar() as progress:
            task = progress.add_task("scoring", total=len(pairs))
            scored = await score_pairs(
                scorer, pairs, at_once=at_once, tell=lambda: progress.advance(task)
            )
        return f"{scorer.info.name} ({scorer.info.model})", scored


async def _ask(request: AnswerRequest, *, quiet: bool) -> AnswerDocument:
    settings = _settings()
    _log_at("error")  # what goes wrong with a member is in the table
    async with open_services(settings) as services:
        ensemble = services.ensemble
        progress = Progress()
        with Live(progress, console=err, transient=True, refresh_per_second=12) as live:
            live.update(Text() if quiet else progress)
            answer = await ensemble.answer(
                request.to_prompt(settings.max_tokens),
                request.to_plan(ensemble.members, settings.deadline_s),
                progress.listen,
            )
        return answer_document(answer)


async def _score(request: ScoreRequest) -> ScoresDocument:
    settings = _settings()
    _log_at("error")
    async with open_services(settings) as services:
        scored = await services.ensemble.score(
            request.to_prompt(),
            request.replies,
            weights=request.to_weights(),
            deadline_s=settings.deadline_s,
        )
        return scores_document(*scored)


class Progress:
    """A line for each member, drawn while they work."""

    def __init__(self) -> None:
        self._lines: dict[str, Spinner | Text] = {}

    def listen(self, event: Event) -> None:
        match event:
            case Started(member):
                self._lines[member] = Spinner("dots", f"{member} is writing")
            case Completed(candidate):
                said = f"{candidate.member} replied in {candidate.latency_s:.1f} s; scoring"
                self._lines[candidate.member] = Spinner("dots", said)
            case Failed(candidate):
                outcome = candidate.outcome
                why = outcome.message if isinstance(outcome, Failure) else ""
                self._lines[candidate.member] = Text(f"✗ {why}", "red")
            case Scored(scored):
                reward = "unscored" if scored.reward is None else f"reward {scored.reward:.2f}"
                member = scored.candidate.member
                self._lines[member] = Text(f"✓ {member}: {reward}", "green")

    def __rich__(self) -> Group:
        return Group(*self._lines.values())


def _show(document: AnswerDocument) -> None:
    # Model text is data: it goes in as Text, where markup has no meaning.
    out.print(Panel(Text(document.answer or ""), title=escape(f"{document.member}")))
    table = Table(box=None)
    widest = max(len(candidate.member) for candidate in document.candidates)
    table.add_column("rank", min_width=4)
    table.add_column("member", min_width=min(widest, 16), overflow="ellipsis", no_wrap=True)
    for heading in ("reward", "help", "corr", "coh", "cplx", "verb", "s"):
        table.add_column(heading, min_width=max(4, len(heading)), justify="right")
    # What a reply says gives way to what it scored: 54 columns and the member's name.
    room = max(8, out.width - 54 - min(widest, 16))
    table.add_column("said", max_width=room, overflow="ellipsis", no_wrap=True)
    ranked = sorted(document.candidates, key=lambda c: (c.rank is None, c.rank))
    for candidate in ranked:
        table.add_row(*_cells(candidate))
    out.print(table)
    decision = document.decision
    margin = "" if decision.margin is None else f" (margin {decision.margin:.2f})"
    out.print(Text(f"{decision.reason}{margin}. Scorer: {document.scorer.name}."))
    if document.scorer.note:
        out.print(Text(document.scorer.note, "dim"))
    if document.quality == "degraded":
        out.print(Text(f"Degraded: nothing from {', '.join(document.missing)}.", "yellow"))
    out.print(Text(document.id, "dim"))


def _cells(candidate: CandidateDocument) -> list[Text]:
    if candidate.failure:
        said = Text(candidate.failure.message, "red")
    elif candidate.score_failure:
        said = Text(candidate.score_failure.message, "yellow")
    else:
        said = Text(" ".join((candidate.text or "").split())[:60])
    cells = [
        "" if candidate.rank is None else str(candidate.rank),
        candidate.member,
        *_figures(candidate.reward, candidate.scores),
        f"{candidate.latency_s:.1f}",
    ]
    return [*map(Text, cells), said]


def _figures(reward: float | None, scores: AttributesDocument | None) -> list[str]:
    """Reward and the five attributes, empty where there is none."""
    five = scores.model_dump().values() if scores else [None] * 5
    return ["" if number is None else f"{number:.2f}" for number in (reward, *five)]


def _log_at(level: str) -> None:
    """Our own log at that level. The packages below us log only what goes wrong: at lower levels
    several of them write out prompts and replies."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("starboard").setLevel(level.upper())
    stamina.instrumentation.set_on_retry_hooks([])


def _settings(**given: str | int | None) -> Settings:
    """The settings, with what the command line gives over them."""
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        for e in error.errors():
            where = ".".join(str(part) for part in e["loc"])
            said = e["msg"].removeprefix("Value error, ")
            err.print(Text(f"{where + ': ' if where else ''}{said}", "red"))
    except NoCandidateError as error:
        err.print(Text(f"{error.title}.", "red"))
        for failure in error.failures.values():
            err.print(Text(f"  {failure.message}", "red"))
    except RequestError as error:
        err.print(Text(f"{error.title}: {error.detail}", "red"))
    except (ConfigurationError, DataError, SettingsError) as error:
        err.print(Text(str(error), "red"))
    else:
        return
    raise SystemExit(2)


def _no_traceback_of_configuration(record: logging.LogRecord) -> bool:
    """The lifespan has said what to set; uvicorn would print the stack under it."""
    return ConfigurationError.__name__ not in record.getMessage()


if __name__ == "__main__":
    main()

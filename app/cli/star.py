"""`starboard star`: a run and its stages, each on a run directory."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from app.cli.console import bar, err, settings
from app.cli.console import out as stdout
from app.cli.samplers import Board, Engine, Kind, open_sampler
from app.errors import ConfigurationError
from app.star.member import embedded_member_row, member_row

if TYPE_CHECKING:
    from app.settings import Settings
    from app.star.loop import Method, Run
    from app.star.problems import Problem
    from app.star.sampling import Sampler

star = typer.Typer(
    help="Train a model of your own from problems whose answers are known (STaR).",
    no_args_is_help=True,
)

ASKING, KEEPING, TRAINING, MEASURING = "Asking", "Keeping", "Training", "Measuring"
ENGINE = "Who samples: the same rows, wherever it is"

T = TypeVar("T")
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Iteration = Annotated[
    int | None,
    typer.Option(min=1, help="Which iteration; default: the first that is not finished."),
]


class Model(StrEnum):
    iteration = "iteration"
    base = "base"
    direct = "direct"


@star.command()
def init(
    problems: Annotated[
        str,
        typer.Argument(
            help="JSON lines with question and answer (or as GSM8K, CommonsenseQA, ARC, SVAMP and"
            " AQuA have it), .gz too; or made-up sums: sums:1000 (three digits), carries:800 (two"
            " two-digit numbers)."
        ),
    ],
    *,
    base: Annotated[
        str,
        typer.Option(
            help="The model to train: a folder, a hub id, or the embedded smollm2-135m-instruct."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    iterations: Annotated[int, typer.Option(min=1, help="Iterations at most.")] = 3,
    per_iteration: Annotated[
        int | None, typer.Option(min=1, help="Problems drawn for an iteration; default: all.")
    ] = None,
    plateau: Annotated[
        float,
        typer.Option(help="Stop when an iteration gains less than this on validation problems."),
    ] = 0.0,
    direct: Annotated[
        bool, typer.Option(help="Also train on the answers alone, to compare with.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    drop_duplicates: Annotated[
        bool, typer.Option(help="Drop questions that stand there twice, instead of refusing them.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=1, help="Rationales asked for, a problem.", rich_help_panel=ASKING)
    ] = 1,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 is greedy.", rich_help_panel=ASKING)
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest rationale, in tokens.", rich_help_panel=ASKING)
    ] = 256,
    rationalize: Annotated[
        bool,
        typer.Option(help="Ask again for failures, with a hint.", rich_help_panel=ASKING),
    ] = True,
    sampling_batch: Annotated[
        int, typer.Option(min=1, help="Prompts decoded at a time.", rich_help_panel=ASKING)
    ] = 32,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="A member of starboard.toml that also writes rationales for the first iteration;"
            " its replies must be trainable. May be repeated.",
            rich_help_panel=ASKING,
        ),
    ] = None,
    check_steps: Annotated[
        bool,
        typer.Option(help="Drop rationales with a false equation.", rich_help_panel=KEEPING),
    ] = True,
    cap: Annotated[
        int, typer.Option(min=1, help="Rationales kept, a problem.", rich_help_panel=KEEPING)
    ] = 4,
    max_rationalized: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of what is kept that may be rationalized.",
            rich_help_panel=KEEPING,
        ),
    ] = 1.0,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="Scorer that ranks what verifies, by its kind in the settings' ladder (nvidia,"
            " judge, local, remote, embedded); default: none.",
            rich_help_panel=KEEPING,
        ),
    ] = None,
    min_reward: Annotated[
        float | None,
        typer.Option(
            help="Least reward, on the scorer's own scale, where a problem has no answer.",
            rich_help_panel=KEEPING,
        ),
    ] = None,
    min_correctness: Annotated[
        float,
        typer.Option(
            help="Least correctness, 0-4, where there is no equation to check.",
            rich_help_panel=KEEPING,
        ),
    ] = 2.0,
    min_coherence: Annotated[
        float,
        typer.Option(help="The same for coherence.", rich_help_panel=KEEPING),
    ] = 2.0,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the rows.", rich_help_panel=TRAINING)
    ] = 3,
    min_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Steps at least: few rows are passed over more often.",
            rich_help_panel=TRAINING,
        ),
    ] = 20,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Highest learning rate.", rich_help_panel=TRAINING)
    ] = 2e-4,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows to a step.", rich_help_panel=TRAINING)
    ] = 16,
    micro_batch: Annotated[
        int,
        typer.Option(min=1, help="Rows in memory at once, a device.", rich_help_panel=TRAINING),
    ] = 8,
    max_row_tokens: Annotated[
        int,
        typer.Option(
            min=32, help="Longest question with rationale, in tokens.", rich_help_panel=TRAINING
        ),
    ] = 1024,
    rank: Annotated[
        int, typer.Option(min=1, help="Rank of the LoRA matrices.", rich_help_panel=TRAINING)
    ] = 16,
    four_bit: Annotated[
        bool,
        typer.Option(help="Base in 4 bits (QLoRA; NVIDIA GPU).", rich_help_panel=TRAINING),
    ] = False,
    dpo: Annotated[
        bool,
        typer.Option(
            help="Then DPO: kept rationales against wrong ones of the same problem.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    dpo_learning_rate: Annotated[
        float, typer.Option(min=0, help="Learning rate of DPO.", rich_help_panel=TRAINING)
    ] = 5e-6,
    validation: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of problems for it.", rich_help_panel=MEASURING),
    ] = 0.1,
    test: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of problems for it.", rich_help_panel=MEASURING),
    ] = 0.1,
    k: Annotated[
        int,
        typer.Option(
            min=0, help="Samples a test problem, for pass@k and maj@k.", rich_help_panel=MEASURING
        ),
    ] = 0,
    k_temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Their temperature.", rich_help_panel=MEASURING)
    ] = 0.7,
    regression: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Problems of another kind, to see what is unlearned; in any form PROBLEMS has.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    max_regression: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How much worse than the base, as a share of them, a promoted adapter may be.",
            rich_help_panel=MEASURING,
        ),
    ] = 0.05,
    engine: Annotated[
        Kind,
        typer.Option(
            help="local: this process. host: a member of starboard.toml that serves the base, such"
            " as vLLM. ray: a cluster.",
            rich_help_panel=ENGINE,
        ),
    ] = Kind.local,
    host: Annotated[
        str | None, typer.Option(help="Which member is the host.", rich_help_panel=ENGINE)
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Prompts under way at the host.", rich_help_panel=ENGINE)
    ] = 16,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of the cluster.", rich_help_panel=ENGINE)
    ] = 2,
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs of each of them.", rich_help_panel=ENGINE)
    ] = 0.0,
    address: Annotated[
        str | None,
        typer.Option(
            help="The address of a Ray cluster; default: one of this machine's own.",
            rich_help_panel=ENGINE,
        ),
    ] = None,
) -> None:
    """Begin a run: settle its settings and split the problems. Nothing is sampled yet."""
    from app.star.loop import Method, begin_run
    from app.star.problems import Shares
    from app.star.rationales import Asking, Keeping
    from app.star.train import Training

    samples_on = Engine(engine, host, concurrency, workers, gpus, address)
    method = Method(
        base=base,
        iterations=iterations,
        rationalize=rationalize,
        direct=direct,
        per_iteration=per_iteration,
        k=k,
        k_temperature=k_temperature,
        plateau=plateau,
        max_regression=max_regression,
        seed=seed,
        sampling_batch=sampling_batch,
        teachers=tuple(teacher or ()),
        scorer=scorer,
        shares=Shares(validation, test),
        asking=Asking(samples, temperature, max_tokens),
        keeping=Keeping(
            check_steps, cap, max_rationalized, min_reward, min_correctness, min_coherence
        ),
        training=Training(
            epochs=epochs,
            min_steps=min_steps,
            learning_rate=learning_rate,
            batch=batch,
            micro_batch=micro_batch,
            max_tokens=max_row_tokens,
            rank=rank,
            four_bit=four_bit,
            dpo=dpo,
            dpo_learning_rate=dpo_learning_rate,
            seed=seed,
        ),
    )
    named, found = _problems(problems, seed, drop_duplicates=drop_duplicates)
    general = _problems(regression, seed, drop_duplicates=drop_duplicates) if regression else None

    async def begun() -> Run:
        async with _board(method, samples_on) as board:
            if scorer:
                board.scorer_spec(scorer)
            if host:
                board.host(host)
            return begin_run(
                found,
                method,
                out,
                _never,
                _silent,
                source=named,
                teachers=board.teachers(),
                regression=general,
            )

    run = asyncio.run(begun())
    samples_on.save(out)
    parts = run.problems
    err.print(
        f"{len(parts.train):,} problems to train on, {len(parts.validation):,} to validate,"
        f" {len(parts.test):,} to test"
        + (f", {len(run.regression):,} against regression" if run.regression else "")
    )


@star.command("run")
@functools.wraps(init)
def run_all(*arguments: Any, **named: Any) -> None:
    init(*arguments, **named)
    folder: Path = named["out"]

    async def every_stage() -> None:
        async with _opened(folder, scoring=True) as run:
            await run.run()

    _to_the_end(every_stage())
    report(folder)


run_all.__doc__ = """Run all iterations; the same command goes on where it was interrupted.

Each iteration samples rationales, asks again for the failures with a hint, keeps what verifies,
trains an adapter from the base, measures it, and promotes it if it is better. OUT gets
everything, with `report.html` at the end.
"""


@star.command()
def sample(folder: RunFolder, *, iteration: Iteration = None) -> None:
    """Write the rationales of an iteration."""
    _stage(folder, iteration, lambda run, number: run.sample(number))


@star.command()
def rationalize(folder: RunFolder, *, iteration: Iteration = None) -> None:
    """Ask again for the failures, with a hint, and say what is kept and why the rest is not."""
    from app.star.rationales import counted

    found = _stage(folder, iteration, lambda run, number: run.rationalize(number), scoring=True)
    for fate, count in counted(found).items():
        stdout.print(Text(f"{count:>6}  {fate}"))


@star.command()
def train(
    folder: RunFolder,
    *,
    iteration: Iteration = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="On the answers alone, to compare with.")
    ] = False,
) -> None:
    """Train the adapter of an iteration from the base."""
    if direct and iteration:
        raise ConfigurationError("--direct is of no iteration: leave --iteration out")

    async def trained(run: Run, number: int) -> Path:
        return run.train_directly() if direct else run.train(number)

    found = _stage(folder, iteration, trained)
    stdout.print(Text(str(found)))


@star.command()
def evaluate(
    folder: RunFolder,
    *,
    iteration: Iteration = None,
    model: Annotated[Model, typer.Option(help="Whom to measure.")] = Model.iteration,
) -> None:
    """Measure a model on validation and test problems."""
    if model is not Model.iteration and iteration:
        raise ConfigurationError(f"--model {model} is of no iteration: leave --iteration out")

    async def measured(run: Run, number: int) -> None:
        match model:
            case Model.base:
                await run.evaluate_base()
            case Model.direct:
                await run.evaluate(folder / "direct")
            case Model.iteration:
                await run.evaluate(run.iteration(number))

    _stage(folder, iteration, measured)
    _show(folder)


@star.command()
def promote(
    folder: RunFolder,
    *,
    iteration: Iteration = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Go back to the adapter promoted before.")
    ] = False,
) -> None:
    """Take an iteration's adapter for the current one, if it is better on validation problems and
    not much worse than the base on the regression set."""
    from app.star import loop

    if roll_back:
        now = loop.roll_back(folder)
        said = "The base is current again." if now is None else f"Iteration {now} is current again."
    else:
        number = iteration or loop.unfinished(folder)

        async def decided(run: Run, number: int) -> bool:
            return run.promote(number, again=True)

        better = _stage(folder, number, decided)
        why_not = loop.held_back(folder, number) or "is not better"
        said = f"Iteration {number} {'is current' if better else f'{why_not}: it stays behind'}."
    stdout.print(Text(said))
    if current := loop.promoted(folder):
        adapter = folder / f"iteration-{current[-1]}" / "adapter"
        err.print(Text(f"To seat iteration {current[-1]} on the board, in starboard.toml:"))
        stdout.print(Text(member_row(folder.resolve().name, loop.method_of(folder).base, adapter)))


@star.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
) -> None:
    """Write the current adapter as GGUF, for the embedded engine (bases of the embedded models)."""
    from app.star import loop
    from app.star.export import export_adapter

    _refuse_existing(out)
    current = loop.promoted(folder)
    if not current:
        raise ConfigurationError(f"nothing was promoted in {folder}")
    base = loop.method_of(folder).base
    export_adapter(base, folder / f"iteration-{current[-1]}" / "adapter", out)
    stdout.print(Text(embedded_member_row(folder.resolve().name, base, out)))


@star.command()
def problems(
    out: Annotated[Path, typer.Argument(help="The file of JSON lines to write.")],
) -> None:
    """Write what the board was asked as problems without an answer, each with the reply that won.

    Only replies of members whose `trainable` is true. The file is read by `init` and `run` like
    any other; add problems with answers to it, by which models are measured.
    """
    from app.runs import write_rows
    from app.star.problems import as_row

    _refuse_existing(out)
    board = settings()
    found = asyncio.run(_stored_problems(board))
    if not found:
        raise ConfigurationError(
            "no stored answer was won by a member whose replies may train a model; those are"
            f" {', '.join(sorted(board.trainable)) or 'none'}"
        )
    write_rows(out, map(as_row, found))
    err.print(Text(f"{out} has {len(found):,} problems without an answer."))


@star.command()
def report(folder: RunFolder) -> None:
    """Write `report.html`, and a model card into each adapter's folder; show the figures."""
    from app.star.report import write_report

    path = write_report(folder)
    _show(folder)
    err.print(Text(f"The report with its pictures is {path}.", "green"))


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise ConfigurationError(f"{out} is there already: name another file, or remove it")


def _problems(source: str, seed: int, *, drop_duplicates: bool) -> tuple[str, list[Problem]]:
    """What the problems are called, and they themselves."""
    from app.star.problems import carries, read_problems, sums

    kind, _, count = source.partition(":")
    if kind in ("sums", "carries") and not Path(source).exists():
        if not count.isdecimal():
            raise ConfigurationError(f"{source}: say how many, as in {kind}:500")
        return source, (sums if kind == "sums" else carries)(int(count), seed)
    path = Path(source)
    return path.name, read_problems(path, "drop" if drop_duplicates else "refuse")


async def _stored_problems(board: Settings) -> list[Problem]:
    from app.star.problems import open_problems
    from app.store import AnswerStore

    async with AnswerStore.open(board.database_url) as store:
        return await open_problems(store.answers(), board.trainable)


def _stage(
    folder: Path,
    iteration: int | None,
    stage: Callable[[Run, int], Awaitable[T]],
    *,
    scoring: bool = False,
) -> T:
    from app.star.loop import unfinished

    async def done() -> T:
        async with _opened(folder, scoring=scoring) as run:
            return await stage(run, iteration or unfinished(folder))

    return _to_the_end(done())


def _to_the_end(stages: Coroutine[Any, Any, T]) -> T:
    """Run them; Ctrl-C ends them at once, for what is there stays."""

    async def interruptible() -> T:
        # asyncio's own handler only asks the task to end, which training does not hear.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return await stages

    try:
        return asyncio.run(interruptible())
    except KeyboardInterrupt:
        err.print(Text("Interrupted. The same command goes on from here.", "yellow"))
        raise SystemExit(128 + signal.SIGINT) from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raise `ConfigurationError` if another command is at work on the run: a child that outlived
    its killed parent, say. Processes that train together are one command."""
    from filelock import FileLock, Timeout

    if "RANK" in os.environ:
        yield
        return
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigurationError(
            f"another process is at work on {folder}: let it end, or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _board(method: Method, engine: Engine) -> AbstractAsyncContextManager[Board]:
    return Board.open(needed=bool(method.teachers or method.scorer or engine.host))


@asynccontextmanager
async def _opened(folder: Path, *, scoring: bool = False) -> AsyncIterator[Run]:
    """A run with its samplers, and its scorer if it has one and needs it, and a bar for each
    stage."""
    from app.star.loop import method_of, open_run

    method, engine = method_of(folder), Engine.of(folder)
    with _alone(folder), bar() as progress:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        async with _board(method, engine) as board:
            yield open_run(
                folder,
                functools.partial(open_sampler, engine, board, method),
                tell,
                teachers=board.teachers(),
                scorer=await board.scorer(method.scorer) if scoring and method.scorer else None,
            )


def _show(folder: Path) -> None:
    """Accuracy of every model that was measured, and what became of the rationales."""
    from app.star.rationales import Origin, counted
    from app.star.report import results, share

    found = results(folder)
    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    table.add_column("test problems right, 95 %", no_wrap=True)
    k = max((one.test["k"] for one in found.measured), default=0)
    for heading in (f"pass@{k}", f"maj@{k}") if k else ():
        table.add_column(heading, justify="right")
    general = any(one.regression for one in found.measured)
    if general:
        table.add_column("regression", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("rationalized", justify="right")
    dropped = []
    for one in found.measured:
        cells = [one.name, share(one.test)]
        cells += [f"{one.test[key]:.1%}" for key in ("pass@k", "maj@k") if k]
        if general:
            cells.append(f"{one.regression['pass@1']:.1%}" if one.regression else "")
        number = one.name.removeprefix("iteration ")
        if number.isdecimal():
            fates = dict(counted(found.rationales[int(number)]))
            kept = [fates.pop(origin, 0) for origin in get_args(Origin)]
            cells += [str(sum(kept)), str(kept[1])]
            said = ", ".join(f"{count} {fate}" for fate, count in fates.items())
            dropped.append(f"Dropped in {one.name}: {said or 'nothing'}.")
        table.add_row(*map(Text, cells))
    if found.measured:
        stdout.print(table)
    for line in (*dropped, *found.held_back):
        stdout.print(Text(line))
    now = f"iteration {found.promoted[-1]}" if found.promoted else "the base"
    stdout.print(Text(f"Current: {now}."))


async def _never(adapter: Path | None) -> Sampler:
    raise AssertionError("a run that only begins samples nothing")


def _silent(stage: str, done: int, total: int) -> None:
    """Beginning is quick."""

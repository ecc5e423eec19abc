"""`starboard batch`: many prompts from a file, and their answers into another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID, TextColumn
from rich.text import Text

from app.cli.console import bar, err, settings
from app.domain import NANO
from app.errors import ConfigurationError, StoreError
from app.logs import log_at

if TYPE_CHECKING:
    from app.batch.asking import Ending
    from app.batch.rows import Tally

AT_THE_CEILING = 3
INTERRUPTED = 128 + signal.SIGINT
PATIENCE = 2
GO_ON = "The same command goes on from here."


class Engine(StrEnum):
    local = "local"
    ray = "ray"


class Format(StrEnum):
    jsonl = "jsonl"
    parquet = "parquet"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="JSON lines: bodies of `POST /answer`, with an `id` if you like.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Line k is the answer to line k.")],
    *,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, help="Rows under way at a time; on Ray, by each worker.")
    ] = 16,
    max_cost_usd: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Begin no row that could take the whole batch over this; prices must be known.",
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="This process, or a Ray cluster (extra `ray`).")
    ] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Ray: worker processes.")] = 2,
    cpus: Annotated[float, typer.Option(min=0, help="Ray: cores of each worker.")] = 1.0,
    address: Annotated[
        str | None, typer.Option(help="Ray: the cluster; default: one on this machine.")
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Ray: rows of each shard.")] = 256,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Ray: what shards are written as; default: as IN is."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Put every row of a file to the board (docs/batch.md).

    A row of IN is `{"id": "a", "prompt": "Why is the sky blue?"}`, or whatever else `POST /answer`
    takes. Its row of OUT has `index`, `id`, what it cost, and `answer`, or `error` if it is not
    valid or got no answer.

    A batch that was ended in any way goes on by the same command; no answer that is stored is paid
    for again. With `--engine ray` IN may also be Parquet or a folder of shards, and OUT is a folder
    of shards.

    Exit codes: 0 all rows are written, 2 it cannot go on, 3 `--max-cost-usd` is reached, 130
    interrupted.
    """
    from app.batch import local

    board = settings()
    log_at("error", secrets=board.secrets)
    ceiling = None if max_cost_usd is None else round(max_cost_usd * NANO)
    watch = Watch()
    hooks = local.Hooks(watch.began, watch.wrote)
    if engine is Engine.local:
        if form is Format.parquet:
            raise ConfigurationError("Parquet is read and written with `--engine ray` alone")
        work = local.run(board, source, target, hooks, concurrency=concurrency, ceiling=ceiling)
    else:
        from app.batch import shards
        from app.clusters import Cluster

        work = shards.run(
            board,
            source,
            target,
            hooks,
            Cluster(workers, cpus, 0, address),
            concurrency=concurrency,
            shard_rows=shard_rows,
            ceiling=ceiling,
            form=form.value if form else None,
        )
    ending = _ended(work, watch)
    watch.summarize(as_json=as_json)
    if ending == "interrupted":
        err.print(Text(f"Interrupted. {GO_ON}", "yellow"))
        raise SystemExit(INTERRUPTED)
    if ending == "ceiling":
        said = f"The next row could take the batch over {max_cost_usd:g} USD"
        err.print(Text(f"{said}. The same command with a higher --max-cost-usd goes on.", "yellow"))
        raise SystemExit(AT_THE_CEILING)


def _ended(work: Coroutine[Any, Any, Ending], watch: Watch) -> Ending:
    """How the batch ended. A signal interrupts it, once it has begun; a second one hurries it."""

    async def interruptible() -> Ending:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            with suppress(RuntimeError, NotImplementedError):  # not in the main thread
                loop.add_signal_handler(one, watch.interrupt)
        return await work

    try:
        with watch.bar:
            return asyncio.run(interruptible())
    except StoreError as error:
        raise ConfigurationError(f"{error.title}: {error.detail}. {GO_ON}") from error


@dataclass
class Watch:
    """Draws the bar, where there is a terminal to draw it on, and sums up."""

    bar: Progress = field(
        default_factory=lambda: bar(TextColumn("{task.fields[cost]}"), disable=not err.is_terminal)
    )
    tally: Tally | None = None
    rows: int = 0
    before: int = 0
    started: float = 0.0
    stop: Callable[[], object] | None = None
    signals: int = 0
    task: TaskID | None = None

    def began(self, rows: int, tally: Tally, stop: Callable[[], object]) -> None:
        self.rows, self.tally, self.before, self.stop = rows, tally, tally.rows, stop
        self.started = time.monotonic()
        self.task = self.bar.add_task("Rows", total=rows, completed=tally.rows, cost="")

    def wrote(self) -> None:
        if self.task is not None and self.tally and not self.bar.disable:
            self.bar.update(self.task, completed=self.tally.rows, cost=_cost(self.tally))

    def interrupt(self) -> None:
        self.signals += 1
        if self.stop is None or self.signals > PATIENCE:
            err.show_cursor()
            os._exit(INTERRUPTED)  # as good as any other end: what is written stands
        if self.signals == 1:
            err.print(Text("Ending. Again to end sooner, thrice to end now.", "dim"))
        self.stop()

    def summarize(self, *, as_json: bool) -> None:
        tally = self.tally
        assert tally is not None
        took_s = time.monotonic() - self.started
        if as_json:
            here = {"rows_here": tally.rows - self.before, "seconds_here": round(took_s, 3)}
            typer.echo(json.dumps({"of": self.rows, **tally.as_document(), **here}))
            return
        failed = tally.failed.total()
        err.print(
            Text(
                f"{tally.rows:,} of {self.rows:,} rows: {tally.answered:,} answered"
                f" ({tally.degraded:,} of them degraded), {failed:,} failed."
            )
        )
        for kind, count in tally.failed.most_common():
            err.print(Text(f"  {kind}: {count:,}"))
        err.print(Text(f"Cost: {_cost(tally)}."))
        err.print(Text(f"{tally.rows - self.before:,} rows in {took_s:,.1f} s this time."))


def _cost(tally: Tally) -> str:
    unknown = f", not known of {tally.cost_unknown:,} rows" if tally.cost_unknown else ""
    return f"{tally.cost_usd:.6g} USD{unknown}"

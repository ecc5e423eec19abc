"""What all commands share: where they write, the bar they draw, the settings they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from app.settings import Settings

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the HTTP API does.")]


def bar(*more: ProgressColumn, disable: bool = False) -> Progress:
    """A bar with what is done, what there is, the time left, and more; gone when it ends."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *more,
        console=err,
        disable=disable,
        transient=True,
    )


def settings(**given: str | int | None) -> Settings:
    """The settings, with what the command line gives over them."""
    from app.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

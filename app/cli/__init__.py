"""The command `starboard`. What a command needs is imported when it runs: `--help` is quick."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer
from rich.text import Text

from app.cli import data, service
from app.cli.batch import batch
from app.cli.console import err
from app.cli.keys import keys
from app.cli.scorers import scorers
from app.cli.star import star
from app.errors import (
    ConfigurationError,
    DataError,
    NoCandidateError,
    RequestError,
    StarboardError,
)

app = typer.Typer(
    help="One prompt, a board of models, the best original reply with its evidence.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (
    service.serve,
    service.migrate,
    service.ask,
    service.score,
    service.models,
    batch,
    data.export,
    data.erase,
):
    app.command()(command)
app.add_typer(keys, name="keys")
app.add_typer(scorers, name="scorer")
app.add_typer(star, name="star")


def main() -> None:
    """Entry point: errors that the user can mend are said in a line, with exit code 2."""
    try:
        app()
    except (StarboardError, ValueError) as error:  # pydantic's are ValueErrors
        lines = _plainly(error)
        if lines is None:
            raise
        for line in lines:
            err.print(Text(line, "red"))
        raise SystemExit(2) from None


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


def _plainly(error: Exception) -> list[str] | None:
    """What to tell of an error that the user can mend; None for any other."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    match error:
        case ValidationError():
            return [
                f"{'.'.join(map(str, e['loc']))}: ".removeprefix(": ")
                + e["msg"].removeprefix("Value error, ")
                for e in error.errors()
            ]
        case NoCandidateError():
            failures = error.failures.values()
            return [f"{error.title}.", *(f"  {failure.message}" for failure in failures)]
        case RequestError():
            return [f"{error.title}: {error.detail}"]
        case ConfigurationError() | DataError() | SettingsError():
            return [str(error)]
        case _:
            return None

"""`starboard export` and `starboard erase`: what is stored, written out and taken away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from app.cli.console import err, settings
from app.errors import AnswerNotFoundError, ConfigurationError, DataError
from app.export import Format

if TYPE_CHECKING:
    from app.export import Members
    from app.settings import Settings
    from app.store import AnswerStore


OfKey = Annotated[
    str | None,
    typer.Option(help="Only answers asked with this API key: its id or its prefix, also revoked."),
]


def export(
    *,
    shape: Annotated[Format, typer.Option("--format", help="What the rows are for.")] = "sft",
    all_members: Annotated[
        bool,
        typer.Option("--all-members", help="Also replies of members that are not `trainable`."),
    ] = False,
    key: OfKey = None,
) -> None:
    """Print the stored answers as rows to train from, as JSON lines (docs/data.md).

    Only replies of members whose `trainable` is true.
    """
    board = settings()
    if all_members:
        err.print(
            "[yellow]Replies of all members are written. The terms of some forbid training a model"
            " on them, or tie it to conditions: read those first."
        )
    count = asyncio.run(_export(board, shape, None if all_members else board.trainable, key))
    err.print(Text(f"{count:,} rows."))
    if not count and not all_members:
        err.print(Text(f"Trainable members: {', '.join(sorted(board.trainable)) or 'none'}."))


def erase(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of answers.")] = None,
    *,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="Erase the answers with this tag, as user:u1. Repeated: with all."),
    ] = None,
    key: OfKey = None,
) -> None:
    """Erase stored answers, with candidates, feedback and what they are found by."""
    if bool(ids) == bool(tag or key):
        raise ConfigurationError("say which answers: their ids, or a --tag or a --key")
    pairs = [(name, value) for name, given, value in (t.partition(":") for t in tag or ()) if given]
    if len(pairs) < len(tag or ()):
        raise ConfigurationError("a tag has a key and a value, as in --tag user:u1")
    erased, missing = asyncio.run(_erase(settings(), ids or [], pairs, key))
    err.print(Text(f"{erased:,} answers erased."))
    if missing:
        raise DataError(f"there is no answer {', '.join(missing)}")


async def _export(board: Settings, shape: Format, members: Members, key: str | None) -> int:
    from app.export import lines
    from app.store import AnswerStore

    count = 0
    async with AnswerStore.open(board.database_url) as store:
        async for line in lines(store.answers(await _key_id(store, key)), shape, members):
            typer.echo(line, nl=False)
            count += 1
    return count


async def _erase(
    board: Settings, ids: list[str], tags: list[tuple[str, str]], key: str | None
) -> tuple[int, list[str]]:
    """How many there were, and the ids that are none's."""
    from app.store import AnswerStore, Filter

    missing: list[str] = []
    async with AnswerStore.open(board.database_url) as store:
        if not ids:
            key_id = await _key_id(store, key)
            return await store.erase_all(Filter(tags=tags, key_id=key_id)), missing
        for id_ in ids:
            try:
                await store.erase(id_)
            except AnswerNotFoundError:
                missing.append(id_)
    return len(ids) - len(missing), missing


async def _key_id(store: AnswerStore, which: str | None) -> str | None:
    """The id of the API key of that id or prefix; raises `DataError` if there is none."""
    from app.store.keys import Keys

    if which is None:
        return None
    if found := await Keys(store.database).named(which):
        return found.id
    raise DataError(f"there is no key {which}; `starboard keys list` shows all")

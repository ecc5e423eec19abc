"""`starboard keys …`: who may use the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table
from rich.text import Text

from app.cli.console import AsJson, err, out, settings
from app.domain import NANO, Period, Scope
from app.errors import DataError
from app.logs import log_at

if TYPE_CHECKING:
    from app.store.keys import ApiKey, Keys

# What the columns hold; a budget in nano-dollars is one of 63 bits.
LONGEST_NAME = 200
MOST = 1_000_000
SCOPES: tuple[Scope, ...] = get_args(Scope)

keys = typer.Typer(
    help="Who may use the service: make, list and revoke API keys.", no_args_is_help=True
)


def _scope(written: str) -> str:
    if written not in SCOPES:
        raise typer.BadParameter(f"it is none of {', '.join(SCOPES)}")
    return written


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it; for you to tell it by.")],
    *,
    scope: Annotated[
        list[str] | None,  # typer takes no list of a Literal
        typer.Option(
            parser=_scope,
            metavar="|".join(SCOPES),
            help="What it may do; may be repeated. Default: answer, score and read.",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(min=0, max=36_500, help="Days until it expires; default: never."),
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(min=0, max=MOST, help="Answers and scorings a minute; default: no limit."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="Of these at a time; default: no limit.")
    ] = None,
    budget_usd: Annotated[
        float | None,
        typer.Option(
            min=0, max=9e9, help="What it may spend; every price must be known (`[prices]`)."
        ),
    ] = None,
    period: Annotated[
        Period, typer.Option(help="Whether the budget is for good or for a month (UTC).")
    ] = "total",
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, this once: it is stored as a hash only."""
    if len(name) > LONGEST_NAME:
        raise DataError(f"a name has at most {LONGEST_NAME} characters")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def made() -> tuple[ApiKey, str]:
        async with _keys() as store:
            return await store.create(
                name,
                [one for one in SCOPES if one in (scope or ("answer", "score", "read"))],
                expires=expires,
                per_minute=per_minute,
                concurrency=concurrency,
                budget=None if budget_usd is None else round(budget_usd * NANO),
                period=period,
            )

    key, secret = asyncio.run(made())
    if as_json:
        out.print_json(data={**_document(key), "secret": secret})
        return
    err.print(Text(f"{key.id}: {name}. The secret is not shown again:"))
    typer.echo(secret)


@keys.command(name="list")
def list_keys(as_json: AsJson = False) -> None:
    """Show every key ever made, with its limits and what it has spent; no secrets."""

    async def found() -> list[ApiKey]:
        async with _keys() as store:
            return await store.all()

    documents = [_document(key) for key in asyncio.run(found())]
    if as_json:
        out.print_json(data={"keys": documents})
        return
    table = Table(box=None)
    for heading in ("id", "name", "prefix", "scopes", "good", "limits", "spent USD"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("id", "prefix"))
    for row in documents:
        table.add_row(*(Text(cell) for cell in _cells(row)))
    out.print(table)


@keys.command()
def revoke(key: Annotated[str, typer.Argument(help="Its id or its prefix.")]) -> None:
    """Revoke a key for good. Runs under way are finished."""

    async def revoked() -> ApiKey | None:
        async with _keys() as store:
            return await store.revoke(key)

    found = asyncio.run(revoked())
    if found is None:
        raise DataError(f"there is no key {key}; `starboard keys list` shows all")
    err.print(Text(f"{found.id} ({found.name}) is revoked."))


@asynccontextmanager
async def _keys() -> AsyncIterator[Keys]:
    from app.store import AnswerStore
    from app.store.keys import Keys

    log_at("error")
    async with AnswerStore.open(settings().database_url) as store:
        yield Keys(store.database)


def _document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "good": key.good_at(datetime.now(UTC)),
        "per_minute": key.per_minute,
        "concurrency": key.concurrency,
        "budget_usd": None if key.budget is None else key.budget / NANO,
        "period": key.period,
        "spent_usd": key.spent / NANO,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    good = f"until {row['expires'][:16]}" if row["expires"] else "yes"
    if not row["good"]:
        good = "revoked" if row["revoked"] else "expired"
    limits = [
        f"{row['per_minute']}/min" if row["per_minute"] is not None else "",
        f"{row['concurrency']} at a time" if row["concurrency"] is not None else "",
        f"{row['budget_usd']:g} USD in {row['period']}" if row["budget_usd"] is not None else "",
    ]
    return [
        row["id"],
        row["name"],
        row["prefix"],
        " ".join(row["scopes"]),
        good,
        ", ".join(filter(None, limits)),
        f"{row['spent_usd']:.6g}",
    ]

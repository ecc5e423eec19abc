"""What stands beside the output of a batch that is under way, so that the same command goes on."""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.batch.rows import Tally
from app.errors import ConfigurationError, DataError
from app.runs import differences, write_text
from app.settings import Settings

# What may differ from one process to the next: the nonce is drawn by the first, and `window` is how
# many rows any of them may have begun beyond the last one written.
OF_ITS_OWN = ("nonce", "window")


def sidecar(out: Path) -> Path:
    return out.with_name(f"{out.name}.run")


def lock(descriptor: int, out: Path) -> None:
    """Keep others from the output as long as the descriptor is open."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigurationError(
            f"another process is writing {out}: let it end, or end it"
        ) from error


def begin(out: Path, manifest: Mapping[str, object], *, empty: bool, window: int) -> dict[str, Any]:
    """The manifest of the run with its nonce and the `window` of processes before; it is written
    where there was none. The output is locked, and `empty` or not.

    Raises `ConfigurationError` if the output is another's or was begun otherwise.
    """
    path = sidecar(out)
    ours = json.loads(json.dumps(manifest))
    if not path.is_file():
        if not empty:
            raise ConfigurationError(
                f"{out} is there already, and {path.name} is not, so no batch of it is under way:"
                " name another output, or delete it"
            )
        theirs = ours | {"nonce": secrets.token_hex(16), "window": window}
        write_text(path, json.dumps(theirs, indent=2))
    else:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        of_both = {key: value for key, value in theirs.items() if key not in OF_ITS_OWN}
        if changed := differences(of_both, ours):
            raise ConfigurationError(
                f"{out} was begun otherwise ({', '.join(changed)}): give it the same again to go"
                f" on, or name another output; to begin anew, delete {out} and {path}"
            )
    if window > theirs["window"]:
        write_text(path, json.dumps(theirs | {"window": window}, indent=2))
    found: dict[str, Any] = theirs
    return found


def board_of(settings: Settings) -> dict[str, object]:
    """What the rows come from, for the manifest: no key and no password."""
    scorers = [f"{spec.kind} {getattr(spec, 'model', '')}".strip() for spec in settings.ladder]
    return {
        "members": {seat.name: seat.model for seat in settings.seats if seat.why_not is None},
        "scorers": scorers,
        "max_tokens": settings.max_tokens,
        "database": make_url(settings.database_url).render_as_string(hide_password=True),
    }


def absolute(settings: Settings) -> Settings:
    """The settings, with an SQLite file by its whole path: a run may go on from another folder."""
    try:
        url = make_url(settings.database_url)
    except ArgumentError:
        return settings  # whoever opens it says what is wrong
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return settings
    whole = url.set(database=str(Path(url.database or "").resolve()))
    shown = whole.render_as_string(hide_password=False)
    return settings.model_copy(update={"database_url": shown})


def unpriced(tally: Tally) -> str:
    """Why no ceiling can be held over a batch that goes on."""
    return (
        f"what {tally.unpriced} of the rows written cost is not known, so that no ceiling can be"
        " held: go on without one"
    )


def count_lines(file: BinaryIO, tally: Tally, name: Path) -> int:
    """Count the rows from the beginning; how many bytes they are, without a last line that was
    torn. Raises `DataError` for any other line that is no row."""
    size = 0
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            tally.add(line)
        except DataError as error:
            raise DataError(f"{name}, line {tally.rows + 1}: {error}") from error
        size += len(line)
    return size

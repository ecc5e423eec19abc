"""A batch in this process: JSON lines in, JSON lines out, line for line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.batch.asking import AHEAD, Asking, Desk, Ending, earlier, open_board
from app.batch.files import absolute, begin, board_of, count_lines, lock, sidecar, unpriced
from app.batch.inputs import lines, survey
from app.batch.rows import Tally
from app.errors import ConfigurationError, DataError
from app.settings import Settings


@dataclass(frozen=True)
class Hooks:
    """Whoever watches: `began` is told how many rows there are and the tally of those written,
    which goes on counting, and how to interrupt; `wrote` of every row written."""

    began: Callable[[int, Tally, Callable[[], object]], None]
    wrote: Callable[[], None]


async def run(
    settings: Settings,
    source: Path,
    out: Path,
    hooks: Hooks,
    *,
    concurrency: int,
    ceiling: int | None = None,
) -> Ending:
    """Ask every row of `source` that has no line in `out` yet. `ceiling` is in nano-dollars.

    Raises `ConfigurationError`, `DataError` or `StoreError`; the same call goes on after each.
    """
    settings = absolute(settings)
    async with open_board(settings) as services:
        found = survey(source)
        if not found.rows:
            raise DataError(f"{source} holds no rows")
        read = {"bytes": found.size, "sha256": found.sha256}
        manifest = {"input": read, "engine": "local", "board": board_of(settings)}
        with source.open("rb") as asked, open(out, "a+b") as written:  # noqa: ASYNC230
            lock(written.fileno(), out)
            empty = not os.fstat(written.fileno()).st_size
            begun = begin(out, manifest, empty=empty, window=AHEAD * concurrency)
            tally = Tally()
            written.truncate(count_lines(written, tally, out))
            if ceiling is not None and tally.unpriced:
                raise ConfigurationError(unpriced(tally))
            start = tally.rows
            stored = await earlier(
                services.store, begun["nonce"], range(start, start + begun["window"])
            )

            def write(line: bytes) -> None:
                written.write(line)
                written.flush()  # a process that is killed loses nothing of it
                hooks.wrote()

            asking = Asking(
                Desk(services, begun["nonce"], stored),
                islice(lines(asked, settings.max_body_bytes), start, None),
                start,
                write,
                tally,
                concurrency,
                ceiling,
            )
            hooks.began(found.rows, tally, asking.interrupt)
            ending = await asking.run()
            os.fsync(written.fileno())
            if ending == "done":
                sidecar(out).unlink()
            return ending

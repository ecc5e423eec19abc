"""What a batch reads: lines of JSON, whatever the size of file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from app.errors import DataError

PIECE = 2**20


@dataclass(frozen=True)
class Survey:
    """What there is to do, and how to know it again. `starts` are the bytes at which every so
    manieth line begins."""

    size: int
    sha256: str
    rows: int
    starts: list[int] = field(repr=False)


def survey(path: Path, every: int = PIECE) -> Survey:
    """Read a file once. Raises `DataError` if it cannot be read."""
    digest, size, rows, starts, whole = hashlib.sha256(), 0, 0, [], True
    try:
        with path.open("rb") as file:
            while piece := file.readline(PIECE):
                if whole:
                    if rows % every == 0:
                        starts.append(size)
                    rows += 1
                whole = piece.endswith(b"\n")
                size += len(piece)
                digest.update(piece)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return Survey(size, digest.hexdigest(), rows, starts)


def lines(file: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """The lines from here on; None in the place of one that is over `limit` bytes."""
    while piece := file.readline(limit + 2):  # with its end
        line = piece.rstrip(b"\r\n")
        if len(line) <= limit and (piece.endswith(b"\n") or len(piece) < limit + 2):
            yield line
            continue
        while piece and not piece.endswith(b"\n"):
            piece = file.readline(PIECE)
        yield None

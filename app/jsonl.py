"""Rows of JSON lines, gzipped if so named: what people keep pairs, labels and problems in."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from app.errors import DataError

Row = Mapping[str, object]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row with the place it stands in, for messages; blank lines are passed over.

    Raises `DataError`: the file cannot be read or is empty, or a line is not a JSON object.
    """
    open_text = gzip.open if path.suffix == ".gz" else open
    rows = 0
    try:
        with open_text(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows += 1
                    where = f"{path}, line {number}"
                    yield where, _row(where, line)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{path} holds no rows")


def _row(where: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object")
    return row

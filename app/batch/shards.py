"""A batch on a Ray cluster: shards of the input are asked by its workers, and written whole.

Input and settings are the driver's, and it alone writes: no worker needs its folder, and no row can
be written by two. Workers read the input, so it must be there for each under the same path, and
store the answers, so on several machines the database must be PostgreSQL.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from app.batch.asking import Asking, Desk, Ending, earlier, open_board
from app.batch.files import absolute, begin, board_of, count_lines, lock, sidecar, unpriced
from app.batch.inputs import lines, survey
from app.batch.local import Hooks
from app.batch.rows import Tally
from app.clusters import Cluster
from app.errors import ConfigurationError, DataError
from app.logs import log_at
from app.model_folders import require
from app.runs import write_bytes
from app.settings import Settings
from app.store import AnswerStore

Format = Literal["jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "parquet")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """`rows` of a file: of JSON lines from byte `start`, of Parquet from row `start`. The first has
    the index `index` in the batch."""

    number: int
    path: Path
    start: int
    rows: int
    index: int

    def lines(self, limit: int) -> Iterator[bytes | None]:
        """The rows as lines of JSON; None for one over `limit` bytes."""
        if _format(self.path) == "jsonl":
            with self.path.open("rb") as file:
                file.seek(self.start)
                yield from islice(lines(file, limit), self.rows)
            return
        for row in _parquet_rows(self.path, self.start, self.rows):
            line = json.dumps(_without_nulls(row)).encode()
            yield line if len(line) <= limit else None


async def run(
    settings: Settings,
    source: Path,
    out: Path,
    hooks: Hooks,
    cluster: Cluster,
    *,
    concurrency: int,
    shard_rows: int,
    ceiling: int | None = None,
    form: Format | None = None,
) -> Ending:
    """Ask every shard of `source`, a file or a folder of them, that is not in the folder `out` yet.
    They are written as `form`, by default as the source is.

    What is left of a `ceiling`, in nano-dollars, is shared out evenly by rows. A shard whose share
    does not do is not written; what it has bought is stored, and found when the batch goes on.

    Raises `ConfigurationError`, `DataError` or `StoreError`; the same call goes on after each.
    """
    require("a batch on a cluster", "ray", "pyarrow.parquet", extra="ray")
    settings = absolute(settings)
    async with AnswerStore.open(settings.database_url):
        pass  # its faults are found here, and workers find it migrated
    paths = _files(source)
    form = form or _format(paths[0])
    shards, read = plan(paths, shard_rows)
    manifest = {
        "input": read,
        "engine": "ray",
        "format": form,
        "shard_rows": shard_rows,
        "board": board_of(settings),
    }
    folder = _Folder(out, form)
    with folder.locked():
        begun = begin(out, manifest, empty=not os.listdir(out), window=0)
        left = [shard for shard in shards if not folder.has(shard)]
        shares = _shares(left, ceiling, folder.tally)
        worker = settings, begun["nonce"], concurrency
        working = asyncio.ensure_future(_work(cluster, worker, shares, folder, hooks))
        hooks.began(sum(shard.rows for shard in shards), folder.tally, working.cancel)
        try:
            whole = await working
        except asyncio.CancelledError:
            return "interrupted"
        if not whole:
            return "ceiling"
        sidecar(out).unlink()
        return "done"


@dataclass(frozen=True)
class _Folder:
    """Where shards are written, and what has been counted of them."""

    path: Path
    form: Format
    tally: Tally = field(default_factory=Tally)

    @contextmanager
    def locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            lock(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)

    def has(self, shard: Shard) -> bool:
        """Whether the shard is written; if so, its rows are counted."""
        path = self._file_of(shard)
        if not path.is_file():
            return False
        if self.form == "jsonl":
            with path.open("rb") as file:
                count_lines(file, self.tally, path)
            return True
        for row in _parquet_rows(path, 0, _parquet_length(path)):
            texts = {name: json.loads(row[name]) for name in IN_JSON if row[name]}
            self.tally.add(json.dumps(row | texts).encode())
        return True

    def write(self, shard: Shard, content: bytes) -> None:
        """Keep the rows of a shard, given as lines of JSON."""
        whole = _as_parquet(content) if self.form == "parquet" else content
        write_bytes(self._file_of(shard), whole)
        for line in content.splitlines(keepends=True):
            self.tally.add(line)

    def _file_of(self, shard: Shard) -> Path:
        return self.path / f"part-{shard.number:05}.{self.form}"


Shares = Mapping[Shard, int | None]


async def _work(
    cluster: Cluster, worker: tuple[object, ...], shares: Shares, folder: _Folder, hooks: Hooks
) -> bool:
    """Write the shards as they come; whether the money did for all."""
    by_number = {shard.number: shard for shard in shares}
    items = [
        {"number": shard.number, "shard": pickle.dumps((shard, share))}
        for shard, share in shares.items()
    ]
    whole = True
    async with aclosing(cluster.rows(items, _Worker, *worker, what="the batch")) as rows:
        async for row in rows:
            if row["ending"] != "done":
                whole = False
                continue
            folder.write(by_number[row["number"]], row["lines"])
            hooks.wrote()
    return whole


class _Worker:
    """One process of the cluster: Ray Data makes it once and calls it with a shard at a time. The
    board lives in a loop of its own, which goes on between the shards."""

    def __init__(self, settings: Settings, nonce: str, concurrency: int) -> None:
        log_at("error", secrets=settings.secrets)
        self.nonce, self.concurrency = nonce, concurrency
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.open = open_board(settings)
        self.services = self._done(self.open.__aenter__())

    def __call__(self, rows: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = [pickle.loads(shard) for shard in rows["shard"]]  # noqa: S301 - who called us
        done = [self._done(self._ask(shard, share)) for shard, share in asked]
        return {
            "number": rows["number"],
            "ending": [ending for ending, _ in done],
            "lines": [written for _, written in done],
        }

    async def _ask(self, shard: Shard, share: int | None) -> tuple[Ending, bytes]:
        rows = range(shard.index, shard.index + shard.rows)
        desk = Desk(self.services, self.nonce, await earlier(self.services.store, self.nonce, rows))
        written = io.BytesIO()
        asking = Asking(
            desk,
            shard.lines(self.services.settings.max_body_bytes),
            shard.index,
            written.write,
            Tally(),
            self.concurrency,
            share,
        )
        return await asking.run(), written.getvalue()

    def _done(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


def plan(paths: Sequence[Path], shard_rows: int) -> tuple[list[Shard], dict[str, object]]:
    """The shards of the files, none of which crosses from one into the next, and what to know the
    files by. Raises `DataError`."""
    shards: list[Shard] = []
    read: dict[str, object] = {}
    index = 0
    for path in paths:
        found = survey(path, shard_rows)
        read[path.name] = {"bytes": found.size, "sha256": found.sha256}
        rows, starts = found.rows, found.starts
        if _format(path) == "parquet":
            rows = _parquet_length(path)
            starts = list(range(0, rows, shard_rows))
        for first, start in zip(range(0, rows, shard_rows), starts, strict=True):
            size = min(shard_rows, rows - first)
            shards.append(Shard(len(shards), path.resolve(), start, size, index + first))
        index += rows
    if not shards:
        raise DataError(f"{', '.join(path.name for path in paths)} holds no rows")
    return shards, read


def _shares(left: Sequence[Shard], ceiling: int | None, tally: Tally) -> Shares:
    if ceiling is None:
        return dict.fromkeys(left)
    if tally.unpriced:
        raise ConfigurationError(unpriced(tally))
    rows = sum(shard.rows for shard in left)
    return {shard: max(0, ceiling - tally.spent) * shard.rows // rows for shard in left}


def _files(source: Path) -> list[Path]:
    """The file, or those of a folder in the order of their names."""
    if not source.is_dir():
        return [source]
    for form in FORMATS:
        if found := sorted(source.glob(f"*.{form}")):
            return found
    raise DataError(f"{source} holds no file that ends with .jsonl or .parquet")


def _format(path: Path) -> Format:
    return "parquet" if path.suffix == ".parquet" else "jsonl"


# Columns of Parquet that hold JSON: their inner fields differ from shard to shard.
IN_JSON = ("answer", "error")


def _as_parquet(content: bytes) -> bytes:
    """The rows of JSON lines as a Parquet file; the reply itself has a column of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for line in content.splitlines():
        row = json.loads(line)
        texts = {name: json.dumps(row[name]) for name in IN_JSON if row.get(name) is not None}
        id_ = None if row["id"] is None else str(row["id"])
        flat = row | texts | {"id": id_, "reply": row.get("answer", {}).get("answer")}
        for name, column in columns.items():
            column.append(flat.get(name))
    types = pa.schema([(name, getattr(pa, type_)()) for name, type_ in SCHEMA.items()])
    file = io.BytesIO()
    pq.write_table(pa.table(columns, schema=types), file)
    return file.getvalue()


SCHEMA = {
    "index": "int64",
    "id": "string",
    "cost_usd": "float64",
    "cost_bound_usd": "float64",
    "reply": "string",
    "answer": "string",
    "error": "string",
}


def _parquet_length(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet file") from error


def _parquet_rows(path: Path, start: int, rows: int) -> Iterator[dict[str, Any]]:
    """So many rows from `start` on; only the row groups that hold them are read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            low, high = max(start, first), min(start + rows, first + size)
            if low < high:
                yield from file.read_row_group(group).slice(low - first, high - low).to_pylist()
            first += size


def _without_nulls(value: Any) -> Any:
    """A column that a row does not fill is null in Parquet, and left out in JSON."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value

"""`GET /runs` and `/runs/{name}`: what came of STaR, from its run directories.

The one room of the service that reads what STaR writes; it starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from app.api.problems import responses
from app.api.security import needs
from app.api.services import Live
from app.errors import RunNotFoundError, RunUnreadableError, StarboardError
from app.settings import EmbeddedSpec, LocalSpec, Seat
from app.star.rationales import counted
from app.star.report import Results, results, samples

router = APIRouter(tags=["runs"])


class MeasureDocument(BaseModel):
    """The share that is right, greedy, with its 95 % interval."""

    accuracy: float
    low: float
    high: float


class MeasuredDocument(BaseModel):
    model: str
    test: MeasureDocument
    regression: MeasureDocument | None


class BestDocument(MeasureDocument):
    model: str


class RunSeatDocument(BaseModel):
    member: str
    model: str


class RunSummaryDocument(BaseModel):
    name: str
    base: str
    source: str = Field(description="Whence its problems are.")
    iterations: int
    best: BestDocument | None = Field(description="Of its iterations; null if none is measured.")
    promoted: list[int]
    seats: list[RunSeatDocument] = Field(description="Members that are an adapter of this run.")


class UnreadableRunDocument(BaseModel):
    name: str
    message: str


class RunsDocument(BaseModel):
    directory: str | None = Field(description="`runs_dir` of the settings; null if there is none.")
    runs: list[RunSummaryDocument]
    unreadable: list[UnreadableRunDocument] = Field(
        description="Run directories that are broken, and what is wrong with them."
    )


class IterationDocument(BaseModel):
    number: int
    fates: dict[str, int] = Field(
        description="Rationales by what became of them: kept by origin, dropped by reason."
    )


class SampleDocument(BaseModel):
    kind: str
    iteration: int
    question: str
    answer: str | None
    text: str


class RunDocument(RunSummaryDocument):
    held_back: list[str]
    measured: list[MeasuredDocument]
    rationales: list[IterationDocument]
    samples: list[SampleDocument]
    manifest: dict[str, Any]


@router.get("/runs", responses=responses(401, 403), dependencies=[Depends(needs("read"))])
async def list_runs(live: Live) -> RunsDocument:
    """STaR's runs in the folder that `runs_dir` names, by name."""
    folder = live.settings.runs_dir
    if folder is None:
        return RunsDocument(directory=None, runs=[], unreadable=[])
    return await asyncio.to_thread(read_runs, folder, live.seats)


@router.get(
    "/runs/{name}",
    responses=responses(401, 403, 404, 500),
    dependencies=[Depends(needs("read"))],
)
async def get_run(
    name: Annotated[str, PathParameter(max_length=255, pattern=r"^[^/\\\x00]+$")], live: Live
) -> RunDocument:
    """One run: how good each model is, what became of the rationales, and some of them to read."""
    folder = live.settings.runs_dir
    if folder is None or name not in (one.name for one in _folders(folder)):
        raise RunNotFoundError(f"there is no run {name}")
    with _unreadable():
        return await asyncio.to_thread(_document, folder / name, live.seats)


def _folders(folder: Path) -> list[Path]:
    """The run directories in a folder; what else is there is passed over."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if (one / "manifest.json").is_file())


def read_runs(folder: Path, seats: Sequence[Seat]) -> RunsDocument:
    runs, unreadable = [], []
    for one in _folders(folder):
        try:
            with _unreadable():
                runs.append(RunSummaryDocument(**_summary(one, results(one), seats)))
        except RunUnreadableError as error:
            unreadable.append(UnreadableRunDocument(name=one.name, message=error.detail))
    return RunsDocument(directory=str(folder), runs=runs, unreadable=unreadable)


@contextmanager
def _unreadable() -> Iterator[None]:
    """Files that are not as STaR writes them fail in many ways, all of which are one here."""
    try:
        yield
    except StarboardError as error:
        raise RunUnreadableError(str(error)) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunUnreadableError(f"{type(error).__name__}: {error}") from error


def _document(folder: Path, seats: Iterable[Seat]) -> RunDocument:
    found = results(folder)
    return RunDocument(
        **_summary(folder, found, seats),
        held_back=list(found.held_back),
        measured=[
            MeasuredDocument(
                model=one.name,
                test=MeasureDocument(**_measure(one.test)),
                regression=MeasureDocument(**_measure(one.regression)) if one.regression else None,
            )
            for one in found.measured
        ],
        rationales=[
            IterationDocument(number=number, fates=dict(counted(ones)))
            for number, ones in found.rationales.items()
        ],
        samples=[
            SampleDocument(
                kind=one.kind,
                iteration=one.iteration,
                question=one.problem.question,
                answer=one.problem.reference or None,
                text=one.text,
            )
            for one in samples(folder, found)
        ],
        manifest=dict(found.manifest),
    )


def _summary(folder: Path, found: Results, seats: Iterable[Seat]) -> dict[str, Any]:
    iterations = [one for one in found.measured if one.name.startswith("iteration ")]
    best = max(iterations, key=lambda one: float(one.test["pass@1"]), default=None)
    return {
        "name": folder.name,
        "base": str(found.manifest["method"]["base"]),
        "source": str(found.manifest["source"]),
        "iterations": len(found.rationales),
        "best": BestDocument(model=best.name, **_measure(best.test)) if best else None,
        "promoted": list(found.promoted),
        "seats": [
            RunSeatDocument(member=seat.name, model=seat.model)
            for seat in seats
            if seat.why_not is None and _is_from(seat, folder)
        ],
    }


def _measure(measures: Mapping[str, Any]) -> dict[str, float]:
    low, high = measures["interval"]
    return {"accuracy": measures["pass@1"], "low": low, "high": high}


def _is_from(seat: Seat, folder: Path) -> bool:
    """Whether a seat's adapter lies in the folder; what a host has loaded cannot be seen."""
    adapter = seat.spec.adapter if isinstance(seat.spec, EmbeddedSpec | LocalSpec) else None
    return adapter is not None and adapter.resolve().is_relative_to(folder.resolve())

"""Faults on a schedule against the running service under load, and what must hold all the same.

    python benchmarks/chaos.py [--minutes 15] [--seed 7] [--store sqlite postgresql] [--out FILE]

`starboard serve` runs in a process of its own: on SQLite, then as two replicas on PostgreSQL. Its
members and its reward model are the real adapters, talking to the tests' fakes on loopback. While
clients ask, one fault after the other is done to what it depends on or to itself. Every prompt has
a nonce, and what each member says to it, and what that is worth, can be computed: a reply to
another prompt, a part of one and an error's text are told from the right one.

Prints a table, and what did not hold. Exits with 1 if anything did not.

Clock jumps need libfaketime (Debian's package of that name, or `--faketime FILE`), a full disk the
right to mount a small one. What cannot be done is left out, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from chaos_answers import Tally
from chaos_checks import check_leaks, check_records, recover
from chaos_faults import CLOCK, FULL, SCHEDULES, Phase, nothing
from chaos_load import ask_until
from chaos_rig import Rig, opened
from processes import resident_mb
from report import chaos_table
from results import keep, versions
from rich.progress import Progress

WARM_UP_S = 4.0
LIBRARIES = ("starboard", "aiohttp", "anthropic", "google-genai", "sqlalchemy", "uvicorn")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


async def one_phase(rig: Rig, phase: Phase, seconds: float, *, leaks: bool = True) -> Tally:
    """The load and the fault for so many seconds, and then what holds."""
    tally = Tally(rig.store, phase.name)
    if phase.faked:
        await rig.restart(0, signal.SIGTERM, faked=True)
    began, over = datetime.now(UTC), asyncio.Event()
    loading = asyncio.ensure_future(ask_until(rig, over, phase, tally))
    faults = await phase.disturb(rig, seconds)
    tally.faults += faults  # not in one: clients that leave count themselves meanwhile
    over.set()
    questions = await loading
    await recover(rig, tally)
    await check_records(rig, phase, began, questions, tally)
    if leaks and rig.before:
        await check_leaks(rig, phase, tally)
    tally.held_mb = sum(resident_mb(service.process.pid) for service in rig.services)
    if phase.faked:
        await rig.restart(0, signal.SIGTERM)
    return tally


CALM = Phase("no fault", nothing)


async def run(
    store: str,
    phases: Sequence[Phase],
    seconds: float,
    *,
    clients: int = 12,
    seed: int = 7,
    faketime: Path | None = None,
    leaks_of_each: bool = True,
    done: Callable[[Tally], None] = lambda _: None,
) -> tuple[list[Tally], list[str]]:
    """The phases one after the other, each for so many seconds of load, after one without a fault;
    and what was left out. Leaks are looked for after each, or after the last alone."""
    small_disk = FULL in phases
    async with opened(store, clients, seed, faketime, small_disk=small_disk) as rig:
        lacks = {CLOCK: "" if rig.faketime else "there is no libfaketime"}
        lacks[FULL] = "" if rig.disk else "a small disk cannot be mounted"
        left_out = [f"{p.name}: {lacks[p]}" for p in phases if lacks.get(p)]
        possible = [p for p in phases if not lacks.get(p)]
        found = [await one_phase(rig, CALM, WARM_UP_S)]
        await rig.settle()
        done(found[0])
        for phase in possible:
            leaks = leaks_of_each or phase is possible[-1]
            found.append(await one_phase(rig, phase, seconds, leaks=leaks))
            done(found[-1])
        logs = rig.logged()
        for sign in ("Traceback", "never retrieved", "was destroyed", "Unclosed", "never awaited"):
            if times := logs.count(sign):
                where = logs.index(sign)
                found[-1].blame("leaked", f"log: {logs[max(0, where - 200) : where + 1500]}", times)
        return found, left_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=15,
        help="of load, all phases together; with the waits for rest it takes some four times that",
    )
    parser.add_argument("--seed", type=int, default=7, help="of what is drawn on our side")
    parser.add_argument("--clients", type=int, default=12, help="at once")
    parser.add_argument(
        "--store", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES), help="both, or one"
    )
    names = list(dict.fromkeys(phase.name for phases in SCHEDULES.values() for phase in phases))
    said = f"of these, in quotes; all, if none is named: {'; '.join(names)}"
    parser.add_argument("--only", nargs="+", metavar="PHASE", choices=names, help=said)
    parser.add_argument("--faketime", type=Path, default=FAKETIME, help="libfaketimeMT.so.1")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # services and disk are put away
    chosen = {
        store: [p for p in SCHEDULES[store] if not given.only or p.name in given.only]
        for store in given.store
    }
    seconds = 60 * given.minutes / max(1, sum(map(len, chosen.values())))
    found: list[Tally] = []
    left_out: list[str] = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("chaos", total=sum(len(phases) + 1 for phases in chosen.values()))

        def done(tally: Tally) -> None:
            progress.update(bar, advance=1, description=f"{tally.store}: {tally.phase} is over")

        for store, phases in chosen.items():
            tallies, without = asyncio.run(
                run(
                    store,
                    phases,
                    seconds,
                    clients=given.clients,
                    seed=given.seed,
                    faketime=given.faketime,
                    done=done,
                )
            )
            found += tallies
            left_out += without
    whole_run = {
        "seed": given.seed,
        "clients": given.clients,
        "seconds": seconds,
        "left_out": left_out,
        "phases": [asdict(tally) for tally in found],
    }
    print(chaos_table(whole_run))
    for tally in found:
        for said in tally.said:
            print(f"{tally.store}, {tally.phase}: {said}")
    if given.out:
        keep(given.out, whole_run, {**versions(*LIBRARIES), "SQLite": sqlite3.sqlite_version})
    if any(tally.broken for tally in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

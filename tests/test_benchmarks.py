"""What benchmarks make of what they measured, and the page that tells of it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import report
import upstreams
from estimates import drift, least_squares, median
from processes import cpu_s, descriptors, peak_mb, resident_mb, threads
from results import keep, versions
from soak import Sample, verdict

BENCHMARKS = Path(report.__file__).parent
NOISE = [NormalDist().inv_cdf((7 * n % 101 + 0.5) / 101) for n in range(101)]


def test_the_pages_agree_with_the_files() -> None:
    """`python benchmarks/report.py` makes it so."""
    marked: list[str] = []
    for page in report.PAGES:
        text = page.read_text()
        marked += re.findall(r"<!-- (?!end )([\w-]+) -->\n", text)
        assert report.page(text) == text
    assert sorted(marked) == sorted(report.SECTIONS)
    for name, kind in report.SECTIONS.items():
        picture = report.DOCS / "pictures" / f"{name}.svg"
        assert bool(kind.draw and report.read(name)) == picture.is_file()


def test_the_page_lists_every_benchmark_and_its_links_lead_somewhere() -> None:
    home = report.PAGES[0]
    text = home.read_text()
    commands = {file.name for file in BENCHMARKS.glob("*.py") if "argparse" in file.read_text()}
    assert {name for name in commands if f"`{name}" not in text} == set()
    for path, anchor in re.findall(r"\]\((\S*?\.md)?#(\S+?)\)", text):
        page = (report.DOCS / (path or home.name)).read_text()
        heads = [head.lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", page, re.M)]
        assert anchor in heads, (path, anchor)


def test_least_squares() -> None:
    line = least_squares([1, 2, 4, 8], [5, 7, 11, 19])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2, 3, 1))
    assert least_squares([0, 1, 2, 3], [0, 1, 0, 1]).r2 == pytest.approx(0.2)


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_a_drift_is_found_within_its_interval(slope: float) -> None:
    times = [n / 10 for n in range(101)]
    values = [100 + slope * at + noise for at, noise in zip(times, NOISE, strict=True)]
    found = drift(times, values)
    assert found.low < slope < found.high
    assert found.high - found.low < 0.4
    with pytest.raises(ValueError, match="10 values"):
        drift(times[:9], values[:9])


def test_the_interval_of_a_median_leaves_as_many_out_as_95_percent_allow() -> None:
    found = median([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert (found.low, found.value, found.high) == (2, 5.5, 9)
    assert median([3, 1, 2]) == replace(found, value=2, low=1, high=3)


def steady(grows: float = 0.0) -> list[Sample]:
    """Samples of ten minutes, of a process whose memory grows by so many MB a minute."""
    return [
        Sample(6.0 * n, 150 + NOISE[n] / 10 + grows * n / 10, 30, 8, 5, n, 100 * n, 0.1, 0.2, n)
        for n in range(100)
    ]


def judged(samples: list[Sample], wrong: int = 0, **after: int) -> bool:
    first = samples[0]
    errors = Counter({"answer": wrong} if wrong else {})
    flat: bool = verdict(first, samples, replace(first, **after), errors, limit=0.2)["flat"]
    return flat


def test_a_soak_is_flat_only_if_all_of_it_is() -> None:
    assert judged(steady())
    assert judged(steady(), descriptors=34, tasks=4)
    assert not judged(steady(grows=0.5))
    assert not judged(steady(), descriptors=35)
    assert not judged(steady(), tasks=6)
    assert not judged(steady(), wrong=1)


def test_a_ratio_is_that_of_one_round() -> None:
    """Each round is twice as slow as the one before; the ratio is always two or three."""
    rounds = [
        {
            "starboard": measured(cpu_ms=6 * slow),
            "bare": measured(cpu_ms=times * slow),
            "litellm": measured(cpu_ms=12 * slow),
        }
        for slow, times in ((1, 3), (2, 2), (4, 3))
    ]
    direct = {"scored_s": 0.42, "unscored_s": 0.21}
    cell = {"delay_s": 0.2, "clients": 16, "direct": direct, "rounds": rounds}
    table = report.overhead_table([cell])
    bare, litellm = ([part.strip() for part in line.split("|")] for line in table.split("\n")[3:])
    assert bare[3:9] == [
        "bare limit",
        "4.00 [3.00, 12.00]",
        "2.00 [2.00, 3.00]",
        "450.0",
        "30.0 [30.0, 30.0]",
        "600.0",
    ]
    # It asks for no scores.
    assert litellm[5:8] == ["0.50 [0.50, 0.50]", "450.0", "240.0 [240.0, 240.0]"]


def test_growth_states_the_slope_of_all_rounds_and_the_span_of_each() -> None:
    rounds = [
        {str(n): measured(cpu_ms=1 + slope * n) for n in (1, 2, 4, 8)} for slope in (1.5, 2.0, 2.5)
    ]
    table = report.growth_table("members", {"rounds": rounds})
    assert "| 4 | 9.00 [7.00, 11.00] |" in table
    assert "1.00 ms and **2.00 ms per member** [1.50, 2.50]" in table
    slow = (1, 2)
    rounds = [{"1000": measured(10 * n), "100000": measured(10.2 * n)} for n in slow]
    table = report.growth_table("stored", {"rounds": rounds})
    assert "100,000 over CPU beside 1,000: **1.020** [1.020, 1.020]" in table


def test_the_engine_is_held_against_the_server_round_by_round() -> None:
    fields = dict.fromkeys(report.ENGINE, 2.0)
    rounds = [
        {
            "engine": {name: slow * value for name, value in fields.items()}
            | {"texts": ["a", "b"]},
            "server": fields | {"texts": ["a ", "c"]},
        }
        for slow in (1, 2, 4)
    ]
    table = report.engine_table({"load": 1.5, "cells": [{"clients": 4, "rounds": rounds}]})
    assert "| 4 | tokens/s | 4 [2, 8] | 2 [2, 2] | 2 [1, 4] |" in table
    assert "3 of 6 replies are alike" in table


def test_phases_are_summed_and_what_was_left_out_is_told() -> None:
    counted = {"store": "sqlite", **dict.fromkeys(report.CHAOS, 1000)}
    phases = [
        counted | {"phase": "5xx", "slowest_s": 2.5, "held_mb": 192.4},
        counted | {"phase": "killed", "slowest_s": 1.5, "held_mb": 190.0},
    ]
    told = {"phases": phases, "seconds": 27.0, "clients": 12, "seed": 7, "left_out": ["x: y"]}
    head, _, first, _, every, _, said = report.chaos_table(told).split("\n")
    assert first.startswith("| sqlite | 5xx | 1,000 |")
    assert first.endswith("| 192 |")
    cells = dict(zip(head.split(" | "), every.split(" | "), strict=True))
    assert (cells["slowest, s"], cells["lost"], cells["not booked"]) == ("2.5", "2,000", "2,000")
    assert said.endswith("Left out: x: y.")


def measured(cpu_ms: float) -> dict[str, Any]:
    return {"cpu_ms": cpu_ms, "median_s": 0.45, "p95_s": 0.6, "resident_mb": 100.0}


def test_what_a_process_takes_is_counted_with_its_children() -> None:
    pid = os.getpid()
    before = descriptors(pid), threads(pid), resident_mb(pid)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert descriptors(pid) > before[0]
        assert threads(pid) == before[1] + 1
        assert 0 < peak_mb(child.pid) < resident_mb(pid)
    assert cpu_s(pid) > 0


def test_what_was_found_is_kept_with_where_and_when(tmp_path: Path) -> None:
    path = tmp_path / "new" / "found.json"
    keep(path, {"rounds": [{"cpu_ms": 1.23456789, "clients": 16}]}, versions("pytest", "aiohttp"))
    kept = json.loads(path.read_text())
    assert kept["rounds"] == [{"cpu_ms": 1.23457, "clients": 16}]
    assert list(kept["versions"]) == ["Python", "pytest", "aiohttp"]
    assert kept["versions"]["pytest"] == pytest.__version__
    told = report.circumstances(kept)
    assert told.startswith(f"Measured on {kept['date']}: ")
    assert f"{os.cpu_count()} cores" in told


def test_vendors_fail_in_all_ways_in_turn() -> None:
    """The faults go round those that are asked, and none always gets the same."""
    assert math.gcd(len(upstreams.FAULTS), len(upstreams.VENDORS) - 1) == 1
    for vendor in upstreams.VENDORS.values():
        for fault in upstreams.FAULTS:
            vendor().fail_once(fault)

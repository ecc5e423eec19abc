"""Tables in docs and their pictures, from the JSON files in docs/benchmarks.

    python benchmarks/report.py

The files are what benchmarks wrote with `--out`. In the pages, what stands between `<!-- NAME -->`
and `<!-- end -->` is made from NAME.json; the rest is written by hand.
"""

from __future__ import annotations

import json
import re
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from estimates import least_squares, median
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "benchmarks.md", DOCS / "chaos.md", DOCS / "batch.md")
DIRECT = {"starboard": "scored_s", "bare": "scored_s", "litellm": "unscored_s"}  # the same calls
CALLED = {
    "starboard": "Starboard",
    "bare": "bare limit",
    "litellm": "LiteLLM's proxy, without scores",
}
# Told apart with any colour vision (Okabe and Ito's palette).
COLOURS = {"starboard": "#0072B2", "bare": "#009E73", "litellm": "#E69F00"}
UNITS = {"members": ("member", 1), "length": ("1,000 characters of each reply", 1000)}

Found = Mapping[str, Any]


def main() -> None:
    ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    for name, kind in SECTIONS.items():
        if kind.draw and (found := read(name)):
            save(kind.draw(found), DOCS / "pictures" / f"{name}.svg")
    for file in PAGES:
        file.write_text(page(file.read_text()))


def save(figure: Figure, picture: Path) -> None:
    """As SVG, the same bytes for the same figures."""
    with mpl.rc_context({"svg.hashsalt": "starboard", "svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})


def read(name: str) -> dict[str, Any] | None:
    file = DOCS / "benchmarks" / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


def page(text: str) -> str:
    """A page with its tables made anew. Raises `KeyError` for a name that is not ours."""
    marked = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda match: match[1] + section(match["name"]) + match[3], text)


def section(name: str) -> str:
    kind = SECTIONS[name]
    if not (found := read(name)):
        return "Not measured yet.\n"
    picture = f"\n![{kind.shows}](pictures/{name}.svg)\n" if kind.draw else ""
    return f"{kind.table(found)}\n\n{circumstances(found)}\n{picture}"


def circumstances(found: Found) -> str:
    machine = found["machine"]
    names = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"Measured on {found['date']}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['gigabytes']} GB; {names}."
    )


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in every)


def column(rounds: Sequence[Found], name: str, what: str) -> list[float]:
    return [one[name][what] for one in rounds]


def ranged(values: Sequence[float], form: str = ".2f") -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def overhead_table(cells: Sequence[Found]) -> str:
    """What stands in brackets: the least and the greatest of the rounds."""
    head = ("upstream", "clients", "", "CPU, ms per answer", "Starboard's CPU, times this")
    return lines_of(
        (*head, "latency, ms", "of that added, ms", "95th percentile, ms", "resident, MB"),
        (row for cell in cells for row in _overhead_rows(cell)),
    )


def _overhead_rows(cell: Found) -> Iterator[Sequence[str]]:
    rounds = cell["rounds"]
    ours = column(rounds, "starboard", "cpu_ms")
    for name in rounds[0]:
        cpu = column(rounds, name, "cpu_ms")
        ratios = [mine / its for mine, its in zip(ours, cpu, strict=True)]
        added = [1000 * value for value in added_s(cell, name)]
        yield (
            f"{1000 * cell['delay_s']:.0f} ms",
            str(cell["clients"]),
            CALLED[name],
            ranged(cpu),
            "" if name == "starboard" else ranged(ratios),
            f"{1000 * statistics.median(column(rounds, name, 'median_s')):.1f}",
            ranged(added, ".1f"),
            f"{1000 * statistics.median(column(rounds, name, 'p95_s')):.1f}",
            f"{max(column(rounds, name, 'resident_mb')):.0f}",
        )


def added_s(cell: Found, name: str) -> list[float]:
    """Of each round: the median latency less that of the same calls alone."""
    alone = cell["direct"][DIRECT[name]]
    return [value - alone for value in column(cell["rounds"], name, "median_s")]


def growth_table(part: str, found: Found) -> str:
    rounds = found["rounds"]
    head = (part, "CPU, ms per answer", "median latency, ms", "resident, MB")
    rows = [
        (
            f"{int(size):,}",
            ranged(column(rounds, size, "cpu_ms")),
            f"{1000 * statistics.median(column(rounds, size, 'median_s')):.1f}",
            f"{max(column(rounds, size, 'resident_mb')):.0f}",
        )
        for size in rounds[0]
    ]
    says = stored_ratio(rounds) if part == "stored" else slope(part, rounds)
    return f"{lines_of(head, rows)}\n\n{says}"


def slope(part: str, rounds: Sequence[Found]) -> str:
    """Least squares through all that was measured, and through each round."""
    unit, scale = UNITS[part]
    sizes = [int(size) / scale for size in rounds[0]]
    cpu = [[one["cpu_ms"] for one in measured.values()] for measured in rounds]
    line = least_squares(sizes * len(rounds), [value for one in cpu for value in one])
    slopes = [least_squares(sizes, one).slope for one in cpu]
    return (
        f"CPU per answer: {line.intercept:.2f} ms and **{line.slope:.2f} ms per {unit}**"
        f" [{min(slopes):.2f}, {max(slopes):.2f}], R² {line.r2:.3f} (least squares through"
        f" {len(rounds)} rounds; in brackets the least and the greatest slope of one round)."
    )


def stored_ratio(rounds: Sequence[Found]) -> str:
    few, many = rounds[0]
    pairs = zip(column(rounds, few, "cpu_ms"), column(rounds, many, "cpu_ms"), strict=True)
    ratio = median([large / small for small, large in pairs])
    return (
        f"CPU beside {int(many):,} over CPU beside {int(few):,}: **{ratio.value:.3f}**"
        f" [{ratio.low:.3f}, {ratio.high:.3f}] (median of {len(rounds)} pairs, its 95 % interval)."
    )


def soak_table(found: Found) -> str:
    verdict, samples = found["verdict"], found["samples"]
    first, last = samples[0], samples[-1]
    minutes = (last["at_s"] - first["at_s"]) / 60
    memory = verdict["memory_mb_per_minute"]
    rows = [
        (
            "resident memory",
            f"{memory['value']:+.3f} MB a minute [{memory['low']:+.3f}, {memory['high']:+.3f}]",
        ),
        *(
            (f"{what}, at rest before and after", f"{at_rest['before']} and {at_rest['after']}")
            for what, at_rest in verdict["at_rest"].items()
        ),
        ("CPU per answer, first and last third", " and ".join(_thirds(samples, cpu_ms))),
        ("median latency, first and last third", " and ".join(_thirds(samples, latency_ms))),
        (
            "database",
            f"{first['database_mb']:.0f} MB to {last['database_mb']:.0f} MB",
        ),
        ("replies that were not as they ought to be", str(sum(found["wrong"].values()))),
    ]
    counts = ", ".join(f"{name} {count:,}" for name, count in found["counts"].items())
    flat = "flat" if verdict["flat"] else "**not flat**"
    head = (f"{minutes:.0f} minutes, {found['clients']} clients", flat)
    return f"{lines_of(head, rows)}\n\nWhat the clients did: {counts}."


def _thirds(samples: Sequence[Found], of: Callable[[Sequence[Found]], list[float]]) -> list[str]:
    third = len(samples) // 3
    return [f"{statistics.median(of(part)):.1f} ms" for part in (samples[:third], samples[-third:])]


def cpu_ms(samples: Sequence[Found]) -> list[float]:
    """Per answer, between one sample and the next."""
    return [
        1000 * (after["cpu_s"] - before["cpu_s"]) / max(1, after["answers"] - before["answers"])
        for before, after in pairwise(samples)
    ]


def latency_ms(samples: Sequence[Found]) -> list[float]:
    return [1000 * one["median_s"] for one in samples[1:]]


ENGINE: Mapping[str, str] = {
    "tokens_per_s": "tokens/s",
    "cpu_ms_per_token": "CPU, ms per token",
    "first_token_s": "first token, s",
    "resident_mb": "resident, MB",
}


def engine_table(found: Found) -> str:
    """What stands in brackets: the least and the greatest of the rounds."""
    rows = [row for cell in found["cells"] for row in _engine_rows(cell)]
    table = lines_of(("clients", "", "engine", "server", "engine / server, by round"), rows)
    pairs = [
        pair
        for cell in found["cells"]
        for one in cell["rounds"]
        for pair in zip(one["engine"]["texts"], one["server"]["texts"], strict=True)
    ]
    same = sum(ours.strip() == theirs.strip() for ours, theirs in pairs)
    return (
        f"{table}\n\n{same} of {len(pairs)} replies are alike to the letter."
        f" {len(found['cells'][0]['rounds'])} rounds; the machine's load before them:"
        f" {found['load']:.1f} (over the number of cores, others were at work too)."
    )


def _engine_rows(cell: Found) -> Iterator[Sequence[str]]:
    rounds = cell["rounds"]
    for name, shown in ENGINE.items():
        engine, server = column(rounds, "engine", name), column(rounds, "server", name)
        ratios = [ours / its for ours, its in zip(engine, server, strict=True)]
        values = (ranged(one, ".3g") for one in (engine, server, ratios))
        yield (str(cell["clients"]), shown, *values)


# By field of a phase's tally.
CHAOS: Mapping[str, str] = {
    **{name: name for name in ("faults", "asked", "again", "given", "degraded", "refused", "gone")},
    "slowest_s": "slowest, s",
    **{name: name for name in ("late", "wrong", "lost")},
    "not_booked": "not booked",
    **{name: name for name in ("doubled", "leaked")},
    "held_mb": "MB",
}


def chaos_table(found: Found) -> str:
    phases = found["phases"]
    summed = [name for name in CHAOS if name in phases[0] and name not in ("slowest_s", "held_mb")]
    every = {name: sum(one[name] for one in phases) for name in summed}
    every |= {"slowest_s": max(one["slowest_s"] for one in phases)}
    rows = [(one["store"], one["phase"], *_chaos_cells(one)) for one in phases]
    table = lines_of(
        ("store", "phase", *CHAOS.values()), [*rows, ("", "**all**", *_chaos_cells(every))]
    )
    left_out = "".join(f" Left out: {one}." for one in found["left_out"])
    return (
        f"{table}\n\n{found['seconds']:.0f} s of load in each phase, {found['clients']} clients,"
        f" seed {found['seed']}.{left_out}"
    )


def _chaos_cells(row: Found) -> Iterator[str]:
    for name in CHAOS:
        match row.get(name):
            case None:
                yield ""
            case float(value):
                yield f"{value:.0f}" if name == "held_mb" else f"{value:.1f}"
            case count:
                yield f"{count:,}"


def batch_table(found: Found) -> str:
    killed = " and ".join(f"{rows:,}" for rows in found["killed_at"])
    local = found["engine"] == "local"
    whose, at = ("the command", "once") if local else ("one of two workers", "each worker")
    rows = [
        (f"kill -9 of {whose}, rows written by then", killed),
        ("rows in the output, each in its place", f"{found['rows']:,}"),
        ("different answers there", f"{found['distinct_answers']:,}"),
        ("answers in the store", f"{found['stored']:,}"),
        ("calls to the member", f"{found['calls']:,}"),
        ("rows a second, starts included", f"{found['rows_per_s']:,.0f}"),
        ("output, MB", f"{found['output_mb']:.0f}"),
        *(
            (f"resident, MB: {name}", f"{one['early']:.0f} early, {one['late']:.0f} late")
            for name, one in found["rss_mb"].items()
        ),
    ]
    took = f"{found['rows']:,} rows in {found['seconds']:.0f} s"
    return lines_of((took, f"{found['concurrency']} under way at {at}"), rows)


def draw_batch(found: Found) -> Figure:
    figure = Figure((7, 3), layout="constrained")
    axes = figure.add_subplot()
    for name, samples in found["samples"].items():
        minutes = [at / 60 for at, _ in samples]
        axes.plot(minutes, [resident for _, resident in samples], label=name)
    axes.set(xlabel="minutes", ylabel="resident, MB", ylim=(0, None))
    axes.legend(loc="lower right", fontsize=8)
    _plain(axes)
    return figure


def draw_overhead(found: Found) -> Figure:
    """The medians, with the least and the greatest round."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    cells = found["cells"]
    cpu, latency = figure.subplots(1, 2)
    names = list(cells[0]["rounds"][0])
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        beside = width * (number - (len(names) - 1) / 2)
        places = [place + beside for place in range(len(cells))]
        middles, spread = _spread([column(cell["rounds"], name, "cpu_ms") for cell in cells])
        style = {"color": COLOURS[name], "label": CALLED[name], "capsize": 2}
        cpu.bar(places, middles, width, yerr=spread, **style)
        middles, spread = _spread([[1000 * s for s in added_s(cell, name)] for cell in cells])
        latency.errorbar(places, middles, yerr=spread, fmt="o", **style)
    marks = [f"{1000 * cell['delay_s']:.0f} ms\n{cell['clients']}" for cell in cells]
    for axes, title in ((cpu, "CPU, ms per answer"), (latency, "added latency, ms")):
        axes.set_xticks(range(len(cells)), marks, fontsize=8)
        axes.set(title=title, xlabel="delay of the upstreams, clients")
        _plain(axes)
    latency.set_yscale("symlog", linthresh=1)  # noise may leave a little less than nothing
    latency.autoscale(axis="y")
    latency.set_ylim(bottom=-3)
    latency.yaxis.set_major_formatter("{x:g}")
    figure.legend(*cpu.get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure


def _spread(values: Sequence[Sequence[float]]) -> tuple[list[float], tuple[list[float], ...]]:
    """The median of each, and how far the least and the greatest are from it."""
    middles = [statistics.median(one) for one in values]
    below = [middle - min(one) for middle, one in zip(middles, values, strict=True)]
    above = [max(one) - middle for middle, one in zip(middles, values, strict=True)]
    return middles, (below, above)


def draw_growth(part: str, found: Found) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    rounds = found["rounds"]
    sizes = [int(size) for size in rounds[0]]
    every = [value for one in rounds for value in (m["cpu_ms"] for m in one.values())]
    axes.plot(sizes * len(rounds), every, ".", color=COLOURS["starboard"], alpha=0.4)
    if part != "stored":
        line = least_squares(sizes * len(rounds), every)
        axes.plot(sizes, [line.intercept + line.slope * size for size in sizes], color="0.3")
    else:
        axes.set(xscale="log")
    axes.set(xlabel=LABELS[part], ylabel="CPU, ms per answer", ylim=(0, None))
    _plain(axes)
    return figure


def draw_soak(found: Found) -> Figure:
    figure = Figure(figsize=(8, 8), layout="constrained")
    samples = found["samples"]
    minutes = [one["at_s"] / 60 for one in samples]
    rows: Sequence[tuple[str, Mapping[str, Sequence[float]]]] = (
        ("resident, MB", {"": [one["resident_mb"] for one in samples]}),
        (
            "open",
            {name: [one[name] for one in samples] for name in ("descriptors", "tasks", "threads")},
        ),
        ("CPU, ms per answer", {"": [float("nan"), *cpu_ms(samples)]}),
        (
            "latency, ms",
            {
                name: [1000 * one[of] for one in samples]
                for name, of in (("95th percentile", "p95_s"), ("median", "median_s"))
            },
        ),
        ("database, MB", {"": [one["database_mb"] for one in samples]}),
    )
    for axes, (label, curves) in zip(figure.subplots(len(rows), 1, sharex=True), rows, strict=True):
        for name, values in curves.items():
            axes.plot(minutes, values, label=name, linewidth=1)
        axes.margins(y=0.15)
        axes.set(ylabel=label, ylim=(0, 1.1 * axes.get_ylim()[1]))
        if len(curves) > 1:
            axes.legend(loc="upper right", fontsize=8, ncols=len(curves))
        _plain(axes)
    axes.set(xlabel="minutes")
    return figure


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


LABELS = {
    "members": "members",
    "length": "characters of each reply",
    "stored": "answers stored already",
}


@dataclass(frozen=True)
class Section:
    """`shows`: what the picture shows, for those who do not see it. Not all have one."""

    table: Callable[[Found], str]
    draw: Callable[[Found], Figure] | None = None
    shows: str = ""


SECTIONS: Mapping[str, Section] = {
    "overhead": Section(
        lambda found: overhead_table(found["cells"]),
        draw_overhead,
        "Bars of CPU per answer and of added latency, for each contender",
    ),
    "soak": Section(
        soak_table, draw_soak, "Memory, descriptors, tasks, CPU, latency and database over time"
    ),
    **{
        f"growth-{part}": Section(
            partial(growth_table, part), partial(draw_growth, part), f"CPU per answer by {label}"
        )
        for part, label in LABELS.items()
    },
    "embedded-engine": Section(engine_table),
    "chaos": Section(chaos_table),
    **{
        f"batch-{engine}": Section(batch_table, draw_batch, "Memory of each process over time")
        for engine in ("local", "ray")
    },
}

if __name__ == "__main__":
    main()

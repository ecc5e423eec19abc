"""STaR with and without rationalization and step checking, on one base and the same problems.

    python benchmarks/star_runs.py sums:1000 --out runs/sums-0 --seed 0

Every way is a run of `starboard star run` in a folder of its own, with the same seed, problems and
split. What does not depend on the way (the base, direct training, what the base writes first) is
done once and handed on. The same command goes on where it was interrupted; what has been finished
is not done again. At the end: a table, `accuracy.svg`, and what each run took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from report import save

from app.runs import write_text
from app.star.report import Measured, results, share

WAYS = {
    "STaR without rationalization": ["--no-rationalize", "--no-check-steps"],
    "STaR": ["--no-check-steps"],
    "STaR with step checking": [],
}
STAR = [sys.executable, "-m", "app.cli", "star"]
HANDED_ON = ("base", "direct", "iteration-1/generated.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="Other options go to `starboard star run`, such as --per-iteration 250.",
    )
    parser.add_argument("problems", help="a file, or sums:1000, or carries:800")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    options += ["--base", arguments.base, "--seed", str(arguments.seed), "--plateau", "-1"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = {way: arguments.out / way.lower().replace(" ", "-") for way in WAYS}
    first, *_ = folders.values()
    for way, folder in folders.items():
        command = [arguments.problems, "--out", str(folder), *WAYS[way], *options]
        subprocess.run([*STAR, "init", *command], check=True)
        hand_on(first, folder)
        took([*STAR, "run", *command], folder)
    found = {way: results(folder).measured for way, folder in folders.items()}
    table = tabulated(found)
    print(table)
    print(spent(folders))
    write_text(arguments.out / "table.md", f"{table}\n{spent(folders)}")
    title = f"{arguments.problems} on {arguments.base}, seed {arguments.seed}"
    save(drawn(found, title), arguments.out / "accuracy.svg")


def hand_on(first: Path, folder: Path) -> None:
    """Give a run what another has done that would come out the same."""
    for name in HANDED_ON:
        source, target = first / name, folder / name
        if not source.exists() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def took(command: list[str], folder: Path) -> None:
    """Run a command to its end, and note what it took in `spent.jsonl` beside the run."""
    if (folder / "report.html").is_file():
        return
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    row = {
        "minutes": (time.monotonic() - began) / 60,
        "cpu_minutes": (usage.ru_utime + usage.ru_stime) / 60,
        "peak_gib": usage.ru_maxrss / 2**20,
    }
    with folder.with_suffix(".spent.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")


def iterations(measured: tuple[Measured, ...]) -> list[Measured]:
    return [one for one in measured if one.name.startswith("iteration ")]


def tabulated(found: dict[str, tuple[Measured, ...]]) -> str:
    """Every model once, with kept and rationalized rows where it has any."""
    shared, *_ = found.values()
    rows = [(one.name, share(one.test)) for one in shared if one not in iterations(shared)]
    rows += [
        (f"{way}, {one.name}", share(one.test))
        for way, measured in found.items()
        for one in iterations(measured)
    ]
    lines = ["| model | test problems right [95 %] |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {right} |" for name, right in rows), ""])


def spent(folders: dict[str, Path]) -> str:
    lines = ["| run | minutes | CPU minutes | peak GiB |", "|---|---|---|---|"]
    for way, folder in folders.items():
        noted = folder.with_suffix(".spent.jsonl").read_text(encoding="utf-8").splitlines()
        sittings = [json.loads(line) for line in noted]
        wall, cpu = (sum(one[key] for one in sittings) for key in ("minutes", "cpu_minutes"))
        peak = max(one["peak_gib"] for one in sittings)
        lines.append(f"| {way} | {wall:.1f} | {cpu:.1f} | {peak:.1f} |")
    return "\n".join([*lines, ""])


def drawn(found: dict[str, tuple[Measured, ...]], title: str) -> Figure:
    """Accuracy by iteration with its interval; the base and direct training as lines across."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shared, *_ = found.values()
    for place, one in enumerate(m for m in shared if m not in iterations(shared)):
        style = ("--", ":", "-.")[place % 3]
        axes.axhline(one.test["pass@1"], color="0.4", linestyle=style, label=one.name)
    for place, (way, measured) in enumerate(found.items()):
        ones = iterations(measured)
        rights = [one.test["pass@1"] for one in ones]
        below = [max(0.0, m.test["pass@1"] - m.test["interval"][0]) for m in ones]
        above = [max(0.0, m.test["interval"][1] - m.test["pass@1"]) for m in ones]
        numbers = [k + 1 + (place - 1) * 0.06 for k in range(len(ones))]
        axes.errorbar(numbers, rights, yerr=(below, above), marker="o", capsize=4, label=way)
    axes.set_xticks(range(1, 1 + max(len(iterations(m)) for m in found.values())))
    axes.set(ylim=(0, 1.02), xlabel="iteration", ylabel="test problems right", title=title)
    figure.legend(loc="outside right upper")
    return figure


if __name__ == "__main__":
    main()

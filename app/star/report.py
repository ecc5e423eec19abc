"""What came of a run: figures for a table, `report.html`, and a card for each adapter.

The report is one file without scripts: pictures are SVG within it (matplotlib, extra `report`),
and all that a model or a problem says is escaped. It says what the files of the run say, no more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import groupby
from math import nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from app.errors import ConfigurationError
from app.jsonl import read_rows
from app.runs import write_text
from app.star.loop import PARTS, held_back, promoted
from app.star.problems import Problem, asked, read_problems
from app.star.rationales import Origin, Rationale, counted

EXAMPLES = 4
# Colours that are told apart without red and green, and on a grey print.
KEPT, RATIONALIZED, FAILED = "#0072b2", "#e69f00", "#cccccc"
LEVELS = {"base few-shot": "#333333", "base zero-shot": "#999999", "direct": "#d55e00"}
BASES = (("base few-shot", "base/few-shot-"), ("base zero-shot", "base/zero-shot-"))


@dataclass(frozen=True, slots=True)
class Measured:
    """The measures of one model on each set of problems, as they stand in its file. `regression`
    is None for the base zero-shot, and in a run without a regression set."""

    name: str
    test: Mapping[str, Any]
    validation: Mapping[str, Any]
    regression: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """All that there is of a run. `rationales` go by iteration; `held_back` says of each one that
    was better why it was not promoted; `too_long` are those that fit into no row to train on."""

    manifest: Mapping[str, Any]
    measured: tuple[Measured, ...]
    rationales: Mapping[int, Sequence[Rationale]]
    problems: Mapping[str, Problem]
    promoted: tuple[int, ...]
    held_back: tuple[str, ...]
    too_long: Mapping[int, int]


def results(folder: Path) -> Results:
    """Read a run directory; stages that are not there yet are left out.

    Raises `ConfigurationError` if it holds no run.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigurationError(f"{folder} holds no run: begin one with `starboard star run`")
    numbers = sorted(int(one.name.removeprefix("iteration-")) for one in folder.glob("iteration-*"))
    named = [
        *BASES,
        ("direct", "direct/"),
        *((f"iteration {n}", f"iteration-{n}/") for n in numbers),
    ]
    rationales = {n: folder / f"iteration-{n}" / "rationales.jsonl" for n in numbers}
    return Results(
        json.loads(path.read_text(encoding="utf-8")),
        tuple(
            Measured(name, **json.loads(file.read_text(encoding="utf-8")))
            for name, where in named
            if (file := folder / f"{where}evaluation.json").is_file()
        ),
        {
            n: [Rationale(**row) for _, row in read_rows(file)]  # type: ignore[arg-type]
            for n, file in rationales.items()
            if file.is_file()
        },
        {
            one.id: one
            for part in PARTS
            for one in read_problems(folder / "problems" / f"{part}.jsonl")
        },
        tuple(promoted(folder)),
        tuple(
            f"Iteration {n} {why}: it was not promoted."
            for n in numbers
            if (why := held_back(folder, n))
        ),
        {
            n: int(losses["too_long"])
            for n in numbers
            if (file := folder / f"iteration-{n}" / "adapter" / "losses.json").is_file()
            and "too_long" in (losses := json.loads(file.read_text(encoding="utf-8")))
        },
    )


def share(measures: Mapping[str, Any]) -> str:
    """Accuracy with its interval, as "61.0 % [54.1, 67.5]"."""
    low, high = (abs(round(one, 6)) for one in measures["interval"])  # a rounding below 0 is 0
    return f"{measures['pass@1']:.1%} [{low:.1%}, {high:.1%}]".replace("%,", ",").replace("%", " %")


def regression_share(one: Measured) -> str:
    return share(one.regression) if one.regression else ""


def write_report(folder: Path) -> Path:
    """`report.html` in the folder of the run, and a `README.md` in each adapter's.

    Raises `ConfigurationError` without matplotlib.
    """
    found = results(folder)
    for name, adapter in _adapters(folder, found):
        write_text(adapter / "README.md", card(name, found))
    path = folder / "report.html"
    write_text(path, _page(folder, found))
    return path


def card(name: str, found: Results) -> str:
    """The model card of one adapter: whence its data, and how it was measured."""
    method, base = found.manifest["method"], str(found.manifest["method"]["base"])
    front = {
        "base_model": base,
        "library_name": "peft",
        "license": "other",
        "license_name": "that-of-the-base-model",
        "tags": ["lora", "star"],
    }
    number = int(name.removeprefix("iteration ")) if name.startswith("iteration ") else None
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [f"# {name} of {found.manifest['source']} on {base}", ""]
    lines += ["A LoRA adapter, trained by Starboard on top of the base model named above. ", ""]
    lines += ["## Data", ""]
    counts = found.manifest["counts"]
    lines += [
        f"- Problems: `{found.manifest['source']}`, sha256 of its rows"
        f" `{found.manifest['problems_sha256']}`; {counts['train']} to train on,"
        f" {counts['validation']} to validate, {counts['test']} to test, parted by the hash of"
        " each problem's group.",
    ]
    general = found.manifest.get("regression")
    if general:
        lines += [
            f"- Regression set, never trained on: {general['count']} problems of"
            f" `{general['source']}`, sha256 of its rows `{general['problems_sha256']}`."
        ]
    if number is None:
        lines += ["- Trained on the reference answers alone, without rationales."]
    else:
        rationales = found.rationales.get(number, ())
        standing = [one for one in rationales if one.why_not is None]
        by = Counter((one.by, one.origin) for one in standing)
        lines += [
            f"- Rationales: {count} {origin}, written by `{who}`."
            for (who, origin), count in by.items()
        ]
        dropped = {
            fate: n for fate, n in counted(rationales).items() if fate not in get_args(Origin)
        }
        lines += [
            f"- Dropped: {', '.join(f'{n} {fate}' for fate, n in dropped.items()) or 'none'}."
        ]
        lines += [
            "- What was generated or rationalized ends in the reference answer"
            + (" and holds no false equation" if method["keeping"]["check_steps"] else "")
            + ". Rationalized ones were written with the answer as a hint, and are stored without."
        ]
        if method.get("scorer"):
            lines += [f"- Scored by `{method['scorer']}`, which ranks, and drops what is too low."]
        if any(one.origin == "reward-filtered" for one in standing):
            lines += [
                "- Reward-filtered ones reply to problems without an answer, and were kept by"
                f" reward alone, at least {method['keeping']['min_reward']:g}. Nobody knows whether"
                " they are right."
            ]
        if too_long := found.too_long.get(number):
            lines += [f"- Not trained on: {too_long}, of more tokens than fit in a row."]
    settings = ", ".join(f"{key} {value}" for key, value in method["training"].items())
    lines += [
        "",
        "## Training",
        "",
        f"Always from the base model. {settings}.",
        "",
        "## Evaluation",
        "",
    ]
    lines += ["Greedy, on test problems of which no group was trained on; 95 % intervals.", ""]
    wanted = {"base few-shot", "base zero-shot", "direct", name}
    columns = ["model", "accuracy", *(["regression set"] if general else [])]
    rows = [
        [one.name, share(one.test), *([regression_share(one)] if general else [])]
        for one in found.measured
        if one.name in wanted
    ]
    head, *body = (f"| {' | '.join(row)} |" for row in (columns, *rows))
    lines += [head, f"|{'---|' * len(columns)}", *body]
    lines += [
        "",
        "## Licence and limits",
        "",
        "The licence of the base model holds for this adapter, and so do the terms of whoever made"
        " the problems: see to both before you pass it on. Rationales were checked as far as"
        " answers and plain equations go, no further.",
        "",
    ]
    return "\n".join(lines)


def _adapters(folder: Path, found: Results) -> list[tuple[str, Path]]:
    named = [("direct", folder / "direct" / "adapter")]
    named += [(f"iteration {n}", folder / f"iteration-{n}" / "adapter") for n in found.rationales]
    return [(name, path) for name, path in named if path.is_dir()]


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
  vertical-align: bottom; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
td.n { font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto; margin-top: .8rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem;
  margin: .3rem 0 }
"""


def _page(folder: Path, found: Results) -> str:
    title = f"STaR on {found.manifest['source']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Base model {escape(str(found.manifest['method']['base']))}. Promoted:"
        f" {', '.join(f'iteration {n}' for n in found.promoted) or 'none'}.</p>",
    ]
    if found.measured:
        parts += ["<h2>Accuracy</h2>"]
        parts += [_accuracy("test problems", {one.name: one.test for one in found.measured})]
        parts += [_measures(found.measured)]
    general = {one.name: one.regression for one in found.measured if one.regression}
    if general:
        parts += ["<h2>Regression set</h2>", _accuracy("regression set", general)]
        parts += [f"<p>{escape(one)}</p>" for one in found.held_back]
    if found.rationales:
        parts += ["<h2>Rationales</h2>", _shares(found), _fates(found), _lengths(found)]
        parts += ["<h2>To read</h2>", _quoted(samples(folder, found))]
    parts += ["<h2>Settings</h2>", f"<pre>{escape(json.dumps(found.manifest, indent=2))}</pre>"]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["<table><tr>", *(f"<th>{escape(one)}</th>" for one in head), "</tr>"]
    for first, *rest in rows:
        cells = "".join(f'<td class="n">{escape(str(one))}</td>' for one in rest)
        lines.append(f"<tr><td>{escape(str(first))}</td>{cells}</tr>")
    return "".join([*lines, "</table>"])


def _measures(measured: Sequence[Measured]) -> str:
    k = max(one.test["k"] for one in measured)
    general = any(one.regression for one in measured)
    head = ["model", "right", "of", "accuracy [95 %]", "unread", "tokens"]
    head += [f"pass@{k}", f"maj@{k}"] if k else []
    head += ["regression set [95 %]"] if general else []
    rows = []
    for one in measured:
        row = [one.name, one.test["right"], one.test["n"], share(one.test), one.test["unverified"]]
        row.append(f"{one.test['mean_tokens']:.0f}")
        row += [f"{one.test[key]:.1%}" for key in ("pass@k", "maj@k") if k]
        row += [regression_share(one)] if general else []
        rows.append(row)
    return _table(head, rows)


def _fates(found: Results) -> str:
    fates = {n: counted(ones) for n, ones in found.rationales.items()}
    every = sorted({fate for one in fates.values() for fate in one}, key=_kept_first)
    rows = [[_fate(fate), *(one.get(fate, 0) for one in fates.values())] for fate in every]
    if found.manifest["method"].get("scorer"):
        unscored = (
            sum(one.why_not is None and one.reward is None for one in ones)
            for ones in found.rationales.values()
        )
        rows.append(["kept, but the score failed", *unscored])
    if found.too_long:
        rows.append(["kept, but too long to train on", *(found.too_long.get(n, 0) for n in fates)])
    return _table(["", *(f"iteration {n}" for n in fates)], rows)


def _kept_first(fate: str) -> tuple[bool, str]:
    return fate not in get_args(Origin), fate


def _fate(fate: str) -> str:
    return f"dropped: {fate}" if _kept_first(fate)[0] else f"kept: {fate}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to read, and why it is shown: "Rationalized and kept"."""

    kind: str
    iteration: int
    problem: Problem
    text: str


def samples(folder: Path, found: Results) -> list[Sample]:
    """Some rationales of the first iteration and the last, and what the last said of test
    problems: a few of each kind."""
    kinds: Mapping[str, Callable[[Rationale], bool]] = {
        "Generated and kept": lambda r: r.why_not is None and r.origin == "generated",
        "Kept by reward alone": lambda r: r.why_not is None and r.origin == "reward-filtered",
        "Rationalized and kept": lambda r: r.why_not is None and r.origin == "rationalized",
        "Dropped for a false step": lambda r: r.why_not == "a false step",
        "Dropped for a wrong answer": lambda r: r.why_not == "wrong answer",
    }
    if not found.rationales:
        return []
    last = max(found.rationales)
    shown = [
        Sample(kind, number, found.problems[one.problem], one.text)
        for number in sorted({min(found.rationales), last})
        for kind, fits in kinds.items()
        for one in [one for one in found.rationales[number] if fits(one)][:EXAMPLES]
    ]
    said = folder / f"iteration-{last}" / "test.jsonl"
    if said.is_file():
        attempts = [row for _, row in read_rows(said) if row["sample"] == -1]
        shown += [
            Sample(
                f"Test problems, {verdict}",
                last,
                found.problems[str(row["problem"])],
                str(row["text"]),
            )
            for verdict in ("right", "wrong", "unverified")
            for row in [row for row in attempts if row["verdict"] == verdict][:EXAMPLES]
        ]
    return shown


def _quoted(shown: Sequence[Sample]) -> str:
    """Samples, those of a kind under one heading."""
    lines = []
    for (kind, iteration), ones in groupby(shown, lambda one: (one.kind, one.iteration)):
        lines.append(f"<h3>{escape(kind)}, iteration {iteration}</h3>")
        for one in ones:
            reference = f" [{one.problem.reference}]" if one.problem.reference else ""
            lines.append(
                f"<pre><b>{escape(asked(one.problem) + reference)}</b>\n{escape(one.text)}</pre>"
            )
    return "\n".join(lines)


def _accuracy(what: str, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The iterations as a line; each of the others as a point with a level to hold them against."""
    figure = _figure(max(8, 0.85 * len(measured)), 3.5)
    axes = figure.add_subplot()
    names = list(measured)
    iterations = [name for name in names if name not in LEVELS]
    lines = [([name], colour) for name, colour in LEVELS.items() if name in measured]
    for line, colour in (*lines, (iterations, KEPT)):
        places = [names.index(name) for name in line]
        shares = [measured[name]["pass@1"] for name in line]
        ends = [measured[name]["interval"] for name in line]
        below = [max(0.0, one - low) for one, (low, _) in zip(shares, ends, strict=True)]
        above = [max(0.0, high - one) for one, (_, high) in zip(shares, ends, strict=True)]
        axes.errorbar(places, shares, (below, above), fmt="o-", color=colour, capsize=4)
        if line is not iterations:
            axes.hlines(shares, places, len(names) - 0.5, colour, "dashed", linewidth=1)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.03, 1.03), ylabel=f"{what} right")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title("Greedy, with 95 % intervals")
    return _svg(figure)


def _shares(found: Results) -> str:
    """Problems of each iteration, of those with a reference: solved unaided, solved with a hint,
    or not at all."""
    figure = _figure(8, 1.4 + 0.35 * len(found.rationales))
    axes = figure.add_subplot()
    left = [0.0] * len(found.rationales)
    kinds: dict[str, list[float]] = {"generated": [], "rationalized": [], "failed": []}
    for each in found.rationales.values():
        ones = [one for one in each if one.origin != "reward-filtered"]
        every = {one.problem for one in ones}
        alone = {r.problem for r in ones if r.why_not is None and r.origin == "generated"}
        hinted = {r.problem for r in ones if r.why_not is None} - alone
        counts = (len(alone), len(hinted), len(every) - len(alone) - len(hinted))
        for kind, count in zip(kinds, counts, strict=True):
            kinds[kind].append(count / len(every) if every else 0.0)
    names = [f"iteration {n}" for n in found.rationales]
    for (kind, values), colour in zip(kinds.items(), (KEPT, RATIONALIZED, FAILED), strict=True):
        axes.barh(names, values, left=left, label=kind, color=colour)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the problems")
    axes.xaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False)
    return _svg(figure)


def _lengths(found: Results) -> str:
    """Words of what was kept: means, with the interval of each from its own spread."""
    figure = _figure(8, 3)
    axes = figure.add_subplot()
    for origin, colour, aside in (("generated", KEPT, -0.03), ("rationalized", RATIONALIZED, 0.03)):
        words = {
            n: lengths
            for n, ones in found.rationales.items()
            if (lengths := [len(r.text.split()) for r in ones if _stands(r, origin)])
        }
        if words:
            reach = [
                1.96 * stdev(one) / sqrt(len(one)) if one[1:] else nan for one in words.values()
            ]
            places = [n + aside for n in words]
            means = list(map(fmean, words.values()))
            axes.errorbar(places, means, reach, fmt="o-", color=colour, capsize=4, label=origin)
    axes.set_xticks(list(found.rationales))
    axes.set(xlim=(min(found.rationales) - 0.5, max(found.rationales) + 0.5))
    axes.set(xlabel="iteration", ylabel="words")
    axes.set_title("Mean length of what was kept, with 95 % intervals")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)


def _stands(one: Rationale, origin: str) -> bool:
    return one.why_not is None and one.origin == origin


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError("pictures need: pip install 'starboard[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    """The same figure is the same text, and without the prolog of a file of its own."""
    import matplotlib

    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "starboard", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<!DOCTYPE")[2].partition(">")[2].strip()

"""The report and the cards of a run, and the table: they say what its files say, and nothing that
a model wrote becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.cli.star import _show
from app.errors import ConfigurationError
from app.runs import write_rows
from app.star.evaluate import Attempt, evaluation
from app.star.loop import Method, begin_run
from app.star.problems import Problem, Shares, carries, sums
from app.star.rationales import Rationale
from app.star.report import KEPT, LEVELS, card, results, share, write_report
from app.star.steps import Steps
from app.star.verify import Verdict

EVIL = "<script>alert(1)</script> & <img src=x onerror=alert(2)> [bold]"
BASE = 'models/"odd": name'


class Tags(HTMLParser):
    """Names of the elements and their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def never(*_: object) -> Any:
    raise AssertionError("a report samples nothing")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return by_hand(tmp_path / "run")


def by_hand(folder: Path, regression: tuple[str, list[Problem]] | None = None) -> Path:
    """Two iterations, one adapter each. On the regression set they get as many right as on test
    problems."""
    made = begin_run(
        sums(60),
        Method(BASE, shares=Shares(0.2, 0.2)),
        folder,
        never,
        never,
        source="my <b>.jsonl",
        regression=regression,
    )
    test, train = made.problems.test, made.problems.train

    def measured(prefix: str, right: int) -> None:
        attempts = [
            Attempt(p.id, -1, f"{EVIL} {p.question}", "right" if n < right else "wrong", 7)
            for n, p in enumerate(test)
        ]
        path = folder / f"{prefix}test.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_rows(path, map(asdict, attempts))
        found = evaluation(test, attempts).as_json()
        parts = {"test": found, "validation": found}
        if regression and "zero" not in prefix:
            parts["regression"] = found | {"pass@1": 0.123}
        (folder / f"{prefix}evaluation.json").write_text(json.dumps(parts))

    def written(
        n: int, origin: Any, verdict: Verdict, steps: Steps, why_not: str | None
    ) -> Rationale:
        text = f"{EVIL} {origin} {why_not}"
        return Rationale(train[n].id, 0, origin, text, "writer", verdict, steps, None, why_not)

    measured("base/few-shot-", 1)
    measured("base/zero-shot-", 0)
    measured("direct/", 3)
    (folder / "direct" / "adapter").mkdir()
    for number, right in ((1, 4), (2, 5)):
        measured(f"iteration-{number}/", right)
        (folder / f"iteration-{number}" / "adapter").mkdir()
        rationales = [
            written(0, "generated", "right", "true", None),
            written(1, "generated", "wrong", "true", "wrong answer"),
            written(1, "rationalized", "right", "true", None),
            written(2, "generated", "wrong", "true", "wrong answer"),
            written(2, "rationalized", "right", "false", "a false step"),
        ]
        write_rows(folder / f"iteration-{number}" / "rationales.jsonl", map(asdict, rationales))
    (folder / "promoted.json").write_text("[1]")
    return folder


def test_the_page_says_what_the_files_say(run: Path) -> None:
    page = Tags()
    path = write_report(run)
    page.feed(path.read_text())
    found = results(run)
    for one in found.measured:
        assert one.name in page.text
        assert share(one.test) in page.text
    assert [one.test["right"] for one in found.measured] == [1, 0, 3, 4, 5]
    for told in ("Promoted: iteration 1.", "dropped: a false step", "kept: rationalized"):
        assert told in page.text
    assert "Dropped for a false step, iteration 2" in page.text
    assert found.manifest["problems_sha256"] in page.text
    assert path.read_text().count("<svg") == 3


def test_a_regression_set_is_shown_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = by_hand(tmp_path / "run", ("other <i>.jsonl", carries(12)))
    why_not = {"promoted": False, "reason": "is better, but <u>forgot</u>"}
    (folder / "iteration-2" / "promotion.json").write_text(json.dumps(why_not))
    page = Tags()
    path = write_report(folder)
    page.feed(path.read_text())
    assert path.read_text().count("<svg") == 4
    for told in (
        "regression set [95 %]",
        "12.3 % [",
        "Iteration 2 is better, but <u>forgot</u>: it was not promoted.",
    ):
        assert told in page.text
    text = card("iteration 1", results(folder))
    assert "never trained on: 12 problems of `other <i>.jsonl`" in text
    first, second, third, *_ = text.partition("| model |")[2].splitlines()
    assert first == " accuracy | regression set |"
    assert second == "|---|---|---|"
    assert third.endswith("%] | 12.3 % [1.5, 35.4 %] |")
    _show(folder)
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if "base" in line] == ["12.3%", "%]"]
    assert "Iteration 2 is better, but <u>forgot</u>: it was not promoted." in shown


def test_without_a_regression_set_nothing_speaks_of_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_report(run).read_text()
    _show(run)
    shown = page + card("iteration 1", results(run)) + capsys.readouterr().out
    assert "regression" not in shown.replace("max_regression", "")
    assert "regression" not in {path.stem for path in run.rglob("*")}


def test_iterations_are_a_line_and_the_others_levels(run: Path) -> None:
    picture = write_report(run).read_text().partition("<svg")[2].partition("</svg>")[0]
    across = [
        (style, start[1] == end[1])
        for *line, style in re.findall(
            r'd="M (\S+ \S+) \nL (\S+ \S+) \n" clip-path="[^"]*" style="([^"]*)"', picture
        )
        for start, end in [[point.split() for point in line]]
        if start[0] != end[0]
    ]
    levels = [style for style, level in across if level and "dasharray" in style]
    for style, colour in zip(levels, LEVELS.values(), strict=True):
        assert f"stroke: {colour}" in style
    assert [f"stroke: {KEPT}" in style for style, level in across if not level] == [True]


def test_a_share_of_nothing_has_no_sign() -> None:
    none = {"pass@1": 0.0, "interval": [-1.2e-17, 0.1135]}
    assert share(none) == "0.0 % [0.0, 11.3 %]"


def test_nothing_that_was_written_becomes_markup(run: Path) -> None:
    page = Tags()
    page.feed(write_report(run).read_text())
    assert EVIL in page.text
    assert not page.names & {"script", "img", "iframe", "link", "object", "b.jsonl"}
    assert not {name for name in page.attributes if name.startswith("on")}
    # Nothing is loaded from elsewhere.
    assert not page.attributes & {"src", "href"}


def test_the_same_run_makes_the_same_page(run: Path) -> None:
    first = write_report(run).read_text()
    assert write_report(run).read_text() == first


def test_each_adapter_gets_a_card_of_its_own(run: Path) -> None:
    write_report(run)
    text = (run / "iteration-2" / "adapter" / "README.md").read_text()
    assert text == card("iteration 2", results(run))
    assert text.startswith("---\nbase_model: " + json.dumps(BASE) + "\nlibrary_name:")
    for told in (
        "1 generated, written by `writer`",
        "1 rationalized, written by `writer`",
        results(run).manifest["problems_sha256"],
        f"| iteration 2 | {share(results(run).measured[-1].test)} |",
        "licence of the base model",
    ):
        assert told in text
    assert "| iteration 1 |" not in text
    direct = (run / "direct" / "adapter" / "README.md").read_text()
    assert "without rationales" in direct
    assert "writer" not in direct


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin_run(sums(60), Method("b", shares=Shares(0.2, 0.2)), folder, never, never, source="s")
    assert "Settings" in write_report(folder).read_text()
    with pytest.raises(ConfigurationError, match="holds no run"):
        write_report(tmp_path)

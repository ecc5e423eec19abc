"""The report and the cards of a run, and the table: they say what its files say, and nothing that
a model wrote becomes markup."""

from __future__ import annotations

import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.runs import write_rows
from app.star.evaluate import Attempt, evaluation
from app.star.loop import Method, begin_run
from app.star.problems import Shares, sums
from app.star.rationales import Rationale
from app.star.report import card, results, share, write_report
from app.star.verify import Steps, Verdict

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
    """Two iterations, one adapter each, written by hand."""
    folder = tmp_path / "run"
    made = begin_run(
        sums(60), Method(BASE, shares=Shares(0.2, 0.2)), folder, never, never, source="my <b>.jsonl"
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
        (folder / f"{prefix}evaluation.json").write_text(
            json.dumps({"test": found, "validation": found})
        )

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
    assert "Dropped for a false step in iteration 2" in page.text
    assert found.manifest["problems_sha256"] in page.text
    assert path.read_text().count("<svg") == 3


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
        ": 2 of 5.",
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

"""`starboard star`, stage by stage on a run directory."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from app.cli import app
from app.domain import Answer
from app.errors import ConfigurationError, DataError
from app.runs import write_rows
from app.star.evaluate import Attempt
from app.star.problems import as_row
from app.store import AnswerStore
from tests.samples import answer
from tests.star.conftest import Taught
from tests.star.tiny import seven_or_eight

SMALL = {
    "--iterations": "1",
    "--per-iteration": "12",
    "--max-tokens": "8",
    "--epochs": "2",
    "--learning-rate": "0.01",
    "--batch": "8",
    "--max-row-tokens": "64",
}


def star(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["star", *arguments], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def given(tmp_path: Path, taught: Taught) -> list[str]:
    """A file of problems, and options for a small run."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(as_row(one)) + "\n" for one in seven_or_eight()))
    options = [part for pair in SMALL.items() for part in pair]
    return [str(path), "--base", str(taught("llama")), *options]


def test_the_stages_one_by_one(tmp_path: Path, given: list[str]) -> None:
    """Each does its own part, and what is asked for too early is refused."""
    run = tmp_path / "run"
    assert "problems to train on" in star("init", *given, "--out", "run")
    assert not (run / "iteration-1").exists()
    with pytest.raises(ConfigurationError, match="rationalize first"):
        star("train", "run")
    star("sample", "run")
    assert [path.name for path in (run / "iteration-1").iterdir()] == ["generated.jsonl"]
    assert "generated" in star("rationalize", "run", "--iteration", "1")
    assert star("train", "run").strip() == "run/iteration-1/adapter"
    with pytest.raises(ConfigurationError, match="evaluate first"):
        star("promote", "run")
    assert "iteration 1" in star("evaluate", "run")
    with pytest.raises(ConfigurationError, match="evaluate the base first"):
        star("promote", "run")
    assert "base few-shot" in star("evaluate", "run", "--model", "base")
    with pytest.raises(ConfigurationError, match="adapter"):
        star("evaluate", "run", "--model", "direct")
    star("train", "run", "--direct")
    assert "direct" in star("evaluate", "run", "--model", "direct")
    said = star("promote", "run")
    promoted = json.loads((run / "iteration-1" / "promotion.json").read_text())["promoted"]
    assert ("is current" in said) == promoted
    shown = star("report", "run")
    for told in ("base few-shot", "base zero-shot", "direct", "iteration 1", " %", "Current: "):
        assert told in shown
    assert (run / "report.html").is_file()
    assert (run / "direct" / "adapter" / "README.md").is_file()
    # The whole command finds nothing left to do.
    before = {path: path.read_bytes() for path in run.rglob("*.json*")}
    star("run", *given, "--out", "run")
    assert {path: path.read_bytes() for path in run.rglob("*.json*")} == before


def test_one_command_at_a_time_works_on_a_run(tmp_path: Path, given: list[str]) -> None:
    star("init", *given, "--out", "run")
    with (
        FileLock(tmp_path / "run" / "lock"),
        pytest.raises(ConfigurationError, match="another process is at work on run"),
    ):
        star("sample", "run")
    star("sample", "run")


def test_a_roll_back_is_one_command(tmp_path: Path, given: list[str]) -> None:
    star("init", *given, "--out", "run")
    (tmp_path / "run" / "promoted.json").write_text("[1, 3]")
    assert "Iteration 1 is current again" in star("promote", "run", "--roll-back")
    assert "The base is current again" in star("promote", "run", "--roll-back")
    with pytest.raises(ConfigurationError, match="nothing was promoted"):
        star("promote", "run", "--roll-back")


def test_what_was_unlearned_is_said(tmp_path: Path, given: list[str]) -> None:
    """Ten of the regression set for the base, eight of ten for an adapter that is better."""
    said = star("init", *given, "--out", "run", "--regression", "carries:10")
    assert "10 against regression" in said
    run = tmp_path / "run"
    assert len((run / "problems" / "regression.jsonl").read_text().splitlines()) == 10
    for name, right, n in (
        ("base/few-shot-validation", 0, 2),
        ("base/few-shot-regression", 10, 10),
        ("iteration-1/validation", 2, 2),
        ("iteration-1/regression", 8, 10),
    ):
        path = run / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        said_to = [
            Attempt(str(at), -1, "", "right" if at < right else "wrong", 1) for at in range(n)
        ]
        write_rows(path, map(asdict, said_to))
    assert star("promote", "run").splitlines()[-1] == (
        "Iteration 1 is better, but 20 points under the base on the regression set, where 5 are"
        " allowed: it stays behind."
    )
    star("init", *given, "--out", "lenient", "--regression", "carries:10", "--max-regression", "1")
    for folder in ("base", "iteration-1"):
        shutil.copytree(run / folder, tmp_path / "lenient" / folder)
    assert "Iteration 1 is current." in star("promote", "lenient", "--iteration", "1")


def test_another_run_does_not_go_into_the_same_folder(given: list[str]) -> None:
    star("init", *given, "--out", "run")
    star("init", *given, "--out", "run")
    with pytest.raises(ConfigurationError, match=r"method\.keeping\.cap 4, now 2"):
        star("init", *given, "--out", "run", "--cap", "2")


def test_problems_may_be_made_up(tmp_path: Path) -> None:
    star("init", "carries:200", "--base", "b", "--out", "run")
    assert "What is " in (tmp_path / "run" / "problems" / "train.jsonl").read_text()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["source"] == "carries:200"


@pytest.mark.parametrize(
    ("problems", "options", "told"),
    [
        ("sums:", [], "say how many"),
        ("sums:9999", [], "there are 1000 such sums"),
        ("nowhere.jsonl", [], "nowhere.jsonl"),
        ("sums:100", ["--validation", "0.6", "--test", "0.6"], "leave nothing to train on"),
        ("sums:100", ["--samples", "2"], "choose a temperature"),
        ("sums:100", ["--regression", "nowhere.jsonl"], "nowhere.jsonl"),
        ("sums:100", ["--regression", "sums:100"], "regression problems are also in training"),
    ],
)
def test_what_can_be_mended_is_said(problems: str, options: list[str], told: str) -> None:
    with pytest.raises((ConfigurationError, DataError), match=told):
        star("init", problems, "--base", "b", "--out", "run", *options)
    assert not Path("run").exists()


BOARD = """\
database_url = "sqlite:///answers.db"

[members.claude]
trainable = true

[scorer]
kind = "scripted"
rewards = {"Because." = 1.5}
"""


async def keep(*answers: Answer) -> None:
    async with AnswerStore.open("sqlite:///answers.db") as store:
        for one in answers:
            await store.save(one)


def rationales() -> list[dict[str, Any]]:
    path = Path("run/iteration-1/rationales.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_scorer_is_the_one_that_the_manifest_names(given: list[str]) -> None:
    """Without a key or a file of settings, the embedded one is there."""
    least = ["--min-correctness", "0", "--min-coherence", "0"]
    star("init", *given, "--out", "run", "--scorer", "embedded", *least)
    star("sample", "run")
    star("rationalize", "run")
    standing = [one for one in rationales() if one["why_not"] is None]
    assert standing
    assert all(isinstance(one["reward"], float) for one in standing)
    assert json.loads(Path("run/scorer.json").read_text())["name"] == "embedded"


def test_the_board_s_answers_become_problems_and_their_replies_are_kept_by_reward(
    given: list[str],
) -> None:
    Path("starboard.toml").write_text(BOARD)
    asyncio.run(keep(answer()))
    assert "open.jsonl has 1" in star("problems", "open.jsonl")
    (row,) = [json.loads(line) for line in Path("open.jsonl").read_text().splitlines()]
    assert (row["answer"], row["reply"], row["by"]) == (None, "Because.", "claude")
    with Path(given[0]).open("a") as file:
        file.write(Path("open.jsonl").read_text())
    options = [*given, "--per-iteration", "999", "--out", "run", "--scorer", "scripted"]
    with pytest.raises(ConfigurationError, match="name a scorer and the least reward"):
        star("init", *options)
    shown = star("run", *options, "--min-reward", "1", "--epochs", "1")
    assert "not scored" in shown  # what the base wrote for it
    assert "reward-filtered" not in shown.partition("Dropped in")[2]
    (kept,) = [one for one in rationales() if one["origin"] == "reward-filtered" and one["reward"]]
    assert (kept["text"], kept["by"], kept["reward"]) == ("Because.", "claude", 1.5)


def test_replies_that_may_not_train_a_model_are_not_written(tmp_path: Path) -> None:
    Path("starboard.toml").write_text(BOARD.replace("true", "false"))
    asyncio.run(keep(answer()))
    with pytest.raises(ConfigurationError, match="no stored answer was won by a member whose"):
        star("problems", "open.jsonl")
    assert not Path("open.jsonl").exists()


def test_a_scorer_that_is_not_on_the_ladder_is_refused_before_anything_is_sampled() -> None:
    with pytest.raises(ConfigurationError, match="no scorer nvidia on the ladder: embedded"):
        star("init", "sums:100", "--base", "b", "--out", "run", "--scorer", "nvidia")
    assert not Path("run").exists()


def test_duplicates_are_refused_or_dropped(tmp_path: Path) -> None:
    rows = [json.dumps(as_row(one)) for one in seven_or_eight()]
    (tmp_path / "twice.jsonl").write_text("\n".join([*rows, rows[0]]))
    with pytest.raises(DataError, match="again"):
        star("init", "twice.jsonl", "--base", "b", "--out", "run")
    star("init", "twice.jsonl", "--base", "b", "--out", "run", "--drop-duplicates")


def test_nothing_heavy_is_loaded_for_help() -> None:
    code = (
        "import sys, app.cli\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'sqlalchemy', 'anthropic', 'google.genai',"
        " 'matplotlib', 'pydantic', 'numpy'}\n"
        "print(*sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""

"""kill -9 at any stage, then the same command: what stands in the end is what would have stood.

The command runs in processes forked from one that has the packages loaded, which spares each of
them the imports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from app.star.problems import as_row
from tests.star.conftest import Taught
from tests.star.tiny import seven_or_eight

# Killed as soon as this is there: what each stage makes on its way.
MOMENTS = (
    "run/problems/train.jsonl",
    "run/base/few-shot-test-said/00000.jsonl",
    "run/direct/adapter.checkpoints/sft/checkpoint-*",
    "run/iteration-1/generated/00001.jsonl",
    "run/iteration-1/rationalized/00000.jsonl",
    "run/iteration-1/scores/00000.jsonl",
    "run/iteration-1/adapter.checkpoints/sft/checkpoint-*",
    "run/iteration-1/adapter.checkpoints/dpo/checkpoint-*",
    "run/iteration-1/test-said/00001.jsonl",
    "run/iteration-1/regression-said/00000.jsonl",
    "run/iteration-1/promotion.json",
    "run/iteration-2/generated/00000.jsonl",
)
FILES = ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree")
PACKAGES = ["torch", "trl", "peft", "datasets", "math_verify", "matplotlib.figure", "app.cli.star"]
OPTIONS = {
    "--iterations": "2",
    "--plateau": "-1",
    "--regression": "carries:9",
    "--per-iteration": "10",
    "--samples": "2",
    "--temperature": "1",
    "--max-tokens": "8",
    "--k": "1",
    "--epochs": "5",
    "--learning-rate": "0.01",
    "--batch": "4",
    "--micro-batch": "4",
    "--max-row-tokens": "64",
    "--rank": "4",
    "--scorer": "embedded",
    "--min-correctness": "0",
    "--min-coherence": "0",
}


def command(
    folder: Path, arguments: list[str], moment: str | None, by: signal.Signals = signal.SIGKILL
) -> None:
    """`starboard` with these arguments and small shards. Once a file as in `moment` is there, the
    process gets a signal at the next file that it touches."""
    from app.cli import main
    from app.star import loop

    os.chdir(folder)
    log = (folder / "log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if moment:
        assert not any(folder.glob(moment))
        sent: list[signal.Signals] = []

        def watch(event: str, _: object) -> None:
            if not sent and event in FILES and any(folder.glob(moment)):
                sent.append(by)
                os.kill(os.getpid(), by)

        sys.addaudithook(watch)
    loop.SHARD = 8
    sys.argv = ["starboard", *arguments]
    main()


def ended(
    folder: Path,
    arguments: list[str],
    moment: str | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> int | None:
    """How the command ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PACKAGES)
    process = context.Process(target=command, args=(folder, arguments, moment, by))
    process.start()
    process.join(300)
    return process.exitcode


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder; what stands in files of text."""
    texts = {".json", ".jsonl", ".html", ".md", ".jinja"}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.suffix in texts else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, taught: Taught
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(as_row(one)) + "\n" for one in seven_or_eight()))
    arguments = ["star", "run", str(problems), "--base", str(taught("llama")), "--out", "run"]
    arguments += [part for pair in OPTIONS.items() for part in pair] + ["--dpo"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert ended(whole, arguments) == 0, (whole / "log").read_text()
    for moment in MOMENTS:
        assert ended(broken, arguments, moment) == -signal.SIGKILL, moment
    assert ended(broken, arguments) == 0, (broken / "log").read_text()
    one, other = contents(whole / "run"), contents(broken / "run")
    assert list(other) == list(one)
    assert [name for name in one if one[name] != other[name]] == []
    for name in one:
        if name.endswith(".safetensors"):
            mine, theirs = load_file(whole / "run" / name), load_file(broken / "run" / name)
            assert all(bool((mine[key] == theirs[key]).all()) for key in mine | theirs)
    assert json.loads((whole / "run/iteration-1/adapter/losses.json").read_text()).keys() == {
        "sft",
        "dpo",
    }


def test_an_interruption_ends_it_at_once_and_says_how_to_go_on(
    tmp_path: Path, taught: Taught
) -> None:
    arguments = ["star", "run", "sums:100", "--base", str(taught("llama")), "--out", "run"]
    arguments += [part for pair in OPTIONS.items() for part in pair]
    moment = "run/direct/adapter.checkpoints/sft/checkpoint-*"
    assert ended(tmp_path, arguments, moment, signal.SIGINT) == 128 + signal.SIGINT
    said = (tmp_path / "log").read_text()
    assert "The same command goes on from here" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/direct/adapter").exists()


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

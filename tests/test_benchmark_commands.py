"""Every benchmark still starts with today's code: all of its imports are there, and its options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
COMMANDS = sorted(p.name for p in FOLDER.glob("*.py") if "__main__" in p.read_text("utf-8"))
# What they measure, where it is in an extra other than dev.
EXTRAS = {"micro_batching.py": "torch", "star.py": "trl", "waterfall.py": "opentelemetry.sdk"}


def test_what_is_excused_is_there() -> None:
    assert set(EXTRAS) < set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    # A process of its own: some set variables of the environment or import what others must not.
    ended = subprocess.run(
        [sys.executable, str(FOLDER / name), "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": str(FOLDER.parent), "PATH": "", "COLUMNS": "200"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "--help" in ended.stdout

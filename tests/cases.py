"""How many cases made-up requests came to, which the test run prints at its end."""

from __future__ import annotations

lines: list[str] = []


def report(line: str) -> None:
    lines.append(line)

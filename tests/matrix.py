"""The fault matrix that the test run prints at its end."""

from __future__ import annotations

_rows: list[tuple[str, str, str, str]] = []


def report(role: str, upstream: str, fault: str, outcome: str) -> None:
    """Note what became of a fault."""
    _rows.append((role, upstream, fault, outcome))


def lines() -> list[str]:
    """A line for each fault, a column for each upstream."""
    upstreams = list(dict.fromkeys(upstream for _, upstream, _, _ in _rows))
    faults = list(dict.fromkeys(fault for _, _, fault, _ in _rows))
    seen = {(upstream, fault): outcome for _, upstream, fault, outcome in _rows}
    width = max((len(fault) for fault in faults), default=0)
    table = [["fault".ljust(width), *upstreams]]
    table += [[f.ljust(width), *(seen.get((u, f), "-") for u in upstreams)] for f in faults]
    return ["  ".join(cell.ljust(15) for cell in row).rstrip() for row in table]

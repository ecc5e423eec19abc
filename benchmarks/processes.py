"""What a running process takes, read from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its children so far."""
    return sum(
        sum(int(ticks) for ticks in _stat(one)[11:13]) / TICKS for one in (pid, *children(pid))
    )


def resident_mb(pid: int, *, alone: bool = False) -> float:
    """Of a process and its children, or of it alone; 0 once it has ended and nobody knows yet."""
    those = (pid,) if alone else (pid, *children(pid))
    return sum(int(_stat(one)[21]) * PAGE for one in those) / 1e6


def peak_mb(pid: int) -> float:
    """The most that a process alone has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def descriptors(pid: int) -> int:
    """Open files and sockets of a process and its children."""
    return sum(len(os.listdir(f"/proc/{one}/fd")) for one in (pid, *children(pid)))


def threads(pid: int) -> int:
    """Of a process and its children."""
    return sum(int(_stat(one)[17]) for one in (pid, *children(pid)))


def command(pid: int) -> str:
    """What it was started as, or calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def children(pid: int) -> list[int]:
    """And theirs."""
    direct = [
        int(one)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for one in (task / "children").read_text().split()
    ]
    return [*direct, *(below for one in direct for below in children(one))]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name, which may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

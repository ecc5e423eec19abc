"""What benchmarks found, kept as JSON with where and when."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def keep(path: Path, found: Mapping[str, Any], libraries: Mapping[str, str]) -> None:
    """Write what was found, with the date, the machine and the versions."""
    circumstances = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "gigabytes": _gigabytes()},
        "versions": {"Python": platform.python_version(), **libraries},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**circumstances, **_rounded(found)}, indent=1) + "\n")


def versions(*names: str, of: Path = Path(sys.executable).parent) -> dict[str, str]:
    """Of distributions that are installed for the Python in that folder, in that order."""
    command = [str(of / "python"), "-c", VERSIONS, *names]
    found: dict[str, str] = json.loads(subprocess.check_output(command))
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gigabytes() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _rounded(found: Any) -> Any:
    """Floats to six significant digits: more are noise."""
    match found:
        case float():
            return float(f"{found:.6g}")
        case Mapping():
            return {name: _rounded(one) for name, one in found.items()}
        case list() | tuple():
            return [_rounded(one) for one in found]
    return found

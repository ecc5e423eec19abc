"""Under what circumstances something was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version


def circumstances(*packages: str) -> Mapping[str, object]:
    """Date, machine and versions. `load` is the machine's of the last minute: over the number of
    `cores`, others were at work too."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("starboard", *packages)},
    }

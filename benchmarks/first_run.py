"""What a newcomer meets: install size, seconds to ready, memory, seconds for a 64-token answer.

Starts `starboard serve` as its own process with no key set, several times, and prints medians:

    python benchmarks/first_run.py --runs 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from processes import peak_mb
from rich.progress import track

PORT = 8765
BASE = f"http://127.0.0.1:{PORT}"
OF_THE_VENV = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
OURS = ("STARBOARD_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "MISTRAL_", "NVIDIA_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="how often to start the service")
    runs = [measure() for _ in track(range(parser.parse_args().runs), "starting")]
    site = Path(sysconfig.get_paths()["purelib"])
    packages = [path for path in site.iterdir() if not path.name.startswith(OF_THE_VENV)]
    size = sum(f.stat().st_size for p in packages for f in (p, *p.rglob("*")) if f.is_file())
    print(f"| what | median of {len(runs)} | all |\n|---|---|---|")
    print(f"| installed packages with the model | {size / 1e6:.0f} MB | |")
    for name, unit in (("ready", "s"), ("answer", "s"), ("resident", "MB")):
        values = [run[name] for run in runs]
        every = ", ".join(f"{value:.1f}" for value in sorted(values))
        print(f"| {name} | {statistics.median(values):.1f} {unit} | {every} |")


def measure() -> dict[str, float]:
    """One start: seconds until /readyz says 200, seconds of one answer, memory after it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(PORT)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as server:
            try:
                wait_until_ready(server)
                ready = time.monotonic() - started
                started = time.monotonic()
                ask()
                answer = time.monotonic() - started
                return {"ready": ready, "answer": answer, "resident": peak_mb(server.pid)}
            finally:
                server.terminate()


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{BASE}/readyz", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise SystemExit("the service did not become ready")


def ask() -> None:
    body = json.dumps({"prompt": "Why is the sky blue?", "max_tokens": 64}).encode()
    request = urllib.request.Request(f"{BASE}/answer", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        document = json.load(response)
    assert len(document["candidates"]) == 2, document
    assert all(candidate["scores"] for candidate in document["candidates"]), document


if __name__ == "__main__":
    main()

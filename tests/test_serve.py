"""`starboard serve` as processes: how they start, share, and stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serving import serving, wait_for

BOARD = """
database_url = "sqlite:///answers.db"
board = ["a"]
drain_s = 1.0
deadline_s = 20
self_check = false
log_format = "json"
[members.a]
provider = "scripted"
reply = "first"
delay_s = 2.5
[scorer]
kind = "scripted"
rewards = {"first" = 2.0}
"""
UNREACHABLE = """
database_url = "sqlite:///answers.db"
board = ["a", "b"]
self_check = false
[members.a]
provider = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
model = "m"
[members.b]
provider = "scripted"
reply = "second"
[breaker]
failures = 1
cool_down_s = 600
[scorer]
kind = "embedded"
"""


@pytest.fixture(autouse=True)
def _board() -> None:
    Path("starboard.toml").write_text(BOARD)


def test_it_is_not_ready_at_once_finishes_what_it_began_and_exits_0() -> None:
    with serving() as (server, url), ThreadPoolExecutor(1) as client:
        answer = begin(client, url)
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx2.get(f"{url}/readyz").status_code == 503)
        checks = httpx2.get(f"{url}/readyz").json()["checks"]
        assert checks == [{"name": "process", "healthy": False, "message": "told to stop"}]
        server.send_signal(signal.SIGTERM)  # some supervisors signal twice
        assert httpx2.get(f"{url}/healthz").status_code == 200
        assert answer.result().json()["answer"] == "first"
        assert server.wait(20) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/healthz")
    lines = [json.loads(line) for line in Path("serve.log").read_text().splitlines()]
    assert {"starboard", "starboard.access", "uvicorn.error"} <= {line["logger"] for line in lines}


def test_workers_share_the_port_and_the_metrics_and_drain_together() -> None:
    with serving("--workers", "2") as (server, url), ThreadPoolExecutor(8) as client:
        wait_for(lambda: told(url, "starboard_member_circuits") >= 0)
        answers = [begin(client, url) for _ in range(4)]
        for answer in answers:
            assert answer.result().status_code == 200
        # Whichever worker is scraped tells the figures of both.
        for _ in range(6):
            assert told(url, 'starboard_runs_total{outcome="full"}') == 4
        answer = begin(client, url)
        server.send_signal(signal.SIGTERM)
        assert answer.result().json()["answer"] == "first"
        assert server.wait(20) == 0
    pids = {line for line in Path("serve.log").read_text().splitlines() if "Started server" in line}
    assert len(pids) == 2


def test_workers_share_the_circuits_and_whichever_is_scraped_tells_those_of_all() -> None:
    Path("starboard.toml").write_text(UNREACHABLE)
    with serving("--workers", "2") as (_, url):
        wait_for(lambda: told(url, circuits("closed")) == 2)
        assert httpx2.post(f"{url}/answer", json={"prompt": "Which?"}).status_code == 200
        wait_for(lambda: told(url, circuits("open")) == 2)
        assert told(url, circuits("closed")) == 0


def circuits(state: str) -> str:
    return f'starboard_member_circuits{{member="a",state="{state}"}}'


def test_a_start_that_fails_by_a_bug_tells_its_place_and_not_its_text() -> None:
    """The text of an exception that is not ours may quote a prompt or a key."""
    broken = "def _fail(services): raise RuntimeError('xy' + 'zzy')"
    start = "from app.api import app\napp._say_who_sits = _fail\nfrom app.cli import main\nmain()"
    Path("broken.py").write_text(f"{broken}\n{start}")
    done = subprocess.run(
        [sys.executable, "broken.py", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (why,) = [line for line in lines if line["level"] == "critical"]
    assert why["message"] == "cannot start"
    assert "in _fail" in why["error"]
    assert why["error"].endswith("RuntimeError")
    assert "xyzzy" not in done.stderr


def test_a_folder_for_figures_is_cleaned_of_those_of_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = tmp_path / "figures"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(figures))
    for _ in range(2):
        with serving("--workers", "2") as (server, url):
            httpx2.get(f"{url}/answers/none")
            sample = 'starboard_http_requests_total{method="GET",route="/answers/'
            assert told(url, sample) == 1
            assert list(figures.glob("*.db"))
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0


def told(url: str, sample: str) -> float:
    """A figure of /metrics; -1 if it is not told."""
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), -1)


def begin(client: ThreadPoolExecutor, url: str) -> Future[Any]:
    """An answer that is under way."""
    started = told(url, "starboard_runs_in_progress")
    answer = client.submit(httpx2.post, f"{url}/answer", json={"prompt": "Which?"}, timeout=30)
    wait_for(lambda: told(url, "starboard_runs_in_progress") > max(started, 0))
    return answer

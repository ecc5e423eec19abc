"""The OpenAPI document, held against the running service by schemathesis with all of its checks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import get_args

from app.api import create_app
from app.domain import Scope
from app.settings import Settings
from app.store import AnswerStore
from app.store.keys import Keys
from tests import cases
from tests.api import schema_hooks
from tests.serving import serve
from tests.star.test_report import by_hand

PROBLEM = "application/problem+json"
PHASES = {"examples", "coverage", "fuzzing", "stateful"}
EXAMPLES = 20
"""For each operation in the phases fuzzing and stateful; coverage makes all it can think of."""
LIMIT_S = 900


async def test_the_service_does_what_its_openapi_document_says(
    scripted: Settings, tmp_path: Path
) -> None:
    report_path = tmp_path / "report.json"
    assert scripted.board == schema_hooks.BOARD
    async with AnswerStore.open(scripted.database_url) as store:
        _, secret = await Keys(store.database).create("everything", get_args(Scope))
    (tmp_path / "runs").mkdir()
    by_hand(tmp_path / "runs" / schema_hooks.RUN)
    app = create_app(scripted.model_copy(update={"runs_dir": tmp_path / "runs"}))
    operations = sum(map(len, app.openapi()["paths"].values()))
    async with serve(app) as client:
        code, told = await run_schemathesis(f"{client.base_url}/openapi.json", secret, report_path)
    assert code == 0, told
    report = json.loads(report_path.read_text())
    assert report["operations"]["tested"] == operations
    assert {name for name, phase in report["phases"].items() if phase["status"] == "success"} == (
        PHASES
    )
    rates = report["valid_rates"]
    assert len(rates) == operations
    for name, phases in rates.items():  # not all of it was refused
        assert sum(phase["accepted"] for phase in phases.values()), name
    cases.report(
        f"schemathesis {report['schemathesis_version']}: {report['test_cases']['generated']:,} "
        f"cases for {operations} operations; {report['filtered']} refusals excused "
        "(tests/api/schema_hooks.py)"
    )


def test_a_problem_is_documented_as_it_is_sent(scripted: Settings) -> None:
    """With its own media type alone; and whoever asks for a key may find that there is no store."""
    for path, operations in create_app(scripted).openapi()["paths"].items():
        for operation in operations.values():
            told = operation["responses"]
            if "security" in operation:
                assert {"503", "5XX"} & told.keys(), path
            for status, response in told.items():
                if status >= "4" and not path.startswith("/v1") and path != "/readyz":
                    assert response["content"].keys() == {PROBLEM}, (path, status)


async def run_schemathesis(url: str, key: str, report: Path) -> tuple[int | None, str]:
    """Its exit status, and all that it says."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SCHEMATHESIS_HOOKS": schema_hooks.__name__,
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        "--no-color",
        "run",
        url,
        "--checks=all",
        f"--phases={','.join(sorted(PHASES))}",
        f"--header=Authorization: Bearer {key}",
        f"--max-examples={EXAMPLES}",
        "--generation-deterministic",
        "--continue-on-failure",
        "--report=json",
        f"--report-json-path={report}",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, told.decode()

"""A trained adapter on the board, beside its base: how often `POST /answer` chooses it.

    python benchmarks/star_member.py run/

Starts `starboard serve` with two members, the base and the adapter that the run promoted last, and
asks the run's test problems, none of which was trained on. The base stands first on the board, so
ties go to it. For each problem: who was chosen, and whose reply is right by its reference answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from first_run import OURS
from rich.console import Console
from rich.progress import Progress

from app.star.loop import method_of, promoted
from app.star.member import member_row
from app.star.problems import Problem, asked, read_problems
from app.star.verify import verify

BOARD = ("base", "mine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scorer", default="embedded", help="as in STARBOARD_SCORER")
    parser.add_argument("--iteration", type=int, help="default: the one promoted last")
    parser.add_argument("--problems", type=int, help="so many of the test problems; default: all")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--at-a-time", type=int, default=16)
    parser.add_argument("--port", type=int, default=8123)
    arguments = parser.parse_args()
    run = arguments.run.resolve()
    number = arguments.iteration or promoted(run)[-1]
    base = method_of(run).base
    problems = read_problems(run / "problems" / "test.jsonl")[: arguments.problems]
    with tempfile.TemporaryDirectory() as folder:
        row = member_row("mine", base, run / f"iteration-{number}" / "adapter")
        bare = "\n".join(line for line in row.splitlines() if not line.startswith("adapter"))
        board = f'board = ["base", "mine"]\nscorer = ["{arguments.scorer}"]\n{row}'
        (Path(folder) / "starboard.toml").write_text(f"{board}{bare.replace('mine', 'base')}\n")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(arguments.port)]
        with subprocess.Popen(command, cwd=folder, env=environment) as server:
            try:
                answers = asyncio.run(ask(problems, arguments))
            finally:
                server.terminate()
    report(problems, answers, f"iteration {number}", arguments.scorer)


async def ask(problems: list[Problem], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    room = asyncio.Semaphore(arguments.at_a_time)
    url = f"http://127.0.0.1:{arguments.port}"
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("problems", total=len(problems))
        async with httpx2.AsyncClient(base_url=url, timeout=300) as http:

            async def one(problem: Problem) -> dict[str, Any]:
                async with room:
                    body = {"prompt": asked(problem), "max_tokens": arguments.max_tokens}
                    response = await http.post("/answer", json={**body, "deadline_s": 300})
                    response.raise_for_status()
                    progress.advance(task)
                    answer: dict[str, Any] = response.json()
                    return answer

            await ready(http)
            return list(await asyncio.gather(*map(one, problems)))


async def ready(http: httpx2.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await http.get("/readyz")).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the service did not become ready")


def report(problems: list[Problem], answers: list[dict[str, Any]], named: str, scorer: str) -> None:
    said = [{one["member"]: one for one in answer["candidates"]} for answer in answers]
    verdicts = [
        {name: verify(problem, one[name]["text"] or "") for name in BOARD}
        for problem, one in zip(problems, said, strict=True)
    ]
    chosen = Counter(answer["member"] for answer in answers)
    ties = sum(answer["decision"]["tie_break"] is not None for answer in answers)
    print(f"\n{len(problems)} test problems, scorer {scorer}, {named} against its base\n")
    print(
        "| member | chosen | right | wrong | no answer that could be read |\n|---|---|---|---|---|"
    )
    for name in BOARD:
        of = Counter(one[name] for one in verdicts)
        share = f"{chosen[name]} ({chosen[name] / len(problems):.1%})"
        print(f"| {name} | {share} | {of['right']} | {of['wrong']} | {of['unverified']} |")
    right = sum(
        one[answer["member"]] == "right" for one, answer in zip(verdicts, answers, strict=True)
    )
    print(f"\n{ties} of them ties, which go to the base. Right answers returned: {right}.\n")
    for problem, one in list(zip(problems, said, strict=True))[:3]:
        print(f"{problem.question} [{problem.reference}]")
        for name in BOARD:
            print(f"  {name} ({one[name]['reward']}): {one[name]['text']!r}")


if __name__ == "__main__":
    main()

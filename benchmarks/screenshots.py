"""Pictures of every view of the page, light and dark, on a desk and on a phone.

    python benchmarks/screenshots.py              # into docs/pictures/page
    python benchmarks/screenshots.py FOLDER --answers 8

The page is the running product's, in Chromium. Its members and its reward model are the fakes of
the tests: what they say is written below, how long they take and what they are scored is drawn from
a fixed seed. Answers are asked through the service, and then dated back, so that there are days to
look at. The STaR run is a real one, of a tiny model that learns to say "7" (tests/star/tiny.py).
Needs the extras `dev` and `star`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx2
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright
from sqlalchemy import bindparam

from app.api import create_app
from app.star.problems import as_row
from app.store import AnswerStore, schema
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import NvidiaFake
from tests.fakes.server import FakeServer
from tests.fakes.wire import Recorded
from tests.serving import serve, three_vendors

FOLDER = Path(__file__).parents[1] / "docs" / "pictures" / "page"
WIDTHS = {"desk": 1280, "phone": 390}
TALLEST = {"desk": 1600, "phone": 1700}
DAYS = 12

# Prompts, and what each of claude, gemma and mistral replies.
SAID: Sequence[tuple[str, str, str, str]] = (
    (
        "Why is the sky blue?",
        "Air molecules scatter **short wavelengths** far more than long ones: Rayleigh scattering"
        " grows as 1/λ⁴.\n\n1. Sunlight enters the atmosphere.\n2. Blue is scattered most.\n"
        "3. It reaches the eye from every part of the sky.\n\n"
        "```python\nprint((700 / 450) ** 4)  # blue against red: 5.9\n```",
        "The sky is blue because of **Rayleigh scattering**: small molecules in the air scatter"
        " blue light much more than red light.",
        "Because blue light is scattered more than red light by the air.",
    ),
    (
        "Write a SQL query for the three newest orders of each customer.",
        "```sql\nSELECT * FROM (\n  SELECT o.*, row_number() OVER (\n    PARTITION BY customer_id"
        " ORDER BY created DESC) AS n\n  FROM orders o) AS newest\nWHERE n <= 3;\n```",
        "Use a window function:\n\n```sql\nSELECT *, rank() OVER (PARTITION BY customer_id ORDER BY"
        " created DESC) AS r FROM orders;\n```\n\nand keep the rows with `r <= 3`.",
        "SELECT * FROM orders ORDER BY created DESC LIMIT 3;",
    ),
    (
        "Explain the difference between TCP and UDP to a ten-year-old.",
        "TCP is a **registered letter**: the post office makes sure that each page arrives, and in"
        " order. UDP is **shouting across a field**: quick, but some words get lost.",
        "TCP checks that everything arrives. UDP just sends it and hopes for the best.",
        "TCP is connection-oriented, UDP is connectionless.",
    ),
    (
        "A train leaves at 14:35 and takes 2 h 50 min. When does it arrive?",
        "14:35 + 2 h = 16:35, and 50 minutes more make **17:25**.",
        "It arrives at 17:25.",
        "It arrives at 16:85.",
    ),
    (
        "Name three risks of storing passwords as plain text.",
        "- **A leak is total**: whoever reads the table can sign in as everybody.\n"
        "- **Other sites fall too**: people use a password more than once.\n"
        "- **Insiders and backups** see them.",
        "1. Data breaches\n2. Password reuse\n3. Insider access",
        "Passwords could be stolen, so one should hash them.",
    ),
    (
        "Summarize the plot of Hamlet in two sentences.",
        "A prince is told by his father's ghost that his uncle murdered him, and hesitates over"
        " revenge while feigning madness. In the end nearly everybody dies, by poison or by sword.",
        "Prince Hamlet seeks revenge on his uncle Claudius, who killed his father to take the"
        " throne. His delay costs the lives of almost the whole court.",
        "Hamlet is a play by Shakespeare about a prince of Denmark.",
    ),
)
PRICES = {
    "claude": {"input_per_million": 3.0, "output_per_million": 15.0},
    "gemma": {"input_per_million": 0.1, "output_per_million": 0.3},
    "mistral": {"input_per_million": 0.4, "output_per_million": 2.0},
    "nvidia": {"input_per_million": 0.0, "output_per_million": 0.0},
}
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
USUAL = {
    1: (3.4, 3.4, 3.8, 2.0, 1.9),
    2: (3.1, 3.2, 3.7, 1.3, 0.9),
    3: (1.9, 1.8, 3.2, 0.8, 0.5),
}
LATENCY_S = {"claude": 0.9, "gemma": 0.5, "mistral": 0.3}


@dataclass
class Members:
    claude: FakeServer
    gemma: FakeServer
    mistral: FakeServer
    draw: random.Random

    def each(self) -> dict[str, FakeServer]:
        return {"claude": self.claude, "gemma": self.gemma, "mistral": self.mistral}

    def hurry(self) -> None:
        """They take another time for each answer."""
        for name, fake in self.each().items():
            fake.delay_s = LATENCY_S[name] * self.draw.lognormvariate(0, 0.35)


def reply_of(place: int) -> Any:
    def reply(request: Recorded) -> str:
        asked = request.body.decode()
        return next((said[place] for said in SAID if said[0] in asked), "I do not know.")

    return reply


@asynccontextmanager
async def board(work: Path, runs: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, Members]]:
    draw = random.Random(7)

    def scores(reply: str) -> dict[str, float]:
        place = next((said.index(reply) for said in SAID if reply in said), 3)
        values = (one + draw.gauss(0, 0.25) for one in USUAL[place])
        return {n: round(min(4.0, max(0.0, v)), 2) for n, v in zip(NAMES, values, strict=True)}

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        claude, gemma, mistral = (
            await enter(AnthropicFake()),
            await enter(GoogleFake()),
            await enter(MistralFake()),
        )
        nvidia = await enter(NvidiaFake())
        nvidia.scores = scores
        members = Members(claude, gemma, mistral, draw)
        for place, fake in enumerate(members.each().values(), start=1):
            fake.reply = reply_of(place)
        ours = three_vendors(
            claude,
            gemma,
            mistral,
            nvidia,
            database(work),
            scorer={"kind": "nvidia", "requests_per_minute": 100_000},
            log_level="error",
            prices=PRICES,
            runs_dir=runs,
        )
        yield await enter(serve(create_app(ours))), members


def database(work: Path) -> str:
    return f"sqlite:///{work}/page.db"


async def live_through(
    client: httpx2.AsyncClient, members: Members, work: Path, answers: int
) -> dict[str, str]:
    """So many answers, feedback on some, and their dates; ids of those to look at."""
    ids = []
    for number in range(answers):
        members.hurry()
        late = number == answers - 4
        if late:
            members.gemma.fail("rate_limited_429")
        prompt = SAID[-number % len(SAID)][0] if number < answers - 1 else SAID[0][0]
        tags = {"team": ("support", "search")[number % 2]}
        asked = {"prompt": prompt, "max_tokens": 400, "tags": tags}
        answer = (await client.post("/answer", json=asked)).raise_for_status().json()
        if late:
            members.gemma.recover()
        ids.append(answer["id"])
        said = opinion(answer, members.draw) if number % 2 else None
        if said:
            url = f"/answers/{answer['id']}/feedback"
            (await client.post(url, json=said)).raise_for_status()
    now = datetime.now(UTC)
    dates = [
        {"answer": id_, "at": now - timedelta(days=DAYS * (1 - (number + 1) / answers))}
        for number, id_ in enumerate(ids)
    ]
    table = schema.answers
    update = table.update().where(table.c.id == bindparam("answer"))
    earlier = update.values(created=bindparam("at"))
    async with AnswerStore.open(database(work)) as store:
        await store.database.write(lambda connection: connection.execute(earlier, dates).rowcount)
    return {"answer": ids[-1], "degraded": ids[-4]}


def opinion(answer: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """People agree with the choice three times out of four."""
    if draw.random() < 0.75:
        return {"thumb": "up"}
    others = [c["id"] for c in answer["candidates"] if c["rank"] == 2]
    return {"better": others[0]} if others else {"thumb": "down"}


def learn(runs: Path) -> None:
    """A run of STaR over three iterations."""
    from tests.star.tiny import save_taught, seven_or_eight

    work = runs.parent
    problems = work / "sums.jsonl"
    problems.write_text("".join(json.dumps(as_row(one)) + "\n" for one in seven_or_eight()))
    base = save_taught(work / "tiny-llama", "llama")
    options = (
        "--iterations 3 --per-iteration 48 --max-tokens 8 --epochs 6 --learning-rate 0.01"
        " --batch 8 --max-row-tokens 64"
    )
    command = [sys.executable, "-m", "app.cli", "star", "run", problems.name, "--base", base.name]
    command += [*options.split(), "--out", str(runs / "sevens-and-eights")]
    subprocess.run(command, cwd=work, check=True)


@dataclass(frozen=True)
class View:
    """What is opened, what must be there, and what is done before the picture is taken."""

    name: str
    path: str
    part: str
    first: str = ""


def views(ids: dict[str, str]) -> list[View]:
    return [
        View("ask", "/#/ask", ".seat"),
        View("run-under-way", "/#/ask", ".seat", "ask"),
        View("answer", f"/#/answers/{ids['answer']}", "starboard-chart[data-drawn]"),
        View("weights", f"/#/answers/{ids['answer']}", "starboard-chart[data-drawn]", "weigh"),
        View("degraded", f"/#/answers/{ids['degraded']}", "starboard-chart[data-drawn]"),
        View("history", "/#/history", ".answers li"),
        View("board", "/#/board", "starboard-chart[data-drawn]"),
        View("runs", "/#/runs", "table"),
        View("run", "/#/runs/sevens-and-eights", "starboard-chart[data-drawn]"),
    ]


async def take(
    browser: Browser, origin: str, members: Members, ids: dict[str, str]
) -> dict[str, bytes]:
    taken = {}
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    # The run that is left under way comes last: it is stored, and no other picture shows that.
    for view in sorted(views(ids), key=lambda one: one.first == "ask"):
        for device, width in WIDTHS.items():
            for scheme in schemes:
                context = await browser.new_context(
                    base_url=origin,
                    color_scheme=scheme,
                    locale="en-GB",
                    viewport={"width": width, "height": 844 if device == "phone" else 800},
                )
                page = await context.new_page()
                await page.goto(view.path)
                await page.locator(view.part).first.wait_for()
                await act(page, view.first, members)
                height: int = await page.evaluate("() => document.documentElement.scrollHeight")
                picture = await page.screenshot(
                    full_page=True,
                    clip={"x": 0, "y": 0, "width": width, "height": min(height, TALLEST[device])},
                )
                taken[f"{view.name}-{device}-{scheme}.png"] = smaller(picture)
                members.hurry()
                await context.close()
    return taken


async def act(page: Page, first: str, members: Members) -> None:
    if first == "ask":
        members.claude.delay_s, members.gemma.delay_s, members.mistral.delay_s = 20, 20, 0.1
        await page.get_by_label("Prompt").fill(SAID[0][0])
        await page.get_by_role("button", name="Ask the board").click()
        await page.locator(".progress .scored").wait_for()
    if first == "weigh":
        await page.get_by_text("What if it were weighed otherwise?").click()
        await page.get_by_role("slider", name="verbosity").fill("-1")
        await page.get_by_role("slider", name="complexity").fill("-0.4")
        await page.locator(".winner .local").wait_for()
    await page.wait_for_function("() => document.fonts.ready")


def smaller(picture: bytes) -> bytes:
    """With a palette of its own: what there is to see has few colours."""
    found = io.BytesIO()
    image = (
        Image.open(io.BytesIO(picture))
        .convert("RGB")
        .quantize(256, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
    )
    image.save(found, "PNG", optimize=True)
    return found.getvalue()


async def main(answers: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as work:
        runs = Path(work) / "runs"
        runs.mkdir()
        learn(runs)
        os.chdir(work)  # no starboard.toml of the caller decides what is seen
        async with (
            board(Path(work), runs) as (client, members),
            async_playwright() as playwright,
        ):
            ids = await live_through(client, members, Path(work), answers)
            alone = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=alone
            )
            taken = await take(browser, str(client.base_url).rstrip("/"), members, ids)
            await browser.close()
    return taken


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    arguments.add_argument("--answers", type=int, default=40)
    given = arguments.parse_args()
    folder = given.folder.resolve()
    pictures = asyncio.run(main(given.answers))
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
        print(f"{len(picture) / 1000:6.1f} kB  {name}")
    print(f"{sum(map(len, pictures.values())) / 1000:6.1f} kB  in all")

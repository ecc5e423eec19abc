"""History, Board, Runs, and what holds of every view: figures, keyboard, weight, accessibility."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.page.conftest import LIMIT_MS, Board, Boards, Visit, Visiting
from tests.star.test_report import EVIL, by_hand

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=LIMIT_MS)

log = logging.getLogger("page")
PRICES = {"claude": {"input_per_million": 3.0, "output_per_million": 15.0}}


@asynccontextmanager
async def with_a_past(boards: Boards, folder: Path) -> AsyncIterator[tuple[Board, dict[str, Any]]]:
    """A board with three answers, one of a degraded panel, feedback, and a STaR run."""
    (folder / "runs").mkdir()
    by_hand(folder / "runs" / "sums")
    (folder / "runs" / "broken").mkdir()
    (folder / "runs" / "broken" / "manifest.json").write_text("{}")
    async with boards(runs_dir=folder / "runs", prices=PRICES) as board:
        first = await board.ask("What is blue?", tags={"user": "u1"})
        await board.client.post(f"/answers/{first['id']}/feedback", json={"thumb": "up"})
        board.gemma.fail("unauthorized_401")
        await board.ask("What is green?")
        board.gemma._always = None
        await board.ask("What is red, and what is blue?", members=["mistral"])
        yield board, first


async def asked(page: Page, *prompts: str) -> None:
    await expect(page.locator(".answers .asked")).to_have_text([*prompts])


async def test_history_is_searched_filtered_and_asked_again(
    boards: Boards, visiting: Visiting, tmp_path: Path
) -> None:
    red, green, blue = "What is red, and what is blue?", "What is green?", "What is blue?"
    async with (
        with_a_past(boards, tmp_path) as (board, first),
        visiting(board.origin, "/#/history") as visit,
    ):
        page = visit.page
        await asked(page, red, green, blue)
        words = page.get_by_label("Words in the prompt or the answer")
        await words.fill("blue red")
        await words.press("Enter")
        await asked(page, red)
        await page.go_back()
        await asked(page, red, green, blue)
        await page.get_by_label("Chosen").select_option("mistral")
        await asked(page, red)
        await page.get_by_label("Chosen").select_option("")
        await asked(page, red, green, blue)
        await page.get_by_label("Feedback").select_option("true")
        await asked(page, blue)
        await page.goto("/#/history")
        await page.get_by_role("link", name="user: u1").click()
        await asked(page, blue)
        await page.get_by_label("Tag").fill("user:none")
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_text("No answer fits.")).to_be_visible()
        await page.goto("/#/history")
        await page.get_by_role("link", name=f"Ask again: {red}").click()
        await expect(page.get_by_label("Prompt")).to_have_value(red)
        await expect(page.get_by_label("claude")).not_to_be_checked()
        await expect(page.get_by_label("mistral")).to_be_checked()
        await page.go_back()
        async with page.expect_download() as coming:
            await page.get_by_text("Export all answers to train from").click()
            await page.get_by_role("button", name="SFT").click()
        download = await coming.value
        assert download.suggested_filename == "starboard-sft.jsonl"
        await download.save_as(tmp_path / "export")
        served = (await board.client.get("/export", params={"format": "sft"})).text
        assert (tmp_path / "export").read_text() == served
        await page.get_by_role("link", name=blue, exact=True).last.click()
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        assert page.url.endswith(first["id"])


async def test_history_comes_page_by_page(board: Board, visiting: Visiting) -> None:
    for number in range(25):
        await board.ask(f"Question {number}?", members=["mistral"])
    async with visiting(board.origin, "/#/history") as visit:
        rows = visit.page.locator(".answers > li")
        await expect(rows).to_have_count(20)
        await visit.page.get_by_role("button", name="Older ones").click()
        await expect(rows).to_have_count(25)
        await expect(rows.last).to_contain_text("Question 0?")
        await expect(visit.page.get_by_role("button", name="Older ones")).to_have_count(0)


async def test_an_empty_board_says_so(board: Board, visiting: Visiting) -> None:
    async with visiting(board.origin, "/#/history") as visit:
        page = visit.page
        await expect(page.get_by_text("Nothing has been asked yet.")).to_be_visible()
        await page.get_by_role("link", name="Board", exact=True).click()
        await expect(page.get_by_text("Nothing was asked in this time.")).to_be_visible()
        await page.get_by_role("link", name="Runs").click()
        await expect(page.get_by_text("No folder of runs is named")).to_be_visible()
        await page.goto("/#/runs/none")
        await expect(page.get_by_role("alert")).to_contain_text("No such run")
        await page.goto("/#/answers/none")
        await expect(page.get_by_role("alert")).to_contain_text("No such answer")
        visit.forgive("404")


async def test_the_board_shows_what_the_routes_say(
    boards: Boards, visiting: Visiting, tmp_path: Path
) -> None:
    async with (
        with_a_past(boards, tmp_path) as (board, _),
        visiting(board.origin, "/#/board") as visit,
    ):
        page = visit.page
        figures = (await board.client.get("/statistics")).json()
        claude = page.locator(".card[data-member=claude]")
        await expect(claude).to_contain_text("seated")
        cost = next(one["cost_usd"] for one in figures["members"] if one["name"] == "claude")
        await expect(claude).to_contain_text(f"${float(f'{cost:.2g}')}")
        await expect(claude).to_contain_text("closed")  # the breaker
        gemma = page.locator(".card[data-member=gemma]")
        await expect(gemma).to_contain_text("1 auth")
        await expect(gemma).to_contain_text("1 replies of unknown cost")
        await expect(page.locator(".note").first).to_contain_text(
            "3 answers, 1 of a degraded panel"
        )
        await expect(page.locator("starboard-chart[data-drawn]")).to_have_count(3)
        low, high = (figures["agreement"][0][end] for end in ("low", "high"))
        told = f"100.0 % [{100 * low:.1f} %, {100 * high:.1f} %] of 1"
        await expect(page.locator(".figure table").last).to_contain_text(told)
        await page.get_by_label("In the last").select_option("365")
        await expect(page).to_have_url(f"{board.origin}/#/board?days=365")


async def test_a_run_is_shown_with_its_figures(
    boards: Boards, visiting: Visiting, tmp_path: Path
) -> None:
    async with (
        with_a_past(boards, tmp_path) as (board, _),
        visiting(board.origin, "/#/runs") as visit,
    ):
        page = visit.page
        document = (await board.client.get("/runs/sums")).json()
        await expect(page.get_by_text("broken cannot be read")).to_be_visible()
        best = document["best"]
        await expect(page.locator("td").nth(3)).to_have_text(
            f"iteration 2: {100 * best['accuracy']:.1f} %"
            f" [{100 * best['low']:.1f} %, {100 * best['high']:.1f} %]"
        )
        await page.get_by_role("link", name="sums").click()
        await expect(page.locator("starboard-chart[data-drawn]")).to_have_count(2)
        await page.get_by_text("The numbers (share right)").click()
        rows = page.locator(".figure").first.locator("tbody tr")
        await expect(rows).to_have_count(len(document["measured"]))
        await expect(page.get_by_text(EVIL.split(" [")[0]).first).to_be_visible()
        await expect(page.locator("main script, main img")).to_have_count(0)


async def test_it_works_by_keyboard_alone(board: Board, visiting: Visiting) -> None:
    async with visiting(board.origin) as visit:
        page = visit.page
        await page.locator(".seat").first.wait_for()
        keyboard = page.keyboard

        async def focused() -> str:
            text: str = await page.evaluate(
                "() => document.activeElement.innerText || document.activeElement.name || ''"
            )
            return text.strip()

        await keyboard.press("Tab")
        assert await focused() == "Skip to the content"
        await keyboard.press("Enter")
        assert await page.evaluate("() => document.activeElement.id") == "view"
        await keyboard.press("Tab")
        assert await focused() == "prompt"
        await keyboard.type("Why?")
        await keyboard.press("Control+Enter")
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        await expect(page.get_by_role("status")).to_have_text("claude was chosen")


# Parts that make the page scroll sideways.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.body.querySelectorAll("*")]
    .filter((one) => one.getBoundingClientRect().right > width && !one.closest(".scroll *"))
    .map((one) => `${one.tagName}.${one.className} is too wide: ${one.textContent.slice(0, 80)}`);
}"""
SERIOUS = ("serious", "critical")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_on_any_view(
    boards: Boards, visiting: Visiting, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """Every view with all its parts open, wide and narrow, and the dialog."""
    found: dict[str, list[str]] = {}

    async def check(name: str, visit: Visit) -> None:
        await visit.page.evaluate(
            "() => document.querySelectorAll('details').forEach((one) => (one.open = true))"
        )
        report = (await Axe().run(visit.page)).response
        assert len(report["passes"]) > 5
        found[name] = [
            f"{one['id']}: {node['target']} {node['failureSummary']}"
            for one in report["violations"]
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]

    # axe is put into the page by the browser, which the page's policy would not let it do.
    options = {"color_scheme": scheme, "bypass_csp": True}
    async with with_a_past(boards, tmp_path) as (board, first):
        views = {
            "ask": ("/#/ask", ".seat"),
            "answer": (f"/#/answers/{first['id']}", ".said li"),
            "history": ("/#/history", ".answers li"),
            "board": ("/#/board", "starboard-chart[data-drawn]"),
            "runs": ("/#/runs", "table"),
            "run": ("/#/runs/sums", "starboard-chart[data-drawn]"),
            "nothing": ("/#/answers/none", ".problem"),
        }
        async with visiting(board.origin, **options) as visit:
            for width in (1280, 390):
                await visit.page.set_viewport_size({"width": width, "height": 900})
                for name, (path, part) in views.items():
                    await visit.page.goto(path)
                    await visit.page.locator(part).first.wait_for()
                    await check(f"{name} {width}", visit)
                    found[f"{name} {width}"] += await visit.page.evaluate(TOO_WIDE)
            await visit.page.get_by_role("button", name="Key", exact=True).click()
            await check("dialog", visit)
            visit.forgive("404")
    assert {name: faults for name, faults in found.items() if faults} == {}


async def test_the_first_view_is_light_and_quick(board: Board, visiting: Visiting) -> None:
    """Bytes that the page is made of, packed and unpacked, and the time until it can be used."""
    took, packed, unpacked = [], [], []
    for _ in range(5):
        async with visiting(board.origin, "/") as visit:
            page = visit.page
            await page.locator(".seat").first.wait_for()
            # What the browser itself says of when each thing came and how much it was.
            told = await page.evaluate(
                """() => {
                  const [whole] = performance.getEntriesByType("navigation");
                  const parts = [whole, ...performance.getEntriesByType("resource")];
                  const ours = parts.filter((one) => !/\\/models/.test(one.name));
                  return {
                    packed: ours.reduce((sum, one) => sum + one.transferSize, 0),
                    unpacked: ours.reduce((sum, one) => sum + one.decodedBodySize, 0),
                    usable: Math.max(...parts.map((one) => one.responseEnd)),
                    names: ours.map((one) => one.name),
                  };
                }"""
            )
            took.append(told["usable"] / 1000)
            packed.append(told["packed"])
            unpacked.append(told["unpacked"])
            assert not [name for name in told["names"] if "chart.umd" in name or "diff.min" in name]
    log.info("first view in %.3f s, median of %s", median(took), took)
    log.info("%d bytes packed, %d unpacked", median(packed), median(unpacked))
    assert max(packed) < max(unpacked) < 400_000
    assert min(took) < 10


async def test_swagger_ui_tries_an_answer_out_with_the_network_cut_off(
    board: Board, visiting: Visiting
) -> None:
    async with visiting(board.origin, "about:blank") as visit:
        page = visit.page
        await page.route(
            "**/*",
            lambda route: (
                route.abort()
                if not route.request.url.startswith(f"{board.origin}/")
                else route.continue_()
            ),
        )
        await page.goto("/docs")
        operation = page.locator(".opblock-post").filter(has_text="/answer").first
        await operation.locator(".opblock-summary").click()
        await operation.get_by_role("button", name="Execute").click()
        body = operation.locator(".live-responses-table .highlight-code").first
        await expect(body).to_contain_text('"member": "claude"')
        status = operation.locator(".live-responses-table tbody .response-col_status").first
        await expect(status).to_contain_text("200")
        assert (await board.client.get("/answers")).json()["answers"]
        urls = [url for url in visit.urls if not url.startswith(("about:", "data:"))]
        assert all(url.startswith(f"{board.origin}/") for url in urls)
        assert len(urls) >= 4
        visit.urls = urls

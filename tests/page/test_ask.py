"""Ask, as a person does it: a run as it comes, the answer, other weights, feedback."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from app.api import create_app
from app.store import AnswerStore
from app.store.keys import Keys
from tests.conftest import settings
from tests.page.conftest import LIMIT_MS, LONG, POOR, SHORT, Board, Boards, Visiting
from tests.serving import serve, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
expect.set_options(timeout=LIMIT_MS)

# Every state that a member is shown in, in order.
RECORD = """() => {
  window.told = [];
  new MutationObserver(() => {
    for (const one of document.querySelectorAll(".progress li")) {
      const state = `${one.dataset.member} ${one.className}`;
      if (!window.told.includes(state)) window.told.push(state);
    }
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


async def ask(page: Page, prompt: str = "Why is the sky blue?") -> None:
    await page.get_by_label("Prompt").fill(prompt)
    await page.get_by_role("button", name="Ask the board").click()


def card(page: Page, member: str) -> Any:
    return page.locator(f".card[data-member={member}]")


async def test_the_embedded_board_answers_end_to_end(database_url: str, visiting: Visiting) -> None:
    ours = settings(database_url=database_url)
    async with (
        serve(create_app(ours)) as client,
        visiting(str(client.base_url).rstrip("/")) as visit,
    ):
        page = visit.page
        members = [seat.name for seat in ours.seats if seat.why_not is None]
        assert len(members) == 2
        await page.get_by_text("System text, strategy, weights, limits").click()
        await page.get_by_label("Longest reply, tokens").fill("16")
        await ask(page)
        await expect(page.locator(".winner h2")).to_contain_text(re.compile("|".join(members)))
        await expect(page.locator(".card")).to_have_count(2)
        await expect(page.locator(".winner .facts")).to_contain_text("embedded")
        [stored] = (await client.get("/answers")).json()["answers"]
        assert stored["prompt"] == "Why is the sky blue?"


async def test_a_run_is_told_as_it_comes(board: Board, visiting: Visiting) -> None:
    board.claude.delay_s, board.gemma.delay_s, board.nvidia.delay_s = 2.5, 0.1, 0.4
    board.gemma.fail("unauthorized_401")
    async with visiting(board.origin) as visit:
        page = visit.page
        await page.evaluate(RECORD)
        await ask(page)
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        told = await page.evaluate("() => window.told")
        for member, states in {
            "claude": ["asked", "completed"],
            "gemma": ["asked", "failed"],
            "mistral": ["asked", "completed", "scored"],
        }.items():
            seen = [one.split()[1] for one in told if one.startswith(f"{member} ")]
            assert [one for one in seen if one in states] == states
        assert told.index("mistral scored") < told.index("claude completed")
        await expect(page.locator(".winner .degraded")).to_contain_text("gemma")
        await expect(card(page, "gemma").locator(".verdict")).to_contain_text("Failed: gemma")
        await expect(card(page, "mistral").locator(".verdict")).to_contain_text("Rank 2")
        await page.get_by_role("link", name="History").click()
        await page.get_by_label("Panel").select_option("degraded")
        await expect(page.locator(".answers > li")).to_have_count(1)
        await expect(page.locator(".answers .degraded")).to_have_text("degraded")


async def test_that_nobody_replied_is_said_by_member(board: Board, visiting: Visiting) -> None:
    for fake in (board.claude, board.gemma, board.mistral):
        fake.fail("unauthorized_401")
    async with visiting(board.origin) as visit:
        await ask(visit.page)
        problem = visit.page.get_by_role("alert")
        for member in ("claude", "gemma", "mistral"):
            await expect(problem).to_contain_text(member)


async def test_an_unscored_panel_is_degraded_too(board: Board, visiting: Visiting) -> None:
    board.nvidia.fail("unauthorized_401")
    async with visiting(board.origin) as visit:
        await ask(visit.page)
        await expect(visit.page.locator(".winner .degraded")).to_contain_text("nvidia")
        await expect(card(visit.page, "claude")).to_contain_text("Not scored")
        await expect(visit.page.get_by_text("What if it were weighed otherwise?")).to_have_count(0)


async def test_other_weights_change_the_winner_at_once(board: Board, visiting: Visiting) -> None:
    async with visiting(board.origin) as visit:
        page = visit.page
        await ask(page)
        first = page.locator(".winner h2")
        await expect(first).to_contain_text("claude")
        asked = len(visit.urls)
        await page.get_by_text("What if it were weighed otherwise?").click()
        slider = page.locator(".answer").get_by_role("slider", name="verbosity")
        await slider.focus()
        await slider.press("Home")  # -1
        await expect(first).to_contain_text("gemma")
        await expect(page.locator(".winner .local")).to_contain_text("The board chose claude.")
        await expect(page.locator(".card").first).to_have_attribute("data-member", "gemma")
        await expect(card(page, "gemma").locator(".verdict")).to_have_text("First by your weights")
        assert len(visit.urls) == asked
        await page.get_by_role("link", name="Ask again with these").click()
        await expect(page.get_by_label("Prompt")).to_have_value("Why is the sky blue?")
        await page.get_by_role("button", name="Ask the board").click()
        await expect(first).to_contain_text("gemma")
        [again, before] = (await board.client.get("/answers")).json()["answers"]
        assert (before["member"], again["member"]) == ("claude", "gemma")
        request = (await board.client.get(f"/answers/{again['id']}/request")).json()
        assert request["weights"]["verbosity"] == -1


async def test_feedback_is_stored_and_shown(board: Board, visiting: Visiting) -> None:
    answer = await board.ask()
    gemma = next(one["id"] for one in answer["candidates"] if one["member"] == "gemma")
    url = f"/answers/{answer['id']}/feedback"
    async with visiting(board.origin, f"/#/answers/{answer['id']}") as visit:
        page, said = visit.page, visit.page.locator(".said li")
        await page.get_by_role("button", name="Good choice").click()
        await expect(said).to_have_count(1)
        await card(page, "gemma").get_by_role("button", name="This one is better").click()
        await expect(said).to_have_count(2)
        await page.get_by_text("Rate, correct, comment").click()
        form = page.locator(".feedback form")
        for name in ("helpfulness", "correctness", "coherence", "complexity"):
            await form.get_by_label(name).select_option("3")
        await expect(form).to_contain_text("All five are stored together, or none.")
        await form.get_by_label("verbosity").select_option("1")
        await form.get_by_label("Comment").fill("Too long?")
        await form.get_by_role("button", name="Store").click()
        await expect(said).to_have_count(3)
        stored = (await board.client.get(url)).json()["feedback"]
        assert [one["thumb"] for one in stored] == ["up", None, None]
        assert (stored[1]["better"], stored[2]["comment"]) == (gemma, "Too long?")
        assert [*stored[2]["ratings"].values()] == [3, 3, 3, 3, 1]
        await page.reload()
        await expect(said).to_have_count(3)
        await expect(said.nth(0)).to_contain_text("good choice")
        await expect(said.nth(1)).to_contain_text("gemma is better")
        await expect(said.nth(2)).to_contain_text("verbosity 1 · “Too long?”")


async def test_an_answer_is_shown_whatever_becomes_of_its_request(
    board: Board, visiting: Visiting
) -> None:
    answer = await board.ask()
    async with visiting(board.origin, "about:blank") as visit:
        page = visit.page
        await page.route("**/request", lambda route: route.fulfill(status=500))
        await page.goto(f"/#/answers/{answer['id']}")
        await expect(page.get_by_role("alert")).to_be_visible()
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        visit.forgive("500")


async def edited(board: Board, page: Page, answer: dict[str, Any]) -> None:
    """Open a stored answer as if this were its document."""
    await page.route(f"**/answers/{answer['id']}", lambda route: route.fulfill(json=answer))
    await page.goto(f"/#/answers/{answer['id']}")


async def test_each_card_says_what_the_decision_was_made_by(
    board: Board, visiting: Visiting
) -> None:
    """Two samples of one member that say the same, a resolution that other weights stretched, and
    a reply without a score among those that are ranked."""
    answer = await board.ask()
    by_member = {one["member"]: one for one in answer["candidates"]}
    claude, mistral = by_member["claude"], by_member["mistral"]
    twin = claude | {"id": "cand_twin", "rank": 1, "reward": claude["reward"] + 0.5}
    claude["rank"], mistral["reward"], mistral["scores"] = 4, None, None
    answer["candidates"].append(twin)
    answer["decision"] |= {"winner": "cand_twin", "resolution": 0.75}
    async with visiting(board.origin, "about:blank") as visit:
        page = visit.page
        await edited(board, page, answer)
        await expect(page.locator(".card .verdict").first).to_have_text("Chosen")
        await expect(page.locator(".card.chosen")).to_have_count(1)
        await expect(page.locator(".winner")).to_contain_text("(resolution 0.75)")
        await expect(page.locator(".winner .facts")).to_contain_text(f"{twin['reward']:.2f}")
        told = "Rank 4, 0.50 behind the first: too close to tell apart"
        await expect(card(page, "claude").last.locator(".verdict")).to_have_text(told)
        await expect(card(page, "mistral").locator(".verdict")).to_have_text("Rank 3, not scored")
        answer["decision"]["votes"] = {"blue": 2, "green": 1}
        await page.reload()
        await expect(card(page, "claude").last.locator(".verdict")).to_have_text("Rank 4")


async def test_sliders_stay_under_the_hand(board: Board, visiting: Visiting) -> None:
    answer = await board.ask(weights={"helpfulness": 5})
    async with visiting(board.origin, f"/#/answers/{answer['id']}") as visit:
        page = visit.page
        await page.get_by_text("What if it were weighed otherwise?").click()
        slider = page.get_by_role("slider", name="verbosity")
        await slider.press("ArrowRight")
        await expect(page.locator(".winner .local")).to_be_visible()
        await slider.press("ArrowLeft")
        await expect(page.locator(".winner .local")).to_have_count(0)
        await expect(slider).to_be_focused()
        await expect(page.get_by_role("slider", name="helpfulness")).to_have_value("5")


async def test_texts_are_compared_when_that_is_asked_for(board: Board, visiting: Visiting) -> None:
    answer = await board.ask()
    for one, letter in zip(answer["candidates"], "ab", strict=False):
        one["text"] = " ".join(f"{letter}{number}" for number in range(4000))
    async with visiting(board.origin, "about:blank") as visit:
        await edited(board, visit.page, answer)
        await expect(visit.page.locator(".said, .card").first).to_be_visible()
        await visit.page.wait_for_load_state("networkidle")
        assert not [url for url in visit.urls if "diff.min" in url]
        await visit.page.get_by_text("Compare two replies word by word").click()
        await expect(visit.page.locator("starboard-diff")).to_contain_text("too different")


async def test_what_was_written_stays_until_it_is_stored(board: Board, visiting: Visiting) -> None:
    answer = await board.ask()
    async with visiting(board.origin, f"/#/answers/{answer['id']}") as visit:
        page = visit.page
        await page.get_by_text("Rate, correct, comment").click()
        corrected = page.get_by_label("The reply of claude as it should have been")
        await corrected.fill("Blue, by scattering.")
        await page.route("**/feedback", lambda route: route.abort())
        await page.get_by_role("button", name="Store").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await expect(corrected).to_have_value("Blue, by scattering.")
        await page.unroute("**/feedback")
        await page.get_by_role("button", name="Store").click()
        await expect(page.locator(".said li")).to_have_count(1)
        await expect(corrected).to_have_value("")
        visit.forgive("ERR_FAILED")


async def test_stop_ends_the_run(board: Board, visiting: Visiting) -> None:
    fakes = (board.claude, board.gemma, board.mistral)
    for fake in fakes:
        fake.delay_s = 300
    async with visiting(board.origin) as visit:
        await ask(visit.page)
        await until(
            lambda: all(any(r.method == "POST" for r in fake.requests) for fake in fakes), 60
        )
        await visit.page.get_by_role("button", name="Stop").click()
        await until(lambda: not any(fake.in_progress for fake in fakes), 60)
        assert all(fake.cancelled for fake in fakes)
        await expect(visit.page.locator(".progress li").first).to_contain_text("stopped")
        await expect(visit.page.get_by_role("status")).to_have_text("Stopped")
        await expect(visit.page.get_by_role("link", name="stored")).to_be_visible()
        await expect(visit.page.get_by_role("button", name="Ask the board")).to_be_enabled()


async def test_members_and_settings_are_sent(board: Board, visiting: Visiting) -> None:
    async with visiting(board.origin) as visit:
        page = visit.page
        await page.get_by_label("claude").uncheck()
        await page.get_by_text("System text, strategy, weights, limits").click()
        await page.get_by_label("System text").fill("Be brief.")
        await page.get_by_label("Strategy").select_option("cascade")
        await page.get_by_label("Good from reward").fill("9")
        await page.get_by_label("Samples of each").fill("2")
        await page.get_by_label("Longest reply, tokens").fill("77")
        await page.get_by_label("Deadline, seconds").fill("45")
        await page.get_by_label("Prompt").fill("Why?")
        await page.get_by_label("Prompt").press("Control+Enter")
        await expect(page.locator(".winner h2")).to_contain_text("gemma")
        [one] = (await board.client.get("/answers")).json()["answers"]
        request = (await board.client.get(f"/answers/{one['id']}/request")).json()
    assert request["members"] == ["mistral", "gemma"]
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    plan = request["plan"]
    assert (plan["strategy"], plan["threshold"], plan["samples"]) == ("cascade", 9, 2)
    assert (request["max_tokens"], request["deadline_s"]) == (77, 45)


async def test_what_is_written_outlives_a_key_and_another_view(
    boards: Boards, visiting: Visiting, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.security.LOOK_AGAIN_S", 0.0)
    async with (
        boards() as board,
        AnswerStore.open(database(tmp_path)) as store,
        visiting(board.origin) as visit,
    ):
        page = visit.page
        prompt = page.get_by_label("Prompt")
        await page.locator(".seat").first.wait_for()
        await prompt.fill("Why?")
        _, secret = await Keys(store.database).create("page", ["read", "answer"])
        await page.get_by_role("button", name="Ask the board").click()
        await page.get_by_role("button", name="Enter a key").click()
        await page.get_by_label("Key", exact=True).fill(secret)
        await page.get_by_role("button", name="Use it").click()
        await expect(prompt).to_have_value("Why?")
        await page.get_by_role("link", name="Runs").click()
        await page.get_by_role("link", name="Ask", exact=True).click()
        await expect(prompt).to_have_value("Why?")
        await page.get_by_role("button", name="Key", exact=True).click()
        await page.get_by_role("button", name="Use it").click()  # nothing is forgotten
        await page.get_by_role("button", name="Ask the board").click()
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        visit.forgive("40")


async def test_what_the_form_does_not_show_can_be_forgotten(
    board: Board, visiting: Visiting
) -> None:
    plan = {"order": ["mistral", "gemma"], "quorum": 2}
    answer = await board.ask(members=["gemma", "mistral"], plan=plan)
    async with visiting(board.origin, f"/#/ask?from={answer['id']}") as visit:
        page = visit.page
        await page.get_by_label("mistral").uncheck()
        await page.get_by_role("button", name="Ask the board").click()
        await expect(page.get_by_role("alert")).to_contain_text("not 2")  # the quorum
        await page.get_by_text("System text, strategy, weights, limits").click()
        await page.get_by_role("button", name="Forget that").click()
        await page.get_by_role("button", name="Ask the board").click()
        await expect(page.locator(".winner h2")).to_contain_text("gemma")
        visit.forgive("422")


async def test_nothing_is_asked_before_it_is_known_who_sits(
    board: Board, visiting: Visiting
) -> None:
    async with visiting(board.origin, "about:blank") as visit:
        page = visit.page
        await page.route("**/models", lambda route: route.fulfill(status=500))
        await page.goto("/")
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_label("Prompt").fill("Why?")
        await page.get_by_label("Prompt").press("Control+Enter")
        await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        visit.forgive("500")


async def test_limits_of_an_earlier_answer_can_be_sent_again(
    board: Board, visiting: Visiting
) -> None:
    answer = await board.ask(deadline_s=12.5)
    async with visiting(board.origin, f"/#/ask?from={answer['id']}") as visit:
        page = visit.page
        await expect(page.get_by_label("Prompt")).to_have_value("Why is the sky blue?")
        samples = page.locator("input[name=samples]")
        await samples.evaluate("(field) => (field.value = '20')")
        await page.get_by_role("button", name="Ask the board").click()
        await expect(samples).to_be_visible()
        await samples.fill("")
        await page.get_by_role("button", name="Ask the board").click()
        await expect(page.locator(".winner h2")).to_contain_text("claude")


STREAMS = """async (pieces) => {
  const { events } = await import("/page/api.js");
  window.fetch = async () => new Response(new ReadableStream({
    start(told) {
      for (const one of pieces) {
        if (one === null) return told.error(new TypeError("network error"));
        told.enqueue(new TextEncoder().encode(one));
      }
      told.close();
    },
  }));
  const came = [];
  try {
    for await (const one of events("answer", {})) came.push([one.event, one.data]);
  } catch (error) {
    came.push(error.document?.title ?? `${error}`);
  }
  return came;
}"""


async def test_events_are_read_as_the_format_has_them(board: Board, visiting: Visiting) -> None:
    broken = "The connection broke"
    async with visiting(board.origin) as visit:
        for pieces, came in (
            (["event: a\ndata: 1\n\n: alive\n\neve", "nt:b\ndata:  2\n\n"], [["a", 1], ["b", 2]]),
            (["event: a\r\ndata: [1,\r", "\ndata: 2]\r\n\r\n"], [["a", [1, 2]]]),
            (["event: a\rdata: 1\r\r", "event: b\rdata: 2\r\r"], [["a", 1], ["b", 2]]),
            (["event: a\ndata: 1\n"], []),
            (["event: a\ndata: 1\n\n", "event: b\n"], [["a", 1]]),
            ([None], [broken]),
        ):
            assert await visit.page.evaluate(STREAMS, pieces) == came


async def test_replies_are_rendered_copied_and_compared(board: Board, visiting: Visiting) -> None:
    answer = await board.ask()
    options = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with visiting(board.origin, f"/#/answers/{answer['id']}", **options) as visit:
        page = visit.page
        reply = page.locator(".winner starboard-text")
        await expect(reply.locator("strong")).to_have_text("short wavelengths")
        await expect(reply.locator("pre code")).to_contain_text("print(1 / 450**4)")
        await expect(reply.locator("td").first).to_have_text("blue")
        await page.locator(".winner").get_by_role("button", name="Copy").click()
        assert await page.evaluate("() => navigator.clipboard.readText()") == LONG
        await page.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(Error()); }"
        )
        await page.locator(".winner").get_by_role("button", name="Copy").click()
        await expect(page.get_by_role("status")).to_contain_text("Not copied")
        await page.get_by_text("Compare two replies word by word").click()
        await page.get_by_role("combobox", name="From").select_option(label="gemma (2)")
        await page.get_by_role("combobox", name="To").select_option(label="mistral (3)")
        difference = page.locator("starboard-diff")
        await expect(difference.locator("ins").first).to_be_visible()
        taken = await difference.locator(".diff > :not(ins)").all_text_contents()
        put = await difference.locator(".diff > :not(del)").all_text_contents()
        assert ("".join(taken), "".join(put)) == (SHORT, POOR)


async def test_a_board_that_asks_for_keys(
    boards: Boards, visiting: Visiting, tmp_path: Any
) -> None:
    async with boards() as board, AnswerStore.open(database(tmp_path)) as store:
        _, secret = await Keys(store.database).create("page", ["read", "answer"])
        async with visiting(board.origin) as visit:
            page = visit.page
            await expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
            await page.get_by_role("button", name="Enter a key").click()
            await page.get_by_label("Key", exact=True).fill(secret)
            await page.get_by_role("button", name="Use it").click()
            await ask(page)
            await expect(page.locator(".winner h2")).to_contain_text("claude")
            kept = await page.evaluate(
                "() => [{...sessionStorage}, {...localStorage}, document.cookie]"
            )
            assert kept == [{"starboard-key": secret}, {}, ""]
            assert not [url for url in visit.urls if secret in url]
            assert secret not in await page.content()
            await page.get_by_role("button", name="Key", exact=True).click()
            assert await page.locator("#key-value").input_value() == ""
            await page.get_by_role("button", name="Forget it").click()
            await expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
            visit.forgive("401")


def database(folder: Any) -> str:
    return f"sqlite:///{folder}/page.db"


async def test_a_conversation_is_asked_again(board: Board, visiting: Visiting) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "And two?"},
    ]
    plan = {"quorum": 2, "floor": 0.5, "length_control": False}
    asked = {"messages": turns, "temperature": 0.5, "plan": plan, "tags": {"user": "u1"}}
    response = await board.client.post("/answer", json=asked)
    async with visiting(board.origin, f"/#/ask?from={response.json()['id']}") as visit:
        page = visit.page
        await expect(page.get_by_label("Prompt")).to_have_value("And two?")
        await page.get_by_role("button", name="Ask the board").click()
        await expect(page.locator(".winner h2")).to_contain_text("claude")
        again, before = (await board.client.get("/answers")).json()["answers"]
        requests = [
            (await board.client.get(f"/answers/{one['id']}/request")).json()
            for one in (before, again)
        ]
    assert requests[1] == requests[0]

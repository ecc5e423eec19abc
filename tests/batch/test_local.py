from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.batch import local
from app.batch.asking import AHEAD, Ending
from app.batch.files import sidecar
from app.batch.rows import Tally, answer_id
from app.cli import app
from app.domain import NANO
from app.ensemble import ABANDONED
from app.errors import ConfigurationError, DataError
from app.settings import Settings
from app.store import AnswerStore
from tests.conftest import settings
from tests.fakes.openai_compatible import OpenAICompatibleFake

ROWS = 300
REPLY = OpenAICompatibleFake.default_reply
SOURCE, OUT = Path("in.jsonl"), Path("out.jsonl")


def board(database_url: str, url: str | None = None, **given: Any) -> Settings:
    """One member: canned, or behind that URL."""
    member: Mapping[str, Any] = {"provider": "scripted", "reply": REPLY}
    if url:
        member = {"provider": "openai_compatible", "model": "m", "base_url": f"{url}/v1"}
    return settings(
        database_url=database_url,
        board=("member",),
        members={"member": member | given.pop("member", {})},
        scorer={"kind": "scripted", "rewards": {REPLY: 3.0}},
        **given,
    )


def write(rows: int, source: Path = SOURCE, **more: Any) -> None:
    lines = [{"id": f"row-{n}", "prompt": f"Question {n}?", **more} for n in range(rows)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))


def written(out: Path = OUT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@dataclass
class Watch:
    """What the command line would be told; `at` is done with the tally at every row."""

    at: Callable[[Watch], object] = lambda _: None
    tally: Tally = field(default_factory=Tally)
    stop: Callable[[], object] = lambda: None

    def began(self, rows: int, tally: Tally, stop: Callable[[], object]) -> None:
        self.rows, self.tally, self.before, self.stop = rows, tally, tally.rows, stop

    def wrote(self) -> None:
        self.at(self)


async def batch(board: Settings, watch: Watch | None = None, **given: Any) -> Ending:
    watch = watch or Watch()
    hooks = local.Hooks(watch.began, watch.wrote)
    return await local.run(board, SOURCE, OUT, hooks, **{"concurrency": 4, **given})


def each_once(rows: list[dict[str, Any]], count: int) -> None:
    assert [row["index"] for row in rows] == list(range(count))
    assert [row["id"] for row in rows] == [f"row-{n}" for n in range(count)]
    assert len({row["answer"]["id"] for row in rows}) == count


async def stored(database_url: str) -> dict[str, Any]:
    async with AnswerStore.open(database_url) as store:
        return {answer.id: answer async for answer in store.answers()}


async def test_line_k_answers_line_k_and_what_fails_is_a_row(database_url: str) -> None:
    write(20)
    lines = SOURCE.read_text().splitlines()
    lines[3], lines[7], lines[9] = "{", '{"id": "row-7", "prompt": "?", "members": ["nobody"]}', ""
    SOURCE.write_text("\n".join(lines))  # the last line has no end
    watch = Watch()
    assert await batch(board(database_url), watch) == "done"
    rows = written()
    assert [row["index"] for row in rows] == list(range(20))
    assert {n for n, row in enumerate(rows) if "error" in row} == {3, 7, 9}
    assert rows[7]["id"] == "row-7"
    assert "nobody is not seated" in rows[7]["error"]["detail"]
    assert rows[4]["answer"]["answer"] == REPLY
    assert watch.tally.as_document()["failed"] == {"invalid-request": 3}
    assert watch.rows == 20
    assert not sidecar(OUT).exists()
    assert {row["answer"]["id"] for row in rows if "answer" in row} == set(
        await stored(database_url)
    )


async def test_many_rows_that_are_not_valid_are_all_written(database_url: str) -> None:
    write(500)
    lines = SOURCE.read_text().splitlines()
    SOURCE.write_text("\n".join(["{"] * 200 + lines[200:300] + [""] * 200) + "\n")
    watch = Watch()
    assert await batch(board(database_url), watch) == "done"
    assert [row["index"] for row in written()] == list(range(500))
    assert (watch.tally.answered, watch.tally.failed.total()) == (100, 400)


@pytest.mark.usefixtures("at_once")
async def test_a_run_without_a_reply_is_a_row_with_its_failures(database_url: str) -> None:
    write(3)
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        fake.fail("server_error_500")
        await batch(board(database_url, fake.base_url))
    (error, *_) = errors = [row["error"] for row in written()]
    assert [one["status"] for one in errors] == [502] * 3
    assert error["members"][0]["failure"]["kind"] == "unavailable"
    assert set(await stored(database_url)) == {one["answer_id"] for one in errors}


@pytest.mark.usefixtures("at_once")
async def test_rows_wait_for_a_member_that_is_left_alone(database_url: str) -> None:
    write(60)
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        fake.fail("server_error_500")
        here = board(database_url, fake.base_url, breaker={"failures": 2, "cool_down_s": 0.3})

        def at(watch: Watch) -> None:
            if watch.tally.failed.total() == 6:
                fake.reset()

        watch = Watch(at)
        assert await batch(here, watch, concurrency=4) == "done"
        assert 6 <= watch.tally.failed.total() < 12
        assert watch.tally.answered + watch.tally.failed.total() == 60
        assert watch.rows == 60


async def test_slow_rows_hold_up_no_more_than_the_window(database_url: str) -> None:
    write(200)
    most, begun = 0, Counter[int]()
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)

        def at(watch: Watch) -> None:
            nonlocal most
            most = max(most, len(fake.requests) - watch.tally.rows)
            begun[fake.in_progress] += 1

        assert await batch(board(database_url, fake.base_url), Watch(at), concurrency=2) == "done"
    each_once(written(), 200)
    assert most <= 2 * AHEAD
    assert max(begun) <= 2


async def ended(*options: str, until: Callable[[], bool], by: signal.Signals) -> int:
    """How the command ended, which got a signal once it has come to that."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "batch", str(SOURCE), str(OUT), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    while process.returncode is None and not until():
        await asyncio.sleep(0.02)
    if process.returncode is None:
        process.send_signal(by)
    _, said = await process.communicate()
    assert process.returncode is not None, said
    return process.returncode


def configure(database_url: str, url: str) -> None:
    Path("starboard.toml").write_text(f"""
        database_url = "{database_url}"
        board = ["member"]
        self_check = false
        [members.member]
        provider = "openai_compatible"
        model = "m"
        base_url = "{url}/v1"
        [scorer]
        kind = "scripted"
        rewards = {{"{REPLY}" = 3.0}}
    """)


def lines_there() -> int:
    return OUT.read_bytes().count(b"\n") if OUT.is_file() else 0


async def test_killed_twice_and_interrupted_every_row_stands_there_once(database_url: str) -> None:
    write(ROWS)
    async with OpenAICompatibleFake(api_key=None, delay_s=0.02) as fake:
        fake.models = ("m",)
        configure(database_url, fake.base_url)

        def at(rows: int) -> Callable[[], bool]:
            return lambda: lines_there() >= rows

        options = ("--concurrency", "8")
        killed = await ended(*options, until=at(ROWS // 5), by=signal.SIGKILL)
        assert killed == -signal.SIGKILL
        # As if in the middle of a line, with what came before it on disk only in part.
        content = OUT.read_bytes()
        kept = content[: len(content) - 3000]
        OUT.write_bytes(kept)
        lost = lines_there() - kept.count(b"\n")
        paid = len(fake.requests)
        killed = await ended(*options, until=at(ROWS // 2), by=signal.SIGKILL)
        assert killed == -signal.SIGKILL
        assert lost >= 0
        stopped = await ended(*options, until=at(ROWS * 2 // 3), by=signal.SIGINT)
        assert stopped == 130
        assert sidecar(OUT).is_file()
        assert lines_there() < ROWS
        assert await ended(*options, until=lambda: False, by=signal.SIGINT) == 0
        assert paid < len(fake.requests)
        asked = Counter(str(request.sent["messages"]) for request in fake.requests)
    each_once(written(), ROWS)
    assert not sidecar(OUT).exists()
    assert len(asked) == ROWS
    # Whatever was under way when the process was killed was paid for, and not yet stored.
    assert sum(asked.values()) - ROWS <= 2 * 8
    assert max(asked.values()) <= 3
    assert set(await stored(database_url)) == {row["answer"]["id"] for row in written()}


async def test_what_is_stored_is_not_asked_again(database_url: str) -> None:
    """The output lost the last lines: the answers are written from the store."""
    write(40)
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        here = board(database_url, fake.base_url)
        watch = Watch(lambda watch: watch.tally.rows == 30 and watch.stop())
        assert await batch(here, watch) == "interrupted"
        before, asked = OUT.read_bytes(), len(fake.requests)
        OUT.write_bytes(before[:-2000])
        assert await batch(here) == "done"
        assert OUT.read_bytes().startswith(before)
        assert (asked, len(fake.requests)) == (len(fake.requests) - 40 + asked, 40)
    each_once(written(), 40)


@pytest.mark.usefixtures("at_once")
async def test_a_failed_run_that_is_stored_is_the_same_row_again(database_url: str) -> None:
    write(24)  # four at a time: some are left when it is told to stop
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        fake.fail("server_error_500")
        here = board(database_url, fake.base_url, breaker={"failures": 0})
        watch = Watch(lambda watch: watch.tally.rows == 9 and watch.stop())
        assert await batch(here, watch) == "interrupted"
        before, asked = written(), len(fake.requests)
        OUT.write_text("".join(json.dumps(row) + "\n" for row in before[:5]))
        fake.reset()
        assert await batch(here) == "done"
        assert len(fake.requests) == 24 - len(before)
    rows = written()
    assert [row["error"] for row in rows[: len(before)]] == [row["error"] for row in before]
    assert asked >= 9


async def test_a_run_that_was_given_up_is_asked_again_and_its_cost_counts(
    database_url: str,
) -> None:
    write(4, max_tokens=10)
    prices = {"member": {"input_per_million": 1000.0, "output_per_million": 1000.0}}
    async with OpenAICompatibleFake(api_key=None, delay_s=0.05) as fake:
        fake.models = ("m",)
        here = board(database_url, fake.base_url, prices=prices)

        def twice(watch: Watch) -> None:
            fake.delay_s = 60
            loop = asyncio.get_running_loop()
            loop.call_later(0.5, lambda: (watch.stop(), watch.stop()))

        assert await batch(here, Watch(twice), concurrency=1) == "interrupted"
        begun = json.loads(sidecar(OUT).read_text())
        fake.delay_s = 0
        assert await batch(here, concurrency=1) == "done"
    rows = written()
    each_once(rows, 4)
    answers = await stored(database_url)
    first, again = (answer_id(begun["nonce"], 1, attempt) for attempt in (0, 1))
    assert answers[first].selection.reason == ABANDONED
    assert rows[1]["answer"]["id"] == again
    bounds = [answers[id_].cost_bound_usd for id_ in (first, again)]
    assert rows[1]["cost_bound_usd"] == pytest.approx(sum(bounds))
    assert bounds[0] > 0
    assert rows[1]["cost_usd"] is None  # nobody knows what the call that was cut off cost
    assert len(answers) == 5


async def test_no_row_is_begun_that_may_pass_the_ceiling(database_url: str) -> None:
    write(30, max_tokens=8)
    prices = {"member": {"input_per_million": 1000.0, "output_per_million": 1000.0}}
    async with OpenAICompatibleFake(api_key=None, delay_s=0.01) as fake:
        fake.models = ("m",)
        here = board(database_url, fake.base_url, prices=prices)
        for ceiling_usd in (0.2, 0.4, 0.1):
            before = lines_there()
            watch = Watch()
            assert await batch(here, watch, ceiling=round(ceiling_usd * NANO)) == "ceiling"
            spent_usd = sum(row["cost_bound_usd"] for row in written())
            assert watch.tally.spent == round(spent_usd * NANO)
            if ceiling_usd < 0.2:
                assert lines_there() == before  # it goes for the whole batch
            else:
                assert lines_there() > before
                assert ceiling_usd - 0.1 < spent_usd <= ceiling_usd
        assert await batch(here, ceiling=100 * NANO) == "done"
        assert len(fake.requests) == 30
    each_once(written(), 30)


async def test_a_ceiling_needs_prices(database_url: str) -> None:
    write(5)
    async with OpenAICompatibleFake(api_key=None) as fake:
        fake.models = ("m",)
        here = board(database_url, fake.base_url)
        with pytest.raises(ConfigurationError, match=r"price of member is not known.*\[prices.mem"):
            await batch(here, ceiling=NANO)
        assert not fake.requests
        stop = Watch(lambda watch: watch.stop())
        assert await batch(here, stop, concurrency=1) == "interrupted"
        priced = board(
            database_url,
            fake.base_url,
            prices={"member": {"input_per_million": 1, "output_per_million": 1}},
        )
        with pytest.raises(ConfigurationError, match="no ceiling can be held"):
            await batch(priced, ceiling=NANO)
        assert await batch(priced) == "done"


async def test_an_output_goes_on_with_its_own_input_and_board_only(database_url: str) -> None:
    write(10)
    here = board(database_url)
    watch = Watch(lambda watch: watch.stop())
    assert await batch(here, watch, concurrency=1) == "interrupted"
    kept = SOURCE.read_text(), OUT.read_bytes()
    write(11)
    with pytest.raises(ConfigurationError, match=r"begun otherwise \(input\.bytes .*input\.sha256"):
        await batch(here)
    SOURCE.write_text(kept[0])
    other = board(database_url, member={"model": "other"})
    with pytest.raises(ConfigurationError, match=r"board\.members\.member scripted, now other"):
        await batch(other)
    with pytest.raises(ConfigurationError, match=r"delete out\.jsonl and out\.jsonl\.run"):
        await batch(board("sqlite:///other.db"))
    assert OUT.read_bytes() == kept[1]
    assert await batch(here, concurrency=9) == "done"
    each_once(written(), 10)
    with pytest.raises(ConfigurationError, match=r"is there already, and out\.jsonl\.run is not"):
        await batch(here)


async def test_one_process_at_a_time_writes_an_output(database_url: str) -> None:
    write(3)
    others: list[Exception] = []

    def at(_: Watch) -> None:
        from app.batch.files import lock

        with OUT.open("ab") as file:
            try:
                lock(file.fileno(), OUT)
            except ConfigurationError as error:
                others.append(error)

    assert await batch(board(database_url), Watch(at)) == "done"
    assert len(others) == 3
    assert "another process is writing out.jsonl" in str(others[0])


async def test_an_output_that_was_changed_is_named(database_url: str) -> None:
    write(5)
    stop = Watch(lambda watch: watch.stop())
    assert await batch(board(database_url), stop, concurrency=1) == "interrupted"
    first = OUT.read_bytes().splitlines(keepends=True)[0]
    OUT.write_bytes(first + b'{"index": 1}\n')
    with pytest.raises(DataError, match=r"out\.jsonl, line 2: not a row of a batch"):
        await batch(board(database_url))


async def test_an_empty_input_is_named(database_url: str) -> None:
    SOURCE.write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        await batch(board(database_url))
    assert not OUT.exists()


async def test_a_database_that_is_none_is_named() -> None:
    write(1)
    with pytest.raises(ConfigurationError, match="STARBOARD_DATABASE_URL is not usable"):
        await batch(board("nonsense"))
    assert not OUT.exists()


async def test_a_relative_database_is_found_from_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(6)
    here = board("sqlite:///answers.db")
    assert await batch(here, Watch(lambda watch: watch.stop()), concurrency=1) == "interrupted"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source, out = SOURCE.resolve(), OUT.resolve()
    monkeypatch.chdir(elsewhere)
    hooks = local.Hooks(lambda *_: None, lambda: None)
    with pytest.raises(ConfigurationError, match=r"board\.database "):
        await local.run(here, source, out, hooks, concurrency=1)


def test_the_command_says_how_it_ended() -> None:
    write(4, max_tokens=8)
    Path("starboard.toml").write_text(f"""
        board = ["member"]
        prices.member = {{ input_per_million = 1e6, output_per_million = 1e6 }}
        members.member = {{ provider = "scripted", reply = "{REPLY}" }}
        scorer.kind = "embedded"
    """)
    command = ["batch", str(SOURCE), str(OUT)]
    ended = CliRunner().invoke(app, [*command, "--max-cost-usd", "0.001"])
    assert ended.exit_code == 3
    assert "The next row could take the batch over 0.001 USD" in ended.stderr
    assert "0 of 4 rows: 0 answered" in ended.stderr
    ended = CliRunner().invoke(app, [*command, "--json"])
    assert ended.exit_code == 0, ended.output
    summary = json.loads(ended.stdout)
    assert (summary["of"], summary["answered"], summary["failed"]) == (4, 4, {})
    assert summary["rows_here"] == 4
    assert ended.stderr == ""  # no bar where there is no terminal
    assert os.path.getsize(OUT) > 0

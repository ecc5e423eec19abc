from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app, main
from app.store import AnswerStore
from tests.samples import competition, scored
from tests.serving import serving

BOARD = """
database_url = "sqlite:///answers.db"
board = ["a", "b"]
[members.a]
provider = "scripted"
reply = "first [bold]reply[/bold]"
[members.b]
provider = "scripted"
reply = "second"
[scorer]
kind = "scripted"
rewards = {"second" = 2.0, "first [bold]reply[/bold]" = 3.0}
"""


@pytest.fixture
def board() -> None:
    Path("starboard.toml").write_text(BOARD)


def run(*arguments: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("board")
def test_ask_shows_the_best_reply_and_every_score(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run("ask", "Which?")
    assert "first [bold]reply[/bold]" in shown  # a model's text is not markup
    for told in ("3.00", "2.00", "highest reward of 2 scored candidates", "margin 1.00"):
        assert told in shown


@pytest.mark.usefixtures("board")
def test_ask_as_json_is_the_document_of_the_api() -> None:
    document = json.loads(run("ask", "Which?", "--json", "--member", "b"))
    assert (document["answer"], document["member"]) == ("second", "b")


@pytest.mark.usefixtures("board")
def test_ask_reads_standard_input() -> None:
    assert json.loads(run("ask", "-", "--json", stdin="Which?"))["reward"] == 3.0


@pytest.mark.usefixtures("board")
def test_score_shows_a_row_for_each_reply() -> None:
    shown = run("score", "Which?", "second", "unknown")
    assert "2.00" in shown
    assert "scripted: no" in shown
    rows = json.loads(run("score", "Which?", "second", "unknown", "--json"))["scores"]
    assert [row["reward"] for row in rows] == [2.0, None]
    assert rows[1]["failure"]["message"] == "scripted: no reward is written for it"


@pytest.mark.usefixtures("board")
def test_stored_answers_are_exported_and_erased() -> None:
    run("ask", "Which?", "--json")
    run("ask", "Which?", "--json", "--member", "b")
    rows = [json.loads(line) for line in run("export").splitlines()]
    assert [json.loads(row["provenance"])["member"] for row in rows] == ["a", "b"]
    Path("starboard.toml").write_text(BOARD.replace("[members.b]", "[members.b]\ntrainable=false"))
    rows = [json.loads(line) for line in run("export", "--format", "sft").splitlines()]
    assert [json.loads(row["provenance"])["member"] for row in rows] == ["a"]
    result = CliRunner().invoke(app, ["export", "--all-members"])
    assert [json.loads(line)["completion"] for line in result.stdout.splitlines()][1:] == [
        [{"role": "assistant", "content": "second"}]
    ]
    assert "forbid" in result.stderr
    run("erase", json.loads(rows[0]["provenance"])["answer"])
    assert run("export") == ""


@pytest.mark.usefixtures("board")
def test_answers_are_erased_by_tag() -> None:
    tagged = [replace(competition(n, scored("a", 1.0)), tags={"user": f"u{n}"}) for n in (1, 2)]

    async def save() -> None:
        async with AnswerStore.open("sqlite:///answers.db") as store:
            for one in tagged:
                await store.save(one)

    asyncio.run(save())
    result = CliRunner().invoke(app, ["erase", "--tag", "user:u1"])
    assert "1 answers erased" in result.stderr
    assert asyncio.run(stored()) == ["comp_2"]


async def stored() -> list[str]:
    async with AnswerStore.open("sqlite:///answers.db") as store:
        return [one.id async for one in store.answers()]


@pytest.mark.usefixtures("board")
def test_answers_are_erased_by_id_also_beside_ids_that_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def save() -> None:
        async with AnswerStore.open("sqlite:///answers.db") as store:
            for number in range(3):
                await store.save(competition(number, scored("a", 1.0)))

    asyncio.run(save())
    ids = ("comp_0", "none_1", "comp_2", "none_2")
    monkeypatch.setattr(sys, "argv", ["starboard", "erase", *ids])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, asyncio.run(stored())) == (2, ["comp_1"])
    assert "2 answers erased" in said
    assert "there is no answer none_1, none_2" in said


@pytest.mark.usefixtures("board")
def test_answers_are_exported_and_erased_by_the_key_that_asked() -> None:
    keys = [json.loads(run("keys", "create", name, "--json")) for name in ("one", "two")]

    async def save() -> None:
        async with AnswerStore.open("sqlite:///answers.db") as store:
            for number in range(3):
                one = competition(number, scored("a", 1.0), minute=number)
                winner = replace(one.selection, winner=f"comp_{number}_0")
                await store.save(replace(one, selection=winner, key_id=keys[number % 2]["id"]))

    def exported(*options: str) -> list[str]:
        rows = map(json.loads, run("export", *options).splitlines())
        return [json.loads(row["provenance"])["answer"] for row in rows]

    asyncio.run(save())
    assert exported("--key", keys[0]["prefix"]) == ["comp_0", "comp_2"]
    run("keys", "revoke", keys[0]["id"])
    result = CliRunner().invoke(app, ["erase", "--key", keys[0]["id"]])
    assert "2 answers erased" in result.stderr
    assert exported() == exported("--key", keys[1]["id"]) == ["comp_1"]


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which answers"),
        (("ans_1", "--key", "key_1"), "say which answers"),
        (("--key", "key_none"), "there is no key key_none"),
        (("--key", "", "--tag", "a:b"), "there is no key"),
        (("ans_1", "--tag", "a:b"), "say which answers"),
        (("--tag", "user"), "--tag user:u1"),
        (("ans_1",), "there is no answer ans_1"),
    ],
)
def test_erasing_must_say_what(
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["starboard", "erase", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("board")
def test_a_scorer_is_measured_on_pairs() -> None:
    rows = [
        {"set": "one", "prompt": "p", "better": "first [bold]reply[/bold]", "worse": "second"},
        {"set": "two", "prompt": "p", "better": "second", "worse": "first [bold]reply[/bold]"},
        {"set": "two", "prompt": "p", "better": "second", "worse": "unknown"},
    ]
    Path("pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    shown = run("scorer", "eval", "pairs.jsonl", "--report", "report")
    assert "| one | 1 | 100.0%" in shown
    assert "| two | 1 | 0.0%" in shown
    assert "| all | 2 | 50.0%" in shown
    kept = json.loads(Path("report/evaluation.json").read_text())
    assert [row["unscored"] for row in kept["sets"]] == [0, 1, 1]
    assert "<svg" in Path("report/evaluation.svg").read_text()


@pytest.mark.usefixtures("board")
def test_models_shows_who_sits_and_who_does_not() -> None:
    shown = run("models")
    assert "not named in board" in shown
    seats = {seat["name"]: seat for seat in json.loads(run("models", "--json"))["members"]}
    assert seats["a"]["seated"]
    assert not seats["claude"]["seated"]
    assert (seats["a"]["trainable"], seats["claude"]["trainable"]) == (True, False)


@pytest.mark.usefixtures("board")
def test_models_shows_win_rates() -> None:
    async def compete() -> None:
        async with AnswerStore.open("sqlite:///answers.db") as store:
            for n, reward in enumerate((1.0, 3.0, 3.0)):
                await store.save(competition(n, scored("a", reward), scored("b", 2.0)))

    asyncio.run(compete())
    assert run("models").count("too few yet: 3") == 2
    few = json.loads(run("models", "--json"))["members"]
    assert [(s["win_rate"], s["competed"]) for s in few[:3]] == [(None, 3), (None, 3), (None, None)]
    with Path("starboard.toml").open("r+") as file:
        rest = file.read()
        file.seek(0)
        file.write(f'standing = "wins"\nstanding_min = 3\n{rest}')
    shown = run("models")
    assert "66.7% of 3" in shown
    assert "Ties go to the higher win rate" in shown


@pytest.mark.usefixtures("board")
def test_models_is_shown_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARBOARD_DATABASE_URL", "sqlite:////nowhere/answers.db")
    monkeypatch.setenv("STARBOARD_STANDING", "wins")
    monkeypatch.setenv("COLUMNS", "200")
    done = starboard("models")
    assert done.returncode == 0
    assert "not named in board" in done.stdout
    assert "Ties go to the seat higher up. Scorer" in done.stdout
    assert "Win rates are not known: cannot open the database" in done.stderr


def test_a_key_is_made_listed_and_revoked() -> None:
    limits = ["--per-minute", "3", "--budget-usd", "1.5", "--period", "month", "--days", "7"]
    done = starboard("keys", "create", "ci", "--scope", "answer", *limits)
    secret = done.stdout.strip()
    assert secret.startswith("sk-sb-")
    assert secret not in done.stderr
    [key] = json.loads(starboard("keys", "list", "--json").stdout)["keys"]
    assert (key["name"], key["scopes"], key["budget_usd"]) == ("ci", ["answer"], 1.5)
    assert (key["per_minute"], key["period"], key["good"]) == (3, "month", True)
    assert secret not in json.dumps(key)
    assert starboard("keys", "revoke", key["prefix"]).returncode == 0
    assert "revoked" in starboard("keys", "list").stdout
    unknown = starboard("keys", "revoke", "sk-sb-nobody")
    assert unknown.returncode == 2
    assert "there is no key sk-sb-nobody" in unknown.stderr
    assert "stored as a hash" in run("keys", "create", "--help")


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("n" * 201,), "at most 200 characters"),
        (("ci", "--days", "1e9"), "36500"),
        (("ci", "--days", "nan"), "36500"),
        (("ci", "--budget-usd", "inf"), "9000000000"),
        (("ci", "--budget-usd", "1e11"), "9000000000"),
        (("ci", "--per-minute", "3000000000"), "1000000"),
        (("ci", "--concurrency", "3000000000"), "1000000"),
        (("ci", "--scope", "write"), "admin"),
        (("ci", "--period", "year"), "month"),
    ],
)
def test_a_key_has_limits_that_can_be(
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["starboard", "keys", "create", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert json.loads(run("keys", "list", "--json")) == {"keys": []}


@pytest.mark.usefixtures("board")
def test_the_largest_limits_are_kept() -> None:
    most = ("--days", "36500", "--per-minute", "1000000", "--concurrency", "1000000")
    made = json.loads(run("keys", "create", "n" * 200, *most, "--budget-usd", "9e9", "--json"))
    assert (made["budget_usd"], made["per_minute"], len(made["name"])) == (9e9, 1_000_000, 200)


def test_the_version_is_told() -> None:
    assert run("--version").strip() == metadata.version("starboard")


def test_help_helps() -> None:
    shown = run("--help")
    for command in ("serve", "ask", "models"):
        assert command in shown
    assert "Sampling temperature" in run("ask", "--help")


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ('board = ["nobody"]', ["models"], "no member named nobody"),
        ("= x", ["models"], "starboard.toml"),
        ('scorer = "nvidia"', ["ask", "a"], "NVIDIA_API_KEY"),
        ('scorer = "nvidia"', ["serve"], "NVIDIA_API_KEY"),
        ('board = ["claude"]', ["ask", "a"], "No member is seated"),
        (BOARD, ["ask", " "], "prompt"),
        (BOARD, ["scorer", "eval", "nowhere.jsonl"], "nowhere.jsonl"),
        (BOARD, ["scorer", "eval", "a", "--model", "b", "--scorer", "c"], "choose one"),
        (BOARD, ["scorer", "eval", "a", "--max-tokens", "64"], "--max-tokens is for --model"),
        (BOARD, ["scorer", "eval", "starboard.toml"], "starboard.toml, line"),
        (BOARD, ["scorer", "train", "nowhere.jsonl", "--out", "o"], "nowhere.jsonl"),
        (BOARD, ["ask", "a", "--member", "zed"], "zed is not seated"),
        (BOARD, ["ask", "a", "--temperature", "9"], "temperature"),
    ],
)
def test_what_can_be_mended_is_said_in_a_line(config: str, arguments: list[str], told: str) -> None:
    Path("starboard.toml").write_text(config)
    done = starboard(*arguments)
    assert done.returncode in (2, 3)  # 3 is uvicorn's, for an app that does not start
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_board_on_which_all_fail_is_told_by_member() -> None:
    Path("starboard.toml").write_text(
        'board = ["x"]\n[members.x]\nprovider = "openai_compatible"\n'
        'base_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    )
    done = starboard("ask", "a")
    assert done.returncode == 2
    assert "x: connection failed" in done.stderr


def test_main_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["starboard", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0


@pytest.mark.usefixtures("board")
def test_no_returned_answer_is_lost_when_the_process_is_killed() -> None:
    """Four clients collect ids while the server is killed with -9; a new one knows them all."""
    returned: list[str] = []
    for _ in range(3):
        with serving() as (server, url), ThreadPoolExecutor(4) as clients:
            for _ in range(4):
                clients.submit(collect, url, returned)
            time.sleep(1)
            server.kill()
    assert len(returned) > 10
    with serving() as (server, url):
        for id_ in returned:
            with urllib.request.urlopen(f"{url}/answers/{id_}", timeout=5) as response:
                assert json.load(response)["id"] == id_
        server.terminate()
        assert server.wait(10) == 0


def test_migrate_makes_the_database_and_ends() -> None:
    done = starboard("migrate")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("starboard.db").stat().st_size > 0


def starboard(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def collect(url: str, returned: list[str]) -> None:
    """Ask until the server is gone."""
    body, kind = json.dumps({"prompt": "Which?"}).encode(), {"content-type": "application/json"}
    with contextlib.suppress(OSError, http.client.HTTPException):
        while True:
            request = urllib.request.Request(f"{url}/answer", body, kind)
            with urllib.request.urlopen(request, timeout=5) as response:
                returned.append(json.load(response)["id"])

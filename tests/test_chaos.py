"""A short slice of the schedule of benchmarks/chaos.py, and whether its checks can fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos import run
from chaos_answers import MEMBERS, mistakes, reply_of, scores_of
from chaos_faults import EVERYTHING, Phase, lock
from chaos_rig import Money
from overhead import started

from app.domain import Attributes, Weights
from tests.serving import wait_for

NONCE, OTHER = f"nonce-{'0' * 16}", f"nonce-{'1' * 16}"
STORE = frozenset({502, 503, 504})
SLICE = (
    Phase("locked database", lock, STORE, grace_s=25, exact=False),
    Phase("all of upstream", EVERYTHING),
)


async def test_what_must_hold_holds_through_a_slice_of_the_schedule() -> None:
    tallies, left_out = await run("sqlite", SLICE, 3, clients=8, leaks_of_each=False)
    assert [said for tally in tallies for said in tally.said] == []
    assert left_out == []
    calm, *faulty = tallies
    assert calm.given == calm.asked > 0
    assert calm.degraded == 0
    for tally in faulty:
        assert tally.faults > 0, tally.phase
        assert tally.given > 0, tally.phase
    assert faulty[-1].degraded > 0


def test_what_is_booked_too_little_or_twice_is_found_out() -> None:
    before = Money(100, {"a": 100}, {"lease_a": 70}, runs=1)
    now = Money(300, {"a": 100, "b": 100, "c": 100}, {"lease_a": 70}, runs=3)
    assert now.since(before) == Money(200, {"b": 100, "c": 100}, {}, 2)

    def wrong(booked: int, not_booked: int = 0, runs: int = 3, **how: Any) -> bool:
        said = {**before.not_booked, **({"lease_b": not_booked} if not_booked else {})}
        later = replace(now, booked=booked, not_booked=said, runs=runs)
        return later.since(before).wrong(**how) is not None

    assert not wrong(300, exact=True)
    assert wrong(299, exact=True)
    assert wrong(301, exact=True)
    assert not wrong(300, exact=False)
    assert wrong(299, exact=False)  # what an earlier phase did not book excuses nothing
    assert not wrong(200, 100, exact=False)
    assert wrong(199, 100, exact=False)
    assert wrong(400, exact=False)
    assert not wrong(400, runs=4, exact=False)  # one that asked, and is not stored
    assert not wrong(200, exact=False, given=100)
    assert wrong(199, exact=False, given=100)


def test_a_service_that_may_not_write_to_files_is_still_heard(tmp_path: Path) -> None:
    """In parts, as it says them."""
    said = (
        "import resource, time\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print('one', flush=True)\n"
        "time.sleep(60)"
    )
    process, log = started([sys.executable, "-c", said], {}, tmp_path)
    try:
        wait_for(lambda: log.read_text() == "one\n")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def right() -> dict[str, Any]:
    """A whole answer, with nothing wrong."""
    candidates = [candidate(name) for name in MEMBERS]
    best = max(candidates, key=lambda one: float(one["reward"]))
    return {
        "answer": best["text"],
        "member": best["member"],
        "decision": {"winner": best["id"], "resolution": 0.1},
        "quality": "full",
        "missing": [],
        "candidates": candidates,
    }


def candidate(name: str) -> dict[str, Any]:
    text = reply_of(name, NONCE)
    scores = scores_of(text)
    reward = Weights().reward(Attributes(**scores))
    facts = {"id": f"cand_{name}", "member": name, "failure": None}
    return {**facts, "text": text, "scores": scores, "reward": reward}


def reply_to_another(document: dict[str, Any]) -> None:
    first = document["candidates"][0]
    first["text"] = reply_of(first["member"], OTHER)


def another_members_reply(document: dict[str, Any]) -> None:
    first, second, *_ = document["candidates"]
    first["text"] = second["text"]


def cut_short(document: dict[str, Any]) -> None:
    first = document["candidates"][0]
    first["text"] = first["text"][:-1]


def scores_of_another(document: dict[str, Any]) -> None:
    first, second, *_ = document["candidates"]
    first["scores"] = second["scores"]


def a_worse_one_chosen(document: dict[str, Any]) -> None:
    worst = min(document["candidates"], key=lambda one: float(one["reward"]))
    document.update(answer=worst["text"], member=worst["member"])
    document["decision"]["winner"] = worst["id"]


def not_the_chosen_one(document: dict[str, Any]) -> None:
    document["answer"] = "the text of an error"


def nobody_chosen(document: dict[str, Any]) -> None:
    document["decision"]["winner"] = None


def a_failure_hushed_up(document: dict[str, Any]) -> None:
    chosen = document["decision"]["winner"]
    lost = next(one for one in document["candidates"] if one["id"] != chosen)
    lost.update(text=None, scores=None, reward=None, failure={"kind": "timeout"})


def a_member_left_out(document: dict[str, Any]) -> None:
    chosen = document["decision"]["winner"]
    document["candidates"].remove(
        next(one for one in document["candidates"] if one["id"] != chosen)
    )


def test_a_right_answer_has_no_mistakes() -> None:
    assert list(mistakes(right(), NONCE)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        reply_to_another,
        another_members_reply,
        cut_short,
        scores_of_another,
        a_worse_one_chosen,
        not_the_chosen_one,
        nobody_chosen,
        a_failure_hushed_up,
        a_member_left_out,
    ],
)
def test_a_wrong_answer_is_found_out(spoil: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(json.dumps(right()))
    spoil(document)
    assert list(mistakes(document, NONCE)) != []

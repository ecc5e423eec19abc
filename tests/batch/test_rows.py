from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from app.api.problems import Problem, problem_of
from app.batch.inputs import lines, survey
from app.batch.rows import BatchRequest, RowDocument, Tally, answer_id, failed, read
from app.errors import DataError, NoCandidateError

LIMIT = 1000


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (b"", 422, "the line is empty"),
        (b"  ", 422, "the line is empty"),
        (b"{", 422, "the body is not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', 422, "the same name twice"),
        (b'{"prompt": "\xff"}', 422, "not UTF-8"),
        (b"[]", 422, "body: "),
        (b"{}", 422, "exactly one of prompt and messages"),
        (b'{"prompt": "a", "max_tokens": "64"}', 422, "max_tokens: "),
        (b'{"prompt": "a", "stream": true}', 422, "stream: rows of a batch are not streamed"),
        (b'{"prompt": "a", "id": {}}', 422, "id"),
        (b'{"prompt": "a", "model": "m"}', 422, "model: Extra inputs are not permitted"),
        (None, 413, "over 1,000 bytes"),
    ],
)
def test_what_is_not_a_request_is_a_row_that_says_why(
    line: bytes | None, status: int, told: str
) -> None:
    row = read(7, line, LIMIT)
    assert isinstance(row, RowDocument)
    document = json.loads(row.line())
    assert (document["index"], document["error"]["status"]) == (7, status)
    assert told in document["error"]["detail"]
    assert "answer" not in document
    assert (document["cost_usd"], document["cost_bound_usd"]) == (0.0, 0.0)


def test_a_request_has_what_post_answer_takes_and_an_id() -> None:
    given = {"id": 5, "messages": [{"role": "user", "content": "Why?"}], "stream": False}
    row = read(0, json.dumps(given).encode(), LIMIT)
    assert isinstance(row, BatchRequest)
    assert row.id == 5
    assert row.to_prompt(64).turns[-1].content == "Why?"


def test_the_id_of_a_row_that_is_not_valid_is_kept() -> None:
    for id_ in ("x", 3):
        row = read(0, json.dumps({"id": id_}).encode(), LIMIT)
        assert isinstance(row, RowDocument)
        assert row.id == id_


def test_ids_of_answers_differ_by_row_attempt_and_batch() -> None:
    ids = {
        answer_id(nonce, index, attempt)
        for nonce in ("a", "b")
        for index in range(50)
        for attempt in range(3)
    }
    assert len(ids) == 300
    assert answer_id("a", 1) in ids


def test_a_tally_counts_what_the_rows_say() -> None:
    tally = Tally()
    error = problem_of(NoCandidateError("0 of 1 replied", {}, "ans_1"))
    for row in (
        failed(0, None, Problem(title="Content Too Large", status=413)),
        failed(1, None, error, cost_usd=None, cost_bound_usd=0.25),
        failed(2, None, error, cost_usd=None, cost_bound_usd=None),
    ):
        tally.add(row.line())
    assert tally.as_document() == {
        "rows": 3,
        "answered": 0,
        "degraded": 0,
        "failed": {"no-candidate": 2, "content-too-large": 1},
        "cost_usd": 0.0,
        "cost_unknown": 2,
    }
    assert (tally.spent, tally.unpriced) == (250_000_000, 1)
    for line in (b"{}", b"[]", b"7", b"{", b'{"cost_usd": 0, "cost_bound_usd": 0}'):
        with pytest.raises(DataError, match="not a row of a batch"):
            tally.add(line)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_long_lines_are_passed_over(end: bytes) -> None:
    texts = [b"a" * 9, b"b" * 10, b"c" * 11, b"d" * 5000, b"", b"e" * 10, b"f" * 11]
    file = io.BytesIO(end.join(texts))
    assert list(lines(file, 10)) == [b"a" * 9, b"b" * 10, None, None, b"", b"e" * 10, None]


def test_a_survey_finds_where_lines_begin(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    content = b"".join(b"%d" % number * (number % 5 + 1) + b"\n" for number in range(10)) + b"last"
    path.write_bytes(content)
    found = survey(path, every=4)
    assert (found.rows, found.size) == (11, len(content))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    texts = content.splitlines(keepends=True)
    assert found.starts == [sum(map(len, texts[:first])) for first in (0, 4, 8)]
    with pytest.raises(DataError, match=r"missing\.jsonl cannot be read: No such file"):
        survey(tmp_path / "missing.jsonl")

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from app.errors import DataError
from app.jsonl import read_rows


def test_rows_come_with_their_place_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    found = list(read_rows(path))
    assert [row for _, row in found] == [{"a": 1}, {"a": 2}]
    assert [where for where, _ in found] == [f"{path}, line 1", f"{path}, line 3"]


def test_a_packed_file_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('{"a": "é"}')
    assert [row for _, row in read_rows(path)] == [{"a": "é"}]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (b'{"a": 1}\n{', "line 2"),
        (b"[1]", "line 1: not a JSON object"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        list(read_rows(path))


@pytest.mark.parametrize("content", [b"plain", b"\x1f\x8b\x08\x00broken"])
def test_a_packed_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz cannot be read"):
        list(read_rows(path))

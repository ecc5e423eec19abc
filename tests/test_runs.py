"""Run directories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.runs import begin, write_rows, write_text


def test_a_run_goes_on_with_the_same_manifest_only(tmp_path: Path) -> None:
    out = tmp_path / "run"
    begin(out, {"seed": 1, "method": {"shares": (1, 2), "k": 3}})
    before = (out / "manifest.json").read_bytes()
    (out / "rows.jsonl").touch()
    begin(out, {"seed": 1, "method": {"shares": [1, 2], "k": 3}})
    assert (out / "manifest.json").read_bytes() == before
    with pytest.raises(ConfigurationError, match=r"\(method\.k 3, now 4, seed 1, now not set\)"):
        begin(out, {"method": {"shares": [1, 2], "k": 4}})


def test_a_run_that_made_nothing_yet_can_be_begun_otherwise(tmp_path: Path) -> None:
    begin(tmp_path, {"base": "a typing error"})
    begin(tmp_path, {"base": "b"})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"base": "b"}


def test_no_run_begins_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigurationError, match="not empty, and holds no run"):
        begin(tmp_path, {})


def test_a_file_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": "ä"}, {"a": 1}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": "ä"}, {"a": 1}]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "half")
    assert path.read_text().count("\n") == 2


def test_what_takes_a_files_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the renaming finds the content."""
    synced: list[int] = []
    replace = Path.replace

    def sync(file: int) -> None:
        synced.append(os.fstat(file).st_size)

    def renamed(partial: Path, path: Path) -> Path:
        assert synced == [len("whole")]
        return replace(partial, path)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "rows.jsonl", "whole")
    assert (tmp_path / "rows.jsonl").read_text() == "whole"


def test_what_an_interruption_left_does_not_stop_a_run_from_beginning(tmp_path: Path) -> None:
    (tmp_path / "manifest.json.partial").write_text("{")
    begin(tmp_path, {"seed": 1})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"seed": 1}

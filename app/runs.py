"""Run directories: a manifest of what made them, and files that are whole or not there,
whatever ended the process or the machine.

A run that was interrupted is begun again by the same command; what stands there is not made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from app.errors import ConfigurationError


class _Nothing:
    """Where one of two runs has no such setting; None may be a setting's value."""

    def __str__(self) -> str:
        return "not set"


NOTHING = _Nothing()


def begin(out: Path, manifest: Mapping[str, object], name: str = "manifest.json") -> None:
    """Write the manifest of a new run; for one that goes on, see that it is the same run.

    Raises `ConfigurationError` if `out` holds another run, or something else.
    """
    path = out / name
    ours = json.loads(json.dumps(manifest))
    ours_alone = (path, _partial(path))
    others = [one for one in out.iterdir() if one not in ours_alone] if out.is_dir() else []
    if path.is_file() and others:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs != ours:
            changed = ", ".join(differences(theirs, ours))
            raise ConfigurationError(
                f"{out} holds a run that was begun otherwise ({changed}): give it the same again,"
                " or name another folder"
            )
        return
    if others:
        raise ConfigurationError(f"{out} is not empty, and holds no run: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(ours, indent=2))


def differences(theirs: object, ours: object, name: str = "") -> list[str]:
    """What is not the same, as "method.seed 1, now 2"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            found
            for key in sorted(theirs | ours)
            for found in differences(
                theirs.get(key, NOTHING), ours.get(key, NOTHING), f"{name}.{key}".strip(".")
            )
        ]
    return [] if theirs == ours else [f"{name} {theirs}, now {ours}"]


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = _partial(path)
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name and no content
    partial.replace(path)


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """The same for JSON lines; no rows make an empty file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")

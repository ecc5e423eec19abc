"""A promoted adapter as a member: the row that seats it."""

from __future__ import annotations

import json
from pathlib import Path


def member_row(name: str, base: str, adapter: Path) -> str:
    """The row of `starboard.toml` that seats an adapter in the service's own process.

    Paths are written out in full: the service may be started elsewhere.
    """
    model = str(Path(base).absolute()) if Path(base).is_dir() else base
    return _row(name, "local", model, adapter)


def embedded_member_row(name: str, base: str, exported: Path) -> str:
    """The same for an embedded model and an adapter that was exported as GGUF."""
    return _row(name, "embedded", base, exported)


def _row(name: str, provider: str, model: str, adapter: Path) -> str:
    row = {"provider": provider, "model": model, "adapter": str(adapter.absolute())}
    lines = [f"{key} = {_quoted(value)}" for key, value in row.items()]
    return "\n".join([f"[members.{_quoted(name)}]", *lines, ""])


def _quoted(text: str) -> str:
    """A basic string of TOML, which escapes as JSON does, and DEL besides."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")

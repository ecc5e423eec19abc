"""The trace of one answer, drawn as a waterfall: docs/pictures/trace.svg.

    python benchmarks/waterfall.py docs/pictures/trace.svg

Serves Starboard on loopback, with the tests' fake servers for three members and a reward model:
one member is slow, one fails at first, one sends a broken reply. The exporter sends the trace to
the tests' collector; what arrived is checked, then drawn. Times differ from run to run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from report import save

from app.api import create_app
from tests.conftest import settings
from tests.fakes.anthropic import AnthropicFake
from tests.fakes.google import GoogleFake
from tests.fakes.mistral import MistralFake
from tests.fakes.nvidia import DEFAULT_SCORES, NvidiaFake
from tests.fakes.otlp import collecting, values
from tests.fakes.wire import UPSTREAM_CANARY
from tests.serving import serve

PROMPT = "Why is the sky blue?"
BEST = "Air scatters blue light more than red."
REPLIES = {BEST: 3.4, "It mirrors the sea.": 1.2}
# By the first word of a span's name. Told apart with any colour vision (Okabe and Ito's palette).
KINDS = {
    "invoke_workflow": ("the run", "#595959"),
    "chat": ("a call to a member", "#0072B2"),
    "evaluate": ("a call to the scorer", "#E69F00"),
    "save": ("storing", "#009E73"),
}
FAILED = "#B22222"
# Pixels: the whole, the columns beside the bars, a row, and the space around the rows.
WIDTH, NAMES, TIMES, ROW, ABOVE, BELOW = 900, 290, 75, 40, 45, 50
INDENT = 18
DPI = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path, help="an SVG file to write")
    picture = parser.parse_args().picture.absolute()
    spans = asyncio.run(export())
    check(spans)
    draw(spans, picture)


async def export() -> list[Any]:
    """The spans of one answer, as the collector got them."""
    async with AsyncExitStack() as stack:
        stack.enter_context(chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        collector = await stack.enter_async_context(collecting())
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        stack.enter_context(patch.dict(os.environ, variables, clear=True))
        claude = await stack.enter_async_context(AnthropicFake(delay_s=0.9))
        gemma = await stack.enter_async_context(GoogleFake(delay_s=0.6))
        mistral = await stack.enter_async_context(MistralFake(delay_s=0.25))
        nvidia = await stack.enter_async_context(NvidiaFake(delay_s=0.3))
        claude.reply, mistral.reply = REPLIES
        gemma.fail("truncated_json")
        nvidia.scores = lambda reply: {**DEFAULT_SCORES, "helpfulness": REPLIES[reply]}
        ours = settings(
            database_url="sqlite:///answers.db",
            board=("claude", "gemma", "mistral"),
            members={
                "claude": {"base_url": claude.base_url},
                "gemma": {"base_url": gemma.base_url},
                "mistral": {"base_url": mistral.base_url},
            },
            ANTHROPIC_API_KEY=claude.api_key,
            GEMINI_API_KEY=gemma.api_key,
            MISTRAL_API_KEY=mistral.api_key,
            NVIDIA_API_KEY=nvidia.api_key,
            NVIDIA_BASE_URL=nvidia.base_url,
            scorer={"kind": "nvidia"},
        )
        async with serve(create_app(ours)) as client:
            # The second of two: the first also loads the vendors' packages.
            await client.post("/answer", json={"prompt": PROMPT})
            mistral.fail_once("unavailable_503")
            reply = (await client.post("/answer", json={"prompt": PROMPT})).json()
        assert reply["answer"] == BEST, reply
        (run,) = (s for s in collector.spans if values(s).get("starboard.answer.id") == reply["id"])
        return [span for span in collector.spans if span.trace_id == run.trace_id]


def check(spans: Sequence[Any]) -> None:
    """Raises `AssertionError` unless this is the whole trace of that answer and tells no text."""
    (run,) = (span for span in spans if not span.parent_span_id)
    children = [span for span in spans if span is not run]
    assert {span.trace_id for span in spans} == {run.trace_id}
    assert {span.parent_span_id for span in children} == {run.span_id}
    assert run.name == "invoke_workflow starboard"
    told = [(span, values(span)) for span in children]
    chats = [one for span, one in told if span.name.startswith("chat ")]
    assert Counter((one["starboard.member"], one.get("error.type")) for one in chats) == Counter(
        [("claude", None), ("gemma", "bad_reply"), ("mistral", "overloaded"), ("mistral", None)]
    )
    for one in chats:
        assert one["gen_ai.operation.name"] == "chat"
        assert one["gen_ai.provider.name"]
        assert one["gen_ai.request.model"]
        used = (one.get("gen_ai.usage.input_tokens", 0), one.get("gen_ai.usage.output_tokens", 0))
        assert all(used) or "error.type" in one
    scored = [one for span, one in told if span.name.startswith("evaluate ")]
    replied = [one["gen_ai.response.model"] for one in chats if "error.type" not in one]
    assert Counter(one["starboard.completion.model"] for one in scored) == Counter(replied)
    assert sorted(one["starboard.score.helpfulness"] for one in scored) == sorted(REPLIES.values())
    assert len(children) == len(chats) + len(scored) + 1
    assert sum(span.name == "save answer" for span in children) == 1
    assert values(run)["starboard.winner"] == "claude"
    sent = b"".join(span.SerializeToString() for span in spans)
    for secret in (PROMPT, *REPLIES, UPSTREAM_CANARY, "test-key"):
        assert secret.encode() not in sent


def draw(spans: Sequence[Any], picture: Path) -> None:
    """Draw one trace as SVG, a row for each span in the order of their starts."""
    run, *children = sorted(spans, key=lambda s: (s.parent_span_id != b"", s.start_time_unix_nano))
    height = ABOVE + ROW * len(spans) + BELOW
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
    plot = figure.add_axes(
        (NAMES / WIDTH, BELOW / height, 1 - (NAMES + TIMES) / WIDTH, 1 - (ABOVE + BELOW) / height)
    )
    for row, span in enumerate((run, *children)):
        began_ms = (span.start_time_unix_nano - run.start_time_unix_nano) / 1e6
        _draw_span(plot, row, span, began_ms)
    plot.set(xlim=(0, _took_ms(run)), ylim=(len(spans) - 0.5, -0.5), yticks=())
    plot.set_xlabel("milliseconds since the run began", fontsize=9)
    plot.tick_params(labelsize=9)
    plot.grid(axis="x", color="0.88")
    plot.set_axisbelow(True)
    plot.spines[["top", "right", "left"]].set_visible(False)
    patches = [Patch(color=colour, label=label) for label, colour in KINDS.values()]
    failed = Patch(facecolor="white", edgecolor=FAILED, hatch="////", label="failed")
    figure.legend(
        handles=[*patches, failed],
        loc="upper center",
        ncols=len(patches) + 1,
        frameon=False,
        fontsize=9,
    )
    save(figure, picture)


def _draw_span(plot: Any, row: int, span: Any, began_ms: float) -> None:
    """Its name and what is to know of it, its bar, and how long it took."""
    failed = span.status.code == span.status.STATUS_CODE_ERROR
    colour = FAILED if failed else KINDS[span.name.split()[0]][1]
    filling = {"facecolor": "white", "hatch": "////"} if failed else {"facecolor": colour}
    plot.barh(row, _took_ms(span), left=began_ms, height=0.5, edgecolor=colour, **filling)
    ink = FAILED if failed else "black"
    left = 10 - NAMES + (INDENT if span.parent_span_id else 0)
    _write(plot, row, (0, left, -0.18), span.name, color=ink, fontsize=10)
    _write(
        plot,
        row,
        (0, left, 0.2),
        _facts(values(span)),
        color=FAILED if failed else "0.35",
        fontsize=8.5,
    )
    took = f"{_took_ms(span):.0f} ms"
    _write(plot, row, (1, TIMES - 10, 0), took, horizontalalignment="right", color=ink, fontsize=9)


def _write(plot: Any, row: int, place: tuple[int, int, float], text: str, **style: Any) -> None:
    """Text beside the plot. `place` is the plot's edge (0 left, 1 right), pixels from it, and rows
    under the row."""
    edge, beside, below = place
    plot.annotate(
        text,
        (edge, row + below),
        xycoords=("axes fraction", "data"),
        xytext=(beside * 72 / DPI, 0),
        textcoords="offset points",
        verticalalignment="center",
        **style,
    )


def _facts(told: Mapping[str, Any]) -> str:
    """The second line: a few of the span's attributes."""
    facts = {
        "winner {}": told.get("starboard.winner"),
        "margin {:.2f}": told.get("starboard.margin"),
        "missing {}": ", ".join(told.get("starboard.missing", ())) or None,
        "{}": told.get("starboard.member") or told.get("db.system.name"),
        "failed: {}": told.get("error.type"),
        "{} tokens in": told.get("gen_ai.usage.input_tokens"),
        "{} out": told.get("gen_ai.usage.output_tokens"),
        "of {}": told.get("starboard.completion.model"),
        "helpfulness {:.1f}": told.get("starboard.score.helpfulness"),
    }
    return ", ".join(form.format(fact) for form, fact in facts.items() if fact is not None)


def _took_ms(span: Any) -> float:
    return float(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


if __name__ == "__main__":
    main()

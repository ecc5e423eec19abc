"""Asking the board, and showing what came of it: behind `ask`, `score` and `models`."""

from __future__ import annotations

import json
from collections.abc import Mapping

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.api.documents import (
    AnswerDocument,
    AnswerRequest,
    AttributesDocument,
    CandidateDocument,
    ScoreRequest,
    ScoresDocument,
    SeatDocument,
    answer_document,
    scores_document,
    seat_document,
)
from app.cli.console import err, out, settings
from app.domain import Completed, Event, Failed, Failure, Scored, Started, WinRate
from app.errors import ConfigurationError
from app.logs import log_at
from app.settings import JudgeScorerSpec, ScorerSpec, Settings
from app.standing import open_standing
from app.store import AnswerStore
from app.wiring import open_services


async def ask(request: AnswerRequest, *, quiet: bool) -> AnswerDocument:
    board = settings()
    log_at("error")  # what goes wrong with a member is in the table
    async with open_services(board) as services:
        ensemble = services.ensemble
        progress = Progress()
        with Live(progress, console=err, transient=True, refresh_per_second=12) as live:
            live.update(Text() if quiet else progress)
            answer = await ensemble.answer(
                request.to_prompt(board.max_tokens),
                request.to_plan(ensemble.members, board.deadline_s),
                progress.listen,
            )
        return answer_document(answer)


async def score(request: ScoreRequest) -> ScoresDocument:
    board = settings()
    log_at("error")
    async with open_services(board) as services:
        scored = await services.ensemble.score(
            request.to_prompt(),
            request.replies,
            weights=request.to_weights(),
            deadline_s=board.deadline_s,
        )
        return scores_document(*scored)


class Progress:
    """A line for each member, drawn while they work."""

    def __init__(self) -> None:
        self._lines: dict[str, Spinner | Text] = {}

    def listen(self, event: Event) -> None:
        match event:
            case Started(member):
                self._lines[member] = Spinner("dots", f"{member} is writing")
            case Completed(candidate):
                said = f"{candidate.member} replied in {candidate.latency_s:.1f} s; scoring"
                self._lines[candidate.member] = Spinner("dots", said)
            case Failed(candidate):
                outcome = candidate.outcome
                why = outcome.message if isinstance(outcome, Failure) else ""
                self._lines[candidate.member] = Text(f"✗ {why}", "red")
            case Scored(scored):
                reward = "unscored" if scored.reward is None else f"reward {scored.reward:.2f}"
                member = scored.candidate.member
                self._lines[member] = Text(f"✓ {member}: {reward}", "green")

    def __rich__(self) -> Group:
        return Group(*self._lines.values())


def show(document: AnswerDocument) -> None:
    # Model text is data: it goes in as Text, where markup has no meaning.
    out.print(Panel(Text(document.answer or ""), title=escape(f"{document.member}")))
    table = Table(box=None)
    widest = max(len(candidate.member) for candidate in document.candidates)
    table.add_column("rank", min_width=4)
    table.add_column("member", min_width=min(widest, 16), overflow="ellipsis", no_wrap=True)
    for heading in ("reward", "help", "corr", "coh", "cplx", "verb", "s"):
        table.add_column(heading, min_width=max(4, len(heading)), justify="right")
    # What a reply says gives way to what it scored: 54 columns and the member's name.
    room = max(8, out.width - 54 - min(widest, 16))
    table.add_column("said", max_width=room, overflow="ellipsis", no_wrap=True)
    ranked = sorted(document.candidates, key=lambda c: (c.rank is None, c.rank))
    for candidate in ranked:
        table.add_row(*_cells(candidate))
    out.print(table)
    decision = document.decision
    margin = "" if decision.margin is None else f" (margin {decision.margin:.2f})"
    out.print(Text(f"{decision.reason}{margin}. Scorer: {document.scorer.name}."))
    if document.scorer.note:
        out.print(Text(document.scorer.note, "dim"))
    if document.quality == "degraded":
        out.print(Text(f"Degraded: nothing from {', '.join(document.missing)}.", "yellow"))
    out.print(Text(document.id, "dim"))


def _cells(candidate: CandidateDocument) -> list[Text]:
    if candidate.failure:
        said = Text(candidate.failure.message, "red")
    elif candidate.score_failure:
        said = Text(candidate.score_failure.message, "yellow")
    else:
        said = Text(" ".join((candidate.text or "").split())[:60])
    cells = [
        "" if candidate.rank is None else str(candidate.rank),
        candidate.member,
        *figures(candidate.reward, candidate.scores),
        f"{candidate.latency_s:.1f}",
    ]
    return [*map(Text, cells), said]


def figures(reward: float | None, scores: AttributesDocument | None) -> list[str]:
    """Reward and the five attributes, empty where there is none."""
    five = scores.model_dump().values() if scores else [None] * 5
    return ["" if number is None else f"{number:.2f}" for number in (reward, *five)]


def show_scores(replies: list[str], document: ScoresDocument) -> None:
    table = Table("reward", "help", "corr", "coh", "cplx", "verb", "reply")
    for text, row in zip(replies, document.scores, strict=True):
        said = Text(" ".join(text.split())[:60])
        if row.failure:
            said = Text(row.failure.message, "yellow")
        table.add_row(*map(Text, figures(row.reward, row.scores)), said)
    out.print(table)
    out.print(Text(f"Scorer: {document.scorer.name}. {document.scorer.note or ''}", "dim"))


async def show_models(*, as_json: bool) -> None:
    """Who sits on the board, who does not and why, and each member's win rate."""
    board = settings()
    known = await _win_rates(board)
    rates = known or {}
    fewest = board.standing_min
    seats = [seat_document(seat, rates.get(seat.name), fewest) for seat in board.seats]
    if as_json:
        typer.echo(json.dumps({"members": [seat.model_dump() for seat in seats]}, indent=2))
        return
    table = Table(box=None)
    for heading in ("seat", "provider", "model", "sits", "why not", "wins", "trainable", "terms"):
        table.add_column(heading, overflow="fold")
    for seat in seats:
        sits = "[green]yes" if seat.seated else "[dim]no"
        row = (seat.name, seat.provider, seat.model, sits, seat.why_not or "", _wins(seat))
        may_train = "yes" if seat.trainable else "no"
        table.add_row(*row, may_train, seat.terms or "", style="" if seat.seated else "dim")
    out.print(table)
    scorers = ", then ".join(_scorer_line(spec) for spec in board.ladder)
    ties = "the seat higher up"
    if board.standing == "wins":
        short = any(seat.seated and seat.win_rate is None for seat in seats)
        until = f", until every member asked has competed in {fewest} answers"
        ties = "the higher win rate" if not short else ties + (until if known else "")
    out.print(f"Ties go to {ties}. Scorer: {scorers}.")


def _wins(seat: SeatDocument) -> str:
    if seat.win_rate is not None:
        return f"{seat.win_rate:.1%} of {seat.competed}"
    return f"too few yet: {seat.competed}" if seat.competed else ""


async def _win_rates(board: Settings) -> Mapping[str, WinRate] | None:
    """Those of the seated members; None, and why on stderr, if they cannot be read."""
    log_at("error")
    seated = [seat.name for seat in board.seats if seat.why_not is None]
    try:
        async with (
            AnswerStore.open(board.database_url) as store,
            open_standing(store, seated, by_wins=False, minimum=board.standing_min) as standing,
        ):
            return await standing.known()
    except ConfigurationError as error:
        err.print(Text(f"Win rates are not known: {error}", "yellow"))
        return None


def _scorer_line(spec: ScorerSpec) -> str:
    return f"{spec.kind} ({spec.member})" if isinstance(spec, JudgeScorerSpec) else spec.kind

"""What `GET /metrics` tells Prometheus.

Runs are counted from the ensemble's events and finished answers, money as it is booked, here
alone. Labels take values
from short lists only (members, scorers, kinds, routes); no id and no text of anybody is one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.domain import (
    NANO,
    Answer,
    Candidate,
    Completed,
    Completion,
    Event,
    Failed,
    Listener,
    Selected,
)
from app.gates import CIRCUITS, Gate
from app.metering import Charge

Instrument = TypeVar("Instrument", Counter, Gauge, Histogram)

disable_created_metrics()  # a second series for each one, which Prometheus has no use for

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
# How old the states of another process may be.
SHOW_S = 1.0
# A reward of five attributes lies between -1.3 and 7.9 under the default weights; a raw scalar
# may lie anywhere.
REWARDS = (-16, -8, -4, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16)


class Metrics:
    """The instruments of one app, in a registry of its own.

    `shared`: several processes serve together, each of which writes its figures to the files under
    PROMETHEUS_MULTIPROC_DIR, and whichever is scraped tells those of all.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.gates: Mapping[str, Gate] = {}
        self._series: dict[tuple[object, tuple[str | int, ...]], Any] = {}
        self.registry = own = CollectorRegistry()
        if shared:
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"starboard_{name}", says, labels, registry=own)

        def gauge(name: str, says: str, *labels: str) -> Gauge:
            return Gauge(
                f"starboard_{name}", says, labels, registry=own, multiprocess_mode="livesum"
            )

        def histogram(
            name: str, says: str, *labels: str, buckets: tuple[float, ...] = SECONDS
        ) -> Histogram:
            return Histogram(f"starboard_{name}", says, labels, registry=own, buckets=buckets)

        self.requests = counter(
            "http_requests_total", "HTTP requests answered.", "method", "route", "status"
        )
        self.requests_in_progress = gauge("http_requests_in_progress", "HTTP requests under way.")
        self.runs = counter(
            "runs_total",
            "Runs of the board: full and degraded answers, failures, and runs that a client left.",
            "outcome",
        )
        self.runs_in_progress = gauge("runs_in_progress", "Runs of the board under way.")
        self.stages = histogram(
            "stage_seconds", "Where the time of runs went: fan_out, scoring, overhead.", "stage"
        )
        self.total = histogram("run_seconds", "Runs as a whole.")
        self.replies = counter(
            "member_replies_total",
            "What members replied: completed, or the kind of the failure.",
            "member",
            "outcome",
        )
        self.latency = histogram("member_seconds", "Waits for a member's completion.", "member")
        self.tokens = counter(
            "member_tokens_total", "Tokens of completions, as billed.", "member", "direction"
        )
        self.cost = {
            of: counter(f"{of}_cost_usd_total", f"What calls to a {of} cost, where known.", of)
            for of in ("member", "scorer")
        }
        self.cost_unknown = {
            of: counter(f"{of}_cost_unknown_total", f"Calls to a {of} of unknown cost.", of)
            for of in ("member", "scorer")
        }
        self.wins = counter("member_wins_total", "Answers that a member's reply won.", "member")
        self.rewards = histogram(
            "reward", "Rewards, on each scorer's own scale.", "scorer", buckets=REWARDS
        )
        self.steps = counter(
            "scorer_runs_total",
            "What became of each scorer of the ladder in a run.",
            "scorer",
            "outcome",
        )
        self.calls = gauge("member_calls_in_progress", "Calls to a member under way.", "member")
        self.waiting = gauge(
            "member_calls_waiting", "Calls that wait for max_concurrency.", "member"
        )
        self.circuits = gauge(
            "member_circuits",
            "Processes whose circuit to the member is in that state.",
            "member",
            "state",
        )
        self.tasks = gauge("asyncio_tasks", "Unfinished asyncio tasks.")

    @contextmanager
    def watch(self) -> Iterator[Listener]:
        """A `Watch` on one run."""
        outcome = quality = "failed"

        def listen(event: Event) -> None:
            nonlocal quality
            match event:
                case Completed(candidate) | Failed(candidate):
                    self._reply(candidate)
                case Selected(answer):
                    quality = answer.quality
                    self._answer(answer)

        self.runs_in_progress.inc()
        try:
            yield listen
            outcome = quality  # a run may still find, once it is told, that too few replied
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self.runs_in_progress.dec()
            self._of(self.runs, outcome).inc()

    def request(self, method: str, route: str, status: int) -> None:
        """Count a request that was answered."""
        self._of(self.requests, method, route, status).inc()

    def book(self, charge: Charge, cost: int | None) -> None:
        """Count what a call cost, in nano-dollars; None if that is not known."""
        # Also by 0: a series must be there before it counts, and one that costs nothing says so.
        self._of(self.cost_unknown[charge.of], charge.name).inc(cost is None)
        if cost is not None:
            self._of(self.cost[charge.of], charge.name).inc(cost / NANO)

    @asynccontextmanager
    async def telling(self, gates: Mapping[str, Gate]) -> AsyncIterator[None]:
        """Tell of these gates too, also where another process is scraped."""
        self.gates = gates
        showing = asyncio.create_task(self._keep_showing()) if self.shared else None
        try:
            yield
        finally:
            if showing:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)

    async def _keep_showing(self) -> None:
        while True:
            self._show_gates()
            self._show_tasks()
            await asyncio.sleep(SHOW_S)

    def close(self) -> None:
        """The states of a process that ends are no longer told by those it shared with."""
        if self.shared:
            mark_process_dead(os.getpid())

    async def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        self._show_gates()
        self._show_tasks()
        # The figures of several workers are read from files.
        return await asyncio.to_thread(generate_latest, self.registry)

    def _of(self, instrument: Instrument, *labels: str | int) -> Instrument:
        """The series with these labels: to look it up in the instrument takes several times as
        long as to count."""
        series: Instrument | None = self._series.get((instrument, labels))
        if series is None:
            series = self._series[instrument, labels] = instrument.labels(*labels)
        return series

    def _reply(self, candidate: Candidate) -> None:
        outcome = candidate.outcome
        if not isinstance(outcome, Completion):
            self._of(self.replies, candidate.member, outcome.kind).inc()
            return
        self._of(self.replies, candidate.member, "completed").inc()
        self._of(self.latency, candidate.member).observe(candidate.latency_s)
        if outcome.usage:
            self._of(self.tokens, candidate.member, "input").inc(outcome.usage.input_tokens)
            self._of(self.tokens, candidate.member, "output").inc(outcome.usage.output_tokens)

    def _answer(self, answer: Answer) -> None:
        timings = answer.timings
        self._of(self.stages, "fan_out").observe(timings.slowest_member_s)
        self._of(self.stages, "scoring").observe(timings.scoring_s)
        self._of(self.stages, "overhead").observe(timings.overhead_s)
        self.total.observe(timings.total_s)
        if answer.winner:
            self._of(self.wins, answer.winner.candidate.member).inc()
        for candidate in answer.candidates:
            if candidate.reward is not None:
                self._of(self.rewards, answer.scorer.name).observe(candidate.reward)
        for step in answer.scorer.ladder:
            self._of(self.steps, step.name, step.outcome).inc()

    def _show_gates(self) -> None:
        for name, gate in self.gates.items():
            self._of(self.calls, name).set(gate.in_progress)
            self._of(self.waiting, name).set(gate.waiting)
            for state in CIRCUITS:
                self._of(self.circuits, name, state).set(gate.circuit == state)

    def _show_tasks(self) -> None:
        self.tasks.set(len(asyncio.all_tasks()))

"""A graceful stop: not ready at once, closed a little later, gone when the last answer is given."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def drain_on_sigterm(drain_s: float) -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets; the server gets the signal `drain_s` seconds after that, so that
    a load balancer sees the readiness fail before connections are refused. Further ones change
    nothing: some supervisors signal every process, and the first process its workers again.

    Where no server has taken the signal for itself nothing is changed.
    """
    draining, loop = asyncio.Event(), asyncio.get_running_loop()
    server = signal.getsignal(signal.SIGTERM)
    if not callable(server) or threading.current_thread() is not threading.main_thread():
        yield draining
        return
    stop = server

    def begin(number: int, frame: FrameType | None) -> None:
        if not draining.is_set():
            draining.set()
            loop.call_soon_threadsafe(loop.call_later, drain_s, stop, number, frame)

    signal.signal(signal.SIGTERM, begin)
    try:
        yield draining
    finally:
        signal.signal(signal.SIGTERM, stop)

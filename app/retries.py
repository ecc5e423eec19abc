"""Calls to members, scorers and hosts: limited in time, retried here alone, failures as data.

Who calls says how patient it is: a run that others wait for tries once more and soon, one that
works through a night tries for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina

from app.domain import Failure
from app.errors import UpstreamError, as_failure, boundary

T = TypeVar("T")

log = logging.getLogger("starboard")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how soon, what may pass is tried again.

    `attempts` are all, the first included. Where the upstream names no wait, the first is drawn
    from the range `backoff_s`, so that callers who failed together do not come back together, and
    each later one from a range twice as long. `longest_wait_s` or more is not waited for, whatever
    the upstream asks: the failure stands as it is.
    """

    attempts: int
    backoff_s: tuple[float, float]
    longest_wait_s: float

    async def outcome(
        self,
        name: str,
        attempt: Callable[[], Awaitable[T]],
        remaining_s: Callable[[], float] = lambda: math.inf,
    ) -> T | Failure:
        """What the attempts came to: a result, or the last failure, which goes by `name` in the
        log. No wait reaches past the time that remains."""
        failed = 0

        def wait(error: Exception) -> bool | float:
            nonlocal failed
            if not isinstance(error, UpstreamError) or not error.retryable:
                return False
            asked = error.retry_after_s
            if asked is None:
                asked = 2**failed * random.uniform(*self.backoff_s)  # noqa: S311 - no secret depends on it
                asked = min(asked, math.nextafter(self.longest_wait_s, 0))
            failed += 1
            return asked if asked < min(remaining_s(), self.longest_wait_s) else False

        try:
            return await attempt()
        except UpstreamError as error:
            first = error
        # Most calls need no policy, and to begin one is not cheap.
        policy = stamina.retry_context(on=wait, attempts=self.attempts, timeout=None)
        try:
            async for one in policy:
                with one:
                    if one.num == 1:
                        raise first
                    return await attempt()
        except UpstreamError as error:
            # Never the text of the error or of its cause: they may quote keys and prompts.
            cause = type(error.__cause__).__name__ if error.__cause__ else "no exception"
            log.warning("%s failed: %s (%s)", name, error.kind, cause)
            # The policy is full of cycles: what it keeps must not keep frames, with whole replies.
            return as_failure(error.with_traceback(None))
        finally:
            del first  # its traceback holds this frame
        raise AssertionError("the retry policy ends in a result or an error")


async def limited(name: str, call: Callable[[], Awaitable[T]], limit_s: float) -> T:
    """One attempt of at most `limit_s` seconds as a whole. Raises `UpstreamError` alone."""
    try:
        async with asyncio.timeout(limit_s) as clock:
            with boundary(name):
                return await call()
    except TimeoutError as error:
        assert clock.expired()
        raise UpstreamError("timeout", f"{name}: no reply in {limit_s:g} s") from error

"""What calls cost, and what a run may spend.

Amounts are whole nano-dollars (a billionth of a USD), so that sums are exact: a token at one cent
per million is ten of them. A price that is not known is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from app.calls import calls_of
from app.domain import NANO, NOTHING, Plan, Prompt, Usage
from app.errors import BudgetError, UncoveredError, UpstreamError
from app.fusion import bytes_around

# What a chat template may add to a message.
TEMPLATE_TOKENS = 16
# Of a reply that is still to come; a call that turns out longer is held to what is reserved.
BYTES_PER_TOKEN = 8

Passage = Callable[[], AbstractAsyncContextManager[None]]
"""What a call goes through, and may have to wait for or be refused by."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input_per_million: float
    output_per_million: float

    @property
    def free(self) -> bool:
        return not (self.input_per_million or self.output_per_million)

    def of(self, usage: Usage) -> int:
        """Nano-dollars, rounded up."""
        tokens = usage.input_tokens, usage.output_tokens
        rates = self.input_per_million, self.output_per_million
        # Rounded first, for 0.1 * 3 is a little more than 0.3.
        return math.ceil(round(1000 * sum(n * r for n, r in zip(tokens, rates, strict=True)), 6))


FREE = Price(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ScorerPrice:
    """A scorer's price (None: not known), and the most tokens of one call: it makes up to `factor`
    of each token of prompt and reply, adds `input_tokens` and writes `output_tokens`."""

    price: Price | None
    input_tokens: int = 0
    output_tokens: int = 0
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call may cost: its price (None: not known) for the most tokens it can take."""

    name: str
    price: Price | None
    most: Usage
    of: Literal["member", "scorer"] = "member"

    def bound(self) -> int:
        """Nano-dollars. Raises `BudgetError` if the price is not known."""
        if self.price is None:
            raise BudgetError(
                f"the price of {self.name} is not known, so a key with a budget cannot use it; "
                f"set [prices.{self.name}] or its model's, or leave it out"
            )
        return self.price.of(self.most)


@dataclass(frozen=True)
class Tariff:
    """Prices by name of member and of scorer; None, or no entry, is a price that is not known."""

    members: Mapping[str, Price | None] = field(default_factory=dict)
    scorers: Mapping[str, ScorerPrice] = field(default_factory=dict)

    def cost_usd(self, member: str, usage: Usage | None) -> float | None:
        """What a member's reply cost, None if its price or its tokens are not known."""
        price = self.members.get(member)
        if price is None or (usage is None and not price.free):
            return None
        return price.of(usage or NOTHING) / NANO

    def reply(self, member: str, read: int, written: int) -> Charge:
        """A member's reply; `read` and `written` are tokens."""
        return Charge(member, self.members.get(member), Usage(read, written))

    def score(self, scorer: str, read: int) -> Charge:
        """A scorer's score of a prompt and a reply that are `read` tokens together."""
        rate = self.scorers.get(scorer, ScorerPrice(None))
        most = Usage(rate.factor * read + rate.input_tokens, rate.output_tokens)
        return Charge(scorer, rate.price, most, "scorer")

    def quote(self, prompt: Prompt, plan: Plan, scorers: Sequence[str]) -> int:
        """The most a run costs, in nano-dollars, if no call has to be repeated; every scorer may
        be asked about every reply. Raises `BudgetError` if a price is not known."""
        read, written = prompt_tokens(prompt), prompt.max_tokens
        reply_bytes = written * BYTES_PER_TOKEN
        calls = calls_of(plan)
        replies = [self.reply(name, read, written) for name in calls.first]
        if calls.aggregator:
            task = TEMPLATE_TOKENS + bytes_around(plan.top_k) + plan.top_k * reply_bytes
            replies.append(self.reply(calls.aggregator, read + task, written))
        to_score = read + TEMPLATE_TOKENS + reply_bytes
        scores = [self.score(name, to_score) for name in scorers] * len(replies)
        return calls.each * sum(c.bound() for c in replies) + sum(c.bound() for c in scores)

    def quote_scores(self, prompt: Prompt, replies: Sequence[str], scorers: Sequence[str]) -> int:
        """As `quote`, for scores of replies that are there."""
        read = prompt_tokens(prompt)
        sizes = [read + text_tokens(reply) for reply in replies]
        return sum(self.score(name, size).bound() for name in scorers for size in sizes)


class Billed(Protocol):
    """What a call brought; `usage` None: it does not tell its tokens."""

    @property
    def usage(self) -> Usage | None: ...


T = TypeVar("T", bound=Billed)

Booked = Callable[[Charge, int | None], None]
"""Told of every call that is over what it cost, in nano-dollars; None if that is not known."""


@dataclass
class Meter:
    """What one run has spent so far; `limit` is what was reserved for it, None if it has no budget.

    Spent and held together never pass the limit: a call that would is not made.
    """

    limit: int | None = None
    spent: int = 0
    known: bool = True
    priced: bool = True
    _held: int = 0

    @property
    def cost_usd(self) -> float | None:
        """What the run cost as a whole, every call to members and scorers; None if some call's
        price or tokens are not known."""
        return self.spent / NANO if self.known else None

    @property
    def cost_bound_usd(self) -> float | None:
        """The most it can have cost; None if some call's price is not known."""
        return self.spent / NANO if self.priced else None

    async def call(
        self,
        charge: Charge,
        call: Callable[[], Awaitable[T]],
        passage: Passage = nullcontext,
        booked: Booked | None = None,
    ) -> T:
        """The call, made inside the passage and booked: by its tokens if it or its error tells
        them, else at the most it could have cost. What does not get through the passage costs
        nothing.

        Raises `UncoveredError` instead, the passage untouched, if what is left of the limit does
        not cover the most it can cost.
        """
        bound = charge.price.of(charge.most) if charge.price else 0
        left = math.inf if self.limit is None else self.limit - self.spent - self._held
        if bound > left or (charge.price is None and self.limit is not None):
            raise UncoveredError(charge.name)
        self._held += bound
        try:
            async with passage():
                return await self._book(charge, bound, call, booked)
        finally:
            self._held -= bound

    async def _book(
        self,
        charge: Charge,
        bound: int,
        call: Callable[[], Awaitable[T]],
        booked: Booked | None,
    ) -> T:
        price = charge.price
        billed: Usage | None = None
        try:
            result = await call()
            billed = result.usage
            return result
        except UpstreamError as error:
            billed = error.usage
            raise
        finally:
            # Of a free call there is nothing left to be known.
            billed = NOTHING if billed is None and price and price.free else billed
            cost = price.of(billed) if price and billed else None
            self.spent += bound if cost is None else cost
            self.known &= cost is not None
            self.priced &= price is not None
            if booked:
                booked(charge, cost)


def prompt_tokens(prompt: Prompt) -> int:
    """The most tokens a prompt can be: no tokenizer makes more of a text than it has bytes."""
    return sum(text_tokens(message.content) for message in prompt.messages)


def text_tokens(text: str) -> int:
    """The most tokens a message of this text can be."""
    return len(text.encode()) + TEMPLATE_TOKENS

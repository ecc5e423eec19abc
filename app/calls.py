"""Which calls for replies a plan may make: what is asked, capped and quoted goes by one list."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain import Plan


@dataclass(frozen=True, slots=True)
class Calls:
    """Names of members, one for each call.

    The calls of a round are made at once, and one round after the other until the plan has what it
    wants. Each of `reserves` is asked in the place of one that failed, `aggregator` (None: nothing
    is fused) about the best replies. Any call may be made `each` times, not counting what is tried
    again after a failure.
    """

    rounds: tuple[tuple[str, ...], ...]
    reserves: tuple[str, ...]
    aggregator: str | None
    each: int

    @property
    def first(self) -> tuple[str, ...]:
        """Whose replies to the prompt itself may be asked for."""
        return (*(name for names in self.rounds for name in names), *self.reserves)

    @property
    def most(self) -> int:
        """How many calls there may be."""
        return self.each * (len(self.first) + (self.aggregator is not None))


def calls_of(plan: Plan) -> Calls:
    """The calls of a plan, which names a member at least."""
    rounds: tuple[tuple[str, ...], ...] = (_sampled(plan.members, plan.samples),)
    reserves, aggregator = plan.reserves, None
    match plan.strategy:
        case "single":
            first, *others = plan.members
            rounds, reserves = ((first,),), (*plan.reserves, *others)
        case "cascade":
            order = plan.order or plan.members[::-1]
            rounds, reserves = tuple(_sampled((name,), plan.samples) for name in order), ()
        case "fuse":
            aggregator = plan.aggregator or plan.members[0]
    return Calls(rounds, reserves, aggregator, each=1 if plan.hedge_s is None else 2)


def _sampled(names: tuple[str, ...], samples: int) -> tuple[str, ...]:
    return tuple(name for name in names for _ in range(samples))

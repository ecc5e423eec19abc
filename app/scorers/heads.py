"""What the outputs of an open reward model mean: five attributes, or one reward.

Three kinds are known:

    five outputs named after the attributes, in any order   HelpSteer-style heads
    the nineteen of ArmoRM-Llama3-8B                        the first five x 5 - 0.5
    one                                                     a scalar reward, as Skywork's

Anything else is no score: thousands of numbers are hidden states, two are a preference pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain import ATTRIBUTES, Attributes, ScalarReward, Scale
from app.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class Head:
    """`outputs` numbers, of which `columns` are the five attributes in domain order.

    An attribute is `factor` x output + `offset`, on the scale 0-4. No columns: one scalar.
    """

    outputs: int
    columns: tuple[int, ...] = ()
    factor: float = 1.0
    offset: float = 0.0

    @property
    def scale(self) -> Scale:
        return "helpsteer" if self.columns else "scalar"

    def outcome(self, name: str, values: Sequence[float]) -> Attributes | ScalarReward:
        """The score in the outputs for one reply; raises `UpstreamError` if there is none."""
        if len(values) != self.outputs:
            raise UpstreamError(
                "bad_reply", f"{name}: {len(values):,} outputs where {self.outputs} belong"
            )
        if not all(math.isfinite(value) for value in values):
            raise UpstreamError("bad_reply", f"{name}: a score is not a number")
        if not self.columns:
            return ScalarReward(values[0])
        return Attributes(*(self.factor * values[column] + self.offset for column in self.columns))


SCALAR = Head(1)
# huggingface.co/RLHFlow/ArmoRM-Llama3-8B-v0.1: the first five of its outputs are HelpSteer's,
# trained on (score + 0.5) / 5.
ARMORM = Head(19, (0, 1, 2, 3, 4), factor=5.0, offset=-0.5)


def attribute_head(labels: Sequence[str], factor: float = 1.0, offset: float = 0.0) -> Head | None:
    """The head whose outputs have these names, or None if they are not the five attributes."""
    if sorted(labels) != sorted(ATTRIBUTES):
        return None
    return Head(len(labels), tuple(labels.index(name) for name in ATTRIBUTES), factor, offset)


def head_of(config: Mapping[str, object]) -> Head | None:
    """The head that a model's `config.json` describes, or None if it is of no known kind.

    A five-attribute head may carry `"starboard_scale": {"factor": f, "offset": o}`, the line that
    takes its outputs to 0-4; without it they are on that scale already. Raises `ValueError` on a
    scale that is not two numbers.
    """
    if config.get("architectures") == ["LlamaForRewardModelWithGating"]:
        return ARMORM
    match config.get("id2label"):
        case {**names} if len(names) == 1:
            return SCALAR
        case {**names}:
            labels = [str(names[key]) for key in sorted(names, key=lambda key: int(str(key)))]
            return attribute_head(labels, *_scale(config.get("starboard_scale")))
    return None


def _scale(value: object) -> tuple[float, float]:
    match value:
        case None:
            return 1.0, 0.0
        case {"factor": int() | float() as factor, "offset": int() | float() as offset}:
            return float(factor), float(offset)
    raise ValueError("starboard_scale in config.json needs two numbers, factor and offset")

"""Tiny models, made once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
Taught = Callable[[str], Path]


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """The folder of a model of a family that knows what a rationale looks like."""
    from tests.star.tiny import save_taught

    made: dict[str, Path] = {}

    def model(family: str) -> Path:
        if family not in made:
            made[family] = save_taught(tmp_path_factory.mktemp("taught") / family, family)
        return made[family]

    return model


def always(sampler: T) -> Callable[..., Awaitable[T]]:
    """Opens the same sampler, whatever the adapter."""

    async def opened(*_: object) -> T:
        return sampler

    return opened
